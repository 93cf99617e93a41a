"""Architectures as arrays: for every layer, which attention part and which FFN part of the space it has.

Everything that a part says about itself (heads, FLOPs, sparsity) is then one lookup in a table with a row for each different part,
which is what makes ten thousand predictions cost milliseconds.

n architectures, l layers of the deepest one, a and f different attention and FFN parts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from search_spaces import Architecture, LayerConfig, SearchSpace, Sparsity

IntArray = npt.NDArray[np.int64]
ABSENT = -1  # beyond the depth
ENCODED_ARRAYS = ("width_n", "depth_n", "bias_n", "attention_nl", "ffn_nl")


@dataclass(frozen=True)
class Part:
    """What an attention or FFN part is, whatever its layer and the width of the model.

    Args:
        width: attention heads, or FFN neurons per embedding feature; 0 for a dropped part.
        sparsity: of its weights.
        adapter_rank: of the adapters beside them.
    """

    width: float
    sparsity: Sparsity
    adapter_rank: int

    @property
    def is_dropped(self) -> bool:
        """Whether the layer goes without it."""
        return self.width == 0


def parts_of(layer: LayerConfig) -> tuple[Part, Part]:
    """Attention and FFN part of a layer; an adapter belongs to the parts that are sparse."""

    def rank(sparsity: Sparsity) -> int:
        return 0 if sparsity.is_dense else layer.adapter_rank

    attention, ffn = layer.attention_sparsity, layer.ffn_sparsity
    return (
        Part(float(layer.num_heads), attention, rank(attention)),
        Part(float(layer.ffn_ratio), ffn, rank(ffn)),
    )


@dataclass(frozen=True, eq=False)
class Encoded:
    """n architectures of one space.

    Args:
        width_n: position of the embedding width among the space's.
        depth_n: number of layers.
        bias_n: 1 with biases, 0 without.
        attention_nl: which attention part each layer has, ``ABSENT`` beyond the depth.
        ffn_nl: which FFN part each layer has, ``ABSENT`` beyond the depth.
        space: fingerprint of the space; empty where it is not known.
    """

    width_n: IntArray
    depth_n: IntArray
    bias_n: IntArray
    attention_nl: IntArray
    ffn_nl: IntArray
    space: str = ""

    def __len__(self) -> int:
        return len(self.width_n)

    def take(self, rows: npt.NDArray[np.int64] | slice) -> Encoded:
        """Some of the architectures."""
        return Encoded(
            self.width_n[rows],
            self.depth_n[rows],
            self.bias_n[rows],
            self.attention_nl[rows],
            self.ffn_nl[rows],
            self.space,
        )

    def to_arrays(self) -> dict[str, npt.NDArray[np.int16]]:
        """As arrays of an archive."""
        return {name: getattr(self, name).astype(np.int16) for name in ENCODED_ARRAYS}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, npt.NDArray[Any]], space: str = "") -> Self:
        """Inverse of :meth:`to_arrays`, for the space of a fingerprint."""
        width_n, depth_n, bias_n, attention_nl, ffn_nl = (
            arrays[name].astype(np.int64) for name in ENCODED_ARRAYS
        )
        return cls(width_n, depth_n, bias_n, attention_nl, ffn_nl, space)

    def keys(self) -> IntArray:
        """One number per architecture; equal ones are the same network, shape (n,)."""
        rows = np.column_stack(
            [self.width_n, self.depth_n, self.bias_n, self.attention_nl, self.ffn_nl]
        )
        return np.unique(rows, axis=0, return_inverse=True)[1].reshape(-1).astype(np.int64)


@dataclass(frozen=True, eq=False)
class Encoder:
    """Architectures of a space to arrays.

    Args:
        space: the search space; architectures outside it are refused.
    """

    space: SearchSpace

    @cached_property
    def attention_parts(self) -> tuple[Part, ...]:
        """The different attention parts, in the order that :class:`Encoded` counts them."""
        return self._parts[0]

    @cached_property
    def ffn_parts(self) -> tuple[Part, ...]:
        """The different FFN parts, in the order that :class:`Encoded` counts them."""
        return self._parts[1]

    @cached_property
    def _parts(self) -> tuple[tuple[Part, ...], tuple[Part, ...]]:
        space = self.space

        def listed(
            kept: tuple[bool, ...], widths: Sequence[float], sparsities: Sequence[Sparsity]
        ) -> tuple[Part, ...]:
            found = [Part(0.0, Sparsity(), 0)] if False in kept else []
            if True in kept:
                for width in widths:
                    for sparsity in sparsities:
                        ranks = (0,) if sparsity.is_dense else space.adapter_ranks
                        found += [Part(float(width), sparsity, rank) for rank in ranks]
            return tuple(found)

        return (
            listed(space.attention, space.num_heads, space.attention_sparsities),
            listed(space.ffn, space.ffn_ratios, space.ffn_sparsities),
        )

    @cached_property
    def _index(self) -> tuple[dict[Part, int], dict[Part, int]]:
        attention, ffn = self._parts
        return {p: i for i, p in enumerate(attention)}, {p: i for i, p in enumerate(ffn)}

    def __call__(self, architectures: Sequence[Architecture]) -> Encoded:
        """Encode architectures, in the order given.

        Raises:
            ValueError: if one is not in the space; its position is named.
        """
        space = self.space
        widths = {value: i for i, value in enumerate(space.embed_dims)}
        if isinstance(architectures, Architecture) or not isinstance(architectures, Sequence):
            raise ValueError(
                f"expected a list of architectures, got {type(architectures).__name__}; write [architecture] for one"
            )
        n, num_layers = len(architectures), space.depths[-1]
        attention_nl = np.full((n, num_layers), ABSENT, dtype=np.int64)
        ffn_nl = np.full((n, num_layers), ABSENT, dtype=np.int64)
        find = self._finder()
        width, depth, bias = [0] * n, [0] * n, [0] * n
        cells: list[tuple[int, int]] = []
        for i, architecture in enumerate(architectures):
            try:
                width[i] = widths[architecture.embed_dim]
                layers = architecture.layers
                depth[i], bias[i] = len(layers), int(architecture.bias)
                cells += [find(layer) for layer in layers]
                if depth[i] not in space.depths or architecture.bias not in space.biases:
                    raise KeyError
            except (KeyError, AttributeError):
                raise ValueError(
                    f"expected architectures of space {space.name!r}, got {architecture} at position {i}"
                ) from None
        depth_n = np.array(depth, dtype=np.int64)
        present_nl = np.arange(num_layers) < depth_n[:, None]
        if cells:
            found = np.array(cells, dtype=np.int64)
            attention_nl[present_nl], ffn_nl[present_nl] = found[:, 0], found[:, 1]
        return Encoded(
            np.array(width, dtype=np.int64),
            depth_n,
            np.array(bias, dtype=np.int64),
            attention_nl,
            ffn_nl,
            space.fingerprint,
        )

    def check(self, encoded: Encoded) -> Encoded:
        """The same architectures, if their numbers mean architectures of this space.

        Raises:
            ValueError: if they were encoded for a space of other choices, or a row is no architecture; it is named.
        """
        wrong = self._wrong(encoded)
        if wrong:
            raise ValueError(
                f"expected architectures encoded for space {self.space.name!r}, got those of another one ({wrong}); "
                "encode them again"
            )
        return encoded

    def _wrong(self, encoded: Encoded) -> str:
        """What is wrong with the numbers; empty where nothing is."""
        space, n, num_layers = self.space, len(encoded), self.space.depths[-1]
        if encoded.space and encoded.space != space.fingerprint:
            return "of other choices"
        for name in ENCODED_ARRAYS:
            shape = getattr(encoded, name).shape
            expected = (n, num_layers) if name.endswith("_nl") else (n,)
            if shape != expected:
                return f"{name} has shape {shape} in place of {expected}"
        absent_nl = np.arange(num_layers) >= encoded.depth_n[:, None]
        ok_n = (encoded.width_n >= 0) & (encoded.width_n < len(space.embed_dims))
        ok_n &= np.isin(encoded.depth_n, space.depths)
        ok_n &= np.isin(encoded.bias_n, [int(bias) for bias in space.biases])
        for numbers_nl, parts in zip(
            (encoded.attention_nl, encoded.ffn_nl), self._parts, strict=True
        ):
            known_nl = (numbers_nl >= 0) & (numbers_nl < len(parts))
            ok_n &= np.where(absent_nl, numbers_nl == ABSENT, known_nl).all(axis=1)
        return "" if ok_n.all() else f"row {int(np.flatnonzero(~ok_n)[0])} is no architecture of it"

    def _finder(self) -> Callable[[LayerConfig], tuple[int, int]]:
        """Layer to its two parts' numbers. A layer's own hash costs more than all the rest, so identities and fields are looked up."""
        attention_index, ffn_index = self._index
        by_object: dict[int, tuple[int, int]] = {}
        by_fields: dict[tuple[object, ...], tuple[int, int]] = {}
        alive: list[LayerConfig] = []  # an id means an object only as long as it lives

        def find(layer: LayerConfig) -> tuple[int, int]:
            found = by_object.get(id(layer))
            if found is not None:
                return found
            alive.append(layer)
            key = (
                layer.num_heads,
                layer.ffn_ratio,
                id(layer.attention_sparsity),
                id(layer.ffn_sparsity),
                layer.adapter_rank,
            )
            found = by_fields.get(key)
            if found is None:
                attention, ffn = parts_of(layer)
                found = by_fields[key] = attention_index[attention], ffn_index[ffn]
            by_object[id(layer)] = found
            return found

        return find

    def decode(self, encoded: Encoded) -> list[Architecture]:
        """Inverse of calling the encoder."""
        attention, ffn = self._parts
        found = []
        for i in range(len(encoded)):
            layers = []
            for a, f in zip(encoded.attention_nl[i], encoded.ffn_nl[i], strict=True):
                if a == ABSENT:
                    break
                one, two = attention[a], ffn[f]
                layers.append(
                    LayerConfig(
                        int(one.width),
                        two.width,
                        not one.is_dropped,
                        not two.is_dropped,
                        one.sparsity,
                        two.sparsity,
                        max(one.adapter_rank, two.adapter_rank),
                    )
                )
            embed_dim = self.space.embed_dims[encoded.width_n[i]]
            found.append(Architecture(embed_dim, tuple(layers), bool(encoded.bias_n[i])))
        return found
