"""One study, many processes: they join and leave, are killed and cut off, and no trial is lost, counted twice, or made by two at once."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest
from small_study import FEW, NAMES, Formula, study, told

from experiments.scale_out.fleet import Task, fleet, join, load, read_log
from experiments.scale_out.killing import kill_and_count
from experiments.scale_out.overhead import served
from experiments.scale_out.postgres import PostgresServer, free_port, started_postgres
from nas.claims import ClaimLostError, NoClaim
from nas.heartbeat import MISSED, working
from nas.journal import StudyStorageError
from nas.objectives import Objective
from nas.searchers.indexed import index_of
from nas.storage import open_storage
from nas.study import run_study
from nas.study_loop import Places, work
from nas.study_plan import StudyPlan, open_study
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


def plan(storage: Any, n_trials: int = 8, **changed: Any) -> StudyPlan:
    """Of ``small_study.study``, for those who look inside."""
    fields: dict[str, Any] = {
        "name": "small",
        "storage": storage,
        "identity": {"test": 1},
        "space": FEW,
        "evaluate": Formula(),
        "names": NAMES,
        "constraints": {},
        "sampler": {"name": "random", "seed": 0},
        "n_trials": n_trials,
        "heartbeat_s": 0.05,
    }
    return StudyPlan(**fields | changed)


def states(storage: str, name: str = "small") -> list[str]:
    opened = optuna.load_study(study_name=name, storage=open_storage(storage))
    return [t.state.name for t in opened.get_trials(deepcopy=False)]


# --- every engine keeps the same study ---------------------------------------------------------------


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


# --- death -------------------------------------------------------------------------------------------


def task(storage: str, tmp_path: Path, **changed: Any) -> Task:
    made = Task(storage, 40, tmp_path / "log", delay_s=0.1, heartbeat_s=0.3, machine="m")
    return replace(made, **changed)


@SLOW
@pytest.mark.parametrize("engine", ["journal", "postgresql", "grpc"])
def test_kill_9_at_random_moments(
    engine: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Each process is on a machine of its own as far as the others can tell: only heartbeats tell of its death."""
    with contextlib.ExitStack() as stack:
        storage = str(tmp_path / "study.journal")
        if engine == "postgresql":
            storage = request.getfixturevalue("new_database")()
        elif engine == "grpc":
            pytest.importorskip("grpc", reason="needs the extra grpc")
            storage = stack.enter_context(served(f"sqlite:///{tmp_path}/served.db"))
        found = kill_and_count(task(storage, tmp_path), workers=4, kills=6, seed=1, timeout_s=300.0)
    assert found["faults"] == []
    assert found["trials"] == 40
    assert found["kills"] == 6


@SLOW
def test_a_process_that_was_frozen_leaves_its_trial_to_others(tmp_path: Path) -> None:
    """Stopped for longer than its heartbeats allow, it goes on as if nothing had been: what it brings is not counted."""
    mine = task(str(tmp_path / "study.journal"), tmp_path, trials=6, delay_s=0.5, heartbeat_s=0.1)
    with fleet(mine) as running:
        running.start(1)
        running.go()
        while not read_log(mine.log):
            time.sleep(0.005)
        frozen = running.processes[0]
        os.kill(frozen.pid, signal.SIGSTOP)
        running.start(1)
        while len([s for s in _all_states(mine) if s == "COMPLETE"]) < 6:
            time.sleep(0.05)
        os.kill(frozen.pid, signal.SIGCONT)
        running.wait(60.0)
    assert sorted(_all_states(mine)) == ["COMPLETE"] * 6 + ["FAIL"]
    lines = [line for line in read_log(mine.log) if line["what"] == "end"]
    assert len(lines) == 7  # of which one came too late
    assert (
        join(replace(mine, machine=None)).evaluations
        == join(replace(mine, storage=None, machine=None, delay_s=0.0)).evaluations
    )


def _all_states(mine: Task) -> list[str]:
    with contextlib.suppress(KeyError):
        return [t.state.name for t in load(mine).get_trials(deepcopy=False)]
    return []


