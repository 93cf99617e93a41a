"""Methods, plan and runs: each once, the same by seed, and all there after kill -9."""

from __future__ import annotations

import itertools
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from rich.console import Console

from experiments.searchers import __main__ as command
from experiments.searchers import methods, plan, problems
from experiments.searchers.collect import Runs
from experiments.searchers.loop import run_once
from experiments.searchers.methods import METHODS, Method
from experiments.searchers.progress import Progress
from experiments.searchers.run_plan import run_plan
from nas.files import read_jsonl
from tests.searchers_cases import NSGA2, RANDOM, line

REPOSITORY = Path(__file__).parents[1]
OURS = ("auto", "qlognehvi", "qlognparego")


def test_methods_make_samplers_and_refuse_unknown_names() -> None:
    for method in METHODS:
        if method.exists:
            assert isinstance(method.make(3), optuna.samplers.BaseSampler)
            is_optunas = method.code == f"optuna {optuna.__version__}"
            is_ours = re.fullmatch("[0-9a-f]{12}", method.code) is not None
            assert (is_optunas, is_ours) == (
                (False, True) if method.sampler in OURS else (True, False)
            )
    default = next(m for m in METHODS if m.name == "tpe-optuna").make(0)
    assert type(default) is optuna.samplers.TPESampler
    assert "auto" not in {m.name for m in methods.select(["others"])}
    with pytest.raises(ValueError, match="did you mean nsga2"):
        methods.select(["nsga22"])
    with pytest.raises(ValueError, match="expected a sampler of Optuna"):
        Method("x", "optuna:Nothing").make(0)
    assert not Method("x", "nothing").exists
    with pytest.raises(ValueError, match="expected a sampler in"):
        Method("x", "nothing").make(0)


def test_the_plan_runs_each_once_and_the_longer_later() -> None:
    slow = replace(RANDOM, name="slow", sampler="gp", is_slow=True)
    stages = [
        plan.Stage(("a100",), seeds=3, slow_seeds=1, budget=50, slow_budget=20),
        plan.Stage(("a100", "zdt/pairs"), seeds=2, slow_seeds=2, budget=50, slow_budget=30),
        plan.Stage(("zdt/pairs",), seeds=1, slow_seeds=5, slow=("other",)),
    ]
    found = plan.tasks(stages, [RANDOM, slow])
    assert [(t.problem[:3], t.method.name, t.seed, t.budget) for t in found] == [
        ("gpt", "random", 0, 50),
        ("gpt", "slow", 0, 20),
        ("gpt", "random", 1, 50),
        ("gpt", "random", 2, 50),
        ("gpt", "slow", 0, 30),
        ("zdt", "random", 0, 50),
        ("zdt", "slow", 0, 30),
        ("gpt", "slow", 1, 30),
        ("zdt", "random", 1, 50),
        ("zdt", "slow", 1, 30),
        ("zdt", "random", 0, 200),
    ]
    own = plan.tasks(stages, [RANDOM], ["dtlz2-2/steps", "zdt/pairs"], seeds=1, budget=10)
    assert [(t.problem, t.seed, t.budget) for t in own] == [
        ("zdt/pairs", 0, 10),
        ("dtlz2-2/steps", 0, 10),
    ]
    usual = plan.tasks(plan.STAGES, METHODS)
    assert {t.problem for t in usual} == set(problems.names())
    most = {(t.problem, t.seed) for t in usual if t.method.name == "auto"}
    assert all((name, 19) in most for name in problems.GROUPS["devices"])


# --- runs ----------------------------------------------------------------------------------------


def test_a_run_is_what_the_sampler_was_told_and_repeats_by_seed() -> None:
    zdt = problems.problem("zdt/pairs")
    found = run_once(zdt, NSGA2, 3, 30)
    values = np.array(found["values"])
    assert values.shape == (30, 2)
    assert len(found["seconds"]) == 30
    assert found["share"] == pytest.approx(zdt.box.trajectory(values), abs=1e-5)
    again = run_once(zdt, NSGA2, 3, 40)
    assert again["share"][:30] == found["share"]
    assert run_once(zdt, NSGA2, 4, 30)["values"] != found["values"]


class _Recorder(optuna.samplers.RandomSampler):
    """Keeps what it is told."""

    told: list[Any]

    def after_trial(self, study: Any, trial: Any, state: Any, values: Any) -> None:
        self.told.append(
            (list(values), dict(study._storage.get_trial(trial._trial_id).constraints))
        )


def test_noise_is_told_and_constraints_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    recorder = _Recorder(seed=0)
    recorder.told = []
    monkeypatch.setattr(Method, "make", lambda self, seed: recorder)
    judged = line(
        noise=lambda params, seed: np.array([seed, params["x"]], dtype=float),
        constraint=lambda params: params["x"] - 4.5,
    )
    found = run_once(judged, RANDOM, 2, 12)
    x = [round(9 * first) for first, _ in found["values"]]
    assert [values for values, _ in recorder.told] == [[2_000_006 + i, x[i]] for i in range(12)]
    assert [list(c.values()) for _, c in recorder.told] == [[value - 4.5] for value in x]
    assert found["feasible"] == [int(value < 4.5) for value in x]
    assert found["repeats"] == 12 - len(set(x))
    assert len(found["picked"]) == 12
    share = line().box.share
    for i in range(1, 12):
        feasible = np.array(found["values"])[: i + 1][np.array(found["feasible"][: i + 1]) > 0]
        assert found["believed"][i] <= share(feasible) + 1e-6


