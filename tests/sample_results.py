"""Synthetic results of schema 1 for the report's tests: the numbers come from plain formulas below, never from a device."""

from __future__ import annotations

from typing import Any

import numpy as np

from search_spaces import Architecture, SearchSpace, costs, preset

DECODE = "decode_ms[batch=1,context=128]"
PREFILL = "prefill_ms[batch=1,context=128]"
UNITS = {"perplexity": "", DECODE: "ms", PREFILL: "ms", "weight_bytes": "bytes"}
OBJECTIVES = {
    2: ["perplexity", DECODE],
    3: ["perplexity", DECODE, "weight_bytes"],
    4: ["perplexity", DECODE, "weight_bytes", PREFILL],
}
SAMPLE = '''def read(self, path, encoding="utf-8"):
    """Return the text of the file at path."""
    with open(path, encoding=encoding) as file:
        return file.read().strip() or None

def write(self, path, text):
    self.cache[path] = text
'''


def sample_results(
    num_objectives: int = 3,
    num_winners: int = 8,
    num_trials: int = 60,
    seed: int = 0,
    space: SearchSpace | None = None,
) -> dict[str, Any]:
    """Results that look like a run's: 2, 3 or 4 objectives; the last winner fails one check, the one before is unmeasured."""
    rng = np.random.default_rng(seed)
    space = space or preset("tiny")
    names = OBJECTIVES[num_objectives]
    dense = _measured(space.largest, space, names)
    found = [_thin(space, rng) for _ in range(max(num_trials, 4 * num_winners))]
    values = [_searched(a, space, names) for a in found]
    order = sorted(
        _front_first(values, names)[: 2 * num_winners], key=lambda i: values[i]["perplexity"]
    )
    picked = order[::2]
    trace = np.maximum.accumulate(0.62 * (1 - np.exp(-np.arange(1, num_trials + 1) / 14)))
    random_trace = 0.53 * (1 - np.exp(-np.arange(1, num_trials + 1) / 18))
    random_found = [_thin(space, rng) for _ in range(num_trials)]
    random_values = [
        {
            n: v * 1.12 if n != "perplexity" else v * 1.05
            for n, v in _searched(a, space, names).items()
        }
        for a in random_found
    ]
    return {
        "schema": 1,
        "command": "nas search --space tiny --corpus stdlib --device cpu --trials 60 --sampler qlognehvi --seed 0 "
        "--objectives perplexity 'decode_ms[batch=1,context=128]' weight_bytes --out runs/tiny-stdlib",
        "provenance": {
            "date": "2026-01-31T12:00:00+00:00",
            "device": "Synthetic CPU @ 2.50 GHz",
            "threads": 2,
            "dtype": "float32",
            "versions": {"python": "3.11.7", "torch": "2.13.0", "sparse-gpt-nas": "0.1.0"},
            "seed": seed,
            "corpus": "stdlib",
            "space": space.name,
            "cardinality": str(space.cardinality),
            "sampler": "qlognehvi",
            "trials": num_trials,
            "wall_s": {"profile": 60.3, "search": 81.7, "verify": 52.4},
            "supernet": {"sha256": "0f1e2d3c4b5a6978" * 4, "tokens": 25_000_000},
        },
        "objectives": [{"name": n, "unit": UNITS[n], "direction": "minimize"} for n in names],
        "ref_point": {n: 2 * dense[n] for n in names},
        "surrogate": {
            n: {
                "num_records": 48,
                "kendall_tau": 0.93,
                "mape": 0.034,
                "coverage": 0.91,
                "interval_level": 0.9,
            }
            for n in names
            if n.endswith("]")
        },
        "baseline": {
            "architecture": space.largest.to_json(),
            "measured": dense,
            "path": "float32 compiled",
            "paths": {"float32 eager": 2.13, "float32 compiled": 1.9, "bfloat16 eager": 2.55},
        },
        "hypervolume": float(trace[-1]),
        "hypervolume_trace": trace.tolist(),
        "random_search": {
            "hypervolume": float(random_trace[-1]),
            "std": 0.012,
            "hypervolumes": [
                float(random_trace[-1] + d) for d in (-0.015, -0.006, 0.0, 0.006, 0.015)
            ],
            "trace_mean": random_trace.tolist(),
            "trace_std": (0.03 * np.exp(-np.arange(num_trials) / 30) + 0.008).tolist(),
            "front": [
                {"architecture": random_found[i].to_json(), "values": random_values[i]}
                for i in _front_first(random_values, names)[:9]
            ],
        },
        "trials": [
            {"number": i, "architecture": found[i].to_json(), "values": values[i]}
            for i in range(num_trials)
        ],
        "winners": [
            _winner(found[i], values[i], dense, space, names, rank, num_winners)
            for rank, i in enumerate(picked)
        ],
    }


