"""Studies whose fidelity grows, with every sampler: fronts of full evaluations, tokens counted to the last, killed and resumed."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from growing_cases import (
    IDEAL,
    NAMES,
    NARROW,
    OPTIONS_GROWING,
    REF,
    THREE,
    WIDTH,
    WINDOWS,
    FormulaJudge,
    growing_study,
    told,
    true_perplexity,
)
from small_study import FEW, SPACE, study

from nas.fidelity import Growing, LossRecord
from nas.fidelity.growing import LOW_FIDELITY
from nas.objectives import Evaluation
from nas.pareto import non_dominated_mask, normalized_hypervolume
from nas.searchers import samplers
from nas.searchers.indexed import INDEX_KEY
from nas.storage import open_storage
from nas.study import StudyResult
from nas.study_fidelity import in_order
from search_spaces import Architecture, costs

LOW, FULL = 2 * WIDTH, WINDOWS * WIDTH


def check(result: StudyResult) -> None:
    """What holds of every study whose fidelity grew."""
    assert result.full_fidelity == FULL
    assert {e.fidelity for e in result.evaluations} <= {LOW, 2 * LOW, FULL}
    for evaluation in result.full_evaluations:
        true = true_perplexity(evaluation.architecture)
        assert evaluation.value("perplexity") == pytest.approx(true, rel=1e-12)
        assert evaluation.provenance["claims"]["perplexity"]["source"] != LOW_FIDELITY
    full = {e.architecture: [e.value(n) for n in NAMES] for e in result.full_evaluations}
    Y = np.array(list(full.values()))
    members = {a for a, keep in zip(full, non_dominated_mask(Y), strict=True) if keep}
    assert {e.architecture for e in result.front.evaluations} == members
    assert all(e.fidelity == FULL for e in result.front.evaluations)
    ideal, ref = (np.array([point[n] for n in NAMES]) for point in (IDEAL, REF))
    for i in range(len(result.evaluations)):
        rows = [
            [e.value(n) for n in NAMES] for e in result.evaluations[: i + 1] if e.fidelity == FULL
        ]
        volume = float(normalized_hypervolume(np.array(rows), ideal, ref))
        assert result.hypervolume_trace[i] == pytest.approx(volume, rel=1e-12)
    # of each architecture: what its highest fidelity holds, paid once
    highest: dict[str, int] = {}
    for e in result.evaluations:
        highest[e.architecture.key] = max(highest.get(e.architecture.key, 0), e.fidelity or 0)
    assert sum(result.tokens) == sum(highest.values())


@pytest.mark.parametrize("growing", [OPTIONS_GROWING, THREE], ids=["two", "three"])
@pytest.mark.parametrize("sampler", samplers())
def test_every_sampler_searches_with_growing_fidelity(
    sampler: str, growing: Growing, tmp_path: Path
) -> None:
    n_trials = 14 if sampler == "gp" else 30 if growing is OPTIONS_GROWING else 40
    judge, path = FormulaJudge(calls=tmp_path / "calls"), tmp_path / "journal"
    result = growing_study(sampler, n_trials, judge=judge, storage=path, growing=growing)
    assert len(result.evaluations) == n_trials
    check(result)
    middle = [e for e in result.evaluations if e.fidelity == 2 * LOW]
    assert bool(middle) == (growing is THREE)
    promoted = [e for e in result.evaluations[3:] if e.fidelity == FULL]
    assert 0 < len(promoted) < n_trials / 2
    assert sum(result.tokens) == judge.tokens_read() < 0.65 * result.tokens_all_full
    trials = optuna.load_study(study_name="growing", storage=open_storage(tmp_path / "journal")).trials  # fmt: skip
    paid = zip(trials, result.evaluations, result.tokens, strict=True)
    for trial, evaluation in [(t, e) for t, e, tokens in paid if tokens]:
        claim = evaluation.provenance["claims"]["perplexity"]  # predicted where fidelity is low
        expected = [claim["mean"], evaluation.value("weight_bytes")]
        assert trial.values == pytest.approx(expected, rel=1e-12)


def test_full_fidelity_is_an_ordinary_study() -> None:
    """The options that never measure on less find what a study without them finds."""
    grown = growing_study(n_trials=12, growing=Growing(shares=(1.0,)))
    assert grown.tokens == tuple(FULL for _ in range(12))
    assert [e.architecture for e in grown.evaluations] == [
        e.architecture for e in study("random", 12, seed=3).evaluations
    ]
    assert study("random", 4, seed=3).tokens == (0, 0, 0, 0)


def test_proposals_are_those_of_the_sampler() -> None:
    """Promotions take an index of their own and change no other proposal of a sampler that looks at no trial."""
    grown = growing_study("random", 30)
    proposed = list(dict.fromkeys(e.architecture for e in grown.evaluations))
    ordinary = study("random", 30, seed=3).evaluations
    seen: set[str] = set()
    for evaluation, other in zip(grown.evaluations, ordinary, strict=True):
        if evaluation.architecture.key not in seen:
            assert evaluation.architecture == other.architecture
        seen.add(evaluation.architecture.key)
    assert 20 < len(proposed) < 30


def test_more_hypervolume_for_the_same_tokens() -> None:
    """On a smooth judge the same sampler finds more with growing fidelity than with the tokens spent at full fidelity."""
    finals = []
    for seed in range(3):
        grown = growing_study("nsga2", 70, seed=seed)
        count = sum(grown.tokens) // FULL
        full = growing_study("nsga2", count, growing=Growing(shares=(1.0,)), seed=seed)
        finals.append([grown.hypervolume_trace[-1], full.hypervolume_trace[-1]])
    grown_mean, full_mean = np.mean(finals, axis=0)
    assert grown_mean > full_mean


# --- killed, resumed, shared -------------------------------------------------------------------------


@pytest.mark.parametrize("growing", [OPTIONS_GROWING, THREE], ids=["two", "three"])
@pytest.mark.parametrize("sampler", ["auto", "nsga2", "qlognehvi"])
def test_a_resumed_study_equals_one_at_a_stretch(
    sampler: str, growing: Growing, tmp_path: Path
) -> None:
    whole = growing_study(sampler, 26, growing=growing)
    path = tmp_path / "journal"

    class Stop(Exception):
        pass

    @dataclass(frozen=True)
    class Interrupted(FormulaJudge):
        limit: int = 0

        def measure(self, *arguments: Any) -> Evaluation:
            if path.read_bytes().count(b'"evaluation"') >= self.limit:
                raise Stop
            return super().measure(*arguments)

    for limit in (2, 5, 12, 19, 22, 24):
        with pytest.raises(Stop):
            growing_study(
                sampler, 26, judge=Interrupted(limit=limit), storage=path, growing=growing
            )
    resumed = growing_study(sampler, 26, storage=path, growing=growing)
    assert told(resumed) == told(whole)
    assert resumed.tokens == whole.tokens
    assert resumed.hypervolume_trace == whole.hypervolume_trace


def environment() -> dict[str, str]:
    here = Path(__file__).parent
    return {**os.environ, "PYTHONPATH": f"{here}{os.pathsep}{here.parent}", "OMP_NUM_THREADS": "1"}


@pytest.mark.slow
def test_kill_9_at_random_moments_changes_nothing(tmp_path: Path) -> None:
    n_trials = 50
    whole = growing_study("nsga2", n_trials)
    path, calls = tmp_path / "journal", tmp_path / "calls"
    program = str(Path(__file__).parent / "growing_cases.py")
    command = [sys.executable, program, str(path), "nsga2", str(n_trials), str(calls)]
    rng = np.random.default_rng(2)
    for _ in range(3):
        before = len(calls.read_text().splitlines()) if calls.exists() else 0
        wanted = before + int(rng.integers(8, 15))
        process = subprocess.Popen(command, env=environment(), stdout=subprocess.DEVNULL)
        while process.poll() is None and (
            not calls.exists() or len(calls.read_text().splitlines()) < wanted
        ):
            time.sleep(0.002)
        time.sleep(float(rng.uniform(0.0, 0.03)))
        process.kill()
        process.wait()
    end = subprocess.run(command, env=environment(), capture_output=True, text=True, check=True)
    assert json.loads(end.stdout.splitlines()[-1]) == told(whole)
    # a kill may lose the one measurement at hand
    assert len(calls.read_text().splitlines()) <= n_trials + 3


@pytest.mark.slow
def test_workers_share_promotions(tmp_path: Path) -> None:
    judge = FormulaJudge(calls=tmp_path / "calls", delay_s=0.05)
    path = tmp_path / "journal"
    result = growing_study("random", 40, judge=judge, storage=path, workers=2, growing=THREE)
    assert len(result.evaluations) == 40
    check(result)
    assert judge.tokens_read() == sum(result.tokens)  # nothing was measured twice
    full = [e.architecture for e in result.full_evaluations]
    assert len(full) == len({*full}) > 3


# --- broken architectures, nothing that counts -------------------------------------------------------


@dataclass(frozen=True)
class Broken(FormulaJudge):
    """One architecture in so many has a log-loss that exp cannot take, until all windows are read."""

    nats: float = 600.0
    every: int = 5

    def measure(
        self, architecture: Architecture, parts: Sequence[int], earlier: Evaluation | None
    ) -> Evaluation:
        found = super().measure(architecture, parts, earlier)
        if int(architecture.key, 16) % self.every or len(LossRecord.of(found).parts) == WINDOWS:
            return found
        record = LossRecord.of(found)
        record = replace(record, nats=tuple(self.nats * t for t in record.tokens))
        values = dict(found.values) | {"perplexity": record.perplexity}
        return replace(
            found, values=values, provenance=dict(found.provenance) | record.to_provenance()
        )


@pytest.mark.parametrize("nats", [600.0, 800.0])
@pytest.mark.parametrize("sampler", ["auto", "nsga2"])
def test_a_broken_architecture_does_not_end_a_search(sampler: str, nats: float) -> None:
    result = growing_study(sampler, 30, judge=Broken(nats=nats))
    assert len(result.evaluations) == 30
    assert any(e.value("perplexity") > 1e200 for e in result.evaluations)
    assert all(math.isfinite(e.value("perplexity")) for e in result.evaluations)


@pytest.mark.parametrize("every", [2, 1])
def test_broken_architectures_do_not_end_a_search_where_nothing_counts(every: int) -> None:
    judge = Broken(every=every)
    result = growing_study("nsga2", 30, judge=judge, growing=THREE, ref_point=NARROW)
    assert len(result.evaluations) == 30
    full = {e.architecture for e in result.full_evaluations}
    start = {e.architecture for e in result.evaluations[:3]}
    assert bool(full - start) == (every == 2)


@pytest.mark.parametrize("constraints", [None, {"perplexity": 8.0}], ids=["reference", "bound"])
def test_where_nothing_counts_the_best_is_measured_all_the_same(
    constraints: dict[str, float] | None,
) -> None:
    """The reference point, or a bound, is beyond everything: the front is of promoted ones, not of the first random trials."""
    found = []
    for seed in range(4):
        result = growing_study(
            "random", 40, growing=THREE, seed=seed, constraints=constraints, ref_point=NARROW
        )
        assert set(result.hypervolume_trace) == {0.0}
        start = [e.value("perplexity") for e in result.evaluations[:3]]
        best = min(e.value("perplexity") for e in result.full_evaluations)
        found.append(best < min(start))
    assert sum(found) >= 3


# --- constraints, small spaces, wrong calls ----------------------------------------------------------


@pytest.mark.parametrize("sampler", ["nsga2", "qlognehvi"])
def test_constraints_hold_for_promotions_and_front(sampler: str, tmp_path: Path) -> None:
    bound = 25_000.0
    path = tmp_path / "journal"
    result = growing_study(sampler, 30, constraints={"weight_bytes": bound}, storage=path)
    assert all(e.value("weight_bytes") <= bound for e in result.front.evaluations)
    assert all(e.value("weight_bytes") <= bound for e in result.evaluations[3:] if e.fidelity == FULL)  # fmt: skip
    assert any(e.value("weight_bytes") > bound for e in result.evaluations)
    assert result.num_feasible == sum(
        e.value("weight_bytes") <= bound for e in result.full_evaluations
    )
    # of the perplexity, the predicted one is held to the bound
    limit = {"perplexity": 11.2}
    result = growing_study(sampler, 12, constraints=limit, storage=tmp_path / "perplexity")
    trials = optuna.load_study(study_name="growing", storage=open_storage(tmp_path / "perplexity")).trials  # fmt: skip
    for trial, evaluation in zip(trials, result.evaluations, strict=True):
        excess = evaluation.provenance["claims"]["perplexity"]["mean"] / 11.2 - 1.0
        assert [*trial.constraints.values()] == [pytest.approx(excess, rel=1e-9, abs=1e-12)]


@pytest.mark.parametrize("sampler", ["random", "qlognehvi"])
def test_a_small_space_is_exhausted_and_what_is_worth_it_promoted(sampler: str) -> None:
    options = Growing(shares=(1 / 8, 1.0), num_full=3, min_gain=0.0)
    result = growing_study(sampler, 400, growing=options, space=FEW)
    assert result.is_exhausted
    assert len(result.evaluations) < 400
    assert {e.architecture for e in result.evaluations} == {*FEW}
    check(result)
    Y = np.array([[true_perplexity(a), costs_of(a)] for a in FEW])
    best = {a for a, keep in zip(FEW, non_dominated_mask(Y), strict=True) if keep}
    counting = {a for a in best if costs_of(a) < REF["weight_bytes"]}  # others add no hypervolume
    assert len(counting) >= 3
    assert counting <= {e.architecture for e in result.full_evaluations}


def costs_of(architecture: Architecture) -> float:
    return costs(architecture, SPACE.family).weight_bytes


def test_a_study_of_one_fidelity_is_not_taken_for_a_growing_one(tmp_path: Path) -> None:
    growing_study(n_trials=2, storage=tmp_path / "j", fingerprint={"fidelity": "growing"})
    with pytest.raises(ValueError, match="differs in fidelity"):
        growing_study(n_trials=2, storage=tmp_path / "j")


def test_a_lost_proposal_that_was_made_again_stands_where_it_was() -> None:
    def trial(number: int, index: int | None) -> Any:
        attrs = {} if index is None else {INDEX_KEY: index}
        found = optuna.trial.create_trial(values=[1.0], system_attrs=attrs)
        found.number = number
        return found

    trials = [trial(0, 0), trial(2, 2), trial(3, 1), trial(4, None)]
    assert [t.number for t in in_order(trials)] == [0, 3, 2, 4]
