"""Simulated searches: a searcher on a benchmark's problem, over seeds, without training or measuring anything.

s seeds, b evaluations, m objectives.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from surrogates.base import FloatArray
from surrogates.dominance import attainment_surface
from surrogates.evolution import SEARCHERS
from surrogates.problem import Problem

Sampler = str | Callable[[int], Any]


@dataclass(frozen=True, eq=False)
class Simulation:
    """What a searcher evaluated, in order.

    Args:
        problem: what it searched.
        sampler: its name.
        seeds: one run each.
        values_sbm: values of every evaluation.
    """

    problem: Problem
    sampler: str
    seeds: tuple[int, ...]
    values_sbm: FloatArray

    @cached_property
    def hypervolume_sb(self) -> FloatArray:
        """Hypervolume after each evaluation, as a share of that of the best known front."""
        found = np.stack([self.problem.trajectory(run) for run in self.values_sbm])
        return np.asarray(found / self.problem.best_hypervolume, dtype=np.float64)

    def attainment(self, share: float = 0.5) -> FloatArray:
        """Empirical attainment surface of two objectives: what this share of the runs reaches (Fonseca & Fleming 1996).

        Args:
            share: of the runs, in (0, 1]; 0.5 is the median surface.

        Returns:
            Corners of the surface, shape (c, 2), sorted by the first objective: at ``x`` or less, that share of runs has ``y`` or less.

        Raises:
            ValueError: if there are not two objectives, or the share is outside (0, 1].
        """
        if not 0.0 < share <= 1.0:
            raise ValueError(f"expected a share in (0, 1], got {share!r}")
        needed = max(int(np.ceil(share * len(self.values_sbm) - 1e-9)), 1)
        return attainment_surface(list(self.values_sbm), needed)


def simulate(problem: Problem, sampler: Sampler, budget: int, seeds: Iterable[int]) -> Simulation:
    """Run a searcher for several seeds.

    Args:
        problem: what to search.
        sampler: a name (``random``, ``nsga2``, ``regularized-evolution``, ``local-search``), which runs whole generations at once; or
            a function of the seed that returns an Optuna sampler, or an object with ``ask() -> codes_nd`` and
            ``tell(codes_nd, values_nm)``.
        budget: evaluations of each run.
        seeds: of the runs.

    Raises:
        ValueError: if the name is unknown, or there is no seed or no budget.
    """
    seeds = tuple(seeds)
    if not seeds or budget < 1:
        raise ValueError(
            f"expected a budget of 1 or more and one seed or more, got {budget} and {list(seeds)}"
        )
    if isinstance(sampler, str) and sampler not in SEARCHERS:
        near = difflib.get_close_matches(sampler, SEARCHERS, n=2, cutoff=0.4)
        hint = f"; did you mean {' or '.join(near)}?" if near else ""
        raise ValueError(
            f"expected a sampler in {', '.join(SEARCHERS)} or a function of the seed that returns one, got {sampler!r}{hint}"
        )
    name = sampler if isinstance(sampler, str) else getattr(sampler, "__name__", str(sampler))
    runs = []
    for seed in seeds:
        if isinstance(sampler, str):
            searcher: Any = SEARCHERS[sampler](problem.sizes_d, seed)
        else:
            searcher = sampler(seed)
        is_vectorized = hasattr(searcher, "ask") and hasattr(searcher, "tell")
        runs.append((_generations if is_vectorized else _trials)(problem, searcher, budget))
    return Simulation(problem, name, seeds, np.stack(runs))


def _generations(problem: Problem, searcher: Any, budget: int) -> FloatArray:
    found: list[FloatArray] = []
    done = 0
    while done < budget:
        codes = np.asarray(searcher.ask())[: budget - done]
        if not len(codes):
            raise ValueError("expected a searcher that asks for one point or more, got none")
        values = problem(codes)
        searcher.tell(codes, values)
        found.append(values)
        done += len(codes)
    return np.concatenate(found)


def _trials(problem: Problem, sampler: Any, budget: int) -> npt.NDArray[np.float64]:
    import optuna

    distributions = problem.distributions()
    study = optuna.create_study(directions=["minimize"] * len(problem.metrics), sampler=sampler)
    found = np.zeros((budget, len(problem.metrics)))
    for i in range(budget):
        trial = study.ask(distributions)
        found[i] = problem(problem.codes(trial.params))[0]
        study.tell(trial, found[i].tolist())
    return found
