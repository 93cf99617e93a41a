"""Test functions whose best front is known exactly: DTLZ2, Branin-Currin, and a discrete ZDT with interactions.

Sources: DTLZ2: Deb, Thiele, Laumanns, Zitzler (2005), "Scalable test problems for evolutionary multiobjective optimization"; ZDT: Zitzler,
Deb, Thiele (2000), Evolutionary Computation 8(2); Branin-Currin and the reference points as BoTorch has them
(``botorch.test_functions.multi_objective``), which the tests compare with.

x_d is a point of the unit cube, m objectives, all minimized.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from experiments.searchers.judged import Box
from nas.pareto import normalized_hypervolume
from surrogates.base import FloatArray

_LETTERS = "abcdefgh"
_FINE = 20_001  # steps of a continuous parameter where a front is enumerated


@dataclass(frozen=True, eq=False)
class TestFunction:
    """A function of Optuna parameters and its exact best front.

    Args:
        distributions: of the parameters.
        evaluate: parameters to values, shape (m,).
        box: reference point, ideal and best hypervolume.
        objectives: names of the columns.
    """

    __test__ = False  # no class of pytest's

    distributions: Mapping[str, BaseDistribution]
    evaluate: Callable[[Mapping[str, Any]], FloatArray]
    box: Box
    objectives: tuple[str, ...]


def dtlz2(x_nd: npt.ArrayLike, num_objectives: int) -> FloatArray:
    """DTLZ2 of points of the unit cube, shape (n, m): a sphere's positive orthant, of radius 1 where the last d - m + 1 are one half."""
    x = np.asarray(x_nd, dtype=np.float64)
    m = num_objectives
    g_n = ((x[:, m - 1 :] - 0.5) ** 2).sum(axis=1)
    angle = x[:, : m - 1] * math.pi / 2
    columns = []
    for i in range(m):
        value_n = (1.0 + g_n) * np.cos(angle[:, : m - 1 - i]).prod(axis=1)
        columns.append(value_n * np.sin(angle[:, m - 1 - i]) if i else value_n)
    return np.column_stack(columns)


def branin_currin(x_n2: npt.ArrayLike) -> FloatArray:
    """Branin (rescaled to the unit square) and Currin's exponential function, shape (n, 2)."""
    x = np.asarray(x_n2, dtype=np.float64)
    u_n, v_n = 15.0 * x[:, 0] - 5.0, 15.0 * x[:, 1]
    curve_n = v_n - 5.1 / (4 * math.pi**2) * u_n**2 + 5.0 / math.pi * u_n - 6.0
    branin_n = curve_n**2 + 10.0 * (1.0 - 1.0 / (8 * math.pi)) * np.cos(u_n) + 10.0
    a_n, b_n = x[:, 0], x[:, 1]
    with np.errstate(divide="ignore"):
        factor_n = 1.0 - np.exp(-1.0 / (2.0 * b_n))
    currin_n = (
        factor_n
        * (2300 * a_n**3 + 1900 * a_n**2 + 2092 * a_n + 60)
        / (100 * a_n**3 + 500 * a_n**2 + 4 * a_n + 20)
    )
    return np.column_stack([branin_n, currin_n])


# --- parameters ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Axis:
    """One coordinate of the unit cube as a parameter."""

    distribution: BaseDistribution
    position: Callable[[Any], float]


def _steps(count: int) -> _Axis:
    """Whole numbers 0 to count - 1, evenly spaced from 0 to 1."""
    return _Axis(IntDistribution(0, count - 1), lambda v: float(v) / (count - 1))


def _real() -> _Axis:
    return _Axis(FloatDistribution(0.0, 1.0), float)


def _letters(count: int, shift: int) -> _Axis:
    """Letters without an order: the same even steps, dealt out by a permutation that multiplies by 2 (count is odd)."""
    place = {_LETTERS[i]: ((2 * i + shift) % count) / (count - 1) for i in range(count)}
    return _Axis(CategoricalDistribution(tuple(place)), lambda v: place[v])


def _cube(
    axes: list[_Axis], function: Callable[[FloatArray], FloatArray]
) -> tuple[dict[str, BaseDistribution], Callable[[Mapping[str, Any]], FloatArray]]:
    names = [f"x{i}" for i in range(len(axes))]

    def evaluate(params: Mapping[str, Any]) -> FloatArray:
        x = [axis.position(params[name]) for name, axis in zip(names, axes, strict=True)]
        found: FloatArray = function(np.array([x]))[0]
        return found

    return {n: a.distribution for n, a in zip(names, axes, strict=True)}, evaluate


def _box(front_nm: FloatArray, ref_point: tuple[float, ...], source: str) -> Box:
    ref, ideal = np.array(ref_point), np.zeros(len(ref_point))
    best = float(normalized_hypervolume(front_nm, ideal, ref))
    return Box(ideal, ref, best, source)


# --- the problems --------------------------------------------------------------------------------


