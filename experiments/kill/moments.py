"""When to kill: at seeded random points of every stage's progress, not of the clock, so that a slow machine is killed as often."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

_STEP = re.compile(rb"train supernet: .*? (\d+)/\d+ \[")
COMPLETE = 1  # Optuna's state of a finished trial


@dataclass(frozen=True)
class Moment:
    """One kill.

    Args:
        stage: one of :data:`PROGRESS`.
        done: steps, records, trials or measurements that the stage has by then.
        delay_s: seconds from there on, to land anywhere within the next one.
    """

    stage: str
    done: int
    delay_s: float


def steps_trained(folder: Path, log: Path) -> int:
    """Training steps on the progress bar of the process that writes ``log``."""
    found = _STEP.findall(log.read_bytes())
    return int(found[-1]) if found else 0


def lines(path: Path) -> list[bytes]:
    """Whole lines of a log; a torn last one is none."""
    return path.read_bytes().split(b"\n")[:-1] if path.exists() else []


def finished_trials(journal: Path) -> list[int]:
    """Numbers of the finished trials of a journal, read without Optuna: operation 6 sets a trial's state."""
    operations = [json.loads(line) for line in lines(journal)]
    return [o["trial_id"] for o in operations if o["op_code"] == 6 and o["state"] == COMPLETE]


#: Stage -> how far the run in a folder has come in it.
PROGRESS: dict[str, Callable[[Path, Path], int]] = {
    "train": steps_trained,
    "profile": lambda folder, log: len(lines(folder / "profile.jsonl")),
    "search": lambda folder, log: len(finished_trials(folder / "search.journal")),
    "random search": lambda folder, log: len(finished_trials(folder / "random-0.journal")),
    "verify": lambda folder, log: len(lines(folder / "verify.jsonl")),
}


def draw_moments(number: int, totals: dict[str, int], seed: int) -> list[Moment]:
    """Random moments in the order in which they come, spread evenly over the stages.

    Args:
        number: of kills.
        totals: stage -> what it will have done in the end.
        seed: of the draw.
    """
    rng = np.random.default_rng(seed)
    stages = list(totals)
    counts = {stage: number // len(stages) for stage in stages}
    for stage in rng.permutation(stages)[: number % len(stages)]:
        counts[str(stage)] += 1
    found = []
    for stage, count in counts.items():
        for done in sorted(rng.integers(0, totals[stage], size=count)):
            found.append(Moment(stage, int(done), float(rng.uniform(0.0, 0.3))))
    return found
