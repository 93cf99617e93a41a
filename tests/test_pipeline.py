"""A whole small run: what it writes, how it goes on, and that nothing is done twice."""

from __future__ import annotations

import json
import sysconfig
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_run import (
    DECODE,
    OPTIONS,
    arguments,
    begun_run,
    copy_of_run,
    finished_run,
    load_results,
)

import nas.deploy.profile as profile_module
import nas.deploy.verify as verify_module
import nas.evaluation as evaluation_module
from nas.cli import main
from nas.deploy.profile import ROUNDS
from nas.deploy.report import validate
from nas.files import read_jsonl
from nas.model import load_gpt
from nas.pareto import non_dominated_mask, normalized_hypervolume
from search_spaces import Architecture, costs, preset

SPACE = preset("tiny")
NAMES = ["perplexity", DECODE, "weight_bytes"]
WIKITEXT = Path(__file__).parents[2] / "shared" / "data" / "wikitext-2" / "valid.txt"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return finished_run(tmp_path_factory)


@pytest.fixture(scope="module")
def results(run: Path) -> dict[str, Any]:
    return load_results(run)


@pytest.fixture
def copy(tmp_path_factory: pytest.TempPathFactory, tmp_path: Path) -> Path:
    return copy_of_run(tmp_path_factory, tmp_path)


def _complete_trials(journal: Path) -> list[int]:
    """Numbers of the finished trials, read from Optuna's journal line by line."""
    lines = [json.loads(line) for line in journal.read_text().splitlines()]
    return [op["trial_id"] for op in lines if op["op_code"] == 6 and op.get("state") == 1]


# --- results


def test_results_have_the_fields_of_the_acceptance(results: dict[str, Any]) -> None:
    assert results["baseline"]["architecture"] == SPACE.largest.to_json()
    assert set(NAMES) <= set(results["baseline"]["measured"])
    assert all(v > 0 for v in results["baseline"]["measured"].values())
    assert (
        0.0 <= results["random_search"]["hypervolume"] < 1.0
    )  # few random trials beat the reference
    assert 0.0 < results["hypervolume"] < 1.0
    assert 1 <= len(results["winners"]) <= OPTIONS["max-winners"]
    for winner in results["winners"]:
        assert SPACE.contains(Architecture.from_json(winner["architecture"]))
        assert set(winner["predicted"]) == set(NAMES)
        for claim in winner["predicted"].values():
            assert set(claim) == {"mean", "low", "high"}
            assert claim["low"] <= claim["mean"] <= claim["high"]
        assert set(NAMES) <= set(winner["measured"])
        assert [c["name"] for c in winner["checks"]] == NAMES
        assert winner["verified"] is all(c["passed"] for c in winner["checks"])
        for check in winner["checks"]:
            assert check["measured"] == winner["measured"][check["name"]]
            low, high = (
                winner["predicted"][check["name"]][end] * (1 + sign * check["tolerance"])
                for end, sign in (("low", -1), ("high", 1))
            )
            assert check["passed"] is (low <= check["measured"] <= high)
        exact = {c["name"]: c["passed"] for c in winner["checks"]}
        assert exact["perplexity"]
        assert exact["weight_bytes"]
    assert validate(results) is results


def test_results_say_where_they_come_from(results: dict[str, Any], run: Path) -> None:
    found = results["provenance"]
    assert results["command"].startswith("nas search --no-compile")
    assert found["seed"] == 0
    assert (found["corpus"], found["space"], found["sampler"]) == ("stdlib", "tiny", "qlognehvi")
    assert found["cardinality"] == str(SPACE.cardinality)
    assert found["trials"] == OPTIONS["trials"]
    assert {"date", "device", "threads", "dtype", "versions"} <= set(found)
    stages = {"supernet", "profile", "search", "random search", "profile again", "verify"}
    assert set(found["wall_s"]) == stages
    quality = results["surrogate"][DECODE]
    assert quality["num_architectures"] == OPTIONS["profile-architectures"]
    assert quality["num_records"] == len(read_jsonl(run / "profile.jsonl")) == 16 * (ROUNDS + 1)
    assert {"kendall_tau", "mape", "coverage", "interval_level"} <= set(quality)


