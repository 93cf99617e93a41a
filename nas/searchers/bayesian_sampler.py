"""BayesianSampler: the Optuna face of nas/searchers/bayesian.py."""

from __future__ import annotations

import contextlib
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from optuna.distributions import BaseDistribution
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState

from nas.pareto import non_dominated_mask
from nas.searchers.bayesian import (
    GaussianProcess,
    ImprovementScore,
    chebyshev,
    log_feasibility,
    normal_draws,
)
from nas.searchers.candidates import Candidates
from nas.searchers.indexed import IndexedSampler, seed_of
from nas.searchers.parameters import ParameterSpace
from nas.searchers.reference import default_ref_point

FloatArray = npt.NDArray[np.float64]
Params = dict[str, Any]
KnownObjective = Callable[[Sequence[Params]], tuple[npt.ArrayLike, npt.ArrayLike]]
Acquisition = Literal["nehvi", "nparego"]
_NUM_DRAWS = {1: 64, 2: 64, 3: 32, 4: 16}  # the boxes of one draw grow with the objectives
_KNOWN_WEIGHT = 2.0  # range of a known objective as a feature; a parameter's is 1
_MAX_BASELINE = 200  # told points whose joint posterior is drawn; beyond it the best by Pareto rank


class SpaceExhaustedError(ValueError):
    """Every point of the space has been proposed."""


