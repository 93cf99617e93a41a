"""A storage whose connection may break for a while: every operation is tried again until patience ends."""

from __future__ import annotations

import contextlib
import copy
import errno
import json
import random
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

from nas.files import PathLike
from nas.journal import StudyStorageError
from nas.storage_url import scrubbed, shown

Value = TypeVar("Value")

PATIENCE_S = 300.0
_FIRST_S, _LONGEST_S = 0.1, 5.0
# Of a folder on another machine; a full disk or a missing permission does not mend itself.
_REMOTE = ("ESTALE", "ETIMEDOUT", "EHOSTDOWN", "EHOSTUNREACH", "ENOTCONN", "EREMOTEIO", "EIO")
_TRANSIENT_ERRNO = {getattr(errno, name) for name in _REMOTE if hasattr(errno, name)}
# Classes of SQLSTATE: connection, transaction rolled back, too many connections, not in this state, operator, system.
_TRANSIENT_SQLSTATE = ("08", "40", "53", "55", "57", "58")
_REFUSED = ("authentication failed", "no password supplied", "does not exist", "pg_hba.conf")
_TRANSIENT_RPC = ("UNAVAILABLE", "DEADLINE_EXCEEDED", "UNKNOWN", "INTERNAL", "ABORTED")


def causes(error: BaseException) -> Iterator[BaseException]:
    """An exception and all it came from, the outermost first."""
    seen: set[int] = set()
    stack: list[BaseException | None] = [error]
    while stack:
        current = stack.pop()
        if current is None or id(current) in seen:
            continue
        seen.add(id(current))
        yield current
        stack += [current.__context__, current.__cause__, getattr(current, "orig", None)]


def is_transient(error: BaseException) -> bool:
    """Whether waiting may help: a lost connection, a restarted server, a lock of another transaction."""
    return any(_is_transient(cause) for cause in causes(error))


def _is_transient(error: BaseException) -> bool:
    from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
    from sqlalchemy.exc import TimeoutError as PoolTimeout

    if isinstance(error, PoolTimeout):
        return True
    if isinstance(error, DBAPIError):
        text, state = str(error).lower(), getattr(error.orig, "sqlstate", None)
        if type(error.orig).__module__.startswith("sqlite3"):
            return "database is locked" in text or "database table is locked" in text
        if any(word in text for word in _REFUSED) or state in ("57P04", "57014"):
            return False  # 57P04: the database was dropped; 57014: someone cancelled the statement
        if error.connection_invalidated:
            return True
        if state is not None:
            return str(state).startswith(_TRANSIENT_SQLSTATE)
        return isinstance(error, OperationalError | InterfaceError)
    if callable(code := getattr(error, "code", None)) and hasattr(
        error, "details"
    ):  # grpc.RpcError
        return getattr(code(), "name", "") in _TRANSIENT_RPC
    return isinstance(error, OSError) and error.errno in _TRANSIENT_ERRNO


