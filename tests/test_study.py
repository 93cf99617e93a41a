"""The study loop: resumed, killed, shared and repeated studies end as they should."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from small_spaces import small_space

from nas.files import FileWriteError
from nas.journal import StudyStorageError, repair_journal
from nas.objectives import Evaluation, Objective
from nas.searchers import samplers
from nas.storage import open_storage
from nas.study import StudyResult, run_study
from nas.study_workers import WorkerError
from search_spaces import Architecture, SearchSpace, costs

SPACE = small_space(attention_sparsities=("dense", "2:4"), ffn_sparsities=("dense", "1:4"))
TINY = SearchSpace(
    "few", SPACE.family, (32, 64), (1,), (2, 4), (1,), attention_sparsities=("dense", "2:4")
)
NAMES = ("perplexity", "weight_bytes")
OBJECTIVES = [Objective.parse(n) for n in NAMES]
# Small enough that every sampler leaves its random start within a few trials.
OPTIONS: dict[str, dict[str, Any]] = {
    "nsga2": {"population_size": 4},
    "nsga3": {"population_size": 4},
    "tpe": {"n_startup_trials": 4},
    "gp": {"n_startup_trials": 4},
    "qlognehvi": {"n_startup": 4, "effort": 0.2},
    "qlognparego": {"n_startup": 4, "effort": 0.2},
}


def evaluate(architecture: Architecture) -> Evaluation:
    """Sizes in closed form and a made-up perplexity that falls with the number of kept weights."""
    found = costs(architecture, SPACE.family)
    values = {
        "perplexity": 5.0 + 1e5 / found.nonzeros + architecture.depth * 0.1,
        "weight_bytes": found.weight_bytes,
    }
    return Evaluation(architecture, values, fidelity=1, provenance={"by": "test"})


class Counted:
    """Evaluates, and counts; picklable."""

    def __init__(
        self, log: Path, delay_s: float = 0.0, stop_at: int = -1, kill: bool = False
    ) -> None:
        self.log, self.delay_s, self.stop_at, self.kill = log, delay_s, stop_at, kill

    def __call__(self, architecture: Architecture) -> Evaluation:
        with self.log.open("a") as file:
            file.write(architecture.key + "\n")
        time.sleep(self.delay_s)
        if len(self.keys()) == self.stop_at:
            if self.kill:
                os.kill(os.getpid(), signal.SIGKILL)
            raise KeyboardInterrupt
        return evaluate(architecture)

    def keys(self) -> list[str]:
        return self.log.read_text().split() if self.log.exists() else []


def study(sampler: str = "random", n_trials: int = 12, **changed: Any) -> StudyResult:
    fields: dict[str, Any] = {
        "evaluate": evaluate,
        "space": SPACE,
        "objectives": OBJECTIVES,
        "seed": 3,
        "progress": False,
        **OPTIONS.get(sampler, {}),
    }
    return run_study("s", sampler=sampler, n_trials=n_trials, **(fields | changed))


def architectures(result: StudyResult) -> list[str]:
    return [e.architecture.key for e in result.evaluations]


def leave_running(path: Path, params: Mapping[str, Any] | None = None) -> None:
    """What a process leaves that is killed between asking and telling; without params, in the middle of asking."""
    stored = optuna.load_study(study_name="s", storage=open_storage(path))
    stored.sampler = optuna.samplers.RandomSampler(seed=1)
    slots = {
        n: optuna.distributions.CategoricalDistribution(v) for n, v in SPACE.to_optuna().items()
    }
    stored.ask(slots if params is None else {})


@pytest.mark.parametrize("sampler", samplers())
def test_pieces_equal_one_run(sampler: str, tmp_path: Path) -> None:
    n_trials = 7 if sampler == "gp" else 13
    whole = study(sampler, n_trials)
    path = tmp_path / "study.journal"
    for number, count in enumerate((2, 5, 6, 10, n_trials)):
        pieces = study(sampler, min(count, n_trials), storage=path)
        leave_running(path, params={} if number % 2 else None)
    assert architectures(pieces) == architectures(whole)
    assert [dict(e.values) for e in pieces.evaluations] == [
        dict(e.values) for e in whole.evaluations
    ]
    assert pieces.hypervolume_trace == whole.hypervolume_trace
    assert pieces.ref_point == whole.ref_point


_RUN = """
import json, sys
from pathlib import Path
from test_study import Counted, architectures, study
result = study("nsga2", 40, storage=sys.argv[1], evaluate=Counted(Path(sys.argv[2]), delay_s=0.01))
print(json.dumps(architectures(result)))
"""


def environment() -> dict[str, str]:
    here = Path(__file__).parent
    return {**os.environ, "PYTHONPATH": f"{here}{os.pathsep}{here.parent}", "OMP_NUM_THREADS": "1"}


def test_kill_9_at_random_moments_loses_nothing(tmp_path: Path) -> None:
    whole = study("nsga2", 40)
    path, log = tmp_path / "study.journal", tmp_path / "log"
    command = [sys.executable, "-c", _RUN, str(path), str(log)]
    rng = np.random.default_rng(0)
    for _ in range(4):
        started = len(log.read_text().split()) if log.exists() else 0
        wanted = started + int(rng.integers(3, 9))
        process = subprocess.Popen(command, env=environment(), stdout=subprocess.DEVNULL)
        while process.poll() is None and (
            not log.exists() or len(log.read_text().split()) < wanted
        ):
            time.sleep(0.002)
        time.sleep(float(rng.uniform(0.0, 0.02)))
        process.kill()
        process.wait()
    end = subprocess.run(command, env=environment(), capture_output=True, text=True, check=True)
    assert json.loads(end.stdout) == architectures(whole)
    # What was finished before a kill was not evaluated again: at most one lost evaluation for each kill.
    assert len(log.read_text().split()) <= len({*architectures(whole)}) + 4


def test_ctrl_c_keeps_the_finished_trials(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path, counted = tmp_path / "study.journal", Counted(tmp_path / "log", stop_at=5)
    with pytest.raises(KeyboardInterrupt):
        study(storage=path, evaluate=counted, progress=True)
    assert f"Stopped with 4 of 12 trials, kept in {path}" in capfd.readouterr().err
    assert architectures(study(storage=path)) == architectures(study())


def test_an_exception_gives_its_place_back(tmp_path: Path) -> None:
    def broken(architecture: Architecture) -> Evaluation:
        raise ZeroDivisionError

    path = tmp_path / "study.journal"
    study(n_trials=3, storage=path)
    with pytest.raises(ZeroDivisionError):
        study(storage=path, evaluate=broken)
    states = [
        t.state.name for t in optuna.load_study(study_name="s", storage=open_storage(path)).trials
    ]
    assert states == ["COMPLETE"] * 3 + ["FAIL"]
    assert architectures(study(storage=path)) == architectures(study())


def test_a_repeated_architecture_is_evaluated_once(tmp_path: Path) -> None:
    counted = Counted(tmp_path / "log")
    result = study(n_trials=12, space=TINY, evaluate=counted, sampler="tpe")
    assert len(counted.keys()) == len({*counted.keys()}) == len({*architectures(result)})


@pytest.mark.parametrize("sampler", ["random", "qlognehvi"])
def test_a_study_ends_when_its_space_is_exhausted(sampler: str) -> None:
    result = study(sampler, n_trials=500, space=TINY)
    assert result.is_exhausted
    assert {*architectures(result)} == {a.key for a in TINY}
    if sampler == "qlognehvi":
        assert len(result.evaluations) == TINY.cardinality  # it proposes nothing twice
    assert not study(sampler, n_trials=2, space=TINY).is_exhausted


# --- one study, several processes --------------------------------------------------------------------


@pytest.mark.slow
def test_workers_finish_exactly_what_was_asked(tmp_path: Path) -> None:
    path, counted = tmp_path / "study.journal", Counted(tmp_path / "log", delay_s=0.05)
    result = study(n_trials=11, storage=path, workers=2, evaluate=counted)
    assert len(result.evaluations) == 11
    assert sorted(architectures(result)) == sorted(architectures(study(n_trials=11)))
    stored = optuna.load_study(study_name="s", storage=open_storage(path))
    assert [t.state.name for t in stored.trials] == ["COMPLETE"] * 11


@pytest.mark.slow
def test_a_killed_worker_is_replaced(tmp_path: Path) -> None:
    counted = Counted(tmp_path / "log", stop_at=4, kill=True)
    path = tmp_path / "study.journal"
    result = study("nsga2", 9, storage=path, workers=2, evaluate=counted)
    assert len(result.evaluations) == 9
    stored = optuna.load_study(study_name="s", storage=open_storage(path))
    states = [t.state.name for t in stored.trials]
    assert sorted(states) == ["COMPLETE"] * 9 + ["FAIL"]


def raises(architecture: Architecture) -> Evaluation:
    raise ZeroDivisionError


@pytest.mark.slow
def test_an_exception_in_a_worker_stops_the_study(tmp_path: Path) -> None:
    with pytest.raises(WorkerError, match="exception in a worker.*traceback is above.*run again"):
        study(storage=tmp_path / "study.journal", workers=2, evaluate=raises)


def finds_the_disk_full(architecture: Architecture) -> Evaluation:
    raise FileWriteError(errno.ENOSPC, "expected to append 9 bytes, got: No space left on device")


@pytest.mark.slow
def test_what_stopped_a_worker_is_said_by_the_run(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """A ValueError, which the command line shows as one line: the workers' own tracebacks would drown it."""
    assert issubclass(WorkerError, ValueError)
    with pytest.raises(WorkerError, match=r"append 9 bytes, got: No space left.*run again"):
        study(storage=tmp_path / "study.journal", workers=2, evaluate=finds_the_disk_full)
    assert "Traceback" not in capfd.readouterr().err


