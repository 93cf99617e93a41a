"""Supernet: one set of weights that contains every subnet of a search space.

A forward pass names its architecture and leaves nothing behind: width and depth are views of the leading rows, columns and layers
(as in OFA 1908.09791 and HW-GPT-Bench 2405.10299), sparsity is a mask on the view. There is no active-subnet state to set or forget.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nas.model.masks import MaskCache
from nas.model.transformer import (
    AttentionWeights,
    FFNWeights,
    GPTWeights,
    LinearFn,
    NormWeights,
    gpt_forward,
)
from search_spaces import Architecture, LayerConfig, SearchSpace, Sparsity


class SuperLinear(nn.Module):
    """Weight ``[out, in]``, bias and low-rank adapter at their largest; :meth:`view` cuts a subnet's part out."""

    def __init__(self, in_features: int, out_features: int, bias: bool, adapter_rank: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(out_features, in_features))
        self.bias = nn.Parameter(torch.zeros(out_features)) if bias else None
        self.adapter_a = (
            nn.Parameter(torch.empty(adapter_rank, in_features)) if adapter_rank else None
        )
        self.adapter_b = (
            nn.Parameter(torch.zeros(out_features, adapter_rank)) if adapter_rank else None
        )

    def view(
        self,
        out_features: int,
        in_features: int,
        bias: bool,
        sparsity: Sparsity,
        rank: int,
        masks: MaskCache,
    ) -> SubnetLinear:
        """Leading part of the layer, as a function of its input; no weight is copied unless it is masked."""
        weight = self.weight[:out_features, :in_features]
        if not sparsity.is_dense:
            weight = masks.apply(self.weight, out_features, in_features, sparsity)
        return SubnetLinear(
            weight,
            self.bias[:out_features] if bias and self.bias is not None else None,
            self.adapter_a[:rank, :in_features] if rank and self.adapter_a is not None else None,
            self.adapter_b[:out_features, :rank] if rank and self.adapter_b is not None else None,
        )


class SubnetLinear:
    """``y = W x + b + B (A x)`` over tensors it does not own."""

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor | None,
        adapter_a: Tensor | None,
        adapter_b: Tensor | None,
    ) -> None:
        self.weight, self.bias = weight, bias
        self.adapter_a, self.adapter_b = adapter_a, adapter_b

    def __call__(self, x: Tensor) -> Tensor:
        y = F.linear(x, self.weight, self.bias)
        if self.adapter_a is not None and self.adapter_b is not None:
            y = y + F.linear(F.linear(x, self.adapter_a), self.adapter_b)
        return y


class SuperLayer(nn.Module):
    """Norms and linears of one layer at their largest."""

    def __init__(self, space: SearchSpace) -> None:
        super().__init__()
        family = space.family
        dim, heads = space.embed_dims[-1], space.num_heads[-1]
        neurons = max(int(ratio * dim) for ratio in space.ffn_ratios)
        bias, rank = space.biases[-1], space.adapter_ranks[-1]
        sparse_attention = any(not s.is_dense for s in space.attention_sparsities)
        sparse_ffn = any(not s.is_dense for s in space.ffn_sparsities)

        def linear(in_features: int, out_features: int, sparse: bool) -> SuperLinear:
            return SuperLinear(in_features, out_features, bias, rank if sparse else 0)

        queries, keys = heads * family.head_dim, family.kv_heads(heads) * family.head_dim
        self.attention_norm = SuperNorm(dim, family.norm == "layernorm")
        self.q = linear(dim, queries, sparse_attention)
        self.k = linear(dim, keys, sparse_attention)
        self.v = linear(dim, keys, sparse_attention)
        self.o = linear(queries, dim, sparse_attention)
        self.ffn_norm = SuperNorm(dim, family.norm == "layernorm")
        self.gate = linear(dim, neurons, sparse_ffn) if family.activation == "swiglu" else None
        self.up = linear(dim, neurons, sparse_ffn)
        self.down = linear(neurons, dim, sparse_ffn)


class SuperNorm(nn.Module):
    """Weight ``[D]`` and optional bias ``[D]``."""

    def __init__(self, dim: int, bias: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))
        self.bias = nn.Parameter(torch.zeros(dim)) if bias else None

    def view(self, dim: int) -> NormWeights:
        """The leading features."""
        return NormWeights(self.weight[:dim], None if self.bias is None else self.bias[:dim])


