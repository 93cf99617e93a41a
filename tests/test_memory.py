"""Peak memory in closed form, held to the storages that real models hold on the CPU, counted operator by operator."""

from __future__ import annotations

import pytest
import torch
from small_models import random_supernet

from nas.deploy.live_storages import LiveStorages
from nas.deploy.measure import measure_peak_memory
from nas.deploy.profile import profile_architectures
from nas.deploy.runtime import DTYPES, Runtime
from nas.kernels import SparseLinear, pack
from nas.model import extract
from search_spaces import (
    Architecture,
    Family,
    LayerConfig,
    LinearShape,
    SearchSpace,
    Sparsity,
    Workload,
    costs,
)
from surrogates.memory import peak_memory_bytes, product_bytes, workspace_bytes

SPARSITIES = ("dense", "2:4", "unstructured:0.80", "block32:0.75", "vector32:0.75")
PLAIN = Family(vocab_size=256, context_length=64, head_dim=32, activation="gelu_tanh")
OTHER = Family(
    vocab_size=128,
    context_length=64,
    head_dim=32,
    norm="rmsnorm",
    activation="swiglu",
    positions="rotary",
    residual="parallel",
    queries_per_kv_head=2,
    tied_embeddings=False,
)


def space_of(family: Family) -> SearchSpace:
    return SearchSpace(
        name="memory",
        family=family,
        embed_dims=(64, 128),
        depths=(1, 2, 3),
        num_heads=(2, 4),
        ffn_ratios=(1.0, 4.0),
        biases=(False, True),
        attention=(False, True),
        ffn=(False, True),
        attention_sparsities=tuple(map(Sparsity.parse, SPARSITIES)),
        ffn_sparsities=tuple(map(Sparsity.parse, SPARSITIES)),
        adapter_ranks=(0, 8),
    )


@pytest.mark.parametrize("family", [PLAIN, OTHER], ids=["gpt2", "llama"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    "workload",
    [
        Workload("decode", 1, 32),
        Workload("decode", 8, 63),
        Workload("prefill", 1, 64),
        Workload("prefill", 6, 48),
    ],
    ids=str,
)
def test_the_closed_form_is_what_models_hold(
    family: Family, dtype: str, workload: Workload
) -> None:
    space = space_of(family)
    supernet = random_supernet(space)
    runtime = Runtime("cpu", dtype, 1)
    measured, predicted = [], []
    for architecture in profile_architectures(space, 14, seed=3):
        model = extract(supernet, architecture, dtype=runtime.torch_dtype)
        measured.append(measure_peak_memory(model, workload, runtime))
        predicted.append(peak_memory_bytes(architecture, family, workload, dtype))
    assert predicted == measured


@torch.inference_mode()
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("rows", [1, 3, 40])
@pytest.mark.parametrize("sparsity", [*SPARSITIES[1:], "1:4", "2:8"])
def test_a_product_holds_what_the_closed_form_says(sparsity: str, rows: int, dtype: str) -> None:
    pattern, kind = Sparsity.parse(sparsity), DTYPES[dtype]
    packed = pack(torch.ones(256, 512, dtype=kind), pattern)
    packed.may_copy = False  # as in a model
    for bias, rank, activation in ((None, 0, None), (256, 0, "gelu"), (None, 8, None)):
        adapter = (torch.ones(rank, 512, dtype=kind), torch.ones(256, rank, dtype=kind))
        linear = SparseLinear(
            packed,
            None if bias is None else torch.ones(bias, dtype=kind),
            adapter if rank else None,
        )
        x = torch.ones(rows, 512, dtype=kind)
        linear(x)  # tables and matrices that stay are made
        with LiveStorages() as live:
            linear(x, activation)
        shape = LinearShape(0, "up", 256, 512, pattern, rank, bias is not None)
        follows = int(activation is not None)
        assert live.peak_bytes == product_bytes(shape, rows, kind.itemsize, follows=follows)


def test_a_dense_model_by_hand() -> None:
    architecture = Architecture(128, (LayerConfig(4, 4.0),))
    workload = Workload("prefill", 2, 16)
    rows, dim, neurons, vocab = 32, 128, 512, 256
    # the widest moment: stream, its norm, the neurons before and after their activation
    assert 2 * dim + 2 * neurons > 2 * dim + vocab
    expected = 4 * rows * (2 * dim + 2 * neurons)
    assert workspace_bytes(architecture, PLAIN, workload) == expected
    cache = 2 * 16 * 2 * 128 * 4  # sequences x tokens x (keys and values) x features x bytes
    weights = costs(architecture, PLAIN, 4).weight_bytes
    assert peak_memory_bytes(architecture, PLAIN, workload) == weights + cache + expected
    # in two bytes a number everything but nothing else is half as large
    assert workspace_bytes(architecture, PLAIN, workload, "bfloat16") * 2 == expected


def test_a_rebuilt_weight_is_held_only_where_no_kernel_reads_the_stored_one() -> None:
    sparse = LayerConfig(4, 4.0, ffn_sparsity=Sparsity.parse("2:4"))
    architecture, workload = Architecture(128, (sparse,)), Workload("decode", 1, 32)
    dense_bytes = 128 * 512 * 2
    with_rebuild = workspace_bytes(architecture, PLAIN, workload, "bfloat16")
    with_kernels = workspace_bytes(architecture, PLAIN, workload, "bfloat16", has_kernels=True)
    assert with_rebuild > dense_bytes > 10 * with_kernels


@torch.inference_mode()
def test_the_kv_cache_is_what_the_model_makes() -> None:
    space = space_of(OTHER)
    model = extract(random_supernet(space), space.largest)
    short, long = (
        peak_memory_bytes(space.largest, OTHER, Workload("decode", 3, context))
        for context in (20, 40)
    )
    grown = model.make_cache(3, 41).num_bytes - model.make_cache(3, 21).num_bytes
    assert long - short == grown


def test_training_and_unknown_dtypes_are_refused() -> None:
    architecture = Architecture(128, (LayerConfig(4, 4.0),))
    with pytest.raises(ValueError, match="expected a decode or prefill workload"):
        peak_memory_bytes(architecture, PLAIN, Workload("training", 1, 32))
    with pytest.raises(ValueError, match="expected a dtype"):
        peak_memory_bytes(architecture, PLAIN, Workload("decode", 1, 32), "int8")
