"""A connection that breaks: tried again for a while, and a clean end if it stays broken."""

from __future__ import annotations

import errno
import itertools
import sqlite3
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.exceptions import StorageInternalError, UpdateFinishedTrialError
from optuna.storages import InMemoryStorage
from optuna.trial import TrialState
from small_study import study, told
from sqlalchemy.exc import OperationalError, ProgrammingError

from nas import study_plan
from nas.files import FileWriteError
from nas.journal import StudyStorageError
from nas.retried_storage import Patience, RetriedStorage, is_transient
from nas.storage import open_storage


class PsycopgError(Exception):
    """As psycopg's, with the state that the server said."""

    def __init__(self, message: str, sqlstate: str | None = None) -> None:
        super().__init__(message)
        self.sqlstate = sqlstate


def broken(message: str = "server closed the connection", state: str | None = None) -> Exception:
    return OperationalError("SELECT 1", {}, PsycopgError(message, state))


def wrapped(error: Exception) -> Exception:
    try:
        raise StorageInternalError("An exception is raised during the commit.") from error
    except StorageInternalError as found:
        return found


class GrpcError(Exception):
    """As grpc's: its code is asked for by a call."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self._name = name

    def code(self) -> Any:
        return type("Code", (), {"name": self._name})

    def details(self) -> str:
        return self._name


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (broken(), True),
        (wrapped(broken()), True),
        (broken("terminating connection", "57P01"), True),
        (broken("deadlock detected", "40P01"), True),
        (broken("sorry, too many clients already", "53300"), True),
        (broken("database was dropped", "57P04"), False),
        (broken('password authentication failed for user "x"'), False),
        (broken('database "x" does not exist'), False),
        (ProgrammingError("SELECT", {}, PsycopgError("no such column", "42703")), False),
        (OperationalError("BEGIN", {}, sqlite3.OperationalError("database is locked")), True),
        (OperationalError("BEGIN", {}, sqlite3.OperationalError("disk I/O error")), False),
        (GrpcError("UNAVAILABLE"), True),
        (GrpcError("DEADLINE_EXCEEDED"), True),
        (GrpcError("NOT_FOUND"), False),
        (FileWriteError(errno.ESTALE, "stale file handle"), True),
        (FileWriteError(errno.ENOSPC, "no space left on device"), False),
        (PermissionError(errno.EACCES, "denied"), False),
        (ValueError("wrong"), False),
        (KeyboardInterrupt(), False),
    ],
)
def test_what_waiting_may_mend(error: BaseException, expected: bool) -> None:
    assert is_transient(error) is expected


class Clock:
    """Time that passes by sleeping only."""

    def __init__(self) -> None:
        self.now, self.pauses = 0.0, []

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.pauses.append(seconds)

    def __call__(self) -> float:
        return self.now


def patience(
    seconds: float = 60.0, storage: str = "postgresql://u:s3cr3t@h/d"
) -> tuple[Patience, Clock]:
    clock = Clock()
    return Patience(storage, seconds, sleep=clock.sleep, clock=clock), clock


def test_pauses_grow_and_the_end_is_clear() -> None:
    patient, clock = patience()

    def fail() -> None:
        raise broken("could not connect with s3cr3t")

    with pytest.raises(
        StudyStorageError, match=r"to answer within 60 s, got: .*kept.*run the same"
    ):
        patient(fail)
    assert 50.0 < clock.now <= 60.0
    assert clock.pauses[0] < 0.2 < clock.pauses[-1] <= 5.0
    before = clock.now
    with pytest.raises(StudyStorageError, match="to answer within 60 s") as error:
        patient(fail)
    assert clock.now == before  # it has waited long enough
    assert "s3cr3t" not in str(error.value)


def test_what_will_not_mend_is_raised_at_once() -> None:
    patient, clock = patience()

    def fail() -> None:
        raise KeyError("no study")

    with pytest.raises(KeyError):
        patient(fail)
    assert clock.now == 0.0


class Flaky(InMemoryStorage):
    """Every few calls the connection breaks: before the call arrives, or after it had its effect."""

    def __init__(self, period: int) -> None:
        super().__init__()
        self._calls = itertools.count(1)
        self.period = period
        self.broke = 0

    def __getattribute__(self, name: str) -> Any:
        found = super().__getattribute__(name)
        if not callable(found) or not name.startswith(("set_", "create_", "get_all")):
            return found
        count, period = next(self._calls), self.period

        def call(*args: Any, **kwargs: Any) -> Any:
            if count % (2 * period) == 0:
                self.broke += 1
                raise broken()
            result = found(*args, **kwargs)
            if count % (2 * period) == period:
                self.broke += 1
                raise wrapped(broken())
            return result

        return call


@pytest.mark.parametrize("period", [3, 5, 7, 8])
@pytest.mark.parametrize("sampler", ["random", "nsga2"])
def test_a_study_over_a_bad_connection_is_the_same_study(
    sampler: str, period: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inner, expected = Flaky(period), told(study(sampler, 12))

    def open_flaky(storage: Any, patience_s: float = 0.0) -> RetriedStorage:
        return RetriedStorage(inner, patience()[0])

    monkeypatch.setattr(study_plan, "open_storage", open_flaky)
    found = study(sampler, 12, storage=tmp_path / "claims")
    assert inner.broke > 10
    assert told(found) == expected
    inner.period = 10**9
    states = [t.state.name for t in inner.get_all_trials(0)]
    assert states.count("COMPLETE") == 12
    assert "RUNNING" not in states


def test_the_end_of_a_trial_that_arrived_is_not_refused() -> None:
    inner = InMemoryStorage()
    storage = RetriedStorage(inner, patience()[0])
    trial = optuna.create_study(storage=storage).ask()
    real, calls = inner.set_trial_state_values, []

    def lost(*args: Any, **kwargs: Any) -> bool:
        calls.append(real(*args, **kwargs))
        raise broken()

    inner.set_trial_state_values = lost  # type: ignore[method-assign]
    assert storage.set_trial_state_values(trial._trial_id, TrialState.COMPLETE, [1.0])
    assert calls == [True]
    assert inner.get_trial(trial._trial_id).values == [1.0]


def test_the_end_of_a_trial_that_others_gave_up_is_refused() -> None:
    inner = InMemoryStorage()
    storage = RetriedStorage(inner, patience()[0])
    trial = optuna.create_study(storage=storage).ask()
    inner.set_trial_state_values(trial._trial_id, TrialState.FAIL)
    real, failures = inner.set_trial_state_values, [broken()]

    def once(*args: Any, **kwargs: Any) -> bool:
        if failures:
            raise failures.pop()
        return bool(real(*args, **kwargs))

    inner.set_trial_state_values = once  # type: ignore[method-assign]
    with pytest.raises(UpdateFinishedTrialError):
        storage.set_trial_state_values(trial._trial_id, TrialState.COMPLETE, [1.0])


def test_attributes_of_a_trial_in_the_making_are_those_of_the_storage(tmp_path: Path) -> None:
    for url in (tmp_path / "study.journal", f"sqlite:///{tmp_path}/study.db"):
        storage = open_storage(url)
        assert isinstance(storage, RetriedStorage)
        made = optuna.create_study(storage=storage, study_name="s")
        trial = made.ask()
        trial.storage.set_trial_system_attr(trial._trial_id, "a", {"b": (1, 2)})
        assert storage.get_trial_system_attrs(trial._trial_id) == {"a": {"b": [1, 2]}}
        assert storage.inner.get_trial_system_attrs(trial._trial_id) == {"a": {"b": [1, 2]}}
        made.tell(trial, 1.0)
        assert storage.get_trial_system_attrs(trial._trial_id) == {"a": {"b": [1, 2]}}
