"""The plan of a small study and the states of its trials, for those who look inside a study of many processes."""

from __future__ import annotations

from typing import Any

import optuna
from small_study import FEW, NAMES, Formula

from nas.storage import open_storage
from nas.study_plan import StudyPlan


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
