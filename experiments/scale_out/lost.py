"""What parallelism costs in hypervolume: a sampler that must propose while other proposals are still evaluated."""

from __future__ import annotations

from collections import deque
from typing import Any

import numpy as np
import optuna

from nas.searchers import make_sampler, model_samplers
from nas.storage import quiet
from surrogates.base import FloatArray
from surrogates.problem import Problem


def one_search(problem: Problem, sampler: str, running: int, trials: int, seed: int) -> list[float]:
    """Share of the best known hypervolume after every finished trial, with ``running`` trials outstanding at any time.

    The oldest is told when the next is asked for: every proposal is made without the values of the ``running - 1`` before it, which is what
    a sampler sees that shares a study with as many workers whose evaluations take equally long.

    Args:
        problem: of HW-GPT-Bench.
        sampler: of ``make_sampler``.
        running: trials at work when a sampler is asked for the last of them; 1 is one after another.
        trials: to finish.
        seed: of the sampler.
    """
    slots = problem.distributions()
    options: dict[str, Any] = {"search_space": slots} if sampler in model_samplers() else {}
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    rows: list[FloatArray] = []
    try:
        with quiet():
            study = optuna.create_study(
                directions=["minimize"] * len(problem.metrics),
                sampler=make_sampler(sampler, seed=seed, **options),
            )
            waiting: deque[optuna.Trial] = deque()
            while len(rows) < trials:
                while len(waiting) < min(running, trials - len(rows)):
                    waiting.append(study.ask(slots))
                trial = waiting.popleft()
                value_m = problem(problem.codes(trial.params))[0]
                study.tell(trial, [float(v) for v in value_m])
                rows.append(value_m)
    finally:
        optuna.logging.set_verbosity(verbosity)
    return [float(v) for v in problem.trajectory(np.stack(rows)) / problem.best_hypervolume]
