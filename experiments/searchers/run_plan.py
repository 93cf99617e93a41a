"""Running a plan: one run after another, each kept when done, with the time left."""

from __future__ import annotations

import time
import warnings
from collections.abc import Collection, Sequence
from datetime import timedelta
from pathlib import Path

from rich.console import Console

from experiments.searchers.judged import JudgedProblem
from experiments.searchers.loop import run_once
from experiments.searchers.plan import Task
from experiments.searchers.problems import is_without_table, problem
from experiments.searchers.progress import Progress

_GUESS_S = {
    True: 1.0,
    False: 0.01,
}  # a suggestion of a slow method, of another, before any was timed


def run_plan(
    plan: Sequence[Task],
    progress: Progress,
    fresh: Collection[str],
    cache: Path,
    table: Path | None,
    say: Console,
) -> None:
    """Run what is missing, in order; each finished run is kept at once.

    Args:
        plan: the runs.
        progress: where finished runs are kept.
        fresh: methods whose runs by other code do not count.
        cache: folder of fronts and nets.
        table: measurements for the non-linear judges.
        say: where progress is printed, a line for each run.

    Raises:
        ValueError: if a problem cannot be made (those that need a table that is not here are left out, and said).
    """
    problems: dict[str, JudgedProblem | None] = {}

    def made(name: str) -> JudgedProblem | None:
        if name not in problems:
            try:
                problems[name] = problem(name, cache, table)
            except ValueError as error:
                if not is_without_table(name, error):
                    raise
                say.print(f"left out: {error}", markup=False, soft_wrap=True)
                problems[name] = None
        return problems[name]

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # experimental samplers of Optuna's
        for method in {task.method.name: task.method for task in plan}.values():
            method.make(0)  # now, so that all code that will run is loaded when its digest is taken
            assert method.code
    done = 0
    seconds: dict[str, float] = {}  # of a suggestion, by method, as last seen
    say.print(f"{len(plan)} runs planned; finished ones are in {progress.folder}", markup=False)
    for place, task in enumerate(plan):
        judged = made(task.problem)
        if judged is None:
            continue
        key = (task.problem, judged.version, task.method, task.seed, task.budget)
        if progress.find(*key, task.method.name in fresh) is not None:
            continue
        begin = time.perf_counter()
        found = run_once(judged, task.method, task.seed, task.budget)
        progress.add(*key, found)
        spent = time.perf_counter() - begin
        done += 1
        seconds[task.method.name] = spent / max(len(found["share"]), 1)
        left = sum(
            t.budget * seconds.get(t.method.name, _GUESS_S[t.method.is_slow])
            for t in plan[place + 1 :]
            if problems.get(t.problem, ...) is not None
        )
        say.print(
            f"{place + 1}/{len(plan)} {task.problem} {task.method.name} seed {task.seed}: "
            f"{found['share'][-1]:.1%} at {len(found['share'])} in {spent:.1f} s; "
            f"{timedelta(seconds=round(left))} left at most",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )
    say.print(f"{done} runs made now; the others were there, or were left out", markup=False)