def test_winners_and_hypervolumes_follow_from_the_trials(results: dict[str, Any]) -> None:
    trials = results["trials"]
    Y = np.array([[t["values"][n] for n in NAMES] for t in trials])
    assert [t["number"] for t in trials] == list(range(OPTIONS["trials"]))
    ideal, ref = ([results[box][n] for n in NAMES] for box in ("ideal", "ref_point"))
    expected = [float(normalized_hypervolume(Y[: i + 1], ideal, ref)) for i in range(len(Y))]
    assert results["hypervolume_trace"] == pytest.approx(expected)
    assert results["hypervolume"] == results["hypervolume_trace"][-1]
    front = [t for t, keep in zip(trials, non_dominated_mask(Y), strict=True) if keep]
    keys = {json.dumps(t["architecture"]): t["values"] for t in front}
    for winner in results["winners"]:
        values = keys[json.dumps(winner["architecture"])]
        assert winner["searched"] == values
        # The latency is claimed anew, from a round after the search; nothing else is.
        means = {n: c["mean"] for n, c in winner["predicted"].items()}
        assert means[DECODE] == pytest.approx(values[DECODE], rel=0.3)
        assert means | {DECODE: values[DECODE]} == values
        architecture = Architecture.from_json(winner["architecture"])
        value_bytes = 4 if results["provenance"]["dtype"] == "float32" else 2  # the faster one here
        expected = costs(architecture, SPACE.family, value_bytes).weight_bytes
        assert winner["measured"]["weight_bytes"] == expected
    assert len(results["winners"]) == min(len(keys), OPTIONS["max-winners"])


def test_random_search_has_the_same_budget_and_its_own_seeds(
    results: dict[str, Any], run: Path
) -> None:
    found = results["random_search"]
    finals = found["hypervolumes"]
    assert len(finals) == OPTIONS["random-seeds"]
    assert found["hypervolume"] == pytest.approx(np.mean(finals))
    assert found["std"] == pytest.approx(np.std(finals, ddof=1))
    assert len(found["trace_mean"]) == len(found["trace_std"]) == OPTIONS["trials"]
    journals = [(run / f"random-{i}.journal").read_text() for i in range(2)]
    assert journals[0] != journals[1]
    for i in range(2):
        assert len(_complete_trials(run / f"random-{i}.journal")) == OPTIONS["trials"]


def test_report_figure_and_models_are_there(results: dict[str, Any], run: Path) -> None:
    page = (run / "report.html").read_text(encoding="utf-8")
    assert "</html>" in page
    assert (run / "front.png").read_bytes().startswith(b"\x89PNG")
    for winner in results["winners"]:
        architecture = Architecture.from_json(winner["architecture"])
        model = load_gpt(run / "winners" / architecture.key)
        assert model.architecture == architecture
        assert model.weight_bytes() == winner["measured"]["weight_bytes"]
        assert winner["sample"]


# --- going on


