"""The study loop: ask a sampler, evaluate, tell; resumed by name, shared by processes, never losing a finished trial."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from filelock import FileLock
from tqdm import tqdm

from nas.files import PathLike
from nas.journal import StudyStorageError, open_storage
from nas.objectives import Evaluation, Objective
from nas.pareto import ParetoFront, normalized_hypervolume
from nas.searchers.reference import default_ref_point
from search_spaces import Architecture, SearchSpace

if TYPE_CHECKING:
    import optuna

Evaluate = Callable[[Architecture], Evaluation]
_EVALUATION, _FINGERPRINT = "evaluation", "nas:fingerprint"


@dataclass(frozen=True)
class StudyResult:
    """A finished study.

    Args:
        evaluations: in the order of the trials' indices.
        objectives: what was minimized.
        ref_point: worst values that still count, in the order of the objectives.
        ideal: best values of the box in which hypervolume is normalized.
        hypervolume_trace: normalized hypervolume after every trial.
    """

    evaluations: tuple[Evaluation, ...]
    objectives: tuple[Objective, ...]
    ref_point: tuple[float, ...]
    ideal: tuple[float, ...]
    hypervolume_trace: list[float]

    @property
    def front(self) -> ParetoFront:
        """The evaluations that no other dominates, each architecture once."""
        distinct = {e.architecture: e for e in reversed(self.evaluations)}
        return ParetoFront(list(distinct.values())[::-1], self.objectives, self.ref_point)


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
    ref_point: Mapping[str, float] | None = None,
    ideal: Mapping[str, float] | None = None,
    warm_start: Sequence[Mapping[str, Any]] = (),
    fingerprint: Mapping[str, Any] | None = None,
    progress: bool = True,
    **options: Any,
) -> StudyResult:
    """Bring a study to ``n_trials`` finished trials.

    A study run in pieces, killed and resumed, ends with the same trials as one run at a stretch, if
    it has one worker: every proposal depends on the seed and the finished trials alone. An
    architecture that is proposed again is answered from its first evaluation.

    Args:
        name: of the study in its storage.
        space: whose static choices are the parameters.
        evaluate: scores an architecture on all objectives; picklable when there are several workers.
        objectives: to minimize.
        sampler: one of ``nas.searchers.samplers()``.
        n_trials: finished trials to reach.
        seed: of the sampler, 0 or more.
        storage: journal file or Optuna storage URL; None keeps the study in memory.
        workers: processes that ask and tell on the same storage.
        known: objectives a model-based sampler need not learn, by index.
        ref_point: worst values that still count, by objective; by default from the first ten trials.
        ideal: best values by objective, for the normalized hypervolume; by default the best of all
            trials.
        warm_start: parameters of the first proposals.
        fingerprint: JSON values that say what the trials mean; a study stored with others is refused.
        progress: whether to show hypervolume and the time left.
        options: further options of the sampler.

    Returns:
        The study with ``n_trials`` trials, or all it has if it had more.

    Raises:
        StudyStorageError: if the stored study is damaged or has another fingerprint.
        ValueError: if a value is wrong.
    """
    if workers > 1 and storage is None:
        raise ValueError(
            "expected a storage for several workers, got none; pass storage='study.journal'"
        )
    names = [str(o) for o in objectives]
    identity = json.loads(
        json.dumps({"sampler": sampler, "seed": seed, "objectives": names, **(fingerprint or {})})
    )
    make: dict[str, Any] = {
        "sampler": sampler,
        "seed": seed,
        "known": known,
        "ref_point": None if ref_point is None else [ref_point[n] for n in names],
        "warm_start": warm_start,
        "options": options,
    }
    study = _open(name, storage, len(names), identity)
    _fail_abandoned(study)
    bar = tqdm(
        total=n_trials,
        initial=min(n_trials, len(_complete(study))),
        desc=name,
        unit="trial",
        disable=not progress,
    )
    with bar:
        if workers == 1:
            for _ in _work(study, storage, space, evaluate, names, make, n_trials):
                _show(bar, study, objectives, ref_point, ideal)
        elif len(_complete(study)) < n_trials:
            _run_workers(
                workers,
                (name, storage, identity, space, evaluate, names, make, n_trials),
                study,
                bar,
            )
    return _result(study, objectives, ref_point, ideal)


def _open(
    name: str, storage: PathLike | None, num_objectives: int, identity: dict[str, Any]
) -> optuna.Study:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        study = optuna.create_study(
            storage=open_storage(storage),
            study_name=name,
            directions=["minimize"] * num_objectives,
            load_if_exists=True,
        )
    except (KeyError, AssertionError) as error:
        raise StudyStorageError(
            f"expected an Optuna study in {storage}, got something else: {error!r}"
        ) from error
    stored = study.user_attrs.get(_FINGERPRINT)
    if stored is None and not study.get_trials(deepcopy=False):
        study.set_user_attr(_FINGERPRINT, identity)
    elif stored != identity:
        old = stored if isinstance(stored, dict) else {}
        differing = sorted(k for k in {*identity, *old} if identity.get(k) != old.get(k))
        raise StudyStorageError(
            f"expected study {name!r} in {storage} to be this one, but it differs in {', '.join(differing)}: it has "
            f"{ {k: old.get(k) for k in differing} }, got { {k: identity.get(k) for k in differing} }; "
            "use another name or output folder"
        )
    return study


def _fail_abandoned(study: optuna.Study) -> None:
    """Give up the trials that a killed process left running, so that their proposals are made again."""
    from optuna.trial import TrialState

    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        study.tell(trial.number, state=TrialState.FAIL)


def _complete(study: optuna.Study) -> list[Any]:
    from optuna.trial import TrialState

    return study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))


def _work(
    study: optuna.Study,
    storage: PathLike | None,
    space: SearchSpace,
    evaluate: Evaluate,
    names: list[str],
    make: dict[str, Any],
    n_trials: int,
) -> Iterator[None]:
    """Ask, evaluate and tell until the study holds enough trials, counting those that others are running."""
    from optuna.distributions import BaseDistribution, CategoricalDistribution
    from optuna.trial import TrialState

    from nas.searchers import make_sampler

    study.sampler = make_sampler(
        make["sampler"], seed=make["seed"], known=make["known"], ref_point=make["ref_point"],
        warm_start=make["warm_start"], **make["options"],
    )  # fmt: skip
    slots: dict[str, BaseDistribution] = {
        n: CategoricalDistribution(v) for n, v in space.to_optuna().items()
    }
    claim = FileLock(f"{storage}.claim") if _is_file(storage) else contextlib.nullcontext()
    while True:
        with claim:  # between counting and asking no other worker may ask
            held = study.get_trials(
                deepcopy=False, states=(TrialState.COMPLETE, TrialState.RUNNING)
            )
            if len(held) >= n_trials:
                return
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", category=UserWarning)
                trial = study.ask(slots)
        architecture = space.from_params(trial.params)
        evaluation = _earlier(study, architecture) or evaluate(architecture)
        trial.set_user_attr(_EVALUATION, evaluation.to_json())
        study.tell(trial, [evaluation.value(n) for n in names])
        yield


def _is_file(storage: PathLike | None) -> bool:
    return storage is not None and "://" not in str(storage)


def _earlier(study: optuna.Study, architecture: Architecture) -> Evaluation | None:
    wanted = architecture.to_json()
    for trial in _complete(study):
        if trial.user_attrs[_EVALUATION]["architecture"] == wanted:
            return Evaluation.from_json(trial.user_attrs[_EVALUATION])
    return None


def _worker(
    name: str,
    storage: PathLike,
    identity: dict[str, Any],
    space: SearchSpace,
    evaluate: Evaluate,
    names: list[str],
    make: dict[str, Any],
    n_trials: int,
    num_threads: int,
) -> None:
    import torch

    torch.set_num_threads(
        num_threads
    )  # a process of our own: the cores are shared with the other workers
    study = _open(name, storage, len(names), identity)
    for _ in _work(study, storage, space, evaluate, names, make, n_trials):
        pass


def _run_workers(workers: int, arguments: tuple[Any, ...], study: optuna.Study, bar: Any) -> None:
    import torch

    n_trials = arguments[-1]
    context = multiprocessing.get_context(
        "spawn"
    )  # a forked child would keep this run's folder lock
    threads = max(1, torch.get_num_threads() // workers)
    processes = [
        context.Process(target=_worker, args=(*arguments, threads), daemon=True)
        for _ in range(workers)
    ]
    for process in processes:
        process.start()
    try:
        while any(process.is_alive() for process in processes):
            for process in processes:
                process.join(timeout=0.5)
            bar.n = min(n_trials, len(_complete(study)))
            bar.refresh()
    finally:
        for process in processes:
            process.terminate()
            process.join()
    if len(_complete(study)) < n_trials:
        codes = [process.exitcode for process in processes]
        raise RuntimeError(
            f"expected {n_trials} trials, got {len(_complete(study))}: workers ended with {codes}; run again to resume"
        )


def _show(
    bar: Any,
    study: optuna.Study,
    objectives: Sequence[Objective],
    ref_point: Mapping[str, float] | None,
    ideal: Mapping[str, float] | None,
) -> None:
    bar.update()
    trials = _complete(study)
    if ref_point is not None and ideal is not None:
        ref, best = ([box[str(o)] for o in objectives] for box in (ref_point, ideal))
        bar.set_postfix_str(
            f"hypervolume {normalized_hypervolume([t.values for t in trials], best, ref):.4f}"
        )


def _result(
    study: optuna.Study,
    objectives: Sequence[Objective],
    ref_point: Mapping[str, float] | None,
    ideal: Mapping[str, float] | None,
) -> StudyResult:
    from nas.searchers.indexed import index_of

    trials = sorted(
        _complete(study),
        key=lambda t: (index_of(t) if index_of(t) is not None else t.number, t.number),
    )
    evaluations = tuple(Evaluation.from_json(t.user_attrs[_EVALUATION]) for t in trials)
    Y = np.array([[e.value(o) for o in objectives] for e in evaluations])
    ref = (
        np.array([ref_point[str(o)] for o in objectives])
        if ref_point
        else default_ref_point(Y[:10])
    )
    best = (
        np.array([ideal[str(o)] for o in objectives])
        if ideal
        else Y.min(axis=0) - 1e-9 * np.abs(Y.min(axis=0))
    )
    trace = [float(normalized_hypervolume(Y[: i + 1], best, ref)) for i in range(len(Y))]
    return StudyResult(
        evaluations, tuple(objectives), tuple(ref.tolist()), tuple(best.tolist()), trace
    )
