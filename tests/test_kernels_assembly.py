"""Values of the kernels with inline assembly, proven without a GPU: their own text runs in :mod:`tests.ptx_emulator`.

Each product is launched by the package's launcher; only the kernel is replaced, by itself under :mod:`tests.kernel_emulator`, which
refuses races, reads out of bounds and stores that miss. The oracle is the dense product in float64.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.small_weights import bits, random_mask, random_weight

pytest.importorskip("triton", reason="needs Triton")

from nas.kernels.formats.bitmap import BitmapWeight
from nas.kernels.formats.csl import CslWeight
from nas.kernels.formats.nm import NmWeight
from nas.kernels.triton import csl_shared, nm
from nas.kernels.triton.epilogue import transpose_tokens
from nas.kernels.triton.fragments import fragment_tokens
from search_spaces import Sparsity
from search_spaces.formats import NM_PLANES
from tests.emulated_products import DEVICE, PADDING, assert_product, product_by
from tests.kernel_emulator import EmulatedKernel, Language, Value, python_of
from tests.ptx_emulator import Block
from tests.ptx_memory import MemoryAccessError, bank_ways

DTYPES = (torch.float16, torch.bfloat16)


def any_bits(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Every kind of 16-bit number: NaNs with payloads, both infinities and zeros, the rest at random."""
    numbers = np.random.default_rng(1).integers(-(2**15), 2**15, shape, dtype=np.int16)
    special = (-0x8000, 0, 0x7C00, -0x0400, 0x7E01, -0x1FF, 0x7F80, -0x80, 0x7FC1, 1)
    numbers.reshape(-1)[: 7 * len(special) : 7] = special
    return torch.from_numpy(numbers).view(dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("text", ["1:4", "2:4", "1:8", "2:8"])
def test_nm_decodes_bit_for_bit(text: str, dtype: torch.dtype) -> None:
    sparsity = Sparsity.parse(text)
    n, m = sparsity.n, sparsity.m
    planes = NM_PLANES[n, m]
    rows, groups = 6, 64
    weight = any_bits((rows, groups * m), dtype)
    mask = random_mask(sparsity, tuple(weight.shape), 2)
    packed = NmWeight.pack(weight, sparsity, mask)
    words = packed.metadata.numpy().repeat(32 // planes, axis=1)[:, :groups]
    # By NumPy: torch moves a NaN of 16 bits through float32 on the CPU, which changes its payload.
    patterns = bits(weight).numpy().view(np.uint16)
    kept = patterns[mask.numpy()].reshape(rows, groups, n)
    slots = [Value(np.ascontiguousarray(kept[:, :, i])) for i in range(n)]
    expected = np.where(mask.numpy(), patterns, np.uint16(0)).reshape(rows, groups, m)
    unpacked = bits(packed.unpack()).numpy().view(np.uint16).reshape(rows, groups, m)
    is_number = ~np.isnan(weight.float().numpy()).reshape(rows, groups, m)
    np.testing.assert_array_equal(unpacked[is_number], expected[is_number])
    orders = [np.arange(rows * groups)]  # which two groups share a register is Triton's to choose
    orders += [np.random.default_rng(seed).permutation(rows * groups) for seed in range(3)]
    for order in orders:
        language = Language(Block(rows * groups // 2), (0, 0, 0), order)
        word = python_of(nm.align, language)(Value(words), Value(np.arange(groups, dtype=np.int32)), planes)  # fmt: skip
        decode = python_of(nm.decode, language)
        found = decode(slots[0], slots[-1], word, n, m, planes, USE_ASM=True)
        stacked = np.stack([plane.values for plane in found], axis=2)
        np.testing.assert_array_equal(stacked, expected)


def emulated(kernel: Any, record: bool = False) -> EmulatedKernel:
    return EmulatedKernel(kernel, "partial", PADDING, record)


def mask_with_empty_tiles(sparsity: Sparsity, shape: tuple[int, int]) -> Tensor:
    """Kept weights at random where (row // 128 + column // 64) is odd and, if they do not all fit there, elsewhere."""
    rng = np.random.default_rng(4)
    row, column = np.indices(shape)
    order = np.lexsort((rng.random(shape).ravel(), ((row // 128 + column // 64) % 2 == 0).ravel()))
    mask = torch.zeros(shape, dtype=torch.bool)
    mask.view(-1)[torch.from_numpy(order[: sparsity.nonzeros(*shape)])] = True
    return mask


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    ("level", "shape", "tokens", "split", "has_empty_tiles"),
    [
        ("0.50", (200, 150), 3, 1, False),
        ("0.50", (200, 150), 11, 2, False),
        ("0.90", (200, 150), 3, 2, False),
        ("0.90", (200, 150), 11, 1, True),
        ("0.99", (200, 150), 3, 1, False),
        ("0.99", (200, 150), 11, 2, True),
        ("0.80", (130, 330), 20, 4, False),  # four splits of 2 tiles, the last one empty
        ("0.50", (200, 150), 3, 5, False),  # more splits than tiles
        ("0.02", (128, 64), 1, 1, False),  # one whole tile
        ("0.80", (64, 150), 70, 1, False),  # two blocks of 64 tokens
    ],
)
def test_csl_through_shared_memory(
    level: str, shape: tuple[int, int], tokens: int, split: int, has_empty_tiles: bool,
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    sparsity = Sparsity.parse(f"unstructured:{level}")
    mask = mask_with_empty_tiles(sparsity, shape) if has_empty_tiles else random_mask(sparsity, shape, 2)  # fmt: skip
    packed = CslWeight.pack(random_weight(shape, 1, dtype), sparsity, mask)
    assert has_empty_tiles == (packed.hints[0] == 0)
    x = random_weight((tokens, shape[1]), 3, dtype)
    y, kernel = product_by(emulated, monkeypatch, packed, x, split)
    assert kernel.constants["FULL"] * 128 <= packed.hints[0]
    assert_product(packed, x, y, kernel.written, split)


def test_csl_without_hints(monkeypatch: pytest.MonkeyPatch) -> None:
    sparsity = Sparsity.parse("unstructured:0.70")
    shape = (140, 70)
    packed = CslWeight.pack(
        random_weight(shape, 1, torch.float16), sparsity, random_mask(sparsity, shape, 2)
    )
    packed.hints = ()
    x = random_weight((2, shape[1]), 3, torch.float16)
    y, kernel = product_by(emulated, monkeypatch, packed, x, 1)
    assert (kernel.constants["FULL"], kernel.constants["ITEMS"]) == (0, 64)
    assert_product(packed, x, y, kernel.written, 1)


def test_csl_needs_its_barriers(monkeypatch: pytest.MonkeyPatch) -> None:
    """The emulator would notice a kernel that forgot them: without any, the same program is a race."""
    sparsity = Sparsity.parse("unstructured:0.80")
    shape = (128, 200)
    packed = CslWeight.pack(
        random_weight(shape, 1, torch.float16), sparsity, random_mask(sparsity, shape, 2)
    )
    monkeypatch.setattr(csl_shared, "BARRIER", "mov.b32 $0, 0;")
    with pytest.raises(MemoryAccessError, match="race"):
        product_by(emulated, monkeypatch, packed, random_weight((1, 200), 3, torch.float16), 1)


def test_csl_bank_conflicts(monkeypatch: pytest.MonkeyPatch) -> None:
    """The format deals items to banks and pads rows to 144 bytes: few stores, and no fragment, wait for another lane.

    A random tile's fullest bank holds more than its share, about 1.24 items for every 32 of the tile; no order has fewer turns.
    """
    sparsity = Sparsity.parse("unstructured:0.80")
    shape = (256, 256)
    packed = CslWeight.pack(
        random_weight(shape, 1, torch.float16), sparsity, random_mask(sparsity, shape, 2)
    )
    x = random_weight((1, 256), 3, torch.float16)
    _, kernel = product_by(partial(emulated, record=True), monkeypatch, packed, x, 1)
    accesses = [access for block in kernel.blocks for access in block.shared.accesses]
    scatter = [w for a in accesses if (a.opcode, a.width) == ("st", 2) for w in bank_ways(a)]
    clear = [w for a in accesses if (a.opcode, a.width) == ("st", 16) for w in bank_ways(a)]
    reads = [w for a in accesses if a.opcode == "ldmatrix" for w in bank_ways(a)]
    assert np.mean(scatter) <= 1.4
    assert set(clear) == {1}
    assert set(reads) == {1}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    ("level", "shape", "tokens", "split"),
    [
        ("0.50", (70, 100), 5, 1),
        ("0.90", (70, 100), 5, 3),  # of two tiles each: the last one empty
        ("0.99", (70, 100), 5, 4),
        ("0.30", (131, 33), 20, 1),  # two programs of rows, one panel in the second
        (
            "0.60",
            (128, 64),
            70,
            2,
        ),  # two blocks of 64 tokens, nothing beyond the edge of the weight
    ],
)
def test_bitmap_in_registers(
    level: str, shape: tuple[int, int], tokens: int, split: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    sparsity = Sparsity.parse(f"unstructured:{level}")
    weight, mask = random_weight(shape, 1, dtype), random_mask(sparsity, shape, 2)
    packed = BitmapWeight.pack(weight, sparsity, mask)
    x = random_weight((tokens, shape[1]), 3, dtype)
    y, kernel = product_by(emulated, monkeypatch, packed, x, split)
    assert_product(packed, x, y, kernel.written, split)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("tensor_order", [True, False])
@pytest.mark.parametrize(("tokens", "columns"), [(1, 7), (5, 64), (11, 100), (16, 33)])
def test_fragment_tokens(tokens: int, columns: int, tensor_order: bool, dtype: torch.dtype) -> None:
    x = random_weight((tokens, columns), 5, dtype).to(DEVICE)
    side_by_side = 2 if tensor_order else 1  # blocks of 32 columns
    blocks, groups = -(-columns // 32 // side_by_side), -(-tokens // 8) + 1
    x_f = x.new_full((blocks, groups, side_by_side, 32, 8), float("nan"))
    fragment_tokens[blocks * side_by_side, groups](
        x, x_f, tokens, columns, groups, TENSOR_ORDER=tensor_order, num_warps=4
    )
    padded = np.zeros((8 * groups, 32 * blocks * side_by_side), np.int16)
    padded[:tokens, :columns] = bits(x.cpu()).numpy()
    expected = np.empty(x_f.shape, np.int16)
    for block, group, side, lane in np.ndindex(*x_f.shape[:4]):
        t = lane % 4
        one_step = [2 * t, 2 * t + 1, 2 * t + 8, 2 * t + 9]
        chosen = (
            [*one_step, *(c + 16 for c in one_step)] if tensor_order else range(8 * t, 8 * t + 8)
        )
        first = 32 * (block * side_by_side + side)
        expected[block, group, side, lane] = padded[8 * group + lane // 4, first:][list(chosen)]
    np.testing.assert_array_equal(bits(x_f.cpu()).numpy(), expected)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("tokens", "columns"), [(1, 7), (5, 64), (17, 100)])
def test_transpose_tokens(tokens: int, columns: int, dtype: torch.dtype) -> None:
    x = random_weight((tokens, columns), 5, dtype).to(DEVICE)
    padded = -(-tokens // 16) * 16
    x_t = x.new_full((columns, padded), float("nan"))
    transpose_tokens[-(-columns // 64), padded // 16](x, x_t, tokens, columns, padded, BK=64, BN=16, num_warps=4)  # fmt: skip
    expected = np.zeros((columns, padded), np.int16)
    expected[:, :tokens] = bits(x.cpu()).numpy().T
    np.testing.assert_array_equal(bits(x_t.cpu()).numpy(), expected)
