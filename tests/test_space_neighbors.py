"""SearchSpace: neighbors, samples, cardinality, files and what a space refuses."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import scipy.sparse
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from search_spaces import (
    Architecture,
    Choice,
    LayerConfig,
    SearchSpace,
    Sparsity,
    linear_shapes,
    preset,
    presets,
)
from tests.search_space_cases import (
    CONDITIONAL,
    ONE,
    PLAIN,
    SPACE,
    SPACES,
    architectures,
    every_point,
    is_active,
)
from tests.small_spaces import GPT2, small_space

# --- SearchSpace: neighbors -----------------------------------------------------------------------


def test_neighbors_are_exactly_those_one_coordinate_away() -> None:
    members = list(CONDITIONAL)
    encoded = np.stack([CONDITIONAL.encode(a) for a in members])
    for index in np.random.default_rng(0).integers(len(members), size=12):
        distance = (encoded != encoded[index]).sum(axis=1)
        expected = {members[i].key for i in np.flatnonzero(distance == 1)}
        neighbors = CONDITIONAL.neighbors(members[index])
        assert len({a.key for a in neighbors}) == len(neighbors)
        assert {a.key for a in neighbors} == expected


@given(data=st.data())
@settings(max_examples=10)
def test_neighbors_are_mutual(data: st.DataObject) -> None:
    architecture = data.draw(architectures(SPACE))
    for neighbor in SPACE.neighbors(architecture):
        assert architecture in SPACE.neighbors(neighbor)


def test_neighbors_lead_from_everywhere_to_everywhere() -> None:
    space = small_space(
        embed_dims=(32,),
        biases=(False,),
        num_heads=(2,),
        attention_sparsities=("dense", "2:4"),
        ffn_sparsities=("dense",),
    )
    reached = {space.smallest}
    frontier = [space.smallest]
    while frontier:
        fresh = {b for a in frontier for b in space.neighbors(a)} - reached
        reached |= fresh
        frontier = list(fresh)
    assert reached == set(space)


@given(data=st.data(), seed=st.integers(0, 2**32))
@settings(max_examples=60)
def test_a_mutation_changes_one_active_choice(data: st.DataObject, seed: int) -> None:
    before = data.draw(architectures(SPACE))
    after = SPACE.mutate(before, np.random.default_rng(seed))
    assert SPACE.contains(after)
    assert after == SPACE.mutate(before, np.random.default_rng(seed))
    old, new = SPACE.to_params(before), SPACE.to_params(after)
    shared = [
        c.name for c in SPACE.choices if is_active(c.name, before) and is_active(c.name, after)
    ]
    assert sum(old[name] != new[name] for name in shared) == 1


def test_every_active_choice_is_mutated_and_new_ones_are_drawn() -> None:
    start = SPACE.from_params(SPACE.to_params(SPACE.smallest) | {"depth": 1})
    rng = np.random.default_rng(0)
    found = [SPACE.mutate(start, rng) for _ in range(400)]
    old = SPACE.to_params(start)
    active = [c.name for c in SPACE.choices if is_active(c.name, start)]
    changed = Counter(next(n for n in active if SPACE.to_params(a)[n] != old[n]) for a in found)
    assert set(changed) == set(active)
    assert scipy.stats.chisquare(list(changed.values())).pvalue > 1e-4
    second = {a.layers[1] for a in found if a.depth == 2}
    assert len(second) > 10  # a new layer is not always the same one


def test_a_space_of_one_has_no_neighbors_and_no_mutations() -> None:
    only = ONE.largest
    assert ONE.cardinality == 1
    assert ONE.dim == 0
    assert ONE.neighbors(only) == []
    assert ONE.mutate(only, np.random.default_rng(0)) == only
    assert ONE.decode([]) == only
    assert ONE.encode(only).shape == (0,)


# --- SearchSpace: the whole -----------------------------------------------------------------------


@pytest.mark.parametrize("space", [CONDITIONAL, PLAIN], ids=["conditional", "plain"])
def test_cardinality_is_the_number_of_distinct_architectures(space: SearchSpace) -> None:
    decoded = every_point(space)
    assert len({a.key for a in decoded}) == len(set(decoded)) == space.cardinality
    listed = list(space)
    assert len(listed) == len(set(listed)) == space.cardinality
    assert set(listed) == set(decoded)


# embed_dims, depths, num_heads, ffn_ratios of HW-GPT-Bench (2405.10299) and the sizes its tables round to
HW_GPT = {
    "gpt-s": ((192, 384, 768), (10, 11, 12), (4, 8, 12), (2, 3, 4), "1.9e+12"),
    "gpt-m": ((256, 512, 1024), (22, 23, 24), (8, 12, 16), (2, 3, 4), "5.4e+23"),
    "gpt-l": ((320, 640, 1280), (34, 35, 36), (8, 16, 20), (2, 3, 4), "1.5e+35"),
    "gpt-s-wide": ((192, 384, 768), (3, 6, 12), (4, 8, 12), (1, 2, 4), "1.7e+12"),
    "gpt-m-wide": ((256, 512, 1024), (6, 12, 24), (4, 8, 16), (1, 2, 4), "4.8e+23"),
    "gpt-l-wide": ((320, 640, 1280), (9, 18, 36), (5, 10, 20), (1, 2, 4), "1.4e+35"),
}


@pytest.mark.parametrize("name", HW_GPT)
def test_the_presets_are_those_of_hw_gpt_bench(name: str) -> None:
    embed_dims, depths, heads, ratios, rounded = HW_GPT[name]
    space = preset(name)
    assert space.cardinality == 3 * 2 * sum(9**depth for depth in depths)
    assert f"{space.cardinality:.1e}" == rounded
    assert space.dim == 3 + 2 * depths[-1]
    values = {choice.name: choice.values for choice in space.choices}
    assert (values["embed_dim"], values["depth"], values["bias"]) == (
        embed_dims,
        depths,
        (False, True),
    )
    last = depths[-1] - 1
    assert values["layer0.num_heads"] == values[f"layer{last}.num_heads"] == heads
    assert values["layer0.ffn_ratio"] == values[f"layer{last}.ffn_ratio"] == ratios
    family = space.family
    assert (family.vocab_size, family.context_length, family.head_dim) == (50254, 1024, 64)
    assert family.rotary_dim == 32
    assert (family.norm, family.activation, family.residual) == ("layernorm", "gelu", "parallel")


@pytest.mark.parametrize("name", presets())
def test_the_sparse_presets_count_their_layers_in_closed_form(name: str) -> None:
    space = preset(name, sparsity=True)
    attention = 1 + len(space.num_heads) * len(space.attention_sparsities)
    ffn = 1 + len(space.ffn_ratios) * len(space.ffn_sparsities)
    dense = (1 + len(space.num_heads)) * (1 + len(space.ffn_ratios))
    per_layer = dense + len(space.adapter_ranks) * (attention * ffn - dense)
    outer = len(space.embed_dims) * len(space.biases)
    assert space.cardinality == outer * sum(per_layer**depth for depth in space.depths)
    dense_space = preset(name, sparsity=False)
    assert dense_space.fingerprint != space.fingerprint
    assert all(space.contains(a) for a in (dense_space.largest, dense_space.smallest))
    rng = np.random.default_rng(0)
    for _ in range(3):  # every matrix of every draw can be built
        shapes = linear_shapes(space.sample(rng), space.family)
        assert all(shape.nonzeros >= 1 for shape in shapes)


@pytest.mark.parametrize(("wrong", "near"), [("gpt-x", "gpt-"), ("tny", "tiny"), ("gpts", "gpt-s")])
def test_an_unknown_preset_proposes_near_names(wrong: str, near: str) -> None:
    with pytest.raises(ValueError, match=f"got '{wrong}'; did you mean .*{near}"):
        preset(wrong)
    with pytest.raises(ValueError, match="expected a preset in tiny"):
        preset("zzzzzz")


@pytest.mark.parametrize("name", SPACES)
def test_largest_and_smallest_bound_the_space(name: str) -> None:
    space = SPACES[name]
    assert space.contains(space.largest)
    assert space.contains(space.smallest)
    assert space.largest.depth == max(space.depths)
    assert space.smallest.depth == min(space.depths)
    rng = np.random.default_rng(0)
    biggest, least = space.largest, space.smallest
    for architecture in (space.sample(rng) for _ in range(50)):
        assert least.embed_dim <= architecture.embed_dim <= biggest.embed_dim
        for layer in architecture.layers:
            assert layer.num_heads <= biggest.layers[0].num_heads
            assert layer.ffn_ratio <= biggest.layers[0].ffn_ratio
    assert all(layer.attention and layer.ffn for layer in (*biggest.layers, *least.layers))
    assert all(layer.attention_sparsity.is_dense for layer in (*biggest.layers, *least.layers))


def test_a_space_without_a_dense_choice_still_has_a_largest_and_a_smallest() -> None:
    space = small_space(
        attention_sparsities=("1:4", "2:4"),
        ffn_sparsities=("unstructured:0.80", "unstructured:0.50"),
        adapter_ranks=(0, 2, 4),
    )
    assert space.contains(space.largest)
    assert space.contains(space.smallest)
    assert [
        str(space.largest.layers[0].attention_sparsity),
        space.largest.layers[0].adapter_rank,
    ] == ["2:4", 4]
    assert [str(space.smallest.layers[0].ffn_sparsity), space.smallest.layers[0].adapter_rank] == [
        "unstructured:0.50",
        0,
    ]


def test_contains_refuses_what_another_space_offers() -> None:
    assert not PLAIN.contains(Architecture(48, (LayerConfig(2, 1),)))
    assert not PLAIN.contains(Architecture(32, (LayerConfig(3, 1),)))
    assert not PLAIN.contains(Architecture(32, (LayerConfig(2, 1),) * 3))
    assert not PLAIN.contains(
        Architecture(32, (LayerConfig(2, 1, ffn_sparsity=Sparsity.parse("2:4")),))
    )
    assert not PLAIN.contains(Architecture(32, (LayerConfig(0, 1, attention=False),)))
    assert not ONE.contains(Architecture(32, (LayerConfig(2, 1),), bias=True))
    with pytest.raises(ValueError, match="expected embed_dim in"):
        PLAIN.encode(Architecture(48, (LayerConfig(2, 1),)))
    with pytest.raises(ValueError, match="expected layer 0 to be one of"):
        PLAIN.neighbors(Architecture(32, (LayerConfig(3, 1),)))


@pytest.mark.parametrize("name", SPACES)
def test_a_space_survives_json(name: str) -> None:
    space = SPACES[name]
    loaded = SearchSpace.from_json(json.loads(json.dumps(space.to_json())))
    assert loaded == space
    assert loaded.fingerprint == space.fingerprint
    assert loaded.choices == space.choices
    renamed = SearchSpace.from_json(space.to_json() | {"name": "other"})
    assert renamed.fingerprint == space.fingerprint
    wider = SearchSpace.from_json(space.to_json() | {"ffn_ratios": [1.0, 8.0]})
    assert wider.fingerprint != space.fingerprint


@pytest.mark.parametrize(
    "change",
    [
        {"embed_dims": 32},
        {"embed_dims": []},
        {"embed_dims": [32, 32]},
        {"embed_dims": ["32"]},
        {"embed_dims": [32.0]},
        {"embed_dims": [0]},
        {"depths": [0, 1]},
        {"depths": [1.0]},
        {"depths": None},
        {"num_heads": [0]},
        {"num_heads": [True]},
        {"ffn_ratios": ["1"]},
        {"ffn_ratios": [0.3]},
        {"ffn_ratios": [1, 1.0]},
        {"biases": ["False"]},
        {"attention": [0, 1]},
        {"attention": []},
        {"attention_sparsities": ["2:5"]},
        {"attention_sparsities": [0.5]},
        {"ffn_sparsities": ["2:4", "2:4"]},
        {"adapter_ranks": [-1]},
        {"adapter_ranks": ["4"]},
        {"family": None},
        {"family": {}},
        {"name": 3},
        {"extra": 1},
    ],
)
def test_damaged_space_json_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="expected"):
        SearchSpace.from_json(SPACE.to_json() | change)


def test_json_that_is_no_space_is_refused() -> None:
    fields = SPACE.to_json()
    del fields["depths"]
    for value in (fields, None, 3, [], "tiny"):
        with pytest.raises(ValueError, match="expected a search space"):
            SearchSpace.from_json(value)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "changes",
    [
        {"embed_dims": (32, 48), "ffn_sparsities": ("dense", "block32:0.50")},
        {"embed_dims": (48,), "attention_sparsities": ("dense", "vector32:0.50")},
        {"embed_dims": (36,), "attention_sparsities": ("dense", "2:8")},
        {"num_heads": (1, 2), "attention_sparsities": ("dense", "vector32:0.50")},
        {"ffn_ratios": (0.5, 1), "ffn_sparsities": ("dense", "block32:0.50")},
    ],
)
def test_a_sparsity_that_does_not_divide_is_refused_when_the_space_is_made(
    changes: dict[str, Any],
) -> None:
    dense = {k: v for k, v in changes.items() if not k.endswith("sparsities")}
    other = {"attention_sparsities": ("dense",), "ffn_sparsities": ("dense",)}
    small_space(**(other | dense))
    with pytest.raises(ValueError, match="divisible by"):
        small_space(**(other | changes))


def test_heads_that_do_not_form_groups_are_refused_when_the_space_is_made() -> None:
    shared = replace(GPT2, queries_per_kv_head=2)
    with pytest.raises(ValueError, match="num_heads divisible by queries_per_kv_head=2"):
        SearchSpace("odd", shared, (32,), (1,), (2, 3), (1,))


def test_choices_are_static_and_only_those_that_choose() -> None:
    names = [choice.name for choice in PLAIN.choices]
    assert names == [
        *("embed_dim", "depth", "bias"),
        *("layer0.num_heads", "layer0.ffn_ratio", "layer1.num_heads", "layer1.ffn_ratio"),
    ]
    assert PLAIN.choices[0] == Choice("embed_dim", (32, 64))
    assert all(len(choice.values) > 1 for choice in SPACE.choices)