def test_a_trial_of_a_silent_machine_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "study.journal"
    with monkeypatch.context() as patched, working(0.05) as owner:
        patched.setattr("nas.heartbeat.machine", lambda: "elsewhere")
        far = replace(owner, machine="elsewhere")
        study_there = open_study(plan(path), far)
        left = Places(study_there, plan(path), far).take()
        assert left is not None
    began = time.monotonic()
    with working(0.05) as owner:
        opened = open_study(plan(path), owner)
        for _ in work(opened, plan(path), owner):
            pass
    assert time.monotonic() - began > MISSED * 0.05
    trials = opened.trials
    assert [t.state.name for t in trials] == ["FAIL"] + ["COMPLETE"] * 8
    assert (
        index_of(trials[0]) == index_of(trials[8]) == 0
    )  # the last place was the one that had to be waited for
    assert trials[8].params == trials[0].params


def test_an_evaluation_that_was_stored_is_not_made_again(tmp_path: Path) -> None:
    """Killed between storing its evaluation and ending its trial."""
    path, calls = tmp_path / "study.journal", tmp_path / "calls"
    mine = plan(path, 4, evaluate=Formula(calls))
    with working() as owner:
        opened = open_study(mine, owner)
        trial = Places(opened, mine, owner).take()
        assert trial is not None
        architecture = FEW.from_params(trial.params)
        trial.set_user_attr("evaluation", Formula()(architecture).to_json())
    with working() as owner:
        for _ in work(open_study(mine, owner), mine, owner):
            pass
    assert architecture.key not in calls.read_text()
    assert sorted(states(str(path))) == ["COMPLETE"] * 4 + ["FAIL"]


# --- one at a time -----------------------------------------------------------------------------------


def test_an_architecture_is_not_evaluated_by_two_at_once(tmp_path: Path) -> None:
    """Twelve architectures, forty trials, four at a time: proposals repeat all the while."""
    calls: list[tuple[str, float, float]] = []

    def evaluate(architecture: Any) -> Any:
        began = time.monotonic()
        time.sleep(0.03)
        calls.append((architecture.key, began, time.monotonic()))
        return Formula()(architecture)

    at_once(lambda: study("tpe", 40, space=FEW, evaluate=evaluate, storage=tmp_path / "j"), 4)
    keys = [key for key, _, _ in calls]
    assert len(keys) == len({*keys})  # not at once, and not one after another


def test_a_repeated_proposal_waits_for_the_first(tmp_path: Path) -> None:
    mine = plan(tmp_path / "j", 3)
    with working() as first, working() as second:
        one = Places(open_study(mine, first), mine, first)
        two = Places(open_study(mine, second), mine, second)
        trial, twin = one.take(), two.take()
        assert trial is not None
        assert twin is not None
        key = FEW.from_params(trial.params).key
        two._rivals = {trial.number}
        found: list[Any] = []
        thread = threading.Thread(target=lambda: found.append(two.known(key)))
        thread.start()
        time.sleep(0.2)
        assert not found
        stored = Formula()(FEW.from_params(trial.params)).to_json()
        trial.set_user_attr("evaluation", stored)
        one.study.tell(trial, [1.0, 1.0])
        thread.join(30.0)
        assert found == [stored]
        third = two.take()
        assert third is not None
        two._rivals = {twin.number}
        two.give_back(twin)
        assert two.known("of nobody") is None  # the first failed: ours to evaluate


def test_a_lost_claim_gives_the_trial_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Lost(NoClaim):
        times = 2

        def __exit__(self, *error: object) -> None:
            if Lost.times:
                Lost.times -= 1
                raise ClaimLostError

    monkeypatch.setattr(StudyPlan, "claim", lambda *_: Lost())
    mine = plan(None, 3)
    with working() as owner:
        opened = open_study(mine, owner)
        for _ in work(opened, mine, owner):
            pass
    assert [t.state.name for t in opened.trials] == ["FAIL"] * 2 + ["COMPLETE"] * 3
    assert [index_of(t) for t in opened.trials] == [0, 0, 0, 1, 2]
    assert opened.trials[0].params == opened.trials[1].params == opened.trials[2].params


