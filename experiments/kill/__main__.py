"""``python -m experiments.kill``: kill one run many times, and hold its end against an uninterrupted run's."""

from __future__ import annotations

import shutil
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import tyro
from rich.console import Console

from experiments.kill.moments import draw_moments
from experiments.kill.victim import Victim, differences, uninterrupted, write_text
from experiments.results import command_line, result_folder, write_result
from nas.deploy.profile import ROUNDS


@dataclass(frozen=True)
class Recipe:
    """What is killed.

    Args:
        kills: of the whole process group, spread over training, profiling, search, random search and verification.
        seed: of the moments.
        train_steps: of the supernet; a checkpoint every 25.
        trials: of the search; from the 13th on its model proposes.
        out: working folder, made anew.
    """

    kills: int = 20
    seed: int = 0
    train_steps: int = 60
    trials: int = 24
    out: Path = Path("runs/kill")


def main(recipe: Recipe) -> int:
    """Run the experiment and write its result; 0 if nothing was lost and the ends agree."""
    shutil.rmtree(recipe.out, ignore_errors=True)
    text = write_text(recipe.out / "text.txt", 200_000)
    options = ["--corpus", str(text), "--train-steps", str(recipe.train_steps)]
    options += ["--trials", str(recipe.trials), "--profile-architectures", "20"]
    options += ["--perplexity-tokens", "1024", "--random-seeds", "1", "--max-winners", "4"]
    options += ["--no-compile"]
    totals = {"train": recipe.train_steps, "profile": 20 * ROUNDS, "search": recipe.trials}
    totals |= {"random search": recipe.trials, "verify": 4 * 5}
    victim = Victim(recipe.out / "killed", options)
    console = Console()
    for number, moment in enumerate(draw_moments(recipe.kills, totals, recipe.seed), start=1):
        victim.kill_at(moment)
        console.print(
            f"kill {number}: {moment.stage}, {moment.done} done; lost: {victim.losses or 'nothing'}"
        )
    results = victim.finish()
    expected = uninterrupted(victim, recipe.out / "uninterrupted")
    differing = differences(results, expected)
    values = {
        "kills": len(victim.killed),
        "by_stage": dict(Counter(moment.stage for moment in victim.killed)),
        "lost": victim.losses,
        "done_twice": victim.repeated(),
        "differs_from_uninterrupted": differing,
        "records": 20 * (ROUNDS + 1),
        "trials": len(results["trials"]),
        "hypervolume": [results["hypervolume"], expected["hypervolume"]],
    }
    command = command_line("experiments.kill", recipe)
    path = write_result(result_folder("kill"), command=command, seeds=[recipe.seed], values=values)
    console.print(values)
    console.print(f"Result in {path}")
    return 1 if victim.losses or differing or values["done_twice"] else 0


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Recipe)))
