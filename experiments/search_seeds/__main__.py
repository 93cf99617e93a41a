"""``python -m experiments.search_seeds``: hypervolume of each sampler on the tiny space, mean and spread over seeds."""

from __future__ import annotations

import io
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from experiments.results import command_line, digest, result_folder, run, write_result
from nas.deploy.device_profile import DeviceProfile
from nas.deploy.profile import profile
from nas.files import append_jsonl, read_jsonl, write_bytes_atomic
from nas.search_study import DEFAULT_OBJECTIVES, search
from nas.training import TrainedSupernet, train_supernet
from search_spaces import preset


@dataclass(frozen=True)
class Recipe:
    """What is compared.

    Args:
        samplers: by name.
        seeds: studies per sampler.
        trials: of each study.
        tokens: held-out tokens of a perplexity.
        out: working folder; a killed run goes on from it.
    """

    samplers: tuple[str, ...] = ("auto", "random", "nsga2", "tpe", "qlognehvi")
    seeds: int = 5
    trials: int = 60
    tokens: int = 8192
    out: Path = Path("runs/search_seeds")


def main(recipe: Recipe) -> None:
    """Run the studies and write their table and plot."""
    space = preset("tiny")
    supernet = train_supernet(space, out=recipe.out)
    device = profile(supernet, out=recipe.out)
    path = recipe.out / "studies.jsonl"
    setting = digest(study_setting(supernet, device, recipe))
    runs = [r for r in read_jsonl(path) if r.get("setting") == setting]
    done = {(r["sampler"], r["seed"]) for r in runs}
    for seed in range(recipe.seeds):
        for sampler in recipe.samplers:
            if (sampler, seed) in done:
                continue
            start = time.perf_counter()
            study = search(
                space,
                supernet=supernet,
                device=device,
                n_trials=recipe.trials,
                sampler=sampler,
                seed=seed,
                num_tokens=recipe.tokens,
                name=f"{sampler} seed {seed}",
            )
            seconds = (time.perf_counter() - start) / recipe.trials
            run = {
                "sampler": sampler,
                "seed": seed,
                "setting": setting,
                "trace": study.hypervolume_trace,
                "s_per_trial": seconds,
            }
            append_jsonl(path, run)
            runs.append(run)
    chosen = [r for r in runs if r["seed"] < recipe.seeds]
    rows = [_row(name, [r for r in chosen if r["sampler"] == name]) for name in recipe.samplers]
    folder = result_folder("search_seeds")
    write_result(
        folder,
        command=command_line("experiments.search_seeds", recipe),
        seeds=list(range(recipe.seeds)),
        values={
            "trials": recipe.trials,
            "samplers": rows,
            "supernet": supernet.info["sha256"],
            "profile": device.fingerprint,
            "profile_runtime": device.runtime.to_json(),
        },
    )
    _plot(chosen, recipe, folder / "hypervolume.png")
    table = Table(
        title=f"Hypervolume after {recipe.trials} trials, {recipe.seeds} seeds",
        title_justify="left",
    )
    for column in ("sampler", "mean", "std", "worst", "best", "s per trial"):
        table.add_column(column)
    for row in rows:
        table.add_row(
            row["sampler"], *(f"{row[k]:.3f}" for k in ("mean", "std", "min", "max", "s_per_trial"))
        )
    console = Console()
    console.print(table)
    console.print(f"Results in {folder}")


def study_setting(
    supernet: TrainedSupernet, device: DeviceProfile, recipe: Recipe
) -> dict[str, Any]:
    """What decides a study of this experiment beside its sampler and seed, and how long it takes."""
    return {
        "space": supernet.space.fingerprint,
        "supernet": supernet.info["sha256"],
        "corpus": supernet.corpus.fingerprint,
        "profile": device.fingerprint,
        "objectives": DEFAULT_OBJECTIVES,
        "tokens": recipe.tokens,
        "trials": recipe.trials,
        "threads": torch.get_num_threads(),  # seconds per trial are part of the result
    }


def _row(name: str, runs: list[dict[str, Any]]) -> dict[str, Any]:
    finals = np.array([r["trace"][-1] for r in runs])
    return {
        "sampler": name,
        "mean": float(finals.mean()),
        "std": float(finals.std(ddof=1)) if len(finals) > 1 else 0.0,
        "min": float(finals.min()),
        "max": float(finals.max()),
        "s_per_trial": float(np.median([r["s_per_trial"] for r in runs])),
    }


def _plot(runs: list[dict[str, Any]], recipe: Recipe, path: Path) -> None:
    figure = Figure(figsize=(6.5, 4.2), layout="constrained")
    axes = figure.subplots()
    steps = np.arange(1, recipe.trials + 1)
    for name in recipe.samplers:
        traces = np.array([r["trace"] for r in runs if r["sampler"] == name])
        mean, std = traces.mean(axis=0), traces.std(axis=0)
        (line,) = axes.plot(steps, mean, label=name)
        axes.fill_between(steps, mean - std, mean + std, color=line.get_color(), alpha=0.12)
    axes.set_xlabel("trials")
    axes.set_ylabel("normalized hypervolume")
    axes.legend(loc="lower right")
    image = io.BytesIO()
    figure.savefig(image, format="png", dpi=130)
    write_bytes_atomic(path, image.getvalue())


if __name__ == "__main__":
    run(main, Recipe, __doc__)
