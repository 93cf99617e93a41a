"""The study loop: pieces, kills, workers, constraints; against the uninterrupted run, brute force and other libraries."""

from __future__ import annotations

import functools
import itertools
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import psutil
import pytest
from filelock import FileLock
from optuna._hypervolume import compute_hypervolume
from small_spaces import small_space
from small_study import FEW, NAMES, SPACE, Formula, scores, study, told

from nas.journal import StudyStorageError, open_storage
from nas.objectives import Evaluation, Objective
from nas.searchers import samplers
from nas.study import StudyResult
from search_spaces import Architecture, SearchSpace

MIDDLE = small_space(  # for the sampler that takes a second for each proposal
    depths=(1,), attention=(True,), ffn_ratios=(1, 2, 4), attention_sparsities=("dense", "2:4"),
    ffn_sparsities=("dense", "2:4"), adapter_ranks=(0,),
)  # fmt: skip
BOUND = 60_000.0  # bytes; some architectures of SPACE and MIDDLE keep to it, some do not
NUM_TRIALS = {"gp": 6, "qlognehvi": 7, "qlognparego": 7}


def _space(sampler: str) -> SearchSpace:
    return MIDDLE if sampler == "gp" else SPACE


def _number(sampler: str) -> int:
    return NUM_TRIALS.get(sampler, 14)


def _run(
    sampler: str, n_trials: int | None = None, *, bounded: bool, **settings: Any
) -> StudyResult:
    constraints = {"weight_bytes": BOUND} if bounded else None
    number = _number(sampler) if n_trials is None else n_trials
    return study(sampler, number, space=_space(sampler), constraints=constraints, **settings)


@functools.cache
def _uninterrupted(sampler: str, bounded: bool) -> StudyResult:
    """The reference: one study in memory at a stretch."""
    return _run(sampler, bounded=bounded)


def _trials(path: Path, name: str = "small") -> list[optuna.trial.FrozenTrial]:
    """What a journal holds, read by Optuna alone."""
    backend = optuna.storages.journal.JournalFileBackend(str(path))
    storage = optuna.storages.JournalStorage(backend)
    return optuna.load_study(study_name=name, storage=storage).get_trials()


def _complete(path: Path) -> list[optuna.trial.FrozenTrial]:
    return [t for t in _trials(path) if t.state == optuna.trial.TrialState.COMPLETE]


