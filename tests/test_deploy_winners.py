"""Choosing, building, checking and verifying winners."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_run import DECODE, finished_run, load_profile_of, load_results, load_supernet_of

import nas.deploy.baseline as baseline_module
import nas.deploy.verify as verify_module
from nas.commands.run_folder import winners_of
from nas.deploy.check import Check
from nas.deploy.materialize import Winners, materialize, select
from nas.deploy.measure import Timing
from nas.deploy.report import validate
from nas.deploy.runtime import Runtime
from nas.deploy.verify import verify
from nas.model import Supernet, load_gpt
from nas.objectives import Evaluation, Objective
from nas.pareto import ParetoFront
from nas.training import TrainedSupernet
from search_spaces import Architecture, Workload
from tests.toy_space import SPACE, toy_supernet, toy_trained


@pytest.fixture(scope="module")
def supernet() -> Supernet:
    return toy_supernet()


@pytest.fixture
def trained(supernet: Supernet) -> TrainedSupernet:
    return toy_trained(supernet)


# --- choosing winners


def _front_of(Y: np.ndarray, names: tuple[str, ...], ref: np.ndarray) -> ParetoFront:
    rng = np.random.default_rng(0)
    architectures: dict[Architecture, None] = {}
    while len(architectures) < len(Y):
        architectures[SPACE.sample(rng)] = None
    evaluations = [
        Evaluation(a, dict(zip(names, map(float, row), strict=True)))
        for a, row in zip(architectures, Y, strict=True)
    ]
    return ParetoFront(evaluations, names, ref.tolist())


def _volume(Y: np.ndarray, ref: np.ndarray) -> float:
    """Hypervolume by inclusion and exclusion."""
    total = 0.0
    for size in range(1, len(Y) + 1):
        for subset in itertools.combinations(Y, size):
            corner = np.max(subset, axis=0)
            total -= (-1) ** size * float(np.prod(np.maximum(ref - corner, 0.0)))
    return total


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("names", [("perplexity", DECODE), ("weight_bytes", "perplexity", DECODE)])
def test_selection_is_within_the_greedy_bound_of_the_best_subset(
    names: tuple[str, ...], seed: int
) -> None:
    rng = np.random.default_rng(seed)
    Y = rng.uniform(0.1, 1.0, (8, len(names))) * (10.0 ** np.arange(len(names)))
    ref = 1.1 * 10.0 ** np.arange(len(names))
    front = _front_of(Y, names, ref)
    points = np.array([[e.value(n) for n in names] for e in front.evaluations])
    for number in (1, 2, 3):
        chosen = select(front, number)
        assert len(chosen) == min(number, len(points))
        assert len({e.architecture for e in chosen}) == len(chosen)
        mine = _volume(np.array([[e.value(n) for n in names] for e in chosen]), ref)
        subsets = itertools.combinations(range(len(points)), len(chosen))
        best = max(_volume(points[list(s)], ref) for s in subsets)
        assert mine >= (1.0 - 1.0 / math.e) * best - 1e-12
        if number == 1:
            assert mine == pytest.approx(best)
    every = select(front, 100)
    assert {e.architecture for e in every} == {e.architecture for e in front.evaluations}
    latency = [e.value(DECODE) for e in every]
    assert latency == sorted(latency)


def test_members_beyond_the_reference_point_come_last() -> None:
    Y = np.array([[5.0, 0.5], [1.0, 1.0], [0.5, 4.0]])  # the first and last exceed 2 somewhere
    chosen = select(_front_of(Y, ("perplexity", DECODE), np.array([2.0, 2.0])), 1)
    assert [e.value("perplexity") for e in chosen] == [1.0]


def test_an_empty_front_and_foreign_evaluations_are_refused(trained: TrainedSupernet) -> None:
    names = ("perplexity", DECODE)
    with pytest.raises(ValueError, match="got an empty one; run more trials"):
        materialize(ParetoFront([], names), trained)
    front = _front_of(np.array([[1.0, 1.0]]), names, np.array([2.0, 2.0]))
    with pytest.raises(ValueError, match=r"expected evaluations of nas\.search"):
        materialize(front, trained)


# --- checks


def test_check_boundaries() -> None:
    claim = {"mean": 10.0, "low": 10.0, "high": 10.0}
    perplexity = Objective("perplexity")
    for measured, passed in (
        (10.0, True),
        (10.0 * 1.005, True),
        (10.0 * (1 - 0.005), True),
        (math.nextafter(10.0 * 1.005, 11), False),
        (math.nextafter(10.0 * (1 - 0.005), 9), False),
    ):
        assert Check.of(perplexity, measured, claim).passed is passed
    counted = {"mean": 1000, "low": 1000, "high": 1000}
    for metric in ("weight_bytes", "params", "nonzeros"):
        for measured, passed in ((1000, True), (999, False), (1001, False)):
            assert Check.of(Objective(metric), measured, counted).passed is passed
    memory = Objective.parse("peak_memory_bytes")
    for measured, passed in ((1010, True), (990, True), (1011, False), (989, False)):
        assert Check.of(memory, measured, counted).passed is passed
    latency = Objective.parse(DECODE)
    interval = {"mean": 1.2, "low": 1.0, "high": 1.5}
    for ms, passed in ((1.0, True), (1.5, True), (0.999999, False), (1.500001, False)):
        check = Check.of(latency, ms, interval)
        assert check.passed is passed
        assert (check.low, check.high, check.tolerance, check.unit) == (1.0, 1.5, 0.0, "ms")


# --- verify, on the small run's winners


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return finished_run(tmp_path_factory)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of models and measurements: what one test measured the next finds there."""
    return tmp_path_factory.mktemp("verify")


