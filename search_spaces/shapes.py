"""The weight matrices of an architecture: the one list that costs, surrogates and materialization agree on."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from search_spaces.architecture import Architecture, LayerConfig
from search_spaces.family import Family
from search_spaces.sparsity import DENSE, Sparsity

ATTENTION_LINEARS = ("q", "k", "v", "o")


@dataclass(frozen=True)
class LinearShape:
    """One linear layer ``y = W x (+ b) (+ B A x)``.

    Args:
        layer: index of the transformer layer; -1 for the output layer.
        name: ``q``, ``k``, ``v``, ``o``, ``gate``, ``up``, ``down`` or ``unembed``.
        out_features: rows of W.
        in_features: columns of W.
        sparsity: of W.
        adapter_rank: rank of B A; 0 for none.
        bias: whether b exists.
    """

    layer: int
    name: str
    out_features: int
    in_features: int
    sparsity: Sparsity
    adapter_rank: int
    bias: bool

    @property
    def nonzeros(self) -> int:
        """Weights kept in W."""
        return self.sparsity.nonzeros(self.out_features, self.in_features)

    @property
    def adapter_params(self) -> int:
        """Parameters of A (rank x in) and B (out x rank)."""
        return self.adapter_rank * (self.out_features + self.in_features)

    @property
    def macs(self) -> int:
        """Multiply-accumulates for one token, zeros not counted."""
        return self.nonzeros + self.adapter_params


@lru_cache(maxsize=65536)
def layer_linears(
    config: LayerConfig, embed_dim: int, bias: bool, family: Family
) -> tuple[LinearShape, ...]:
    """Linear layers of one transformer layer (``layer`` is 0), in the order of execution.

    Raises:
        ValueError: if a sparsity does not divide a matrix.
    """
    found: list[LinearShape] = []

    def add(name: str, out_features: int, in_features: int, sparsity: Sparsity) -> None:
        sparsity.check_shape(out_features, in_features)
        rank = 0 if sparsity.is_dense else config.adapter_rank
        found.append(LinearShape(0, name, out_features, in_features, sparsity, rank, bias))

    if config.attention:
        queries = config.num_heads * family.head_dim
        keys = family.kv_heads(config.num_heads) * family.head_dim
        add("q", queries, embed_dim, config.attention_sparsity)
        add("k", keys, embed_dim, config.attention_sparsity)
        add("v", keys, embed_dim, config.attention_sparsity)
        add("o", embed_dim, queries, config.attention_sparsity)
    if config.ffn:
        neurons = int(config.ffn_ratio * embed_dim)
        if family.activation == "swiglu":
            add("gate", neurons, embed_dim, config.ffn_sparsity)
        add("up", neurons, embed_dim, config.ffn_sparsity)
        add("down", embed_dim, neurons, config.ffn_sparsity)
    return tuple(found)


@lru_cache(maxsize=65536)
def fused_linears(
    config: LayerConfig, embed_dim: int, bias: bool, family: Family
) -> tuple[LinearShape, ...]:
    """:func:`layer_linears` as a built model stores and runs them: dense q, k and v as one matrix ``qkv``."""
    shapes = layer_linears(config, embed_dim, bias, family)
    if not config.attention or not config.attention_sparsity.is_dense:
        return shapes
    q = shapes[0]
    rows = sum(shape.out_features for shape in shapes[:3])
    fused = LinearShape(0, "qkv", rows, q.in_features, q.sparsity, q.adapter_rank, q.bias)
    return (fused, *shapes[3:])


def linear_shapes(architecture: Architecture, family: Family) -> tuple[LinearShape, ...]:
    """Every linear layer of an architecture in the order of execution, the output layer last.

    Raises:
        ValueError: if a sparsity does not divide a matrix.
    """
    shapes: list[LinearShape] = []
    for index, config in enumerate(architecture.layers):
        for shape in layer_linears(config, architecture.embed_dim, architecture.bias, family):
            shapes.append(
                LinearShape(
                    index,
                    shape.name,
                    shape.out_features,
                    shape.in_features,
                    shape.sparsity,
                    shape.adapter_rank,
                    shape.bias,
                )
            )
    shapes.append(
        LinearShape(-1, "unembed", family.vocab_size, architecture.embed_dim, DENSE, 0, False)
    )
    return tuple(shapes)
