"""Paths: the ways a packed weight can be multiplied, by name.

=========  ===========================================================================================================
dense      a dense copy of the weight, made at the first call and kept: the dense library product, dense memory on top
unpack     the dense weight rebuilt at every call
native     the format's own product in torch: MKL for CSR and BSR, gathered batched products for column vectors (CPU)
triton     the format's Triton kernel (CUDA; on the CPU only under Triton's interpreter)
=========  ===========================================================================================================
"""

from __future__ import annotations

import functools
import importlib.util
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from nas.kernels.epilogue import Epilogue
from nas.kernels.formats import PackedWeight
from surrogates.kernel_table import PATHS

if TYPE_CHECKING:
    from nas.kernels.triton.configs import TileConfig


def paths(packed: PackedWeight, num_tokens: int) -> tuple[str, ...]:
    """Names of the paths that can multiply this weight, where it is, with so many tokens.

    Args:
        packed: the weight.
        num_tokens: rows of the input.
    """
    if packed.format == "dense":
        return ("dense",)
    found = ["dense", "unpack"]
    if packed.has_product(num_tokens):
        found.append("native")
    if takes_triton(packed):
        found.append("triton")
    return tuple(found)


def takes_triton(packed: PackedWeight) -> bool:
    """Whether the weight's Triton kernel can run where the weight is."""
    tensor = packed.values_tensor
    is_large = packed.shape[0] * packed.shape[1] >= 2**31 or max(packed.shape) >= 2**24
    if packed.format == "dense" or not has_triton() or is_large:  # offsets have 32 bits
        return False
    if tensor.is_cuda:
        # Shared-memory pipelines and bfloat16 start with sm_80.
        capability = torch.cuda.get_device_capability(tensor.device)
        return tensor.element_size() == 2 and capability >= (8, 0)
    return is_interpreted() and tensor.dtype in (torch.float16, torch.float32)


@functools.cache
def has_triton() -> bool:
    """Whether Triton is installed."""
    return importlib.util.find_spec("triton") is not None


def is_interpreted() -> bool:
    """Whether Triton runs its kernels in its interpreter (TRITON_INTERPRET=1), which takes tensors on the CPU."""
    if not has_triton():
        return False
    from triton import knobs

    return bool(knobs.runtime.interpret)


def run_path(
    path: str,
    packed: PackedWeight,
    x_NK: Tensor,
    epilogue: Epilogue,
    config: TileConfig | None = None,
) -> Tensor:
    """``[N, M]`` by one path.

    Args:
        path: one of :func:`paths`.
        packed: ``[M, K]``.
        x_NK: one token or more, contiguous.
        epilogue: what follows the product.
        config: of the Triton kernel; its default where None.

    Raises:
        ValueError: if the path is unknown.
    """
    if path == "triton":
        from nas.kernels.triton.launch import triton_product

        return triton_product(packed, x_NK, epilogue, config)
    if path == "dense":
        return epilogue(F.linear(x_NK, packed.dense_copy()), x_NK)
    if path == "unpack":
        return epilogue(F.linear(x_NK, packed.unpack()), x_NK)
    if path == "native":
        return epilogue(packed.multiply(x_NK), x_NK)
    raise ValueError(f"expected one of the paths {PATHS}, got {path!r}")