@pytest.fixture(scope="module")
def winners(run: Path, shared: Path) -> Winners:
    front = winners_of(load_results(run), None)
    return materialize(front, load_supernet_of(run), max_winners=2, out=shared)


@pytest.fixture(autouse=True)
def quick_paths(monkeypatch: pytest.MonkeyPatch) -> None:
    """The dense paths are timed for 20 calls instead of 0.3 seconds and more."""
    real = baseline_module.time_step

    def short(step: Any, runtime: Runtime, **options: Any) -> Timing:
        return real(step, runtime, min_repeats=3, min_seconds=0.0, warmup=1)

    monkeypatch.setattr(baseline_module, "time_step", short)


def _verify(winners: Winners, out: Path) -> Any:
    return verify(winners, rounds=2, compile=False, out=out, progress=False)


def _claiming(winners: Winners, **changes: dict[str, float]) -> Winners:
    """The same winners with other claims about the first; names are metrics."""
    first = winners[0]
    claims = {name: dict(claim) for name, claim in first.claims.items()}
    for name in claims:
        claims[name] |= changes.get(name.partition("[")[0], {})
    provenance = dict(first.evaluation.provenance) | {"claims": claims}
    evaluation = replace(first.evaluation, provenance=provenance)
    return replace(winners, models=(replace(first, evaluation=evaluation), *winners.models[1:]))


def _around(value: float) -> dict[str, float]:
    return {"low": 0.5 * value, "high": 2.0 * value}


def test_honest_claims_pass_and_the_report_is_valid(winners: Winners, shared: Path) -> None:
    first = _verify(winners, shared).results
    for winner in first["winners"]:
        by_name = {c["name"]: c for c in winner["checks"]}
        assert by_name["perplexity"]["passed"]  # latency is the machine's to decide
        assert by_name["weight_bytes"]["passed"]
    measured = first["winners"][0]["measured"]
    honest = _claiming(winners, decode_ms=_around(measured[DECODE]))
    report = _verify(honest, shared)
    assert report.results["winners"][0]["verified"]
    assert validate(report.results) is report.results
    assert all(isinstance(check, Check) for check in report.checks)
    ours, dense = report.results["winners"][0], report.results["baseline"]["measured"]
    assert ours["speedup"] == dense[DECODE] / measured[DECODE]
    assert ours["perplexity_ratio"] == measured["perplexity"] / dense["perplexity"]
    assert ours["size_ratio"] == measured["weight_bytes"] / dense["weight_bytes"]
    paths = [v for v in report.results["baseline"]["paths"].values() if isinstance(v, float)]
    assert dense[DECODE] == pytest.approx(min(paths), abs=1e-5)


