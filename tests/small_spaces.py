"""Spaces and families small enough to be built, run and enumerated many times in a test."""

from __future__ import annotations

import functools
import itertools
from dataclasses import replace
from typing import Any

import numpy as np

from search_spaces import Architecture, Family, LayerConfig, SearchSpace, Sparsity

PATTERNS = (
    "dense",
    "2:4",
    "1:4",
    "2:8",
    "1:8",
    "unstructured:0.70",
    "block16:0.50",
    "vector32:0.75",
)
GPT2 = Family(vocab_size=64, context_length=24, head_dim=16)


def _families() -> dict[str, Family]:
    """Every combination of norm, activation, positions, residual, key/value sharing and tying."""
    found = {}
    for norm, activation, positions, residual, queries, tied in itertools.product(
        ("layernorm", "rmsnorm"),
        ("gelu", "swiglu"),
        ("learned", "rotary"),
        ("sequential", "parallel"),
        (1, 2),
        (True, False),
    ):
        name = (
            f"{norm}-{activation}-{positions}-{residual}-g{queries}-{'tied' if tied else 'untied'}"
        )
        found[name] = replace(
            GPT2,
            norm=norm,
            activation=activation,
            positions=positions,
            rotary_fraction=1.0 if norm == "rmsnorm" else 0.5,
            residual=residual,
            queries_per_kv_head=queries,
            tied_embeddings=tied,
        )
    first = next(iter(found))
    found[first.replace("gelu", "gelu_tanh")] = replace(found[first], activation="gelu_tanh")
    return found


FAMILIES = _families()
# One of each choice at least once, for tests that are too slow for all of FAMILIES.
SOME_FAMILIES = (
    "layernorm-gelu_tanh-learned-sequential-g1-tied",
    "rmsnorm-swiglu-rotary-sequential-g2-untied",
    "layernorm-gelu-rotary-parallel-g1-untied",
)


def patterns_of(name: str) -> tuple[str, ...]:
    """Patterns to build a family's models with: all for SOME_FAMILIES, for the others three by turns."""
    if name in SOME_FAMILIES:
        return PATTERNS
    first = list(FAMILIES).index(name)
    return tuple(PATTERNS[(first * 3 + i) % len(PATTERNS)] for i in range(3))


@functools.cache
def small_space(family: Family = GPT2, **changes: Any) -> SearchSpace:
    """Two widths, depths, head counts and ratios, every pattern, adapters and droppable parts; about 12 000 weights."""
    group = family.queries_per_kv_head
    fields: dict[str, Any] = {
        "embed_dims": (32, 64),
        "depths": (1, 2),
        "num_heads": (2 * group, 4 * group),
        "ffn_ratios": (1, 2),
        "biases": (False, True),
        "attention": (False, True),
        "ffn": (False, True),
        "attention_sparsities": PATTERNS,
        "ffn_sparsities": PATTERNS,
        "adapter_ranks": (0, 4),
    }
    return SearchSpace(name="small", family=family, **(fields | changes))


def uniform(
    space: SearchSpace,
    pattern: str,
    *,
    rank: int = 0,
    bias: bool = True,
    embed_dim: int | None = None,
) -> Architecture:
    """An architecture whose layers differ in heads and ratio, all with one pattern."""
    sparsity = Sparsity.parse(pattern)
    layers = []
    for index in range(space.depths[-1]):
        heads = space.num_heads[(index + 1) % len(space.num_heads)]
        ratio = space.ffn_ratios[index % len(space.ffn_ratios)]
        layers.append(
            LayerConfig.make(
                heads,
                ratio,
                attention_sparsity=sparsity,
                ffn_sparsity=sparsity,
                adapter_rank=rank,
            )
        )
    return Architecture(embed_dim or space.embed_dims[0], tuple(layers), bias)


def draws(space: SearchSpace, number: int, seed: int) -> list[Architecture]:
    """Random architectures, every pattern with and without adapters first."""
    rng = np.random.default_rng(seed)
    return [space.sample(rng) for _ in range(number)]
