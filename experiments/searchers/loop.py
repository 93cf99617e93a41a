"""One run: a sampler asks, the problem answers, every second and value is kept.

b evaluations, m objectives.
"""

from __future__ import annotations

import time
import warnings
from typing import Any

import numpy as np
import optuna

from experiments.searchers.judged import JudgedProblem
from experiments.searchers.methods import Method
from nas.searchers import believed_front
from nas.searchers.structured.sampler import StructuredSampler
from surrogates.base import FloatArray

_CONSTRAINT = "bound"


def run_once(problem: JudgedProblem, method: Method, seed: int, budget: int) -> dict[str, Any]:
    """Search a problem once.

    Args:
        problem: what to search.
        method: the searcher.
        seed: of the searcher; the noise of evaluation i is drawn by the seed and i.
        budget: evaluations; a searcher that says that the space is exhausted ends before.

    Returns:
        JSON values: ``share`` [b] of the best known hypervolume after each evaluation, by true values of feasible points; ``picked`` [b]
        the same of the points whose told values are non-dominated, ``believed`` [b] of those that :func:`nas.searchers.believed_front`
        picks (both with noise only); ``values`` [b, m] true values; ``feasible`` [b] (with a constraint only); ``repeats``: evaluations of
        parameters evaluated before; ``seconds`` [b] of the sampler alone, ask and tell: processor time, which is what a quiet core takes,
        whatever else runs on this machine.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    true, told = [], []
    feasible, seconds, believed = [], [], []
    judge = StructuredSampler(seed=0)  # apart from the searcher, whose seconds are counted
    seen: set[tuple[Any, ...]] = set()
    with warnings.catch_warnings():
        # experimental parts of Optuna, and surrogates at the edge of their data
        warnings.simplefilter("ignore")
        study = optuna.create_study(directions=problem.directions, sampler=method.make(seed))
        distributions = dict(problem.distributions)
        for index in range(budget):
            begin = time.process_time()
            try:
                trial = study.ask(distributions)
            except ValueError as error:
                if "exhausted" not in f"{type(error).__name__} {error}".lower():
                    raise
                break
            asked = time.process_time() - begin
            value_m = problem.evaluate(trial.params)
            told_m = value_m
            if problem.noise:
                told_m = problem.told(trial.params, _noise_seed(seed, index))
            excess = problem.constraint(trial.params) if problem.constraint else 0.0
            if problem.constraint:
                trial.set_constraint(_CONSTRAINT, excess)
            begin = time.process_time()
            study.tell(trial, told_m.tolist())
            seconds.append(asked + time.process_time() - begin)
            true.append(value_m)
            told.append(told_m)
            feasible.append(excess <= 0.0)
            seen.add(tuple(trial.params[name] for name in distributions))
            if problem.noise:
                believed.append(_believed_share(problem, study, judge, np.array(true), feasible))
    true_bm, told_bm = np.array(true), np.array(told)
    share_b, picked_b = problem.shares(told_bm, true_bm, np.array(feasible))
    found: dict[str, Any] = {
        "share": _rounded(share_b, 6),
        "seconds": [float(f"{s:.4g}") for s in seconds],
        "repeats": len(true) - len(seen),
        "values": [[float(f"{v:.7g}") for v in row] for row in true_bm.tolist()],
    }
    if problem.noise:
        found["picked"] = _rounded(picked_b, 6)
        found["believed"] = _rounded(np.array(believed), 6)
    if problem.constraint:
        found["feasible"] = [int(f) for f in feasible]
    return found


def _believed_share(
    problem: JudgedProblem,
    study: optuna.Study,
    judge: StructuredSampler,
    true_bm: FloatArray,
    feasible: list[bool],
) -> float:
    """Share of the best known hypervolume, by true values, of the front as it is believed."""
    if len(true_bm) == 1:  # too few to believe anything
        return problem.box.share(true_bm[feasible])
    picked = [believed.trial.number for believed in believed_front(study, judge)]
    return problem.box.share(true_bm[picked])


def _noise_seed(seed: int, index: int) -> int:
    return seed * 1_000_003 + index


def _rounded(values_b: FloatArray, digits: int) -> list[float]:
    return [round(float(v), digits) for v in values_b]
