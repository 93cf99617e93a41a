"""Models of published shape with random weights, dense and sparse, for timing alone: what they say means nothing."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor

from experiments.kernels.door import pack_kind
from experiments.kernels.shapes import Kind
from nas.kernels import PackedWeight
from nas.model import GPT
from nas.model.gpt import Part, part_names
from search_spaces import Architecture, Family, LayerConfig
from search_spaces.sparsity import DENSE, Sparsity


@dataclass(frozen=True)
class ModelShape:
    """Sizes of a decoder.

    Args:
        dim: features of the residual stream.
        depth: layers.
        heads: query heads, of 128 features.
        queries_per_kv_head: query heads that share a key/value head.
        neurons: of the FFN.
        vocab: tokens.
        gated: RMSNorm, SwiGLU and rotary positions; otherwise LayerNorm, GELU, biases and learned positions.
    """

    dim: int
    depth: int
    heads: int
    queries_per_kv_head: int
    neurons: int
    vocab: int
    gated: bool

    def reduced(self, factor: int) -> ModelShape:
        """About ``1 / factor`` of every size, heads and groups kept whole."""
        group = self.queries_per_kv_head
        heads = max(self.heads // factor // group, 1) * group
        dim = 128 * heads
        neurons = self.neurons * dim // self.dim // 128 * 128
        vocab, depth = max(self.vocab // factor, 128), max(self.depth // factor, 1)
        return ModelShape(dim, depth, heads, group, neurons, vocab, self.gated)

    def family(self, context: int) -> Family:
        """Everything but widths and depth."""
        return Family(
            vocab_size=self.vocab,
            context_length=context,
            head_dim=128,
            norm="rmsnorm" if self.gated else "layernorm",
            activation="swiglu" if self.gated else "gelu",  # OPT has ReLU; the time is the same
            positions="rotary" if self.gated else "learned",
            queries_per_kv_head=self.queries_per_kv_head,
            tied_embeddings=not self.gated,
        )

    def architecture(self, sparsity: Sparsity = DENSE, depth: int | None = None) -> Architecture:
        """All layers alike, all of their linears of one sparsity."""
        layer = LayerConfig.make(
            self.heads,
            self.neurons / self.dim,
            attention_sparsity=sparsity,
            ffn_sparsity=sparsity,
        )
        return Architecture(self.dim, (layer,) * (depth or self.depth), bias=not self.gated)


MODELS = {
    "opt-13b": ModelShape(5120, 40, 40, 1, 20480, 50272, gated=False),
    "opt-30b": ModelShape(7168, 48, 56, 1, 28672, 50272, gated=False),
    "llama-3-8b": ModelShape(4096, 32, 32, 4, 14336, 128256, gated=True),
}


def build(
    shape: ModelShape,
    kind: Kind | None,
    context: int,
    dtype: torch.dtype,
    device: str,
    seed: int = 0,
    depth: int | None = None,
) -> GPT:
    """A model with random weights.

    Layers share their values but not their memory: the time of a step does not depend on the first and does on the second.

    Args:
        shape: sizes.
        kind: of every linear inside the layers; None for dense.
        context: longest sequence, in tokens.
        dtype: of weights.
        device: where it is built.
        seed: of the weights.
        depth: layers, if not the shape's own.
    """
    family = shape.family(context)
    architecture = shape.architecture(DENSE if kind is None else kind.sparsity, depth)
    generator = torch.Generator(device).manual_seed(seed)
    parts: dict[str, Part] = {}
    made: dict[str, Part] = {}
    for name, size in part_names(family, architecture).items():
        place = name.split(".", 2)[-1] if name.startswith("layers.") else name
        if place not in made:
            is_linear = name.startswith("layers.") and len(size) == 2
            made[place] = _draw(name, size, generator, dtype, device)
            if is_linear and kind is not None:
                made[place] = pack_kind(_tensor(made[place]), kind)
        part = made[place]
        # a GPT copies the matrices that it is given, but neither packed weights nor the biases beside them
        is_kept = isinstance(part, PackedWeight) or part.ndim == 1
        parts[name] = copy.deepcopy(part) if is_kept else part
    return GPT(family, architecture, parts).eval()


def _draw(
    name: str, size: tuple[int, ...], generator: torch.Generator, dtype: torch.dtype, device: str
) -> Tensor:
    if len(size) == 1:  # a norm's weight is about one, biases are about zero
        centre = 1.0 if name.endswith("norm.weight") else 0.0
        values = torch.randn(size, generator=generator, device=device).mul_(0.02).add_(centre)
    else:
        values = torch.randn(size, generator=generator, device=device).mul_(size[-1] ** -0.5)
    return values.to(dtype)


def unpacked(model: GPT, dtype: torch.dtype) -> GPT:
    """The same function with every packed weight dense: q, k and v become the one matrix that a dense model has."""
    parts = model.parts()
    layers = tuple(
        LayerConfig.make(layer.num_heads, layer.ffn_ratio) for layer in model.architecture.layers
    )
    architecture = Architecture(model.architecture.embed_dim, layers, model.architecture.bias)
    dense: dict[str, Part] = {}
    for name in part_names(model.family, architecture):
        prefix, _, last = name.rpartition(".")
        if prefix.endswith(".qkv") and name not in parts:
            stem = prefix.removesuffix("qkv")
            dense[name] = torch.cat([_tensor(parts[f"{stem}{q}.{last}"]) for q in "qkv"]).to(dtype)
        else:
            dense[name] = _tensor(parts[name]).to(dtype)
    return GPT(model.family, architecture, dense).eval()


def _tensor(part: Part) -> Tensor:
    return part.unpack() if isinstance(part, PackedWeight) else part