class BayesianSampler(IndexedSampler):
    """Bayesian optimization over a static discrete or mixed space; it never proposes a point that was told or is running.

    Args:
        seed: of the whole study.
        acquisition: ``nehvi`` (hypervolume improvement) or ``nparego`` (a random Chebyshev scalarization for every trial).
        search_space: distributions of all parameters; by default those common to the finished trials, and the first trial is random.
        known: objective index -> function of a list of params that returns (mean_n, std_n); std 0 for what is computed exactly. Such
            an objective is not learned from trials: candidates and told points enter with this mean and independent uncertainty.
        ref_point: worst values that still count, in the study's units; by default :func:`nas.searchers.default_ref_point` of the
            first ``n_startup`` trials.
        n_startup: trials before the model takes over, ``warm_start`` included; the others are a scrambled Sobol design.
        warm_start: parameters of the first proposals.
        canonical: rewrites params that mean the same to one spelling, so that it is proposed once and modeled as one.
        num_draws: function draws behind the acquisition function.
        effort: scales the numbers of candidates and local moves that are scored for one proposal.

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
        super().__init__(seed=seed, warm_start=warm_start)
        if acquisition not in ("nehvi", "nparego"):
            raise ValueError(f"expected acquisition 'nehvi' or 'nparego', got {acquisition!r}")
        if n_startup < 2:
            raise ValueError(
                f"expected n_startup of 2 or more, got {n_startup}: a model needs data"
            )
        if not effort > 0 or (num_draws is not None and num_draws < 2):
            raise ValueError(
                f"expected effort > 0 and num_draws >= 2, got {effort} and {num_draws}"
            )
        self.acquisition = acquisition
        self.search_space = dict(search_space) if search_space is not None else None
        self.known = dict(known or {})
        self.ref_point = None if ref_point is None else tuple(map(float, ref_point))
        self.n_startup = n_startup
        self.canonical = canonical
        self.num_draws = num_draws
        self.effort = effort
        self._canonical_points: dict[bytes, FloatArray] = {}
        self._known_values: dict[int, dict[bytes, tuple[float, float]]] = {
            j: {} for j in self.known
        }
        self._parameter_space: ParameterSpace | None = None

    # --- Optuna's interface ------------------------------------------------------------------------

    def infer_relative_search_space(
        self, study: Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """The given space, or the parameters that all finished trials share."""
        if self.warm_params(trial) is not None:
            return {}
        if self.search_space is not None:
            return dict(self.search_space)
        finished = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        if not finished:
            return {}
        shared = finished[0].distributions
        return {
            name: dist
            for name, dist in shared.items()
            if all(dist == t.distributions.get(name) for t in finished)
        }

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> Params:
        """One proposal.

        Raises:
            SpaceExhaustedError: if every point has been told or is running.
        """
        if not search_space:
            return {}
        space = self._space(search_space)
        complete, running = self._others(study, trial, space)
        points = {
            t.number: self._canonical(space, space.point(t.params)[None])[0]
            for t in complete + running
        }
        candidates = Candidates(
            space,
            lambda X: self._canonical(space, X),
            {space.key(x) for x in points.values()},
            np.random.default_rng([self.seed, self.index(trial)]),
            num_random=round(256 * self.effort),
            num_offspring=round(768 * self.effort),
            num_moves=round(2000 * self.effort),
        )
        index = self.index(trial)
        x: FloatArray | None
        if index < self.n_startup or len(complete) < 2:
            design = space.design(seed_of(self.seed, 2**31), max(self.n_startup, index + 1))
            found = candidates.unseen(design[index : index + 1])
            x = found[0] if len(found) else candidates.any_unseen()
        else:
            with _on_cpu():
                x = self._optimize(study, space, candidates, complete, running, points)
        if x is None:
            raise SpaceExhaustedError(
                f"expected fewer than {len(points)} trials in a space of {space.cardinality} points, all of them told or "
                "running; stop the study here, or widen the space"
            )
        return space.params(x)

    def sample_independent(
        self,
        study: Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """The given value in a warm start; otherwise uniform, for a parameter outside the static space."""
        given = self.warm_params(trial)
        if given is not None and param_name in given:
            return given[param_name]
        rng = np.random.default_rng([self.seed, self.index(trial), zlib.crc32(param_name.encode())])
        space = ParameterSpace({param_name: param_distribution})
        return space.params(space.random(rng, 1)[0])[param_name]

    # --- one proposal ------------------------------------------------------------------------------

    def _optimize(
        self,
        study: Study,
        space: ParameterSpace,
        candidates: Candidates,
        complete: list[FrozenTrial],
        running: list[FrozenTrial],
        points: dict[int, FloatArray],
    ) -> FloatArray | None:
        sign = np.array([1.0 if d == StudyDirection.MINIMIZE else -1.0 for d in study.directions])
        Y = _finite(np.array([t.values for t in complete], dtype=np.float64)) * sign  # n x m
        X = np.array([points[t.number] for t in complete])
        feasible = np.array([all(c <= 0.0 for c in t.constraints.values()) for t in complete])
        ref = self._reference(Y, complete, sign)
        learned = [j for j in range(len(sign)) if j not in self.known]
        if len(learned) + len(self.known) != len(sign):
            raise ValueError(
                f"expected known objectives among the {len(sign)} of the study, got indices {sorted(self.known)}"
            )
        features = self._features(space, X)
        models = {j: GaussianProcess(features(X), Y[:, j]) for j in learned}
        constraints = _constraint_models(features(X), complete)

        base = np.flatnonzero(feasible)
        if len(base) > _MAX_BASELINE:
            base = base[_best_by_rank(Y[base], _MAX_BASELINE)]
        X_base = np.concatenate([X[base], *[points[t.number][None] for t in running]])
        num_draws = self.num_draws or _NUM_DRAWS.get(len(sign), 16)
        width = len(X_base) + 1
        z = normal_draws(num_draws, width * len(sign), int(candidates.rng.integers(2**31)))
        z = z.reshape(num_draws, len(sign), width)

        def draw(X_nd: FloatArray, at_base: bool) -> FloatArray:
            """Values S x n x m of the drawn functions, at the baseline or at candidates."""
            F = features(X_nd)
            outcomes = []
            for j in range(len(sign)):
                z_base, z_new = z[:, j, :-1], z[:, j, -1]
                if j not in models:
                    mean, std = self._known(space, j, X_nd)
                    values = sign[j] * mean + (z_base if at_base else z_new[:, None]) * std
                elif at_base:
                    values = models[j].start_draws(F, z_base)
                else:
                    values = models[j].extend_draws(F, z_new)
                outcomes.append(values)
            return np.stack(outcomes, axis=-1)

        drawn = draw(X_base, True) if len(X_base) else np.zeros((num_draws, 0, len(sign)))
        if not len(X_base):  # no feasible point yet: any point will do to start the draws
            for j, model in models.items():
                model.start_draws(features(X[:1]), z[:, j, :1])
        ideal = np.minimum(Y[feasible].min(axis=0) if feasible.any() else Y.min(axis=0), ref)
        scalarize: Callable[[FloatArray], FloatArray] = lambda draws: draws  # noqa: E731
        if self.acquisition == "nparego" and len(sign) > 1:
            weights = candidates.rng.dirichlet(np.ones(len(sign)))
            # BoTorch scales by the range of all values seen, which one broken architecture can make useless.
            scalarize = lambda draws: chebyshev(draws, weights, ideal, ref)[..., None]  # noqa: E731
            improvement = ImprovementScore(scalarize(drawn), np.array([1e6]), np.ones(1))
        else:
            size = np.where(ref > ideal, ref - ideal, 1.0)
            improvement = ImprovementScore(drawn, ref, size)

        def score(X_nd: FloatArray) -> FloatArray:
            gain = improvement(scalarize(draw(X_nd, False)))
            return gain + log_feasibility(constraints, features(X_nd))

        parents = base[non_dominated_mask(Y[base])] if len(base) else np.arange(len(X))
        return candidates.best(score, X[parents])

    def _features(self, space: ParameterSpace, X: FloatArray) -> Callable[[FloatArray], FloatArray]:
        """Features of points for the learned quantities: those of the parameters, and what is known exactly about each point.

        Parameters alone say little about points far from those told; how large and slow an architecture is says much.
        """
        if not self.known:
            return space.features

        def known(X_nd: FloatArray) -> FloatArray:
            return np.stack([self._known(space, j, X_nd)[0] for j in sorted(self.known)], axis=1)

        told = known(X)
        log = told.min(axis=0) > 0.0
        told = np.where(log, np.log(np.where(log, told, 1.0)), told)
        low, size = told.min(axis=0), np.ptp(told, axis=0)
        size = np.where(size > 0.0, size, 1.0) / _KNOWN_WEIGHT

        def features(X_nd: FloatArray) -> FloatArray:
            extra = known(X_nd)
            extra = np.where(log, np.log(np.maximum(np.where(log, extra, 1.0), 1e-300)), extra)
            return np.concatenate([space.features(X_nd), (extra - low) / size], axis=1)

        return features

    def _reference(
        self, Y: FloatArray, complete: list[FrozenTrial], sign: FloatArray
    ) -> FloatArray:
        if self.ref_point is not None:
            if len(self.ref_point) != len(sign):
                raise ValueError(
                    f"expected a ref_point with {len(sign)} values like the study, got {self.ref_point}"
                )
            return np.array(self.ref_point) * sign
        first = [i for i, t in enumerate(complete) if self.index(t) < self.n_startup]
        return default_ref_point(Y[first] if len(first) > 1 else Y)

    def _others(
        self, study: Study, trial: FrozenTrial, space: ParameterSpace
    ) -> tuple[list[FrozenTrial], list[FrozenTrial]]:
        """Complete and running trials other than this one that have a value for every parameter."""
        states = (TrialState.COMPLETE, TrialState.RUNNING)
        others = [
            t
            for t in study.get_trials(deepcopy=False, states=states)
            if t.number != trial.number and all(name in t.params for name in space.distributions)
        ]
        complete = [t for t in others if t.state == TrialState.COMPLETE]
        return complete, [t for t in others if t.state == TrialState.RUNNING]

    # --- memories: pure functions of a point, kept because they are asked again -----------------------

    def _space(self, search_space: dict[str, BaseDistribution]) -> ParameterSpace:
        if self._parameter_space is None or self._parameter_space.distributions != search_space:
            self._parameter_space = ParameterSpace(search_space)
            self._canonical_points.clear()
            for values in self._known_values.values():
                values.clear()
        return self._parameter_space

    def _canonical(self, space: ParameterSpace, X_nd: FloatArray) -> FloatArray:
        if self.canonical is None:
            return X_nd
        points = []
        for x in X_nd:
            key = space.key(x)
            if key not in self._canonical_points:
                self._canonical_points[key] = space.point(self.canonical(space.params(x)))
            points.append(self._canonical_points[key])
        return np.array(points).reshape(-1, space.dim)

    def _known(
        self, space: ParameterSpace, j: int, X_nd: FloatArray
    ) -> tuple[FloatArray, FloatArray]:
        values = self._known_values[j]
        keys = [space.key(x) for x in X_nd]
        new = {key: x for key, x in zip(keys, X_nd, strict=True) if key not in values}
        if new:
            mean, std = self.known[j]([space.params(x) for x in new.values()])
            means = np.asarray(mean, dtype=np.float64)
            stds = np.broadcast_to(np.asarray(std, dtype=np.float64), means.shape)
            finite = np.isfinite(means).all() and np.isfinite(stds).all()
            if means.shape != (len(new),) or not finite or (stds < 0).any():
                raise ValueError(
                    f"expected known objective {j} to return {len(new)} finite means and standard deviations of 0 or "
                    f"more, got shapes {means.shape} and {np.shape(std)}"
                )
            pairs = zip(means.tolist(), stds.tolist(), strict=True)
            values.update(zip(new, pairs, strict=True))
        found = np.array([values[key] for key in keys]).reshape(-1, 2)
        return found[:, 0], found[:, 1]


def _on_cpu() -> contextlib.AbstractContextManager[Any]:
    """Make new tensors on the CPU where the caller has set another default; the context is not free, so only then."""
    if torch.get_default_device().type == "cpu":
        return contextlib.nullcontext()
    return torch.device("cpu")


def _finite(Y_nm: FloatArray) -> FloatArray:
    """Infinite values (a failed evaluation told as such) replaced by the worst and best finite ones of their objective."""
    finite = np.where(np.isfinite(Y_nm), Y_nm, np.nan)
    bounded = np.where(np.all(np.isnan(finite), axis=0), 0.0, finite)
    return np.clip(Y_nm, np.nanmin(bounded, axis=0), np.nanmax(bounded, axis=0))


def _best_by_rank(Y_nm: FloatArray, count: int) -> npt.NDArray[np.int64]:
    """Indices of whole non-dominated layers, best first, cut at ``count``."""
    left, chosen = np.arange(len(Y_nm)), np.zeros(0, dtype=np.int64)
    while len(chosen) < count and len(left):
        mask = non_dominated_mask(Y_nm[left])
        chosen, left = np.concatenate([chosen, left[mask]]), left[~mask]
    return np.sort(chosen[:count])


def _constraint_models(F_nf: FloatArray, complete: list[FrozenTrial]) -> list[GaussianProcess]:
    """One model for each constraint that some trial violates; one that never binds needs none."""
    names = sorted({name for t in complete for name in t.constraints})
    models = []
    for name in names:
        rows = [i for i, t in enumerate(complete) if name in t.constraints]
        values = _finite(np.array([[complete[i].constraints[name]] for i in rows]))[:, 0]
        if len(rows) > 1 and values.max() > 0.0:
            models.append(GaussianProcess(F_nf[rows], values, may_log=False))
    return models