def test_no_more_trials_than_asked_for_run_at_once(tmp_path: Path) -> None:
    mine = plan(tmp_path / "j", 3)
    with contextlib.ExitStack() as stack:
        places = []
        for _ in range(4):
            owner = stack.enter_context(working(60.0))
            places.append(Places(open_study(mine, owner), mine, owner))
        taken = [p.take() for p in places[:3]]
        last: list[Any] = []
        thread = threading.Thread(target=lambda: last.append(places[3].take()))
        thread.start()
        time.sleep(0.3)
        assert not last  # it waits
        assert taken[0] is not None
        places[0].give_back(taken[0])
        thread.join(30.0)
        assert last[0].params == taken[0].params
        for place, trial in zip(places[1:], [taken[1], taken[2], last[0]], strict=True):
            place.study.tell(trial, [1.0, 1.0])
        assert places[0].take() is None


# --- connections -------------------------------------------------------------------------------------


@SLOW
def test_a_database_that_is_restarted_loses_nothing(tmp_path: Path) -> None:
    pytest.importorskip("psycopg", reason="needs the extra postgres")
    try:
        context = started_postgres()
        server: PostgresServer = context.__enter__()
    except ValueError as error:
        pytest.skip(f"needs a PostgreSQL server: {error}")
    with contextlib.ExitStack() as stack:
        stack.push(context)
        url, log = server.create("restarted"), tmp_path / "calls"
        evaluate, found = Formula(log, delay_s=0.05), []

        def run() -> None:
            found.append(study(n_trials=30, storage=url, evaluate=evaluate))

        thread = threading.Thread(target=run)
        thread.start()
        for lines in (5, 15):
            _wait(lambda lines=lines: log.exists() and len(log.read_text().splitlines()) >= lines)  # type: ignore[misc]
            server.stop()
            time.sleep(0.5)
            server.start()
        thread.join(120.0)
        assert told(found[0]) == told(study(n_trials=30))
        kept = states(url)
        assert kept.count("COMPLETE") == 30
        assert {*kept} <= {"COMPLETE", "FAIL"}


def test_a_database_that_stays_away_is_a_clean_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("psycopg", reason="needs the extra postgres")
    monkeypatch.setattr("nas.retried_storage.PATIENCE_S", 0.5)
    monkeypatch.setattr(
        "nas.retried_storage.Patience.__init__.__defaults__", (0.5, time.sleep, time.monotonic)
    )
    try:
        context = started_postgres()
        server: PostgresServer = context.__enter__()
    except ValueError as error:
        pytest.skip(f"needs a PostgreSQL server: {error}")
    with contextlib.ExitStack() as stack:
        stack.push(context)
        url, count = server.create("away"), []

        def evaluate(architecture: Any) -> Any:
            count.append(1)
            if len(count) == 4:
                server.stop()
            return Formula()(architecture)

        with pytest.raises(StudyStorageError, match=r"to answer within .*kept there") as error:
            study(n_trials=8, storage=url, evaluate=evaluate)
        assert server.password not in str(error.value)
        server.start()
        assert states(url).count("COMPLETE") == 3
        assert told(study(n_trials=8, storage=url)) == told(study(n_trials=8))


@SLOW
def test_a_grpc_server_that_is_restarted_loses_nothing(tmp_path: Path) -> None:
    pytest.importorskip("grpc", reason="needs the extra grpc")
    port, log = free_port(), tmp_path / "calls"
    behind = str(tmp_path / "served.journal")
    found: list[Any] = []
    evaluate = Formula(log, delay_s=0.05)
    with served(behind, port) as address:
        thread = threading.Thread(
            target=lambda: found.append(study(n_trials=20, storage=address, evaluate=evaluate))
        )
        thread.start()
        _wait(lambda: log.exists() and len(log.read_text().splitlines()) >= 5)
    time.sleep(0.3)
    with served(behind, port):
        thread.join(120.0)
        assert told(found[0]) == told(study(n_trials=20))
        assert states(address).count("COMPLETE") == 20


def _wait(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60.0
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


# --- workers of one call -----------------------------------------------------------------------------


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
