"""Architectures in words."""

from __future__ import annotations

import itertools

from search_spaces import Architecture, LayerConfig


def describe(architecture: Architecture) -> list[str]:
    """An architecture in a few short lines; equal layers in a row share one."""
    bias = ", biases" if architecture.bias else ""
    lines = [f"{plural(architecture.depth, 'layer')} of width {architecture.embed_dim}{bias}"]
    number = 1
    for layer, group in itertools.groupby(architecture.layers):
        last = number + len(list(group)) - 1
        where = f"{number}" if last == number else f"{number}\N{EN DASH}{last}"
        lines.append(f"L{where}: {_layer_text(layer, architecture.embed_dim)}")
        number = last + 1
    return lines


def _layer_text(layer: LayerConfig, embed_dim: int) -> str:
    attention = ffn = "none"
    if layer.attention:
        attention = f"{plural(layer.num_heads, 'head')} {layer.attention_sparsity}"
    if layer.ffn:
        ffn = f"{layer.ffn_ratio * embed_dim:.0f} {layer.ffn_sparsity}"
    adapter = f", adapter rank {layer.adapter_rank}" if layer.adapter_rank else ""
    return f"attention {attention}, FFN {ffn}{adapter}"


def plural(count: int, noun: str) -> str:
    """A count with its noun."""
    return f"{count} {noun}{'' if count == 1 else 's'}"
