"""Several processes of this machine on one study; one that is killed is replaced."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from multiprocessing import connection as connections
from multiprocessing import resource_tracker
from typing import TYPE_CHECKING, Any

from nas.heartbeat import working
from nas.retried_storage import PATIENCE_S
from nas.study_loop import complete_trials, work
from nas.study_plan import StudyPlan, open_study

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

    import optuna

_MAX_KILLED = 10  # in a row, without a trial that ends: something kills every worker
_LOOK_S = 0.5


class WorkerError(ValueError):
    """A process that worked on a study failed; the finished trials are kept."""


def _worker(plan: StudyPlan, num_threads: int, told: Connection) -> None:
    import torch

    end_with_parent()
    torch.set_num_threads(num_threads)  # a process of our own, which shares the cores with others
    try:
        with working(plan.heartbeat_s) as owner:
            # The study exists; its server may be away just now.
            for _ in work(open_study(plan, patience_s=PATIENCE_S), plan, owner):
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


def end_with_parent() -> None:
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

    What a killed worker left is taken up by the others: they see that its process is gone.

    Raises:
        WorkerError: if a worker ends with an exception, or too many are killed.
    """
    import torch

    # A forked child would inherit locks and threads.
    context = multiprocessing.get_context("spawn")
    threads = max(1, torch.get_num_threads() // workers)
    alive: list[tuple[Any, Connection]] = []
    num_complete = len(complete_trials(study))
    missing, num_killed = min(workers, plan.n_trials - num_complete), 0
    try:
        while True:
            for _ in range(missing):
                report, told = context.Pipe(duplex=False)
                process = context.Process(target=_worker, args=(plan, threads, told), daemon=True)
                with _held_interrupt():
                    process.start()
                told.close()
                alive.append((process, report))
            if not alive:
                return
            connections.wait([process.sentinel for process, _ in alive], timeout=_LOOK_S)
            ended = [pair for pair in alive if not pair[0].is_alive()]
            missing = 0
            for process, report in ended:
                if process.exitcode > 0:
                    what = f"an exception in a worker ({_report(report, process.exitcode)})"
                    raise WorkerError(
                        f"expected every trial to be evaluated, got {what}; "
                        "the finished trials are kept: mend it and run again"
                    )
                report.close()
                alive.remove((process, report))
                # One that ends by itself found nothing left to do.
                missing += process.exitcode < 0
            before, num_complete = num_complete, len(complete_trials(study))
            num_killed = (num_killed if num_complete == before else 0) + missing
            if num_killed > _MAX_KILLED:
                raise WorkerError(
                    f"expected workers that live, got {num_killed} killed ones in a row; the finished trials are kept: "
                    "free some memory or use fewer workers, and run again"
                )
            on_progress()
    finally:
        for process, _ in alive:
            process.terminate()
        for process, report in alive:
            process.join()
            report.close()


def _report(report: Connection, exit_code: int) -> str:
    """What a worker said before it ended, if it knew."""
    with contextlib.suppress(EOFError, OSError):
        if report.poll():
            return str(report.recv())
    return f"exit code {exit_code}, its traceback is above"