class Patience:
    """Tries again what a broken connection made fail, with growing pauses, and gives up with a clear error.

    Args:
        storage: named in the error.
        patience_s: seconds from the first failure to the last try.
        sleep: waits a number of seconds.
        clock: seconds that never run backwards.
    """

    def __init__(
        self,
        storage: PathLike | None,
        patience_s: float = PATIENCE_S,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.storage, self.patience_s = storage, patience_s
        self._tried_s = patience_s
        self.interruptions = 0  # whoever watches heartbeats must not count the silence of an outage
        self._sleep, self._clock = sleep, clock

    def __call__(self, operation: Callable[[], Value]) -> Value:
        """What the operation returns.

        Raises:
            StudyStorageError: if the connection stays broken; the next operation is then tried only once.
        """
        began, pause = None, _FIRST_S
        while True:
            try:
                return operation()
            except Exception as error:
                if not is_transient(error):
                    raise
                now = self._clock()
                began = now if began is None else began
                self.interruptions += 1
                if now + pause - began > self.patience_s:
                    if isinstance(error, StudyStorageError):  # of opening it: says all
                        raise
                    self.patience_s = 0.0
                    message = " ".join(scrubbed(str(root_of(error)), self.storage).split())
                    raise StudyStorageError(
                        f"expected {shown(self.storage)} to answer within {self._tried_s:.0f} s, got: {message}; "
                        "the finished trials are kept there: run the same command again once it can be reached"
                    ) from error
            self._sleep(pause * random.uniform(0.5, 1.0))
            pause = min(2.0 * pause, _LONGEST_S)


def root_of(error: BaseException) -> BaseException:
    """The innermost exception that says something: a library wraps it in general words."""
    return [cause for cause in causes(error) if str(cause).strip()][-1] if str(error) else error


def _passed_on(name: str) -> Any:
    def method(self: RetriedStorage, *args: Any, **kwargs: Any) -> Any:
        return self.patience(lambda: getattr(self.inner, name)(*args, **kwargs))

    method.__name__ = name
    return method


class RetriedStorage(BaseStorage):
    """An Optuna storage that outlives a broken connection.

    Nearly every operation of a storage may be made twice: attributes and parameters are the same again. A trial that was created without
    anyone hearing of it is given up, and the end of a trial is looked at: if it had arrived, the second try is refused.

    Args:
        inner: the storage.
        patience: how long.
    """

    def __init__(self, inner: BaseStorage, patience: Patience) -> None:
        self.inner, self.patience = inner, patience
        # Of running trials that were made here: samplers read them for every parameter, and nobody else writes them.
        self._system_attrs: dict[int, dict[str, Any]] = {}

    def create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> int:
        """As the storage does; a trial whose answer was lost is given up before another is made, so that it holds no index."""
        before = self.patience.interruptions

        def create() -> int:
            if self.patience.interruptions != before and template_trial is None:
                self._give_up_blank(study_id)
            return int(self.inner.create_new_trial(study_id, template_trial))

        trial_id = self.patience(create)
        self._system_attrs[trial_id] = dict(template_trial.system_attrs) if template_trial else {}
        return trial_id

    def _give_up_blank(self, study_id: int) -> None:
        """Trials that run and say nothing; whoever may be asking for one just now without the claim asks again."""
        running = self.inner.get_all_trials(study_id, deepcopy=False, states=(TrialState.RUNNING,))
        for trial in running:
            if not (trial.params or trial.user_attrs or trial.system_attrs):
                with contextlib.suppress(UpdateFinishedTrialError):
                    self.inner.set_trial_state_values(trial._trial_id, TrialState.FAIL)

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        """As the storage does."""
        self.patience(lambda: self.inner.set_trial_system_attr(trial_id, key, value))
        if trial_id in self._system_attrs:
            self._system_attrs[trial_id][key] = json.loads(json.dumps(value))

    def get_trial_system_attrs(self, trial_id: int) -> dict[str, Any]:
        """As the storage does; of a trial that was made here and runs, without asking it."""
        if trial_id in self._system_attrs:
            return copy.deepcopy(self._system_attrs[trial_id])
        return self.patience(lambda: self.inner.get_trial_system_attrs(trial_id))

    def set_trial_state_values(
        self, trial_id: int, state: TrialState, values: Sequence[float] | None = None
    ) -> bool:
        """As the storage does; True where an earlier try of this call had arrived."""
        if state.is_finished():
            self._system_attrs.pop(trial_id, None)
        before = self.patience.interruptions
        try:
            return bool(
                self.patience(lambda: self.inner.set_trial_state_values(trial_id, state, values))
            )
        except UpdateFinishedTrialError:
            if self.patience.interruptions == before:
                raise
            found = self.get_trial(trial_id)
            wanted = None if values is None else [float(v) for v in values]
            if found.state != state or found.values != wanted:
                raise
            return True

    create_new_study = _passed_on("create_new_study")
    delete_study = _passed_on("delete_study")
    set_study_user_attr = _passed_on("set_study_user_attr")
    set_study_system_attr = _passed_on("set_study_system_attr")
    get_study_id_from_name = _passed_on("get_study_id_from_name")
    get_study_name_from_id = _passed_on("get_study_name_from_id")
    get_study_directions = _passed_on("get_study_directions")
    get_study_user_attrs = _passed_on("get_study_user_attrs")
    get_study_system_attrs = _passed_on("get_study_system_attrs")
    get_all_studies = _passed_on("get_all_studies")
    set_trial_param = _passed_on("set_trial_param")
    get_trial_id_from_study_id_trial_number = _passed_on("get_trial_id_from_study_id_trial_number")
    get_trial_number_from_id = _passed_on("get_trial_number_from_id")
    get_trial_param = _passed_on("get_trial_param")
    set_trial_intermediate_value = _passed_on("set_trial_intermediate_value")
    set_trial_user_attr = _passed_on("set_trial_user_attr")
    get_trial = _passed_on("get_trial")
    get_all_trials = _passed_on("get_all_trials")
    get_n_trials = _passed_on("get_n_trials")
    get_best_trial = _passed_on("get_best_trial")
    get_trial_params = _passed_on("get_trial_params")
    get_trial_user_attrs = _passed_on("get_trial_user_attrs")
    remove_session = _passed_on("remove_session")
