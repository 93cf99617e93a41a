"""Perplexity on parts of the held-out text of a made-up supernet: equal to the direct one, every token read once; searches built on it."""

from __future__ import annotations

import json
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from made_up import made_up_profile, made_up_supernet
from small_spaces import small_space

from nas.deploy.device_profile import DeviceProfile
from nas.evaluation import Evaluator
from nas.fidelity import Growing, LossRecord
from nas.fidelity.growing import LOW_FIDELITY
from nas.nested_evaluation import NestedEvaluator
from nas.objectives import Evaluation, Objective
from nas.run_results import _trials
from nas.run_settings import SearchRun, check_same_run, read_run, write_run
from nas.search_study import parse_fidelity, search
from nas.study import StudyResult
from nas.training import TrainedSupernet
from search_spaces import Workload

DECODE = "decode_ms[batch=1,context=16]"
GOALS = ("perplexity", DECODE, "weight_bytes")
CONTEXT = 24


@pytest.fixture(scope="module")
def supernet() -> TrainedSupernet:
    return made_up_supernet(small_space(), held_out=24 * 40 + 1)


@pytest.fixture(scope="module")
def times(supernet: TrainedSupernet) -> DeviceProfile:
    return made_up_profile(supernet.space, Workload("decode", 1, 16))


@pytest.fixture
def evaluator(supernet: TrainedSupernet, times: DeviceProfile) -> Evaluator:
    return Evaluator(supernet, times, tuple(map(Objective.parse, GOALS)), 24 * 40)


class Reads:
    """Counts the windows that a supernet reads."""

    def __init__(self, supernet: TrainedSupernet, monkeypatch: pytest.MonkeyPatch) -> None:
        self.windows: list[torch.Tensor] = []
        log_losses = supernet.log_losses

        def counted(architecture: Any, parts: Any) -> list[float]:
            self.windows += [row for part in parts for row in part]
            return log_losses(architecture, parts)

        monkeypatch.setattr(supernet, "log_losses", counted)


def test_all_parts_together_are_the_evaluators_perplexity(evaluator: Evaluator) -> None:
    nested = NestedEvaluator(evaluator)
    assert len(nested.part_tokens) == 32  # of 40 windows: eight parts of two
    assert sum(nested.part_tokens) == evaluator.fidelity == 24 * 40
    assert set(nested.part_tokens) == {CONTEXT, 2 * CONTEXT}
    for architecture in (evaluator.supernet.space.largest, evaluator.supernet.space.smallest):
        direct = evaluator(architecture)
        found = nested.measure(architecture, range(32))
        assert found.fidelity == direct.fidelity
        assert found.value("perplexity") == pytest.approx(direct.value("perplexity"), rel=1e-6)
        assert dict(found.values) | {"perplexity": 0} == dict(direct.values) | {"perplexity": 0}
        assert found.provenance["claims"]["perplexity"]["source"] == "supernet"


def test_each_token_is_read_once_and_the_way_there_leaves_no_trace(
    evaluator: Evaluator, monkeypatch: pytest.MonkeyPatch
) -> None:
    nested, reads = NestedEvaluator(evaluator), Reads(evaluator.supernet, monkeypatch)
    smallest = evaluator.supernet.space.smallest
    steps = ([3, 17], [3, 17, 4, 31], list(range(32)))
    found: Evaluation | None = None
    for parts in steps:
        found = nested.measure(smallest, parts, found)
        assert found.fidelity == sum(nested.part_tokens[part] for part in parts)
        assert found.fidelity == LossRecord.of(found).num_tokens
        assert CONTEXT * len(reads.windows) == found.fidelity
        direct = evaluator.supernet.validation(24 * 40)[sorted(w for p in parts for w in nested._windows[p])]  # fmt: skip
        read = torch.stack(reads.windows)
        assert sorted(map(tuple, read.tolist())) == sorted(map(tuple, direct.tolist()))
    assert found is not None
    at_once = nested.measure(smallest, range(32))
    assert found == at_once  # to the last digit, claims and record included
    assert found.to_json() == at_once.to_json()
    assert Evaluation.from_json(json.loads(json.dumps(found.to_json()))) == found


def test_what_costs_no_tokens_is_not_scored_twice(
    evaluator: Evaluator, monkeypatch: pytest.MonkeyPatch
) -> None:
    nested = NestedEvaluator(evaluator)
    low = nested.measure(evaluator.supernet.space.smallest, [0])
    monkeypatch.setattr(Evaluator, "__call__", None)
    full = nested.measure(evaluator.supernet.space.smallest, range(32), low)
    assert {n: full.value(n) for n in GOALS[1:]} == {n: low.value(n) for n in GOALS[1:]}


