"""Small files in HW-GPT-Bench's layout, written by hand from its description."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from search_spaces import Architecture, SearchSpace
from tests.additive_cases import draws

N = 15


def rows_of(architectures: list[Architecture], num_layers: int) -> npt.NDArray[np.int16]:
    """The layout by hand: width, depth, bias, ratios, heads, -1 beyond the depth."""
    rows = []
    for a in architectures:
        padding = [-1] * (num_layers - len(a.layers))
        ratios = [int(layer.ffn_ratio) for layer in a.layers] + padding
        heads = [layer.num_heads for layer in a.layers] + padding
        rows.append([a.embed_dim, len(a.layers), int(a.bias), *ratios, *heads])
    return np.array(rows, dtype=np.int16)


def write(path: Path, space: SearchSpace, **changed: Any) -> list[Architecture]:
    """A small file with one column of each kind."""
    asked = draws(space, N, 0)
    latency = np.linspace(10.0, 20.0, N)[:, None] * np.ones(3)
    latency[:, 2] = np.nan
    arrays: dict[str, Any] = {
        "arch": rows_of(asked, space.depths[-1]),
        "ppl": np.linspace(20.0, 30.0, N),
        "acc": np.linspace(0.3, 0.4, N),
        "lat_a100": latency,
        "en_a100": latency / 1e4,
        "encpu_cpu_amd_7502": np.column_stack([np.linspace(1.0, 2.0, N), np.full(N, 0.1)]),
        "mem_a100": np.linspace(500.0, 900.0, N),
        "params_raw": np.ones(N),
    }
    arrays |= changed
    np.savez(path, **{name: value for name, value in arrays.items() if value is not None})
    return asked
