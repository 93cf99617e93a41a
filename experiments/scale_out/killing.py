"""Kill the processes of a study at random moments, and hold what is left against a study that nobody killed."""

from __future__ import annotations

import itertools
import time
from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np

from experiments.scale_out.fleet import Fleet, Task, fleet, join, load, read_log
from nas.searchers.indexed import index_of


def kill_and_count(
    task: Task, *, workers: int, kills: int, seed: int, timeout_s: float
) -> dict[str, Any]:
    """Run a study with processes that are killed, and say what became of it.

    The moments are drawn over the progress of the study, not over the clock, so that a slow machine is killed as often. The random
    sampler's proposals depend on the trial's index alone: the finished trials must be exactly those of a study that one process ran
    at a stretch.

    Args:
        task: of every process.
        workers: that run at any time.
        kills: of random ones, each replaced by a new one.
        seed: of the moments and the victims.
        timeout_s: for all.

    Returns:
        JSON values; ``faults`` is empty if nothing was lost, duplicated, or evaluated by two at once.
    """
    rng = np.random.default_rng(seed)
    moments = np.sort(rng.integers(1, task.trials, size=kills))
    end = time.monotonic() + timeout_s
    with fleet(task) as running:
        running.start(workers)
        begun = running.go()
        for done in moments:
            _wait_for(running, int(done), end)
            time.sleep(float(rng.uniform(0.0, 0.05)))
            running.kill(int(rng.integers(workers)))
        running.wait(end - time.monotonic())
        wall_s = time.monotonic() - begun
        killed = running.killed
    return {"wall_s": round(wall_s, 2)} | count(task, killed)


def _wait_for(running: Fleet, done: int, end: float) -> None:
    while sum(line["what"] == "end" for line in read_log(running.task.log)) < done:
        if time.monotonic() > end:
            raise RuntimeError(f"expected {done} evaluations by now; the study stands still")
        time.sleep(0.01)


def count(task: Task, killed: dict[int, float]) -> dict[str, Any]:
    """What a study that has ended holds, and what is wrong with it.

    Args:
        task: of its processes.
        killed: process number to the time of its death.
    """
    trials = load(task).get_trials(deepcopy=False)
    states = Counter(t.state.name for t in trials)
    complete = [t for t in trials if t.state.name == "COMPLETE"]
    indices = sorted(i for i in map(index_of, complete) if i is not None)
    lines = read_log(task.log)
    expected = join(
        replace(
            task, storage=None, log=task.log.with_suffix(".expected"), delay_s=0.0, machine=None
        )
    )
    found = join(replace(task, machine=None, delay_s=0.0))
    faults = []
    if states != Counter(COMPLETE=task.trials, FAIL=states["FAIL"]):
        faults.append(f"states {dict(states)}")
    if indices != list(range(task.trials)):
        faults.append("indices are not 0, 1, 2, ...")
    if [t.number for t in trials] != list(range(len(trials))):
        faults.append("numbers are not 0, 1, 2, ...")
    if task.sampler == "random" and [e.architecture for e in found.evaluations] != [
        e.architecture for e in expected.evaluations
    ]:
        faults.append("other architectures than in a study that nobody killed")
    if twice := at_once(lines, killed):
        faults.append(f"evaluated by two at once: {twice}")
    begun = sum(line["what"] == "begin" for line in lines)
    return {
        "trials": len(complete),
        "kills": len(killed),
        "given_up_and_made_again": states["FAIL"],
        "evaluations_begun": begun,
        "evaluations_ended": sum(line["what"] == "end" for line in lines),
        "architectures": len({e.architecture for e in found.evaluations}),
        "faults": faults,
    }


def at_once(lines: list[dict[str, Any]], killed: dict[int, float]) -> list[str]:
    """Architectures that two living processes were evaluating at one time.

    Args:
        lines: of the log.
        killed: process number to the time of its death.
    """
    spans: dict[str, list[tuple[float, float]]] = {}
    open_: dict[tuple[int, str], float] = {}
    for line in sorted(lines, key=lambda line: line["time"]):
        place = (line["pid"], line["key"])
        if line["what"] == "begin":
            open_[place] = line["time"]
        else:
            spans.setdefault(line["key"], []).append((open_.pop(place), line["time"]))
    for (pid, key), begin in open_.items():
        spans.setdefault(key, []).append((begin, killed.get(pid, float("inf"))))
    found = []
    for key, pairs in spans.items():
        pairs.sort()
        if any(a[1] > b[0] for a, b in itertools.pairwise(pairs)):
            found.append(key)
    return found
