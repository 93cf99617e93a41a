"""Spaces, and strategies that draw from them, for the tests of search spaces."""

from __future__ import annotations

import functools
import itertools

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from search_spaces import (
    Architecture,
    SearchSpace,
    preset,
)
from tests.small_spaces import GPT2, small_space

SPACE = small_space()


CONDITIONAL = small_space(
    embed_dims=(32,),
    biases=(False,),
    attention_sparsities=("dense", "2:4"),
    ffn_sparsities=("dense", "1:4"),
)


PLAIN = small_space(
    attention=(True,),
    ffn=(True,),
    attention_sparsities=("dense",),
    ffn_sparsities=("dense",),
    adapter_ranks=(0,),
)


SPACES = {"small": SPACE, "conditional": CONDITIONAL, "plain": PLAIN, "tiny": preset("tiny")}


ONE = SearchSpace("one", GPT2, (32,), (1,), (2,), (1,))


def points(space: SearchSpace) -> st.SearchStrategy[np.ndarray]:
    """Points of the unit cube, its faces and bin edges often."""
    edges = st.sampled_from([0.0, 0.25, 1 / 3, 0.5, 2 / 3, 0.75, 1.0])
    return hnp.arrays(np.float64, space.dim, elements=st.one_of(st.floats(0.0, 1.0), edges))


def architectures(space: SearchSpace) -> st.SearchStrategy[Architecture]:
    return points(space).map(space.decode)


@functools.cache
def every_point(space: SearchSpace) -> list[Architecture]:
    """What every combination of the choices' values decodes to, repeats included."""
    values = [[(i + 0.5) / len(c.values) for i in range(len(c.values))] for c in space.choices]
    return [space.decode(point) for point in itertools.product(*values)]


def is_active(slot: str, architecture: Architecture) -> bool:
    """Whether a slot decides anything about an architecture, written from the definition of a dropped part."""
    if "." not in slot:
        return True
    layer_name, name = slot.split(".")
    index = int(layer_name.removeprefix("layer"))
    if index >= len(architecture.layers):
        return False
    layer = architecture.layers[index]
    if name in ("num_heads", "attention_sparsity"):
        return layer.attention
    if name in ("ffn_ratio", "ffn_sparsity"):
        return layer.ffn
    if name == "adapter_rank":
        return str(layer.attention_sparsity) != "dense" or str(layer.ffn_sparsity) != "dense"
    return True