@pytest.mark.parametrize("parts", [[], [32], [-1]])
def test_parts_that_are_none_are_refused(evaluator: Evaluator, parts: list[int]) -> None:
    with pytest.raises(ValueError, match="expected parts between 0 and 31"):
        NestedEvaluator(evaluator).measure(evaluator.supernet.space.smallest, parts)


# --- searches ----------------------------------------------------------------------------------------


def grow(supernet: TrainedSupernet, times: DeviceProfile, **changed: Any) -> StudyResult:
    fields: dict[str, Any] = {"sampler": "random", "num_tokens": 24 * 40, "n_trials": 24}
    fields |= {"supernet": supernet, "device": times, "fidelity": "growing", "progress": False}
    fields |= changed
    return search(supernet.space, fields.pop("objectives", GOALS), **fields)


def test_a_search_with_growing_fidelity(supernet: TrainedSupernet, times: DeviceProfile) -> None:
    result = grow(supernet, times)
    full = 24 * 40
    assert [e.fidelity for e in result.evaluations[:4]] == [full] * 4
    low = [e for e in result.evaluations if e.fidelity != full]
    assert low
    # two or six of 32 parts, each of one or two windows
    windows = {(e.fidelity or 0) // CONTEXT for e in low}
    assert windows <= {2, 3, 4} | set(range(6, 13))
    assert windows & {2, 3, 4}
    assert all(e.provenance["claims"]["perplexity"]["source"] == LOW_FIDELITY for e in low)
    assert {e.fidelity for e in result.front.evaluations} == {full}
    direct = Evaluator(supernet, times, tuple(map(Objective.parse, GOALS)), full)
    for evaluation in result.front.evaluations:
        value = direct(evaluation.architecture).value("perplexity")
        assert evaluation.value("perplexity") == pytest.approx(value, rel=1e-6)
    assert sum(result.tokens) < result.tokens_all_full
    rows = _trials(result)
    assert [row["fidelity"] for row in rows] == [e.fidelity for e in result.evaluations]
    for row, evaluation in zip(rows, result.evaluations, strict=True):
        claim = evaluation.provenance["claims"]["perplexity"]["mean"]  # full, or predicted
        assert row["values"] == dict(evaluation.values) | {"perplexity": claim}
    assert "fidelity" not in _trials(grow(supernet, times, n_trials=2, fidelity="full"))[0]


def test_too_short_a_text_is_measured_whole(
    supernet: TrainedSupernet, times: DeviceProfile
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = grow(supernet, times, n_trials=9, num_tokens=CONTEXT)
    assert [e.fidelity for e in result.evaluations] == [CONTEXT] * 9


def test_wrong_fidelities_are_refused(supernet: TrainedSupernet, times: DeviceProfile) -> None:
    with pytest.raises(ValueError, match="expected fidelity in full, growing, got 'low'"):
        grow(supernet, times, fidelity="low")
    with pytest.raises(ValueError, match="expected perplexity among the objectives"):
        grow(supernet, times, objectives=(DECODE, "weight_bytes"))
    assert parse_fidelity("full") is None
    assert parse_fidelity("growing") == Growing()
    options = Growing(shares=(0.5, 1.0))
    assert parse_fidelity(options) is options


def test_fidelity_decides_what_a_stored_study_means(
    supernet: TrainedSupernet, times: DeviceProfile, tmp_path: Path
) -> None:
    grow(supernet, times, n_trials=2, storage=tmp_path / "j")
    for fidelity in ("full", Growing(min_gain=0.1)):
        with pytest.raises(ValueError, match="differs in fidelity"):
            grow(supernet, times, n_trials=2, storage=tmp_path / "j", fidelity=fidelity)
    assert len(grow(supernet, times, n_trials=3, storage=tmp_path / "j").evaluations) == 3


# --- nas search --------------------------------------------------------------------------------------


def test_the_setting_is_kept_and_absent_where_it_is_full(tmp_path: Path) -> None:
    full, growing = (SearchRun(out=tmp_path / f, fidelity=f) for f in ("full", "growing"))
    assert "fidelity" not in full.to_json()  # as in folders from before there was a choice
    assert growing.to_json()["fidelity"] == "growing"
    for config in (full, growing):
        config.out.mkdir()
        write_run(config)
        check_same_run(config)
        assert read_run(config.out) == config.to_json()
        other = replace(config, fidelity="full" if config is growing else "growing")
        with pytest.raises(ValueError, match="fidelity"):
            check_same_run(other)


def test_settings_are_checked() -> None:
    SearchRun(fidelity="growing").check()
    with pytest.raises(ValueError, match="expected fidelity in full, growing, got 'grow'"):
        SearchRun(fidelity="grow").check()
    with pytest.raises(ValueError, match="expected perplexity among the objectives.*--fidelity"):
        SearchRun(fidelity="growing", objectives=("params", "weight_bytes")).check()
