"""Predictions, conformal intervals, devices and the roofline, against arithmetic by hand."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from search_spaces import (
    Architecture,
    Family,
    LayerConfig,
    Workload,
    costs,
    decode_flops,
    prefill_flops,
    preset,
)
from surrogates import (
    DeviceSpec,
    LatencySurrogate,
    Prediction,
    conformal_quantile,
    coverage,
    device,
    devices,
    feature_matrix,
    feature_names,
    kendall_tau,
    latencies_ms,
    latency_ms,
    mape,
    nll,
    operators,
)
from tests.contracts import SurrogateContract
from tests.surrogate_truths import DECODE, TINY, Array, hidden_truth, sample


class TestLatencySurrogate(SurrogateContract):
    num_fit = 48

    def make(self) -> LatencySurrogate:
        return LatencySurrogate(TINY.family, DECODE)

    def data(self) -> tuple[list[Architecture], Array]:
        architectures = sample(120, seed=1)
        noise = np.random.default_rng(2).normal(0.0, 0.02, len(architectures))
        return architectures, hidden_truth(architectures) * np.exp(noise)


# ---- Prediction


def test_prediction_refuses_contradictions() -> None:
    one = np.ones(2)
    for wrong in (
        {"std_n": -one},
        {"low_n": 2 * one},
        {"high_n": 0 * one},
        {"mean_n": np.ones(3)},
        {"std_n": np.array([1.0, np.nan])},
        {"level": 1.0},
        {"mean_n": np.ones((2, 1))},
    ):
        with pytest.raises(ValueError, match="expected"):
            Prediction(**{"mean_n": one, "std_n": one, "low_n": one, "high_n": one, **wrong})  # type: ignore[arg-type]


def test_prediction_is_frozen() -> None:
    mean = np.ones(2)
    guess = Prediction(mean, mean, mean, mean)
    mean[0] = 5.0
    assert guess.mean_n.tolist() == [1.0, 1.0]
    with pytest.raises(ValueError, match="read-only"):
        guess.mean_n[0] = 2.0
    assert guess.to_json(1) == {"mean": 1.0, "low": 1.0, "high": 1.0, "extrapolates": False}


# ---- calibration


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=2, max_size=12))
def test_kendall_tau_counts_pairs(pairs: list[tuple[int, int]]) -> None:
    a, b = zip(*pairs, strict=True)
    signs = [
        (np.sign(a[i] - a[j]), np.sign(b[i] - b[j]))
        for i, j in itertools.combinations(range(len(a)), 2)
    ]
    concordance = sum(x * y for x, y in signs)
    norm = math.sqrt(sum(x != 0 for x, _ in signs) * sum(y != 0 for _, y in signs))
    assert kendall_tau(a, b) == pytest.approx(concordance / norm if norm else 0.0)


def test_errors_and_likelihood_by_hand() -> None:
    assert mape([1.0, 3.0], [2.0, 2.0]) == 0.5
    assert coverage([0.0, 0.0, 2.0], [1.0, 1.0, 3.0], [1.0, 1.5, 2.0]) == pytest.approx(2 / 3)
    assert nll([0.0, 1.0], [1.0, 2.0], [0.0, 3.0]) == pytest.approx(
        0.5 * math.log(2 * math.pi) + (0.0 + 0.5 + math.log(2.0)) / 2
    )


@pytest.mark.parametrize(
    "call",
    [
        lambda: mape([1.0], [1.0, 2.0]),
        lambda: mape([], []),
        lambda: mape([1.0], [0.0]),
        lambda: mape([np.nan], [1.0]),
        lambda: kendall_tau([1.0], [1.0]),
        lambda: nll([1.0], [0.0], [1.0]),
        lambda: coverage([1.0], [np.inf], [1.0]),
        lambda: conformal_quantile([1.0] * 8, 0.9),
        lambda: conformal_quantile([1.0] * 8 + [np.nan], 0.9),
        lambda: conformal_quantile([1.0] * 30, 0.9, num_independent=8),
        lambda: conformal_quantile([1.0] * 30, 0.9, num_independent=31),
        lambda: conformal_quantile([1.0] * 30, 1.0),
    ],
)
def test_calibration_refuses_bad_input(call: Any) -> None:
    with pytest.raises(ValueError, match="expected"):
        call()


def test_conformal_quantile_is_the_order_statistic_of_the_theorem() -> None:
    scores = np.random.default_rng(0).permutation(np.arange(1.0, 100.0))  # 1 .. 99
    assert conformal_quantile(scores, 0.9) == 90.0  # ceil(100 x 0.9)
    assert conformal_quantile(scores, 0.5) == 50.0
    assert conformal_quantile(scores[:9], 0.9) == scores[:9].max()
    # four rounds of each score: the same quantile, not one that believes in four times the data
    assert conformal_quantile(np.repeat(np.arange(1.0, 20.0), 4), 0.9, num_independent=19) == 18.0


def test_conformal_quantile_covers_a_fresh_score() -> None:
    """Exact for continuous scores: a fresh one is below the k-th smallest of n with probability k / (n + 1)."""
    rng = np.random.default_rng(0)
    for n in (9, 15, 40):
        k = math.ceil((n + 1) * 0.9 - 1e-9)
        trials = 4000
        hits = sum(rng.random() <= conformal_quantile(rng.random(n), 0.9) for _ in range(trials))
        expected = k / (n + 1)
        assert abs(hits / trials - expected) < 4 * math.sqrt(expected * (1 - expected) / trials)


# ---- devices


def test_every_figure_has_a_source() -> None:
    for name, spec in devices().items():
        assert spec.name == name
        for field in ("peak_flops", "bandwidth_bytes_s", "op_overhead_s"):
            assert spec.source[field]
        for field in ("cache_bytes", "cache_bandwidth_bytes_s", "power_w"):
            assert (getattr(spec, field) is None) == (field not in spec.source)


def test_device_names() -> None:
    assert device("H100").bandwidth_bytes_s == 3.35e12
    assert device("RTX 4090") is device("rtx-4090")
    with pytest.raises(ValueError, match="did you mean h100"):
        device("h10")
    with pytest.raises(ValueError, match="rtx4090"):
        device("rtx409")
    with pytest.raises(ValueError, match="expected a dtype in float32"):
        device("a100").peak("int4")
    with pytest.raises(ValueError, match="source"):
        DeviceSpec("x", {"float32": 1e12}, 1e9, 1e-6)
    with pytest.raises(ValueError, match="above 0"):
        DeviceSpec("x", {"float32": 1e12}, -1e9, 1e-6)


# ---- roofline


# Round figures, so that the arithmetic below is done by hand: 1 FLOP = 1 ns, 1 byte = 1 ns from memory, one launch = 1 us.
SLOW = DeviceSpec(
    "slow",
    {"float32": 1e9},
    1e9,
    1e-6,
    source={"peak_flops": "test", "bandwidth_bytes_s": "test", "op_overhead_s": "test"},
)


SMALL = Family(vocab_size=10, context_length=8, head_dim=2, norm="rmsnorm")


def test_roofline_by_hand() -> None:
    """d = 4, one head of 2 features, no FFN, decode of one token after 3: each operator's microseconds added up by hand."""
    architecture = Architecture(4, (LayerConfig.make(1, 0, True, False),))
    q = max(2 * 2 * 4, 4 * (2 * 4) + 4 * (2 + 4))  # FLOPs against weight and activation bytes: 56
    attention = max(4 * 4 * 2, 4 * (2 * 4 * 2 + 2 * 2))  # 4 tokens x 2 features: 80
    norm, residual = 4 * 4 + 4 * 2 * 4, 4 * 2 * 4  # weight, read and write: 48, 32
    cache = 4 * 2 * (2 * 2)  # the new key and value are read and written: 32, two launches
    layer = 4 * q + attention + norm + residual + cache
    lookups = 4 * 2 * (4 * 2)  # token and position: 64, two launches
    unembed = max(2 * 10 * 4, 4 * 10 * 4 + 4 * (10 + 4))  # 216
    nanoseconds = layer + lookups + norm + unembed
    launches = (4 + 1 + 1 + 1 + 2) + (1 + 2 + 1 + 1)
    workload = Workload("decode", batch=1, context=3)
    assert latency_ms(architecture, SMALL, SLOW, workload) == pytest.approx(
        launches * 1e-3 + nanoseconds * 1e-6, rel=1e-12
    )


