"""Optuna's database storage for processes that ask one at a time: a trial is written in few transactions.

Optuna writes every parameter in a transaction of its own, and waits for the disk after each: of a trial with 27 choices most time would go
there, while everybody else waits for their turn to ask. Here the parameters of a trial go together, with the first thing that happens to it
afterwards; and only the end of a trial (and a new study) waits for the disk, which takes all that came before it along. A process that is
killed loses the trial it was asking for, which is lost anyway; a server that loses power loses no finished trial.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from optuna.distributions import (
    BaseDistribution,
    check_distribution_compatibility,
    distribution_to_json,
)
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import RDBStorage
from optuna.storages._rdb import models
from optuna.storages._rdb.storage import _create_scoped_session
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import Connection, event, text

Parameter = tuple[str, float, BaseDistribution, BaseDistribution | None]


#: For ``options`` of a connection to PostgreSQL: commits do not wait for the disk, but where :class:`TrialwiseStorage` says so.
UNHURRIED = "-c synchronous_commit=off"


def _after_parameters(name: str) -> Callable[..., Any]:
    """A method of Optuna's that finds the parameters written."""
    theirs = getattr(RDBStorage, name)

    def method(self: TrialwiseStorage, *args: Any, **kwargs: Any) -> Any:
        self._write_parameters()
        return theirs(self, *args, **kwargs)

    method.__name__ = name
    return method


class TrialwiseStorage(RDBStorage):
    """An ``RDBStorage`` whose trials are written trial by trial.

    The parameters of a trial are those of the process that asks for it until its next call about trials, and everybody's after that.

    Args:
        url: of the database.
        engine_kwargs: of SQLAlchemy's engine.
        keeps: whether parameters go together; not in a server that others ask through: what it has answered must be in the database.
    """

    def __init__(
        self, url: str, engine_kwargs: dict[str, Any] | None = None, keeps: bool = True
    ) -> None:
        self._keeps = keeps
        self._local = threading.local()
        self._asked: dict[int, list[Parameter]] = {}
        self._writing = threading.RLock()
        super().__init__(url, engine_kwargs)
        if self.engine.name == "postgresql":
            event.listen(self.engine, "begin", self._begin)

    def __getstate__(self) -> dict[str, Any]:
        raise TypeError("expected each process to open the storage itself; pass its URL")

    def set_trial_state_values(
        self, trial_id: int, state: TrialState, values: Sequence[float] | None = None
    ) -> bool:
        """As Optuna does: on the disk when it returns."""
        self._write_parameters()
        with self._on_disk():
            return super().set_trial_state_values(trial_id, state, values)

    def set_study_user_attr(self, study_id: int, key: str, value: Any) -> None:
        """As Optuna does: on the disk when it returns, with the study."""
        with self._on_disk():
            super().set_study_user_attr(study_id, key, value)

    def _set_trial_param(
        self,
        trial_id: int,
        param_name: str,
        param_value_internal: float,
        distribution: BaseDistribution,
        previous_distribution: BaseDistribution | None,
    ) -> None:
        if (
            previous_distribution is None
        ):  # the first of this name here: Optuna looks for an earlier
            self._write_parameters()
            super()._set_trial_param(trial_id, param_name, param_value_internal, distribution, None)
            return
        check_distribution_compatibility(previous_distribution, distribution)
        with self._writing:
            parameter = (param_name, param_value_internal, distribution, previous_distribution)
            self._asked.setdefault(trial_id, []).append(parameter)

    create_new_trial = _after_parameters("create_new_trial")
    _create_new_trial: Callable[..., FrozenTrial] = _after_parameters("_create_new_trial")
    set_trial_user_attr = _after_parameters("set_trial_user_attr")
    set_trial_system_attr = _after_parameters("set_trial_system_attr")
    set_trial_intermediate_value = _after_parameters("set_trial_intermediate_value")
    get_trial_param = _after_parameters("get_trial_param")
    get_trial = _after_parameters("get_trial")
    _get_trials: Callable[..., list[FrozenTrial]] = _after_parameters("_get_trials")

    def _write_parameters(self) -> None:
        """All that were set since the last call; again with the next call, if the connection breaks."""
        with self._writing:
            for trial_id in list(self._asked):
                parameters = self._asked.pop(trial_id)
                try:
                    self._write(trial_id, parameters)
                except UpdateFinishedTrialError:  # others gave the trial up
                    raise
                except BaseException:
                    self._asked[trial_id] = parameters
                    raise

    def _write(self, trial_id: int, parameters: list[Parameter]) -> None:
        with _create_scoped_session(self.scoped_session, True) as session:
            trial = models.TrialModel.find_or_raise_by_id(trial_id, session)
            state: Any = trial.state
            self.check_trial_is_updatable(trial_id, state)
            session.add_all(
                models.TrialParamModel(
                    trial_id=trial_id,
                    param_name=name,
                    param_value=value,
                    distribution_json=distribution_to_json(distribution),
                )
                for name, value, distribution, _ in parameters
            )

    @contextmanager
    def _on_disk(self) -> Iterator[None]:
        self._local.is_on_disk = True
        try:
            yield
        finally:
            self._local.is_on_disk = False

    def _begin(self, connection: Connection) -> None:
        if getattr(self._local, "is_on_disk", False):
            connection.execute(text("SET LOCAL synchronous_commit TO ON"))
