"""What other devices tell about a new one, and which architectures to measure on it."""

from __future__ import annotations

import functools

import numpy as np
import pytest

from surrogates import mape
from surrogates.additive.kernel import NAMES
from surrogates.additive.surrogate import AdditiveSurrogate
from surrogates.additive.transfer import Others, choose
from tests.additive_cases import GPT_S, PREFILL, TINY, Array, device_ms, draws

ASKED = draws(GPT_S, 500, 0)
DEVICES = (11, 12, 13, 14, 15)


@functools.cache
def quirk() -> Array:
    """What all devices do alike and no count knows: how well a layer's sizes fill their tiles, in cost per layer."""
    by_heads, by_ratio = np.random.default_rng(99).uniform(0.0, 0.1, (2, 3, 3))
    encoded = AdditiveSurrogate(GPT_S).encode(ASKED)
    found: Array = np.zeros(len(ASKED))
    for attention_n, ffn_n in zip(encoded.attention_nl.T, encoded.ffn_nl.T, strict=True):
        own_n = by_heads[encoded.width_n, attention_n] + by_ratio[encoded.width_n, ffn_n]
        found += np.where(attention_n < 0, 0.0, own_n)
    return found


def truth(device: int) -> Array:
    values: Array = (device + 1.0) * (device_ms(ASKED, GPT_S, PREFILL, device) + quirk())
    return values


def measured(device: int) -> Array:
    noise = np.random.default_rng(device).normal(0.0, 0.003, len(ASKED))
    values: Array = truth(device) * np.exp(noise)
    return values


@functools.cache
def others() -> Others:
    return Others.of(
        [
            AdditiveSurrogate(GPT_S, PREFILL).fit(ASKED[:120], measured(device)[:120])
            for device in DEVICES
        ]
    )


def test_no_device_an_unfitted_one_and_two_spaces_are_refused() -> None:
    with pytest.raises(ValueError, match="got none"):
        Others.of([])
    fitted = others().surrogates[0]
    with pytest.raises(ValueError, match="fit"):
        Others.of([fitted, AdditiveSurrogate(GPT_S, PREFILL)])
    with pytest.raises(ValueError, match=r"one space, got \['gpt-s', 'tiny'\]"):
        Others.of([fitted, AdditiveSurrogate(TINY)])


def test_columns_are_the_average_and_the_deviations_from_it() -> None:
    encoded = others().surrogates[0].encode(ASKED[:40])
    columns_no = others().columns(encoded)
    assert columns_no.shape == (40, 1 + len(DEVICES))
    relative_no = np.column_stack(
        [
            s.mean(encoded) / np.median(measured(d)[:120])
            for s, d in zip(others().surrogates, DEVICES, strict=True)
        ]
    )
    average_n = relative_no.mean(axis=1)
    np.testing.assert_allclose(columns_no[:, 0] / columns_no[0, 0], average_n / average_n[0])
    np.testing.assert_allclose(columns_no[:, 1:], relative_no - average_n[:, None], rtol=1e-9)


def test_prior_gives_the_other_devices_their_way() -> None:
    """A tenth of the effects of its own, the rest of the hyperparameters as they were on average."""
    theta = others().prior()
    mean = np.mean([s.theta for s in others().surrogates], axis=0)
    own = ("width", "depth", "bias", "whole", "heads", "heads squared", "ffn", "ffn squared")
    for i, name in enumerate(NAMES):
        expected = mean[i] + np.log(0.1) * (name in own)
        assert theta[i] == pytest.approx(0.0 if name == "others" else expected), name


@pytest.mark.parametrize("already", [0, 1, 4])
def test_choice_is_the_one_that_lowers_the_variance_most(already: int) -> None:
    """Brute force over all candidates with the posterior of the weights, one more measurement at a time."""
    rng = np.random.default_rng(already)
    n, p, noise = 30, 6, 0.1
    psi_np, weight_n = rng.normal(size=(n, p)), rng.uniform(0.5, 2.0, n)
    chosen = choose(psi_np, weight_n, already + 1, noise)
    assert len(set(chosen.tolist())) == already + 1

    def left(rows: list[int]) -> float:
        precision_pp = np.eye(p)
        for row in rows:
            precision_pp += np.outer(psi_np[row], psi_np[row]) * weight_n[row] / noise
        return float(weight_n @ np.diag(psi_np @ np.linalg.inv(precision_pp) @ psi_np.T))

    before = chosen[:already].tolist()
    totals = {row: left([*before, row]) for row in range(n) if row not in before}
    assert chosen[already] == min(totals, key=lambda row: totals[row])


def test_all_candidates_can_be_chosen_each_once() -> None:
    psi_np = np.repeat(np.random.default_rng(2).normal(size=(4, 3)), 5, axis=0)
    assert sorted(choose(psi_np, np.ones(20), 20, 0.01)) == list(range(20))


def test_a_surrogate_chooses_rows_of_its_candidates() -> None:
    surrogate = AdditiveSurrogate(GPT_S, PREFILL, others=others())
    rows = surrogate.choose(ASKED, 20)
    assert len(set(rows.tolist())) == 20
    assert rows.min() >= 0
    assert rows.max() < len(ASKED)
    np.testing.assert_array_equal(rows, surrogate.choose(ASKED, 20))
    np.testing.assert_array_equal(rows[:5], surrogate.choose(ASKED, 5))
    for wrong in (0, len(ASKED) + 1):
        with pytest.raises(ValueError, match=f"got {wrong}"):
            surrogate.choose(ASKED, wrong)


def test_of_many_candidates_some_are_drawn_by_the_seed() -> None:
    surrogate = AdditiveSurrogate(GPT_S, PREFILL)
    many = surrogate.encode(ASKED * 3)
    rows = surrogate.choose(many, 10, seed=1)
    np.testing.assert_array_equal(rows, surrogate.choose(many, 10, seed=1))
    assert not np.array_equal(rows, surrogate.choose(many, 10, seed=2))


@pytest.mark.parametrize("device", [21, 22, 23])
def test_twenty_chosen_rows_do_for_a_new_device(device: int) -> None:
    """A new mix of the same counts: the error is that of the noise, and below a third of what twenty random rows alone give."""
    values = measured(device)
    together = AdditiveSurrogate(GPT_S, PREFILL, others=others())
    rows = together.choose(ASKED[:400], 20)
    together.fit([ASKED[i] for i in rows], values[rows])
    alone = AdditiveSurrogate(GPT_S, PREFILL).fit(ASKED[:20], values[:20])
    errors = [mape(s.mean(ASKED[400:]), truth(device)[400:]) for s in (together, alone)]
    assert errors[0] < 0.006, "twice the noise"
    assert errors[0] < errors[1] / 3.0
