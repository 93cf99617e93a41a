"""ParameterSpace: Optuna distributions as points, features, neighbors and designs. NumPy only.

Notation: n points, d parameters, f features.
A point x_d holds one number per parameter: the index of a value for a *grid* parameter (categorical, or numeric with few
steps), a position in [0, 1] for any other.  Features are what a kernel sees: ordered values lie in [0, 1] by rank, unordered
values lie at distance 1 from each other (one-hot / sqrt 2, so that a product kernel on features is the kernel on 0/1 mismatch).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
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
from scipy.stats import qmc

FloatArray = npt.NDArray[np.float64]
# Numeric parameters with more values than this are treated as continuous and rounded.
_MAX_GRID = 64
# Ordered grids up to this size have every other value as neighbor, larger ones the near values.
_ALL_NEIGHBORS = 8
# Standard deviations of the moves along a continuous parameter.
_STEPS = (0.02, 0.1, 0.3)


@dataclass(frozen=True)
class Parameter:
    """One parameter of a space.

    Args:
        name: in the study.
        distribution: Optuna's.
        values: of a grid, in order; None when continuous.
        ordered: whether the values lie on a line.
        features: columns of a kernel for each value, shape (number of values, f); (0, 1) when continuous.
    """

    name: str
    distribution: BaseDistribution
    values: tuple[Any, ...] | None
    ordered: bool
    features: FloatArray

    @property
    def size(self) -> int:
        """Number of values; 0 when continuous."""
        return len(self.values) if self.values is not None else 0


def _grid_values(distribution: BaseDistribution) -> tuple[Any, ...] | None:
    if isinstance(distribution, CategoricalDistribution):
        return tuple(distribution.choices)
    if isinstance(distribution, IntDistribution):
        values = range(distribution.low, distribution.high + 1, distribution.step)
        return tuple(values) if len(values) <= _MAX_GRID else None
    if isinstance(distribution, FloatDistribution):
        if distribution.low == distribution.high:
            return (distribution.low,)
        if distribution.step is not None:
            span = distribution.high - distribution.low
            count = math.floor(span / distribution.step + 1e-8) + 1
            if count <= _MAX_GRID:
                # the last step may round to just above the bound
                low, high, step = distribution.low, distribution.high, distribution.step
                return tuple(min(low + i * step, high) for i in range(count))
        return None
    raise ValueError(
        f"expected a Categorical, Int or Float distribution, got {type(distribution).__name__}"
    )


def _parameter(name: str, distribution: BaseDistribution) -> Parameter:
    values = _grid_values(distribution)
    if values is None:
        return Parameter(name, distribution, None, True, np.zeros((0, 1)))
    numeric = all(isinstance(v, (bool, int, float)) for v in values)
    ordered = numeric and len({*values}) == len(values)
    ordered = ordered and list(values) in (sorted(values), sorted(values, reverse=True))
    if len(values) == 2 or ordered:  # two unordered values are two ends of a line
        if isinstance(distribution, IntDistribution) and distribution.log:
            ranks = np.log(np.array(values, dtype=np.float64))
            ranks = (ranks - ranks[0]) / (ranks[-1] - ranks[0] or 1.0)
        else:
            ranks = np.linspace(0.0, 1.0, len(values))
        return Parameter(name, distribution, values, True, ranks[:, None])
    return Parameter(name, distribution, values, False, np.eye(len(values)) / math.sqrt(2.0))


class ParameterSpace:
    """A static product of Optuna distributions.

    Args:
        distributions: parameter name to distribution; the order is kept.

    Raises:
        ValueError: if there is no parameter, or a distribution is of an unknown kind.
    """

    def __init__(self, distributions: Mapping[str, BaseDistribution]) -> None:
        if not distributions:
            raise ValueError("expected one parameter or more to search over, got none")
        self.distributions = dict(distributions)
        self._parameters = [_parameter(name, dist) for name, dist in self.distributions.items()]
        self._sizes = np.array([p.size for p in self._parameters])
        self._indices = [
            {value: i for i, value in enumerate(p.values)}
            if p.values is not None and len({*p.values}) == len(p.values)
            else None
            for p in self._parameters
        ]

    @property
    def parameters(self) -> tuple[Parameter, ...]:
        """The parameters, in order."""
        return tuple(self._parameters)

    @property
    def dim(self) -> int:
        """Number of parameters."""
        return len(self._parameters)

    @property
    def cardinality(self) -> int | None:
        """Number of points; None when a parameter is continuous."""
        return math.prod(int(size) for size in self._sizes) if np.all(self._sizes > 0) else None

    def list_points(self, order_n: npt.NDArray[np.int64]) -> FloatArray:
        """Points of a grid by their position in the lexicographic list of all ``cardinality`` of them."""
        return np.stack(np.unravel_index(order_n, self._sizes.tolist()), axis=1).astype(np.float64)

    def point(self, params: Mapping[str, Any]) -> FloatArray:
        """Point x_d of a value for every parameter (others are ignored)."""
        x = np.empty(self.dim)
        for i, parameter in enumerate(self._parameters):
            value = params[parameter.name]
            index = self._indices[i]
            if index is not None and value in index:
                x[i] = index[value]
            elif isinstance(parameter.distribution, CategoricalDistribution):
                x[i] = parameter.distribution.to_internal_repr(value)
            elif parameter.values is not None:
                x[i] = int(np.argmin(np.abs(np.array(parameter.values) - value)))
            else:
                x[i] = self._position(parameter.distribution, float(value))
        return x

    def params(self, x_d: FloatArray) -> dict[str, Any]:
        """Value of every parameter at a point: inverse of :meth:`point`."""
        return {
            p.name: p.values[int(x)] if p.values is not None else self._value(p.distribution, x)
            for p, x in zip(self._parameters, x_d.tolist(), strict=True)
        }

    def features(self, X_nd: FloatArray) -> FloatArray:
        """Features F_nf of n points, each in [0, 1]."""
        columns = [
            p.features[X_nd[:, i].astype(np.int64)] if p.values is not None else X_nd[:, i : i + 1]
            for i, p in enumerate(self._parameters)
        ]
        return np.concatenate(columns, axis=1)

    def at(self, U_nd: FloatArray) -> FloatArray:
        """Points of positions in the unit cube [0, 1): equal bins for the values of a grid."""
        grid = np.minimum(np.floor(U_nd * self._sizes), np.maximum(self._sizes - 1, 0))
        return self._rounded(np.where(self._sizes > 0, grid, U_nd))

    def random(self, rng: np.random.Generator, n: int) -> FloatArray:
        """n uniform points."""
        return self.at(rng.random((n, self.dim)))

    def design(self, seed: int, n: int) -> FloatArray:
        """First n points of a scrambled Sobol sequence; a longer design starts with the shorter one's points."""
        if self.dim > 21_000:  # beyond the tables of direction numbers
            return self.at(np.random.default_rng(seed).random((n, self.dim)))
        m = max(0, math.ceil(math.log2(max(n, 1))))
        return self.at(qmc.Sobol(self.dim, rng=np.random.default_rng(seed)).random_base2(m)[:n])

    def neighbors(self, x_d: FloatArray, rng: np.random.Generator) -> FloatArray:
        """Points that differ from x_d in one parameter; along a continuous one, steps drawn by ``rng``."""
        found: list[FloatArray] = []
        for i, parameter in enumerate(self._parameters):
            for value in self._moves(parameter, float(x_d[i]), rng):
                y = x_d.copy()
                y[i] = value
                found.append(y)
        return self._rounded(np.array(found)) if found else np.empty((0, self.dim))

    def offspring(self, parents_nd: FloatArray, rng: np.random.Generator, n: int) -> FloatArray:
        """n children of random parents: half of them uniform crossovers; each has one to a few parameters redrawn."""
        first = parents_nd[rng.integers(len(parents_nd), size=n)]
        second = parents_nd[rng.integers(len(parents_nd), size=n)]
        mixed = (rng.random((n, 1)) < 0.5) & (rng.random((n, self.dim)) < 0.5)
        children = np.where(mixed, second, first)
        rate = np.minimum(rng.geometric(0.4, size=(n, 1)), self.dim) / self.dim
        changed = rng.random((n, self.dim)) < rate
        children = np.where(changed, self.random(rng, n), children)
        continuous = self._sizes == 0
        if continuous.any():  # a second kind of change there: a small step
            step = rng.normal(0.0, 0.05, size=children.shape) * (rng.random(children.shape) < 0.5)
            children = np.where(continuous, np.clip(children + step, 0.0, 1.0), children)
        return self._rounded(children)

    def key(self, x_d: FloatArray) -> bytes:
        """Hashable name of a point: equal for points with equal parameter values."""
        return x_d.tobytes()

    def _moves(self, p: Parameter, x: float, rng: np.random.Generator) -> list[float]:
        if p.values is None:
            return [float(np.clip(x + rng.normal(0.0, s), 0.0, 1.0)) for s in _STEPS]
        if not p.ordered or p.size <= _ALL_NEIGHBORS:
            return [float(v) for v in range(p.size) if v != x]
        steps = {1, 2, max(3, p.size // 4)}
        near = {x + sign * step for step in steps for sign in (-1, 1)}
        return [float(v) for v in sorted(near) if 0 <= v < p.size]

    def _rounded(self, X_nd: FloatArray) -> FloatArray:
        """Positions that are exactly those of parameter values, so that equal values have equal keys."""
        for i in np.flatnonzero(self._sizes == 0):
            dist = self._parameters[i].distribution
            X_nd[:, i] = [self._position(dist, self._value(dist, x)) for x in X_nd[:, i].tolist()]
        return X_nd

    @staticmethod
    def _bounds(dist: BaseDistribution) -> tuple[float, float]:
        assert isinstance(dist, (IntDistribution, FloatDistribution))
        if dist.log:
            return math.log(dist.low), math.log(dist.high)
        return float(dist.low), float(dist.high)

    @classmethod
    def _position(cls, dist: BaseDistribution, value: float) -> float:
        assert isinstance(dist, (IntDistribution, FloatDistribution))
        low, high = cls._bounds(dist)
        position = ((math.log(value) if dist.log else value) - low) / (high - low)
        return round(min(max(position, 0.0), 1.0), 12) + 0.0  # never -0.0

    @classmethod
    def _value(cls, dist: BaseDistribution, x: float) -> float | int:
        assert isinstance(dist, (IntDistribution, FloatDistribution))
        low, high = cls._bounds(dist)
        value = low + x * (high - low)
        value = min(max(math.exp(value) if dist.log else value, dist.low), dist.high)
        if dist.step is None:
            return value
        last = math.floor((dist.high - dist.low) / dist.step + 1e-8)
        stepped = dist.low + min(round((value - dist.low) / dist.step), last) * dist.step
        stepped = min(stepped, dist.high)
        return int(stepped) if isinstance(dist, IntDistribution) else float(stepped)
