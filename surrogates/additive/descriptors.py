"""Descriptors: what the surrogate is told of every layer, and of the architecture as a whole.

A layer's descriptor is a number per part: how wide it is (and that squared), whether it is dropped, which sparsity it has, whether an
adapter stands beside it. All are centred, so that the prior mean is the middle of the space.

n architectures, l layers, j descriptors of a layer, g descriptors of the whole, k analytic counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from search_spaces import SearchSpace
from surrogates.additive.encoding import ABSENT, Encoded, Encoder, Part
from surrogates.base import FloatArray

# Descriptors of one kind share a prior variance: what a search space calls its choices.
KINDS = ("heads", "heads squared", "ffn", "ffn squared", "dropped", "sparsity", "adapter")


@dataclass(frozen=True, eq=False)
class Described:
    """n architectures as the kernel sees them.

    Args:
        log_width_n: logarithm (base 2) of the embedding width, 0 in the middle of the space.
        depth_n: layers, 0 in the middle of the space.
        bias_n: +0.5 with biases, -0.5 without; 0 where the space has no choice.
        layers_njl: descriptors of every layer, 0 beyond the depth.
        whole_ng: their sums over the layers, depth and bias, each of about unit size.
        counts_nk: analytic counts, each of about unit size.
        others_no: what surrogates of other devices say, of about unit size; no columns without them.
    """

    log_width_n: FloatArray
    depth_n: FloatArray
    bias_n: FloatArray
    layers_njl: FloatArray
    whole_ng: FloatArray
    counts_nk: FloatArray
    others_no: FloatArray

    def __len__(self) -> int:
        return len(self.depth_n)

    def take(self, rows: npt.NDArray[np.int64]) -> Described:
        """Some of the architectures."""
        return Described(*(getattr(self, name)[rows] for name in self.__dataclass_fields__))


def _centred(values: Sequence[float]) -> tuple[float, float]:
    """Middle and half the range."""
    low, high = min(values), max(values)
    return 0.5 * (low + high), max(0.5 * (high - low), 1e-12)


@dataclass(frozen=True, eq=False)
class Descriptors:
    """Descriptors of one space.

    Args:
        encoder: of the space.
    """

    encoder: Encoder

    @property
    def space(self) -> SearchSpace:
        """The space described."""
        return self.encoder.space

    @cached_property
    def _tables(self) -> tuple[FloatArray, FloatArray, tuple[str, ...]]:
        """Descriptors of each attention part [j, a] and FFN part [j, f], and the kind of each."""
        attention, ffn = self.encoder.attention_parts, self.encoder.ffn_parts
        found: list[tuple[str, list[float], list[float]]] = []
        none_a, none_f = [0.0] * len(attention), [0.0] * len(ffn)

        def widths(parts: Sequence[Part], kind: str, is_attention: bool) -> None:
            kept = sorted({part.width for part in parts if not part.is_dropped})
            if len(kept) < 2:
                return
            middle, half = _centred(kept)
            mean_square = float(np.mean([((w - middle) / half) ** 2 for w in kept]))
            line = [0.0 if p.is_dropped else (p.width - middle) / half for p in parts]
            bend = [
                0.0 if p.is_dropped else ((p.width - middle) / half) ** 2 - mean_square
                for p in parts
            ]
            found.append((kind, line, none_f) if is_attention else (kind, none_a, line))
            if len(kept) > 2:
                kind = f"{kind} squared"
                found.append((kind, bend, none_f) if is_attention else (kind, none_a, bend))

        def indicators(parts: Sequence[Part], is_attention: bool) -> None:
            columns: list[tuple[str, list[float]]] = []
            if any(part.is_dropped for part in parts) and not all(p.is_dropped for p in parts):
                columns.append(("dropped", [float(part.is_dropped) for part in parts]))
            sparsities = sorted({p.sparsity for p in parts if not p.is_dropped})
            first = next(
                (s for s in sparsities if s.is_dense), sparsities[0] if sparsities else None
            )
            for sparsity in sparsities:
                if sparsity != first:
                    columns.append(("sparsity", [float(p.sparsity == sparsity) for p in parts]))
            ranks = {part.adapter_rank for part in parts}
            if len(ranks) > 1:
                most = max(ranks)
                columns.append(("adapter", [part.adapter_rank / most for part in parts]))
            for kind, column in columns:
                found.append((kind, column, none_f) if is_attention else (kind, none_a, column))

        widths(attention, "heads", True)
        indicators(attention, True)
        widths(ffn, "ffn", False)
        indicators(ffn, False)
        kinds = tuple(kind for kind, _, _ in found)
        attention_ja = np.array([a for _, a, _ in found]).reshape(len(found), len(attention))
        ffn_jf = np.array([f for _, _, f in found]).reshape(len(found), len(ffn))
        return attention_ja, ffn_jf, kinds

    @property
    def kinds(self) -> tuple[str, ...]:
        """Kind of each descriptor of a layer, j of them."""
        return self._tables[2]

    def __call__(
        self, encoded: Encoded, counts_nk: FloatArray, others_no: FloatArray | None = None
    ) -> Described:
        """Look everything up.

        Args:
            encoded: n architectures of the space.
            counts_nk: analytic counts of them, of about unit size.
            others_no: predictions of them for other devices, of about unit size.
        """
        space, (attention_ja, ffn_jf, kinds) = self.space, self._tables
        width_middle, _ = _centred([float(np.log2(width)) for width in space.embed_dims])
        depth_middle, _ = _centred([float(depth) for depth in space.depths])
        # A row of zeros stands at position ABSENT (-1), which indexing from the end finds.
        attention_aj = np.vstack([attention_ja.T, np.zeros((-ABSENT, len(kinds)))])
        ffn_fj = np.vstack([ffn_jf.T, np.zeros((-ABSENT, len(kinds)))])
        layers_njl = attention_aj[encoded.attention_nl] + ffn_fj[encoded.ffn_nl]
        layers_njl = np.ascontiguousarray(layers_njl.transpose(0, 2, 1))
        depth_n = encoded.depth_n.astype(np.float64) - depth_middle
        bias_n = (encoded.bias_n.astype(np.float64) - 0.5) * (len(space.biases) > 1)
        half_deep = 0.5 * space.depths[-1]
        _, depth_half = _centred([float(depth) for depth in space.depths])
        whole_ng = np.column_stack(
            [layers_njl.sum(axis=2) / half_deep, depth_n / depth_half, bias_n]
        )
        log_width_n = np.log2(np.array(space.embed_dims, dtype=np.float64))[encoded.width_n]
        if others_no is None:
            others_no = np.zeros((len(encoded), 0))
        log_width_n = log_width_n - width_middle
        return Described(log_width_n, depth_n, bias_n, layers_njl, whole_ng, counts_nk, others_no)
