"""The study: ask a sampler, evaluate, tell; resumed by name, shared by processes, never losing a finished trial."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from filelock import Timeout
from tqdm import tqdm

from nas.constraints import check_constraints, feasible_mask
from nas.files import PathLike
from nas.journal import StudyStorageError
from nas.objectives import Evaluation, Objective
from nas.pareto import ParetoFront, normalized_hypervolume
from nas.searchers.indexed import index_of
from nas.searchers.reference import default_ref_point
from nas.study_loop import (
    EVALUATION,
    Evaluate,
    StudyPlan,
    complete_trials,
    fail_trials,
    open_study,
    run_workers,
    work,
)
from search_spaces import SearchSpace

if TYPE_CHECKING:
    import optuna

FloatArray = npt.NDArray[np.float64]
Box = Mapping[str, float]
_N_STARTUP = 10


@dataclass(frozen=True)
class StudyResult:
    """A study as far as it got.

    Args:
        evaluations: in the order of the trials' indices; an architecture proposed again is here again.
        objectives: what was minimized.
        ref_point: worst values that still count, in the order of the objectives.
        ideal: best values of the box in which hypervolume is normalized.
        hypervolume_trace: normalized hypervolume after every trial; infeasible ones add nothing.
        constraints: largest allowed values, by objective.
        is_exhausted: whether every architecture of the space was evaluated.
    """

    evaluations: tuple[Evaluation, ...]
    objectives: tuple[Objective, ...]
    ref_point: tuple[float, ...]
    ideal: tuple[float, ...]
    hypervolume_trace: list[float]
    constraints: Mapping[str, float] = field(default_factory=dict)
    is_exhausted: bool = False

    @property
    def num_feasible(self) -> int:
        """Evaluations that keep to all constraints."""
        return int(feasible_mask(self.evaluations, self.constraints).sum())

    @property
    def front(self) -> ParetoFront:
        """The feasible evaluations that no other dominates, each architecture once.

        Of a study that found nothing feasible, those of all evaluations: see :attr:`num_feasible`.
        """
        mask = feasible_mask(self.evaluations, self.constraints)
        mask |= not mask.any()
        distinct: dict[Any, Evaluation] = {}
        for evaluation, is_feasible in zip(self.evaluations, mask, strict=True):
            if is_feasible:
                distinct.setdefault(evaluation.architecture, evaluation)
        return ParetoFront(list(distinct.values()), self.objectives, self.ref_point)


def run_study(
    name: str,
    space: SearchSpace,
    evaluate: Evaluate,
    objectives: Sequence[Objective],
    *,
    sampler: str = "qlognehvi",
    n_trials: int,
    seed: int = 0,
    storage: PathLike | None = None,
    workers: int = 1,
    known: Mapping[int, Any] | None = None,
    constraints: Mapping[str, float] | None = None,
    ref_point: Box | None = None,
    ideal: Box | None = None,
    warm_start: Sequence[Mapping[str, Any]] = (),
    fingerprint: Mapping[str, Any] | None = None,
    progress: bool = True,
    **options: Any,
) -> StudyResult:
    """Bring a study to ``n_trials`` finished trials.

    A study run in pieces, killed and resumed, ends with the same trials as one run at a stretch, if
    it has one worker: every proposal depends on the seed and the finished trials alone. An
    architecture that is proposed again is answered from its first evaluation, and a study ends early
    when every architecture of the space has been evaluated. After Ctrl-C or an exception of
    ``evaluate`` the finished trials are kept, and the same call goes on with them.

    Args:
        name: of the study in its storage.
        space: whose static choices are the parameters.
        evaluate: scores an architecture on all objectives (and constraints); picklable when there are
            several workers: a module-level function, or an instance of a module-level class.
        objectives: to minimize.
        sampler: one of ``nas.searchers.samplers()``.
        n_trials: finished trials to reach.
        seed: of the sampler, 0 or more.
        storage: journal file or Optuna storage URL; None keeps the study in memory.
        workers: processes of this machine that ask and tell on the same storage.
        known: objectives a model-based sampler need not learn, by index: functions of a list of params
            that return (mean, standard deviation).
        constraints: largest allowed values, by objective; ``evaluate`` returns these values too. Infeasible
            architectures are not on the front and add no hypervolume.
        ref_point: worst values that still count, by objective; by default
            :func:`nas.searchers.default_ref_point` of the first ten trials.
        ideal: best values by objective, for the normalized hypervolume; by default the best of all
            trials.
        warm_start: parameters of the first proposals.
        fingerprint: JSON values that say what the trials mean; a study stored with others is refused.
        progress: whether to show hypervolume and the time left.
        options: further options of the sampler.

    Returns:
        The study with ``n_trials`` trials, or all it has if it had more.

    Raises:
        StudyStorageError: if the stored study is damaged, has another fingerprint, or is being run.
        ValueError: if a value is wrong.
        WorkerError: if a worker process fails.
    """
    for value, least, what in ((n_trials, 1, "n_trials"), (workers, 1, "workers")):
        if value < least:
            raise ValueError(f"expected {what} of {least} or more, got {value}")
    if workers > 1 and (storage in (None, "sqlite://") or ":memory:" in str(storage)):
        raise ValueError(
            "expected a storage for several workers, got none; pass storage='study.journal'"
        )
    objectives = tuple(objectives)
    names = tuple(str(o) for o in objectives)
    bounds = check_constraints(constraints or {})
    identity = {"sampler": sampler, "seed": seed, "objectives": names, "space": space.fingerprint}
    identity |= ({"constraints": bounds} if bounds else {}) | dict(fingerprint or {})
    plan = StudyPlan(
        name=name,
        storage=storage,
        identity=json.loads(json.dumps(identity)),
        space=space,
        evaluate=evaluate,
        names=names,
        constraints=bounds,
        sampler={
            "name": sampler,
            "seed": seed,
            "known": known,
            "ref_point": None if ref_point is None else [ref_point[n] for n in names],
            "warm_start": warm_start,
            **options,
        },
        n_trials=n_trials,
    )
    plan.make_sampler()  # refuses wrong options before a study is made with them
    study = open_study(plan)
    n_startup = int(options.get("n_startup", _N_STARTUP))
    setting = _Setting(objectives, bounds, ref_point, ideal, n_startup)
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(plan.lock("run", timeout_s=0.0))
        except Timeout:
            raise StudyStorageError(
                f"expected study {name!r} in {storage} to be at rest, but another process is running it; "
                "wait for it, stop it, or use another storage"
            ) from None
        fail_trials(study)  # what a killed process left running is proposed again
        done = len(complete_trials(study))
        bar = stack.enter_context(
            tqdm(
                total=n_trials,
                initial=min(n_trials, done),
                desc=name,
                unit="trial",
                disable=not progress,
            )
        )

        def show() -> None:
            bar.n = min(n_trials, len(complete_trials(study)))
            if progress and bar.n:
                Y, mask, ref, best = _table(_evaluations(study), setting)
                volume = normalized_hypervolume(Y[mask], best, ref)
                bar.set_postfix_str(f"hypervolume {volume:.4f}", refresh=False)
            bar.refresh()

        try:
            if workers == 1:
                for _ in work(study, plan, owner="main"):
                    show()
            elif done < n_trials:
                run_workers(study, plan, workers, show)
        except KeyboardInterrupt:
            if progress:
                kept = len(complete_trials(study))
                where = "lost with this process" if storage is None else f"kept in {storage}"
                bar.write(f"Stopped with {kept} of {n_trials} trials, {where}.", file=sys.stderr)
            raise
    return _result(_evaluations(study), setting, space.cardinality)


@dataclass(frozen=True)
class _Setting:
    """What turns evaluations into a result."""

    objectives: tuple[Objective, ...]
    constraints: Mapping[str, float]
    ref_point: Box | None
    ideal: Box | None
    n_startup: int


def _evaluations(study: optuna.Study) -> tuple[Evaluation, ...]:
    """Of the finished trials, in the order of their indices."""

    def order(trial: optuna.trial.FrozenTrial) -> tuple[int, int]:
        index = index_of(trial)
        return (trial.number if index is None else index, trial.number)

    trials = sorted(complete_trials(study), key=order)
    return tuple(Evaluation.from_json(t.user_attrs[EVALUATION]) for t in trials)


def _table(
    evaluations: Sequence[Evaluation], setting: _Setting
) -> tuple[FloatArray, npt.NDArray[np.bool_], FloatArray, FloatArray]:
    """Values, which rows are feasible, and the box: reference point and ideal."""
    Y = np.array([[e.value(o) for o in setting.objectives] for e in evaluations], dtype=np.float64)
    names = [str(o) for o in setting.objectives]
    if setting.ref_point is not None:
        ref = np.array([setting.ref_point[n] for n in names], dtype=np.float64)
    else:
        ref = default_ref_point(Y[: setting.n_startup])
    if setting.ideal is not None:
        best = np.array([setting.ideal[n] for n in names], dtype=np.float64)
    else:  # a hair below, so that the box has a size when all values are equal
        best = np.minimum(Y.min(axis=0), ref) - 1e-9 * np.maximum(np.abs(ref), 1.0)
    return Y, feasible_mask(evaluations, setting.constraints), ref, best


def _result(
    evaluations: tuple[Evaluation, ...], setting: _Setting, cardinality: int
) -> StudyResult:
    Y, mask, ref, best = _table(evaluations, setting)
    trace = [
        float(normalized_hypervolume(Y[: i + 1][mask[: i + 1]], best, ref)) for i in range(len(Y))
    ]
    return StudyResult(
        evaluations=evaluations,
        objectives=setting.objectives,
        ref_point=tuple(ref.tolist()),
        ideal=tuple(best.tolist()),
        hypervolume_trace=trace,
        constraints=dict(setting.constraints),
        is_exhausted=len({e.architecture for e in evaluations}) >= cardinality,
    )
