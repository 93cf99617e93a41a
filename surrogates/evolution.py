"""Vectorized baselines of multi-objective search: random, local search, regularized evolution and NSGA-II on choice vectors.

They ask for whole generations and evaluate them at once, so that two thousand evaluations of a benchmark cost a tenth of a second; a
real search uses the Optuna samplers of ``nas.searchers``.

n asked points, d choices, m objectives.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np

from surrogates.additive.encoding import IntArray
from surrogates.base import FloatArray
from surrogates.dominance import non_dominated_mask, non_dominated_rank


class Searcher(Protocol):
    """Proposes choice vectors and is told their values, all minimized."""

    def ask(self) -> IntArray:
        """The next choice vectors, shape (n, d), n of its own choosing."""
        ...

    def tell(self, codes_nd: IntArray, values_nm: FloatArray) -> None:
        """What they turned out to be."""
        ...


def crowding_distance(values_nm: FloatArray) -> FloatArray:
    """How far a point's neighbors on its front are apart, summed over objectives; infinite at the ends (Deb et al. 2002)."""
    n, m = values_nm.shape
    total_n = np.zeros(n)
    for j in range(m):
        order = np.argsort(values_nm[:, j], kind="stable")
        sorted_n = values_nm[order, j]
        spread = float(sorted_n[-1] - sorted_n[0]) or 1.0
        gap_n = np.full(n, np.inf)
        gap_n[1:-1] = (sorted_n[2:] - sorted_n[:-2]) / spread
        total_n[order] += gap_n
    return total_n


def _best(values_nm: FloatArray, num: int) -> IntArray:
    """Rows of the best by front, then by crowding distance."""
    ranks = non_dominated_rank(values_nm)
    distance_n = np.zeros(len(values_nm))
    for front in np.unique(ranks):
        rows = np.flatnonzero(ranks == front)
        distance_n[rows] = crowding_distance(values_nm[rows])
    return np.lexsort((-distance_n, ranks))[:num]


def _mutated(
    codes_nd: IntArray, sizes_d: IntArray, rate: float, rng: np.random.Generator
) -> IntArray:
    """Each choice drawn anew with a probability."""
    drawn = rng.integers(0, sizes_d, size=codes_nd.shape)
    return np.where(rng.random(codes_nd.shape) < rate, drawn, codes_nd)


class RandomSearch:
    """Uniform and independent draws of every choice."""

    def __init__(self, sizes_d: IntArray, seed: int, batch: int = 50) -> None:
        self.sizes_d, self.batch = sizes_d, batch
        self.rng = np.random.default_rng(seed)

    def ask(self) -> IntArray:
        """Draw a batch."""
        return self.rng.integers(0, self.sizes_d, size=(self.batch, len(self.sizes_d)))

    def tell(self, codes_nd: IntArray, values_nm: FloatArray) -> None:
        """Nothing is learned."""


class NSGA2:
    """NSGA-II (Deb et al. 2002): binary tournaments, uniform crossover, mutation of one choice on average."""

    def __init__(self, sizes_d: IntArray, seed: int, population: int = 50) -> None:
        self.sizes_d, self.population = sizes_d, population
        self.rng = np.random.default_rng(seed)
        self.codes: IntArray | None = None
        self.values: FloatArray | None = None

    def ask(self) -> IntArray:
        """A generation of children, or the first population."""
        shape = (self.population, len(self.sizes_d))
        if self.codes is None or self.values is None:
            return self.rng.integers(0, self.sizes_d, size=shape)
        order = np.empty(len(self.codes), dtype=np.int64)
        order[_best(self.values, len(self.codes))] = np.arange(len(self.codes))
        drawn = self.rng.integers(0, len(self.codes), size=(2, 2, self.population))
        mother, father = np.where(order[drawn[:, 0]] < order[drawn[:, 1]], drawn[:, 0], drawn[:, 1])
        takes = self.rng.random(shape) < 0.5
        children = np.where(takes, self.codes[mother], self.codes[father])
        return _mutated(children, self.sizes_d, 1.0 / shape[1], self.rng)

    def tell(self, codes_nd: IntArray, values_nm: FloatArray) -> None:
        """Parents and children compete for the next population."""
        if self.codes is not None and self.values is not None:
            codes_nd = np.concatenate([self.codes, codes_nd])
            values_nm = np.concatenate([self.values, values_nm])
        kept = _best(values_nm, self.population)
        self.codes, self.values = codes_nd[kept], values_nm[kept]


class RegularizedEvolution:
    """Multi-objective regularized evolution: the oldest die, the best of a random sample has a child (Real et al. 2019; MO-REA)."""

    def __init__(
        self,
        sizes_d: IntArray,
        seed: int,
        population: int = 100,
        tournament: int = 10,
        batch: int = 10,
    ) -> None:
        self.sizes_d, self.population = sizes_d, population
        self.tournament, self.batch = tournament, batch
        self.rng = np.random.default_rng(seed)
        self.codes = np.zeros((0, len(sizes_d)), dtype=np.int64)
        self.values: FloatArray = np.zeros((0, 0))

    def ask(self) -> IntArray:
        """Children with one changed choice of the winners of tournaments."""
        shape = (self.batch, len(self.sizes_d))
        if len(self.codes) < self.population:
            return self.rng.integers(0, self.sizes_d, size=shape)
        drawn = self.rng.integers(0, len(self.codes), size=(self.batch, self.tournament))
        children = np.stack([self.codes[rows[_best(self.values[rows], 1)[0]]] for rows in drawn])
        place = self.rng.integers(0, shape[1], size=self.batch)
        step = self.rng.integers(1, np.maximum(self.sizes_d[place], 2))
        children[np.arange(self.batch), place] += step
        return children % self.sizes_d

    def tell(self, codes_nd: IntArray, values_nm: FloatArray) -> None:
        """The newest stay."""
        values = self.values.reshape(-1, values_nm.shape[1])
        self.codes = np.concatenate([self.codes, codes_nd])[-self.population :]
        self.values = np.concatenate([values, values_nm])[-self.population :]


class LocalSearch:
    """Pareto local search: neighbors (one choice changed) of archived points that none dominates (Paquete et al. 2004)."""

    def __init__(self, sizes_d: IntArray, seed: int, start: int = 10, batch: int = 10) -> None:
        self.sizes_d, self.start, self.batch = sizes_d, start, batch
        self.rng = np.random.default_rng(seed)
        self.codes = np.zeros((0, len(sizes_d)), dtype=np.int64)
        self.values: FloatArray = np.zeros((0, 0))

    def ask(self) -> IntArray:
        """Random neighbors of random points of the archive."""
        if not len(self.codes):
            return self.rng.integers(0, self.sizes_d, size=(self.start, len(self.sizes_d)))
        children = self.codes[self.rng.integers(0, len(self.codes), size=self.batch)].copy()
        place = self.rng.integers(0, len(self.sizes_d), size=self.batch)
        step = self.rng.integers(1, np.maximum(self.sizes_d[place], 2))
        children[np.arange(self.batch), place] += step
        return children % self.sizes_d

    def tell(self, codes_nd: IntArray, values_nm: FloatArray) -> None:
        """The archive keeps what none dominates."""
        codes = np.concatenate([self.codes, codes_nd])
        values = np.concatenate([self.values.reshape(-1, values_nm.shape[1]), values_nm])
        kept = non_dominated_mask(values)
        self.codes, self.values = codes[kept], values[kept]


SEARCHERS = {
    "random": RandomSearch,
    "nsga2": NSGA2,
    "regularized-evolution": RegularizedEvolution,
    "local-search": LocalSearch,
}
