"""What each PTX instruction does, for all threads of a block at once.

Written from the PTX ISA (its section "Instructions", with "Matrix fragments for mma.m16n8k16"), not from the kernels, for the instructions
and variants that they use; any other is an error.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from tests.ptx_emulator import Block

Array = npt.NDArray[Any]
Modifiers = tuple[str, ...]
Operands = tuple[str, ...]
Handler = Callable[["Block", Modifiers, Operands, Array], None]

UNSIGNED: dict[int, Any] = {1: np.bool_, 8: np.uint8, 16: np.uint16, 32: np.uint32, 64: np.uint64}


class PtxError(Exception):
    """Text that the emulator does not know, or that PTX does not allow."""


def _width(kind: str) -> tuple[int, bool]:
    """Bits of a type such as s32, and whether it is signed."""
    match = re.fullmatch(r"([busf])(16|32|64)", kind)
    if match is None:
        raise PtxError(f"expected a type of 16, 32 or 64 bits, got {kind!r}")
    return int(match[2]), match[1] == "s"


def _typed(block: Block, operand: str, kind: str) -> Array:
    bits, is_signed = _width(kind)
    values = block.value(operand, bits)
    return values.view(f"i{bits // 8}") if is_signed else values


def _unsigned(values: Array) -> Array:
    return values.view(f"u{values.dtype.itemsize}")


def _vector(operand: str) -> list[str]:
    return [part.strip() for part in operand.strip("{}").split(",")]


def _expect(modifiers: Modifiers, *allowed: str) -> None:
    text = ".".join(modifiers)
    if not any(re.fullmatch(pattern, text) for pattern in allowed):
        raise PtxError(f"expected one of the variants {allowed}, got {text!r}")


def _all_threads(block: Block, active: Array) -> None:
    if block.num_threads % 32 or not active.all():
        raise PtxError("expected whole warps without a predicate")


def _mov(block: Block, modifiers: Modifiers, operands: Operands, active: Array) -> None:
    _expect(modifiers, r"[bus](16|32|64)")
    bits, _ = _width(modifiers[0])
    target, source = operands
    if source.startswith("{"):  # packing: the first is the lowest
        low, high = (block.value(part, bits // 2) for part in _vector(source))
        wide = UNSIGNED[bits]
        block.write(target, low.astype(wide) | high.astype(wide) << wide(bits // 2), active)
    elif target.startswith("{"):
        values = block.value(source, bits)
        for i, part in enumerate(_vector(target)):
            half = values >> UNSIGNED[bits](i * bits // 2)
            block.write(part, half.astype(UNSIGNED[bits // 2]), active)
    else:
        block.write(target, block.value(source, bits), active)


def _two(operation: Callable[[Array, Array], Array]) -> Handler:
    def two(block: Block, modifiers: Modifiers, operands: Operands, active: Array) -> None:
        _expect(modifiers, r"[us](16|32|64)")
        a, b = (_typed(block, operand, modifiers[0]) for operand in operands[1:])
        block.write(operands[0], _unsigned(operation(a, b)), active)

    return two


def _multiply(block: Block, modifiers: Modifiers, operands: Operands, active: Array) -> None:
    """``mul`` and, with a third operand, ``mad``: the lower half of the product, its upper half, or all of it."""
    _expect(modifiers, r"lo\.[us](16|32|64)", r"(hi|wide)\.[us](16|32)")
    a, b = (_typed(block, operand, modifiers[1]) for operand in operands[1:3])
    half, bits = modifiers[0], a.dtype.itemsize * 8
    if half != "lo":
        wide = f"{a.dtype.kind}{bits // 4}"
        a, b = a.astype(wide), b.astype(wide)
    product = _unsigned(a * b)
    if half == "hi":
        product = (product >> product.dtype.type(bits)).astype(UNSIGNED[bits])
    if len(operands) == 4:
        product = product + block.value(operands[3], product.dtype.itemsize * 8)
    block.write(operands[0], product, active)


def _shift(to_left: bool) -> Handler:
    """Zeros come in, or copies of a signed number's sign; more than all bits count as all."""

    def shift(block: Block, modifiers: Modifiers, operands: Operands, active: Array) -> None:
        _expect(modifiers, r"b(16|32|64)" if to_left else r"[bus](16|32|64)")
        values = _typed(block, operands[1], modifiers[0])
        bits, is_signed = _width(modifiers[0])
        distance = block.value(operands[2], 32)
        clamped = np.minimum(distance, bits - 1).astype(values.dtype)
        shifted = values << clamped if to_left else values >> clamped
        if not is_signed:
            shifted = np.where(distance >= bits, np.zeros_like(values), shifted)
        block.write(operands[0], _unsigned(shifted), active)

    return shift