@pytest.fixture(autouse=True)
def _no_fsync(monkeypatch: pytest.MonkeyPatch) -> None:
    """Written bytes outlive the process without it; only a power cut, which no test makes, would lose them."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


# --- one study, in one go, in pieces, and after kills


@pytest.mark.parametrize("sampler", samplers())
def test_pieces_make_the_same_study_as_one_go(sampler: str, tmp_path: Path) -> None:
    path, expected = tmp_path / "study.journal", _uninterrupted(sampler, False)
    number = _number(sampler)
    for n_trials in (1, number - 1, number):
        result = _run(sampler, n_trials, bounded=False, storage=path)
        assert told(result) == told(expected)[:n_trials]
    assert result.hypervolume_trace == expected.hypervolume_trace
    stored = _trials(path)
    assert [t.state.name for t in stored] == ["COMPLETE"] * number
    found = [_space(sampler).from_params(t.params).key for t in stored]
    assert found == [e.architecture.key for e in expected.evaluations]
    assert [t.values for t in stored] == [list(e.values.values()) for e in expected.evaluations]


@pytest.mark.parametrize("sampler", samplers())
def test_a_kill_at_any_point_changes_nothing(sampler: str, tmp_path: Path) -> None:
    """The journal only grows, so whatever a kill leaves is a beginning of it: before an evaluation, between evaluation and tell, or
    in the middle of a line. With a constraint, so that its record may be cut too."""
    path, expected = tmp_path / "study.journal", told(_uninterrupted(sampler, True))
    assert told(_run(sampler, bounded=True, storage=path)) == expected
    lines = path.read_bytes().splitlines(keepends=True)
    codes = [json.loads(line)["op_code"] for line in lines]
    asked = [i for i, code in enumerate(codes) if code == 4]  # a new trial
    ended = [i for i, code in enumerate(codes) if code == 6 and "values" in json.loads(lines[i])]
    assert len(asked) == len(ended) == len(expected)
    rng = random.Random(5)
    cuts = [
        b"".join(lines[: asked[-2] + 2]),  # while parameters are being drawn
        b"".join(lines[: ended[-1] - 1]) + lines[ended[-1] - 1][:30],  # told in part
    ]
    if sampler not in NUM_TRIALS:
        whole = b"".join(lines)
        cuts += [b"", b"".join(lines[: asked[0] + 1]), b"".join(lines[: ended[5]])]
        cuts += [whole[: rng.randrange(len(whole))] for _ in range(4)]
    for cut in cuts:
        path.write_bytes(cut)
        assert told(_run(sampler, bounded=True, storage=path)) == expected
        states = Counter(t.state.name for t in _trials(path))
        assert states["COMPLETE"] == len(expected)
        assert set(states) <= {"COMPLETE", "FAIL"}
        assert path.read_bytes().startswith(cut[: cut.rfind(b"\n") + 1]), "finished trials are kept"


def test_one_kill_after_another_changes_nothing(tmp_path: Path) -> None:
    path, expected = tmp_path / "study.journal", told(_uninterrupted("nsga2", True))
    content, rng = b"", random.Random(6)
    for _ in range(6):  # each run gets a little further than the one before
        path.write_bytes(content)
        assert told(_run("nsga2", bounded=True, storage=path)) == expected
        whole = path.read_bytes()
        content = whole[: len(content) + rng.randrange((len(whole) - len(content)) // 3)]
    assert {t.state.name for t in _trials(path)} == {"COMPLETE", "FAIL"}


@pytest.mark.parametrize("sampler", samplers())
def test_the_seed_decides(sampler: str) -> None:
    number = min(5, _number(sampler))
    keys = {
        tuple(key for key, _ in told(_run(sampler, number, bounded=False, seed=seed)))
        for seed in (0, 1, 2)
    }
    assert len(keys) == 3
    assert tuple(key for key, _ in told(_uninterrupted(sampler, False))[:number]) in keys


def _start(
    path: Path, calls: Path, sampler: str, number: int, workers: int
) -> subprocess.Popen[str]:
    program = Path(__file__).with_name("small_study.py")
    return subprocess.Popen(
        [sys.executable, str(program), str(path), sampler, str(number), str(workers), str(calls)],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(program.parents[1]), "OMP_NUM_THREADS": "1"},
    )


@pytest.mark.slow
def test_a_process_killed_at_random_moments_loses_nothing(tmp_path: Path) -> None:
    path, calls, number = tmp_path / "study.journal", tmp_path / "calls", 40
    expected = told(study("nsga2", number, seed=3))
    rng, kept, num_killed = random.Random(7), 0, 0
    for _ in range(4):
        with _start(path, calls, "nsga2", number, 1) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            before = len(calls.read_text().splitlines()) if calls.exists() else 0
            while process.poll() is None and (  # it has come to its own first evaluation
                not calls.exists() or len(calls.read_text().splitlines()) == before
            ):
                time.sleep(0.005)
            time.sleep(rng.uniform(0.0, 0.3))
            process.kill()
            num_killed += process.wait() == -signal.SIGKILL
        open_storage(path)  # mends a torn line
        found = [(SPACE.from_params(t.params).key, t.values) for t in _complete(path)]
        assert found == [(key, list(v.values())) for key, v in expected[: len(found)]]
        assert len(found) >= kept
        kept = len(found)
    assert num_killed == 4
    with _start(path, calls, "nsga2", number, 1) as process:
        last = process.communicate()[0].splitlines()[-1]
    assert [(key, values) for key, values in json.loads(last)] == expected
    assert len(_complete(path)) == number


def test_an_exception_and_ctrl_c_keep_what_is_finished(tmp_path: Path) -> None:
    path, calls = tmp_path / "study.journal", tmp_path / "calls"
    with pytest.raises(ArithmeticError, match="call 3 fails"):
        study("tpe", 6, storage=path, evaluate=Formula(calls, fail_at=3))
    assert len(_complete(path)) == 3

    def interrupted(architecture: Architecture) -> Evaluation:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        study("tpe", 6, storage=path, evaluate=interrupted)
    assert [t.state.name for t in _trials(path)] == ["COMPLETE"] * 3 + ["FAIL"] * 2
    assert told(study("tpe", 6, storage=path)) == told(study("tpe", 6))


def test_more_trials_go_on_and_fewer_return_what_there_is(tmp_path: Path) -> None:
    path, calls = tmp_path / "study.journal", tmp_path / "calls"
    evaluate = Formula(calls)
    four = told(study("nsga2", 4, storage=path, evaluate=evaluate))
    nine = told(study("nsga2", 9, storage=path, evaluate=evaluate))
    assert len(four) == 4
    assert nine[:4] == four
    asked = calls.read_text()
    assert told(study("nsga2", 2, storage=path, evaluate=evaluate)) == nine
    assert calls.read_text() == asked
    assert len(_trials(path)) == 9


def test_studies_of_different_names_share_a_journal(tmp_path: Path) -> None:
    path = tmp_path / "study.journal"
    for name, seed in (("a", 0), ("b", 1), ("a", 0)):
        assert told(study(n_trials=3, storage=path, name=name, seed=seed)) == told(
            study(n_trials=3, seed=seed)
        )
    assert len(_trials(path, "a")) == len(_trials(path, "b")) == 3


# --- what is refused


def test_another_study_under_the_same_name_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "study.journal"
    study("random", 3, storage=path, fingerprint={"corpus": "a"})
    content = path.read_bytes()
    others: dict[str, dict[str, Any]] = {
        "space": {"space": MIDDLE},
        "objectives": {"names": ("weight_bytes", "perplexity")},
        "sampler": {"sampler": "tpe"},
        "seed": {"seed": 1},
        "corpus": {"fingerprint": {"corpus": "b"}},
        "constraints": {"constraints": {"weight_bytes": 1e5}},
    }
    for what, changed in others.items():
        settings = {"sampler": "random", "n_trials": 3, "fingerprint": {"corpus": "a"}} | changed
        with pytest.raises(
            StudyStorageError, match=rf"differs in {what}: it has .*, got .*use another name"
        ):
            study(storage=path, **settings)
        assert path.read_bytes().startswith(content)
    with pytest.raises(StudyStorageError, match="differs in sampler, seed"):
        study("tpe", 3, seed=2, storage=path, fingerprint={"corpus": "a"})


def test_another_number_of_objectives_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "study.journal"
    study(n_trials=2, storage=path)
    with pytest.raises(StudyStorageError, match=r"use another (name|storage)"):
        study(n_trials=3, storage=path, names=(*NAMES, "params"))


def test_a_wrong_sampler_leaves_no_study_behind(tmp_path: Path) -> None:
    path = tmp_path / "study.journal"
    for sampler, options in (("randon", {}), ("random", {"population": 3})):
        with pytest.raises(ValueError, match=r"expected (a sampler in|options of)"):
            study(sampler, 2, storage=path, **options)
    assert not path.exists()
    assert len(study("nsga2", 2, storage=path).evaluations) == 2


def test_a_study_that_is_being_run_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "study.journal"
    study(n_trials=2, storage=path)
    with (
        FileLock(f"{path}.run", is_singleton=False),
        pytest.raises(StudyStorageError, match="another process is running it; wait for it"),
    ):
        study(n_trials=3, storage=path)
    assert len(study(n_trials=3, storage=path).evaluations) == 3


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"workers": 2}, "expected a storage for several workers, got none; pass storage="),
        ({"workers": 2, "storage": "sqlite:///:memory:"}, "expected a storage for several workers"),
        ({"workers": 0}, "expected workers of 1 or more, got 0"),
        ({"n_trials": 0}, "expected n_trials of 1 or more, got 0"),
        ({"seed": -1}, "expected a seed"),
        ({"constraints": {"speed": 1.0}}, "expected a metric in"),
        ({"constraints": {"params": float("nan")}}, "expected a finite bound for params"),
        ({"constraints": {"params": 1e9}}, "expected an evaluation of params, got only"),
        ({"names": ("perplexity", "params"), "evaluate": Formula()}, "evaluation of params"),
    ],
)
def test_wrong_values_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        study(**settings)


# --- several processes


@pytest.mark.slow
def test_workers_finish_exactly_the_trials_asked_for_though_one_is_killed(tmp_path: Path) -> None:
    path, calls, number = tmp_path / "study.journal", tmp_path / "calls", 9
    evaluate = Formula(calls, kill_at=2, delay_s=0.02)
    result = study("random", number, storage=path, workers=2, evaluate=evaluate)
    assert len(result.evaluations) == number
    states = Counter(t.state.name for t in _trials(path))
    assert states == {"COMPLETE": number, "FAIL": 1}
    assert len({line.split()[0] for line in calls.read_text().splitlines()}) >= 2, "two processes"
    # Random proposals depend on the index alone, so two processes make the study that one makes.
    assert told(result) == told(study("random", number))


@pytest.mark.slow
def test_an_exception_in_a_worker_is_told_and_what_is_finished_is_kept(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path, calls, number = tmp_path / "study.journal", tmp_path / "calls", 8
    evaluate = Formula(calls, fail_at=4, delay_s=0.02)
    with pytest.raises(RuntimeError, match="exception in a worker .*kept: mend it and run again"):
        study("random", number, storage=path, workers=2, evaluate=evaluate)
    assert "ArithmeticError: call 4 fails as it was told to" in capfd.readouterr().err
    open_storage(path)
    kept = [t.values for t in _complete(path)]
    assert len(kept) >= 3  # one of the first four may have been running
    result = study("random", number, storage=path)
    assert told(result) == told(study("random", number))
    assert [t.values for t in _complete(path)][: len(kept)] == kept


@pytest.mark.slow
def test_workers_end_with_their_parent_and_the_study_goes_on(tmp_path: Path) -> None:
    path, calls, number = tmp_path / "study.journal", tmp_path / "calls", 60
    with _start(path, calls, "random", number, 2) as process:
        while process.poll() is None and not calls.exists():
            time.sleep(0.02)
        assert process.poll() is None
        children = psutil.Process(process.pid).children(recursive=True)
        process.kill()
        process.wait()
        _, alive = psutil.wait_procs(children, timeout=60)
    assert children
    assert not alive
    asked = len(calls.read_text().splitlines())
    assert asked < number
    result = study("random", number, storage=path, seed=3)
    assert told(result) == told(study("random", number, seed=3))


# --- proposals that repeat


@pytest.mark.parametrize("sampler", ["random", "nsga2", "tpe"])
def test_an_architecture_is_evaluated_once(sampler: str, tmp_path: Path) -> None:
    path, calls = tmp_path / "study.journal", tmp_path / "calls"
    bounds = {"weight_bytes": 40_000.0}
    for n_trials in (6, 11):  # what was scored before a restart is known after it
        result = study(
            sampler,
            n_trials,
            space=FEW,
            storage=path,
            evaluate=Formula(calls),
            constraints=bounds,
        )
    keys = [e.architecture.key for e in result.evaluations]
    asked = [line.split()[1] for line in calls.read_text().splitlines()]
    assert len(set(keys)) < len(keys) == 11
    assert asked == list(dict.fromkeys(keys))
    assert [dict(e.values) for e in result.evaluations] == [
        {n: scores(e.architecture)[n] for n in NAMES} for e in result.evaluations
    ]
    assert all(set(t.constraints) == {"weight_bytes"} for t in _complete(path))
    assert len({e.architecture for e in result.front.evaluations}) == len(result.front)


@pytest.mark.parametrize("sampler", ["random", "qlognparego"])
def test_a_study_ends_when_the_space_is_exhausted(sampler: str) -> None:
    space = small_space(
        embed_dims=(32,), depths=(1,), biases=(False,), attention=(True,), ffn=(True,),
        ffn_ratios=(1, 2), attention_sparsities=("dense",), ffn_sparsities=("dense",),
        adapter_ranks=(0,),
    )  # fmt: skip
    result = study(sampler, 500, space=space)
    assert space.cardinality == 4
    assert result.is_exhausted
    assert len({e.architecture for e in result.evaluations}) == 4
    assert len(result.evaluations) < 500
    assert not study(sampler, 2, space=space).is_exhausted


# --- the result


def _dominates(a: Sequence[float], b: Sequence[float]) -> bool:
    return all(x <= y for x, y in zip(a, b, strict=True)) and tuple(a) != tuple(b)


def _staircase(points: Sequence[Sequence[float]], ideal: Any, ref: Any) -> float:
    """Share of the box from ideal to ref that two-objective points dominate: strips between neighbors."""
    clipped = sorted(tuple(max(v, low) for v, low in zip(p, ideal, strict=True)) for p in points)
    area, height = 0.0, ref[1]
    for x, y in clipped:
        if x < ref[0] and y < height:
            area += (ref[0] - x) * (height - y)
            height = y
    return area / ((ref[0] - ideal[0]) * (ref[1] - ideal[1]))


@pytest.mark.parametrize("bounded", [False, True])
@pytest.mark.parametrize("sampler", ["random", "nsga3", "qlognehvi"])
def test_front_and_trace_are_those_of_brute_force(sampler: str, bounded: bool) -> None:
    result = _uninterrupted(sampler, bounded)
    values = [tuple(e.values.values()) for e in result.evaluations]
    allowed = [v for v in values if not bounded or v[1] <= BOUND]
    assert not bounded or 0 < len(allowed) < len(values), "the bound must bind"
    assert result.num_feasible == len(allowed)
    front = {v for v in allowed if not any(_dominates(w, v) for w in allowed)}
    assert {tuple(e.values.values()) for e in result.front.evaluations} == front
    trace = result.hypervolume_trace
    for n in range(1, len(values) + 1):
        seen = [v for v in values[:n] if v in allowed]
        expected = _staircase(seen, result.ideal, result.ref_point)
        assert trace[n - 1] == pytest.approx(expected, rel=1e-9, abs=1e-12)
    assert all(a <= b for a, b in itertools.pairwise(trace))
    assert trace[-1] > 0.0


def test_the_trace_of_three_objectives_is_optunas_hypervolume() -> None:
    names = (*NAMES, "params")
    ref, ideal = np.array([30.0, 1e5, 3e4]), np.array([10.0, 0.0, 0.0])
    result = study(
        "nsga2",
        12,
        names=names,
        ref_point=dict(zip(names, ref, strict=True)),
        ideal=dict(zip(names, ideal, strict=True)),
    )
    assert result.ref_point == tuple(ref)
    assert result.ideal == tuple(ideal)
    Y = np.array([[e.values[n] for n in names] for e in result.evaluations])
    inside = np.less(Y, ref).all(axis=1)
    assert 0 < inside.sum() < len(Y), "points beyond the reference point must not count"
    for n in range(1, len(Y) + 1):
        seen = np.maximum(Y[:n][inside[:n]], ideal)
        expected = compute_hypervolume(seen, ref) / np.prod(ref - ideal) if len(seen) else 0.0
        assert result.hypervolume_trace[n - 1] == pytest.approx(expected, rel=1e-9)


def test_the_reference_point_comes_from_the_first_ten_trials() -> None:
    result = study("random", 16)
    Y = np.array([[e.values[n] for n in NAMES] for e in result.evaluations])
    first = Y[:10]
    expected = first.max(axis=0) + 0.1 * (first.max(axis=0) - first.min(axis=0))
    np.testing.assert_allclose(result.ref_point, expected, rtol=1e-12)
    assert study("random", 12).ref_point == result.ref_point, "more trials do not move it"
    np.testing.assert_allclose(result.ideal, Y.min(axis=0), rtol=1e-6)
    assert np.all(np.array(result.ideal) < Y.min(axis=0))


def test_equal_values_have_a_hypervolume() -> None:
    def flat(architecture: Architecture) -> Evaluation:
        return Evaluation(architecture, {"perplexity": 2.0, "weight_bytes": 0})

    trace = study("random", 3, evaluate=flat).hypervolume_trace
    np.testing.assert_allclose(trace, [1.0, 1.0, 1.0], rtol=1e-6)


# --- constraints


@pytest.mark.parametrize("sampler", samplers())
def test_every_sampler_is_told_every_trials_constraints(sampler: str, tmp_path: Path) -> None:
    """Warm-started trials too: Optuna's samplers refuse a study whose trials differ in their number of constraints."""
    path, space = tmp_path / "study.journal", _space(sampler)
    bounds = {"weight_bytes": BOUND, "perplexity": 13.0}
    result = study(
        sampler,
        6,
        space=space,
        constraints=bounds,
        storage=path,
        warm_start=[space.to_params(a) for a in (space.largest, space.smallest)],
    )
    assert [e.architecture for e in result.evaluations][:2] == [space.largest, space.smallest]
    for trial, evaluation in zip(_complete(path), result.evaluations, strict=True):
        assert set(trial.constraints) == set(bounds)
        for name, bound in bounds.items():
            assert (trial.constraints[name] <= 0.0) is (evaluation.values[name] <= bound)
            excess = evaluation.values[name] - bound
            assert trial.constraints[name] * bound == pytest.approx(excess)


