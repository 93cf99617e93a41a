"""The inside of a study: claim a place, ask, evaluate, tell; in this process or in several."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
import uuid
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from getpass import getuser
from multiprocessing import resource_tracker
from pathlib import Path
from tempfile import gettempdir
from typing import TYPE_CHECKING, Any
from zlib import crc32

from filelock import FileLock

from nas.files import PathLike
from nas.journal import StudyStorageError, open_storage
from nas.objectives import Evaluation
from search_spaces import Architecture, SearchSpace

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

    import optuna
    from optuna.distributions import BaseDistribution

Evaluate = Callable[[Architecture], Evaluation]
EVALUATION, FINGERPRINT, OWNER = "evaluation", "nas:fingerprint", "nas:worker"
_MAX_RESTARTS = 10


class WorkerError(ValueError):
    """A process that worked on a study failed; the finished trials are kept."""


@dataclass(frozen=True)
class StudyPlan:
    """All that a process must know to work on a study; picklable when ``evaluate`` is.

    Args:
        name: of the study in its storage.
        storage: journal file, Optuna storage URL, or None for memory.
        identity: JSON values that say what the trials mean.
        space: whose static choices are the parameters.
        evaluate: scores an architecture.
        names: of the objectives.
        constraints: objective name to the largest allowed value.
        sampler: keyword arguments of ``make_sampler``, and its ``name``.
        n_trials: finished trials to reach.
    """

    name: str
    storage: PathLike | None
    identity: Mapping[str, Any]
    space: SearchSpace
    evaluate: Evaluate
    names: tuple[str, ...]
    constraints: Mapping[str, float]
    sampler: Mapping[str, Any]
    n_trials: int

    def slots(self) -> dict[str, BaseDistribution]:
        """The choices of the space as Optuna's distributions."""
        from optuna.distributions import CategoricalDistribution

        return {n: CategoricalDistribution(v) for n, v in self.space.to_optuna().items()}

    def make_sampler(self) -> optuna.samplers.BaseSampler:
        """A new sampler.

        Raises:
            ValueError: if its name or an option is unknown or wrong.
        """
        from nas.searchers import make_sampler

        options = dict(self.sampler)
        if str(options["name"]).startswith("qlog"):
            options = {"search_space": self.slots(), "canonical": _Canonical(self.space)} | options
        with _quiet():
            return make_sampler(**options)

    def lock(self, purpose: str, timeout_s: float = -1.0) -> contextlib.AbstractContextManager[Any]:
        """A lock between the processes of this machine that the kernel frees when its holder is killed.

        Args:
            purpose: ``run`` (a call of ``run_study``) or ``claim`` (from counting the trials to asking for one).
            timeout_s: seconds to wait before ``filelock.Timeout``; negative waits for ever.
        """
        if self.storage is None:
            return contextlib.nullcontext()
        if "://" not in str(self.storage):
            return FileLock(f"{self.storage}.{purpose}", timeout=timeout_s)
        token = crc32(f"{self.storage} {self.name} {getuser()}".encode())
        path = Path(gettempdir()) / f"nas-study-{token:08x}.{purpose}"
        return FileLock(path, timeout=timeout_s)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without Optuna's warnings that NSGA-III is experimental, and that a categorical choice is no number."""
    from optuna.exceptions import ExperimentalWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", category=UserWarning)
        warnings.simplefilter("ignore", category=ExperimentalWarning)
        yield