def sample_cases() -> dict[str, dict[str, Any]]:
    """Every shape that results may have, by name."""
    found = {f"{n} objectives": sample_results(n) for n in (2, 3, 4)}
    found["one winner"] = sample_results(3, 1)
    found["30 winners"] = sample_results(4, 30, 120)
    found["no winner"] = sample_results(3, 0)
    found["nothing optional"] = bare = sample_results(3, 3)
    for name in (
        "command",
        "provenance",
        "ref_point",
        "surrogate",
        "hypervolume",
        "hypervolume_trace",
    ):
        del bare[name]
    del bare["random_search"], bare["trials"], bare["baseline"]["path"], bare["baseline"]["paths"]
    for winner in bare["winners"]:
        for name in ("label", "speedup", "perplexity_ratio", "size_ratio", "checks", "sample"):
            winner.pop(name, None)
    found["huge numbers"] = huge = sample_results(3, 4)
    for row in [t["values"] for t in huge["trials"][:9]] + [huge["winners"][0]["measured"]]:
        row["perplexity"] = 1e30
        row["weight_bytes"] = 1e21
    huge["winners"][1]["speedup"] = 123456789.0
    huge["provenance"]["seed"] = 2**200
    found["gpt-m"] = sample_results(3, 4, 12, space=preset("gpt-m", sparsity=True))
    return found


def _thin(space: SearchSpace, rng: np.random.Generator) -> Architecture:
    # Uniform samples drop half of all parts; the best of three by weight is closer to what a search proposes.
    return max(
        (space.sample(rng) for _ in range(3)), key=lambda a: costs(a, space.family).weight_bytes
    )


def _searched(architecture: Architecture, space: SearchSpace, names: list[str]) -> dict[str, float]:
    """Closed forms: fewer non-zeros raise perplexity slowly, bytes and layers cost time."""
    cost, largest = costs(architecture, space.family), costs(space.largest, space.family)
    share = cost.nonzeros / largest.nonzeros
    values = {
        "perplexity": 12.3 * (1 + 0.07 * (1 / share - 1) ** 0.7),
        DECODE: 0.18 + 0.06 * architecture.depth + 1.35 * cost.weight_bytes / largest.weight_bytes,
        PREFILL: 1.2 + 0.3 * architecture.depth + 11.0 * cost.nonzeros / largest.nonzeros,
        "weight_bytes": float(cost.weight_bytes),
    }
    return {name: float(values[name]) for name in names}


def _measured(architecture: Architecture, space: SearchSpace, names: list[str]) -> dict[str, float]:
    values = _searched(architecture, space, names)
    wobble = 1 + 0.03 * np.sin(
        int(architecture.key[:6], 16)
    )  # deterministic, different for every architecture
    return {n: v * (wobble if n.endswith("]") else 1.0) for n, v in values.items()} | {
        "weight_bytes": float(costs(architecture, space.family).weight_bytes),
        "peak_memory_bytes": 2.1e7 + 1.3 * costs(architecture, space.family).weight_bytes,
    }


def _winner(
    architecture: Architecture,
    values: dict[str, float],
    dense: dict[str, float],
    space: SearchSpace,
    names: list[str],
    rank: int,
    count: int,
) -> dict[str, Any]:
    measured = _measured(architecture, space, names)
    is_failed, is_unmeasured = count > 2 and rank == count - 1, count > 3 and rank == count - 2
    if is_failed:
        measured[DECODE] *= 1.25
    width = {n: 0.045 if n.endswith("]") else 0.0 for n in names}
    predicted = {
        n: {
            "mean": values[n],
            "low": values[n] * (1 - width[n]),
            "high": values[n] * (1 + width[n]),
        }
        for n in names
    }
    checks = [
        {
            "name": n,
            "measured": measured[n],
            "low": predicted[n]["low"],
            "high": predicted[n]["high"],
            "tolerance": 0.005 if n == "perplexity" else 0.0,
            "unit": UNITS[n],
            "passed": not (is_failed and n == DECODE),
        }
        for n in names
    ]
    return {
        "architecture": architecture.to_json(),
        "label": str(architecture),
        "predicted": predicted,
        "measured": {} if is_unmeasured else measured,
        "verified": not (is_failed or is_unmeasured),
        "checks": [] if is_unmeasured else checks,
        "sample": "" if is_unmeasured else SAMPLE,
    } | (
        {}
        if is_unmeasured
        else {
            "speedup": dense[DECODE] / measured[DECODE],
            "perplexity_ratio": measured["perplexity"] / dense["perplexity"],
            "size_ratio": measured["weight_bytes"] / dense["weight_bytes"],
        }
    )


def _front_first(values: list[dict[str, float]], names: list[str]) -> list[int]:
    """Indices by number of dominating points: the non-dominated first, the most accurate of them first."""
    matrix = np.array([[v[n] for n in names] for v in values])
    dominated = [
        int(((matrix <= row).all(axis=1) & (matrix < row).any(axis=1)).sum()) for row in matrix
    ]
    return sorted(range(len(values)), key=lambda i: (dominated[i], matrix[i, 0]))
