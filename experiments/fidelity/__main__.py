"""``python -m experiments.fidelity``: tokens that a search with growing fidelity needs for the hypervolume of one at full fidelity."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from experiments.fidelity.plots import plot
from experiments.fidelity.savings import Curve, Saving, mean_curve, prediction_errors
from experiments.results import command_line, result_folder, run, write_result
from nas.deploy.device_profile import DeviceProfile
from nas.deploy.profile import profile
from nas.fidelity import Growing
from nas.search_study import search
from nas.study import StudyResult
from nas.training import TrainedSupernet, train_supernet
from search_spaces import preset


@dataclass(frozen=True)
class Recipe:
    """What is compared.

    Args:
        sampler: of both searches.
        seeds: pairs of searches.
        first_seed: of them; earlier ones were seen while the settings were chosen.
        trials: of the search at full fidelity.
        growing_trials: of the search with growing fidelity.
        shares: of the tokens, ascending to 1.
        tokens: of a full evaluation.
        out: working folder: text, profile and one journal a study; a killed run goes on from it.
    """

    sampler: str = "auto"
    seeds: int = 5
    first_seed: int = 10
    trials: int = 60
    growing_trials: int = 150
    shares: tuple[float, ...] = (0.0625, 0.1875, 1.0)
    tokens: int = 8192
    out: Path = Path("runs/fidelity")


def main(recipe: Recipe) -> None:
    """Run the pairs, and write their table and plot."""
    console = Console()
    supernet = train_supernet(preset("tiny"), out=recipe.out)
    device = profile(supernet, out=recipe.out)
    pairs = []
    seeds = list(range(recipe.first_seed, recipe.first_seed + recipe.seeds))
    targets = [_study(recipe, supernet, device, seed, None) for seed in seeds]
    for seed, full in zip(seeds, targets, strict=True):
        growing = _study(recipe, supernet, device, seed, Growing(shares=recipe.shares))
        pairs.append((full, growing))
        saving = Saving.of(seed, Curve.of(full), Curve.of(growing))
        console.print(f"seed {seed}: share of the tokens {_share(saving.share)}", highlight=False)
    values = compare(seeds, pairs)
    folder, name = result_folder("fidelity"), f"{recipe.sampler}-{recipe.tokens}"
    write_result(
        folder,
        name=f"{name}.json",
        command=command_line("experiments.fidelity", recipe),
        seeds=seeds,
        values=values
        | {
            "supernet": supernet.info["sha256"],
            "profile": device.fingerprint,
            "profile_runtime": device.runtime.to_json(),
        },
    )
    curves = {
        f"full ({recipe.trials} trials)": [Curve.of(full) for full, _ in pairs],
        f"growing ({recipe.growing_trials} trials)": [Curve.of(growing) for _, growing in pairs],
    }
    unit = pairs[0][1].full_fidelity
    assert unit is not None
    plot(curves, unit, folder / f"{name}.png")
    console.print(_table(values, recipe))
    console.print(
        f"Results in {folder}: {name}.json, {name}.png\nNext: nas search --fidelity growing"
    )


def compare(seeds: list[int], pairs: list[tuple[StudyResult, StudyResult]]) -> dict[str, Any]:
    """The result: savings of every seed, their mean and spread, and how well low fidelity predicted.

    Args:
        seeds: of the pairs.
        pairs: search at full fidelity and with growing fidelity, one pair a seed.
    """
    rows = list(zip(seeds, pairs, strict=True))
    savings = [Saving.of(seed, Curve.of(f), Curve.of(g)) for seed, (f, g) in rows]
    predicted = [prediction_errors(growing) for _, growing in pairs]
    full_mean = mean_curve([Curve.of(f) for f, _ in pairs])
    growing_mean = mean_curve([Curve.of(g) for _, g in pairs])
    errors = np.concatenate([e for e, _ in predicted])
    covered = [inside for _, found in predicted for inside in found]
    return {
        "savings": [s.to_json() for s in savings],
        "of_means": Saving.of(-1, full_mean, growing_mean).to_json(),
        "share": _spread([s.share for s in savings]),
        "strict_share": _spread([s.strict_share for s in savings]),
        "hypervolume_full": _spread([s.target for s in savings]),
        "hypervolume_growing": _spread([s.growing_hypervolume for s in savings]),
        "tokens_growing_of_full": _spread([s.growing_tokens / s.full_tokens for s in savings]),
        "promoted": len(errors),
        "error_rms": float(np.sqrt(np.mean(errors**2))) if len(errors) else None,
        "error_mean": float(np.mean(errors)) if len(errors) else None,
        "coverage_90": float(np.mean(covered)) if covered else None,
        "curves": [
            {
                "seed": seed,
                "full": {"tokens": Curve.of(f).tokens, "hypervolume": f.hypervolume_trace},
                "growing": {"tokens": Curve.of(g).tokens, "hypervolume": g.hypervolume_trace},
            }
            for seed, (f, g) in rows
        ],
    }


def _study(
    recipe: Recipe,
    supernet: TrainedSupernet,
    device: DeviceProfile,
    seed: int,
    growing: Growing | None,
) -> StudyResult:
    trials = recipe.trials if growing is None else recipe.growing_trials
    kind = "full" if growing is None else f"growing-{trials}"
    return search(
        supernet.space,
        supernet=supernet,
        device=device,
        n_trials=trials,
        sampler=recipe.sampler,
        seed=seed,
        num_tokens=recipe.tokens,
        fidelity=growing or "full",
        storage=recipe.out / f"{recipe.sampler}-{kind}-{seed}.journal",
        name=f"{kind} seed {seed}",
    )


def _spread(values: list[float | None]) -> dict[str, Any]:
    """Mean, standard deviation and worst over seeds; without the mean where a seed did not get there."""
    known = [v for v in values if v is not None]
    if len(known) < len(values):
        return {"reached": len(known), "of": len(values), "values": values}
    std = float(np.std(known, ddof=1)) if len(known) > 1 else 0.0
    return {"mean": float(np.mean(known)), "std": std, "min": min(known), "max": max(known)}


def _share(share: float | None) -> str:
    return "not reached" if share is None else f"{share:.1%}"


def _table(values: dict[str, Any], recipe: Recipe) -> Table:
    table = Table(
        title=f"Tokens to the hypervolume of {recipe.trials} full evaluations, {recipe.sampler}",
        title_justify="left",
    )
    for column in (
        "seed",
        "target",
        "reached",
        "share",
        "of tokens to the target",
        "tokens in all",
    ):
        table.add_column(column)
    for row in values["savings"]:
        table.add_row(
            str(row["seed"]),
            f"{row['target']:.4f}",
            f"{row['growing_hypervolume']:.4f}",
            _share(row["share"]),
            _share(row["strict_share"]),
            f"{row['growing_tokens'] / row['full_tokens']:.1%}",
        )
    means = values["of_means"]
    cells = [f"{means['target']:.4f}", f"{means['growing_hypervolume']:.4f}"]
    table.add_row("mean", *cells, _share(means["share"]), _share(means["strict_share"]), "")
    return table


if __name__ == "__main__":
    run(main, Recipe, __doc__)
