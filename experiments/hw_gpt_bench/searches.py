"""The baselines' searches on the benchmark, and how alike devices and objectives are."""

from __future__ import annotations

from typing import Any

import numpy as np

from surrogates.base import FloatArray
from surrogates.benchmark import Benchmark
from surrogates.calibration import kendall_tau
from surrogates.simulate import Simulation

SAMPLERS = ("random", "local-search", "regularized-evolution", "nsga2")
CHECKPOINTS = (25, 50, 100, 200, 500, 1000, 2000)


def race(bench: Benchmark, device: str, budget: int, seeds: int) -> list[Simulation]:
    """Every baseline on perplexity and latency of a device."""
    return [bench.simulate(name, budget, range(seeds), device) for name in SAMPLERS]


def race_rows(simulations: list[Simulation], device: str) -> list[dict[str, Any]]:
    """Hypervolume (as a share of the best known front's) at checkpoints: mean and 95 % interval of the mean over seeds."""
    rows = []
    for simulation in simulations:
        volume_sb = simulation.hypervolume_sb
        for point in (p for p in CHECKPOINTS if p <= volume_sb.shape[1]):
            at_s = volume_sb[:, point - 1]
            rows.append(
                {
                    "device": device,
                    "sampler": simulation.sampler,
                    "evaluations": point,
                    "share_of_best": round(float(at_s.mean()), 5),
                    "ci95": round(float(1.96 * at_s.std(ddof=1) / np.sqrt(len(at_s))), 5),
                    "seeds": len(at_s),
                }
            )
    return rows


def correlation(bench: Benchmark, num: int = 1000) -> tuple[list[str], FloatArray]:
    """Kendall tau between all metrics on all devices over random architectures (expected values), names and matrix."""
    rng = np.random.default_rng(0)
    encoded = bench.problem(bench.devices[0]).choices.decode(
        bench.problem(bench.devices[0]).choices.sample(num, rng)
    )
    names, columns = [], []
    for metric, device in [("perplexity", None), ("params", None)] + [
        (metric, device)
        for metric in ("latency", "energy")
        for device in bench.devices
        if (metric if metric != "latency" else f"{bench.workload.phase}_ms", device) in bench.keys
        or (metric == "energy" and ("energy_j", device) in bench.keys)
    ]:
        names.append(metric if device is None else f"{metric} {device}")
        columns.append(bench.query(encoded, device, [metric])[metric])
    size = len(names)
    matrix = np.eye(size)
    for i in range(size):
        for j in range(i):
            matrix[i, j] = matrix[j, i] = kendall_tau(columns[i], columns[j])
    return names, matrix
