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
from tqdm import tqdm

from nas.constraints import check_constraints, feasible_mask
from nas.fidelity import GrowingSearch, full_mask, tokens_paid
from nas.files import PathLike
from nas.heartbeat import HEARTBEAT_S, working
from nas.objectives import Evaluation, Objective
from nas.pareto import ParetoFront, normalized_hypervolume
from nas.searchers.factory import DEFAULT
from nas.searchers.reference import default_ref_point
from nas.storage_url import engine_of, shown
from nas.study_fidelity import EVALUATION, in_order
from nas.study_loop import complete_trials, work
from nas.study_plan import Evaluate, StudyPlan, open_study
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
        evaluations: in the order of the trials' indices; an architecture proposed again is here again, as is one that was measured on
            more tokens.
        objectives: what was minimized.
        ref_point: worst values that still count, in the order of the objectives.
        ideal: best values of the box in which hypervolume is normalized.
        hypervolume_trace: normalized hypervolume after every trial; infeasible ones add nothing.
        constraints: largest allowed values, by objective.
        is_exhausted: whether every architecture of the space was evaluated.
        full_fidelity: tokens of a full evaluation where fidelity grew: only such evaluations are on the front and add hypervolume; None
            where all evaluations are alike.
    """

    evaluations: tuple[Evaluation, ...]
    objectives: tuple[Objective, ...]
    ref_point: tuple[float, ...]
    ideal: tuple[float, ...]
    hypervolume_trace: list[float]
    constraints: Mapping[str, float] = field(default_factory=dict)
    is_exhausted: bool = False
    full_fidelity: int | None = None

    @property
    def full_evaluations(self) -> tuple[Evaluation, ...]:
        """Those on all tokens."""
        mask = full_mask(self.evaluations, self.full_fidelity)
        return tuple(e for e, is_full in zip(self.evaluations, mask, strict=True) if is_full)

    @property
    def num_feasible(self) -> int:
        """Full evaluations that keep to all constraints."""
        return int(feasible_mask(self.full_evaluations, self.constraints).sum())

    @property
    def tokens(self) -> tuple[int, ...]:
        """Tokens that every trial paid for: those no earlier trial had read for its architecture; 0 where an evaluation depends on none."""
        return tokens_paid(self.evaluations)

    @property
    def tokens_all_full(self) -> int:
        """Tokens that full evaluations of all its architectures would have read; 0 where evaluations depend on none."""
        full = max((e.fidelity or 0 for e in self.evaluations), default=0)
        return full * len({e.architecture for e in self.evaluations})

    @property
    def front(self) -> ParetoFront:
        """The feasible full evaluations that no other dominates, each architecture once.

        Of a study that found nothing feasible, those of all evaluations: see :attr:`num_feasible`.
        """
        full = self.full_evaluations
        mask = feasible_mask(full, self.constraints)
        mask |= not mask.any()
        distinct: dict[Any, Evaluation] = {}
        for evaluation, is_feasible in zip(full, mask, strict=True):
            if is_feasible:
                distinct.setdefault(evaluation.architecture, evaluation)
        return ParetoFront(list(distinct.values()), self.objectives, self.ref_point)


def run_study(
    name: str,
    space: SearchSpace,
    evaluate: Evaluate | GrowingSearch,
    objectives: Sequence[Objective],
    *,
    sampler: str = DEFAULT,
    n_trials: int,
    seed: int = 0,
    storage: PathLike | None = None,
    workers: int = 1,
    heartbeat_s: float = HEARTBEAT_S,
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
    when every architecture of the space has been evaluated. Whoever calls this with the same
    arguments, on this machine or another, joins the study: all calls return when it is full. After Ctrl-C or an exception of
    ``evaluate`` the finished trials are kept, and the same call goes on with them.

    Args:
        name: of the study in its storage.
        space: whose static choices are the parameters.
        evaluate: scores an architecture on all objectives (and constraints); picklable when there are
            several workers: a module-level function, or an instance of a module-level class. Or a search whose fidelity grows: most
            trials measure a new architecture on few tokens, some an earlier one on more; samplers are told predicted full values.
        objectives: to minimize.
        sampler: one of ``nas.searchers.samplers()``.
        n_trials: finished trials to reach.
        seed: of the sampler, 0 or more.
        storage: journal file (also on a folder that machines share); ``postgresql://user@host/database``, ``sqlite:///study.db``,
            another Optuna storage URL; ``grpc://host:port`` of ``nas serve``. None keeps the study in memory.
        workers: processes of this machine that ask and tell on the same storage.
        heartbeat_s: seconds between two signs of life of a process that evaluates; after four that are missed, its trial is
            evaluated by another.
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
        StudyStorageError: if the storage cannot be reached or opened, or the stored study is damaged or has another fingerprint.
        ValueError: if a value is wrong.
        WorkerError: if a worker process fails.
    """
    for value, least, what in ((n_trials, 1, "n_trials"), (workers, 1, "workers")):
        if value < least:
            raise ValueError(f"expected {what} of {least} or more, got {value}")
    if not heartbeat_s > 0.0:
        raise ValueError(f"expected a positive heartbeat_s, got {heartbeat_s}; 15 is the default")
    if workers > 1 and engine_of(storage) == "memory":
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
        heartbeat_s=heartbeat_s,
    )
    plan.make_sampler()  # refuses wrong options before a study is made with them
    n_startup = int(options.get("n_startup", _N_STARTUP))
    growing = evaluate if isinstance(evaluate, GrowingSearch) else None
    full_fidelity = None if growing is None else growing.full
    setting = _Setting(objectives, bounds, ref_point, ideal, n_startup, full_fidelity)
    with contextlib.ExitStack() as stack:
        owner = stack.enter_context(working(heartbeat_s))
        study = open_study(plan, owner)
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
                evaluations = _evaluations(study)
                Y, mask, ref, best = _table(evaluations, setting)
                volume = normalized_hypervolume(Y[mask], best, ref)
                note = f"hypervolume {volume:.4f}"
                if full_fidelity is not None:
                    every = full_fidelity * len({e.architecture for e in evaluations})
                    note += f", {sum(tokens_paid(evaluations)) / every:.0%} of the tokens"
                bar.set_postfix_str(note, refresh=False)
            bar.refresh()

        try:
            if workers == 1:
                for _ in work(study, plan, owner):
                    show()
            elif done < n_trials:
                from nas.study_workers import run_workers

                run_workers(study, plan, workers, show)
        except KeyboardInterrupt:
            if progress:
                kept = len(complete_trials(study))
                where = "lost with this process" if storage is None else f"kept in {shown(storage)}"
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
    full_fidelity: int | None = None


def _evaluations(study: optuna.Study) -> tuple[Evaluation, ...]:
    """Of the finished trials, in the order of their indices."""
    trials = in_order(complete_trials(study))
    return tuple(Evaluation.from_json(t.user_attrs[EVALUATION]) for t in trials)


def _table(
    evaluations: Sequence[Evaluation], setting: _Setting
) -> tuple[FloatArray, npt.NDArray[np.bool_], FloatArray, FloatArray]:
    """Values, which rows are feasible and full, and the box: reference point and ideal."""
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
    mask = feasible_mask(evaluations, setting.constraints)
    return Y, mask & full_mask(evaluations, setting.full_fidelity), ref, best


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
        full_fidelity=setting.full_fidelity,
    )