def _forbid_work(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError("this was done before")

    monkeypatch.setattr(profile_module, "measure_latency", refuse)
    monkeypatch.setattr(profile_module, "measure_dense_paths", refuse)
    monkeypatch.setattr(verify_module, "measure_dense_paths", refuse)
    monkeypatch.setattr(verify_module, "measure_latency", refuse)
    monkeypatch.setattr(evaluation_module.Evaluator, "__call__", refuse)


def _state(folder: Path) -> dict[str, tuple[int, bytes]]:
    files = [p for p in folder.rglob("*") if p.is_file() and not p.name.startswith((".", "run."))]
    return {str(p.relative_to(folder)): (p.stat().st_mtime_ns, p.read_bytes()) for p in files}


def test_the_same_command_again_reports_and_does_nothing(
    copy: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _forbid_work(monkeypatch)
    before = _state(copy)
    assert main(arguments(copy)) == 0
    assert _state(copy) == before
    shown = capsys.readouterr().out
    assert "Nothing changed" in shown
    assert "dense baseline" in shown


@pytest.mark.parametrize("lost", ["report.html", "front.png"])
def test_a_lost_drawing_is_drawn_again_and_nothing_else(
    copy: Path, lost: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    _forbid_work(monkeypatch)
    (copy / lost).unlink()
    assert main(arguments(copy)) == 0
    assert (copy / lost).exists()


@pytest.mark.parametrize(
    "damage", [lambda text: text[: len(text) // 2], lambda text: text.replace('"winners"', '"x"')]
)
def test_damaged_results_are_made_again_from_the_records(
    copy: Path, damage: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    before, results = _state(copy), load_results(copy)
    path = copy / "results.json"
    path.write_text(damage(path.read_text()))
    assert main(arguments(copy)) == 0
    again = load_results(copy)
    for name in ("trials", "hypervolume_trace", "surrogate", "ref_point"):
        assert again[name] == results[name]
    assert [w["measured"] for w in again["winners"]] == [w["measured"] for w in results["winners"]]
    for log in ("profile.jsonl", "verify.jsonl", "search.journal"):
        assert (copy / log).read_bytes().startswith(before[log][1])
    assert (copy / "profile.jsonl").read_bytes() == before["profile.jsonl"][1]


def test_more_trials_and_workers_go_on_with_the_study(copy: Path) -> None:
    journal = (copy / "search.journal").read_bytes()
    profile = (copy / "profile.jsonl").read_bytes()
    earlier = load_results(copy)["trials"]
    assert main(arguments(copy, trials=8, workers=2, random_seeds=1, max_winners=2)) == 0
    assert (copy / "profile.jsonl").read_bytes() == profile
    assert (copy / "search.journal").read_bytes().startswith(journal)
    assert len(_complete_trials(copy / "search.journal")) == 8
    results = load_results(copy)
    assert results["trials"][:5] == earlier
    assert [t["number"] for t in results["trials"]] == list(range(8))
    assert len(results["random_search"]["hypervolumes"]) == 1
    assert len(results["random_search"]["trace_mean"]) == 8
    assert len(results["winners"]) <= 2


@pytest.mark.parametrize(
    "changed",
    [
        {"space": "gpt-s"},
        {"sampler": "tpe"},
        {"seed": 1},
        {"corpus": "other.txt"},
        {"perplexity_tokens": 2048},
        {"objectives": ["perplexity", "weight_bytes"]},
        {"trials": 4},
    ],
    ids=lambda changed: next(iter(changed)),
)
def test_another_run_on_the_folder_is_refused(
    copy: Path, changed: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    before = _state(copy)
    assert main(arguments(copy, **changed)) == 2
    [line] = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("nas: expected ")
    assert next(iter(changed)) in line
    assert "use another --out" in line
    assert _state(copy) == before


def test_another_spelling_of_the_objectives_is_the_same_run(
    copy: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _forbid_work(monkeypatch)
    spelled = ["perplexity", "decode_ms[ context = 128 ]", "weight_bytes"]
    assert main(arguments(copy, objectives=spelled)) == 0
    assert "Nothing changed" in capsys.readouterr().out


# --- other objectives, other texts


def test_four_objectives_with_prefill_and_memory(
    tmp_path_factory: pytest.TempPathFactory, tmp_path: Path
) -> None:
    out = begun_run(tmp_path_factory, tmp_path)
    records = (out / "profile.jsonl").read_bytes()
    prefill, memory = "prefill_ms[batch=1,context=16]", "peak_memory_bytes[batch=2,context=32]"
    names = ["perplexity", DECODE, prefill, memory]
    options = {"trials": 3, "sampler": "random", "random_seeds": 0, "max_winners": 2}
    assert main(arguments(out, objectives=names, **options)) == 0
    results = load_results(out)
    assert [o["name"] for o in results["objectives"]] == names
    assert (out / "profile.jsonl").read_bytes().startswith(records)  # decode was measured before
    assert len(read_jsonl(out / "profile.jsonl")) == 2 * 16 * (ROUNDS + 1)
    assert set(results["surrogate"]) == {DECODE, prefill}
    assert "random_search" not in results
    assert len(results["trials"]) == 3
    for winner in results["winners"]:
        assert set(names) <= set(winner["measured"])
        passed = {c["name"]: c["passed"] for c in winner["checks"]}
        assert set(passed) == set(names)
        assert passed["perplexity"]
        assert passed[memory]
    assert set(names) <= set(results["baseline"]["measured"])


def _small_text(folder: Path) -> Path:
    source = Path(sysconfig.get_path("stdlib"), "argparse.py").read_text(encoding="utf-8")
    path = folder / "notes.txt"
    path.write_text(source[:60_000], encoding="utf-8")
    return path


def _other_text(
    factory: pytest.TempPathFactory, tmp_path: Path, corpus: Path, *flags: str
) -> dict[str, Any]:
    out = tmp_path / "other"
    out.mkdir()
    (out / "profile.jsonl").write_bytes((finished_run(factory) / "profile.jsonl").read_bytes())
    options = {"trials": 2, "sampler": "random", "random_seeds": 1, "max_winners": 1}
    command = arguments(out, corpus=corpus, train_steps=2, perplexity_tokens=512, **options)
    assert main([*command, *flags]) == 0
    results = load_results(out)
    info = json.loads((out / "supernet.json").read_text())["info"]
    assert info["tokens"] == 2 * 8 * 256
    assert results["provenance"]["supernet"]["tokens"] == info["tokens"]
    assert results["provenance"]["corpus"] == str(corpus)
    for winner in results["winners"]:
        assert {c["name"]: c["passed"] for c in winner["checks"]}["perplexity"]
    return info


def test_a_text_of_ones_own_is_trained_on(
    tmp_path_factory: pytest.TempPathFactory, tmp_path: Path
) -> None:
    corpus = _small_text(tmp_path)
    info = _other_text(tmp_path_factory, tmp_path, corpus, "--from-scratch")
    assert info["start"] is None


def test_wikitext_is_trained_on_from_the_embedded_supernet(
    tmp_path_factory: pytest.TempPathFactory, tmp_path: Path
) -> None:
    if not WIKITEXT.exists():
        pytest.skip(f"no second corpus at {WIKITEXT}")
    info = _other_text(tmp_path_factory, tmp_path, WIKITEXT)
    assert info["start"] is not None
