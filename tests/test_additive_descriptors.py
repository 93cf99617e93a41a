"""Descriptors by hand: centred values of every layer, nothing beyond the depth, sums over the whole."""

from __future__ import annotations

import numpy as np
import pytest

from search_spaces import Architecture, LayerConfig, Sparsity
from surrogates.additive.descriptors import Descriptors
from surrogates.additive.encoding import Encoder
from surrogates.additive.reach import Reach
from tests.additive_cases import DECODE, GPT_S, TINY, described


def test_layers_of_gpt_s() -> None:
    """Heads 4, 8, 12 and ratios 2, 3, 4 are -1, 0, 1; their squares have the mean 2/3 taken off."""
    layers = (LayerConfig(4, 3.0), LayerConfig(12, 2.0), *(LayerConfig(8, 4.0),) * 8)
    encoder = Encoder(GPT_S)
    of = Descriptors(encoder)
    assert of.kinds == ("heads", "heads squared", "ffn", "ffn squared")
    x = of(encoder([Architecture(768, layers, True)]), np.zeros((1, 0)))
    third = 1.0 / 3.0
    expected = np.array(
        [
            [-1.0, 1.0, *[0.0] * 8, 0.0, 0.0],
            [third, third, *[-2 * third] * 8, 0.0, 0.0],
            [0.0, -1.0, *[1.0] * 8, 0.0, 0.0],
            [-2 * third, third, *[third] * 8, 0.0, 0.0],
        ]
    )
    np.testing.assert_allclose(x.layers_njl[0], expected, atol=1e-12)
    np.testing.assert_allclose(
        x.whole_ng[0], [*(expected.sum(axis=1) / 6.0), -1.0, 0.5], atol=1e-12
    )
    assert x.log_width_n[0] == pytest.approx(1.0)
    assert x.depth_n[0] == pytest.approx(-1.0)
    assert x.bias_n[0] == 0.5
    assert x.others_no.shape == (1, 0)


def test_sparse_and_dropped_parts_are_told() -> None:
    encoder = Encoder(TINY)
    of = Descriptors(encoder)
    dense = LayerConfig(2, 2.0)
    layers = {
        "dropped": LayerConfig.make(2, 2.0, attention=False),
        "sparsity": LayerConfig(2, 2.0, attention_sparsity=Sparsity.parse("2:4")),
        "adapter": LayerConfig(
            2, 2.0, attention_sparsity=Sparsity.parse("2:4"), adapter_rank=TINY.adapter_ranks[-1]
        ),
    }
    asked = [Architecture(128, (layer, dense)) for layer in (dense, *layers.values())]
    x = of(encoder(asked), np.zeros((len(asked), 0)))
    own_nj = x.layers_njl[:, :, 0]
    for kind, least in (("dropped", 1), ("sparsity", 1), ("adapter", 1)):
        rows = [i for i, name in enumerate(of.kinds) if name == kind]
        told = [float(own_nj[1 + i, rows].sum()) for i in range(3)]
        assert told[list(layers).index(kind)] == least
        assert not own_nj[0, rows].any()
    sparse = [i for i, name in enumerate(of.kinds) if name == "sparsity"]
    assert np.array_equal(own_nj[2, sparse], own_nj[3, sparse])
    np.testing.assert_array_equal(x.layers_njl[:, :, 1:], x.layers_njl[:1, :, 1:].repeat(4, axis=0))


def test_take_is_row_by_row() -> None:
    _, x = described(TINY, DECODE, 10, 0)
    rows = np.array([7, 2, 2])
    found = x.take(rows)
    assert len(found) == 3
    for name in x.__dataclass_fields__:
        np.testing.assert_array_equal(getattr(found, name), getattr(x, name)[rows])


def test_reach_knows_its_records_and_flags_a_new_choice() -> None:
    encoded, x = described(GPT_S, DECODE, 200, 1)
    narrow = np.flatnonzero(encoded.width_n < 2)
    reach = Reach.fit(x.take(narrow), encoded.take(narrow))
    beyond = reach.is_beyond(x, encoded)
    assert not beyond[narrow].any()
    assert np.array_equal(beyond, encoded.width_n == 2)
    back = Reach.from_arrays(reach.to_arrays())
    assert np.array_equal(back.is_beyond(x, encoded), beyond)


def test_reach_flags_half_a_range_outside() -> None:
    """Records with 4 to 6 heads' worth of sums; twice the range is beyond, a little more is not."""
    encoded, x = described(GPT_S, DECODE, 400, 2)
    heads_n = x.whole_ng[:, 0]
    few = np.flatnonzero(heads_n < np.quantile(heads_n, 0.5))
    reach = Reach.fit(x.take(few), encoded.take(few))
    low, high = heads_n[few].min(), heads_n[few].max()
    expected = heads_n > high + 0.5 * (high - low) + 1e-9
    others_ok = np.all(
        (x.whole_ng >= 1.5 * reach.low_g - 0.5 * reach.high_g - 1e-9)
        & (x.whole_ng <= 1.5 * reach.high_g - 0.5 * reach.low_g + 1e-9),
        axis=1,
    )
    assert np.array_equal(reach.is_beyond(x, encoded), ~others_ok)
    assert reach.is_beyond(x, encoded)[expected].all()
