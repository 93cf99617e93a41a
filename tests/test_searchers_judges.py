"""The judges that are not linear, and those of the larger spaces, against slow twins."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_benchmark import small_table

from experiments.searchers import judges
from experiments.searchers.scales import Scale
from search_spaces import Architecture, preset
from surrogates.additive.choices import ChoiceVectors
from surrogates.additive.counts import layer_of
from surrogates.additive.encoding import ABSENT, Encoder
from surrogates.roofline import latencies_ms


def test_a_net_judge_is_trained_once_and_is_the_net(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = small_table(240)
    file = tmp_path / "table.npz"
    table.save(file)
    monkeypatch.setitem(judges.NETS, "tanh2x64", judges.NetRecipe((16, 16), "tanh", 200))
    before = torch.random.get_rng_state()
    judge, content = judges.net_judge(file, "slow chip", "tanh2x64", 0, tmp_path / "j", table)
    assert torch.equal(before, torch.random.get_rng_state())
    assert judge.tau > 0.6  # 48 rows held out of a nearly additive truth
    assert judge.train_tau > judge.tau - 0.1
    X_nf = judges.one_hot(table.encoded, Encoder(table.space))
    net = torch.nn.Sequential()
    for i, (matrix, offset) in enumerate(judge.weights):
        layer = torch.nn.Linear(*matrix.shape).double()
        layer.weight.data, layer.bias.data = torch.tensor(matrix.T), torch.tensor(offset)
        net.extend([layer] if i + 1 == len(judge.weights) else [layer, torch.nn.Tanh()])
    out = net(torch.tensor(X_nf)).detach().numpy()[:, 0]
    assert judge(X_nf) == pytest.approx(np.exp(judge.mean + judge.std * out))
    _, other_content = judges.net_judge(file, "slow chip", "tanh2x64", 1, tmp_path / "j", table)
    assert other_content != content
    monkeypatch.setattr(judges, "_train", lambda *_: pytest.fail("trained again"))
    again, same = judges.net_judge(file, "slow chip", "tanh2x64", 0, tmp_path / "j", table)
    assert same == content
    assert again.tau == judge.tau
    assert np.load(next((tmp_path / "j").iterdir()), allow_pickle=False)
    with pytest.raises(ValueError, match="expected a net in"):
        judges.net_judge(file, "slow chip", "big", 0, tmp_path, table)
    with pytest.raises(ValueError, match="expected a device in"):
        judges.net_judge(file, "slow chop", "tanh2x64", 0, tmp_path, table)


def test_one_hot_says_each_choice_once_and_nothing_of_absent_layers() -> None:
    encoder = Encoder(preset("gpt-s"))
    choices = ChoiceVectors(encoder)
    encoded = choices.decode(choices.sample(200, np.random.default_rng(0)))
    X_nf = judges.one_hot(encoded, encoder)
    assert X_nf.shape == (200, 3 + 3 + 1 + 12 * 6)
    assert np.array_equal(X_nf.sum(axis=1), 2 + encoded.bias_n + 2 * encoded.depth_n)
    assert len(np.unique(X_nf, axis=0)) == len(np.unique(encoded.keys()))


def slow_scale(scale: Scale, architecture: Architecture) -> tuple[float, float]:
    """Perplexity and latency of one architecture, layer by layer."""
    encoder = scale.encoder
    one = encoder([architecture])
    attention_la, ffn_lf, pairs = scale._effects
    factor, floor, exponent = scale._law
    from search_spaces import costs

    params = costs(architecture, encoder.space.family, 4).params
    a, f = (x[0][x[0] != ABSENT] for x in (one.attention_nl, one.ffn_nl))
    effect = sum(attention_la[i, a[i]] + ffn_lf[i, f[i]] for i in range(len(a)))
    effect += sum(pairs[i, a[i], f[i + 1]] for i in range(len(a) - 1))
    perplexity = (floor + factor * params**-exponent) * math.exp(effect)

    def time_of(layers: tuple[Any, ...]) -> float:
        asked = Architecture(architecture.embed_dim, layers, architecture.bias)
        return float(latencies_ms([asked], encoder.space.family, scale.device, scale._workload)[0])

    empty = layer_of(replace(encoder.ffn_parts[0], width=0.0), False)
    rest = time_of((empty,))
    rows = math.ceil(scale._workload.batch * 1024 / 128)

    def part_ms(part: Any, is_attention: bool) -> float:
        features = 3 * part.width * 64 if is_attention else part.width * architecture.embed_dim
        tiles = rows * math.ceil(features / 128)
        return (
            (time_of((layer_of(part, is_attention),)) - rest) * math.ceil(tiles / 108) * 108 / tiles
        )

    attention = [part_ms(p, True) for p in encoder.attention_parts]
    ffn = [part_ms(p, False) for p in encoder.ffn_parts]
    total = rest + sum(attention[i] + ffn[j] for i, j in zip(a, f, strict=True))
    changes = sum((a[i], f[i]) != (a[i - 1], f[i - 1]) for i in range(1, len(a)))
    both = []  # a mean layer, with and without biases
    for bias in (False, True):
        biased = replace(architecture, bias=bias)
        if bias == architecture.bias:
            both.append(np.mean(attention) + np.mean(ffn))
        else:
            both.append(slow_mean_layer(scale, biased))
    return perplexity, total + 0.02 * float(np.mean(both)) * changes


def slow_mean_layer(scale: Scale, architecture: Architecture) -> float:
    """Mean time of an attention part plus that of an FFN part, in whole waves."""
    w = scale.encoder.space.embed_dims.index(architecture.embed_dim)
    _, attention, ffn = scale._times
    b = int(architecture.bias)
    return float(attention[w, b].mean() + ffn[w, b].mean())


@pytest.mark.parametrize("space", ["gpt-m", "gpt-l"])
def test_synthetic_judges_are_their_sums_layer_by_layer(space: str) -> None:
    encoder = Encoder(preset(space))
    scale, choices = Scale(encoder), ChoiceVectors(encoder)
    encoded = choices.decode(choices.sample(5, np.random.default_rng(0)))
    fast = scale(encoded)
    slow = [slow_scale(scale, a) for a in encoder.decode(encoded)]
    assert fast == pytest.approx(np.array(slow), rel=1e-9)
    assert np.array_equal(scale(encoded), Scale(encoder)(encoded))
    values = scale(choices.decode(choices.sample(2000, np.random.default_rng(1))))
    assert -0.97 < np.corrcoef(values.T)[0, 1] < -0.8  # the two objectives oppose each other
