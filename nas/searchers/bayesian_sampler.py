"""BayesianSampler: the Optuna face of nas/searchers/bayesian.py."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from optuna.distributions import BaseDistribution

from nas.pareto import non_dominated_mask
from nas.searchers.bayesian import (
    ImprovementScore,
    chebyshev,
    log_feasibility,
    normal_draws,
)
from nas.searchers.candidates import Candidates
from nas.searchers.gaussian_process import GaussianProcess
from nas.searchers.history import History, best_by_rank, telling_rows
from nas.searchers.map_fit import Parts
from nas.searchers.model_fits import MAX_TOLD, Features, ModelFits
from nas.searchers.model_sampler import KnownObjective, ModelSampler, Params
from nas.searchers.parameters import ParameterSpace
from nas.searchers.structured.features import FeatureMap
from nas.searchers.tails import near_reference
from nas.searchers.threads import one_blas_thread

FloatArray = npt.NDArray[np.float64]
Acquisition = Literal["nehvi", "nparego"]
_NUM_DRAWS = {1: 64, 2: 64, 3: 32, 4: 16}  # the boxes of one draw grow with the objectives
_KNOWN_WEIGHT = 2.0  # range of a known objective as a feature; a parameter's is 1
_MAX_BASELINE = 200  # told points whose joint posterior is drawn; beyond it the best by Pareto rank


class BayesianSampler(ModelSampler):
    """Bayesian optimization over a static discrete or mixed space with BoTorch's models.

    Args:
        seed: of the whole study.
        acquisition: ``nehvi`` (hypervolume improvement) or ``nparego`` (a random Chebyshev scalarization for every trial).
        num_draws: function draws behind the acquisition function.
        effort: scales the numbers of candidates and local moves that are scored for one proposal.
        others: see :class:`nas.searchers.model_sampler.ModelSampler`. A known objective enters with its mean and independent
            uncertainty; of the first ``n_startup`` points each leans to one side in every family of alike parameters.

    Raises:
        ValueError: if an option is out of its range.
    """

    def __init__(
        self,
        *,
        seed: int,
        acquisition: Acquisition = "nehvi",
        search_space: Mapping[str, BaseDistribution] | None = None,
        known: Mapping[int, KnownObjective] | None = None,
        ref_point: Sequence[float] | None = None,
        n_startup: int = 10,
        warm_start: Sequence[Mapping[str, Any]] = (),
        canonical: Callable[[Params], Params] | None = None,
        num_draws: int | None = None,
        effort: float = 1.0,
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
        if acquisition not in ("nehvi", "nparego"):
            raise ValueError(f"expected acquisition 'nehvi' or 'nparego', got {acquisition!r}")
        if not effort > 0 or (num_draws is not None and num_draws < 2):
            raise ValueError(
                f"expected effort > 0 and num_draws >= 2, got {effort} and {num_draws}"
            )
        self.acquisition = acquisition
        self.num_draws = num_draws
        self.effort = effort
        self._fits = ModelFits(self._features)

    def propose(
        self, space: ParameterSpace, history: History, candidates: Candidates
    ) -> FloatArray | None:
        """The unseen point with the best acquisition value that the search over candidates found."""
        candidates.num_random = round(256 * self.effort)
        candidates.num_offspring = round(768 * self.effort)
        candidates.num_moves = round(2000 * self.effort)
        with _on_cpu(), one_blas_thread():
            return self._propose(space, history, candidates)

    def _propose(
        self, space: ParameterSpace, whole: History, candidates: Candidates
    ) -> FloatArray | None:
        history = _bounded(whole)
        X, Y, feasible, sign = history.X_nd, history.Y_nm, history.feasible_n, history.sign_m
        ref = history.ref_point_m
        features, parts = self._features(space, X)
        F = features(X)
        models = {}
        for j in range(len(sign)):
            if j not in self.known:
                every, some = (near_reference(values[:, j], ref[j]) for values in (whole.Y_nm, Y))
                models[j] = self._model(space, whole, f"objective {j}", every, F, some, parts)
        # one model for each constraint that some trial violates; one that never binds needs none
        constraints = [
            self._model(
                space, whole, f"constraint {name}", whole.constraints[name], F, values, parts
            )
            for name, values in history.constraints.items()
            if np.isfinite(values).sum() > 1 and np.nanmax(values) > 0.0
        ]

        base = np.flatnonzero(feasible)
        if len(base) > _MAX_BASELINE:
            base = base[best_by_rank(Y[base], _MAX_BASELINE)]
        X_base = _distinct(np.concatenate([X[base], history.running_rd]))
        num_draws = self.num_draws or _NUM_DRAWS.get(len(sign), 16)
        width = len(X_base) + 1
        z = normal_draws(num_draws, width * len(sign), int(candidates.rng.integers(2**31)))
        z = z.reshape(num_draws, len(sign), width)

        def draw(X_nd: FloatArray, F: FloatArray, at_base: bool) -> FloatArray:
            """Values S x n x m of the drawn functions, at the baseline or at candidates."""
            outcomes = []
            for j in range(len(sign)):
                z_base, z_new = z[:, j, :-1], z[:, j, -1]
                if j not in models:
                    mean, std = self.known_values(space, j, X_nd)
                    values = sign[j] * mean + (z_base if at_base else z_new[:, None]) * std
                elif at_base:
                    values = models[j].start_draws(F, z_base)
                else:
                    values = models[j].extend_draws(F, z_new)
                outcomes.append(values)
            return np.stack(outcomes, axis=-1)

        drawn = np.zeros((num_draws, 0, len(sign)))
        if len(X_base):
            drawn = draw(X_base, features(X_base), True)
        else:  # no feasible point yet: any point will do to start the draws
            for j, model in models.items():
                model.start_draws(features(X[:1]), z[:, j, :1])
        ideal = np.minimum(Y[feasible].min(axis=0) if feasible.any() else Y.min(axis=0), ref)
        is_scalarized = self.acquisition == "nparego" and len(sign) > 1
        weights = candidates.rng.dirichlet(np.ones(len(sign))) if is_scalarized else None

        def scalarize(draws: FloatArray) -> FloatArray:
            if weights is None:
                return draws
            # BoTorch scales by the range of all values seen, which one broken architecture can make useless.
            return chebyshev(draws, weights, ideal, ref)[..., None]

        if is_scalarized:
            improvement = ImprovementScore(scalarize(drawn), np.array([1e6]), np.ones(1))
        else:
            size = np.where(ref > ideal, ref - ideal, 1.0)
            improvement = ImprovementScore(drawn, ref, size)

        def score(X_nd: FloatArray) -> FloatArray:
            F_nf = features(X_nd)
            gain = improvement(scalarize(draw(X_nd, F_nf, False)))
            return gain + log_feasibility(constraints, F_nf)

        parents = base[non_dominated_mask(Y[base])] if len(base) else np.arange(len(X))
        return candidates.best(score, X[parents])

    def _model(
        self,
        space: ParameterSpace,
        whole: History,
        name: str,
        told_n: FloatArray,
        F_nf: FloatArray,
        y_n: FloatArray,
        parts: Parts,
    ) -> GaussianProcess:
        """Posterior of a quantity.

        Args:
            space: the parameters.
            whole: everything that was told, and ``told_n`` the quantity's part of it.
            name: of the quantity.
            told_n: values, NaN where it was not told.
            F_nf: features of the points that the posterior is conditioned on, and ``y_n`` the quantity's values there.
            y_n: the same, NaN where it was not told.
            parts: which features each part of the kernel sees.
        """
        may_log = name.startswith("objective")
        description = self._fits.description(space, whole, name, told_n, may_log)
        rows = np.isfinite(y_n)
        return GaussianProcess(F_nf[rows], y_n[rows], may_log, description, parts)

    def _features(self, space: ParameterSpace, X: FloatArray) -> tuple[Features, Parts]:
        """Features of points for the learned quantities, and which part of their kernel sees which.

        The Matern part sees the ranks of the values; the main effects see contrasts of the values of each parameter, and their sums over
        the members of each family (nas/searchers/structured/features.py): what twelve layers do together shows in few trials. What is
        known exactly about a point is a feature of all of them.
        """
        known = self.known_columns(space, X)
        columns = FeatureMap(space)

        def features(points: FloatArray) -> FloatArray:
            effects = columns(points)
            blocks = [space.features(points), effects.own_np, effects.shared_ns]
            if known is not None:
                blocks.insert(1, _KNOWN_WEIGHT * known(points))
            return np.concatenate(blocks, axis=1)

        start = space.features(X[:1]).shape[1]  # of what is known, or of the contrasts
        contrasts = start + len(self.known)
        sums = contrasts + columns(X[:1]).own_np.shape[1]
        parts = Parts(slice(0, contrasts), slice(start, sums), slice(sums, None))
        return features, parts


def _on_cpu() -> contextlib.AbstractContextManager[Any]:
    """Make new tensors on the CPU where the caller has set another default; the context is not free, so only then."""
    if torch.get_default_device().type == "cpu":
        return contextlib.nullcontext()
    return torch.device("cpu")


def _distinct(X_nd: FloatArray) -> FloatArray:
    """Each point once, in the order of its first: a function has one value at a point that was measured twice."""
    _, first = np.unique(X_nd, axis=0, return_index=True)
    return X_nd[np.sort(first)]


def _bounded(history: History) -> History:
    """The same with so many told points that a model of them takes a second, whatever the length of the study."""
    if len(history) <= MAX_TOLD:
        return history
    rows = telling_rows(history.Y_nm, MAX_TOLD)
    return replace(
        history,
        X_nd=history.X_nd[rows],
        Y_nm=history.Y_nm[rows],
        feasible_n=history.feasible_n[rows],
        constraints={name: values[rows] for name, values in history.constraints.items()},
    )
