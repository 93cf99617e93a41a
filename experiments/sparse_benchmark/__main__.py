"""``python -m experiments.sparse_benchmark``: measure, join, judge, and ship the surrogates of the sparse space ``tiny``."""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

import surrogates
from experiments.results import ROOT, command_line, result_folder, run, write_result
from experiments.sparse_benchmark.perplexities import draw, perplexities
from experiments.sparse_benchmark.plots import plot_predictions
from experiments.sparse_benchmark.quality import out_of_fold
from experiments.sparse_benchmark.table import faults, join
from nas.deploy.profile import profile
from nas.deploy.workloads import default_workload
from nas.training import train_supernet
from search_spaces import preset
from surrogates.benchmark import Benchmark

ASSETS = Path(surrogates.__file__).parent / "assets"


@dataclass(frozen=True)
class Recipe:
    """What is measured.

    Args:
        architectures: whose perplexity is taken, those of the profile included.
        tokens: held-out tokens of a perplexity.
        profiled: models that are timed on this machine, in four rounds.
        seed: of all draws.
        out: working folder; a killed run goes on from it.
        asset: file of the fitted surrogates; by default that of the package for this space.
        results: where the folder of this machine's results is.
    """

    architectures: int = 1100
    tokens: int = 8192
    profiled: int = 64
    seed: int = 0
    out: Path = Path("runs/sparse_benchmark")
    asset: Path | None = None
    results: Path = ROOT


def main(recipe: Recipe) -> None:
    """Run what is not done yet and write results, plot and surrogates."""
    say, space = Console(), preset("tiny")
    supernet = train_supernet(space, out=recipe.out)
    architectures = draw(space, recipe.architectures, recipe.profiled, recipe.seed)
    perplexity_n = perplexities(
        supernet, architectures, recipe.tokens, recipe.out / "perplexity.jsonl"
    )
    workload = default_workload(space.family)
    device = profile(
        supernet,
        workloads=[workload],
        num_architectures=recipe.profiled,
        seed=recipe.seed,
        out=recipe.out,
    )
    num_tokens = supernet.validation(recipe.tokens).shape[0] * supernet.space.family.context_length
    table = join(supernet, architectures, perplexity_n, num_tokens, device, workload)
    table.save(recipe.out / "table.npz")
    for line in faults(table):
        say.print(line, markup=False)
    found = {key: out_of_fold(table, key, recipe.seed) for key in table.columns}
    command = command_line("experiments.sparse_benchmark", recipe)
    scores = {"@".join(key): guess.scores() for key, guess in found.items()}
    asset = recipe.asset or ASSETS / f"{space.name}.npz"
    bench = Benchmark(space.name, table)
    for key in bench.keys:
        bench.surrogate(key[0], key[1] or None)
    bench.save(
        asset,
        {"command": command, "date": datetime.date.today().isoformat(), **dict(table.provenance)},
    )
    folder = result_folder("sparse_benchmark", results=recipe.results)
    plot_predictions(found, folder / "predictions.png")
    values: dict[str, Any] = {
        "quality": scores,
        "provenance": dict(table.provenance),
        "architectures": len(architectures),
        "profile": device.fingerprint,
        "asset_bytes": asset.stat().st_size,
    }
    write_result(
        folder, command=command, seeds=[recipe.seed], values=values, runtime=device.runtime
    )
    shown = Table("column", "rows", "tau", "lower half", "MAPE", "coverage", "width")
    for name, score in scores.items():
        shown.add_row(
            name,
            str(score["rows"]),
            f"{score['kendall_tau']:.3f}",
            f"{score['kendall_tau_lower_half']:.3f}",
            f"{score['mape']:.1%}",
            f"{score['coverage90']:.0%}",
            f"{score['width90']:.0%}",
        )
    say.print(shown)
    say.print(f"{asset}: {asset.stat().st_size / 1e3:.0f} kB; results: {folder}", markup=False)
    say.print(f'next: surrogates.Benchmark("{space.name}")', markup=False)


if __name__ == "__main__":
    run(main, Recipe, __doc__)
