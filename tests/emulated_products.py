"""Products whose kernel is replaced by an emulated one, and what they must be; the launcher is the package's own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from nas.kernels.epilogue import Epilogue
from nas.kernels.triton import bitmap_registers, csl_shared
from nas.kernels.triton.configs import tile_configs
from nas.kernels.triton.launch import triton_product

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"

# Column 64 of row 0 in either tile: lanes without an item store a zero there, and no fragment has it.
PADDING = {"csl_tile": [(128, 2), (128 * 144 + 128, 2)]}


def product_by(
    stand_in: Callable[[Any], Any],
    monkeypatch: pytest.MonkeyPatch,
    packed: Any,
    x: Tensor,
    split: int,
) -> tuple[Tensor, Any]:
    """The product by what stands in for the format's assembly kernel, and the latter after it ran."""
    module = csl_shared if packed.format == "csl" else bitmap_registers
    name = f"{module.__name__.rpartition('.')[2]}_kernel"
    kernel = stand_in(getattr(module, name))
    config = replace(tile_configs(packed.sparsity, packed.format)[0], split=split)
    assert config.kernel == "assembly"
    with monkeypatch.context() as patch:
        patch.setattr(module, name, kernel)
        y = triton_product(packed.to(DEVICE), x.to(DEVICE), Epilogue(), config)
    return y.cpu(), kernel


def assert_product(packed: Any, x: Tensor, y: Tensor, written: Tensor | None, split: int) -> None:
    """Every float32 part written, their sum as exact as float32 allows, and the output its nearest 16-bit number."""
    columns, tokens = packed.shape[1], x.shape[0]
    weight = packed.cpu().unpack().double()
    exact = x.double() @ weight.T
    assert written is not None
    assert written.shape[0] == split
    assert bool(written.isfinite().all())
    # One rounding for each 16 columns and each part; half an ulp is 2**-24 of at most the sum of magnitudes.
    bound = (columns / 16 + 2 + split) * 2.0**-24 * (x.double().abs() @ weight.abs().T)
    summed = written.double().sum(dim=0)
    assert bool(((summed[:tokens] - exact).abs() <= bound).all())
    assert not bool(summed[tokens:].any())  # tokens that pad a block
    torch.testing.assert_close(y, exact.to(y.dtype), rtol=torch.finfo(y.dtype).eps, atol=1e-6)
