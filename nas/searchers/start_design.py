"""Where a search with a model begins: the corners of the space, then points whose families of parameters lean to one side each.

n points, d parameters.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.stats import qmc

from nas.searchers.parameters import ParameterSpace

FloatArray = npt.NDArray[np.float64]
_TILT = 2.0


def start_design(
    space: ParameterSpace, family_d: npt.NDArray[np.int64], seed: int, n: int, block: int
) -> FloatArray:
    """The first n points to try, shape (n, d); a longer design starts with the shorter one's points.

    Args:
        space: the parameters.
        family_d: number of the family of each parameter.
        seed: of every random choice.
        n: points.
        block: points that are spread evenly together.
    """
    rng = np.random.default_rng(seed)
    blocks = [corners(space, rng)]
    while sum(map(len, blocks)) < n:
        blocks.append(family_draws(space, family_d, rng, block))
    return np.concatenate(blocks)[:n]


def family_draws(
    space: ParameterSpace, family_d: npt.NDArray[np.int64], rng: np.random.Generator, n: int
) -> FloatArray:
    """Points whose families lean to one side each, n of them, spread by a Latin hypercube over the leanings.

    Independent uniform draws of many alike parameters all have about the same sum; what a family does as a whole (twelve layers
    narrow, or all wide) is then never seen, and the ends of a front never reached.

    Args:
        space: the parameters.
        family_d: number of the family of each parameter.
        rng: source of every random choice.
        n: points.
    """
    families, members = np.unique(family_d, return_counts=True)
    lean_ng = qmc.LatinHypercube(len(families), rng=rng).random(n)
    U = rng.random((n, space.dim))
    points = np.empty((n, space.dim))
    for g, (family, size) in enumerate(zip(families, members, strict=True)):
        columns = np.flatnonzero(family_d == family)
        first = space.parameters[columns[0]]
        lean = np.clip(lean_ng[:, g], 1e-6, 1.0 - 1e-6)
        if size == 1:
            points[:, columns[0]] = lean
            continue
        tilt = _TILT * np.log(lean / (1.0 - lean))
        if first.ordered or first.size < 2:  # density proportional to exp(tilt u), by its inverse
            t = np.where(np.abs(tilt) < 1e-6, 1e-6, tilt)[:, None]
            points[:, columns] = np.log1p(U[:, columns] * np.expm1(t)) / t
            continue
        order = np.argsort(rng.random((n, first.size)), axis=1)  # leans to random values first
        weight = np.exp(-np.abs(tilt)[:, None] * np.arange(first.size) / (first.size - 1))
        edge = np.cumsum(weight / weight.sum(axis=1, keepdims=True), axis=1)
        drawn = (U[:, columns][:, :, None] > edge[:, None, :-1]).sum(axis=2)
        points[:, columns] = (np.take_along_axis(order, drawn, axis=1) + 0.5) / first.size
    return space.at(np.minimum(points, 1.0 - 1e-12))


def corners(space: ParameterSpace, rng: np.random.Generator) -> FloatArray:
    """The points with every ordered parameter at its first value, and at its last; unordered ones are drawn. Shape (2, d).

    In a space of sizes they are the smallest and the largest: the ends of the front, and the worst values of it.
    """
    points = space.random(rng, 2)
    for i, parameter in enumerate(space.parameters):
        if parameter.ordered:
            points[:, i] = 0.0, 1.0 if parameter.values is None else parameter.size - 1
    return points
