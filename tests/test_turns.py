"""Timing calls in turns: the order they are taken in, and what is made of their times."""

from __future__ import annotations

import pytest

from nas.deploy.turns import Timing, copy_bandwidth, flush_bytes, time_in_turns


@pytest.mark.parametrize("is_cold", [False, True])
def test_timings_are_ordered_and_taken_in_turns(is_cold: bool) -> None:
    order: list[str] = []
    calls = {name: (lambda name=name: order.append(name)) for name in "abc"}
    found = time_in_turns(calls, "cpu", repeats=4, is_cold=is_cold)
    assert list(found) == list(calls)
    rounds = "abc" + "bca" + "cab" + "abc"  # each is first in some round
    assert "".join(order) == "aaabbbccc" + rounds  # after a warm-up
    for timing in found.values():
        assert 0.0 < timing.p20_us <= timing.median_us <= timing.p80_us
        assert timing.repeats == 4


def test_repeats_are_summarized() -> None:
    assert Timing.of([4.0, 1.0, 2.0, 3.0, 5.0]) == Timing(3.0, 1.8, 4.2, 5)


def test_copies_and_flushes() -> None:
    assert copy_bandwidth("cpu", repeats=2, num_bytes=2**16) > 0.0
    assert flush_bytes(50 * 2**20) == 256 * 2**20
    assert flush_bytes(200 * 2**20) == 400 * 2**20
