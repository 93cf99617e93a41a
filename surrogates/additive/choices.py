"""Choice vectors: an architecture as one whole number per choice of the space, which is what vectorized searchers work on.

n architectures, d choices, l layers.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from search_spaces import Sparsity
from search_spaces.choices import LAYER_SLOTS
from surrogates.additive.encoding import ABSENT, Encoded, Encoder, IntArray, Part

_ATTENTION = ("attention", "num_heads", "attention_sparsity", "adapter_rank")
_FFN = ("ffn", "ffn_ratio", "ffn_sparsity", "adapter_rank")


@dataclass(frozen=True, eq=False)
class ChoiceVectors:
    """Choice vectors of one space: number i of choice c stands for ``space.choices[c].values[i]``.

    Args:
        encoder: of the space.
    """

    encoder: Encoder

    @cached_property
    def sizes_d(self) -> IntArray:
        """How many values each choice has."""
        return np.array([len(choice.values) for choice in self.encoder.space.choices])

    def sample(self, n: int, rng: np.random.Generator) -> IntArray:
        """Draw every choice uniformly and independently, shape (n, d)."""
        return rng.integers(0, self.sizes_d, size=(n, len(self.sizes_d)))

    @cached_property
    def _where(self) -> dict[str, int]:
        return {choice.name: i for i, choice in enumerate(self.encoder.space.choices)}

    @cached_property
    def _values(self) -> dict[str, tuple[object, ...]]:
        """Values of every slot of a layer, those without a choice included."""
        fields = self.encoder.space.to_json()
        return {slot: tuple(fields[name]) for slot, name in LAYER_SLOTS.items()}

    @cached_property
    def _parts(self) -> tuple[IntArray, IntArray]:
        """Number of the attention part and of the FFN part of every combination of their slots' values."""
        found = []
        for slots, parts in (
            (_ATTENTION, self.encoder.attention_parts),
            (_FFN, self.encoder.ffn_parts),
        ):
            index = {part: i for i, part in enumerate(parts)}
            shape = [len(self._values[slot]) for slot in slots]
            table = np.zeros(shape, dtype=np.int64)
            for where in np.ndindex(*shape):
                kept, width, sparsity, rank = (
                    self._values[slot][i] for slot, i in zip(slots, where, strict=True)
                )
                level = Sparsity.parse(str(sparsity))
                own_rank = 0 if level.is_dense else int(str(rank))
                part = (
                    Part(float(str(width)), level, own_rank) if kept else Part(0.0, Sparsity(), 0)
                )
                table[where] = index[part]
            found.append(table)
        return found[0], found[1]

    def decode(self, codes_nd: npt.ArrayLike) -> Encoded:
        """Architectures of choice vectors; those of inactive choices do not matter.

        Raises:
            ValueError: if the shape is wrong or a number names no value.
        """
        codes = np.asarray(codes_nd)
        if codes.ndim != 2 or codes.shape[1] != len(self.sizes_d) or codes.dtype.kind not in "iu":
            raise ValueError(
                f"expected whole numbers of shape (n, {len(self.sizes_d)}), got {codes.dtype} of shape {codes.shape}"
            )
        wrong = (codes < 0) | (codes >= self.sizes_d)
        if wrong.any():
            row, place = (int(i) for i in np.argwhere(wrong)[0])
            raise ValueError(
                f"expected choices below {self.sizes_d[place]} in column {place}, got {codes[row, place]} in row {row}"
            )
        space, where = self.encoder.space, self._where
        n, num_layers = len(codes), space.depths[-1]
        nothing = np.zeros(n, dtype=np.int64)

        def column(name: str) -> IntArray:
            return codes[:, where[name]].astype(np.int64) if name in where else nothing

        depth_n = np.array(space.depths)[column("depth")]
        bias_n = np.array(space.biases, dtype=np.int64)[column("bias")]
        present_nl = np.arange(num_layers) < depth_n[:, None]
        attention, ffn = self._parts
        found = []
        for slots, table in ((_ATTENTION, attention), (_FFN, ffn)):
            index = tuple(
                np.stack([column(f"layer{layer}.{slot}") for layer in range(num_layers)], axis=1)
                for slot in slots
            )
            found.append(np.where(present_nl, table[index], ABSENT))
        return Encoded(column("embed_dim"), depth_n, bias_n, found[0], found[1], space.fingerprint)

    def encode(self, encoded: Encoded) -> IntArray:
        """Inverse of :meth:`decode`; inactive choices hold their first value."""
        space = self.encoder.space
        found = []
        for architecture in self.encoder.decode(encoded):
            params = space.to_params(architecture)
            found.append([choice.values.index(params[choice.name]) for choice in space.choices])
        return np.array(found, dtype=np.int64).reshape(len(encoded), len(space.choices))
