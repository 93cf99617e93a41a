"""The sweep: one GPT, dense and at every level of sparsity, as every device would execute it in every mode."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from search_spaces import Architecture, Family, LayerConfig, Sparsity, Workload
from surrogates.dataflow import MODES, Efficiency, execute
from surrogates.kernel_graph import kernel_graph
from surrogates.s2d import s2d_speedup

COLUMNS = (
    *("workload", "device", "pattern", "level", "mode", "ms", "speedup", "speedup_in_mode"),
    *("groups", "moved_gb", "compute_share"),
)
KEYS = ("workload", "device", "pattern", "mode")
GAIN = 1.05  # sparsity pays from where it is faster by this factor
HALVING = 1.1  # sparsity stops paying where half the kept weights gain less than this factor
DENSE_FRACTIONS = (0.0, 0.05, 0.1, 0.2, 0.35)


def gpt(
    embed_dim: int, depth: int, context: int, sparsity: Sparsity | str = "dense"
) -> tuple[Architecture, Family]:
    """A GPT of GPT-3's shape (2005.14165, table 2.1): heads of 128 features, four FFN neurons a feature, 50257 tokens.

    Raises:
        ValueError: if the width is no multiple of 128.
    """
    if embed_dim % 128:
        raise ValueError(
            f"expected an embed_dim that is a multiple of a head's 128, got {embed_dim}"
        )
    sparsity = Sparsity.parse(sparsity) if isinstance(sparsity, str) else sparsity
    layer = LayerConfig(embed_dim // 128, 4.0, True, True, sparsity, sparsity)
    return Architecture(embed_dim, (layer,) * depth), Family(50257, context, 128)


def sweep(
    shape: tuple[int, int],
    workload: Workload,
    devices: Sequence[str],
    patterns: Sequence[str],
    levels: Sequence[float],
    efficiency: Efficiency,
) -> list[dict[str, Any]]:
    """One row per device, pattern, level and mode; level 0 is the dense model.

    Args:
        shape: embedding width and depth.
        workload: decode, prefill or training.
        devices: by name.
        patterns: of sparsity, without its level: ``unstructured``, ``vector64``.
        levels: fractions of zeros.
        efficiency: what is reached of the devices' figures.
    """
    rows: list[dict[str, Any]] = []
    context = workload.context + 1  # a decode step adds a token
    for pattern in patterns:
        for level in (0.0, *levels):
            label = f"{pattern}:{level}" if level else "dense"
            architecture, family = gpt(*shape, context, label)
            graph = kernel_graph(architecture, family, workload)
            for name in devices:
                for mode in MODES:
                    found = execute(graph, workload.num_tokens, name, mode, "bfloat16", efficiency)
                    busy = sum(max(g.compute_s, g.memory_s) for g in found.groups)
                    rows.append(
                        {
                            "workload": str(workload),
                            "device": name,
                            "pattern": pattern,
                            "level": level,
                            "mode": mode,
                            "ms": 1e3 * found.seconds,
                            "groups": len(found.groups),
                            "moved_gb": found.moved_bytes / 1e9,
                            "compute_share": sum(g.compute_s for g in found.groups) / busy,
                        }
                    )
    for row in rows:
        dense = {r["mode"]: r["ms"] for r in _twins(rows, row) if r["level"] == 0.0}
        row["speedup"] = min(dense.values()) / row["ms"]
        row["speedup_in_mode"] = dense[row["mode"]] / row["ms"]
    return rows


def _twins(
    rows: Sequence[Mapping[str, Any]], row: Mapping[str, Any]
) -> Iterator[Mapping[str, Any]]:
    keys = ("workload", "device", "pattern")
    return (r for r in rows if all(r[key] == row[key] for key in keys))


def summarize(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One row per workload, device, pattern and mode: where sparsity begins and stops to pay, and what fusion gives back."""
    found = []
    curves: dict[tuple[str, ...], list[Mapping[str, Any]]] = {}
    for row in rows:
        key = tuple(str(row[name]) for name in KEYS)
        curves.setdefault(key, []).append(row)
    for key, curve in curves.items():
        points = [(r["level"], r["speedup"]) for r in sorted(curve, key=lambda r: r["level"])]
        alone = {r["level"]: r["ms"] for r in curves[(*key[:3], MODES[0])]}
        by_level = {r["level"]: alone[r["level"]] / r["ms"] for r in curve}
        best = max(points, key=lambda point: point[1])
        found.append(
            {
                **dict(zip(KEYS, key, strict=True)),
                "pays_from": pays_from(points),
                "pays_until": pays_until(points),
                "best_level": best[0],
                "best_speedup": round(best[1], 3),
                "over_kernel_by_kernel": {str(k): round(v, 3) for k, v in by_level.items()},
            }
        )
    return found


def pays_from(points: Sequence[tuple[float, float]]) -> float | None:
    """Least level that is faster than the fastest dense execution by ``GAIN``; None if none is."""
    return next((level for level, speedup in points if level > 0.0 and speedup >= GAIN), None)


def pays_until(points: Sequence[tuple[float, float]]) -> float | None:
    """Highest level that still gains ``HALVING`` per halving of the kept weights over the level before; None if none does.

    Args:
        points: level and speed-up, by rising level, the dense model first.
    """
    paying = None
    for (before, slower), (level, faster) in itertools.pairwise(points):
        halvings = math.log2((1.0 - before) / (1.0 - level))
        if (faster / slower) ** (1.0 / halvings) >= HALVING:
            paying = level
    return paying


def s2d_rows(rows: Sequence[Mapping[str, Any]], reference: str) -> list[dict[str, Any]]:
    """Sparse-to-dense training on each device, over a dense reference that runs kernel by kernel.

    Args:
        rows: of a training sweep.
        reference: device whose dense step is the baseline.
    """
    dense = next(
        r["ms"] for r in rows if (r["device"], r["level"], r["mode"]) == (reference, 0.0, MODES[0])
    )
    found = []
    for row in rows:
        if row["level"] == 0.0:
            continue
        ratio = row["speedup_in_mode"]
        device_ratio = dense / (row["ms"] * ratio)
        found.append(
            {
                **{key: row[key] for key in ("device", "pattern", "level", "mode")},
                "sparse_ratio": round(ratio, 3),
                "device_ratio": round(device_ratio, 3),
                "speedup": {
                    str(f): round(s2d_speedup(f, ratio, device_ratio), 3) for f in DENSE_FRACTIONS
                },
            }
        )
    return found
