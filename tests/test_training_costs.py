"""Training: closed-form FLOPs and the operators of a step, against torch's counter, published ratios and bytes by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from nas.deploy.workloads import check_workload
from search_spaces import (
    Architecture,
    Family,
    LayerConfig,
    Workload,
    costs,
    prefill_flops,
    preset,
    training_flops,
)
from surrogates import DeviceSpec, LatencySurrogate, feature_matrix, latency_ms, operators
from surrogates.kernel_table import KernelTable
from surrogates.linears import linears_us
from surrogates.operators import Operator
from tests.small_models import random_supernet, random_tokens
from tests.small_spaces import small_space

TINY = preset("tiny")


def linear_only(embed_dim: int, depth: int, sparsity: str) -> Architecture:
    layer = LayerConfig(embed_dim // 64, 4.0, True, True, sparsity, sparsity)  # type: ignore[arg-type]
    return Architecture(embed_dim, (layer,) * depth)


def test_dense_training_equals_what_torch_counts() -> None:
    """Matrix products of forward and backward as torch runs them; attention, which the CPU does not count, is left out."""
    space, context = small_space(), 9
    architecture = space.largest
    supernet = random_supernet(space)
    tokens = random_tokens(space, 1, context)
    with FlopCounterMode(display=False) as counter:
        supernet(tokens, architecture).sum().backward()
    counts = counter.get_flop_counts()["Global"]
    counted = sum(n for op, n in counts.items() if str(op) in ("aten.mm", "aten.addmm"))
    queries = sum(layer.num_heads for layer in architecture.layers) * space.family.head_dim
    attention = 12 * (context * (context + 1) // 2) * queries
    assert training_flops(architecture, space.family, context) - attention == counted > 0


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from(["tiny", "gpt-s"]), st.sampled_from([1, 9, 64]))
def test_operators_of_a_step_add_up_to_the_closed_form(seed: int, name: str, context: int) -> None:
    space = preset(name, sparsity=True)
    a, family = space.sample(np.random.default_rng(seed)), space.family
    for weight_gradient in ("sparse", "dense"):
        found = operators(a, family, Workload("training", 3, context), "bfloat16", weight_gradient)
        flops = sum(op.flops for op in found if op.kind != "bias")
        assert flops == 3 * training_flops(a, family, context, weight_gradient=weight_gradient)
    assert training_flops(a, family, context) == 3 * prefill_flops(a, family, context)


def test_the_optimizer_moves_what_adamw_moves() -> None:
    """16 bits each of weight, gradient and new weight, and two moments of 32 bits read and written (SLoPe, sec. 4.4.1)."""
    space = preset("gpt-s", sparsity=True)
    for seed in range(5):
        a = space.sample(np.random.default_rng(seed))
        found = operators(a, space.family, Workload("training", 1, 8), "bfloat16")
        moved = sum(op.weight_bytes for op in found if op.kind == "optimizer")
        kept = costs(a, space.family, 2).nonzeros
        assert moved == kept * (2 + 2 + 2 + 4 * 4)


def test_a_dense_weight_gradient_bounds_slope_at_one_and_a_half() -> None:
    """Of three equal products 2:4 halves two: 3 / (1/2 + 1/2 + 1) = 1.5, and with a sparse gradient 2 (SLoPe, eq. 4.4 to 4.6)."""
    family = Family(vocab_size=2, context_length=1, head_dim=64)
    dense, sparse = (linear_only(1024, 400, s) for s in ("dense", "2:4"))
    whole = training_flops(dense, family, 1)
    assert whole / training_flops(sparse, family, 1, weight_gradient="dense") == pytest.approx(
        1.5, rel=1e-3
    )
    assert whole / training_flops(sparse, family, 1) == pytest.approx(2.0, rel=1e-3)


# Round figures: 1 FLOP = 1 ns, 1 byte = 1 ns from memory, one launch = 1 us.
SLOW = DeviceSpec(
    "slow",
    {"float32": 1e9},
    1e9,
    1e-6,
    source={"peak_flops": "test", "bandwidth_bytes_s": "test", "op_overhead_s": "test"},
)


def test_one_training_step_by_hand() -> None:
    """d = 4, one FFN of 4 neurons, no attention, one sequence of 2 tokens, vocabulary 10: every operator's nanoseconds by hand."""
    family = Family(vocab_size=10, context_length=8, head_dim=2, norm="rmsnorm")
    a = Architecture(4, (LayerConfig.make(0, 1.0, False, True),))
    rows, d, v, size = 2, 4, 10, 4
    line = rows * d * size  # one activation: 32 bytes
    norm = 4 * size + 2 * line  # weight, read, write: 80; more bytes than FLOPs everywhere
    linear = d * d * size + 2 * line  # 128, forward and for each gradient
    ffn_forward = norm + 2 * linear + 2 * line + 2 * line
    norm_back = 2 * 4 * size + 3 * line
    ffn_back = norm_back + 4 * linear + 3 * line + 3 * line
    lookups, lookups_back = 4 * line, 6 * line
    unembed = max(2 * rows * v * d, v * d * size + rows * (v + d) * size)
    loss = 2 * rows * v * size
    head = lookups + norm + unembed + loss + 2 * unembed + norm_back + lookups_back
    update = 28  # bytes a float32 number: 3 x 4 of weight and gradient, 4 x 4 of moments
    kept = costs(a, family).nonzeros
    nanoseconds = ffn_forward + ffn_back + head + kept * update
    launches = (1 + 2 + 1 + 1) + (1 + 4 + 1 + 1) + (1 + 2 + 1 + 1 + 1) + (2 + 1 + 2) + 2
    found = latency_ms(a, family, SLOW, Workload("training", 1, 2))
    assert found == pytest.approx(launches * 1e-3 + nanoseconds * 1e-6, rel=1e-12)


