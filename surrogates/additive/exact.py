"""Costs that are known exactly (parameters, non-zeros, stored bytes, FLOPs) of encoded architectures, by the same sums over parts.

n architectures, w widths.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from search_spaces import Architecture, costs, decode_flops, prefill_flops
from surrogates.additive.counts import NOTHING, histogram, layer_of
from surrogates.additive.encoding import Encoded, Encoder
from surrogates.base import FloatArray

METRICS = ("params", "nonzeros", "weight_bytes", "flops")


@dataclass(frozen=True, eq=False)
class ExactCosts:
    """Closed forms of :mod:`search_spaces.costs` for one space.

    Args:
        encoder: of the space.
        value_bytes: bytes of one number.
        phase: whose FLOPs ``flops`` are: those of a decode step or of a prefill of one prompt.
        context: tokens of the prompt, or before the step.
    """

    encoder: Encoder
    value_bytes: int = 4
    phase: str = "decode"
    context: int = 128

    def _functions(self) -> dict[str, Callable[[Architecture], int]]:
        family, size = self.encoder.space.family, self.value_bytes
        flops = decode_flops if self.phase == "decode" else prefill_flops
        return {
            "params": lambda a: costs(a, family, size).params,
            "nonzeros": lambda a: costs(a, family, size).nonzeros,
            "weight_bytes": lambda a: costs(a, family, size).weight_bytes,
            "flops": lambda a: flops(a, family, self.context),
        }

    @cached_property
    def _tables(self) -> dict[str, tuple[FloatArray, FloatArray, FloatArray]]:
        """By metric: the rest of the model [w, 2], each attention part [w, 2, a], each FFN part [w, 2, f]."""
        space = self.encoder.space
        attention = [layer_of(part, True) for part in self.encoder.attention_parts]
        ffn = [layer_of(part, False) for part in self.encoder.ffn_parts]
        layers = [NOTHING, *attention, *ffn]
        found = {}
        for name, function in self._functions().items():
            table = np.array(
                [
                    [
                        [function(Architecture(w, (layer,), bool(b))) for layer in layers]
                        for b in (0, 1)
                    ]
                    for w in space.embed_dims
                ],
                dtype=np.float64,
            )
            parts = table[:, :, 1:] - table[:, :, :1]
            found[name] = (
                table[:, :, 0],
                parts[:, :, : len(attention)],
                parts[:, :, len(attention) :],
            )
        return found

    def __call__(self, metric: str, encoded: Encoded) -> FloatArray:
        """One metric of n architectures; whole numbers, exact below 2^53.

        Raises:
            ValueError: if the metric is not one of ``METRICS``.
        """
        if metric not in METRICS:
            raise ValueError(f"expected a metric in {', '.join(METRICS)}, got {metric!r}")
        rest, attention, ffn = self._tables[metric]
        own = (encoded.width_n, encoded.bias_n)
        times_na = histogram(encoded.attention_nl, attention.shape[2])
        times_nf = histogram(encoded.ffn_nl, ffn.shape[2])
        total_n: FloatArray = (
            rest[own] + (times_na * attention[own]).sum(axis=1) + (times_nf * ffn[own]).sum(axis=1)
        )
        return total_n