def open_study(plan: StudyPlan) -> optuna.Study:
    """Open or create the study of a plan.

    Raises:
        StudyStorageError: if the storage holds something else under this name.
    """
    import optuna

    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        study = optuna.create_study(
            storage=open_storage(plan.storage),
            study_name=plan.name,
            directions=["minimize"] * len(plan.names),
            load_if_exists=True,
        )
    except (KeyError, AssertionError) as error:
        raise StudyStorageError(
            f"expected an Optuna study in {plan.storage}, got something else: {error!r}; use another storage"
        ) from error
    finally:
        optuna.logging.set_verbosity(verbosity)
    identity = dict(plan.identity)
    stored = study.user_attrs.get(FINGERPRINT)
    if stored is None and not study.get_trials(deepcopy=False):
        study.set_user_attr(FINGERPRINT, identity)
    elif stored != identity:
        remedy = "use another name or output folder"
        if "://" in str(plan.storage):  # the output folder does not choose the study of a database
            remedy = "use another database, or another name in it"
        old = stored if isinstance(stored, dict) else {}
        differing = sorted(k for k in {*identity, *old} if identity.get(k) != old.get(k))
        raise StudyStorageError(
            f"expected study {plan.name!r} in {plan.storage} to be this one, but it differs in {', '.join(differing)}: "
            f"it has { {k: old.get(k) for k in differing} }, got { {k: identity.get(k) for k in differing} }; "
            f"{remedy}"
        )
    return study


def complete_trials(study: optuna.Study) -> list[optuna.trial.FrozenTrial]:
    """The finished trials, in the order they were asked for."""
    from optuna.trial import TrialState

    return study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))


def running_trials(study: optuna.Study) -> list[optuna.trial.FrozenTrial]:
    """The trials that were asked for and not told."""
    from optuna.trial import TrialState

    return study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))


def fail_trials(study: optuna.Study, owners: Sequence[str] = ()) -> int:
    """Give up the running trials of all but ``owners``, so that their proposals are made again; returns how many."""
    from optuna.trial import TrialState

    abandoned = [t for t in running_trials(study) if t.user_attrs.get(OWNER) not in owners]
    for trial in abandoned:
        study.tell(trial.number, state=TrialState.FAIL, skip_if_finished=True)
    return len(abandoned)


@dataclass
class _Canonical:
    """Parameters of an architecture in the one spelling of its space: inactive choices at their first value."""

    space: SearchSpace

    def __call__(self, params: dict[str, Any]) -> dict[str, Any]:
        return dict(self.space.to_params(self.space.from_params(params)))


@dataclass
class _Ledger:
    """Which architectures a study has asked for and what they scored; reads each trial once."""

    space: SearchSpace
    keys: dict[int, str] = field(default_factory=dict)
    told: dict[str, Mapping[str, Any]] = field(default_factory=dict)

    def read(self, trials: Sequence[optuna.trial.FrozenTrial]) -> set[str]:
        """Keys of the architectures of trials, remembering the evaluations among them."""
        found = set()
        for trial in trials:
            if trial.number not in self.keys and len(trial.params) == self.space.dim:
                self.keys[trial.number] = self.space.from_params(trial.params).key
            key = self.keys.get(trial.number)
            if key is None:
                continue
            found.add(key)
            if EVALUATION in trial.user_attrs and trial.state.is_finished():
                self.told.setdefault(key, trial.user_attrs[EVALUATION])
        return found


def work(study: optuna.Study, plan: StudyPlan, owner: str) -> Iterator[None]:
    """Ask, evaluate and tell until the study holds enough trials, counting those that others are running.

    Asking is one at a time among all processes, so that every proposal knows those still running; evaluating is not. Yields after each
    trial, and ends early when every architecture of the space has been asked for.
    """
    from optuna.trial import TrialState

    slots = plan.slots()
    study.sampler = plan.make_sampler()
    ledger = _Ledger(plan.space)
    claim = plan.lock("claim")
    while True:
        with claim:  # between counting and asking no other worker may ask
            held = complete_trials(study) + running_trials(study)
            if len(held) >= plan.n_trials or len(ledger.read(held)) >= plan.space.cardinality:
                return
            with _quiet():
                trial = study.ask(slots)
            trial.set_user_attr(OWNER, owner)
        try:
            architecture = plan.space.from_params(trial.params)
            stored = ledger.told.get(architecture.key)
            evaluation = Evaluation.from_json(stored) if stored else plan.evaluate(architecture)
            values = [float(evaluation.value(n)) for n in plan.names]
            for name, bound in plan.constraints.items():
                excess = evaluation.value(name) - bound
                trial.set_constraint(name, excess / (abs(bound) or 1.0))
            trial.set_user_attr(EVALUATION, evaluation.to_json())
            study.tell(trial, values)
        except BaseException:
            # Ctrl-C too: the place is given back, and whoever resumes makes the same proposal.
            with contextlib.suppress(Exception):
                study.tell(trial, state=TrialState.FAIL)
            raise
        yield


