"""Verification of tiny random models in a short context: attempts, kills, locks, and what is refused."""

from __future__ import annotations

import errno
import json
import os
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from small_models import random_supernet
from small_spaces import small_space, uniform

import nas.commands.winners as commands_module
import nas.deploy.baseline as baseline_module
import nas.deploy.materialize as materialize_module
import nas.deploy.report as report_module
import nas.deploy.verify as verify_module
from nas.cli import main
from nas.data import Corpus
from nas.data.tokenizer import train_tokenizer
from nas.deploy.materialize import Winners, materialize
from nas.deploy.measure import Timing
from nas.deploy.report import publish, validate
from nas.deploy.runtime import Runtime, device_name
from nas.deploy.verify import VerificationReport, verify
from nas.files import FileWriteError, FolderLock, FolderLockedError, read_jsonl
from nas.model import perplexity
from nas.objectives import Evaluation, Objective
from nas.pareto import ParetoFront
from nas.run_settings import SearchRun
from nas.training import TrainedSupernet
from search_spaces import costs, decode_flops

SPACE = small_space()  # context of 24 tokens
LATENCY = "decode_ms[batch=1,context=23]"
MEMORY = "peak_memory_bytes[batch=1,context=23]"


@pytest.fixture(scope="module")
def supernet() -> TrainedSupernet:
    tokens = np.random.default_rng(0).integers(64, size=3000).astype(np.uint16)
    corpus = Corpus("toy", train_tokenizer(["toy"], 257), tokens, tokens, "toy", "toy", 1, 1)
    return TrainedSupernet(random_supernet(SPACE), corpus, {"sha256": "0" * 64}, Path("toy.json"))


def _front(supernet: TrainedSupernet, device: str | None = None) -> ParetoFront:
    """Two architectures with honest claims of perplexity and stored bytes."""
    evaluations = []
    for architecture in (uniform(SPACE, "2:4"), SPACE.smallest):
        tokens = supernet.validation(256)
        model = materialize_module.extract(supernet.model, architecture)
        values = {
            "perplexity": perplexity(model, tokens),
            "weight_bytes": costs(architecture, SPACE.family).weight_bytes,
        }
        claims = {n: {"mean": v, "low": v, "high": v, "source": "test"} for n, v in values.items()}
        provenance = {"claims": claims, "runtime": Runtime().to_json(), "device": device}
        evaluations.append(Evaluation(architecture, values, fidelity=256, provenance=provenance))
    # beyond every value: both count, whichever is the better one
    return ParetoFront(evaluations, ("perplexity", "weight_bytes"), [1e9, 1e9])


