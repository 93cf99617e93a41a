"""``python -m experiments.roofline``: predicted against measured latency of 40 real models on this machine."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from rich.console import Console

from experiments.results import ROOT, command_line, result_folder, run, write_result
from experiments.roofline.splits import analytic, random_splits
from nas.deploy.device_profile import DeviceProfile
from nas.deploy.machine import machine_of
from nas.deploy.profile import profile
from nas.deploy.workloads import parse_workloads
from nas.files import write_bytes_atomic
from nas.training import train_supernet
from search_spaces import Architecture, preset
from surrogates.base import FloatArray

TAU, MAPE = (
    0.85,
    0.08,
)  # what the analytic model alone, and the surrogate after 20 measurements, have to reach


@dataclass(frozen=True)
class Recipe:
    """What is measured and how it is split.

    Args:
        device: ``cpu`` or ``cuda``.
        architectures: models to build and time.
        rounds: measurements of each.
        fitted: measurements that the surrogate sees, one an architecture.
        splits: random choices of those.
        workload: latency to predict.
        threads: of one operator on the CPU; by default the faster of one and all.
        seed: of the architectures and the splits.
        out: working folder; a killed run goes on from it.
        results: folder of results.
    """

    device: str = "cpu"
    architectures: int = 40
    rounds: int = 3
    fitted: int = 20
    splits: int = 20
    workload: str = "decode_ms[batch=1,context=128]"
    threads: int | None = None
    seed: int = 0
    out: Path = Path("runs/roofline")
    results: Path = ROOT


def main(recipe: Recipe) -> dict[str, Any]:
    """Measure, predict, and write the table and the plot; returns the values."""
    for name, low in (("fitted", 12), ("splits", 1), ("seed", 0)):
        if getattr(recipe, name) < low:
            raise ValueError(
                f"expected {name} of {low} or more, got {getattr(recipe, name)}; raise it"
            )
    if recipe.architectures < recipe.fitted + 2:
        raise ValueError(
            f"expected architectures of {recipe.fitted + 2} or more, got {recipe.architectures}: "
            "the surrogate is judged on those it was not fitted to"
        )
    space, [workload] = preset("tiny"), parse_workloads([recipe.workload])
    supernet = train_supernet(space, out=recipe.out)
    device = profile(
        supernet,
        device=recipe.device,
        workloads=[workload],
        num_architectures=recipe.architectures,
        rounds=recipe.rounds,
        threads=recipe.threads,
        seed=recipe.seed,
        out=recipe.out,
    )
    machine = machine_of(recipe.out, device.runtime)
    architectures, rounds_nr = _measured(device)
    measured_n, dtype = np.median(rounds_nr, axis=1), device.runtime.dtype
    common = (architectures, space.family, workload)
    alone = analytic(*common, machine, dtype, measured_n)
    table = analytic(
        *common, recipe.device if recipe.device == "cpu" else machine, dtype, measured_n
    )
    splits = random_splits(
        *common,
        machine,
        dtype,
        rounds_nr,
        fitted=recipe.fitted,
        splits=recipe.splits,
        seed=recipe.seed,
    )
    after = {
        f"{name}_{what}": float(reduce([s[name] for s in splits]))
        for name in ("mape", "kendall_tau", "coverage")
        for what, reduce in (("mean", np.mean), ("min", np.min), ("max", np.max))
    }
    values = {
        "machine": machine.to_json(),
        "workload": str(workload),
        "models": [a.key for a in architectures],
        "measured_ms": rounds_nr.tolist(),
        "spread_of_rounds": float(np.median(np.ptp(np.log(rounds_nr), axis=1))),
        "analytic": alone,
        "assumed_figures_kendall_tau": table["kendall_tau"],
        "after_fit": after | {"fitted": recipe.fitted, "splits": splits},
    }
    folder = result_folder("roofline", recipe.device, recipe.results)
    write_result(
        folder,
        command=command_line("experiments.roofline", recipe),
        seeds=[recipe.seed],
        values=values,
        runtime=device.runtime,
    )
    _plot(measured_n, np.array(alone["predicted_ms"]), values, folder / "roofline.png")
    _print(values, len(architectures), folder)
    return values


def _measured(device: DeviceProfile) -> tuple[list[Architecture], FloatArray]:
    """Architectures in the order of the records, and the milliseconds of each round, shape (n, r)."""
    rows: dict[str, dict[int, float]] = {}
    found: dict[str, Architecture] = {}
    [workload] = map(str, device.surrogates)
    for record in device.records:
        if record["workload"] == workload and record["runtime"] == device.runtime.to_json():
            found.setdefault(record["key"], Architecture.from_json(record["architecture"]))
            rows.setdefault(record["key"], {})[record["round"]] = record["median_ms"]
    rounds = max(map(len, rows.values()))
    whole = [key for key, row in rows.items() if len(row) == rounds]
    times = [[rows[key][n] for n in sorted(rows[key])] for key in whole]
    return [found[key] for key in whole], np.array(times)


def _plot(
    measured_n: FloatArray, predicted_n: FloatArray, values: dict[str, Any], path: Path
) -> None:
    figure = Figure(figsize=(5, 4.5), layout="constrained")
    axes = figure.subplots()
    ends = [min(measured_n.min(), predicted_n.min()), max(measured_n.max(), predicted_n.max())]
    axes.loglog(ends, ends, color="#999999", linewidth=1)
    axes.loglog(measured_n, predicted_n, "o", color="#2a6f97")
    axes.set_xlabel("measured, ms (median of rounds)")
    axes.set_ylabel("predicted from the machine's figures alone, ms")
    after = values["after_fit"]
    axes.set_title(
        f"Kendall tau {values['analytic']['kendall_tau']:.3f} before any fit;\n"
        f"MAPE {100 * after['mape_mean']:.1f} % after {after['fitted']} measurements"
    )
    image = io.BytesIO()
    figure.savefig(image, format="png", dpi=130)
    write_bytes_atomic(path, image.getvalue())


def _print(values: dict[str, Any], number: int, folder: Path) -> None:
    alone, after = values["analytic"], values["after_fit"]
    console = Console()
    before = f"tau {alone['kendall_tau']:.3f} (wanted {TAU}, {_met(alone['kendall_tau'] >= TAU)})"
    wanted = f"wanted {100 * MAPE:.0f} %, {_met(after['mape_mean'] <= MAPE)}"
    worst = f"{100 * after['mape_min']:.1f} to {100 * after['mape_max']:.1f} %"
    splits = f"{worst} over {len(after['splits'])} splits"
    lines = [
        f"{number} models of {values['workload']}; a model's rounds spread by {100 * values['spread_of_rounds']:.1f} % (median)",
        f"Before any fit: Kendall {before}, MAPE {100 * alone['mape']:.1f} %",
        f"With the table's assumed figures: tau {values['assumed_figures_kendall_tau']:.3f}",
        f"After {after['fitted']} measurements: MAPE {100 * after['mape_mean']:.1f} % ({wanted}; {splits})",
        f"tau {after['kendall_tau_mean']:.3f}, coverage of the 90 % interval {100 * after['coverage_mean']:.0f} %",
        f"Results in {folder}",
        "Next: nas profile (measures the models of any space), or nas search",
    ]
    for line in lines:
        console.print(line, soft_wrap=True, highlight=False, markup=False)


def _met(is_met: bool) -> str:
    return "met" if is_met else "not met"


if __name__ == "__main__":
    run(main, Recipe, __doc__)
