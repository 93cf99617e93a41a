"""The baselines' searches on the benchmark, and how alike devices and objectives are."""

from __future__ import annotations

from typing import Any

import numpy as np

from surrogates.additive.choices import ChoiceVectors
from surrogates.additive.encoding import Encoder
from surrogates.base import FloatArray
from surrogates.benchmark import Benchmark
from surrogates.calibration import kendall_tau
from surrogates.simulate import Simulation

SAMPLERS = ("random", "local-search", "regularized-evolution", "nsga2")
CHECKPOINTS = (25, 50, 100, 200, 500, 1000, 2000)


def objectives(bench: Benchmark) -> tuple[str, tuple[str, str]] | None:
    """First device and two metrics of it to search: perplexity (or parameters) and latency (or energy); None without a device."""
    for device in bench.devices:
        known = bench.metrics(device)
        cost = next((m for m in (f"{bench.workload.phase}_ms", "energy_j") if m in known), None)
        if cost is not None:
            return device, ("perplexity" if "perplexity" in known else "params", cost)
    return None


def race(
    bench: Benchmark, device: str, metrics: tuple[str, str], budget: int, seeds: int
) -> list[Simulation]:
    """Every baseline on two metrics of a device."""
    return [bench.simulate(name, budget, range(seeds), device, metrics) for name in SAMPLERS]


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
    choices = ChoiceVectors(Encoder(bench.space))
    encoded = choices.decode(choices.sample(num, np.random.default_rng(0)))
    asked: list[tuple[str, str | None]] = [("params", None)]
    asked += [(metric, device or None) for metric, device in bench.keys]
    names, columns = [], []
    for metric, device in sorted(asked, key=lambda key: (key[1] is not None, key[0], key[1] or "")):
        names.append(metric if device is None else f"{metric} {device}")
        columns.append(bench.query(encoded, device, [metric])[metric])
    size = len(names)
    matrix = np.eye(size)
    for i in range(size):
        for j in range(i):
            matrix[i, j] = matrix[j, i] = kendall_tau(columns[i], columns[j])
    return names, matrix
