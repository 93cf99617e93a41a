"""Extraction: copy a subnet out of the supernet into a standalone GPT that stores its sparse weights sparse."""

from __future__ import annotations

import torch
from torch import Tensor

from nas.kernels import pack
from nas.model.gpt import GPT, Part, fused_linears
from nas.model.masks import MaskCache
from nas.model.supernet import SuperLayer, SuperLinear, Supernet, SuperNorm
from search_spaces import Architecture, LinearShape


@torch.no_grad()
def extract(
    supernet: Supernet,
    architecture: Architecture,
    *,
    dtype: torch.dtype = torch.float32,
    masks: MaskCache | None = None,
) -> GPT:
    """Standalone model of a subnet, with the masks the supernet would apply.

    Args:
        supernet: the weights.
        architecture: a member of its space.
        dtype: of the extracted weights.
        masks: shared across calls to reuse masks; a fresh one by default.

    Returns:
        A GPT in evaluation mode on the supernet's device, sharing no memory with the supernet.

    Raises:
        ValueError: if the architecture is not in the space.
    """
    if not supernet.space.contains(architecture):
        raise ValueError(
            f"expected an architecture of space {supernet.space.name!r}, got {architecture}"
        )
    masks = MaskCache() if masks is None else masks
    family, dim = supernet.space.family, architecture.embed_dim
    parts: dict[str, Part] = {"embedding": supernet.embedding[:, :dim]}
    if supernet.positions is not None:
        parts["positions"] = supernet.positions[:, :dim]
    if supernet.unembed is not None:
        parts["unembed"] = supernet.unembed[:, :dim]
    _add_norm(parts, "final_norm", supernet.final_norm, dim)
    for index, config in enumerate(architecture.layers):
        layer = supernet.layers[index]
        assert isinstance(layer, SuperLayer)
        prefix = f"layers.{index}"
        if config.attention:
            _add_norm(parts, f"{prefix}.attention_norm", layer.attention_norm, dim)
        if config.ffn:
            _add_norm(parts, f"{prefix}.ffn_norm", layer.ffn_norm, dim)
        for shape in fused_linears(family, architecture, index):
            name = f"{prefix}.{shape.name}"
            _add_linear(parts, name, layer, shape, config.num_heads, supernet, masks, dtype)
    return GPT(family, architecture, {k: v.to(dtype) for k, v in parts.items()}).eval()


def _add_norm(parts: dict[str, Part], name: str, norm: SuperNorm, dim: int) -> None:
    view = norm.view(dim)
    parts[f"{name}.weight"] = view.weight
    if view.bias is not None:
        parts[f"{name}.bias"] = view.bias


def _add_linear(
    parts: dict[str, Part],
    name: str,
    layer: SuperLayer,
    shape: LinearShape,
    num_heads: int,
    supernet: Supernet,
    masks: MaskCache,
    dtype: torch.dtype,
) -> None:
    if shape.name == "qkv":
        family = supernet.space.family
        queries, keys = num_heads * family.head_dim, family.kv_heads(num_heads) * family.head_dim
        sources = [(layer.q, queries), (layer.k, keys), (layer.v, keys)]
    else:
        source = getattr(layer, shape.name)
        assert isinstance(source, SuperLinear)
        sources = [(source, shape.out_features)]
    weights = [module.weight[:rows, : shape.in_features] for module, rows in sources]
    if shape.sparsity.is_dense:
        parts[f"{name}.weight"] = torch.cat(weights)
    else:
        module, rows = sources[0]
        mask = masks.mask(module.weight, rows, shape.in_features, shape.sparsity)
        # Cast first: the format depends on the bytes of a value. The mask is that of the supernet's own weights.
        parts[f"{name}.weight"] = pack(weights[0].to(dtype), shape.sparsity, mask)
    if shape.bias:
        biases = [module.bias[:rows] for module, rows in sources if module.bias is not None]
        parts[f"{name}.bias"] = torch.cat(biases)
    if shape.adapter_rank:
        module, rows = sources[0]
        a, b = module.adapter_a, module.adapter_b
        assert isinstance(a, Tensor)
        assert isinstance(b, Tensor)
        parts[f"{name}.adapter_a"] = a[: shape.adapter_rank, : shape.in_features].clone()
        parts[f"{name}.adapter_b"] = b[:rows, : shape.adapter_rank].clone()
