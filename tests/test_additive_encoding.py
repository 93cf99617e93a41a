"""Architectures as arrays and as choice vectors, and back: nothing is lost, and nothing foreign gets in."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from search_spaces import Architecture, LayerConfig, SearchSpace, Sparsity
from surrogates.additive.choices import ChoiceVectors
from surrogates.additive.encoding import ABSENT, Encoded, Encoder
from tests.additive_cases import GPT_S, SPACES, TINY, draws
from tests.search_space_cases import SPACE as SMALL
from tests.search_space_cases import architectures


def assert_same(a: Encoded, b: Encoded) -> None:
    for name in Encoded.__dataclass_fields__:
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name), err_msg=name)


@pytest.mark.parametrize("space", SPACES.values(), ids=SPACES.keys())
def test_what_is_encoded_is_decoded(space: SearchSpace) -> None:
    asked = [space.smallest, space.largest, *draws(space, 30, 1)]
    encoder = Encoder(space)
    assert encoder.decode(encoder(asked)) == asked


@settings(max_examples=50)
@given(st.lists(architectures(SMALL), max_size=5))
def test_any_list_of_any_architectures(asked: list[Architecture]) -> None:
    encoder = Encoder(SMALL)
    assert encoder.decode(encoder(asked)) == asked


@pytest.mark.parametrize("space", [TINY, GPT_S], ids=lambda s: s.name)
def test_the_arrays_say_what_the_architectures_say(space: SearchSpace) -> None:
    asked = draws(space, 40, 2)
    encoder = Encoder(space)
    found = encoder(asked)
    for i, architecture in enumerate(asked):
        assert space.embed_dims[found.width_n[i]] == architecture.embed_dim
        assert found.depth_n[i] == len(architecture.layers)
        assert found.bias_n[i] == architecture.bias
        for index in range(space.depths[-1]):
            a, f = found.attention_nl[i, index], found.ffn_nl[i, index]
            if index >= len(architecture.layers):
                assert a == f == ABSENT
                continue
            layer, one, two = (
                architecture.layers[index],
                encoder.attention_parts[a],
                encoder.ffn_parts[f],
            )
            assert (one.width, one.sparsity) == (layer.num_heads, layer.attention_sparsity)
            assert (two.width, two.sparsity) == (layer.ffn_ratio, layer.ffn_sparsity)
            assert one.adapter_rank == (0 if one.sparsity.is_dense else layer.adapter_rank)
            assert two.adapter_rank == (0 if two.sparsity.is_dense else layer.adapter_rank)


def test_the_order_asked_is_the_order_answered() -> None:
    asked = draws(TINY, 30, 3)
    order = np.random.default_rng(0).permutation(len(asked))
    encoder = Encoder(TINY)
    assert_same(encoder([asked[i] for i in order]), encoder(asked).take(order))


def test_keys_are_equal_for_equal_networks_only() -> None:
    asked = draws(TINY, 20, 4)
    asked += asked[::-1]
    keys = Encoder(TINY)(asked).keys()
    for i, one in enumerate(asked):
        for j, two in enumerate(asked):
            assert (keys[i] == keys[j]) == (one == two)


WIDE = LayerConfig(4, 2.0)
OUTSIDE = {
    "width": Architecture(64, (WIDE,) * 10),
    "depth": Architecture(192, (WIDE,) * 9),
    "too deep": Architecture(192, (WIDE,) * 13),
    "heads": Architecture(192, (*(WIDE,) * 9, LayerConfig(6, 2.0))),
    "ratio": Architecture(192, (*(WIDE,) * 9, LayerConfig(4, 2.5))),
    "sparsity": Architecture(
        192, (*(WIDE,) * 9, LayerConfig(4, 2.0, ffn_sparsity=Sparsity.parse("2:4")))
    ),
    "dropped": Architecture(192, (*(WIDE,) * 9, LayerConfig.make(4, 2.0, attention=False))),
}


@pytest.mark.parametrize("what", OUTSIDE)
def test_an_architecture_outside_is_refused_by_position(what: str) -> None:
    assert not GPT_S.contains(OUTSIDE[what])
    asked = [*draws(GPT_S, 3, 5), OUTSIDE[what], *draws(GPT_S, 3, 6)]
    with pytest.raises(ValueError, match="position 3"):
        Encoder(GPT_S)(asked)


def test_biases_and_adapters_outside_are_refused() -> None:
    layer = LayerConfig(4, 2.0, attention_sparsity=Sparsity.parse("2:4"), adapter_rank=3)
    for wrong in (Architecture(128, (WIDE,) * 2, True), Architecture(128, (layer,) * 2)):
        with pytest.raises(ValueError, match="position 0"):
            Encoder(TINY)([wrong])


@pytest.mark.parametrize("space", [*SPACES.values(), SMALL], ids=lambda s: s.name)
def test_choice_vectors_mean_what_the_space_says(space: SearchSpace) -> None:
    vectors = ChoiceVectors(Encoder(space))
    assert vectors.sizes_d.tolist() == [len(choice.values) for choice in space.choices]
    codes_nd = vectors.sample(25, np.random.default_rng(0))
    named = [
        {c.name: c.values[code] for c, code in zip(space.choices, codes, strict=True)}
        for codes in codes_nd
    ]
    asked = [space.from_params(params) for params in named]
    found = vectors.decode(codes_nd)
    assert_same(found, vectors.encoder(asked))
    canonical = vectors.encode(found)
    assert_same(vectors.decode(canonical), found)
    points = (canonical + 0.5) / vectors.sizes_d
    assert [space.decode(point) for point in points] == asked


def test_choice_vectors_are_drawn_uniformly() -> None:
    vectors = ChoiceVectors(Encoder(GPT_S))
    n = 6000
    codes_nd = vectors.sample(n, np.random.default_rng(1))
    for column, size in zip(codes_nd.T, vectors.sizes_d, strict=True):
        share = np.bincount(column, minlength=size) / n
        deviation = np.sqrt((1 / size) * (1 - 1 / size) / n)
        assert np.all(np.abs(share - 1 / size) < 5 * deviation)


@pytest.mark.parametrize(
    ("place", "value"), [((1, 2), -1), ((1, 2), 3), ((0, 0), 99)], ids=["below", "above", "far"]
)
def test_codes_that_name_nothing_are_refused(place: tuple[int, int], value: int) -> None:
    vectors = ChoiceVectors(Encoder(GPT_S))
    codes_nd = np.zeros((2, GPT_S.dim), dtype=np.int64)
    codes_nd[place] = value
    with pytest.raises(ValueError, match=f"column {place[1]}, got {value} in row {place[0]}"):
        vectors.decode(codes_nd)


def test_codes_of_another_shape_or_type_are_refused() -> None:
    vectors = ChoiceVectors(Encoder(GPT_S))
    for wrong in (np.zeros((2, 3), dtype=int), np.zeros((2, GPT_S.dim)), np.zeros(GPT_S.dim, int)):
        with pytest.raises(ValueError, match="whole numbers"):
            vectors.decode(wrong)
