"""Sparse-to-dense training: the published FLOP ratios, the end-to-end formula against a sum over steps, and the band of 4.5x."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from search_spaces import Architecture, Family, LayerConfig, Workload
from surrogates import execution, operators, s2d_speedup
from surrogates.s2d import dense_fraction_for, flop_ratio

VOCABULARY, CONTEXT = 50257, 2048

#: L, d, zeros, training FLOPs dense over sparse: SPDF (2303.10464; 2.5x is published for 1.3B) and S2D's 13B (GPT-3's shape).
RATIOS = [
    (12, 768, 0.75, 1.65),
    (24, 2048, 0.5, 1.67),
    (24, 2048, 0.75, 2.49),
    (32, 4096, 0.9, 5.18),
    (40, 5120, 0.875, 5.13),
    (40, 5120, 0.75, 3.22),
]


def gpt(depth: int, width: int, zeros: float) -> Architecture:
    sparsity = f"unstructured:{zeros}" if zeros else "dense"
    layer = LayerConfig(width // 64, 4.0, True, True, sparsity, sparsity)  # type: ignore[arg-type]
    return Architecture(width, (layer,) * depth)


FAMILY = Family(VOCABULARY, CONTEXT, 64)


@pytest.mark.parametrize(("depth", "width", "zeros", "published"), RATIOS)
def test_flop_ratios_are_the_published_ones(
    depth: int, width: int, zeros: float, published: float
) -> None:
    """Forward per token: 24 d^2 L of linears, 4 S d L of attention, 2 d V of logits; backward twice that; zeros in linears only."""
    found = flop_ratio(gpt(depth, width, 0.0), gpt(depth, width, zeros), FAMILY, CONTEXT)
    rest = 4 * CONTEXT * width * depth + 2 * width * VOCABULARY
    linear = 24 * width**2 * depth
    assert found == pytest.approx((linear + rest) / ((1 - zeros) * linear + rest), rel=1e-6)
    assert found == pytest.approx(published, abs=0.006)


@pytest.mark.parametrize(("depth", "width", "zeros", "published"), RATIOS)
def test_flop_ratios_by_the_operators(
    depth: int, width: int, zeros: float, published: float
) -> None:
    """The same from the list of operators, whose attention counts the causal pairs: scaled to all of them."""
    workload = Workload("training", 1, CONTEXT)
    totals = []
    for level in (0.0, zeros):
        found = operators(gpt(depth, width, level), FAMILY, workload, "bfloat16")
        attention = sum(op.flops for op in found if op.kind == "attention")
        others = sum(op.flops for op in found if op.kind != "attention")
        totals.append(others + attention * 2 * CONTEXT / (CONTEXT + 1))
    assert totals[0] / totals[1] == pytest.approx(published, abs=0.006)


def test_a_causal_mask_widens_the_ratio() -> None:
    dense, sparse = gpt(40, 5120, 0.0), gpt(40, 5120, 0.875)
    assert flop_ratio(dense, sparse, FAMILY, CONTEXT, causal=True) == pytest.approx(5.89, abs=0.01)
    # SLoPe's dense weight gradient leaves a third of the work as it is
    slope = flop_ratio(dense, sparse, FAMILY, CONTEXT, weight_gradient="dense")
    assert 1.0 < slope < 3.0 / (1.0 + 2.0 / 8.0)


@pytest.mark.parametrize(
    ("fraction", "expected"), [(0.0, 5.13), (0.05, 4.25), (0.1, 3.63), (0.2, 2.81), (1.0, 1.0)]
)
def test_end_to_end_by_the_table(fraction: float, expected: float) -> None:
    assert s2d_speedup(fraction, 5.13) == pytest.approx(expected, abs=0.006)


@given(st.integers(0, 50), st.floats(0.2, 20.0), st.floats(0.2, 5.0))
def test_end_to_end_by_adding_up_steps(
    dense: int, sparse_ratio: float, device_ratio: float
) -> None:
    """50 steps of a second each on the reference."""
    on_device = 1.0 / device_ratio
    seconds = sum(on_device if i < dense else on_device / sparse_ratio for i in range(50))
    found = s2d_speedup(dense / 50, sparse_ratio, device_ratio)
    assert found == pytest.approx(50 / seconds, rel=1e-9)


@given(st.floats(0.0, 1.0), st.floats(1.5, 20.0), st.floats(0.2, 5.0))
def test_the_inverse_finds_the_fraction(fraction: float, ratio: float, device: float) -> None:
    speedup = s2d_speedup(fraction, ratio, device)
    assert dense_fraction_for(speedup, ratio, device) == pytest.approx(fraction, abs=1e-6)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: s2d_speedup(1.1, 2.0), "dense_fraction in"),
        (lambda: s2d_speedup(float("nan"), 2.0), "dense_fraction in"),
        (lambda: s2d_speedup(0.5, 0.0), "sparse_ratio above 0"),
        (lambda: s2d_speedup(0.5, 2.0, float("inf")), "device_ratio above 0"),
        (lambda: dense_fraction_for(6.0, 5.13), "between 1 and 5.13"),
        (lambda: dense_fraction_for(1.0, 1.0), "between 1 and 1"),
    ],
)
def test_figures_outside_their_domain_are_refused(call: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()  # type: ignore[operator]


def test_the_band_holds_the_published_four_and_a_half() -> None:
    """4.5x over a dense A100 (2304.05511; its schedule is not known). With FLOPs alone it takes at most 4 % dense steps; with the modelled
    times, a dataflow device that is faster in dense steps too leaves room for more.
    """
    assert 0.0 < dense_fraction_for(4.5, 5.13) < 0.05
    family = Family(VOCABULARY, CONTEXT, 128)
    workload = Workload("training", 8, CONTEXT)
    times = {}
    for zeros in (0.0, 0.875):
        layer = LayerConfig(
            40, 4.0, True, True, *2 * (f"unstructured:{zeros}" if zeros else "dense",)
        )  # type: ignore[arg-type]
        a = Architecture(5120, (layer,) * 40)
        for name, mode in (("a100", "kernel-by-kernel"), ("sn40l", "pipelined")):
            times[name, zeros] = execution(a, family, workload, name, mode).seconds  # type: ignore[arg-type]
    device_ratio = times["a100", 0.0] / times["sn40l", 0.0]
    sparse_ratio = times["sn40l", 0.0] / times["sn40l", 0.875]
    low, high = (s2d_speedup(f, sparse_ratio, device_ratio) for f in (1.0, 0.0))
    assert 1.5 < low < 4.5 < high < 15.0
    assert 0.2 < dense_fraction_for(4.5, sparse_ratio, device_ratio) < 0.5
    # the peaks' ratio bounds what the device alone may gain: 638 over 312 TFLOP/s, and what a perfect overlap adds
    assert device_ratio == pytest.approx(638 / 312, rel=0.1)