def test_several_workers_need_a_storage() -> None:
    with pytest.raises(ValueError, match="expected a storage for several workers"):
        study(workers=2)


# --- storages ----------------------------------------------------------------------------------------


def test_a_database_serves_as_well(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/study.db"
    study(n_trials=4, storage=url)
    assert architectures(study(storage=url)) == architectures(study())


@pytest.mark.parametrize(
    ("changed", "names"),
    [
        ({"space": TINY}, "space"),
        ({"objectives": OBJECTIVES[::-1]}, "objectives"),
        ({"fingerprint": {"supernet": "other"}}, "supernet"),
        ({"seed": 4}, "seed"),
        ({"constraints": {"weight_bytes": 1e6}}, "constraints"),
    ],
)
def test_another_study_under_the_same_name_is_refused(
    changed: dict[str, Any], names: str, tmp_path: Path
) -> None:
    path = tmp_path / "study.journal"
    study(n_trials=2, storage=path, fingerprint={"supernet": "mine"})
    with pytest.raises(StudyStorageError, match=f"differs in .*{names}.*got.*use another"):
        study(n_trials=2, storage=path, **({"fingerprint": {"supernet": "mine"}} | changed))
    study(n_trials=2, storage=path, fingerprint={"supernet": "mine"})


def test_two_runs_of_one_study_join(tmp_path: Path) -> None:
    """Neither is refused, and together they make what one would have made (more in ``test_scale_out_engines.py``)."""
    path, counted = tmp_path / "study.journal", Counted(tmp_path / "log", delay_s=0.02)
    found: list[StudyResult] = []
    threads = [
        threading.Thread(target=lambda: found.append(study(storage=path, evaluate=counted)))
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60.0)
    assert [architectures(result) for result in found] == [architectures(study())] * 2
    assert len(counted.keys()) == len({*counted.keys()})


@pytest.mark.parametrize("cut", [1, 7, 30])
def test_a_torn_last_line_is_cut_off(cut: int, tmp_path: Path) -> None:
    path = tmp_path / "study.journal"
    study(n_trials=4, storage=path)
    content = path.read_bytes()
    path.write_bytes(content[:-cut])
    assert architectures(study(storage=path)) == architectures(study())


def test_a_line_torn_by_a_worker_is_cut_off_before_the_next_is_written(tmp_path: Path) -> None:
    path = tmp_path / "study.journal"
    storage = open_storage(path)
    stored = optuna.create_study(study_name="s", storage=storage)
    with path.open("ab") as file:
        file.write(b'{"op_code":4,"worker')
    stored.set_user_attr("a", 1)
    assert all(json.loads(line) for line in path.read_bytes().splitlines())
    assert optuna.load_study(study_name="s", storage=open_storage(path)).user_attrs == {"a": 1}


def test_damage_in_the_middle_is_named(tmp_path: Path) -> None:
    path = tmp_path / "study.journal"
    study(n_trials=2, storage=path)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:3], b"\xff{not json}\n", *lines[4:]]))
    with pytest.raises(StudyStorageError, match=r"expected line 4 of .*restore"):
        study(storage=path)


