"""Best known fronts of large spaces, searched once and kept: what shares are shares of.

n points, d choices, m objectives.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np

from experiments.searchers.judged import Box
from nas.files import write_json_atomic
from nas.pareto import non_dominated_mask
from surrogates.additive.encoding import Encoded, IntArray
from surrogates.base import BoolArray, FloatArray
from surrogates.problem import Problem

SAMPLE = 20_000  # random architectures that say what is usual
_CHILDREN = 20_000  # of a round of refinement
_ROUNDS = (10, 200)  # at least, at most
_GAIN = 1e-5  # of the hypervolume in ten rounds; less ends the refinement
_MOST = 3000  # points that stand for the front


def searched_box(
    problem: Problem,
    folder: Path,
    version: str,
    feasible: Callable[[Encoded], BoolArray] | None = None,
) -> Box:
    """Box and best known front of a problem, read from ``folder`` or searched (seconds to two minutes).

    The front is that of :class:`surrogates.problem.Problem`, refined until ten rounds of 20 000 children add nothing.

    Args:
        problem: the objectives of choice vectors.
        folder: where boxes are kept, a file for each version.
        version: digest of everything that the values depend on.
        feasible: encoded architectures to a mask; the front is then that of the feasible ones, in the box of all.
    """
    path = folder / f"{version}.json"
    if path.exists():
        kept = json.loads(path.read_text())
        return Box(
            np.array(kept["ideal"]), np.array(kept["ref_point"]), kept["best"], kept["source"]
        )
    ideal_m, ref_point_m = problem.ideal_m, problem.ref_point_m
    best = _refined(problem if feasible is None else _penalized(problem, feasible), ref_point_m)
    box = Box(ideal_m, ref_point_m, problem.hypervolume(best), "search: a lower bound")
    write_json_atomic(
        path,
        {
            "problem": problem.name,
            "ideal": ideal_m.tolist(),
            "ref_point": ref_point_m.tolist(),
            "best": box.best,
            "source": box.source,
        },
    )
    return box


def _refined(problem: Problem, ref_point_m: FloatArray) -> FloatArray:
    """Values of the front after rounds of crossover and mutation of its points, shape (f, m)."""
    rng = np.random.default_rng(0)
    best, values = problem.front
    before = problem.hypervolume(values)
    for done in range(1, _ROUNDS[1] + 1):
        first, second = (best[rng.integers(len(best), size=_CHILDREN)] for _ in range(2))
        mixed = (rng.random((_CHILDREN, 1)) < 0.5) & (rng.random(first.shape) < 0.5)
        rate = rng.geometric(0.4, size=(_CHILDREN, 1)) / first.shape[1]
        drawn = problem.choices.sample(_CHILDREN, rng)
        children = np.where(rng.random(first.shape) < rate, drawn, np.where(mixed, second, first))
        best, values = _kept(
            np.concatenate([best, children]), np.concatenate([values, problem(children)])
        )
        if done % _ROUNDS[0] == 0:
            volume = problem.hypervolume(values)
            if volume <= before * (1.0 + _GAIN):
                break
            before = volume
    inside: FloatArray = values[np.all(values <= ref_point_m, axis=1)]
    return inside


def _kept(codes: IntArray, values: FloatArray) -> tuple[IntArray, FloatArray]:
    """What none dominates, equal values once; of too many, one for each box of a grid, and the best of each objective."""
    _, first = np.unique(values, axis=0, return_index=True)
    codes, values = codes[first], values[first]
    alone = non_dominated_mask(values)
    codes, values = codes[alone], values[alone]
    boxes = _MOST
    scaled = (values - values.min(axis=0)) / np.maximum(np.ptp(values, axis=0), 1e-300)
    rows = np.arange(len(values))
    while len(rows) > _MOST:
        _, rows = np.unique(np.floor(scaled * boxes).astype(np.int64), axis=0, return_index=True)
        rows = np.union1d(rows, values.argmin(axis=0))
        boxes = int(boxes / 1.3)
    return codes[rows], values[rows]


def _penalized(problem: Problem, feasible: Callable[[Encoded], BoolArray]) -> Problem:
    """The problem with infeasible points beyond its reference point, so that its front is one of feasible points."""
    ref_point_m = problem.ref_point_m
    width_m = ref_point_m - problem.ideal_m

    def function(encoded: Encoded) -> FloatArray:
        values_nm = problem.function(encoded)
        beyond = np.where(feasible(encoded)[:, None], 0.0, 1.0)
        # still ordered among themselves, which leads a search out of them
        return np.asarray(values_nm + beyond * 2.0 * width_m, dtype=np.float64)

    return Problem(f"{problem.name}, feasible", problem.metrics, problem.choices, function)
