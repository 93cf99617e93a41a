"""Values of the kernels with inline assembly after Triton compiled them, proven without a GPU: their PTX runs in the emulator.

:mod:`tests.test_kernels_assembly` has the many shapes; here are a few, for what the compiler adds. What is left to a GPU is the assembler
behind PTX, and time.
"""

from __future__ import annotations

from functools import partial
from importlib.metadata import version

import pytest
import torch

from search_spaces import Sparsity
from search_spaces.formats import NM_PLANES
from tests.small_weights import bits, random_mask, random_weight

pytest.importorskip("triton", reason="needs Triton")

from nas.kernels.formats.bitmap import BitmapWeight
from nas.kernels.formats.csl import CslWeight
from nas.kernels.formats.nm import NmWeight
from tests.emulated_products import PADDING, assert_product, product_by
from tests.nm_probe import decode_kernel
from tests.ptx_compiled import CompiledKernel

pytestmark = pytest.mark.skipif(
    not version("triton").startswith("3.9."),
    reason="the emulator knows the instructions that Triton 3.9 chooses",
)


@pytest.mark.parametrize(
    ("text", "dtype", "capability"),
    [
        ("1:4", torch.float16, 80),
        ("2:4", torch.float16, 90),
        ("1:8", torch.bfloat16, 80),
        ("2:8", torch.bfloat16, 90),
    ],
)
def test_nm_decodes_bit_for_bit(text: str, dtype: torch.dtype, capability: int) -> None:
    sparsity = Sparsity.parse(text)
    n, m = sparsity.n, sparsity.m
    rows, groups = 16, 64
    weight = random_weight((rows, groups * m), 1, dtype)
    packed = NmWeight.pack(weight, sparsity, random_mask(sparsity, tuple(weight.shape), 2))
    planes = weight.new_empty(m, rows, groups)
    kernel = CompiledKernel(decode_kernel, capability, "planes")
    kernel[1, 1, 1](
        packed.values, packed.metadata, planes, groups, packed.metadata.shape[1],
        n=n, m=m, PLANES=NM_PLANES[n, m], BM=rows, G=groups, num_warps=4,
    )  # fmt: skip
    assert torch.equal(bits(planes.permute(1, 2, 0).reshape(rows, -1)), bits(packed.unpack()))


@pytest.mark.parametrize(
    ("stored", "level", "shape", "tokens", "split", "dtype", "capability"),
    [
        (CslWeight, "0.80", (130, 330), 11, 4, torch.float16, 80),  # the last split has no tile
        (CslWeight, "0.50", (200, 150), 70, 1, torch.bfloat16, 90),
        (CslWeight, "0.90", (60, 64), 3, 1, torch.float16, 90),  # one tile: the loop is no loop
        (BitmapWeight, "0.50", (70, 100), 5, 3, torch.float16, 80),  # the last split has no tile
        (BitmapWeight, "0.70", (131, 33), 70, 1, torch.bfloat16, 90),
    ],
)
def test_products(
    stored: type, level: str, shape: tuple[int, int], tokens: int, split: int, dtype: torch.dtype, capability: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    sparsity = Sparsity.parse(f"unstructured:{level}")
    packed = stored.pack(random_weight(shape, 1, dtype), sparsity, random_mask(sparsity, shape, 2))  # type: ignore[attr-defined]
    x = random_weight((tokens, shape[1]), 3, dtype)
    stand_in = partial(CompiledKernel, capability=capability, output="partial", unordered=PADDING)
    y, kernel = product_by(stand_in, monkeypatch, packed, x, split)
    assert_product(packed, x, y, kernel.written, split)
