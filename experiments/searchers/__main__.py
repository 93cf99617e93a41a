"""``python -m experiments.searchers``: every method on every problem, resumable; then tables and plots."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console
from threadpoolctl import threadpool_limits

from experiments.results import ROOT, command_line, device_slug, run, write_result
from experiments.searchers.methods import select as select_methods
from experiments.searchers.plan import QUICK, STAGES, tasks
from experiments.searchers.problems import CACHE, names
from experiments.searchers.problems import select as select_problems
from experiments.searchers.progress import Progress
from experiments.searchers.report import write_report
from experiments.searchers.run_plan import run_plan
from nas.deploy.runtime import Runtime


@dataclass(frozen=True)
class Recipe:
    """What is compared.

    Args:
        methods: by name (``experiments/searchers/methods.py``); ``all``, ``others`` (all but ours), ``ablations``.
        problems: groups (a100, devices, energy, memory, three, noisy, constrained, nonlinear, scales, sparse, functions), names or shell
            patterns; all by default.
        seeds: of every method; by default the plan's: 20 for methods that take milliseconds, 2 to 5 for those that take seconds.
        budget: evaluations of a run, at most.
        quick: four problems, three seeds, 30 evaluations: whether it works. Its tables go to the working folder.
        redo: methods whose finished runs count only if the searchers' code is as it is now.
        table: measurements of HW-GPT-Bench's S space, for the non-linear judges; by default the file that the environment variable
            HW_GPT_BENCH_TABLE names or the one in a ``shared`` folder.
        search: run what is missing; without it, tables and plots of what is there.
        report: write tables and plots.
        out: working folder: finished runs, fronts, nets.
        results: where the folder of this machine's results is.
    """

    methods: tuple[str, ...] = ("all",)
    problems: tuple[str, ...] | None = None
    seeds: int | None = None
    budget: int = 200
    quick: bool = False
    redo: tuple[str, ...] = ()
    table: Path | None = None
    search: bool = True
    report: bool = True
    out: Path = CACHE
    results: Path = ROOT


def main(recipe: Recipe) -> None:
    """Run what is missing and write what is known."""
    for name in ("seeds", "budget"):
        value = getattr(recipe, name)
        if value is not None and value < 1:
            raise ValueError(f"expected {name} of 1 or more, got {value}")
    say = Console()
    methods = select_methods(recipe.methods)
    stale = {method.name for method in select_methods(recipe.redo)}
    plan = tasks(
        QUICK if recipe.quick else STAGES, methods, recipe.problems, recipe.seeds, recipe.budget
    )
    progress = Progress(recipe.out / "progress")
    if recipe.search:
        torch.set_num_threads(1)  # samplers are compared by the second on one core
        with threadpool_limits(1):
            run_plan(plan, progress, stale, recipe.out, recipe.table, say)
    if recipe.report:
        everything = names() if recipe.problems is None else select_problems(recipe.problems)
        wanted = tuple(dict.fromkeys(t.problem for t in plan)) if recipe.quick else everything
        usual = recipe.results / device_slug() / "searchers"
        folder = recipe.out / "quick" if recipe.quick else usual
        values = write_report(progress, wanted, recipe.out, recipe.table, folder, say)
        write_result(
            folder,
            command=command_line("experiments.searchers", recipe),
            seeds=sorted({task.seed for task in plan}),
            values=values,
            runtime=Runtime("cpu", "float32", 1),
        )
        say.print(f"Tables and plots: {folder}", markup=False)
    say.print(
        "next: python -m experiments.searchers --no-search writes them again; --methods ablations compares variants of auto "
        "(experiments/searchers/methods.py)",
        markup=False,
    )


if __name__ == "__main__":
    run(main, Recipe, __doc__)
