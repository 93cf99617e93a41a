"""``python -m experiments.botorch_reference``: qlognehvi and qlognparego beside BoTorch as its tutorials assemble it, in one process."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import torch
from rich.console import Console
from rich.table import Table
from threadpoolctl import threadpool_limits

from experiments.botorch_reference.race import (
    ARMS,
    Arm,
    Record,
    one_suggestion,
    path_of,
    race,
    recorded,
)
from experiments.results import ROOT, command_line, result_folder, run, write_csv, write_result
from experiments.searchers.judged import JudgedProblem
from experiments.searchers.problems import problem
from nas.deploy.runtime import Runtime
from nas.files import append_jsonl, read_jsonl

CHECKPOINTS = (25, 50, 100)
_AROUND = 5  # suggestions whose median stands for one of them
Row = dict[str, Any]


@dataclass(frozen=True)
class Recipe:
    """What is compared.

    Args:
        problem: of ``experiments.searchers``; its parameters must be lists of values.
        arms: by name (``experiments/botorch_reference/race.py``).
        seeds: of every arm.
        trials: told trials of a run. BoTorch as it comes takes 3 to 25 s a suggestion.
        search: go on with the runs; without it, tables of what is there.
        paired: time one suggestion of every arm after the same told trials, those of the first arm's first seed.
        out: working folder; a killed run goes on from its last told trial.
        results: where the folder of this machine's results is.
    """

    problem: str = "gpt-s/a100/perplexity+latency"
    arms: tuple[str, ...] = tuple(arm.name for arm in ARMS if "one-hot" not in arm.name)
    seeds: int = 2
    trials: int = 100
    search: bool = True
    paired: bool = True
    out: Path = Path("runs/botorch_reference")
    results: Path = ROOT


def main(recipe: Recipe) -> None:
    """Run what is missing and write what is known."""
    known = {arm.name: arm for arm in ARMS}
    if unknown := [name for name in recipe.arms if name not in known]:
        raise ValueError(f"expected arms in {'; '.join(known)}, got {'; '.join(unknown)}")
    if recipe.seeds < 1 or recipe.trials < 1:
        raise ValueError(
            f"expected seeds and trials of 1 or more, got {recipe.seeds} and {recipe.trials}"
        )
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    torch.set_num_threads(1)
    say = Console()
    judged = problem(recipe.problem)
    arms = [known[name] for name in recipe.arms]
    with threadpool_limits(1):
        if recipe.search:
            _search(arms, judged, recipe, say)
        runs = {
            arm.name: {
                seed: found
                for seed in range(recipe.seeds)
                if (found := recorded(path_of(recipe.out, arm, judged, seed))[: recipe.trials])
            }
            for arm in arms
        }
        paired = _paired(arms, judged, runs, recipe, say)
    rows = _rows(runs, judged, paired)
    folder = result_folder("botorch_reference", results=recipe.results)
    write_csv(folder / "arms.csv", rows)
    write_result(
        folder,
        command=command_line("experiments.botorch_reference", recipe),
        seeds=range(recipe.seeds),
        values={"problem": judged.name, "problem_version": judged.version, "arms": rows},
        runtime=Runtime("cpu", "float32", 1),
    )
    if rows:
        table = Table(*rows[0], title=f"{judged.name}: share of the best known hypervolume, %")
        for row in rows:
            table.add_row(*("" if value is None else str(value) for value in row.values()))
        say.print(table)
    say.print(f"Results in {folder}", markup=False)
    say.print(
        "next: the same command goes on with unfinished runs; --no-search --no-paired only writes the tables",
        markup=False,
    )


def _search(arms: list[Arm], judged: JudgedProblem, recipe: Recipe, say: Console) -> None:
    for seed in range(recipe.seeds):
        for arm in arms:
            path = path_of(recipe.out, arm, judged, seed)
            begun, start = len(recorded(path)), time.monotonic()

            def tell(
                record: Record,
                name: str = f"{arm.name}, seed {seed}",
                begun: int = begun,
                start: float = start,
            ) -> None:
                done = record["index"] + 1
                if done % 10 == 0 or done == recipe.trials:
                    left = (time.monotonic() - start) / (done - begun) * (recipe.trials - done)
                    say.print(
                        f"{name}: {done} of {recipe.trials} trials, {left / 60:.1f} min left at this pace",
                        markup=False,
                    )

            race(arm, judged, seed, recipe.trials, path, tell)


def _paired(
    arms: list[Arm],
    judged: JudgedProblem,
    runs: dict[str, dict[int, list[Record]]],
    recipe: Recipe,
    say: Console,
) -> dict[tuple[str, int], float]:
    """Seconds of one suggestion of each arm after the same told trials; kept, so that each is timed once.

    Each comes from a sampler that has told trials but no memory of its own: ours repeats up to four fits, which a running study does not.
    """
    path = recipe.out / "paired.jsonl"
    kept = read_jsonl(path) if path.exists() else []
    found = {}
    told = runs[arms[0].name].get(0, [])
    for arm in arms:
        for n in CHECKPOINTS:
            key = {"arm": arm.name, "code": [arm.code, arms[0].code], "n": n}
            key["problem"] = judged.version
            seconds = [r["seconds"] for r in kept if {k: r[k] for k in key} == key]
            if not seconds and recipe.paired and len(told) >= n:
                seconds = [round(one_suggestion(arm, judged, told[:n], seed=0), 4)]
                append_jsonl(path, key | {"seconds": seconds[0]})
                say.print(f"{arm.name}: {seconds[0]} s after {n} trials", markup=False)
            if seconds:
                found[arm.name, n] = seconds[-1]
    return found


def _rows(
    runs: dict[str, dict[int, list[Record]]],
    judged: JudgedProblem,
    paired: dict[tuple[str, int], float],
) -> list[Row]:
    """One row for each arm: mean shares and median processor seconds at the checkpoints over the seeds that got there."""
    rows = []
    for name, by_seed in runs.items():
        row: Row = {"arm": name, "seeds": len(by_seed)}
        row["trials"] = " ".join(str(len(r)) for r in by_seed.values())
        for n in CHECKPOINTS:
            there = [r for r in by_seed.values() if len(r) >= n]
            shares = [judged.box.share([x["values"] for x in r[:n]]) for r in there]
            seconds = [np.median([x["seconds"] for x in r[n - _AROUND : n]]) for r in there]
            row[f"share@{n}"] = round(100.0 * float(np.mean(shares)), 2) if there else None
            row[f"s@{n}"] = round(float(np.mean(seconds)), 3) if there else None
            row[f"paired s@{n}"] = paired.get((name, n))
        points = [[tuple(x["point"]) for x in r] for r in by_seed.values()]
        row["repeats"] = sum(len(p) - len(set(p)) for p in points)
        rows.append(row)
    return rows


if __name__ == "__main__":
    run(main, Recipe, __doc__)
