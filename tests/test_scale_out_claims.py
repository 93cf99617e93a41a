"""Who may ask, who works, who is dead: claims are exclusive on every engine, and are lost for good."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import optuna
import pytest
from optuna.storages import InMemoryStorage
from optuna.trial import TrialState, create_trial

from nas import heartbeat
from nas.claims import (
    TICKETS,
    AdvisoryClaim,
    Claim,
    ClaimLostError,
    FileClaim,
    NoClaim,
    TicketClaim,
    claim_of,
    way_of,
)
from nas.heartbeat import BEAT, MISSED, OWNER, Heartbeat, Owner, Watch, working
from nas.journal import StudyStorageError
from nas.storage import open_storage
from nas.storage_url import engine_of, hide_passwords, host_and_port, scrubbed, shown, with_driver
from tests.threads import at_once

NOBODY = Owner("other", "elsewhere", 1, "0", heartbeat_s=1.0)


# --- names of storages -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("storage", "engine", "way"),
    [
        (None, "memory", "nothing"),
        ("sqlite://", "memory", "nothing"),
        ("sqlite:///:memory:", "memory", "nothing"),
        (Path("a/study.journal"), "journal", "file"),
        ("sqlite:///a/study.db", "sqlite", "file"),
        ("postgresql://u@h/d", "postgresql", "advisory lock"),
        ("postgres://u@h/d", "postgresql", "advisory lock"),
        ("postgresql+psycopg2://u@h/d", "postgresql", "advisory lock"),
        ("grpc://h:1", "grpc", "tickets"),
        ("mysql+pymysql://u@h/d", "database", "tickets"),
    ],
)
def test_a_storage_is_known_by_its_name(storage: Any, engine: str, way: str) -> None:
    assert engine_of(storage) == engine
    assert way_of(storage) == way


def test_postgresql_gets_the_driver_of_the_extra_unless_it_names_one() -> None:
    for url in ("postgresql://u:p@h/d", "postgres://u:p@h/d", "postgresql+psycopg://u:p@h/d"):
        assert with_driver(url) == "postgresql+psycopg://u:p@h/d"
    assert with_driver("postgresql+psycopg2://h/d") == "postgresql+psycopg2://h/d"
    assert with_driver("sqlite:///a.db") == "sqlite:///a.db"


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://me:s3cr3t@h:5/d",
        "postgresql://me:a@s3cr3t@h/d",
        "postgresql://:s3cr3t@h/d",
        "postgresql://h/d?user=me&password=s3cr3t&x=1",
    ],
)
def test_passwords_are_hidden(url: str) -> None:
    assert "s3cr3t" not in shown(url)
    assert "s3cr3t" not in hide_passwords(f"nas search --storage {url} --trials 3")
    assert hide_passwords("nas search --storage postgresql://me@h/d") == (
        "nas search --storage postgresql://me@h/d"
    )
    assert "p@ss" not in scrubbed("bad 'p@ss' or p%40ss", "postgresql://me:p%40ss@h/d")


@pytest.mark.parametrize(
    "url", ["grpc://h", "grpc://:1", "grpc://h:x", "grpc://h:1/a", "grpc://h:99999"]
)
def test_an_address_of_grpc_has_host_and_port(url: str) -> None:
    assert host_and_port("grpc://[::1]:7") == ("::1", 7)
    with pytest.raises(ValueError, match=r"expected grpc://host:port, got .*nas serve"):
        host_and_port(url)


# --- signs of life -----------------------------------------------------------------------------------


def running(trial_id: int, owner: Owner | None, count: int = 0) -> Any:
    attrs = {} if owner is None else {OWNER: owner.to_json(), BEAT: count}
    return SimpleNamespace(_trial_id=trial_id, user_attrs=attrs)


def test_a_counter_that_stands_still_is_a_death_and_clocks_are_not_compared() -> None:
    now = [1000.0]
    watch = Watch(clock=lambda: now[0])
    slow = replace(NOBODY, heartbeat_s=100.0)

    def abandoned(*counts: int) -> list[int]:
        trials = [running(i, NOBODY, count) for i, count in enumerate(counts)]
        return [t._trial_id for t in watch.abandoned([*trials, running(9, slow)])]

    assert abandoned(5, 5) == []  # the first look says nothing, whatever the counter
    now[0] += MISSED - 0.1
    assert abandoned(5, 6) == []
    now[0] += 0.2
    assert abandoned(5, 6) == [0]
    now[0] += MISSED
    assert abandoned(5, 7) == [0]  # the second moved, and is watched anew
    now[0] += MISSED + 0.1
    assert abandoned(5, 7) == [0, 1]
    watch.forget()
    assert abandoned(5, 7) == []


def test_a_trial_without_owner_is_abandoned_at_once() -> None:
    assert Watch().abandoned([running(0, None)])
    assert Watch().abandoned([SimpleNamespace(_trial_id=0, user_attrs={OWNER: "main"})])


def test_a_dead_process_of_this_machine_is_known_at_once() -> None:
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    owner = Owner(
        "x", heartbeat.machine(), process.pid, heartbeat._started(process.pid) or "", 15.0
    )
    assert not owner.is_known_dead()
    assert replace(owner, started="another process of this number").is_known_dead()
    assert not replace(owner, machine="elsewhere", started="").is_known_dead()
    process.kill()
    deadline = time.monotonic() + 20.0
    while not owner.is_known_dead():  # before anyone waits for it: a zombie works no more
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.communicate()
    assert owner.is_known_dead()


def test_a_loop_that_ended_in_this_process_is_dead() -> None:
    with working() as owner:
        assert not owner.is_known_dead()
        assert Owner.from_json(owner.to_json()) == owner
    assert owner.is_known_dead()
    assert Owner.from_json("main") is Owner.from_json({"token": 1}) is None


def test_a_heartbeat_moves_the_counter_until_the_block_ends() -> None:
    storage = InMemoryStorage()
    study = optuna.create_study(storage=storage)
    trial = study.ask()
    with working(0.01) as owner, Heartbeat(storage, trial._trial_id, owner):
        deadline = time.monotonic() + 20.0
        while storage.get_trial(trial._trial_id).user_attrs.get(BEAT, 0) < 3:
            assert time.monotonic() < deadline
            time.sleep(0.005)
    last = storage.get_trial(trial._trial_id).user_attrs[BEAT]
    time.sleep(0.05)
    assert storage.get_trial(trial._trial_id).user_attrs[BEAT] == last


def test_a_heartbeat_that_cannot_be_written_stops_nothing() -> None:
    storage = InMemoryStorage()
    study = optuna.create_study(storage=storage)
    trial = study.ask()
    study.tell(trial, 1.0)  # every write to it is refused from now on
    with working(0.005) as owner, Heartbeat(storage, trial._trial_id, owner):
        time.sleep(0.05)


# --- claims ------------------------------------------------------------------------------------------

Make = Callable[[Owner], Claim]


@pytest.fixture(params=["file", "tickets", "tickets in sqlite", "advisory"])
def make_claim(request: pytest.FixtureRequest, tmp_path: Path) -> Make:
    """Makes claims on one study, each as a process of its own would."""
    if request.param == "file":
        return lambda owner: FileClaim(tmp_path / "study.claim")
    if request.param == "tickets":
        storage = InMemoryStorage()
        return lambda owner: TicketClaim(storage, "s", owner)
    if request.param == "tickets in sqlite":
        shared = open_storage(f"sqlite:///{tmp_path}/study.db")
        assert shared is not None
        return lambda owner: TicketClaim(shared, "s", owner)
    url = request.getfixturevalue("new_database")()

    def advisory(owner: Owner) -> Claim:
        found = claim_of(url, "s", open_storage(url), owner)
        assert isinstance(found, AdvisoryClaim)
        return found

    return advisory


def test_one_at_a_time_holds_a_claim(make_claim: Make) -> None:
    """A counter that is read, and written a moment later: without the claim increments would be lost."""
    total, inside = [0], [0]
    most = [0]
    all_ready = threading.Barrier(4)  # opening takes longer than all claims

    def increment() -> None:
        with working(5.0) as owner:
            claim = make_claim(owner)
            all_ready.wait(60.0)
            for _ in range(4):
                with claim:
                    inside[0] += 1
                    most[0] = max(most[0], inside[0])
                    value = total[0]
                    time.sleep(0.002)
                    total[0] = value + 1
                    inside[0] -= 1

    at_once(increment, 4, 60.0)
    assert (total, most) == ([16], [1])


def test_an_exception_under_a_claim_frees_it(make_claim: Make) -> None:
    with working(5.0) as owner:
        claim = make_claim(owner)
        with pytest.raises(ZeroDivisionError), claim:
            raise ZeroDivisionError
        with claim, pytest.raises(KeyError):
            raise KeyError
        with make_claim(owner):
            pass


_HOLD = """
import sys, time
from nas.claims import claim_of
from nas.heartbeat import working
from nas.storage import open_storage
with working() as owner, claim_of(sys.argv[1], "s", open_storage(sys.argv[1]), owner):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.mark.parametrize("engine", ["journal", "sqlite", "postgresql"])
def test_a_claim_is_freed_when_its_holder_is_killed(
    engine: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    storage = str(tmp_path / "study.journal")
    if engine == "sqlite":
        storage = f"sqlite:///{tmp_path}/study.db"
    elif engine == "postgresql":
        storage = request.getfixturevalue("new_database")()
    root = str(Path(__file__).parents[1])
    process = subprocess.Popen(
        [sys.executable, "-c", _HOLD, storage],
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": root},
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"held\n"
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    with working() as owner, claim_of(storage, "s", open_storage(storage), owner):
        pass


def test_tickets_of_the_dead_are_given_up() -> None:
    storage = InMemoryStorage()
    with working(0.02) as owner:
        claim = TicketClaim(storage, "s", owner)
        with claim:
            pass
        study_id = storage.get_study_id_from_name(f"s{TICKETS}")
        here = replace(owner, token="a loop that ended")
        for left_by in (here, replace(NOBODY, heartbeat_s=0.02)):
            ticket = create_trial(state=TrialState.RUNNING, user_attrs={OWNER: left_by.to_json()})
            storage.create_new_trial(study_id, ticket)
        with claim:
            pass
        states = [t.state.name for t in storage.get_all_trials(study_id)]
    assert states == ["COMPLETE", "FAIL", "FAIL", "COMPLETE"]


def test_a_ticket_whose_answer_was_lost_delays_nobody() -> None:
    """Its owner lives and drew another; its heartbeat interval is an hour."""
    storage = InMemoryStorage()
    with working(3600.0) as owner:
        claim = TicketClaim(storage, "s", owner)
        with claim:
            pass
        study_id = storage.get_study_id_from_name(f"s{TICKETS}")
        lost = create_trial(state=TrialState.RUNNING, user_attrs={OWNER: owner.to_json()})
        storage.create_new_trial(study_id, lost)
        with claim:
            pass


def test_a_holder_that_was_given_up_learns_of_it() -> None:
    storage = InMemoryStorage()
    with working(60.0) as owner:
        claim = TicketClaim(storage, "s", owner)

        def lose() -> None:
            study_id = storage.get_study_id_from_name(f"s{TICKETS}")
            last = storage.get_all_trials(study_id)[-1]
            storage.set_trial_state_values(last._trial_id, TrialState.FAIL)

        with pytest.raises(ClaimLostError), claim:
            lose()
        with contextlib.suppress(ZeroDivisionError), claim:  # what went wrong first is said
            lose()
            raise ZeroDivisionError
        with claim:
            pass


def test_a_claim_whose_connection_broke_was_not_held(new_database: Callable[[], str]) -> None:
    import psycopg

    url = new_database()
    with working() as owner:
        claim = claim_of(url, "s", open_storage(url), owner)
        end = "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory'"
        with pytest.raises(ClaimLostError), claim, psycopg.connect(url, autocommit=True) as other:
            other.execute(end)
        with claim:
            pass


def test_a_study_in_memory_needs_no_claim() -> None:
    with working() as owner, claim_of(None, "s", None, owner) as nothing:
        assert nothing is None
        assert isinstance(claim_of("sqlite://", "s", open_storage("sqlite://"), owner), NoClaim)


def test_a_folder_that_cannot_be_locked_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StudyStorageError, match=r"expected to lock .*another storage"):
        FileClaim(tmp_path / "file" / "study.claim").__enter__()