@pytest.fixture(scope="module")
def winners(supernet: TrainedSupernet) -> Winners:
    return materialize(_front(supernet), supernet)


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Latencies are numbers that count up, and the measuring can be killed."""
    clock = SimpleNamespace(calls=0, kill_at=None)

    def tick(*args: Any, **options: Any) -> Timing:
        if clock.calls == clock.kill_at:
            raise KeyboardInterrupt
        clock.calls += 1
        return Timing(float(clock.calls), 1.0, 1.0, 1)

    monkeypatch.setattr(verify_module, "measure_latency", tick)
    monkeypatch.setattr(verify_module, "time_step", tick)
    monkeypatch.setattr(baseline_module, "time_step", lambda *_, **__: Timing(1.0, 1.0, 1.0, 1))
    return clock


def _verify(winners: Winners, out: Path | None, **options: Any) -> dict[str, Any]:
    options = {"rounds": 2, "compile": False, "progress": False} | options
    return verify(winners, out=out, **options).results


# --- short contexts


def test_models_with_a_short_context_are_verified(winners: Winners) -> None:
    results = _verify(winners, None)
    assert validate(results) is results
    for row in (results["baseline"], *results["winners"]):
        assert {LATENCY, MEMORY, "perplexity", "weight_bytes", "flops"} <= set(row["measured"])
    assert all(winner["verified"] for winner in results["winners"])


def test_what_no_objective_asks_for_is_measured_at_the_first_workload_that_one_names(
    winners: Winners,
) -> None:
    flops = Objective.parse("flops[batch=2,context=9]")
    claimed = []
    for winner in winners:
        value = decode_flops(winner.architecture, SPACE.family, 9)
        claims = dict(winner.claims) | {str(flops): {"mean": value, "low": value, "high": value}}
        provenance = dict(winner.evaluation.provenance) | {"claims": claims}
        evaluation = replace(winner.evaluation, provenance=provenance)
        claimed.append(replace(winner, evaluation=evaluation))
    asked = replace(winners, models=tuple(claimed), objectives=(*winners.objectives, flops))
    results = _verify(asked, None)
    for row in (results["baseline"], *results["winners"]):
        names = {"decode_ms[batch=2,context=9]", "peak_memory_bytes[batch=2,context=9]"}
        assert names <= set(row["measured"])


# --- attempts


def test_a_killed_attempt_goes_on_and_a_whole_one_is_kept(
    winners: Winners, tmp_path: Path, clock: SimpleNamespace
) -> None:
    first = _verify(winners, tmp_path)
    assert first["provenance"]["attempt"] == 0
    lines = (tmp_path / "verify.jsonl").read_bytes()
    per_attempt = clock.calls
    clock.kill_at = clock.calls + 3
    with pytest.raises(KeyboardInterrupt):
        _verify(winners, tmp_path, newer_than=0)
    clock.kill_at = None
    assert (tmp_path / "verify.jsonl").read_bytes().startswith(lines)
    second = _verify(winners, tmp_path, newer_than=0)
    assert second["provenance"]["attempt"] == 1
    assert clock.calls == 2 * per_attempt  # nothing twice
    new = [w["measured"][LATENCY] for w in second["winners"]]
    assert min(new) > max(w["measured"][LATENCY] for w in first["winners"])
    latest = _verify(winners, tmp_path)
    assert latest["provenance"]["attempt"] == 1
    assert latest["winners"] == second["winners"]
    assert clock.calls == 2 * per_attempt
    assert _verify(winners, tmp_path, newer_than=1)["provenance"]["attempt"] == 2
    assert clock.calls == 3 * per_attempt
    counts = [r["attempt"] for r in read_jsonl(tmp_path / "verify.jsonl")]
    assert counts == sorted(counts)
    assert {counts.count(n) for n in (0, 1, 2)} == {len(counts) // 3}


@pytest.fixture
def run(
    winners: Winners, supernet: TrainedSupernet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """A finished run of the toy, as far as ``nas verify`` looks at it."""
    folder = tmp_path / "run"
    results = _verify(winners, folder)
    results["ref_point"] = {"perplexity": 1e9, "weight_bytes": 1e9}
    results["hypervolume"] = 0.5
    publish(results, folder)
    (folder / "run.json").write_text(json.dumps(SearchRun(out=folder).to_json()))
    monkeypatch.setattr(commands_module, "supernet_of", lambda *_, **__: supernet)
    return folder


def _load(folder: Path) -> dict[str, Any]:
    results: dict[str, Any] = json.loads((folder / "results.json").read_text())
    return results


def test_nas_verify_goes_on_after_a_kill_and_measures_again_after_an_end(
    run: Path, clock: SimpleNamespace
) -> None:
    command = ["verify", "--run", str(run), "--rounds", "2", "--no-compile"]
    before = _load(run)
    per_attempt = clock.calls
    clock.kill_at = clock.calls + 3
    assert main(command) == 130
    assert _load(run) == before
    assert (run / "report.html").exists()
    clock.kill_at = None
    for attempt in (1, 2):
        assert main(command) == 0
        assert clock.calls == (attempt + 1) * per_attempt
        after = _load(run)
        assert after["provenance"]["attempt"] == attempt
        assert after["hypervolume"] == before["hypervolume"]
        for old, new in zip(before["winners"], after["winners"], strict=True):
            assert new["measured"][LATENCY] > old["measured"][LATENCY]


def test_nas_verify_refuses_before_it_touches_anything(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {p.name: p.read_bytes() for p in run.iterdir() if p.is_file()}
    assert main(["verify", "--run", str(run), "--rounds", "0"]) == 2
    assert "expected rounds of 1 or more, got 0" in capsys.readouterr().err
    assert {p.name: p.read_bytes() for p in run.iterdir() if p.is_file()} == before


def test_a_kill_while_drawing_leaves_no_stale_drawing(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def kill(*args: Any, **kwargs: Any) -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(report_module, "render", kill)
        assert main(["verify", "--run", str(run), "--rounds", "1", "--no-compile"]) == 130
    assert _load(run)["provenance"]["attempt"] == 1
    assert not (run / "report.html").exists()
    assert not (run / "front.png").exists()


def test_results_without_the_number_of_their_verification_are_refused(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = _load(run)
    results["provenance"]["attempt"] = "first"
    (run / "results.json").write_text(json.dumps(results))
    assert main(["verify", "--run", str(run)]) == 2
    assert "got 'first' as provenance.attempt; delete results.json" in capsys.readouterr().err


# --- saving


def test_a_page_saved_into_a_runs_folder_leaves_the_runs_report(run: Path) -> None:
    before = {p.name: p.read_bytes() for p in run.iterdir() if p.is_file()}
    report = VerificationReport(_load(run))
    page = report.save(run / "mine.html")
    assert page == run / "mine.html"
    after = {p.name: p.read_bytes() for p in run.iterdir() if p.is_file()}
    assert after | before == after
    assert set(after) - set(before) == {"mine.html", "mine.front.png", "mine.results.json"}
    assert json.loads(after["mine.results.json"]) == report.results
    with pytest.raises(ValueError, match=r"expected a name of its own.*save it as mine\.html"):
        report.save(run / "report.html")
    assert {p.name: p.read_bytes() for p in run.iterdir() if p.is_file()} == after


def test_a_report_is_saved_as_a_page(run: Path, tmp_path: Path) -> None:
    report = VerificationReport(_load(run))
    (tmp_path / "folder.html").mkdir()
    for path in (tmp_path, tmp_path / "results.json", tmp_path / "page", tmp_path / "folder.html"):
        with pytest.raises(ValueError, match="expected the path of an HTML file"):
            report.save(path)
    page = report.save(tmp_path / "new" / "report.html")
    names = {"report.html", "front.png", "results.json"}
    assert {p.name for p in page.parent.iterdir()} == names


# --- what is refused


def test_claims_for_another_processor_are_refused(supernet: TrainedSupernet) -> None:
    here = materialize(_front(supernet, device_name("cpu")), supernet)
    assert here.device_name == device_name("cpu")
    _verify(here, None, rounds=1)
    elsewhere = materialize(_front(supernet, "Cray-1"), supernet)
    with pytest.raises(ValueError, match=r"claims are for \(Cray-1\), got .*; profile and search"):
        _verify(elsewhere, None)


def test_a_folder_in_use_is_refused(winners: Winners, tmp_path: Path) -> None:
    with FolderLock(tmp_path), pytest.raises(FolderLockedError, match=f"process {os.getpid()}"):
        _verify(winners, tmp_path)
    assert not (tmp_path / "verify.jsonl").exists()
    assert _verify(winners, tmp_path, rounds=1)


def test_what_is_no_front_or_no_winners_is_refused(
    winners: Winners, supernet: TrainedSupernet
) -> None:
    front: Any = _front(supernet)
    study: Any = SimpleNamespace(front=front)
    anything: Any = SPACE
    with pytest.raises(ValueError, match="got ParetoFront; call nas.materialize"):
        verify(front)
    with pytest.raises(ValueError, match=r"got SimpleNamespace; pass study\.front"):
        materialize(study, supernet)
    with pytest.raises(ValueError, match="expected the trained supernet.*got SearchSpace"):
        materialize(front, anything)
    with pytest.raises(ValueError, match="expected max_winners of 1 or more, got 0"):
        materialize(front, supernet, max_winners=0)


def test_a_full_disk_names_the_tokenizer(
    supernet: TrainedSupernet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(materialize_module, "save_gpt", lambda *_: None)
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(FileWriteError, match=r"expected to write .*tokenizer\.json, got: No space"):
        materialize(_front(supernet), supernet, out=tmp_path)
