"""Execution modes: times by hand, groups against brute force over all splits, pipelines against a simulation, SN40L's published gains."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from search_spaces import Architecture, Family, LayerConfig, Workload, preset
from surrogates import MODES, DeviceSpec, Efficiency, device, execution
from surrogates.dataflow import GroupModel, allocate, execute, greedy_spans
from surrogates.kernel_graph import Kernel, Tensor, kernel_graph
from surrogates.operators import Operator

IDEAL = Efficiency(compute=1.0, memory=1.0, issue=1.0, tile_rows=10)
SOURCES = dict.fromkeys(
    ("peak_flops", "bandwidth_bytes_s", "op_overhead_s", "on_chip_bytes", "num_units"), "test"
)


def toy(on_chip: int, units: int = 8) -> DeviceSpec:
    """1 FLOP = 1 ns, 1 byte = 1 ns, one launch = 1 us."""
    return DeviceSpec(
        "toy", {"bfloat16": 1e9}, 1e9, 1e-6, on_chip_bytes=on_chip, num_units=units, source=SOURCES
    )


def tensor(name: str, num_bytes: int, rows: int = 100, held: int = 0) -> Tensor:
    return Tensor(name, num_bytes, rows, held)


def kernel(
    name: str, flops: int, weights: int, inputs: list[Tensor], outputs: list[Tensor]
) -> Kernel:
    kind = "dense" if weights else "elementwise"
    op = Operator(kind, 1, flops, weights)
    return Kernel(name, op, tuple(inputs), tuple(outputs))


A, B, C, D = (
    tensor(name, size) for name, size in zip("abcd", (1000, 2000, 3000, 500), strict=True)
)
CHAIN = (
    kernel("one", 5000, 400, [A], [B]),
    kernel("two", 0, 0, [B], [C]),
    kernel("three", 9000, 700, [C, A], [D]),
)


def test_three_kernels_by_hand() -> None:
    """100 tokens in 10 tiles. B and C stay on chip when fused; A is read once."""
    alone = execute(CHAIN, 100, toy(1), "kernel-by-kernel", efficiency=IDEAL)
    # max(5000, 400 + 1000 + 2000), 2000 + 3000, max(9000, 700 + 3000 + 1000 + 500)
    assert alone.seconds == pytest.approx((3 * 1000 + 5000 + 5000 + 9000) * 1e-9)
    assert alone.moved_bytes == 3400 + 5000 + 5200
    fused = execute(CHAIN, 100, toy(10**6), "fused", efficiency=IDEAL)
    assert [group.kernels for group in fused.groups] == [("one", "two", "three")]
    # turns: max(5000, 400 + 1000), max(0, 0), max(9000, 700 + 500)
    assert fused.seconds == pytest.approx((1000 + 5000 + 9000) * 1e-9)
    assert fused.moved_bytes == 400 + 1000 + 700 + 500
    # weights and two tiles, of 10 rows in 100, of every tensor
    assert fused.groups[0].on_chip_bytes == 400 + 700 + 2 * (100 + 200 + 300 + 50)
    pipelined = execute(CHAIN, 100, toy(10**6), "pipelined", efficiency=IDEAL)
    # 8 units on work 5 : 0 : 9 are 3, 1 and 4; a tile takes 500 x 8/3 or 900 x 8/4 ns; 10 tiles through 3 stages
    assert allocate([5000, 0, 9000], 8) == [3, 1, 4]
    assert pipelined.seconds == pytest.approx((1000 + (10 + 3 - 1) * 1800) * 1e-9)


def test_a_pipeline_bound_by_memory_takes_its_bytes() -> None:
    chain = (kernel("one", 10, 0, [A], [B]), kernel("two", 10, 0, [B], [C]))
    found = execute(chain, 100, toy(10**6), "pipelined", efficiency=IDEAL)
    assert found.seconds == pytest.approx((1000 + 1000 + 3000) * 1e-9)


def test_capacity_splits_and_a_single_matrix_streams() -> None:
    needed = 400 + 700 + 2 * (100 + 200 + 300 + 50)
    whole = execute(CHAIN, 100, toy(needed), "fused", efficiency=IDEAL)
    assert len(whole.groups) == 1
    split = execute(CHAIN, 100, toy(needed - 1), "fused", efficiency=IDEAL)
    assert [group.kernels for group in split.groups] == [("one", "two"), ("three",)]
    # one matrix and its epilogue need buffers only
    assert split.groups[0].on_chip_bytes == 2 * (100 + 200 + 300)
    # one tile: every weight is used once as it passes, none is resident
    one_tile = replace(IDEAL, tile_rows=100)
    model = GroupModel(CHAIN, 100, toy(1), "bfloat16", one_tile)
    assert model.on_chip_bytes(0, 3) == 2 * (1000 + 2000 + 3000 + 500)


def test_a_held_tensor_takes_its_whole_sequence_inside_a_group() -> None:
    held = replace(B, held_rows=50)
    chain = (kernel("one", 1, 0, [A], [held]), kernel("two", 1, 0, [held], [C]))
    model = GroupModel(chain, 100, toy(1), "bfloat16", IDEAL)
    assert model.on_chip_bytes(0, 2) == 2 * (100 + 1000 + 300)


def test_gathers_slow_unstructured_products_down_where_nothing_was_counted() -> None:
    op = Operator("unstructured", 1, 6000, 10, dense_flops=12000)
    chain = (Kernel("one", op, (A,), (B,)),)
    for gather, expected in ((1.0, 6000), (2.5, 15000)):
        found = execute(chain, 100, toy(1), "fused", efficiency=replace(IDEAL, gather=gather))
        assert found.seconds == pytest.approx((1000 + expected) * 1e-9)


def random_chain(rng: np.random.Generator, length: int) -> tuple[Kernel, ...]:
    """Kernels that read any earlier tensor and may hand on several."""
    found: list[Kernel] = []
    pool = [tensor("input", 1000)]
    for index in range(length):
        picks = rng.choice(len(pool), size=min(len(pool), int(rng.integers(1, 3))), replace=False)
        out = tensor(f"t{index}", int(rng.integers(1, 50)) * 100, held=int(rng.choice([0, 60])))
        weights = int(rng.choice([0, 0, 300, 2000]))
        flops = int(rng.integers(0, 20000))
        found.append(kernel(f"k{index}", flops, weights, [pool[i] for i in picks], [out]))
        pool.append(out)
    return tuple(found)


def splits(n: int) -> list[list[tuple[int, int]]]:
    """Every way to cut n kernels into contiguous groups."""
    found = []
    for cuts in itertools.product([False, True], repeat=n - 1):
        edges = [0, *(i + 1 for i, cut in enumerate(cuts) if cut), n]
        found.append(list(itertools.pairwise(edges)))
    return found


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from(["fused", "pipelined"]))
def test_greedy_groups_against_every_split(seed: int, mode: str) -> None:
    """Valid, as few as any valid split has, and never faster than the best of them; the best is at most half as fast again."""
    rng = np.random.default_rng(seed)
    chain = random_chain(rng, int(rng.integers(2, 8)))
    spec = toy(int(rng.integers(100, 12000)), units=int(rng.integers(2, 12)))
    model = GroupModel(chain, 100, spec, "bfloat16", IDEAL)
    valid = [s for s in splits(len(chain)) if all(model.is_valid(*span, mode) for span in s)]  # type: ignore[arg-type]
    greedy = greedy_spans(model, mode)  # type: ignore[arg-type]
    assert greedy in valid
    assert len(greedy) == min(len(s) for s in valid)

    def seconds(spans: list[tuple[int, int]]) -> float:
        return sum(model.group(*span, mode).seconds for span in spans)  # type: ignore[arg-type]

    best = min(seconds(s) for s in valid)
    assert best <= seconds(greedy) * (1 + 1e-12)
    if (
        mode == "fused"
    ):  # in a pipeline, filling many stages with few tiles can cost more than their traffic
        assert seconds(greedy) <= 1.5 * best


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_traffic_of_a_group_by_counting(seed: int) -> None:
    """What crosses the border: by sets of names, each tensor once."""
    rng = np.random.default_rng(seed)
    chain = random_chain(rng, 7)
    model = GroupModel(chain, 100, toy(1), "bfloat16", IDEAL)
    for start, stop in itertools.combinations(range(8), 2):
        part, rest = chain[start:stop], chain[stop:]
        sizes = {t.name: t.num_bytes for k in chain for t in (*k.inputs, *k.outputs)}
        made = {t.name for k in part for t in k.outputs}
        read = {t.name for k in part for t in k.inputs}
        later = {t.name for k in rest for t in k.inputs}
        nobody = made - {t.name for k in chain for t in k.inputs}
        crossing = (read - made) | (made & later) | nobody
        weights = sum(k.op.weight_bytes for k in part)
        assert sum(model.traffic(start, stop)) == weights + sum(sizes[n] for n in crossing)


def test_a_pipeline_against_its_simulation() -> None:
    """Tile by tile: a stage starts when it is free and the tile is there. Equal stages take exactly the formula; unequal ones at most."""
    rng = np.random.default_rng(0)
    for index in range(20):
        work = rng.uniform(0.1, 5.0, size=int(rng.integers(2, 7)))
        if index % 2:
            work[:] = work[0]
        model = GroupModel(CHAIN, 100, toy(1, units=60), "bfloat16", IDEAL)
        units = allocate(list(work), 60)
        per_tile = [w * 60 / u / model.tiles for w, u in zip(work, units, strict=True)]
        free = np.zeros(len(work))
        for _ in range(model.tiles):
            there = 0.0
            for stage, seconds in enumerate(per_tile):
                there = free[stage] = max(there, free[stage]) + seconds
        formula = model.pipeline_s(list(work))
        slack = len(work) * (max(per_tile) - min(per_tile))
        assert formula - slack <= free[-1] * (1 + 1e-12) <= formula * (1 + 2e-12)
        if index % 2:  # 60 units divide among 2 to 6 equal stages
            assert formula == pytest.approx(free[-1], rel=1e-12)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 50), min_size=1, max_size=4), st.integers(0, 8))
def test_units_are_dealt_as_well_as_can_be(work: list[int], spare: int) -> None:
    """Against every allocation: none has a less busy busiest stage."""
    units = len(work) + spare
    found = allocate([float(w) for w in work], units)
    assert sum(found) == units
    assert min(found) >= 1
    ways = itertools.product(range(1, spare + 2), repeat=len(work))
    best = min(
        max(w / u for w, u in zip(work, way, strict=True)) for way in ways if sum(way) == units
    )
    assert max(w / u for w, u in zip(work, found, strict=True)) == pytest.approx(best)
    with pytest.raises(ValueError, match="a unit for each"):
        allocate([1.0, 1.0], 1)


@pytest.mark.parametrize("phase", ["decode", "prefill", "training"])
@pytest.mark.parametrize("name", ["a100", "sn40l", "cpu"])
def test_laws_that_hold_on_every_device(name: str, phase: str) -> None:
    """Fusion moves no more bytes and takes no longer; no mode beats the arithmetic or the least traffic; groups are a partition."""
    space = preset("gpt-s", sparsity=True)
    a = space.sample(np.random.default_rng(1))
    workload = Workload(phase, 2, 64)  # type: ignore[arg-type]
    graph = kernel_graph(a, space.family, workload)
    runs = {mode: execute(graph, workload.num_tokens, name, mode) for mode in MODES}
    alone = runs["kernel-by-kernel"]
    for mode, run in runs.items():
        assert [n for g in run.groups for n in g.kernels] == [k.name for k in graph]
        assert run.moved_bytes <= alone.moved_bytes
        assert all(g.on_chip_bytes <= (device(name).on_chip_bytes or 0) for g in run.groups)
        weights = sum(k.op.weight_bytes for k in graph)
        assert run.moved_bytes >= weights
        assert run.seconds >= weights / (0.85 * device(name).bandwidth_bytes_s), mode
    assert runs["fused"].seconds <= alone.seconds


def test_what_cannot_be_executed_is_refused() -> None:
    space = preset("tiny")
    workload = Workload("decode", 1, 8)
    with pytest.raises(ValueError, match="expected a mode"):
        execution(space.largest, space.family, workload, "cpu", "fast")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="expected a dtype"):
        execution(space.largest, space.family, workload, "v100", "fused")
    source = {k: v for k, v in device("cpu").source.items() if k != "on_chip_bytes"}
    bare = replace(device("cpu"), on_chip_bytes=None, source=source)
    with pytest.raises(ValueError, match="known on_chip_bytes for fused"):
        execution(space.largest, space.family, workload, bare, "fused")
    for field, value in (("compute", 0.0), ("memory", 1.1), ("issue", -1.0)):
        with pytest.raises(ValueError, match=f"expected {field} in"):
            Efficiency(**{field: value})
    for field in ("gather", "tile_rows"):
        with pytest.raises(ValueError, match="of 1 or more"):
            Efficiency(**{field: 0})


# ---- SN40L (2405.07518, sec. VI-A): fused over unfused is 1.5x to 3x for training, prefill and sparse GPT, on eight sockets


SOCKETS = 8


def slice_of(
    family: Family, embed_dim: int, depth: int, ffn_ratio: float, sparsity: str = "dense"
) -> Architecture:
    """What one of eight sockets computes of each layer (Megatron's tensor parallelism, 1909.08053): an eighth of heads and neurons."""
    heads = embed_dim // family.head_dim // SOCKETS
    layer = LayerConfig(heads, ffn_ratio / SOCKETS, True, True, sparsity, sparsity)  # type: ignore[arg-type]
    return Architecture(embed_dim, (layer,) * depth)


LLAMA = Family(32000 // SOCKETS, 4096, 128, norm="rmsnorm", activation="swiglu", positions="rotary")
GPT_13B = Family(50264 // SOCKETS, 2048, 128)
PUBLISHED = {
    "llama2-7b training": (LLAMA, (4096, 32, 11008 / 4096), "dense", "training"),
    "llama2-7b prefill": (LLAMA, (4096, 32, 11008 / 4096), "dense", "prefill"),
    "sparse GPT 13b training": (GPT_13B, (5120, 40, 4.0), "unstructured:0.875", "training"),
}


@pytest.mark.parametrize("batch", [1, 8])
@pytest.mark.parametrize("name", PUBLISHED)
def test_fusion_on_the_sn40l_gains_what_was_published(name: str, batch: int) -> None:
    """Every pair of tokens is computed, as published FLOP counts do; the batch, which the paper does not give, hardly matters."""
    family, (embed_dim, depth, ratio), sparsity, phase = PUBLISHED[name]
    a = slice_of(family, embed_dim, depth, ratio, sparsity)
    workload = Workload(phase, batch, family.context_length)  # type: ignore[arg-type]
    graph = kernel_graph(a, family, workload, causal=False)
    alone, fused = (
        execute(graph, workload.num_tokens, "sn40l", mode) for mode in ("kernel-by-kernel", "fused")
    )
    assert 1.5 <= alone.seconds / fused.seconds <= 3.0


def test_fewer_kernel_calls_as_published() -> None:
    """'llama2-7B prefill: 11x fewer calls' (2405.07518): without tensor parallelism the model fuses 547 kernels into about 50."""
    family = replace(LLAMA, vocab_size=32000)
    a = Architecture(4096, (LayerConfig(32, 11008 / 4096),) * 32)
    alone, fused = (
        execution(a, family, Workload("prefill", 1, 4096), "sn40l", mode)
        for mode in ("kernel-by-kernel", "fused")
    )
    assert 5 < len(alone.groups) / len(fused.groups) < 20


def test_sparsity_makes_fusion_matter_and_the_pipeline_gives_it_back() -> None:
    """2304.05511's argument: less arithmetic per byte, so running kernel by kernel loses the zeros' gain; dataflow keeps most of it."""
    gains = {}
    for mode in MODES:
        seconds = []
        for sparsity in ("dense", "unstructured:0.875"):
            layer = LayerConfig(40, 4.0, True, True, sparsity, sparsity)  # type: ignore[arg-type]
            a = Architecture(5120, (layer,) * 8)
            workload = Workload("training", 8, 2048)
            family = Family(50257, 2048, 128)
            seconds.append(execution(a, family, workload, "sn40l", mode).seconds)
        gains[mode] = seconds[0] / seconds[1]
    assert gains["kernel-by-kernel"] < gains["fused"] < gains["pipelined"]
    assert gains["pipelined"] > 1.5 * gains["kernel-by-kernel"]