def _bitwise(operation: Callable[[Array, Array], Array]) -> Handler:
    def bitwise(block: Block, modifiers: Modifiers, operands: Operands, active: Array) -> None:
        _expect(modifiers, r"b(16|32|64)")
        a, b = (block.value(operand, _width(modifiers[0])[0]) for operand in operands[1:])
        block.write(operands[0], operation(a, b), active)

    return bitwise


def _not(block: Block, modifiers: Modifiers, operands: Operands, active: Array) -> None:
    _expect(modifiers, r"b(16|32|64)")
    block.write(operands[0], ~block.value(operands[1], _width(modifiers[0])[0]), active)


def _bfe(block: Block, modifiers: Modifiers, operands: Operands, active: Array) -> None:
    """So many bits from a position on."""
    _expect(modifiers, r"u32")
    values, position, length = (block.value(operand, 32) for operand in operands[1:])
    wide = values.astype(np.uint64) >> np.minimum(position & 255, 63).astype(np.uint64)
    kept = (np.uint64(1) << np.minimum(length & 255, 32).astype(np.uint64)) - np.uint64(1)
    block.write(operands[0], (wide & kept).astype(np.uint32), active)


def _cvt(block: Block, modifiers: Modifiers, operands: Operands, active: Array) -> None:
    """Between whole numbers: cut off, or extended by the source's sign."""
    _expect(modifiers, r"[us](16|32|64)\.[us](16|32|64)")
    values = _typed(block, operands[1], modifiers[1])
    block.write(operands[0], values.astype(UNSIGNED[_width(modifiers[0])[0]]), active)


_COMPARISONS: dict[str, Callable[[Array, Array], Array]] = {
    "eq": np.equal, "ne": np.not_equal, "lt": np.less, "le": np.less_equal, "gt": np.greater, "ge": np.greater_equal,
}  # fmt: skip


def _setp(block: Block, modifiers: Modifiers, operands: Operands, active: Array) -> None:
    _expect(modifiers, r"(lt|le|gt|ge)\.[us](16|32|64)", r"(eq|ne)\.[bus](16|32|64)")
    a, b = (_typed(block, operand, modifiers[1]) for operand in operands[1:])
    block.write(operands[0], _COMPARISONS[modifiers[0]](a, b), active)


def _selp(block: Block, modifiers: Modifiers, operands: Operands, active: Array) -> None:
    _expect(modifiers, r"[bus](16|32|64)")
    a, b = (block.value(operand, _width(modifiers[0])[0]) for operand in operands[1:3])
    block.write(operands[0], np.where(block.value(operands[3], 1), a, b), active)


def _prmt(block: Block, modifiers: Modifiers, operands: Operands, active: Array) -> None:
    """Four bytes picked from eight (b's are 4 to 7); bit 3 of a selector spreads the byte's sign instead."""
    _expect(modifiers, r"b32")
    a, b, selectors = (block.value(operand, 32) for operand in operands[1:])
    eight = a.astype(np.uint64) | b.astype(np.uint64) << np.uint64(32)
    result = np.zeros(block.num_threads, np.uint32)
    for i in range(4):
        selector = selectors >> np.uint32(4 * i) & np.uint32(15)
        byte = (eight >> (8 * (selector & 7)).astype(np.uint64) & np.uint64(255)).astype(np.uint32)
        sign = np.where(byte >> np.uint32(7), np.uint32(255), np.uint32(0))
        result |= np.where(selector & 8, sign, byte) << np.uint32(8 * i)
    block.write(operands[0], result, active)


