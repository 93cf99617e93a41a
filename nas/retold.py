"""A study as a sampler should see it, where what it was told is known better by now."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import optuna
    from optuna.trial import FrozenTrial

_CONSTRAINT = "constraints"  # how Optuna's names of a trial's constraints begin


@dataclass(frozen=True)
class Retold:
    """What a trial would be told now.

    Args:
        values: by objective, in the study's order.
        constraints: by name; kept to where zero or less.
    """

    values: tuple[float, ...]
    constraints: Mapping[str, float] = field(default_factory=dict)

    def of(self, trial: FrozenTrial) -> FrozenTrial:
        """A copy of a trial that was told this; the rest is shared with it."""
        changed = copy.copy(trial)
        changed.values = list(self.values)
        attributes = trial.system_attrs.items()
        changed.system_attrs = {k: v for k, v in attributes if not k.startswith(_CONSTRAINT)}
        for name, value in self.constraints.items():
            changed.set_constraint(name, value)
        return changed


class RetoldStorage:
    """A storage whose finished trials can be shown with other values; everything else is the storage's own.

    Optuna keeps what a trial was told for good. Samplers read all of it through :meth:`get_all_trials`, which alone is changed
    here: not a study's ``best_trial`` of one objective.

    Args:
        inner: the storage.
    """

    def __init__(self, inner: optuna.storages.BaseStorage) -> None:
        self.inner = inner
        self.retold: Mapping[int, Retold] = {}  # by trial number

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "inner":  # asked for before a copy has its fields
            raise AttributeError(name)
        return getattr(self.inner, name)

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Any = None
    ) -> list[FrozenTrial]:
        """As the storage does, retold."""
        trials = self.inner.get_all_trials(study_id, deepcopy=deepcopy, states=states)
        return [self.retold[t.number].of(t) if t.number in self.retold else t for t in trials]


def retold_view(study: optuna.Study) -> tuple[optuna.Study, RetoldStorage]:
    """The same study through a :class:`RetoldStorage`; what is asked of it is asked of the study."""
    view = copy.copy(study)
    storage = RetoldStorage(study._storage)
    view._storage = storage  # type: ignore[assignment]  # of the storage's kind but by name
    return view, storage