def _worker(plan: StudyPlan, owner: str, num_threads: int, told: Connection) -> None:
    import torch

    _end_with_parent()
    torch.set_num_threads(num_threads)  # a process of our own, which shares the cores with others
    try:
        for _ in work(open_study(plan), plan, owner):
            pass
    except (ValueError, OSError) as error:  # wrong input, a full disk: the message says it all
        told.send(str(error))
        sys.exit(1)


@contextlib.contextmanager
def _held_interrupt() -> Iterator[None]:
    """A process that starts in here never sees Ctrl-C: the parent answers it, after this block, and ends its workers."""
    if sys.platform == "win32":
        yield
        return
    resource_tracker.ensure_running()  # if the first process started it, that would lift the mask
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # children inherit the mask
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _end_with_parent() -> None:
    """A parent that is killed cannot stop its workers; left alone they would go on beside the run that resumes."""
    parent = multiprocessing.parent_process()

    def watch() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def run_workers(
    study: optuna.Study, plan: StudyPlan, workers: int, on_progress: Callable[[], None]
) -> None:
    """Work in several processes until the study is full; a worker that is killed is replaced.

    Raises:
        WorkerError: if a worker ends with an exception, or too many are killed.
    """
    import torch

    # A forked child would inherit locks and threads.
    context = multiprocessing.get_context("spawn")
    threads = max(1, torch.get_num_threads() // workers)
    alive: dict[str, Any] = {}
    reports: dict[str, Connection] = {}
    missing, num_killed = min(workers, plan.n_trials - len(complete_trials(study))), 0
    try:
        while True:
            for _ in range(missing):
                owner = uuid.uuid4().hex
                reports[owner], told = context.Pipe(duplex=False)
                arguments = (plan, owner, threads, told)
                process = context.Process(target=_worker, args=arguments, daemon=True)
                with _held_interrupt():
                    process.start()
                told.close()
                alive[owner] = process
            if not alive:
                return
            for process in alive.values():
                process.join(timeout=0.2)
            ended = {owner: p for owner, p in alive.items() if not p.is_alive()}
            missing = 0
            for owner, process in ended.items():
                del alive[owner]
                if process.exitcode > 0:
                    what = f"an exception in a worker ({_report(reports[owner], process.exitcode)})"
                    raise WorkerError(
                        f"expected every trial to be evaluated, got {what}; "
                        "the finished trials are kept: mend it and run again"
                    )
                reports.pop(owner).close()
                missing += (
                    process.exitcode < 0
                )  # one that ends by itself finds no trial left to ask
            if missing:
                with plan.lock("claim"):
                    fail_trials(study, owners=list(alive))
            num_killed += missing
            if num_killed > _MAX_RESTARTS:
                raise WorkerError(
                    f"expected workers that live, got {num_killed} killed ones; the finished trials are kept: free some "
                    "memory or use fewer workers, and run again"
                )
            on_progress()
    finally:
        for process in alive.values():
            process.terminate()
            process.join()
        for report in reports.values():
            report.close()


def _report(report: Connection, exit_code: int) -> str:
    """What a worker said before it ended, if it knew."""
    with contextlib.suppress(EOFError, OSError):
        if report.poll():
            return str(report.recv())
    return f"exit code {exit_code}, its traceback is above"