def test_training_is_a_phase_of_its_own() -> None:
    workload = Workload.parse("training", {"batch": "8", "context": "512"})
    assert workload.num_tokens == 4096
    assert str(workload) == "training[batch=8,context=512]"
    step, prefill = (
        latency_ms(TINY.largest, TINY.family, "a100", Workload(phase, 8, 64))  # type: ignore[arg-type]
        for phase in ("training", "prefill")
    )
    assert step > 2 * prefill


def test_what_is_measured_refuses_training() -> None:
    workload = Workload("training", 1, 16)
    refused = (
        lambda: workload.check_inference(),
        lambda: check_workload(TINY.family, workload),
        lambda: feature_matrix([TINY.largest], TINY.family, workload),
        lambda: linears_us([TINY.largest], TINY.family, workload, "float32", KernelTable("x", ())),
        lambda: LatencySurrogate(TINY.family, workload).fit([TINY.largest] * 12, [1.0] * 12),
    )
    for call in refused:
        with pytest.raises(ValueError, match="expected a decode or prefill workload"):
            call()


@pytest.mark.parametrize("kind", ["Sparse", "", "none"])
def test_an_unknown_weight_gradient_is_refused(kind: str) -> None:
    workload = Workload("training", 1, 8)
    for call in (
        lambda: training_flops(TINY.largest, TINY.family, 8, weight_gradient=kind),  # type: ignore[arg-type]
        lambda: operators(TINY.largest, TINY.family, workload, "float32", kind),  # type: ignore[arg-type]
        lambda: latency_ms(TINY.largest, TINY.family, "cpu", workload, "float32", kind),  # type: ignore[arg-type]
    ):
        with pytest.raises(ValueError, match="expected a weight gradient"):
            call()


def test_a_dense_gradient_is_a_dense_product() -> None:
    family = Family(vocab_size=10, context_length=8, head_dim=64)
    a = linear_only(64, 1, "2:4")
    workload = Workload("training", 1, 8)
    sparse = operators(a, family, workload, "bfloat16")
    dense = operators(a, family, workload, "bfloat16", "dense")
    weights = 4 * 64 * 64 + 2 * 64 * 256
    gradients = [op for op in dense if op.kind == "dense"]
    assert sum(op.flops for op in gradients) == 2 * 8 * weights
    assert sum(op.weight_bytes for op in gradients) == 2 * weights
    assert not [op for op in sparse if op.kind == "dense"]
    of_one: list[Operator] = [op for op in sparse if op.kind == "n:m"]
    assert sum(op.flops for op in of_one) == 3 * 8 * weights  # half of 2 x 8 x weights, three times
