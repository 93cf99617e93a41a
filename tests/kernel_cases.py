"""Formats, shapes and the tolerance that the sparse kernels are tested with: on a GPU, or without one under Triton's interpreter.

The contract: an error at most twice that of plain PyTorch in the same dtype, whatever the shape, the tokens and what follows the product;
no element of the output left unwritten; gradients of the reference.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from nas.kernels import PackedWeight, pack
from nas.kernels.epilogue import Epilogue
from nas.kernels.paths import has_triton
from nas.kernels.reference import reference_linear

HAS_GPU = torch.cuda.is_available()
DEVICE = "cuda" if HAS_GPU else "cpu"
# The interpreter's tl.dot is wrong in bfloat16; on a GPU the kernels are for 16-bit weights.
DTYPES = (torch.float16, torch.bfloat16) if HAS_GPU else (torch.float16, torch.float32)
NEEDS_TRITON = pytest.mark.skipif(not has_triton(), reason="needs Triton")

# (sparsity, format, a small shape that the tiles do not divide, as far as the pattern allows it)
FORMATS = (
    ("vector32:0.70", "vector", (96, 75)),
    ("vector64:0.50", "vector", (64, 203)),
    ("vector128:0.90", "vector", (128, 330)),
    ("block16:0.60", "bsr", (48, 80)),
    ("block32:0.75", "bsr", (96, 160)),
    ("block64:0.50", "bsr", (128, 192)),
    ("2:4", "nm", (70, 148)),
    ("1:4", "nm", (131, 76)),
    ("2:8", "nm", (65, 136)),
    ("1:8", "nm", (33, 264)),
    ("unstructured:0.70", "csl", (131, 150)),
    ("unstructured:0.50", "bitmap", (71, 150)),
    ("unstructured:0.90", "csr", (22, 1301)),
)
IDS = [f"{text}-{stored}" for text, stored, _ in FORMATS]


def random(*shape: int, seed: int, dtype: torch.dtype = torch.float32) -> Tensor:
    numbers = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    return numbers.to(DEVICE, dtype)


def packed_of(
    text: str, stored: str, shape: tuple[int, int], dtype: torch.dtype, seed: int = 0
) -> PackedWeight:
    return pack(random(*shape, seed=seed, dtype=dtype), text, format=stored)


def assert_close(y: Tensor, packed: PackedWeight, x: Tensor, epilogue: Epilogue) -> None:
    """The contract: at most twice the error of the dense product and plain torch in the same dtype."""
    exact = reference_linear(packed, x, epilogue)
    plain = epilogue(torch.nn.functional.linear(x, packed.unpack()), x)
    assert y.dtype == x.dtype
    assert y.shape == exact.shape
    error, allowed = (y.double() - exact).abs().max(), (plain.double() - exact).abs().max()
    # Another order of the sum; plain torch is sometimes exact by luck.
    floor = 4 * torch.finfo(x.dtype).eps * exact.abs().max()
    assert float(error) <= 2 * float(allowed) + float(floor)


def poison_new_buffers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every buffer that a kernel is to fill starts as NaN."""
    new_empty = Tensor.new_empty

    def poisoned(tensor: Tensor, *args: Any, **options: Any) -> Tensor:
        made = new_empty(tensor, *args, **options)
        return made.fill_(float("nan")) if made.is_floating_point() else made.fill_(-1)

    monkeypatch.setattr(Tensor, "new_empty", poisoned)