def dtlz2_steps(num_objectives: int, dim: int = 6, steps: int = 9) -> TestFunction:
    """DTLZ2 on whole numbers: ``steps`` values of each distance (one is the optimum), 33 (m = 2) or 17 of each angle.

    The front is that of the angles with every distance at its optimum: a point with the same angles and a greater radius is dominated.
    """
    m = num_objectives
    if steps % 2 == 0 or dim < m:
        raise ValueError(
            f"expected an odd number of steps, so that 0.5 is one of them, and {m} dimensions or more, got {steps} and {dim}"
        )
    angles = 33 if m == 2 else 17
    axes = [_steps(angles) for _ in range(m - 1)] + [_steps(steps) for _ in range(dim - m + 1)]
    distributions, evaluate = _cube(axes, lambda x: dtlz2(x, m))
    grid = np.meshgrid(*[np.linspace(0, 1, angles)] * (m - 1), indexing="ij")
    x = np.column_stack([g.reshape(-1) for g in grid])
    x = np.hstack([x, np.full((len(x), dim - m + 1), 0.5)])
    box = _box(dtlz2(x, m), (1.1,) * m, "enumeration")
    return TestFunction(distributions, evaluate, box, tuple(f"f{i + 1}" for i in range(m)))


def dtlz2_mixed() -> TestFunction:
    """DTLZ2 with two objectives and eight parameters of every kind: a real angle; distances that are real, whole and unordered letters.

    The front is the quarter circle; its hypervolume is 1.1^2 - pi / 4.
    """
    axes = [_real(), _real(), _real(), _steps(9), _steps(9), _letters(5, 0), _letters(5, 3)]
    axes.append(_letters(7, 1))
    distributions, evaluate = _cube(axes, lambda x: dtlz2(x, 2))
    box = Box(np.zeros(2), np.full(2, 1.1), (1.1**2 - math.pi / 4) / 1.1**2, "closed form")
    return TestFunction(distributions, evaluate, box, ("f1", "f2"))


def branin_currin_steps(steps: int = 33, mixed: bool = False) -> TestFunction:
    """Branin-Currin on ``steps`` x ``steps`` whole numbers; mixed: the first parameter real. Reference point (18, 6)."""
    first = _real() if mixed else _steps(steps)
    distributions, evaluate = _cube([first, _steps(steps)], branin_currin)
    a = np.linspace(0, 1, _FINE if mixed else steps)
    grid = np.stack(np.meshgrid(a, np.linspace(0, 1, steps), indexing="ij"), axis=-1)
    values = branin_currin(grid.reshape(-1, 2))
    source = f"enumeration in {_FINE} steps" if mixed else "enumeration"
    return TestFunction(distributions, evaluate, _box(values, (18.0, 6.0), source), ("f1", "f2"))


def zdt_pairs(
    num_position: int = 4, num_pairs: int = 8, levels: int = 5, seed: int = 0
) -> TestFunction:
    """ZDT1's trade-off over unordered letters that matter in pairs only: an additive model sees next to nothing of the distance.

    f1 is the mean of ``num_position`` whole numbers in 0..4 (as shares); ``g = 1 + 4 x mean cost`` of ``num_pairs`` pairs of letters;
    ``f2 = g (1 - sqrt(f1 / g))``. A pair's cost is the number of steps between its two letters in a secret circular order, so that every
    letter alone costs the same on average (a Latin square): 0 for one partner of each letter. The front has g = 1: f2 grows with g.
    """
    rng = np.random.default_rng(seed)
    order = [(rng.permutation(levels), rng.permutation(levels)) for _ in range(num_pairs)]
    letters = tuple(_LETTERS[:levels])
    distributions: dict[str, BaseDistribution] = {
        f"position{i}": IntDistribution(0, levels - 1) for i in range(num_position)
    }
    for i in range(num_pairs):
        distributions |= {
            f"left{i}": CategoricalDistribution(letters),
            f"right{i}": CategoricalDistribution(letters),
        }
    top = num_position * (levels - 1)

    def evaluate(params: Mapping[str, Any]) -> FloatArray:
        f1 = sum(int(params[f"position{i}"]) for i in range(num_position)) / top
        cost = 0.0
        for i, (left, right) in enumerate(order):
            a = left[letters.index(params[f"left{i}"])]
            b = right[letters.index(params[f"right{i}"])]
            steps = int(a - b) % levels
            cost += min(steps, levels - steps) / (levels // 2)
        g = 1.0 + 4.0 * cost / num_pairs
        return np.array([f1, g * (1.0 - math.sqrt(f1 / g))])

    f1_n = np.arange(top + 1) / top
    front = np.column_stack([f1_n, 1.0 - np.sqrt(f1_n)])
    box = _box(front, (1.1, 3.5), "closed form")  # a random point has g = 3.4 or so
    return TestFunction(distributions, evaluate, box, ("f1", "f2"))
