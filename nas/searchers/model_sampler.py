"""What the model-based samplers share: the told trials as arrays, objectives known in advance, one spelling for equal points.

n told points, d parameters, m objectives.
"""

from __future__ import annotations

import zlib
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from optuna.distributions import BaseDistribution
from optuna.search_space import IntersectionSearchSpace
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState

from nas.pareto import non_dominated_mask
from nas.searchers import options
from nas.searchers.candidates import Candidates
from nas.searchers.history import History, bounded_excess, finite
from nas.searchers.indexed import IndexedSampler, give_up, holds_index, index_of, seed_of
from nas.searchers.parameters import ParameterSpace
from nas.searchers.reference import default_ref_point
from nas.searchers.start_design import start_design
from nas.searchers.structured.features import FeatureMap

FloatArray = npt.NDArray[np.float64]
Params = dict[str, Any]
KnownObjective = Callable[[Sequence[Params]], tuple[npt.ArrayLike, npt.ArrayLike]]


class SpaceExhaustedError(ValueError):
    """Every point of the space has been proposed."""


class ModelSampler(IndexedSampler):
    """A sampler that models what it was told; it never proposes a point of a static space that was told or is running.

    Args:
        seed: of the whole study.
        search_space: distributions of all parameters; by default those common to the finished trials, and the first trial is random.
        known: objective index -> function of a list of params that returns (mean_n, std_n); std 0 for what is computed exactly. Such
            an objective is not learned from trials.
        ref_point: worst values that still count, in the study's units; by default :func:`nas.searchers.default_ref_point` of the
            first ``n_startup`` trials, moved outwards where the front reaches beyond it.
        n_startup: trials before the model takes over, ``warm_start`` included.
        warm_start: parameters of the first proposals.
        canonical: rewrites params that mean the same to one spelling, so that it is proposed once and modeled as one.

    Raises:
        ValueError: if an option is out of its range.
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
    ) -> None:
        super().__init__(seed=seed, warm_start=warm_start)
        self.search_space = options.distributions(search_space, self.warm_start)
        self.known = options.known_objectives(known)
        self.ref_point = options.reference(ref_point)
        self.n_startup = options.at_least("n_startup", n_startup, 2)  # a model needs data
        self.canonical = options.function("canonical", canonical)
        self._canonical_points: dict[bytes, FloatArray] = {}
        self._known_values: dict[int, dict[bytes, tuple[float, float]]] = {
            j: {} for j in self.known
        }
        self._parameter_space: ParameterSpace | None = None
        self._shared: dict[tuple[str, int, int], IntersectionSearchSpace] = {}
        self._read: dict[int, tuple[dict[str, Any], FloatArray]] = {}
        # what this process proposed for trials that run; a trial of study.optimize is stored without it until it is suggested
        self._asked: dict[tuple[str, int, int], dict[int, Params]] = {}

    # --- what a subclass decides ---------------------------------------------------------------------

    def design(self, space: ParameterSpace, n: int) -> FloatArray:
        """The first n points to try, before there is a model; a longer design starts with the shorter one's points."""
        families = FeatureMap(space).family_d
        return start_design(space, families, seed_of(self.seed, 2**31), n, self.n_startup)

    @abstractmethod
    def propose(
        self, space: ParameterSpace, history: History, candidates: Candidates
    ) -> FloatArray | None:
        """One unseen point; None when nothing unseen was found.

        Args:
            space: the parameters.
            history: what the study has been told: two points or more.
            candidates: knows which points were seen; its ``rng`` is the source of every random choice.
        """

    # --- Optuna's interface ------------------------------------------------------------------------

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        """Give the trial its index.

        Raises:
            SpaceExhaustedError: if the trials leave nothing to choose and one is told: Optuna fills in such parameters itself and
                never asks a sampler for them.
        """
        super().before_trial(study, trial)
        complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        done = [
            t for t in complete if index_of(t) is not None
        ]  # an added trial may be a bare baseline
        if done and all(d.single() for t in done for d in t.distributions.values()):
            give_up(study, trial._trial_id)
            got = sorted(done[0].params) or "none at all"
            raise SpaceExhaustedError(
                f"space exhausted: expected parameters with a choice, got {got}, and {len(done)} trials of the only point; "
                "stop the study here, or widen the space"
            )

    def infer_relative_search_space(
        self, study: Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """The given space, or the parameters that all finished trials share."""
        if self.warm_params(trial) is not None:
            return {}
        if self.search_space is not None:
            return dict(self.search_space)
        key = (study.study_name, study._study_id, id(study._storage))
        with self._lock:  # reads each trial once
            shared = self._shared.setdefault(key, IntersectionSearchSpace())
            return shared.calculate(study)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> Params:
        """One proposal.

        Raises:
            SpaceExhaustedError: if every point has been told or is running.
        """
        if not search_space:
            return {}
        key = (study.study_name, study._study_id, id(study._storage))
        with self._lock:
            try:
                params = self._sample(study, trial, search_space, self._asked.setdefault(key, {}))
            except Exception:
                if not study._thread_local.in_optimize_loop:  # optimize() tells it as failed
                    give_up(study, trial._trial_id)  # nobody else will ever tell it
                raise
            self._asked[key][trial.number] = params
        return params

    def _sample(
        self,
        study: Study,
        trial: FrozenTrial,
        search_space: dict[str, BaseDistribution],
        asked: dict[int, Params],
    ) -> Params:
        space = self._space(search_space)
        complete, running, spent = self._others(study, trial, space)
        X, X_spent = self._points(space, complete + running), self._points(space, spent)
        promised = self._promised(study, running, asked)
        if promised:
            X = np.concatenate(
                [X, *(self._canonical(space, space.point(params)[None]) for params in promised)]
            )
        seen = {space.key(x) for x in [*X, *X_spent]}
        index = self.index(trial)
        # of a conditional space only the parameters that all trials share are seen here: their points may come again
        is_whole = self.search_space is not None or all(
            len(t.params) == space.dim for t in complete
        )
        candidates = Candidates(
            space,
            lambda points: self._canonical(space, points),
            seen if is_whole else set(),
            np.random.default_rng([self.seed, index]),
        )
        x: FloatArray | None
        if index < self.n_startup or len(complete) < 2:
            design = self.design(space, max(self.n_startup, index + 1))
            found = candidates.unseen(design[index : index + 1])
            x = found[0] if len(found) else candidates.any_unseen()
        else:
            has_failed = np.array([t.state == TrialState.FAIL for t in spent], dtype=np.bool_)
            history = self._history(study, complete, X, X_spent[has_failed])
            x = self.propose(space, history, candidates)
            if x is None:
                x = candidates.any_unseen()
        if x is None:
            raise SpaceExhaustedError(
                f"space exhausted: expected fewer than {len(seen)} trials in a space of {space.cardinality} points, all of them "
                "told or running; stop the study here, or widen the space"
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
            return options.given(param_name, given[param_name], param_distribution)
        rng = np.random.default_rng([self.seed, self.index(trial), zlib.crc32(param_name.encode())])
        space = ParameterSpace({param_name: param_distribution})
        return space.params(space.random(rng, 1)[0])[param_name]

    # --- the study as arrays ---------------------------------------------------------------------------

    def _history(
        self, study: Study, complete: Sequence[FrozenTrial], X: FloatArray, X_failed: FloatArray
    ) -> History:
        sign = np.array([1.0 if d == StudyDirection.MINIMIZE else -1.0 for d in study.directions])
        Y = finite(np.array([t.values for t in complete], dtype=np.float64) * sign)
        if foreign := [j for j in self.known if not 0 <= j < len(sign)]:
            raise ValueError(
                f"expected known objectives among the {len(sign)} of the study, got indices {foreign}"
            )
        names = sorted({name for t in complete for name in t.constraints})
        constraints = {
            name: bounded_excess(np.array([t.constraints.get(name, np.nan) for t in complete]))
            for name in names
        }
        feasible = np.ones(len(complete), dtype=np.bool_)
        for values in constraints.values():
            feasible &= ~(values > 0.0)
        first = [i for i, t in enumerate(complete) if self.index(t) < self.n_startup]
        return History(
            X_nd=X[: len(complete)],
            Y_nm=Y,
            feasible_n=feasible,
            constraints=constraints,
            running_rd=X[len(complete) :],
            failed_fd=X_failed,
            sign_m=sign,
            ref_point_m=self._reference(Y, feasible, first, sign),
        )

    def _reference(
        self, Y: FloatArray, feasible: npt.NDArray[np.bool_], first: list[int], sign: FloatArray
    ) -> FloatArray:
        """Worst values that still count; if not given, those of the start, with room for what has been found beyond them."""
        if self.ref_point is not None:
            if len(self.ref_point) != len(sign):
                raise ValueError(
                    f"expected a ref_point with {len(sign)} values like the study, got {self.ref_point}"
                )
            return np.array(self.ref_point) * sign
        ref = default_ref_point(Y[first] if len(first) > 1 else Y)
        if not feasible.any():
            return ref
        front = Y[feasible][non_dominated_mask(Y[feasible])]
        return np.asarray(np.maximum(ref, front.max(axis=0) + 0.1 * np.ptp(front, axis=0)))

    def _others(
        self, study: Study, trial: FrozenTrial, space: ParameterSpace
    ) -> tuple[list[FrozenTrial], list[FrozenTrial], list[FrozenTrial]]:
        """Of the trials with all parameters: the complete in the order they ended, the running but this, the failed and pruned."""
        names = space.distributions.keys()
        others = [
            t
            for t in study.get_trials(deepcopy=False)
            if t.number != trial.number and holds_index(t) and names <= t.params.keys()
        ]
        complete = [t for t in others if t.state == TrialState.COMPLETE]
        complete.sort(key=lambda t: (t.datetime_complete, t.number))
        running = [t for t in others if t.state == TrialState.RUNNING]
        spent = (TrialState.FAIL, TrialState.PRUNED)
        return complete, running, [t for t in others if t.state in spent]

    def _promised(
        self, study: Study, running: Sequence[FrozenTrial], asked: dict[int, Params]
    ) -> list[Params]:
        """Proposals of this process to running trials whose parameters are not stored yet."""
        stored = {t.number for t in running}
        states = (TrialState.RUNNING,)
        alive = {t.number for t in study.get_trials(deepcopy=False, states=states)}
        for number in [n for n in asked if n not in alive]:
            del asked[number]
        return [params for number, params in asked.items() if number not in stored]

    def _points(self, space: ParameterSpace, trials: Sequence[FrozenTrial]) -> FloatArray:
        """Canonical points of trials; each trial is read once."""
        points = np.empty((len(trials), space.dim))
        for i, trial in enumerate(trials):
            params, x = self._read.get(trial.number, (None, None))
            if x is None or params != trial.params:  # another study may have a trial of this number
                x = self._canonical(space, space.point(trial.params)[None])[0]
                self._read[trial.number] = (dict(trial.params), x)
            points[i] = x
        return points

    # --- memories: pure functions of a point, kept because they are asked again -----------------------

    def _space(self, search_space: dict[str, BaseDistribution]) -> ParameterSpace:
        if self._parameter_space is None or self._parameter_space.distributions != search_space:
            self._parameter_space = ParameterSpace(search_space)
            self._canonical_points.clear()
            self._read.clear()
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

    def known_values(
        self, space: ParameterSpace, j: int, X_nd: FloatArray
    ) -> tuple[FloatArray, FloatArray]:
        """Mean and standard deviation of a known objective at points, in the study's direction.

        Raises:
            ValueError: if its function returns anything but as many finite means and standard deviations.
        """
        values = self._known_values[j]
        keys = [space.key(x) for x in X_nd]
        new = {key: x for key, x in zip(keys, X_nd, strict=True) if key not in values}
        if new:
            returned = self.known[j]([space.params(x) for x in new.values()])
            means, stds = options.moments(j, returned, len(new))
            pairs = zip(means.tolist(), stds.tolist(), strict=True)
            values.update(zip(new, pairs, strict=True))
        found = np.array([values[key] for key in keys]).reshape(-1, 2)
        return found[:, 0], found[:, 1]

    def known_columns(
        self, space: ParameterSpace, X_nd: FloatArray
    ) -> Callable[[FloatArray], FloatArray] | None:
        """A function of points to their known objectives, each scaled to [0, 1] over the told points (by logarithm if positive).

        Parameters alone say little about points far from those told; how large and slow an architecture is says much. None when
        nothing is known in advance.
        """
        if not self.known:
            return None

        def known(points: FloatArray) -> FloatArray:
            return np.stack(
                [self.known_values(space, j, points)[0] for j in sorted(self.known)], axis=1
            )

        told = known(X_nd)
        is_log = told.min(axis=0) > 0.0

        def scaled(values: FloatArray) -> FloatArray:
            logs = np.log(np.maximum(np.where(is_log, values, 1.0), 1e-300))
            return np.where(is_log, logs, values)

        told = scaled(told)
        low, size = told.min(axis=0), np.ptp(told, axis=0)
        size = np.where(size > 0.0, size, 1.0)
        return lambda points: np.asarray((scaled(known(points)) - low) / size)