@pytest.mark.parametrize(
    ("metric", "falsify"),
    [
        ("perplexity", lambda value: {"low": 1.01 * value, "high": 1.01 * value}),
        ("perplexity", lambda value: {"low": 0.99 * value, "high": 0.99 * value}),
        ("decode_ms", lambda value: {"low": 1.001 * value, "high": 3.0 * value}),
        ("decode_ms", lambda value: {"low": 0.1 * value, "high": 0.999 * value}),
        ("weight_bytes", lambda value: {"low": value + 1, "high": value + 1}),
        ("weight_bytes", lambda value: {"low": value - 1, "high": value - 1}),
    ],
)
def test_each_falsified_claim_fails_alone(
    winners: Winners, shared: Path, metric: str, falsify: Callable[[float], dict[str, float]]
) -> None:
    measured = _verify(winners, shared).results["winners"][0]["measured"]
    name = DECODE if metric == "decode_ms" else metric
    changes = {"decode_ms": _around(measured[DECODE])} | {metric: falsify(measured[name])}
    [winner, *_] = _verify(_claiming(winners, **changes), shared).results["winners"]
    assert not winner["verified"]
    assert [c["name"] for c in winner["checks"] if not c["passed"]] == [name]


def test_measured_perplexity_is_that_of_the_stored_model(winners: Winners, shared: Path) -> None:
    winner = _verify(winners, shared).results["winners"][0]
    assert winners[0].folder is not None
    model = load_gpt(winners[0].folder)
    tokens = winners.supernet.validation(winners.num_tokens)
    with torch.inference_mode():
        logits = model(tokens[:, :-1]).double()
    picked = logits.log_softmax(-1).gather(-1, tokens[:, 1:, None])
    assert winner["measured"]["perplexity"] == pytest.approx(math.exp(-picked.mean()), rel=1e-5)


def test_a_finished_verification_measures_nothing_again(
    winners: Winners, shared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = _verify(winners, shared)
    lines = (shared / "verify.jsonl").read_bytes()

    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError("measured again")

    for name in ("measure_latency", "measure_peak_memory", "perplexity", "time_step"):
        monkeypatch.setattr(verify_module, name, refuse)
    again = _verify(winners, shared)
    assert (shared / "verify.jsonl").read_bytes() == lines
    assert again.results["winners"] == first.results["winners"]
    assert again.results["baseline"]["measured"] == first.results["baseline"]["measured"]


def test_damaged_measurements_are_named(winners: Winners, shared: Path, tmp_path: Path) -> None:
    _verify(winners, shared)
    lines = (shared / "verify.jsonl").read_text().splitlines(keepends=True)
    for bad in ("{}\n", json.dumps(json.loads(lines[1]) | {"value": "fast"}) + "\n"):
        (tmp_path / "verify.jsonl").write_text("".join([lines[0], bad, *lines[2:]]))
        with pytest.raises(ValueError, match="expected a measurement in line 2 of"):
            _verify(winners, tmp_path)


def test_winners_come_back_bit_equal(winners: Winners, tmp_path: Path) -> None:
    tokens = winners.supernet.validation(512)[:, :-1]
    for winner in winners:
        assert winner.folder is not None
        again = load_gpt(winner.folder)
        assert again.architecture == winner.architecture
        with torch.inference_mode():
            assert torch.equal(again(tokens), winner.model(tokens))
        assert again.weight_bytes() == winner.claims["weight_bytes"]["mean"]
        assert (winner.folder / "tokenizer.json").exists()


def test_verification_refuses_other_devices_and_no_rounds(winners: Winners) -> None:
    with pytest.raises(ValueError, match="expected device 'cpu' or 'cuda'"):
        verify(winners, "tpu")
    with pytest.raises(ValueError, match="expected rounds of 1 or more, got 0"):
        verify(winners, rounds=0)


def test_a_saved_report_is_a_page_and_its_numbers(
    winners: Winners, shared: Path, tmp_path: Path
) -> None:
    report = _verify(winners, shared)
    page = report.save(tmp_path / "page" / "mine.html")
    assert page == tmp_path / "page" / "mine.html"
    assert page.read_text(encoding="utf-8").lstrip().lower().startswith("<!doctype html>")
    assert json.loads((page.parent / "mine.results.json").read_text()) == report.results
    assert (page.parent / "mine.front.png").read_bytes().startswith(b"\x89PNG")


def test_the_runs_records_give_the_runs_claims(run: Path) -> None:
    surrogates = load_profile_of(run)
    for winner in load_results(run)["winners"]:
        architecture = Architecture.from_json(winner["architecture"])
        predicted = surrogates.predict(Workload("decode", 1, 128), [architecture])
        claim = winner["predicted"][DECODE]
        assert claim["mean"] == pytest.approx(float(predicted.mean_n[0]), rel=1e-9)
        assert claim["low"] == pytest.approx(float(predicted.low_n[0]), rel=1e-9)
        assert claim["high"] == pytest.approx(float(predicted.high_n[0]), rel=1e-9)
