"""``python -m experiments.exhaustive``: the table, the race, its plot."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from experiments.exhaustive.race import box, race
from experiments.exhaustive.table import evaluate_table
from experiments.results import command_line, result_folder, run, write_result
from nas.deploy.profile import profile
from nas.deploy.runtime import Runtime, available_threads
from nas.files import write_bytes_atomic, write_text_atomic
from nas.pareto import non_dominated_mask
from nas.searchers import samplers
from nas.training import train_supernet
from search_spaces import preset


@dataclass(frozen=True)
class Recipe:
    """What is raced.

    Args:
        fraction: of the space that a study may evaluate.
        seeds: studies per sampler.
        tokens: held-out tokens of a perplexity.
        samplers: by name; all by default.
        processes: studies at once; by default one per core.
        out: working folder; a killed run goes on from it.
    """

    fraction: float = 0.05
    seeds: int = 10
    tokens: int = 2048
    samplers: tuple[str, ...] = samplers()
    processes: int | None = None
    out: Path = Path("runs/exhaustive")


def main(recipe: Recipe) -> None:
    """Run the experiment and write its table and plot."""
    supernet = train_supernet(preset("tiny"), out=recipe.out)
    device = profile(supernet, out=recipe.out)
    architectures, values = evaluate_table(
        supernet, device, recipe.tokens, recipe.out / "table.npz"
    )
    budget = round(recipe.fraction * len(values))
    runs = race(
        recipe.samplers,
        range(recipe.seeds),
        budget,
        architectures,
        values,
        recipe.out / "race.jsonl",
        recipe.processes or available_threads(),
    )
    rows = [_row(name, [r for r in runs if r["sampler"] == name]) for name in recipe.samplers]
    rows.sort(key=lambda row: -row["share_mean"])
    ideal, ref = box(values)
    folder = result_folder("exhaustive")
    write_result(
        folder,
        command=command_line("experiments.exhaustive", recipe),
        seeds=list(range(recipe.seeds)),
        values={
            "architectures": len(values),
            "front": int(non_dominated_mask(values).sum()),
            "budget": budget,
            "processes": recipe.processes or available_threads(),
            "ideal": ideal.tolist(),
            "ref_point": ref.tolist(),
            "supernet": supernet.info["sha256"],
            "profile": device.fingerprint,
            "profile_runtime": device.runtime.to_json(),
            "samplers": rows,
        },
        runtime=Runtime("cpu", "float32", 1),  # a study has one thread, whatever the profile chose
    )
    text = io.StringIO()
    writer = csv.DictWriter(text, rows[0])
    writer.writeheader()
    writer.writerows(rows)
    write_text_atomic(folder / "samplers.csv", text.getvalue())
    _plot(runs, rows, budget, folder / "samplers.png")
    table = Table(
        title=f"Share of the true hypervolume after {budget} of {len(values)} evaluations",
        title_justify="left",
    )
    for column in ("sampler", "mean", "std", "worst", "seeds", "s per trial"):
        table.add_column(column)
    for row in rows:
        table.add_row(
            row["sampler"],
            f"{row['share_mean']:.1%}",
            f"{row['share_std']:.1%}",
            f"{row['share_min']:.1%}",
            str(row["seeds"]),
            f"{row['s_per_trial']:.2f}",
        )
    console = Console()
    console.print(table)
    console.print(f"Results in {folder}: result.json, samplers.csv, samplers.png")


def _row(name: str, runs: list[dict[str, Any]]) -> dict[str, Any]:
    finals = np.array([r["share"][-1] for r in runs])
    return {
        "sampler": name,
        "share_mean": round(float(finals.mean()), 5),
        "share_std": round(float(finals.std(ddof=1)), 5) if len(finals) > 1 else 0.0,
        "share_min": round(float(finals.min()), 5),
        "seeds": len(finals),
        "s_per_trial": round(float(np.median([r["s_per_trial"] for r in runs])), 4),
    }


def _plot(runs: list[dict[str, Any]], rows: list[dict[str, Any]], budget: int, path: Path) -> None:
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    for row in rows:
        traces = np.array([r["share"] for r in runs if r["sampler"] == row["sampler"]])
        mean, std = traces.mean(axis=0), traces.std(axis=0)
        (line,) = axes.plot(range(1, budget + 1), mean, label=row["sampler"])
        axes.fill_between(
            range(1, budget + 1), mean - std, mean + std, color=line.get_color(), alpha=0.12
        )
    axes.axhline(0.97, color="0.4", linewidth=0.8, linestyle="--")
    axes.set_xlabel("evaluations")
    axes.set_ylabel("share of the true front's hypervolume")
    axes.set_ylim(0.6, 1.005)
    axes.legend(loc="lower right")
    image = io.BytesIO()
    figure.savefig(image, format="png", dpi=130)
    write_bytes_atomic(path, image.getvalue())


if __name__ == "__main__":
    run(main, Recipe, __doc__)
