"""Analytic counts of encoded architectures: launches, FLOPs and bytes by kind of operator, looked up part by part.

They are those of :func:`surrogates.roofline.feature_matrix`, which an architecture is a sum over its parts of; a table of the parts
of a space makes them a matrix product.

n architectures, f counts, k counts that vary, a parts.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from search_spaces import Architecture, LayerConfig, Workload
from surrogates.additive.encoding import ABSENT, Encoded, Encoder, Part
from surrogates.base import FloatArray
from surrogates.roofline import feature_matrix

NOTHING = LayerConfig(0, 0.0, False, False)


def layer_of(part: Part, is_attention: bool) -> LayerConfig:
    """A layer of this part only."""
    if part.is_dropped:
        return NOTHING
    rank = part.adapter_rank
    if is_attention:
        return LayerConfig(
            int(part.width), 0.0, True, False, attention_sparsity=part.sparsity, adapter_rank=rank
        )
    return LayerConfig(0, part.width, False, True, ffn_sparsity=part.sparsity, adapter_rank=rank)


@dataclass(frozen=True, eq=False)
class Counts:
    """Counts of one space and workload, each divided by about its mean over the space (every part counted alike): all near unit size.

    Args:
        encoder: of the space.
        workload: what the model is asked to do.
        dtype: of weights and activations.
    """

    encoder: Encoder
    workload: Workload
    dtype: str = "float32"

    @cached_property
    def _tables(self) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Counts of the rest of the model [w, 2, k], of each attention part [w, 2, a, k] and FFN part [w, 2, f, k], scaled."""
        space = self.encoder.space
        layers = [NOTHING]
        layers += [layer_of(part, True) for part in self.encoder.attention_parts]
        layers += [layer_of(part, False) for part in self.encoder.ffn_parts]
        asked = [
            Architecture(width, (layer,), bool(bias))
            for width in space.embed_dims
            for bias in (0, 1)
            for layer in layers
        ]
        found = feature_matrix(asked, space.family, self.workload, self.dtype)
        table = found.reshape(len(space.embed_dims), 2, len(layers), -1)
        rest, parts = table[:, :, :1], table[:, :, 1:] - table[:, :, :1]
        split = len(self.encoder.attention_parts)
        attention, ffn = parts[:, :, :split], parts[:, :, split:]
        # about the mean over the space; dropped parts are drawn more often than this has it
        depth = float(np.mean(space.depths))
        mean_f = (rest[:, :, 0] + depth * (attention.mean(axis=2) + ffn.mean(axis=2))).mean(
            axis=(0, 1)
        )
        varies = (np.ptp(table, axis=(0, 1, 2)) > 0) & (mean_f > 0)
        scaled = [part[..., varies] / mean_f[varies] for part in (rest[:, :, 0], attention, ffn)]
        return scaled[0], scaled[1], scaled[2]

    def __call__(self, encoded: Encoded) -> FloatArray:
        """Counts of n architectures, shape (n, k)."""
        rest, attention, ffn = self._tables
        found: FloatArray = rest[encoded.width_n, encoded.bias_n]
        for parts_nl, table in ((encoded.attention_nl, attention), (encoded.ffn_nl, ffn)):
            times_na = histogram(parts_nl, table.shape[2])
            group_n = 2 * encoded.width_n + encoded.bias_n
            for group in np.unique(group_n):
                of_group = group_n == group
                found[of_group] += times_na[of_group] @ table[group // 2, group % 2]
        return found


def histogram(parts_nl: npt.NDArray[np.int64], num_parts: int) -> FloatArray:
    """How often each part occurs in each architecture, shape (n, a)."""
    n = len(parts_nl)
    rows_nl = np.broadcast_to(np.arange(n)[:, None], parts_nl.shape)
    present_nl = parts_nl != ABSENT
    cells = rows_nl[present_nl] * num_parts + parts_nl[present_nl]
    return np.bincount(cells, minlength=n * num_parts).reshape(n, num_parts).astype(np.float64)