def test_dropped_parts_cost_nothing() -> None:
    kept = LayerConfig(1, 1.0)
    nothing = LayerConfig.make(0, 0, False, False)
    one = Architecture(4, (kept,))
    padded = Architecture(4, (nothing, kept, nothing))
    assert operators(one, SMALL, DECODE) == operators(padded, SMALL, DECODE)
    halves = [LayerConfig.make(1, 0, True, False), LayerConfig.make(0, 1.0, False, True)]
    split = Architecture(4, tuple(halves))
    assert latency_ms(split, SMALL, SLOW, DECODE) == latency_ms(one, SMALL, SLOW, DECODE)


def test_roofline_reads_from_the_cache_what_fits() -> None:
    source = {**SLOW.source, "cache_bytes": "test", "cache_bandwidth_bytes_s": "test"}
    small, large = (
        DeviceSpec("c", SLOW.peak_flops, 1e9, 1e-6, size, 1e12, source=source)
        for size in (10, 10**9)
    )
    architecture = TINY.largest
    slow = latency_ms(architecture, TINY.family, SLOW, DECODE)
    assert latency_ms(architecture, TINY.family, small, DECODE) == slow
    assert latency_ms(architecture, TINY.family, large, DECODE) < slow


@settings(max_examples=30)
@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from(["tiny", "gpt-s", "gpt-m-wide"]),
    st.sampled_from([1, 7, 128]),
)
def test_operators_add_up_to_the_exact_costs(seed: int, name: str, context: int) -> None:
    """FLOPs and weight bytes of the operators against the closed forms of search_spaces.costs."""
    space = preset(name, sparsity=True)
    family = space.family
    architecture = space.sample(np.random.default_rng(seed))
    decode = operators(architecture, family, Workload("decode", 1, context))
    prefill = operators(architecture, family, Workload("prefill", 1, context))
    for found, expected in (
        (decode, decode_flops(architecture, family, context)),
        (prefill, prefill_flops(architecture, family, context)),
    ):
        assert sum(op.flops for op in found if op.kind != "bias") == expected
    positions = family.context_length * architecture.embed_dim * (family.positions == "learned")
    for dtype, itemsize in (("float32", 4), ("bfloat16", 2)):
        found = operators(architecture, family, Workload("decode", 1, context), dtype)
        stored = sum(op.weight_bytes for op in found) + positions * itemsize
        assert stored == costs(architecture, family, itemsize).weight_bytes