class Supernet(nn.Module):
    """Weight-shared GPT of a search space.

    Args:
        space: its largest choices fix the stored shapes.
        seed: of the initial weights (normal 0.02, residual outputs divided by sqrt(2 depth), as GPT-2).
    """

    def __init__(self, space: SearchSpace, seed: int = 0) -> None:
        super().__init__()
        self.space = space
        family, dim = space.family, space.embed_dims[-1]
        self.embedding = nn.Parameter(torch.empty(family.vocab_size, dim))
        learned = family.positions == "learned"
        self.positions = nn.Parameter(torch.empty(family.context_length, dim)) if learned else None
        self.layers = nn.ModuleList(SuperLayer(space) for _ in range(space.depths[-1]))
        self.final_norm = SuperNorm(dim, family.norm == "layernorm")
        untied = not family.tied_embeddings
        self.unembed = nn.Parameter(torch.empty(family.vocab_size, dim)) if untied else None
        self._initialize(seed)

    @torch.no_grad()
    def _initialize(self, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        residual_scale = 1.0 / math.sqrt(2 * self.space.depths[-1])
        for name, parameter in self.named_parameters():
            if name.endswith(("norm.weight", "bias", "adapter_b")):
                continue  # ones and zeros already: an adapter starts as no change (LoRA, 2106.09685)
            if name.endswith("adapter_a"):
                parameter.normal_(0.0, parameter.shape[1] ** -0.5, generator=generator)
                continue
            parameter.normal_(0.0, 0.02, generator=generator)
            if name.endswith(("o.weight", "down.weight")):
                parameter.mul_(residual_scale)

    def subnet(self, architecture: Architecture, masks: MaskCache | None = None) -> GPTWeights:
        """Weights of a subnet as views, ready for :func:`gpt_forward`.

        Args:
            architecture: a member of the space.
            masks: shared across calls to reuse masks; a fresh one by default.

        Raises:
            ValueError: if the architecture is not in the space.
        """
        if not self.space.contains(architecture):
            raise ValueError(
                f"expected an architecture of space {self.space.name!r}, got {architecture}; "
                "build it with space.decode, space.sample or space.from_params"
            )
        masks = MaskCache() if masks is None else masks
        dim = architecture.embed_dim
        layers = tuple(
            self._layer(layer, config, architecture, masks)
            for layer, config in zip(self.layers, architecture.layers, strict=False)
        )
        output = (self.embedding if self.unembed is None else self.unembed)[:, :dim]
        positions = None if self.positions is None else self.positions[:, :dim]
        return GPTWeights(
            embedding=self.embedding[:, :dim],
            positions=positions,
            layers=layers,
            final_norm=self.final_norm.view(dim),
            unembed=SubnetLinear(output, None, None, None),
        )

    def _layer(
        self, layer: nn.Module, config: LayerConfig, architecture: Architecture, masks: MaskCache
    ) -> tuple[AttentionWeights | None, FFNWeights | None]:
        assert isinstance(layer, SuperLayer)
        family, dim = self.space.family, architecture.embed_dim
        attention = ffn = None

        def view(
            module: SuperLinear, out_features: int, in_features: int, sparsity: Sparsity
        ) -> LinearFn:
            rank = 0 if sparsity.is_dense else config.adapter_rank
            return module.view(out_features, in_features, architecture.bias, sparsity, rank, masks)

        if config.attention:
            kv_heads = family.kv_heads(config.num_heads)
            queries, keys = config.num_heads * family.head_dim, kv_heads * family.head_dim
            sparsity = config.attention_sparsity
            attention = AttentionWeights(
                norm=layer.attention_norm.view(dim),
                qkv=_separate(
                    view(layer.q, queries, dim, sparsity),
                    view(layer.k, keys, dim, sparsity),
                    view(layer.v, keys, dim, sparsity),
                ),
                o=view(layer.o, dim, queries, sparsity),
                num_heads=config.num_heads,
                num_kv_heads=kv_heads,
            )
        if config.ffn:
            neurons = int(config.ffn_ratio * dim)
            sparsity = config.ffn_sparsity
            ffn = FFNWeights(
                norm=layer.ffn_norm.view(dim),
                gate=None if layer.gate is None else view(layer.gate, neurons, dim, sparsity),
                up=view(layer.up, neurons, dim, sparsity),
                down=view(layer.down, dim, neurons, sparsity),
            )
        return attention, ffn

    def forward(
        self, tokens_BT: Tensor, architecture: Architecture, masks: MaskCache | None = None
    ) -> Tensor:
        """Logits of a subnet.

        Args:
            tokens_BT: token ids.
            architecture: a member of the space.
            masks: shared across calls to reuse masks; a fresh one by default.

        Returns:
            Logits ``[B, T, V]``.
        """
        return gpt_forward(self.space.family, self.subnet(architecture, masks), tokens_BT)


def _separate(
    q: LinearFn, k: LinearFn, v: LinearFn
) -> Callable[[Tensor], tuple[Tensor, Tensor, Tensor]]:
    return lambda x: (q(x), k(x), v(x))
