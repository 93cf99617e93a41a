"""The choices of a search space: its slots, and what their values may be."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from search_spaces.architecture import Architecture
from search_spaces.sparsity import Sparsity

Value = int | float | bool | str
# Slot name to the field of SearchSpace that lists its values.
GLOBAL_SLOTS = {"embed_dim": "embed_dims", "depth": "depths", "bias": "biases"}
LAYER_SLOTS = {
    "attention": "attention",
    "num_heads": "num_heads",
    "attention_sparsity": "attention_sparsities",
    "ffn": "ffn",
    "ffn_ratio": "ffn_ratios",
    "ffn_sparsity": "ffn_sparsities",
    "adapter_rank": "adapter_ranks",
}


@dataclass(frozen=True)
class Choice:
    """One dimension of a search space: a name and its values as JSON scalars, smallest first where they have an order."""

    name: str
    values: tuple[Value, ...]


def check_types(name: str, values: Any) -> None:
    """Refuse values that would compare and sort, but build something else: "False" is truthy, 2.0 equals 2."""
    kinds: dict[str, tuple[type, ...]] = {"ffn_ratios": (int, float)}
    kinds |= dict.fromkeys(("biases", "attention", "ffn"), (bool,))
    kinds |= dict.fromkeys(("attention_sparsities", "ffn_sparsities"), (Sparsity, str))
    allowed = kinds.get(name, (int,))
    if not isinstance(values, tuple | list) or any(type(value) not in allowed for value in values):
        names = " or ".join(kind.__name__ for kind in allowed)
        raise ValueError(f"expected {name} to be a tuple of {names}, got {values!r}")


def active_values(architecture: Architecture) -> dict[str, Value]:
    """Values of the slots that the architecture uses, those with a single value included."""
    found: dict[str, Value] = {
        "embed_dim": architecture.embed_dim,
        "depth": architecture.depth,
        "bias": architecture.bias,
    }
    for index, layer in enumerate(architecture.layers):
        used: dict[str, Value] = {"attention": layer.attention, "ffn": layer.ffn}
        if layer.attention:
            used |= {
                "num_heads": layer.num_heads,
                "attention_sparsity": str(layer.attention_sparsity),
            }
        if layer.ffn:
            used |= {"ffn_ratio": layer.ffn_ratio, "ffn_sparsity": str(layer.ffn_sparsity)}
        if not (layer.attention_sparsity.is_dense and layer.ffn_sparsity.is_dense):
            used["adapter_rank"] = layer.adapter_rank
        found |= {f"layer{index}.{name}": value for name, value in used.items()}
    return found
