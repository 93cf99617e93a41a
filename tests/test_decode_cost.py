"""Instructions per weight against the committed static table, and the roofline of a sparse product on a GPU by hand."""

from __future__ import annotations

import json

import pytest

from experiments.kernels.bound import STATIC_TABLE
from search_spaces import Architecture, Family, LayerConfig, Sparsity, Workload
from surrogates import device, latency_ms, operators
from surrogates.decode_cost import (
    INSTRUCTIONS,
    PER_STORED,
    TOKENS,
    executed_flops,
    instructions_per_weight,
    product_instructions,
)


def counted() -> dict[tuple[str, str], dict[int, float]]:
    """Fewest instructions of any tiles in fp16 that divide the weight; of both architectures the larger."""
    best: dict[tuple[str, str, int, str], float] = {}
    for program in json.loads(STATIC_TABLE.read_text(encoding="utf-8"))["programs"]:
        words = program["name"].split()
        count = program.get("instructions_per_weight")
        skip = count is None or "uneven" in words or "fp16" not in words or words[1] == "any"
        if skip or program["tokens"] not in TOKENS:
            continue
        assert (program["per"] == "stored") == (words[0] in PER_STORED), program["name"]
        key = (words[0], words[1], program["tokens"], program["arch"])
        best[key] = min(count, best.get(key, count))
    found: dict[tuple[str, str], dict[int, float]] = {}
    for (format, label, tokens, _), count in best.items():
        row = found.setdefault((format, label), {})
        row[tokens] = max(count, row.get(tokens, 0.0))
    return found


def test_the_table_equals_the_kernels_static_table() -> None:
    expected = {key: tuple(row[t] for t in TOKENS) for key, row in counted().items()}
    assert expected == INSTRUCTIONS


@pytest.mark.parametrize("format", ["csl", "bitmap", "nm", "bsr", "vector"])
def test_more_tokens_never_cost_less(format: str) -> None:
    for (name, _), row in INSTRUCTIONS.items():
        assert name != format or row[-1] >= row[0]


def test_csl_counts_are_interpolated_between_levels() -> None:
    def at(level: float) -> float:
        count = instructions_per_weight(Sparsity("unstructured", level), "csl", 16)
        assert count is not None
        return count

    assert at(0.7) == 2.0469
    assert at(0.9) == at(0.97) == 1.3281
    assert at(0.85) == pytest.approx((1.6094 + 1.3281) / 2)
    assert at(0.3) == pytest.approx(2.6094 + (2.6094 - 2.0469))


def test_products_decode_once_per_sixty_four_tokens() -> None:
    sparsity = Sparsity.parse("2:4")
    once = product_instructions(sparsity, "nm", 128, 256, 64)
    assert once == round(4.0703 * 128 * 256)
    assert product_instructions(sparsity, "nm", 128, 256, 65) == pytest.approx(2 * once, abs=2)
    stored = product_instructions(Sparsity.parse("vector64:0.75"), "vector", 128, 256, 16)
    assert stored == round(1.2031 * 128 * 256 / 4)
    assert product_instructions(Sparsity.parse("unstructured:0.5"), "csr", 128, 256, 8) == 0
    assert executed_flops(sparsity, "nm", 128, 256, 3) == 2 * 3 * 128 * 256
    assert executed_flops(Sparsity.parse("block32:0.75"), "bsr", 128, 256, 3) == 2 * 3 * 128 * 64


@pytest.mark.parametrize("pattern", ["2:4", "unstructured:0.80", "vector64:0.75", "block32:0.75"])
@pytest.mark.parametrize("batch", [1, 64, 512])
def test_a_sparse_product_on_a_gpu_by_hand(pattern: str, batch: int) -> None:
    """launch + max(executed FLOPs / peak, bytes / bandwidth, instructions / rate), of one FFN over its dense twin."""
    spec, d = device("h100"), 1024
    family = Family(vocab_size=2, context_length=4, head_dim=64)
    workload = Workload("decode", batch, 3)
    found = {}
    for name in ("dense", pattern):
        layer = LayerConfig.make(0, 1.0, False, True, ffn_sparsity=name)  # type: ignore[arg-type]
        a = Architecture(d, (layer,))
        found[name] = latency_ms(a, family, spec, workload, "bfloat16")
    sparsity = Sparsity.parse(pattern)
    moved = 2 * batch * d * 2
    stored = sparsity.stored_bytes(d, d, 2)
    format = {"n": "nm", "u": "csl", "v": "vector", "b": "bsr"}[sparsity.pattern[0]]
    peak, rate, bandwidth = 989.4e12, 132 * 128 * 1.755e9, 3.35e12
    sparse_s = max(
        executed_flops(sparsity, format, d, d, batch) / peak,
        (stored + moved) / bandwidth,
        product_instructions(sparsity, format, d, d, batch) / rate,
    )
    dense_s = max(2 * batch * d * d / peak, (2 * d * d + moved) / bandwidth)
    assert found[pattern] - found["dense"] == pytest.approx(2e3 * (sparse_s - dense_s), rel=1e-6)


def test_zeros_that_are_decoded_are_multiplied_too() -> None:
    """At 4096 tokens a product is bound by arithmetic: CSL gains nothing from its zeros on a GPU, column vectors gain most of them."""
    family = Family(vocab_size=2, context_length=4096, head_dim=64)
    workload = Workload("prefill", 1, 4096)

    def ms(pattern: str, name: str) -> float:
        layer = LayerConfig.make(0, 4.0, False, True, ffn_sparsity=pattern)  # type: ignore[arg-type]
        return latency_ms(Architecture(8192, (layer,)), family, name, workload, "bfloat16")

    assert ms("unstructured:0.80", "a100") >= 0.99 * ms("dense", "a100")
    assert ms("vector64:0.80", "a100") < 0.3 * ms("dense", "a100")
    assert ms("unstructured:0.80", "sn40l") < 0.3 * ms("dense", "sn40l")


def test_a_cpu_is_as_before() -> None:
    """No instruction rate, no decode term: the sum of launch + max(flops / peak, bytes / bandwidth)."""
    spec = device("cpu_amd_7502")
    family = Family(vocab_size=64, context_length=64, head_dim=64)
    layer = LayerConfig(2, 4.0, True, True, "unstructured:0.80", "2:4", 4)  # type: ignore[arg-type]
    a = Architecture(128, (layer, layer), bias=True)
    for phase in ("decode", "prefill", "training"):
        workload = Workload(phase, 2, 32)  # type: ignore[arg-type]
        seconds = sum(
            op.launches * 4e-6
            + max(op.flops / 2.56e12, (op.weight_bytes + op.activation_bytes) / 204.8e9)
            for op in operators(a, family, workload)
        )
        assert latency_ms(a, family, spec, workload) == pytest.approx(1e3 * seconds, rel=1e-12)
