"""Tables of the judgement: statistics by the book, and the command that writes them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from scipy import stats

from experiments.searchers import __main__ as command
from experiments.searchers import claims, collect, plan, problems
from experiments.searchers.collect import Runs, pair_rows, second_rows, share_rows
from experiments.searchers.methods import Method
from experiments.searchers.progress import Progress
from experiments.searchers.statistics import holm, mean_of, paired
from tests.searchers_cases import RANDOM


def test_means_tests_and_corrections_are_those_of_the_books() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(0.3, 1.0, 12), rng.normal(0.0, 1.0, 12)
    low, high = stats.t.interval(0.95, 11, a.mean(), stats.sem(a))
    mean = mean_of(a)
    assert (mean.mean - mean.half_width, mean.mean + mean.half_width) == pytest.approx((low, high))
    assert (mean.num, mean_of([0.5]).half_width) == (12, 0.0)
    test = paired(dict(enumerate(a)), {**dict(enumerate(b)), 99: 1.0})
    assert test.num == 12
    assert test.p_t == pytest.approx(stats.ttest_rel(a, b, alternative="greater").pvalue)
    assert test.p_wilcoxon == pytest.approx(stats.wilcoxon(a, b, alternative="greater").pvalue)
    assert (test.wins, test.losses) == ((a > b).sum(), (a < b).sum())
    assert paired({0: 1.0, 1: 2.0}, {0: 1.0, 1: 2.0}).p_t == 1.0
    assert paired({0: 1.0}, {0: 0.0}).p_t == 1.0  # one seed says nothing
    assert paired({0: 2.0, 1: 3.0}, {0: 1.0, 1: 2.0}).p_t == 0.0
    with pytest.raises(ValueError, match="common seed"):
        paired({0: 1.0}, {1: 1.0})
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


def made_up_runs(name: str, gains: dict[str, float], seeds: int = 6, noisy: bool = False) -> Runs:
    """Every method gains steadily; the first seeds are a little better."""
    found: dict[str, dict[int, Any]] = {}
    for method, gain in gains.items():
        found[method] = {}
        for seed in range(seeds):
            share = [min(1.0, 0.8 + gain * i / 200 + 0.001 * (seed % 3)) for i in range(200)]
            seconds = [0.001 * i for i in range(200)]
            record = {"share": share, "seconds": seconds, "repeats": 1, "budget": 200, "code": "x"}
            if noisy:
                for judged, loss in (("believed", 0.004), ("picked", 0.01)):
                    record[judged] = [s - loss for s in share]
            found[method][seed] = record
    return Runs(name, found, noisy)


def test_ours_is_compared_with_each_on_every_device(monkeypatch: pytest.MonkeyPatch) -> None:
    variant = Method("variant", "auto", {"x": 1})
    monkeypatch.setattr(collect, "ABLATIONS", (variant,))
    devices = [
        made_up_runs("one", {"auto": 0.15, "random": 0.05, "gp": 0.1, "variant": 0.2}),
        made_up_runs("two", {"auto": 0.15, "random": 0.05, "gp": 0.1501}),
        made_up_runs("three", {"auto": 0.15, "random": 0.05}),
    ]
    rows = pair_rows(devices, 100)
    assert [(r["problem"], r["other"], r["wins"]) for r in rows] == [
        *(("one", "random", 6), ("two", "random", 6), ("three", "random", 6)),
        *(("one", "gp", 6), ("two", "gp", 0)),
    ]
    for row in rows:
        family = [r["p_t"] for r in rows if r["other"] == row["other"]]
        position = [r["problem"] for r in rows if r["other"] == row["other"]].index(row["problem"])
        assert row["p_t_holm"] == pytest.approx(holm(family)[position])
    table = claims.device_table(devices, rows)
    assert (table["of"], table["ahead"], table["t"], table["t_holm"]) == (2, 1, 1, 1)
    assert (table["wilcoxon"], table["wilcoxon_holm"]) == (1, 1)
    assert table["shortfall"] == pytest.approx(0.0001 * 99 / 200, abs=1e-5)


def test_rows_of_shares_and_seconds() -> None:
    runs = made_up_runs("p", {"auto": 0.1}, noisy=True)
    rows = share_rows(runs)
    assert [(r["judged"], r["evaluations"]) for r in rows] == [
        (judged, point)
        for judged in ("all evaluated", "believed front", "told front")
        for point in (25, 50, 100, 200)
    ]
    assert rows[2]["share"] == pytest.approx(0.8 + 0.1 * 99 / 200 + 0.001, abs=1e-5)
    assert rows[6]["share"] == pytest.approx(rows[2]["share"] - 0.004, abs=1e-5)
    assert rows[10]["share"] == pytest.approx(rows[2]["share"] - 0.01, abs=1e-5)
    (row,) = second_rows(runs)
    assert [row[f"at_{point}"] for point in (25, 50, 100)] == pytest.approx([0.024, 0.049, 0.099])
    assert row["median"] == pytest.approx(0.0995)


def test_claims_are_held_to_their_targets() -> None:
    a100 = problems.GROUPS["a100"][0]
    good = made_up_runs(a100, {"auto": 0.4, "random": 0.0})
    poor = made_up_runs(f"{a100}/noisy", {"auto": 0.3}, noisy=True)
    rows = {row["claim"]: row for row in claims.claims({a100: good, f"{a100}/noisy": poor})}
    at = {point: rows[f"S on A100, {point} evaluations"]["met"] for point in (50, 100, 200)}
    assert at == {50: "no", 100: "yes", 200: "yes"}  # 0.899, 0.999, 1
    assert rows["S on A100, a suggestion at trial 100"]["met"] == "no"  # 99 ms
    assert rows[f"{a100}/noisy: lost to noise at 100"]["met"] == "no"  # 6 points
    assert (
        rows["above every other searcher, p < 0.05, 100 evaluations"]["met"] == "no"
    )  # one device


def test_the_command_writes_tables_plots_and_the_result(tmp_path: Path) -> None:
    stage = plan.Stage(("zdt/pairs", "dtlz2-3/steps"), seeds=2, budget=26, slow_seeds=0)
    recipe = command.Recipe(
        methods=("random", "nsga2"),
        problems=stage.problems,
        seeds=2,
        budget=26,
        out=tmp_path,
        results=tmp_path / "results",
    )
    command.main(recipe)
    (folder,) = (tmp_path / "results").glob("*/searchers")
    names = {path.name for path in folder.iterdir()}
    assert names == {
        "result.json",
        "shares.csv",
        "seconds.csv",
        "pairs.csv",
        "tables.md",
        "convergence-zdt_pairs.png",
    }
    text = (folder / "tables.md").read_text()
    assert "## zdt/pairs" in text
    assert "Group functions" in text
    assert (folder / "shares.csv").read_text().count("\n") == 1 + 2 * 2
    with pytest.raises(ValueError, match="expected finished runs"):
        command.main(replace(recipe, search=False, out=tmp_path / "nothing"))
    with pytest.raises(ValueError, match="expected seeds of 1 or more"):
        command.main(replace(recipe, seeds=0))


def test_runs_above_the_best_known_or_of_other_code_are_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from experiments.searchers.report import write_report

    zdt = problems.problem("zdt/pairs", tmp_path)
    progress = Progress(tmp_path / "progress")
    record = {"share": [0.5, 1.01], "seconds": [0.1, 0.1], "repeats": 0}
    progress.add("zdt/pairs", zdt.version, replace(RANDOM, sampler="random"), 0, 2, record)
    record_file = tmp_path / "progress" / "zdt_pairs.jsonl"
    record_file.write_text(record_file.read_text().replace("optuna", "older optuna"))
    write_report(progress, ["zdt/pairs"], tmp_path, None, tmp_path / "out", Console(width=200))
    said = capsys.readouterr().out
    assert "random found more than the best known front of zdt/pairs" in said
    assert "1 of 1 runs of random were made by other code" in said