def _lop3(block: Block, modifiers: Modifiers, operands: Operands, active: Array) -> None:
    """Bit (4 a + 2 b + c) of the table, for every bit of the three inputs."""
    _expect(modifiers, r"b32")
    a, b, c = (block.value(operand, 32) for operand in operands[1:4])
    table = int(operands[4], 0)
    if not 0 <= table < 256:
        raise PtxError(f"expected a table of 8 bits, got {operands[4]}")
    result = np.zeros(block.num_threads, np.uint32)
    for entry in range(8):
        if table >> entry & 1:
            result |= (a if entry & 4 else ~a) & (b if entry & 2 else ~b) & (c if entry & 1 else ~c)
    block.write(operands[0], result, active)


def _popc(block: Block, modifiers: Modifiers, operands: Operands, active: Array) -> None:
    _expect(modifiers, r"b32")
    counts = np.bitwise_count(block.value(operands[1], 32))
    block.write(operands[0], counts.astype(np.uint32), active)


def _ld(block: Block, modifiers: Modifiers, operands: Operands, active: Array) -> None:
    _expect(
        modifiers, r"(global\.nc|global|shared)(\.v[24])?\.[bu](8|16|32|64)", r"param\.[bu](32|64)"
    )
    if modifiers[0] == "param":
        number, bits = block.constants[operands[1].strip("[]")], _width(modifiers[1])[0]
        block.write(operands[0], np.full(block.num_threads, number).astype(UNSIGNED[bits]), active)
        return
    targets, bits = _vector(operands[0]), int(modifiers[-1][1:])
    _expect_number(modifiers, targets)
    width = len(targets) * bits // 8
    if modifiers[0] == "shared":
        addresses = block.address(operands[1], 32)[active]
        octets = block.shared.load("ld", block.threads[active], addresses, width)
    else:
        octets = block.memory.read(block.address(operands[1], 64)[active], width)
    loaded = np.zeros((block.num_threads, len(targets)), UNSIGNED[bits])
    loaded[active] = octets.view(UNSIGNED[bits])
    for i, target in enumerate(targets):
        block.write(target, loaded[:, i], active, may_widen=True)


def _st(block: Block, modifiers: Modifiers, operands: Operands, active: Array) -> None:
    _expect(modifiers, r"(global|shared)(\.v[24])?\.[bu](16|32|64)")
    sources = _vector(operands[1])
    _expect_number(modifiers, sources)
    values = [block.value(source, _width(modifiers[-1])[0]) for source in sources]
    octets = np.stack(values, axis=1)[active].view(np.uint8)
    if modifiers[0] == "shared":
        addresses = block.address(operands[0], 32)[active]
        block.shared.store("st", block.threads[active], addresses, octets)
    else:
        block.memory.write(block.address(operands[0], 64)[active], octets)


def _expect_number(modifiers: Modifiers, registers: Sequence[str]) -> None:
    number = int(modifiers[-2][1:]) if modifiers[-2] in ("v2", "v4") else 1
    if len(registers) != number:
        raise PtxError(f"expected {number} registers, got {registers}")


def _bar(block: Block, modifiers: Modifiers, operands: Operands, active: Array) -> None:
    _expect(modifiers, r"sync")
    _all_threads(block, active)
    if operands != ("0",):
        raise PtxError(f"expected the barrier 0 of all threads, got {operands}")
    block.shared.barrier()


