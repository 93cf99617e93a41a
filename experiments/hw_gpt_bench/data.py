"""The table an experiment reads, and the count-linear baseline of its rows.

n architectures, f features.
"""

from __future__ import annotations

import functools
import os
from pathlib import Path

import numpy as np

from surrogates.additive.counts import histogram
from surrogates.additive.encoding import Encoded, Encoder
from surrogates.base import FloatArray
from surrogates.tables import NO_DEVICE, Key, MeasurementTable

VARIABLE = "HW_GPT_BENCH_TABLE"
_FILE = Path("shared") / "data" / "hw-gpt-bench" / "gpt-s.npz"


def find_table() -> Path | None:
    """The file that ``HW_GPT_BENCH_TABLE`` names, or the one in a ``shared`` folder in or beside the checkout; None without one."""
    if os.environ.get(VARIABLE):
        return Path(os.environ[VARIABLE])
    checkout = Path(__file__).parents[2]
    return next((p / _FILE for p in (checkout, checkout.parent) if (p / _FILE).exists()), None)


@functools.cache
def load_table(path: str) -> MeasurementTable:
    """The table, read once a process; impossible rows are left out of their columns, and said."""
    return MeasurementTable.load(path, bad="skip")


def short_name(metric: str) -> str:
    """The paper's word for a metric: latency, energy, memory, perplexity."""
    words = {"energy_j": "energy", "peak_memory_bytes": "memory"}
    return "latency" if metric.endswith("_ms") else words.get(metric, metric)


def device_name(key: Key) -> str:
    """The device of a column, ``any`` where none matters."""
    return "any" if key[1] == NO_DEVICE else key[1]


def count_features(encoded: Encoded, table: MeasurementTable) -> FloatArray:
    """Nine counts for each width apart (research's count-linear model): 1, bias, layers with each FFN, with each number of heads, ...

    bias x depth, bias x sum of ratios; one of the head counts is left out, since both kinds sum to the depth. Shape (n, 9 w).
    """
    encoder = Encoder(table.space)
    attention_na = histogram(encoded.attention_nl, len(encoder.attention_parts))
    ffn_nf = histogram(encoded.ffn_nl, len(encoder.ffn_parts))
    ratios_n = ffn_nf @ np.array([part.width for part in encoder.ffn_parts])
    bias_n = encoded.bias_n.astype(np.float64)
    counts = np.column_stack(
        [
            np.ones(len(encoded)),
            bias_n,
            ffn_nf,
            attention_na[:, :-1],
            bias_n * encoded.depth_n,
            bias_n * ratios_n,
        ]
    )
    num_widths = len(table.space.embed_dims)
    own = encoded.width_n[:, None] == np.arange(num_widths)
    wide: FloatArray = (own[:, :, None] * counts[:, None, :]).reshape(len(encoded), -1)
    return wide


def least_squares(X_nf: FloatArray, y_n: FloatArray, robust: bool = False) -> FloatArray:
    """Coefficients by ordinary least squares, or by Huber's with errors relative to the value."""
    if not robust:
        return np.asarray(np.linalg.lstsq(X_nf, y_n, rcond=None)[0])
    weight_n = 1.0 / y_n**2
    found: FloatArray = np.zeros(X_nf.shape[1])
    for _ in range(20):
        root_n = np.sqrt(weight_n)
        solved = np.linalg.lstsq(X_nf * root_n[:, None], y_n * root_n, rcond=None)[0]
        found = np.asarray(solved, dtype=np.float64)
        error_n = np.abs(y_n - X_nf @ found) / y_n
        scale = 1.5 * 1.4826 * float(np.median(error_n)) + 1e-12
        weight_n = np.minimum(1.0, scale / np.maximum(error_n, 1e-12)) / y_n**2
    return found
