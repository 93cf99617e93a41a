"""The same laws on a GPU: products, extraction, measurement and a whole small run."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from nas.deploy.measure import measure_latency, measure_peak_memory
from nas.deploy.runtime import Runtime
from nas.kernels import pack, sparse_linear
from nas.model import Supernet, extract
from search_spaces import Workload, preset

pytestmark = pytest.mark.gpu

SPARSITIES = ("2:4", "1:8", "unstructured:0.80", "block32:0.75", "vector64:0.75")
# Errors relative to the largest exact output; twice what the dense product in the same dtype shows.
TOLERANCE = {torch.float32: 2e-5, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}


@pytest.mark.parametrize("sparsity", SPARSITIES)
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("rows", [1, 3, 64])
def test_sparse_product_equals_the_exact_one(sparsity: str, dtype: torch.dtype, rows: int) -> None:
    generator = torch.Generator().manual_seed(rows)
    weight = torch.randn(256, 192, generator=generator).to("cuda", dtype)
    x = torch.randn(rows, 192, generator=generator).to("cuda", dtype)
    packed = pack(weight, sparsity)
    exact = x.double() @ packed.unpack().double().T
    error = (sparse_linear(x, packed).double() - exact).abs().max() / exact.abs().max()
    assert packed.stored_bytes == packed.sparsity.stored_bytes(256, 192, dtype.itemsize)
    assert float(error) <= TOLERANCE[dtype]


def test_subnets_agree_with_the_cpu() -> None:
    space = preset("tiny")
    supernet = Supernet(space)
    tokens = torch.randint(
        space.family.vocab_size, (2, 32), generator=torch.Generator().manual_seed(0)
    )
    rng = np.random.default_rng(0)
    architectures = [space.largest, *(space.sample(rng) for _ in range(4))]
    with torch.inference_mode():
        expected = [supernet(tokens, a) for a in architectures]
    moved = supernet.to("cuda")
    for architecture, logits in zip(architectures, expected, strict=True):
        model = extract(moved, architecture)
        with torch.inference_mode():
            inside, outside = moved(tokens.cuda(), architecture).cpu(), model(tokens.cuda()).cpu()
        torch.testing.assert_close(
            inside, logits, atol=2e-3, rtol=2e-3
        )  # TF32 off: order of sums only
        torch.testing.assert_close(outside, logits, atol=2e-3, rtol=2e-3)


def test_measurement_is_positive_and_counts_the_weights() -> None:
    space = preset("tiny")
    model = extract(Supernet(space), space.largest, dtype=torch.bfloat16).to("cuda")
    runtime = Runtime("cuda", "bfloat16")
    workload = Workload("decode", 2, 64)
    assert measure_latency(model, workload, runtime).median_ms > 0
    assert measure_peak_memory(model, workload, runtime) >= model.weight_bytes()


def test_a_whole_run(tmp_path: Path) -> None:
    from nas.pipeline import run
    from nas.run_settings import SearchRun

    config = SearchRun(
        device="cuda",
        trials=4,
        sampler="nsga2",
        profile_architectures=16,
        perplexity_tokens=512,
        random_seeds=1,
        max_winners=2,
        compile=False,
        out=tmp_path / "run",
    )
    results = run(config)
    assert (
        json.loads((tmp_path / "run" / "results.json").read_text())["winners"] == results["winners"]
    )
    for winner in results["winners"]:
        perplexity = next(c for c in winner["checks"] if c["name"] == "perplexity")
        assert perplexity["passed"]