@settings(max_examples=20)
@given(st.integers(0, 2**32 - 1), st.sampled_from(["decode", "prefill"]))
def test_matrices_equal_sums_over_operators(seed: int, phase: str) -> None:
    """The fast path (parts computed once) against a plain loop."""
    rng = np.random.default_rng(seed)
    architectures = [TINY.sample(rng) for _ in range(3)]
    workload = Workload(phase, 2, 16)  # type: ignore[arg-type]
    counts = feature_matrix(architectures, TINY.family, workload)
    times = latencies_ms(architectures, TINY.family, SLOW, workload)
    for row, time, architecture in zip(counts, times, architectures, strict=True):
        found = operators(architecture, TINY.family, workload)
        expected = dict.fromkeys(feature_names(), 0)
        for op in found:
            expected[f"{op.kind}.launches"] += op.launches
            expected[f"{op.kind}.flops"] += op.flops
            expected[f"{op.kind}.bytes"] += op.weight_bytes + op.activation_bytes
            expected[f"{op.kind}.dense_flops"] += op.dense_flops
        assert row.tolist() == list(expected.values())
        seconds = sum(
            op.launches * 1e-6 + max(op.flops / 1e9, (op.weight_bytes + op.activation_bytes) / 1e9)
            for op in found
        )
        assert time == pytest.approx(1e3 * seconds, rel=1e-12)


def test_no_architectures() -> None:
    assert feature_matrix([], TINY.family, DECODE).shape == (0, len(feature_names()))
    assert latencies_ms([], TINY.family, "cpu", DECODE).shape == (0,)