def test_a_missing_journal_needs_no_repair(tmp_path: Path) -> None:
    assert repair_journal(tmp_path / "none") == 0


# --- what comes out ------------------------------------------------------------------------------------


def test_front_trace_and_box() -> None:
    box = {
        "ref_point": {"perplexity": 30.0, "weight_bytes": 6e4},
        "ideal": {"perplexity": 5.0, "weight_bytes": 0.0},
    }
    result = study(n_trials=15, **box)
    Y = np.array([[e.value(n) for n in NAMES] for e in result.evaluations])
    brute = [
        i for i in range(15)
        if not any(np.all(Y[j] <= Y[i]) and np.any(Y[j] < Y[i]) for j in range(15))
    ]  # fmt: skip
    assert {e.architecture for e in result.front.evaluations} == {
        result.evaluations[i].architecture for i in brute
    }
    grid = [np.linspace(5.0, 30.0, 401), np.linspace(0.0, 6e4, 401)]
    centers = np.stack(np.meshgrid(*[(g[1:] + g[:-1]) / 2 for g in grid]), axis=-1).reshape(-1, 2)
    for count in (1, 8, 15):  # by counting cells of a grid
        dominated = np.zeros(len(centers), dtype=bool)
        for y in Y[:count]:
            dominated |= np.all(y <= centers, axis=1)
        assert result.hypervolume_trace[count - 1] == pytest.approx(dominated.mean(), abs=0.01)
    assert np.all(np.diff(result.hypervolume_trace) >= 0.0)


