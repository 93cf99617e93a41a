"""StructuredSampler: the sampler ``auto``, the Optuna face of this package."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
from optuna.distributions import BaseDistribution
from optuna.search_space import IntersectionSearchSpace
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from nas.searchers import options
from nas.searchers.candidates import Candidates
from nas.searchers.history import History, telling_rows
from nas.searchers.indexed import seed_of
from nas.searchers.model_sampler import KnownObjective, ModelSampler, Params
from nas.searchers.parameters import ParameterSpace
from nas.searchers.structured.beliefs import FAILED, Beliefs
from nas.searchers.structured.features import PARTS, FeatureMap
from nas.searchers.structured.fits import Extra, Fits, Quantity
from nas.searchers.structured.improvement import expected_improvement
from nas.searchers.structured.inner_search import InnerSearch
from nas.searchers.structured.region import region_of
from nas.searchers.structured.transfer import Source, read_sources
from nas.searchers.tails import near_reference, without_tail
from nas.searchers.threads import one_blas_thread

FloatArray = npt.NDArray[np.float64]
_MOST_SETTLED = 600  # told points that may be on the front; beyond it the best by Pareto rank, the latest and an even spread
_KNOWN_STD = 1e-9  # of the range of an objective: the deviation of what is known exactly
# Where the beliefs are so sure that nothing improves, they are doubted more and more.
_DOUBTS = (1.0, 3.0, 10.0, 100.0)


class StructuredSampler(ModelSampler):
    """Structure-aware Bayesian optimization; milliseconds a proposal, one to four objectives, constraints, running trials.

    Each objective and each constraint that some trial violates has a Gaussian process (nas/searchers/structured/kernel.py) whose
    scale, structure and hyperparameters are chosen by evidence. A proposal maximizes the expected hypervolume improvement over the
    front as the beliefs see it, times the probability that it is feasible and does not fail; of running trials, what is believed of
    them counts as told.

    Args:
        seed: of the whole study.
        population: children in one generation of the inner search.
        generations: of the inner search.
        sources: earlier studies of the same parameters and objectives: on another device, say. What each predicts becomes a feature of
            this study's beliefs, and half of the first proposals are members of their fronts.
        noisy: indices of objectives that are measured with noise. Of the others it is found out where the trials tell, which takes many
            neighbors: on three devices of HW-GPT-Bench that scatter by a tenth, 9 of 15 runs knew after 50 trials and 15 of 15 after 100.
        without: parts to do without, of ``families``, ``products``, ``remainder``, ``counter``, ``logarithm`` and ``leaning``: for
            ablations.
        others: see :class:`nas.searchers.model_sampler.ModelSampler`. A known objective is not learned, and is a feature too.

    Raises:
        ValueError: if an option is out of its range, or a source does not fit.
    """

    def __init__(
        self,
        *,
        seed: int,
        search_space: Mapping[str, BaseDistribution] | None = None,
        known: Mapping[int, KnownObjective] | None = None,
        ref_point: Sequence[float] | None = None,
        n_startup: int = 10,
        warm_start: Sequence[Mapping[str, Any]] = (),
        canonical: Callable[[Params], Params] | None = None,
        population: int = 200,
        generations: int = 7,
        sources: Sequence[Study] = (),
        noisy: Sequence[int] = (),
        without: Sequence[str] = (),
    ) -> None:
        super().__init__(
            seed=seed,
            search_space=search_space,
            known=known,
            ref_point=ref_point,
            n_startup=n_startup,
            warm_start=warm_start,
            canonical=canonical,
        )
        self.noisy = options.indices("noisy", noisy)
        if both := sorted(self.noisy & self.known.keys()):
            raise ValueError(f"expected noisy objectives that are not known in advance, got {both}")
        self.without = options.names("without", without, PARTS)
        self.population = options.at_least("population", population, 10)
        self.generations = options.at_least("generations", generations, 1)
        self.sources = tuple(sources)
        if not all(isinstance(source, Study) for source in self.sources):
            raise ValueError(
                f"expected sources to be a list of Optuna studies, got {sources!r:.120}"
            )
        self._fits = Fits()
        self._source_beliefs: tuple[ParameterSpace, list[Source]] | None = None
        self._maps: dict[int, FeatureMap] = {}
        self._mapped: ParameterSpace | None = None

    def design(self, space: ParameterSpace, n: int) -> FloatArray:
        """Members of the sources' fronts, then as of any sampler with a model."""
        rest = super().design(space, n)
        if "leaning" in self.without:
            rest = space.design(seed_of(self.seed, 2**31), n)
        if not self.sources:
            return rest
        fronts = np.concatenate([source.front_nd for source in self._sources(space, None)])
        count = min(len(fronts), self.n_startup // 2)
        chosen = fronts[np.linspace(0, len(fronts) - 1, count).round().astype(int)]
        return np.concatenate([chosen, rest])[:n]

    def propose(
        self, space: ParameterSpace, history: History, candidates: Candidates
    ) -> FloatArray | None:
        """The unseen point with the largest expected improvement that the inner search found."""
        with one_blas_thread():
            return self._propose(space, history, candidates)

    def _propose(
        self, space: ParameterSpace, history: History, candidates: Candidates
    ) -> FloatArray | None:
        beliefs = self._beliefs(space, history)
        feasible = np.flatnonzero(history.feasible_n)
        feasible = feasible[telling_rows(history.Y_nm[feasible], _MOST_SETTLED)]
        settled = np.concatenate([history.X_nd[feasible], history.running_rd])
        region = region_of(beliefs.typical(settled), history.ref_point_m)
        parents = settled[region.front] if len(region.front) else history.X_nd[:1]
        search = InnerSearch(
            space,
            self._features(space, 0).family_d,
            candidates.canonical,
            candidates.seen,
            candidates.rng,
            population=self.population,
            generations=self.generations,
        )
        found: tuple[FloatArray, float] | None = None
        for doubt in _DOUBTS:

            def score(X: FloatArray, doubt: float = doubt) -> FloatArray:
                mean, std = beliefs.moments(X)
                gain = expected_improvement(
                    mean, doubt * std, beliefs.is_log, region.lower_bm, region.upper_bm
                )
                return gain * beliefs.feasibility(X, doubt)

            found = search.best(score, parents)
            if found is None or found[1] > 0.0:
                break
        return None if found is None else found[0]

    # --- what is believed of what ----------------------------------------------------------------------

    def believe(self, study: Study) -> tuple[list[FrozenTrial], FloatArray, FloatArray]:
        """What is believed of the complete trials, noise removed: the trials, their medians and standard deviations, shapes (n, m).

        Raises:
            ValueError: if fewer than two trials are complete, or they share no parameter.
        """
        trials = study.get_trials(deepcopy=False)
        distributions = self.search_space or IntersectionSearchSpace().calculate(study)
        complete = [
            t
            for t in trials
            if t.state == TrialState.COMPLETE and distributions.keys() <= t.params.keys()
        ]
        if self.search_space is None and any(
            t.params.keys() != distributions.keys() for t in complete
        ):
            further = sorted({name for t in complete for name in t.params} - distributions.keys())
            raise ValueError(
                f"expected trials with the same parameters, got some with {further} besides; pass a sampler made with a search_space that "
                "all trials share, or tell inactive parameters too"
            )
        if len(complete) < 2 or not distributions:
            raise ValueError(
                f"expected two complete trials or more with parameters in common, got {len(complete)} with {sorted(distributions)}; "
                "believe in a study once it has been told something"
            )
        with one_blas_thread():
            space = self._space(dict(distributions))
            nothing = np.empty((0, space.dim))
            history = self._history(study, complete, self._points(space, complete), nothing)
            # a reference point says what the search is after, not what a trial is worth
            everything = np.full(history.num_objectives, np.inf)
            beliefs = self._beliefs(space, replace(history, ref_point_m=everything))
            values, stds = beliefs.typical(history.X_nd), beliefs.spread(history.X_nd)
            tails = np.stack([y > without_tail(y) for y in history.Y_nm.T], axis=1)
            values = np.where(tails, history.Y_nm, values)  # no belief is held of how bad these are
        return complete, history.sign_m * values, stds

    def _beliefs(self, space: ParameterSpace, history: History) -> Beliefs:
        quantities = self._quantities(space, history)
        beliefs = {name: self._fits.belief(history, q) for name, q in quantities.items()}
        if len(history.failed_fd):
            seen, quantity = self._failure(space, history)
            quantities[FAILED] = quantity
            beliefs[FAILED] = self._fits.belief(seen, quantity)
        known = {j: functools.partial(self._known_moments, space, history, j) for j in self.known}
        return Beliefs(history.num_objectives, quantities, beliefs, known)

    def _quantities(self, space: ParameterSpace, history: History) -> dict[str, Quantity]:
        """The objectives that are not known, and the constraints that some trial violates."""
        if foreign := sorted(self.noisy - {*range(history.num_objectives)}):
            raise ValueError(
                f"expected noisy objectives among the {history.num_objectives} of the study, got indices {foreign}"
            )
        known = self.known_columns(space, history.X_nd)
        sources = self._sources(space, history.num_objectives)
        plain = self._features(space, len(self.known))
        found = {}
        for j in range(history.num_objectives):
            if j not in self.known:
                features = self._features(space, len(self.known) + len(sources))
                extra = _extra(known, sources, j)
                name = f"objective {j}"
                may_log = "logarithm" not in self.without
                y = near_reference(history.Y_nm[:, j], history.ref_point_m[j])
                is_noisy = True if j in self.noisy else None
                found[name] = Quantity(name, y, may_log, features, extra, is_noisy)
        for constraint, values in history.constraints.items():
            if np.nanmax(values) > 0.0:
                name = f"constraint {constraint}"
                found[name] = Quantity(name, values, False, plain, known)
        return found

    def _failure(self, space: ParameterSpace, history: History) -> tuple[History, Quantity]:
        """Whether a trial fails, as a constraint: 1 where one did, -1 where none did."""
        X = np.concatenate([history.X_nd, history.failed_fd])
        has_failed = np.repeat([-1.0, 1.0], [len(history), len(history.failed_fd)])
        features = self._features(space, len(self.known))
        known = self.known_columns(space, history.X_nd)
        quantity = Quantity(FAILED, has_failed, False, features, known, is_noisy=False)
        return replace(history, X_nd=X, Y_nm=has_failed[:, None]), quantity

    def _features(self, space: ParameterSpace, num_extra: int) -> FeatureMap:
        """Made once for a space."""
        if self._mapped is not space:
            self._mapped = space
            self._maps.clear()
        if num_extra not in self._maps:
            self._maps[num_extra] = FeatureMap(space, num_extra, self.without)
        return self._maps[num_extra]

    def _sources(self, space: ParameterSpace, num_objectives: int | None) -> list[Source]:
        if not self.sources:
            return []
        if self._source_beliefs is None or self._source_beliefs[0] is not space:
            self._source_beliefs = (space, read_sources(self.sources, space))
        for source in self._source_beliefs[1]:
            source.check(num_objectives)
        return self._source_beliefs[1]

    def _known_moments(
        self, space: ParameterSpace, history: History, j: int, X: FloatArray
    ) -> tuple[FloatArray, FloatArray]:
        mean, std = self.known_values(space, j, X)
        size = float(np.ptp(history.Y_nm[:, j])) or 1.0
        return history.sign_m[j] * mean, np.maximum(std, _KNOWN_STD * size)


def _extra(known: Extra | None, sources: Sequence[Source], j: int) -> Extra | None:
    """Columns of what is known in advance and of what the sources predict of objective j."""
    if not sources:
        return known

    def columns(X_nd: FloatArray) -> FloatArray:
        predicted = np.stack([source.column(j, X_nd) for source in sources], axis=1)
        return predicted if known is None else np.concatenate([known(X_nd), predicted], axis=1)

    return columns
