"""Processes are killed, frozen or silent, and databases restarted or away: no trial is lost or counted twice."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from small_study import FEW, Formula, study, told

from experiments.scale_out.fleet import Task, fleet, join, load, read_log
from experiments.scale_out.killing import kill_and_count
from experiments.scale_out.overhead import served
from experiments.scale_out.postgres import PostgresServer, free_port, started_postgres
from nas.heartbeat import MISSED, working
from nas.journal import StudyStorageError
from nas.searchers.indexed import index_of
from nas.study_loop import Places, work
from nas.study_plan import open_study
from tests.scale_out_cases import plan, states

SLOW = pytest.mark.slow


# --- death


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


# --- connections


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
