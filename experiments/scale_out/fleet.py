"""Processes that join one study, each as if it were alone on a machine of its own, and that may be killed."""

from __future__ import annotations

import json
import multiprocessing
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import optuna

from nas import heartbeat
from nas.objectives import Evaluation, Objective
from nas.storage import open_plain
from nas.study import StudyResult, run_study
from nas.study_workers import end_with_parent
from search_spaces import Architecture, SearchSpace, costs, preset

#: Imported once, in the process that the others are forked from: a worker starts in milliseconds.
PRELOAD = ["experiments.scale_out.fleet", "nas.sql_storage", "nas.searchers", "nas.study_workers"]
NAMES = ("params", "weight_bytes")
SPACE = "gpt-s"
_STUDY = "scale-out"


@dataclass(frozen=True)
class Task:
    """What a process of a fleet does: join a study until it is full.

    Args:
        storage: of the study; None only where one process is alone.
        trials: to reach.
        log: of evaluations, one JSON line as each begins and ends.
        sampler: by name.
        seed: of it.
        delay_s: how long an evaluation takes; what it returns is a closed form.
        heartbeat_s: as of ``run_study``.
        machine: name of the machine that the process is said to be on; None for the real one. Deaths on another machine show by their
            heartbeats only.
    """

    storage: str | None
    trials: int
    log: Path
    sampler: str = "random"
    seed: int = 0
    delay_s: float = 0.0
    heartbeat_s: float = 0.5
    machine: str | None = None


@dataclass(frozen=True)
class Evaluate:
    """Parameters and bytes in closed form, after a while, with a line in a log before and after."""

    space: SearchSpace
    log: Path
    delay_s: float

    def __call__(self, architecture: Architecture) -> Evaluation:
        """Evaluation of one architecture."""
        self._write(architecture, "begin")
        time.sleep(self.delay_s)
        found = costs(architecture, self.space.family)
        values = {"params": found.params, "weight_bytes": found.weight_bytes}
        self._write(architecture, "end")
        return Evaluation(architecture, values)

    def _write(self, architecture: Architecture, what: str) -> None:
        line = {
            "pid": os.getpid(),
            "key": architecture.key,
            "what": what,
            "time": time.monotonic(),
        }
        with self.log.open("ab") as file:  # one write: lines of several processes do not mix
            file.write(json.dumps(line).encode() + b"\n")


def join(task: Task) -> StudyResult:
    """Work on the study of a task, alone in this process."""
    if task.machine is not None:
        setattr(heartbeat, "machine", lambda: task.machine)  # noqa: B010
    space = preset(SPACE)
    return run_study(
        _STUDY,
        space,
        Evaluate(space, task.log, task.delay_s),
        [Objective.parse(n) for n in NAMES],
        sampler=task.sampler,
        n_trials=task.trials,
        seed=task.seed,
        storage=task.storage,
        heartbeat_s=task.heartbeat_s,
        progress=False,
    )


def _join(task: Task) -> None:
    end_with_parent()
    go = _go_file(task)
    while not go.exists():  # no semaphore: one that is killed would keep it
        time.sleep(0.002)
    join(task)


def _go_file(task: Task) -> Path:
    return task.log.with_suffix(".go")


class Fleet:
    """Processes on one study.

    Args:
        task: of each; they are on machines of their own if it says ``machine``.
    """

    def __init__(self, task: Task) -> None:
        self.task = task
        self.context = multiprocessing.get_context("forkserver")
        self.context.set_forkserver_preload(PRELOAD)
        self.processes: list[Any] = []
        self.killed: dict[int, float] = {}  # process number -> when
        self._started = 0

    def start(self, number: int = 1) -> None:
        """Start processes; they wait until :meth:`go`."""
        for _ in range(number):
            self._started += 1
            task = self.task
            if task.machine is not None:
                task = replace(task, machine=f"{task.machine}-{self._started}")
            process = self.context.Process(target=_join, args=(task,), daemon=True)
            process.start()
            self.processes.append(process)

    def go(self) -> float:
        """Let those that were started begin; the time on the clock of the log."""
        _go_file(self.task).touch()
        return time.monotonic()

    def kill(self, position: int) -> None:
        """Kill -9 one of those that live, and start another in its place."""
        alive = [p for p in self.processes if p.is_alive()]
        if not alive:
            return
        victim = alive[position % len(alive)]
        victim.kill()
        self.killed[victim.pid] = time.monotonic()
        victim.join()
        self.start()

    def wait(self, timeout_s: float) -> None:
        """Until all have ended.

        Raises:
            RuntimeError: if one ended with an error, or does not end.
        """
        end = time.monotonic() + timeout_s
        for process in self.processes:
            process.join(max(0.0, end - time.monotonic()))
        bad = [p.exitcode for p in self.processes if p.exitcode != 0 and p.pid not in self.killed]
        if bad:
            raise RuntimeError(
                f"expected every process to end with 0, got {bad} (None: it still runs)"
            )

    def close(self) -> None:
        """Kill those that are left."""
        for process in self.processes:
            if process.is_alive():
                process.kill()
                process.join()


@contextmanager
def fleet(task: Task) -> Iterator[Fleet]:
    """A fleet without processes yet; those it still has when the block ends are killed."""
    made = Fleet(task)
    try:
        yield made
    finally:
        made.close()


def load(task: Task) -> optuna.Study:
    """The study of a task, as it is stored."""
    return optuna.load_study(study_name=_STUDY, storage=open_plain(str(task.storage)))


def read_log(path: Path) -> list[dict[str, Any]]:
    """Lines of evaluations that began and ended."""
    return [json.loads(line) for line in path.read_bytes().splitlines()] if path.exists() else []
