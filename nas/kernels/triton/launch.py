"""Launch: from a packed weight and an input to the kernel's grid and arguments.

The input is transposed once (:func:`epilogue.transpose_tokens`), so that a kept column is one contiguous run of tokens.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
import triton
from torch import Tensor

from nas.kernels.epilogue import Epilogue
from nas.kernels.formats import PackedWeight
from nas.kernels.triton.bitmap import bitmap_kernel
from nas.kernels.triton.bsr import bsr_kernel
from nas.kernels.triton.configs import TileConfig, split_for, tile_configs, token_block
from nas.kernels.triton.csl import csl_kernel
from nas.kernels.triton.csr import csr_kernel
from nas.kernels.triton.epilogue import sum_parts, transpose_tokens
from nas.kernels.triton.fragments import fragment_tokens
from nas.kernels.triton.nm import nm_kernel
from nas.kernels.triton.vector import vector_kernel

MAX_TOKENS = 4096  # of one launch, or fewer: inputs and outputs stay within 32-bit offsets
_PROCESSORS_WITHOUT_A_GPU = 4  # under the interpreter; enough to exercise a split


@dataclass(frozen=True)
class _Call:
    """A kernel with what only it takes."""

    kernel: Any
    rows_per_program: int
    num_turns: int
    arguments: Callable[[int], tuple[tuple[Any, ...], tuple[Any, ...], dict[str, Any]]]
    """For a number of splits: arguments before the input, arguments after ``R``, constants."""


@dataclass(frozen=True)
class Launch:
    """A kernel, its grid and everything it is called with.

    Args:
        kernel: a ``triton.jit`` function.
        grid: programs along each axis.
        arguments: tensors, numbers and absent parts (None), in the kernel's order.
        keywords: the kernel's constants, ``num_warps`` and ``num_stages``.
    """

    kernel: Any
    grid: tuple[int, ...]
    arguments: tuple[Any, ...]
    keywords: dict[str, Any]

    def __call__(self) -> None:
        self.kernel[self.grid](*self.arguments, **self.keywords)


def triton_product(
    packed: PackedWeight, x_NK: Tensor, epilogue: Epilogue, config: TileConfig | None = None
) -> Tensor:
    """``[N, M]``: the packed weight times an input by the Triton kernel of its format.

    Args:
        packed: ``[M, K]``; any format but dense.
        x_NK: at least one token, contiguous, in the weight's dtype and on its device.
        epilogue: what follows the product.
        config: one of :func:`tile_configs`; the first by default.
    """
    rank = 0 if epilogue.adapter is None else len(epilogue.adapter[0])
    # less the 63 tokens that may pad a block
    step = min(MAX_TOKENS, 2**31 // max(*packed.shape, rank) - 63)
    if len(x_NK) > step:
        pieces = [
            triton_product(packed, x_NK[i : i + step], epilogue.rows(i, step), config)
            for i in range(0, len(x_NK), step)
        ]
        return torch.cat(pieces)
    y, wanted = launches(packed, x_NK, epilogue, config)
    with torch.cuda.device(x_NK.device) if x_NK.is_cuda else contextlib.nullcontext():
        for launch in wanted:
            launch()
    return y


def launches(
    packed: PackedWeight, x_NK: Tensor, epilogue: Epilogue, config: TileConfig | None = None
) -> tuple[Tensor, list[Launch]]:
    """The output of :func:`triton_product`, not yet written, and the launches that write it, in order."""
    (num_rows, _), num_tokens = packed.shape, x_NK.shape[0]
    x_NK, epilogue = x_NK.contiguous(), epilogue.contiguous()
    if config is None:
        has_assembly = x_NK.is_cuda and x_NK.element_size() == 2
        config = tile_configs(packed.sparsity, packed.format, has_assembly)[0]
    block = token_block(num_tokens, packed.format)
    padded = triton.cdiv(num_tokens, block) * block
    calls = _CALLS if config.kernel == "portable" else _ASSEMBLY_CALLS
    call = calls[packed.format](packed, config)
    programs = triton.cdiv(num_rows, call.rows_per_program), padded // block
    split = config.split or split_for(
        programs[0] * programs[1], call.num_turns, _num_processors(x_NK.device)
    )
    if _is_crowded(packed.format, epilogue):
        split = max(2, split)  # its registers would be taken from the loop: sum_parts finishes
    y = x_NK.new_empty(num_tokens, num_rows)
    partial = None
    if split > 1 or config.kernel == "assembly":
        partial = x_NK.new_empty(split, padded, num_rows, dtype=torch.float32)
    inner = outer = None
    rank = 0
    if epilogue.adapter is not None:
        a, outer = epilogue.adapter
        inner, rank = F.linear(x_NK, a), a.shape[0]
    after = {"ACTIVATION": epilogue.activation, "ADAPTER_FIRST": epilogue.adapter_first}
    cut = {"SPLIT": split, "BN": block}
    ends = (epilogue.bias, inner, outer, epilogue.gate, num_rows, num_tokens, padded, rank)
    before, behind, constants = call.arguments(split * programs[0] * programs[1])
    wanted: list[Launch] = []
    if config.kernel == "assembly":
        x = _fragments(x_NK, padded, packed.format == "csl", wanted)
        arguments = (*before, x, partial, num_rows, padded, *behind)
        options = {**constants, **cut, "num_warps": 4}
    else:
        x = x_NK if packed.format == "csr" else _transposed(x_NK, padded, block, wanted)
        arguments = (*before, x, y, partial, *ends, *behind)
        options = {"num_warps": _num_warps(config, call, block), "num_stages": config.num_stages}
        options = {**constants, **cut, **after, **options}
    wanted.append(Launch(call.kernel, (*programs, split), arguments, options))
    if partial is not None:
        grid = triton.cdiv(num_rows, 64), programs[1]
        options = {**cut, **after, "BM": 64, "num_warps": 4}
        wanted.append(Launch(sum_parts, grid, (y, partial, *ends), options))
    return y, wanted


def _transposed(x_NK: Tensor, padded: int, block: int, wanted: list[Launch]) -> Tensor:
    num_tokens, num_columns = x_NK.shape
    x_t = x_NK.new_empty(num_columns, padded)
    grid = triton.cdiv(num_columns, 64), padded // block
    options = {"BK": 64, "BN": block, "num_warps": 4}
    arguments = (x_NK, x_t, num_tokens, num_columns, padded)
    wanted.append(Launch(transpose_tokens, grid, arguments, options))
    return x_t


def _fragments(x_NK: Tensor, padded: int, tensor_order: bool, wanted: list[Launch]) -> Tensor:
    num_tokens, num_columns = x_NK.shape
    blocks = 2 * triton.cdiv(num_columns, 64)  # CSL multiplies 64 columns at a time
    x_f = x_NK.new_empty(blocks, padded // 8, 32, 8)
    options = {"TENSOR_ORDER": tensor_order, "num_warps": 4}
    arguments = (x_NK, x_f, num_tokens, num_columns, padded // 8)
    wanted.append(Launch(fragment_tokens, (blocks, padded // 8), arguments, options))
    return x_f


def _is_crowded(stored: str, epilogue: Epilogue) -> bool:
    """Whether an epilogue needs more registers than are left beside the loop over K."""
    has_all = epilogue.activation is not None and epilogue.gate is not None
    return epilogue.adapter is not None and (stored == "csr" or has_all)


def _num_warps(config: TileConfig, call: _Call, block: int) -> int:
    """A tile's warps, or more where an epilogue would have no registers beside a thread's sums: at most 64, 32 of a single warp."""
    sums = call.rows_per_program * block // 32
    return max(config.num_warps, sums // 64, 2 if sums > 32 else 1)


def _num_processors(device: torch.device) -> int:
    if device.type != "cuda":
        return _PROCESSORS_WITHOUT_A_GPU
    return int(torch.cuda.get_device_properties(device).multi_processor_count)


def _vector(packed: Any, config: TileConfig) -> _Call:
    kept = packed.columns.shape[1]
    turns = triton.cdiv(kept, config.block_k)

    def arguments(_: int) -> Any:
        constants = {
            "V": packed.sparsity.size,
            "BK": config.block_k,
            "EVEN": kept % config.block_k == 0,
        }
        return (packed.values, packed.columns), (kept,), constants

    return _Call(vector_kernel, packed.sparsity.size, turns, arguments)


def _bsr(packed: Any, config: TileConfig) -> _Call:
    size = packed.sparsity.size
    turns = len(packed.columns) * size // (packed.shape[0] // size) // config.block_k

    def arguments(_: int) -> Any:
        tensors = (packed.values, packed.columns, packed.row_starts)
        return tensors, (), {"B": size, "BK": config.block_k}

    return _Call(bsr_kernel, size, turns, arguments)


def _nm(packed: Any, config: TileConfig) -> _Call:
    n, m = packed.sparsity.n, packed.sparsity.m
    groups, words = packed.shape[1] // m, packed.metadata.shape[1]
    is_even = packed.shape[0] % config.block_m == 0 and groups % config.block_k == 0

    def arguments(_: int) -> Any:
        uses_assembly = packed.values.is_cuda and packed.values.element_size() == 2
        constants = {
            "n": n, "m": m, "BM": config.block_m, "G": config.block_k, "EVEN": is_even, "USE_ASM": uses_assembly,
        }  # fmt: skip
        return (packed.values, packed.metadata), (groups, words), constants

    return _Call(nm_kernel, config.block_m, triton.cdiv(groups, config.block_k), arguments)


def _csr(packed: Any, config: TileConfig) -> _Call:
    turns = len(packed.columns) // packed.shape[0] // config.block_k

    def arguments(_: int) -> Any:
        tensors = (packed.values, packed.columns, packed.row_starts)
        return tensors, (packed.shape[1],), {"BM": config.block_m, "BK": config.block_k}

    return _Call(csr_kernel, config.block_m, turns, arguments)


def _csl(packed: Any, config: TileConfig) -> _Call:
    tiles = triton.cdiv(packed.shape[1], 64)

    def arguments(num_programs: int) -> Any:
        scratch = packed.items.new_empty(num_programs, 128, 72)
        tensors = (packed.items, packed.starts, scratch)
        return tensors, (packed.shape[1], tiles), {"CHUNK": config.block_k}

    return _Call(csl_kernel, 128, tiles, arguments)


def _bitmap(packed: Any, config: TileConfig) -> _Call:
    tiles = triton.cdiv(packed.shape[1], 32)

    def arguments(_: int) -> Any:
        return (packed.values, packed.tiles), (packed.shape[1], tiles), {"BM": config.block_m}

    return _Call(bitmap_kernel, config.block_m, tiles, arguments)


def _csl_assembly(packed: Any, config: TileConfig) -> _Call:
    from nas.kernels.triton.csl_shared import csl_shared_kernel

    tiles = triton.cdiv(packed.shape[1], 64)
    least, most = packed.hints if len(packed.hints) == 2 else (0, 128 * 64)

    def arguments(_: int) -> Any:
        # Even numbers: half as many kernels to compile, at most one item a thread too many.
        items = 2 * triton.cdiv(triton.cdiv(most, 128), 2)
        constants = {"FULL": least // 256 * 2, "ITEMS": items, "KIND": _kind(packed.items)}
        return (packed.items.view(torch.int32), packed.starts), (tiles,), constants

    return _Call(csl_shared_kernel, 128, tiles, arguments)


def _bitmap_assembly(packed: Any, config: TileConfig) -> _Call:
    from nas.kernels.triton.bitmap_registers import bitmap_registers_kernel

    panels, tiles = packed.tiles.shape[:2]

    def arguments(_: int) -> Any:
        tensors = (packed.values, packed.tiles, packed.tiles.view(torch.uint8))
        return tensors, (panels, tiles), {"KIND": _kind(packed.values)}

    return _Call(bitmap_registers_kernel, 128, tiles, arguments)


def _kind(tensor: Tensor) -> str:
    """How PTX names the dtype."""
    return "bf16" if tensor.dtype == torch.bfloat16 else "f16"


_ASSEMBLY_CALLS: dict[str, Callable[[Any, TileConfig], _Call]] = {
    "csl": _csl_assembly,
    "bitmap": _bitmap_assembly,
}
_CALLS: dict[str, Callable[[Any, TileConfig], _Call]] = {
    "vector": _vector,
    "bsr": _bsr,
    "nm": _nm,
    "csr": _csr,
    "csl": _csl,
    "bitmap": _bitmap,
}
