"""GPT: one architecture on its own, with sparse weights stored sparse, a KV cache and text generation."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, Self

import torch
from torch import Tensor, nn

from nas.kernels import PackedWeight, SparseLinear
from nas.model.cache import KVCache
from nas.model.transformer import (
    AttentionWeights,
    FFNWeights,
    GPTWeights,
    LinearFn,
    NormWeights,
    gpt_forward,
)
from search_spaces import Architecture, Family, LinearShape
from search_spaces import fused_linears as layer_fused_linears

Part = Tensor | PackedWeight


class GPT(nn.Module):
    """A standalone model of one architecture; every layer has its own widths.

    Dense q, k and v of a layer are one matrix, since one product of their rows costs less than three.

    Args:
        family: norm, activation, positions and residual form.
        architecture: what to build.
        parts: weights by name (:func:`part_names`): tensors, or packed weights where the
            architecture is sparse.

    Raises:
        ValueError: if a part is missing, left over or of the wrong shape.
    """

    def __init__(
        self, family: Family, architecture: Architecture, parts: Mapping[str, Part]
    ) -> None:
        super().__init__()
        self.family, self.architecture = family, architecture
        expected = part_names(family, architecture)
        if set(parts) != set(expected):
            missing, extra = sorted(set(expected) - set(parts)), sorted(set(parts) - set(expected))
            raise ValueError(
                f"expected the weights of {architecture}; missing {missing[:4]}, left over {extra[:4]}"
            )
        for name, shape in expected.items():
            if tuple(parts[name].shape) != shape:
                raise ValueError(
                    f"expected {name} of shape {shape}, got {tuple(parts[name].shape)}"
                )
        self.embedding = _parameter(parts["embedding"])
        self.positions = _parameter(parts["positions"]) if "positions" in parts else None
        self.layers = nn.ModuleList(
            _Layer(family, architecture, index, parts) for index in range(architecture.depth)
        )
        self.final_norm = _Norm(parts, "final_norm")
        self.unembed = _parameter(parts["unembed"]) if "unembed" in parts else None
        self._weights: GPTWeights | None = None

    def forward(self, tokens_BT: Tensor, cache: KVCache | None = None) -> Tensor:
        """Logits ``[B, T, V]``.

        Args:
            tokens_BT: token ids; only the new ones when there is a cache.
            cache: from :meth:`make_cache`; extended in place.

        Raises:
            ValueError: if the sequence is longer than the family's context.
        """
        if self._weights is None:  # gathered once: a decode step of a small model is mostly Python
            self._weights = self._gather()
        return gpt_forward(self.family, self._weights, tokens_BT, cache)

    def make_cache(self, batch: int, max_tokens: int | None = None) -> KVCache:
        """An empty KV cache for ``batch`` sequences of at most ``max_tokens`` (by default the whole context)."""
        heads = [
            self.family.kv_heads(c.num_heads) if c.attention else 0
            for c in self.architecture.layers
        ]
        capacity = max_tokens or self.family.context_length
        dtype, device = self.embedding.dtype, self.embedding.device
        return KVCache(heads, batch, capacity, self.family.head_dim, dtype, device)

    @torch.inference_mode()
    def generate(
        self,
        tokens_BT: Tensor,
        num_new: int,
        *,
        temperature: float = 0.8,
        top_k: int = 50,
        seed: int = 0,
    ) -> Tensor:
        """Continue sequences, one token at a time through the KV cache.

        Args:
            tokens_BT: prompts of equal length, at least one token.
            num_new: tokens to add.
            temperature: of the softmax; 0 takes the most likely token.
            top_k: only the k most likely tokens are drawn.
            seed: of the draw.

        Returns:
            ``[B, T + num_new]``.

        Raises:
            ValueError: if the prompt is empty or prompt and new tokens exceed the context.
        """
        if tokens_BT.shape[1] < 1:
            raise ValueError(
                "expected a prompt of one token or more, got none; start with the end-of-text token"
            )
        total = tokens_BT.shape[1] + num_new
        # Said now, not after most of the work.
        if num_new < 0 or total > self.family.context_length:
            raise ValueError(
                f"expected at most {self.family.context_length} tokens of context, got a prompt of {tokens_BT.shape[1]} and "
                f"{num_new} new; crop the prompt or ask for fewer"
            )
        if top_k < 1:
            raise ValueError(
                f"expected top_k of 1 or more, got {top_k}; temperature=0 takes the most likely token"
            )
        cache = self.make_cache(tokens_BT.shape[0], total)
        generator = torch.Generator(tokens_BT.device).manual_seed(seed)
        new = tokens_BT
        for _ in range(num_new):
            logits = self(new, cache)[:, -1].float()
            if temperature <= 0:
                new = logits.argmax(dim=-1, keepdim=True)
            else:
                best, ids = logits.topk(min(top_k, logits.shape[-1]))
                drawn = torch.multinomial(
                    torch.softmax(best / temperature, -1), 1, generator=generator
                )
                new = ids.gather(1, drawn)
            tokens_BT = torch.cat((tokens_BT, new), dim=1)
        return tokens_BT

    def parts(self) -> dict[str, Part]:
        """Every weight by name, as the constructor takes them; packed where stored sparse."""
        packed = {name: m for name, m in self.named_modules() if isinstance(m, PackedWeight)}
        inside = tuple(f"{name}." for name in packed)
        found: dict[str, Part] = {}
        for name, tensor in (*self.named_parameters(), *self.named_buffers()):
            if not name.startswith(inside):
                found[name] = tensor.detach()
        return found | packed

    def weight_bytes(self) -> int:
        """Bytes of all stored weights, counted on the tensors that are there."""
        tensors = (*self.parameters(), *self.buffers())
        return sum(t.numel() * t.element_size() for t in tensors)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        self._weights = None  # moving or casting may replace the tensors
        return super()._apply(fn, recurse)  # type: ignore[no-untyped-call, no-any-return]

    def __getstate__(self) -> dict[str, Any]:
        # What was gathered refers to this model's tensors: a copy gathers its own.
        return self.__dict__ | {"_weights": None}

    def _gather(self) -> GPTWeights:
        output = self.embedding if self.unembed is None else self.unembed
        layers = tuple(layer.weights for layer in self.layers)
        return GPTWeights(
            embedding=self.embedding,
            positions=self.positions,
            layers=layers,  # type: ignore[arg-type]
            final_norm=self.final_norm.weights,
            unembed=lambda x: nn.functional.linear(x, output),
        )


class _Norm(nn.Module):
    def __init__(self, parts: Mapping[str, Part], name: str) -> None:
        super().__init__()
        self.weight = _parameter(parts[f"{name}.weight"])
        self.bias = _parameter(parts[f"{name}.bias"]) if f"{name}.bias" in parts else None

    @property
    def weights(self) -> NormWeights:
        return NormWeights(self.weight, self.bias)


class _Layer(nn.Module):
    """One layer of an architecture; ``weights`` names its parts for the forward pass."""

    def __init__(
        self, family: Family, architecture: Architecture, index: int, parts: Mapping[str, Part]
    ) -> None:
        super().__init__()
        config = architecture.layers[index]
        prefix = f"layers.{index}"
        self.family, self.config = family, config
        for shape in fused_linears(family, architecture, index):
            self.add_module(shape.name, _linear(parts, f"{prefix}.{shape.name}"))
        self.attention_norm = _Norm(parts, f"{prefix}.attention_norm") if config.attention else None
        self.ffn_norm = _Norm(parts, f"{prefix}.ffn_norm") if config.ffn else None

    @property
    def weights(self) -> tuple[AttentionWeights | None, FFNWeights | None]:
        heads = self.config.num_heads
        attention = ffn = None
        if self.attention_norm is not None:
            attention = AttentionWeights(
                self.attention_norm.weights,
                self._qkv(),
                self._call("o"),
                heads,
                self.family.kv_heads(heads),
            )
        if self.ffn_norm is not None:
            gate = self._call("gate") if "gate" in self._modules else None
            up, down = self._call("up"), self._call("down")
            ffn = FFNWeights(self.ffn_norm.weights, gate, up, down, self._fused_up())
        return attention, ffn

    def _fused_up(self) -> LinearFn | None:
        """A sparse up-projection with its activation, or times the activated gate, in one kernel; None where it is dense."""
        up = self.get_submodule("up")
        if not isinstance(up, SparseLinear):
            return None
        if "gate" not in self._modules:
            return functools.partial(up.forward, activation=self.family.activation)
        gate = self._call("gate")
        return lambda x: up.forward(x, gate=gate(x))

    def _qkv(self) -> Callable[[Tensor], tuple[Tensor, Tensor, Tensor]]:
        if "qkv" not in self._modules:
            q, k, v = (self._call(name) for name in "qkv")
            return lambda x: (q(x), k(x), v(x))
        fused = self._call("qkv")
        head_dim = self.family.head_dim
        keys = self.family.kv_heads(self.config.num_heads) * head_dim
        sizes = [self.config.num_heads * head_dim, keys, keys]

        def split(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            q, k, v = fused(x).split_with_sizes(sizes, -1)
            return q, k, v

        return split

    def _call(self, name: str) -> Callable[[Tensor], Tensor]:
        """A linear as a bare function: calling the module costs as much as a small product."""
        linear = self.get_submodule(name)
        if isinstance(linear, _Dense):
            return functools.partial(nn.functional.linear, weight=linear.weight, bias=linear.bias)
        return linear.forward


def fused_linears(family: Family, architecture: Architecture, index: int) -> list[LinearShape]:
    """Linears of a layer as this model stores them: dense q, k and v as one matrix ``qkv``."""
    config = architecture.layers[index]
    return list(layer_fused_linears(config, architecture.embed_dim, architecture.bias, family))


def part_names(family: Family, architecture: Architecture) -> dict[str, tuple[int, ...]]:
    """Name and shape of every weight of a :class:`GPT`."""
    dim = architecture.embed_dim
    names: dict[str, tuple[int, ...]] = {"embedding": (family.vocab_size, dim)}
    if family.positions == "learned":
        names["positions"] = (family.context_length, dim)
    if not family.tied_embeddings:
        names["unembed"] = (family.vocab_size, dim)
    norms = ["final_norm"]
    for index, config in enumerate(architecture.layers):
        prefix = f"layers.{index}"
        norms += [f"{prefix}.attention_norm"] * config.attention + [
            f"{prefix}.ffn_norm"
        ] * config.ffn
        for shape in fused_linears(family, architecture, index):
            name = f"{prefix}.{shape.name}"
            names[f"{name}.weight"] = (shape.out_features, shape.in_features)
            if shape.bias:
                names[f"{name}.bias"] = (shape.out_features,)
            if shape.adapter_rank:
                names[f"{name}.adapter_a"] = (shape.adapter_rank, shape.in_features)
                names[f"{name}.adapter_b"] = (shape.out_features, shape.adapter_rank)
    for norm in norms:
        names[f"{norm}.weight"] = (dim,)
        if family.norm == "layernorm":
            names[f"{norm}.bias"] = (dim,)
    return names


def _linear(parts: Mapping[str, Part], name: str) -> nn.Module:
    weight, bias = parts[f"{name}.weight"], parts.get(f"{name}.bias")
    assert bias is None or isinstance(bias, Tensor)
    if isinstance(weight, PackedWeight):
        weight.may_copy = False  # a model's memory is the bytes it claims
        a, b = parts.get(f"{name}.adapter_a"), parts.get(f"{name}.adapter_b")
        adapter = (a, b) if isinstance(a, Tensor) and isinstance(b, Tensor) else None
        return SparseLinear(weight, bias, adapter)
    return _Dense(weight, bias)


class _Dense(nn.Module):
    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.weight = _parameter(weight)
        self.bias = None if bias is None else _parameter(bias)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, self.weight, self.bias)


def _parameter(part: Part) -> nn.Parameter:
    assert isinstance(part, Tensor)
    # Rows that end where the supernet's end would drag its memory along.
    return nn.Parameter(part.detach().clone(memory_format=torch.contiguous_format))
