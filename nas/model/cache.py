"""KV cache: the keys and values of the tokens a model has already read."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


class KVCache:
    """Preallocated keys and values of every layer that attends.

    Args:
        kv_heads: key/value heads per layer; 0 where a layer has no attention.
        batch: sequences.
        max_tokens: capacity in tokens per sequence.
        head_dim: features of a head.
        dtype: of the stored keys and values.
        device: where they live.
    """

    def __init__(
        self,
        kv_heads: Sequence[int],
        batch: int,
        max_tokens: int,
        head_dim: int,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        self.length = 0
        self.max_tokens = max_tokens
        self._layers: list[tuple[Tensor, Tensor] | None] = []
        for heads in kv_heads:
            shape = (batch, heads, max_tokens, head_dim)
            pair = (
                [torch.zeros(shape, dtype=dtype, device=device) for _ in range(2)]
                if heads
                else None
            )
            self._layers.append((pair[0], pair[1]) if pair else None)

    def extend(self, layer: int, k_BGTE: Tensor, v_BGTE: Tensor) -> tuple[Tensor, Tensor]:
        """Append new keys and values after the current length and return all of the layer's, ``[B, G, S, E]``.

        ``length`` itself moves once per forward pass, after the last layer.

        Raises:
            ValueError: if the cache is full.
        """
        pair = self._layers[layer]
        end = self.length + k_BGTE.shape[2]
        if pair is None or end > self.max_tokens:
            raise ValueError(
                f"expected a cache with room for {end} tokens in layer {layer}, got {self.max_tokens if pair else 0}; "
                "make the cache with GPT.make_cache(batch, max_tokens)"
            )
        keys, values = pair
        # One sequence would be written into every row without a word.
        if k_BGTE.shape[0] != keys.shape[0]:
            raise ValueError(
                f"expected {keys.shape[0]} sequences, as the cache was made for, got {k_BGTE.shape[0]}; "
                "make another cache with GPT.make_cache(batch, max_tokens)"
            )
        keys.narrow(2, self.length, k_BGTE.shape[2]).copy_(k_BGTE)
        values.narrow(2, self.length, k_BGTE.shape[2]).copy_(v_BGTE)
        return keys.narrow(2, 0, end), values.narrow(2, 0, end)

    @property
    def num_bytes(self) -> int:
        """Bytes held."""
        return sum(t.numel() * t.element_size() for pair in self._layers if pair for t in pair)
