"""search_spaces.costs: closed forms against counting on built models, torch's own FLOP counter and HW-GPT-Bench's records."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from nas.kernels import PackedWeight
from nas.model import GPT, extract
from search_spaces import (
    Architecture,
    LayerConfig,
    costs,
    decode_flops,
    linear_shapes,
    prefill_flops,
    preset,
)
from tests.small_models import random_supernet, random_tokens
from tests.small_spaces import (
    FAMILIES,
    GPT2,
    PATTERNS,
    SOME_FAMILIES,
    draws,
    patterns_of,
    small_space,
    uniform,
)

HW_GPT_BENCH = (
    Path(__file__).resolve().parents[2] / "shared" / "data" / "hw-gpt-bench" / "gpt-s.npz"
)


def tensors_of(model: nn.Module) -> list[Tensor]:
    """Every tensor the model keeps, each once."""
    found = {t.data_ptr(): t for t in (*model.parameters(), *model.buffers()) if t.numel()}
    return list(found.values())


def count(model: GPT) -> tuple[int, int, int]:
    """Parameters (positions of zeros included), non-zeros and bytes of a built model, looking at its tensors alone."""
    packed = [m for m in model.modules() if isinstance(m, PackedWeight)]
    inside = {t.data_ptr() for m in packed for t in m.tensors().values()}
    outside = [t for t in tensors_of(model) if t.data_ptr() not in inside]
    dense = sum(t.numel() for t in outside)
    matrices = [m.unpack() for m in packed]
    params = dense + sum(m.numel() for m in matrices)
    nonzeros = dense + sum(int(m.count_nonzero()) for m in matrices)
    return params, nonzeros, sum(t.numel() * t.element_size() for t in tensors_of(model))


@pytest.mark.parametrize("name", FAMILIES)
def test_closed_forms_equal_the_built_model(name: str) -> None:
    """For every family, and every pattern by turns: parameters, non-zeros and bytes, counted on the model that extraction built."""
    family = FAMILIES[name]
    space = small_space(family)
    supernet = random_supernet(space)
    chosen = [space.largest, space.smallest, *draws(space, 2, seed=len(name))]
    chosen += [
        uniform(space, p, rank=4 * (i % 2), bias=i % 2 == 0)
        for i, p in enumerate(patterns_of(name))
    ]
    for index, architecture in enumerate(chosen):
        dtype, value_bytes = (torch.float32, 4) if index % 2 else (torch.bfloat16, 2)
        model = extract(supernet, architecture, dtype=dtype)
        expected = costs(architecture, family, value_bytes)
        params, nonzeros, stored = count(model)
        assert params == expected.params, architecture
        assert nonzeros == expected.nonzeros, architecture
        assert stored == expected.weight_bytes == model.weight_bytes(), architecture


@pytest.mark.parametrize("name", SOME_FAMILIES)
@pytest.mark.parametrize(("batch", "tokens"), [(1, 1), (3, 7)])
def test_kv_bytes_equal_the_cache(name: str, batch: int, tokens: int) -> None:
    family = FAMILIES[name]
    space = small_space(family)
    supernet = random_supernet(space)
    for dtype, value_bytes in ((torch.float32, 4), (torch.bfloat16, 2)):
        for architecture in (space.largest, *draws(space, 6, seed=1)):
            cache = extract(supernet, architecture, dtype=dtype).make_cache(batch, tokens)
            pairs = [pair for pair in cache._layers if pair is not None]
            held = sum(t.numel() * t.element_size() for pair in pairs for t in pair)
            expected = costs(architecture, family, value_bytes).kv_bytes_per_token
            assert held == cache.num_bytes == expected * batch * tokens


@pytest.mark.parametrize("value_bytes", [0, 3, -4, 4.5, "4"])
def test_odd_value_sizes_are_refused(value_bytes: int) -> None:
    with pytest.raises(ValueError, match="expected value_bytes of 1, 2, 4 or 8"):
        costs(small_space().largest, GPT2, value_bytes)


# --- HW-GPT-Bench (2405.10299): closed forms behind its published parameters and FLOPs ------------


def sums(a: Architecture) -> tuple[int, int, int, int, int]:
    """E, L, H, M, b: width, depth, sums of heads and ratios over layers, bias."""
    heads = sum(layer.num_heads for layer in a.layers)
    ratios = sum(int(layer.ffn_ratio) for layer in a.layers)
    return a.embed_dim, a.depth, heads, ratios, int(a.bias)


@pytest.mark.parametrize("scale", ["gpt-s", "gpt-m", "gpt-l", "gpt-s-wide"])
def test_params_and_flops_are_those_of_hw_gpt_bench(scale: str) -> None:
    space = preset(scale)
    untied = replace(space.family, tied_embeddings=False)
    gated = replace(untied, activation="swiglu")
    vocabulary = 50254
    for a in (space.largest, space.smallest, *draws(space, 40, seed=0)):
        e, n, h, m, b = sums(a)
        fixed = 2 * vocabulary * e + 2 * e + 256 * h * e + 4 * e * n
        assert costs(a, untied).params == fixed + 2 * e**2 * m + b * (192 * h + 2 * n * e + e * m)
        assert costs(a, gated).params == fixed + 3 * e**2 * m + b * (
            192 * h + 2 * n * e + 2 * e * m
        )
        assert costs(a, space.family).params == costs(a, untied).params - vocabulary * e
        scores = 4 * (1024 * 1025 // 2) * 64 * h
        linear = 2 * 1024 * (vocabulary * e + 256 * h * e + 3 * e**2 * m)
        assert prefill_flops(a, gated, 1024) - scores == linear


@pytest.mark.skipif(not HW_GPT_BENCH.exists(), reason="needs ../shared/data/hw-gpt-bench")
def test_params_and_flops_equal_the_published_records() -> None:
    """6000 architectures: parameters exactly; FLOPs, which were profiled on 8 x 1024 tokens without attention scores, within 0.2 %."""
    records = np.load(HW_GPT_BENCH, allow_pickle=False)
    family = replace(preset("gpt-s").family, tied_embeddings=False, activation="swiglu")
    rows = range(0, len(records["arch"]), 10)
    for row in rows:
        embed_dim, depth, bias, *rest = (int(value) for value in records["arch"][row])
        layers = tuple(
            LayerConfig(h, r) for r, h in zip(rest[:depth], rest[12 : 12 + depth], strict=True)
        )
        architecture = Architecture(embed_dim, layers, bool(bias))
        assert costs(architecture, family).params == records["params_raw"][row]
        heads = sum(layer.num_heads for layer in layers)
        linear = prefill_flops(architecture, family, 1024) - 4 * (1024 * 1025 // 2) * 64 * heads
        assert linear / records["flops_raw"][row] * 8 == pytest.approx(1.0, rel=2e-3)


# --- FLOPs ----------------------------------------------------------------------------------------


def matrix_flops(model: GPT, tokens: Tensor, cached: int = 0) -> int:
    """FLOPs of the matrix products of a forward pass, counted by torch as they run; the attention scores are left out."""
    cache = model.make_cache(tokens.shape[0])
    cache.length = cached
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        model(tokens, cache if cached else None)
    counts = counter.get_flop_counts()["Global"]
    return sum(n for op, n in counts.items() if str(op) in ("aten.mm", "aten.addmm"))


def score_flops(architecture: Architecture, head_dim: int, queries: range) -> int:
    """One multiply-accumulate a feature for the score and one for the weighted sum of every (query, key up to it) pair."""
    total = 0
    for layer in architecture.layers:
        for _head in range(layer.num_heads):
            for t in queries:
                for _s in range(t + 1):
                    total += 2 * head_dim + 2 * head_dim
    return total


@pytest.mark.parametrize("name", FAMILIES)
def test_flops_equal_those_torch_counts(name: str) -> None:
    family = FAMILIES[name]
    space = small_space(family)
    supernet = random_supernet(space)
    dense = small_space(
        family, attention_sparsities=("dense",), ffn_sparsities=("dense",), adapter_ranks=(0,)
    )
    for architecture in (space.largest, space.smallest, *draws(dense, 2, seed=len(name))):
        model = extract(supernet, architecture)
        prompt = matrix_flops(model, random_tokens(space, 1, 9))
        pairs = score_flops(architecture, family.head_dim, range(9))
        assert prefill_flops(architecture, family, 9) == prompt + pairs
        step = matrix_flops(model, random_tokens(space, 1, 1), cached=11)
        pairs = score_flops(architecture, family.head_dim, range(11, 12))
        assert decode_flops(architecture, family, 11) == step + pairs


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("rank", [0, 4])
def test_sparse_flops_count_kept_weights_and_adapters(pattern: str, rank: int) -> None:
    space = small_space()
    architecture = uniform(space, pattern, rank=rank)
    model = extract(random_supernet(space), architecture)
    macs = model.embedding.numel()  # the tied output layer
    for part_name, part in model.parts().items():
        if isinstance(part, PackedWeight):
            macs += int(part.unpack().count_nonzero())
        elif "adapter" in part_name or (part.ndim == 2 and part_name.startswith("layers.")):
            macs += part.numel()
    assert decode_flops(architecture, GPT2, 5) == 2 * macs + score_flops(
        architecture, 16, range(5, 6)
    )
    assert prefill_flops(architecture, GPT2, 6) == 2 * 6 * macs + score_flops(
        architecture, 16, range(6)
    )
    assert sum(shape.macs for shape in linear_shapes(architecture, GPT2)) == macs