def test_a_run_ends_where_the_space_is_exhausted() -> None:
    method = Method("qlognparego", "qlognparego", {"n_startup": 20, "num_draws": 2})
    found = run_once(line(), method, 0, 15)
    assert len(found["share"]) == 10
    assert found["share"][-1] == pytest.approx(1.0, abs=1e-5)
    assert found["repeats"] == 0
    runs = Runs("line", {"a": {0: {**found, "budget": 15}}}, False)
    assert runs.at("a", 15) == {0: found["share"][-1]}


def test_finished_runs_are_found_by_setting_seed_and_length(tmp_path: Path) -> None:
    progress = Progress(tmp_path)
    found = {"share": [0.1, 0.2], "seconds": [0.0, 0.0], "repeats": 0}
    progress.add("a/b<=c", "v", RANDOM, 0, 2, found)
    assert progress.has("a/b<=c")
    assert not progress.has("a/b")
    kept = progress.find("a/b<=c", "v", RANDOM, 0, 1, True)
    assert kept is not None
    assert kept["share"] == [0.1, 0.2]
    assert progress.find("a/b<=c", "v", RANDOM, 0, 3, False) is None
    assert progress.find("a/b<=c", "v", RANDOM, 1, 2, False) is None
    assert progress.find("a/b<=c", "other", RANDOM, 0, 2, False) is None
    assert progress.find("a/b<=c", "v", replace(RANDOM, options={"x": 1}), 0, 2, False) is None
    with (tmp_path / "a_b_c.jsonl").open("a") as file:
        file.write('{"problem": "a/b<')  # torn by a kill
    progress.add("a/b<=c", "v", RANDOM, 0, 3, {**found, "share": [0.1, 0.2, 0.3]})
    latest = Progress(tmp_path).latest("a/b<=c", "v", [RANDOM, NSGA2])
    assert [(n, list(r), r[0]["budget"]) for n, r in latest.items()] == [("random", [0], 3)]


def test_runs_of_other_code_count_unless_redone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = Method("ours", "qlognparego")
    progress = Progress(tmp_path)
    progress.add("p", "v", ours, 0, 1, {"share": [0.1]})
    monkeypatch.setattr(methods, "_digest_of_searchers", lambda: "changed")
    assert progress.find("p", "v", ours, 0, 1, fresh=False) is not None
    assert progress.find("p", "v", ours, 0, 1, fresh=True) is None


def test_killed_and_run_again_it_has_every_run_once(tmp_path: Path) -> None:
    words = [
        "--problems",
        "zdt/pairs",
        "--methods",
        "random",
        "nsga2",
        "--seeds",
        "12",
        "--budget",
        "60",
    ]
    asked = [
        sys.executable,
        "-m",
        "experiments.searchers",
        *words,
        "--no-report",
        "--out",
        str(tmp_path),
    ]
    log = tmp_path / "progress" / "zdt_pairs.jsonl"
    process = subprocess.Popen(
        asked, cwd=REPOSITORY, stdout=subprocess.DEVNULL, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    try:
        while process.poll() is None and (not log.exists() or log.read_bytes().count(b"\n") < 3):
            time.sleep(0.005)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    before = len(read_jsonl(log))
    assert 3 <= before < 24
    recipe = command.Recipe(
        methods=("random", "nsga2"),
        problems=("zdt/pairs",),
        seeds=12,
        budget=60,
        report=False,
        out=tmp_path,
    )
    command.main(recipe)
    records = read_jsonl(log)
    assert Counter((r["method"], r["seed"]) for r in records) == Counter(
        itertools.product(("random", "nsga2"), range(12))
    )
    again = run_once(problems.problem("zdt/pairs", tmp_path), NSGA2, 0, 60)
    assert (
        next(r for r in records if (r["method"], r["seed"]) == ("nsga2", 0))["share"]
        == again["share"]
    )


def test_without_the_table_the_nets_are_left_out_aloud(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(problems, "find_table", lambda: None)
    problems.problem.cache_clear()
    asked = plan.tasks(
        [plan.Stage(("nonlinear/rtx2080/relu3x64-0", "zdt/pairs"), 1, 0, 5)], [RANDOM]
    )
    progress = Progress(tmp_path / "progress")
    run_plan(asked, progress, (), tmp_path, None, Console(width=300))
    said = capsys.readouterr().out
    assert "left out: problem 'nonlinear/rtx2080/relu3x64-0'" in said
    assert "1 runs made now" in said
    assert progress.has("zdt/pairs")
    assert not progress.has("nonlinear/rtx2080/relu3x64-0")
