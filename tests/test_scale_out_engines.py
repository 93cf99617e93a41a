"""Every storage engine keeps the same study, whether one process makes it, a killed one is followed by another, or many join."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import optuna
import pytest
from small_study import FEW, NAMES, Formula, study, told

from experiments.scale_out.overhead import served
from nas.objectives import Objective
from nas.storage import open_storage
from nas.study import run_study
from tests.scale_out_cases import states
from tests.threads import at_once

SLOW = pytest.mark.slow


@pytest.fixture(params=["journal", "sqlite", "postgresql", "grpc"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """An empty storage of every engine; gRPC in front of SQLite."""
    if request.param == "journal":
        yield str(tmp_path / "study.journal")
    elif request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/study.db"
    elif request.param == "postgresql":
        yield request.getfixturevalue("new_database")()
    else:
        pytest.importorskip("grpc", reason="needs the extra grpc")
        with served(f"sqlite:///{tmp_path}/served.db") as address:
            yield address


# --- every engine keeps the same study


def test_every_engine_gives_the_study_that_memory_gives(storage: str) -> None:
    for sampler, count in (("random", 5), ("nsga2", 9)):
        expected = told(study(sampler, count, name=sampler))
        assert told(study(sampler, count - 3, name=sampler, storage=storage)) == expected[:-3]
        assert told(study(sampler, count, name=sampler, storage=storage)) == expected
        assert states(storage, sampler) == ["COMPLETE"] * count


def test_what_a_killed_process_left_is_made_again(storage: str) -> None:
    study(n_trials=3, storage=storage)
    optuna.load_study(study_name="small", storage=open_storage(storage)).ask()
    assert told(study(n_trials=6, storage=storage)) == told(study(n_trials=6))
    assert states(storage) == ["COMPLETE"] * 3 + ["FAIL"] + ["COMPLETE"] * 3


def test_those_who_join_fill_the_study_together(storage: str, tmp_path: Path) -> None:
    """Threads, each with a storage of its own: to the storage they are as many processes."""
    calls, results = tmp_path / "calls", []

    def run() -> None:
        evaluate = Formula(calls, delay_s=0.02)
        results.append(study(n_trials=14, evaluate=evaluate, storage=storage))

    at_once(run, 3)
    assert [told(r) for r in results] == [told(study(n_trials=14))] * 3  # and all wait for the last
    assert states(storage) == ["COMPLETE"] * 14
    keys = [line.split()[1] for line in calls.read_text().splitlines()]
    assert sorted(keys) == sorted({key for key, _ in told(results[0])})  # each once


# --- workers of one call


@SLOW
def test_workers_on_postgresql(new_database: Callable[[], str], tmp_path: Path) -> None:
    url = new_database()
    result = study(
        n_trials=9, storage=url, workers=2, evaluate=Formula(tmp_path / "calls", delay_s=0.02)
    )
    assert told(result) == told(study(n_trials=9))
    assert len({line.split()[0] for line in (tmp_path / "calls").read_text().splitlines()}) <= 2


def test_a_heartbeat_must_be_positive() -> None:
    for wrong in (0.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match="expected a positive heartbeat_s"):
            run_study(
                "s",
                FEW,
                Formula(),
                [Objective.parse(n) for n in NAMES],
                sampler="random",
                n_trials=1,
                heartbeat_s=wrong,
            )