@pytest.mark.parametrize("sampler", ["nsga2", "nsga3", "tpe", "qlognehvi", "qlognparego"])
def test_constraints_lead_a_sampler_to_feasible_architectures(sampler: str) -> None:
    bound = float(np.quantile([scores(a)["weight_bytes"] for a in _draws(200)], 0.15))
    number = 16 if sampler.startswith("qlog") else 60
    free = study(sampler, number, seed=1)
    bounded = study(sampler, number, seed=1, constraints={"weight_bytes": bound})

    def late(result: StudyResult) -> int:
        last = result.evaluations[number // 2 :]
        return sum(e.values["weight_bytes"] <= bound for e in last)

    assert bounded.num_feasible > 0
    assert late(bounded) > late(free)


def _draws(number: int) -> list[Architecture]:
    rng = np.random.default_rng(0)
    return [SPACE.sample(rng) for _ in range(number)]


def test_without_a_feasible_architecture_the_front_is_that_of_all_and_counts_nothing() -> None:
    result = study(n_trials=6, constraints={"params": 1.0}, names=("params", "perplexity"))
    free = study(n_trials=6, names=("params", "perplexity"))
    assert result.num_feasible == 0
    assert result.front.evaluations == free.front.evaluations
    assert result.hypervolume_trace == [0.0] * 6


def test_a_constraint_may_be_spelled_as_an_objective_is() -> None:
    name = "decode_ms[batch=1,context=128]"

    def evaluate(architecture: Architecture) -> Evaluation:
        values = scores(architecture)
        return Evaluation(architecture, {name: values["params"] / 1e3, "perplexity": 1.0})

    result = study(
        names=("decode_ms", "perplexity"), evaluate=evaluate, constraints={"decode_ms": 12.0}
    )
    assert result.constraints == {name: 12.0}
    assert 0 < result.num_feasible < 8
    assert all(e.value(Objective.parse("decode_ms")) <= 12.0 for e in result.front.evaluations)