def _ldmatrix(block: Block, modifiers: Modifiers, operands: Operands, active: Array) -> None:
    """Lane 8 i + r says where row r of matrix i is; lane l receives elements 2 (l % 4) and the next one of row l / 4 of each."""
    _expect(modifiers, r"sync\.aligned\.m8n8\.x4\.shared\.b16")
    _all_threads(block, active)
    threads = block.threads
    receiving_lane = threads[:, None] % 8 * 4 + np.arange(16) // 4  # of every byte of a row
    readers = threads[:, None] // 32 * 32 + receiving_lane
    addresses = block.address(operands[1], 32)
    rows = block.shared.load_rows("ldmatrix", threads, addresses, readers)
    matrices = rows.view(np.uint32).reshape(-1, 4, 8, 4)  # warp, matrix, row, pair of elements
    for i, target in enumerate(_vector(operands[0])):
        block.write(target, matrices[:, i].reshape(-1), active)


_LANE = np.arange(32)
_GROUP, _IN_GROUP = _LANE >> 2, _LANE % 4


def _mma(block: Block, modifiers: Modifiers, operands: Operands, active: Array) -> None:
    """D = A B + C with A [16, 16], B [16, 8] of 16 bits; products and their sum exact, rounded once to float32."""
    _expect(modifiers, r"sync\.aligned\.m16n8k16\.row\.col\.f32\.(f16\.f16|bf16\.bf16)\.f32")
    _all_threads(block, active)
    d, a, b, c = (_vector(operand) for operand in operands)
    if [len(d), len(a), len(b), len(c)] != [4, 4, 2, 4]:
        raise PtxError("expected 4, 4, 2 and 4 registers")
    warps = block.num_threads // 32
    a_matrix = np.zeros((warps, 16, 16))
    b_matrix = np.zeros((warps, 16, 8))
    c_matrix = np.zeros((warps, 16, 8))
    for i, half in enumerate(_halves(block, a, modifiers[6])):
        row = _GROUP if i < 2 or 4 <= i < 6 else _GROUP + 8
        column = _IN_GROUP * 2 + (i & 1) + (0 if i < 4 else 8)
        a_matrix[:, row, column] = half
    for i, half in enumerate(_halves(block, b, modifiers[6])):
        b_matrix[:, _IN_GROUP * 2 + (i & 1) + (0 if i < 2 else 8), _GROUP] = half
    places = [(_GROUP if i < 2 else _GROUP + 8, _IN_GROUP * 2 + (i & 1)) for i in range(4)]
    for name, (row, column) in zip(c, places, strict=True):
        c_matrix[:, row, column] = block.value(name, 32).view(np.float32).reshape(warps, 32)
    with np.errstate(invalid="ignore", over="ignore"):
        d_matrix = (a_matrix @ b_matrix + c_matrix).astype(np.float32)
    for name, (row, column) in zip(d, places, strict=True):
        block.write(name, d_matrix[:, row, column].reshape(-1).view(np.uint32), active)


def _halves(block: Block, names: Sequence[str], kind: str) -> list[Array]:
    """Two numbers of every register, the lower half first, each ``[warps, 32]``."""
    found = []
    for name in names:
        pair = block.value(name, 32)
        for half in (pair & np.uint32(0xFFFF), pair >> np.uint32(16)):
            if kind == "bf16":
                number = (half << np.uint32(16)).view(np.float32)
            else:
                number = half.astype(np.uint16).view(np.float16)
            found.append(number.astype(np.float64).reshape(-1, 32))
    return found


INSTRUCTIONS: dict[str, Handler] = {
    "mov": _mov, "cvt": _cvt, "add": _two(np.add), "sub": _two(np.subtract), "min": _two(np.minimum), "max": _two(np.maximum),
    "mul": _multiply, "mad": _multiply, "shl": _shift(True), "shr": _shift(False), "bfe": _bfe, "popc": _popc,
    "and": _bitwise(np.bitwise_and), "or": _bitwise(np.bitwise_or), "xor": _bitwise(np.bitwise_xor), "not": _not, "lop3": _lop3,
    "prmt": _prmt, "setp": _setp, "selp": _selp, "ld": _ld, "st": _st, "bar": _bar, "ldmatrix": _ldmatrix, "mma": _mma,
}  # fmt: skip
