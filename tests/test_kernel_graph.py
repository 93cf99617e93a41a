"""The graph of kernels: the same arithmetic and weights as the operators, tensors that fit together, intensity against closed forms."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from search_spaces import Architecture, Family, LayerConfig, Workload, preset
from surrogates import operators
from surrogates.kernel_graph import Kernel, kernel_graph
from tests.small_spaces import FAMILIES, draws, small_space


def check_order(graph: tuple[Kernel, ...]) -> None:
    """Every tensor has one maker, which runs before its readers, and the same bytes wherever it is seen."""
    made: set[str] = set()
    sizes: dict[str, int] = {}
    readers: set[str] = set()
    for kernel in graph:
        for tensor in kernel.inputs:
            readers.add(tensor.name)
            assert sizes.setdefault(tensor.name, tensor.num_bytes) == tensor.num_bytes
        for tensor in kernel.outputs:
            assert tensor.name not in made | readers, tensor.name
            made.add(tensor.name)
            assert sizes.setdefault(tensor.name, tensor.num_bytes) == tensor.num_bytes


@settings(max_examples=25, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from(["tiny", "gpt-s"]),
    st.sampled_from(["decode", "prefill", "training"]),
    st.sampled_from(["sparse", "dense"]),
)
def test_kernels_add_up_to_the_operators(seed: int, name: str, phase: str, gradient: str) -> None:
    space = preset(name, sparsity=True)
    a = space.sample(np.random.default_rng(seed))
    workload = Workload(phase, 2, 16)  # type: ignore[arg-type]
    graph = kernel_graph(a, space.family, workload, "bfloat16", gradient)  # type: ignore[arg-type]
    found = operators(a, space.family, workload, "bfloat16", gradient)  # type: ignore[arg-type]
    for quantity in ("flops", "weight_bytes", "dense_flops", "executed_flops", "instructions"):
        expected = sum(getattr(op, quantity) for op in found)
        assert sum(getattr(k.op, quantity) for k in graph) == expected, quantity
    check_order(graph)


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("phase", ["decode", "prefill", "training"])
def test_every_family_has_a_graph(name: str, phase: str) -> None:
    space = small_space(FAMILIES[name])
    for a in (space.largest, space.smallest, *draws(space, 3, seed=0)):
        workload = Workload(phase, 1, 6)  # type: ignore[arg-type]
        graph = kernel_graph(a, space.family, workload)
        found = operators(a, space.family, workload, "bfloat16")
        assert sum(k.op.flops for k in graph) == sum(op.flops for op in found)
        check_order(graph)


def test_every_tensor_of_a_forward_pass_gets_a_gradient() -> None:
    """By the chain rule: each output of the forward pass is either the logits or has a gradient that some kernel or sum leaves."""
    family = Family(50, 8, 16, positions="rotary", activation="swiglu", residual="parallel")
    a = Architecture(32, (LayerConfig(2, 2.0), LayerConfig(1, 1.0)))
    forward = kernel_graph(a, family, Workload("prefill", 1, 8))
    training = kernel_graph(a, family, Workload("training", 1, 8))
    made = {t.name for k in training for t in k.outputs}
    handed = {t.name for k in forward if ".sum" in k.name for t in k.inputs}
    for kernel in forward:
        for tensor in kernel.outputs:
            assert f"{tensor.name}.grad" in made or tensor.name in handed, tensor.name
    weights = [k.name for k in forward if k.is_matrix]
    assert {f"{name}.dw" for name in weights} <= {k.name for k in training}


def linear_intensity(sparsity: str, tokens: int, shape: tuple[int, int] = (5120, 5120)) -> float:
    family = Family(50, tokens, 128)
    layer = LayerConfig.make(shape[1] // 128, 0, True, False, sparsity)  # type: ignore[arg-type]
    graph = kernel_graph(Architecture(shape[0], (layer,)), family, Workload("prefill", 1, tokens))
    return next(kernel.intensity for kernel in graph if kernel.name == "0.q")


@pytest.mark.parametrize("tokens", [1, 64, 2048, 10**6])
def test_intensity_of_a_linear_by_closed_form(tokens: int) -> None:
    """``2 T d d / e (d d + 2 T d)``; 16-bit values."""
    d = 5120
    assert linear_intensity("dense", tokens) == pytest.approx(
        2 * tokens * d * d / (2 * (d * d + 2 * tokens * d)), rel=1e-12
    )


def test_intensity_falls_eightfold_at_seven_eighths_zeros() -> None:
    """With many tokens weights do not matter and intensity is linear in density: 8x less at 87.5 % (2304.05511)."""
    ratio = linear_intensity("dense", 10**7) / linear_intensity("unstructured:0.875", 10**7)
    assert ratio == pytest.approx(8.0, rel=2e-3)
    few = linear_intensity("dense", 1) / linear_intensity("unstructured:0.875", 1)
    # one token: FLOPs fall by 8 and so do weights, but each takes an index of its size: 2x
    assert few == pytest.approx(2.0, rel=1e-2)


def test_all_pairs_are_twice_the_causal_ones() -> None:
    family = Family(50, 64, 16)
    a = Architecture(32, (LayerConfig(2, 2.0),))
    for phase in ("prefill", "training"):
        workload = Workload(phase, 2, 64)  # type: ignore[arg-type]
        causal, full = (
            [k for k in kernel_graph(a, family, workload, causal=flag) if k.op.kind == "attention"]
            for flag in (True, False)
        )
        assert sum(k.op.flops for k in full) * 65 == sum(k.op.flops for k in causal) * 128
