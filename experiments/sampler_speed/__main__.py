"""``python -m experiments.sampler_speed``: processor seconds a suggestion costs as the study grows, on one thread."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
import torch
from rich.console import Console
from rich.table import Table
from threadpoolctl import threadpool_limits

from experiments.results import ROOT, command_line, result_folder, run, write_result
from experiments.sampler_speed.studies import TwoSums, space, study_of
from nas.searchers import make_sampler, samplers

# The longest study a sampler is asked about: beyond, one suggestion takes seconds.
_MOST = {"gp": 100, "qlognehvi": 500, "qlognparego": 500, "tpe": 5000}
# NSGA keeps its generations in the storage: only a study that it made itself shows what it costs.
_OWN_STUDY = {"nsga2": 1000, "nsga3": 1000}
_SHORT, _LONG, _TARGET = 500, 5000, 3.0


@dataclass(frozen=True)
class Recipe:
    """What is timed.

    Args:
        samplers: by name.
        trials: lengths of the studies, ascending.
        suggestions: timed at each length, after a first one that a new sampler object makes as after a resume.
        seed: of the function, the told points and the samplers.
        results: folder of all results.
    """

    samplers: tuple[str, ...] = ("auto",)
    trials: tuple[int, ...] = (50, 100, 500, 1000, 5000, 10000)
    suggestions: int = 15
    seed: int = 0
    results: Path = ROOT


def main(recipe: Recipe) -> None:
    """Time the samplers, print the table and write it."""
    check(recipe)
    console = Console()
    table = Table("sampler", "trials", "ms", "slowest ms", "first s", title="A suggestion")
    rows = []
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        with threadpool_limits(1):
            for row in timed(recipe):
                rows.append(row)
                console.print(
                    f"{row['sampler']}: {1000 * row['seconds']:.1f} ms at {row['trials']} trials"
                )
                cells = (1000 * row["seconds"], 1000 * row["slowest"], row["first"])
                table.add_row(row["sampler"], str(row["trials"]), *(f"{c:.1f}" for c in cells))
            ratios = growth(rows)
            folder = result_folder("sampler_speed", results=recipe.results)
            path = write_result(
                folder,
                command=command_line("experiments.sampler_speed", recipe),
                seeds=[recipe.seed],
                values={"rows": rows, "growth_500_to_5000": ratios, "target": _TARGET},
            )
    finally:
        torch.set_num_threads(threads)
        optuna.logging.set_verbosity(verbosity)
    console.print(table)
    for name, ratio in ratios.items():
        verdict = "met" if ratio <= _TARGET else "not met"
        console.print(
            f"{name}: {_LONG} trials cost {ratio:.2f} times {_SHORT} (at most {_TARGET:g} wanted: {verdict})"
        )
    console.print(f"Result: {path}\nHow good the suggestions are: python -m experiments.searchers")


def check(recipe: Recipe) -> None:
    """Refuse a recipe that cannot be timed.

    Raises:
        ValueError: if a sampler is unknown, or the lengths or the number of suggestions are no numbers to time.
    """
    if unknown := sorted({*recipe.samplers} - {*samplers()}):
        raise ValueError(f"expected samplers in {', '.join(samplers())}, got {unknown}")
    if not recipe.trials or min(recipe.trials) < 1 or list(recipe.trials) != sorted(recipe.trials):
        raise ValueError(f"expected ascending lengths of studies of 1 or more, got {recipe.trials}")
    if recipe.suggestions < 1:
        raise ValueError(f"expected 1 suggestion or more to time, got {recipe.suggestions}")


def timed(recipe: Recipe) -> Iterator[dict[str, Any]]:
    """One row for each sampler and length: processor seconds of ask and tell, median, slowest, and of the first."""
    function = TwoSums(recipe.seed)
    for name in recipe.samplers:
        own = study_of(function, recipe.seed, 0) if name in _OWN_STUDY else None
        most = {**_MOST, **_OWN_STUDY}.get(name, max(recipe.trials))
        for n in (n for n in recipe.trials if n <= most):
            if own is None:
                study = study_of(function, recipe.seed, n)
            else:
                study = own
                study.sampler = make_sampler(name, seed=recipe.seed)
                while len(study.get_trials(deepcopy=False)) < n:
                    suggestion(study, function)
            study.sampler = make_sampler(name, seed=recipe.seed)
            first, *others = (suggestion(study, function) for _ in range(1 + recipe.suggestions))
            yield {
                "sampler": name,
                "trials": n,
                "seconds": statistics.median(others),
                "slowest": max(others),
                "first": first,
            }


def suggestion(study: optuna.Study, function: TwoSums) -> float:
    """Processor seconds of one ask and tell."""
    distributions = space()
    start = time.process_time()
    trial = study.ask(distributions)
    asked = time.process_time() - start
    values = function(trial.params)
    start = time.process_time()
    study.tell(trial, values)
    return asked + time.process_time() - start


def growth(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Sampler to the cost of a suggestion at 5000 trials over that at 500, for those timed at both."""
    seconds = {(row["sampler"], row["trials"]): row["seconds"] for row in rows}
    return {
        name: seconds[name, _LONG] / seconds[name, _SHORT]
        for name, n in seconds
        if n == _SHORT and (name, _LONG) in seconds
    }


if __name__ == "__main__":
    run(main, Recipe, __doc__)