def test_the_default_box_holds_every_early_point() -> None:
    result = study(n_trials=15)
    Y = np.array([[e.value(n) for n in NAMES] for e in result.evaluations])
    assert np.all(Y[:10] < result.ref_point)
    assert np.all(np.array(result.ideal) < Y)


def test_infeasible_evaluations_stay_out_of_the_front(tmp_path: Path) -> None:
    bound = 25_000
    result = study("qlognehvi", 14, constraints={"weight_bytes": bound}, storage=tmp_path / "j")
    sizes = [e.value("weight_bytes") for e in result.evaluations]
    assert min(sizes) <= bound < max(sizes)
    assert all(e.value("weight_bytes") <= bound for e in result.front.evaluations)
    first = next(i for i, size in enumerate(sizes) if size <= bound)
    assert result.hypervolume_trace[first] > 0.0
    assert all(volume == 0.0 for volume in result.hypervolume_trace[:first])
    stored = optuna.load_study(study_name="s", storage=open_storage(tmp_path / "j"))
    assert [max(t.constraints.values()) <= 0.0 for t in stored.trials] == [
        s <= bound for s in sizes
    ]


def test_values_are_refused_before_anything_is_stored(tmp_path: Path) -> None:
    for wrong in ({"n_trials": 0}, {"workers": 0}):
        with pytest.raises(ValueError, match="of 1 or more"):
            study(storage=tmp_path / "j", **wrong)
    assert not list(tmp_path.iterdir())
