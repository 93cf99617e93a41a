"""N:M: values and metadata become M planes of the weight, each multiplied with every M-th row of the transposed input.

Rebuilding rows in column order would interleave what is decoded. Instead plane j holds column j of every group (zero where it is not
kept), and ``W x = sum_j plane_j x[j::M]``: the same products in another order, and decoding moves no data between
threads (Triton itself takes the planes to the tensor cores through shared memory).

On a GPU a plane of two groups is one register: one shift brings all bits of a group to the sign bits of bytes, PRMT spreads the signs
of two groups into a mask, LOP3 applies it (``nas.kernels.formats.nm_metadata`` has the order of the bits). The branch without assembly
does the same with shifts and selects; the interpreter runs it.
"""

from __future__ import annotations

import triton
import triton.language as tl

from nas.kernels.triton.epilogue import put


def _decoder(n: int, m: int) -> tuple[str, str]:
    """Assembly that decodes two groups into m planes, and its operand constraints.

    Which two elements Triton hands to one instance is unspecified, so each brings its own metadata. Operands: m outputs (a plane of both
    groups is one register), n registers of values (slot by slot), and the shifted metadata word of either group.
    """
    low, high = f"${m + n}", f"${m + n + 1}"
    values = [f"${m + slot}" for slot in range(n)]
    lines = ["{", ".reg .b32 t, a, b, m0, m1, m2, m3, m4, m5, m6, m7;"]

    def masks(planes: range, first_byte: int, source: tuple[str, str]) -> None:
        for j in planes:
            byte = first_byte + j - planes[0]
            sign, other = 8 | byte, 8 | (4 + byte)
            selector = f"0x{other:X}{other:X}{sign:X}{sign:X}"
            lines.append(f"prmt.b32 m{j}, {source[0]}, {source[1]}, {selector};")

    if (n, m) == (1, 4):
        masks(range(2), 2, (low, high))
        for j in range(4):  # kept where (m1, m0) is the position
            lines.append(f"lop3.b32 ${j}, {values[0]}, m0, m1, {_lut(j & 1, j >> 1)};")
    elif n == 1:
        masks(range(3), 0, (low, high))
        for j in range(8):
            if j % 4 == 0:
                lines.append(f"lop3.b32 t, {values[0]}, m2, m2, {_lut(j >> 2, j >> 2)};")
            lines.append(f"lop3.b32 ${j}, t, m0, m1, {_lut(j & 1, j >> 1 & 1)};")
    else:
        if m == 4:
            masks(range(4), 0, (low, high))
        else:
            lines += [f"shl.b32 a, {low}, 4;", f"shl.b32 b, {high}, 4;"]
            masks(range(4), 0, ("a", "b"))
            masks(range(4, 8), 0, (low, high))
        lines.append(f"and.b32 $0, {values[0]}, m0;")
        for j in range(1, m - 1):
            if j > 1:
                lines.append(f"or.b32 m0, m0, m{j - 1};")  # m0: a kept column came before
            lines.append(f"lop3.b32 t, m0, {values[1]}, {values[0]}, 0xCA;")  # m0 ? second : first
            lines.append(f"and.b32 ${j}, t, m{j};")
        lines.append(f"and.b32 ${m - 1}, {values[1]}, m{m - 1};")
    lines.append("}")
    return "\n".join(lines), ",".join(["=r"] * m + ["r"] * (n + 2))


def _lut(b: int, c: int) -> str:
    """LOP3 table of ``a & (b == b's bit) & (c == c's bit)``; 0xF0, 0xCC and 0xAA are the three inputs."""
    return hex(0xF0 & (0xCC if b else 0x33) & (0xAA if c else 0x55))


_ASSEMBLY = {shape: _decoder(*shape) for shape in ((1, 4), (2, 4), (1, 8), (2, 8))}
ASM_1_4, OPERANDS_1_4 = (tl.constexpr(text) for text in _ASSEMBLY[1, 4])
ASM_2_4, OPERANDS_2_4 = (tl.constexpr(text) for text in _ASSEMBLY[2, 4])
ASM_1_8, OPERANDS_1_8 = (tl.constexpr(text) for text in _ASSEMBLY[1, 8])
ASM_2_8, OPERANDS_2_8 = (tl.constexpr(text) for text in _ASSEMBLY[2, 8])


@triton.jit
def align(word, group, PLANES: tl.constexpr):
    """Shift each group's word so that its planes are the sign bits of bytes: 0-3 (4 planes), 2-3 (2), or 4-7 as bytes 0-3 (8)."""
    if PLANES == 2:
        shift = 7 - group % 8 + 16 * (1 - group // 8 % 2)
    elif PLANES == 4:
        shift = 7 - group % 8
    else:
        shift = 3 - group % 4
    return word << shift[None, :]


@triton.jit
def decode(
    v0, v1, word, n: tl.constexpr, m: tl.constexpr, PLANES: tl.constexpr, USE_ASM: tl.constexpr
):
    """The m planes [BM, G] of a tile of groups: ``v0`` and ``v1`` [BM, G] the values of both slots, ``word`` from :func:`align`."""
    if USE_ASM:
        if n == 1 and m == 4:
            planes = tl.inline_asm_elementwise(
                ASM_1_4, OPERANDS_1_4, [v0, word], (v0.dtype,) * 4, is_pure=True, pack=2)  # fmt: skip
        elif n == 2 and m == 4:
            planes = tl.inline_asm_elementwise(
                ASM_2_4, OPERANDS_2_4, [v0, v1, word], (v0.dtype,) * 4, is_pure=True, pack=2)  # fmt: skip
        elif n == 1:
            planes = tl.inline_asm_elementwise(
                ASM_1_8, OPERANDS_1_8, [v0, word], (v0.dtype,) * 8, is_pure=True, pack=2)  # fmt: skip
        else:
            planes = tl.inline_asm_elementwise(
                ASM_2_8, OPERANDS_2_8, [v0, v1, word], (v0.dtype,) * 8, is_pure=True, pack=2)  # fmt: skip
    else:
        planes = ()
        zero = tl.zeros_like(v0)
        seen = word * 0
        if n == 1:
            if PLANES == 2:
                position = ((word >> 23) & 1) | ((word >> 30) & 2)
            else:
                position = ((word >> 7) & 1) | ((word >> 14) & 2) | ((word >> 21) & 4)
        for j in tl.static_range(m):
            if n == 1:
                planes = planes + (tl.where(position == j, v0, zero),)
            else:
                bit = (word >> (8 * j + 7 if PLANES == 4 else 8 * (j % 4) + 3 + 4 * (j // 4))) & 1
                planes = planes + (tl.where(bit == 1, tl.where(seen == 1, v1, v0), zero),)
                seen = seen | bit
    return planes


@triton.jit
def nm_kernel(
    values, metadata, x_t, y, partial, bias, inner, outer, gate, M, N, NP, R, NUM_GROUPS, NUM_WORDS,
    n: tl.constexpr, m: tl.constexpr, BM: tl.constexpr, G: tl.constexpr, BN: tl.constexpr,
    SPLIT: tl.constexpr, EVEN: tl.constexpr, USE_ASM: tl.constexpr,
    ACTIVATION: tl.constexpr, ADAPTER_FIRST: tl.constexpr,
):  # fmt: skip
    """BM rows, BN tokens and one of SPLIT ranges of groups; EVEN: BM divides M and G divides every range."""
    PLANES: tl.constexpr = 2 if m == 4 and n == 1 else (8 if m == 8 and n == 2 else 4)
    PER_WORD: tl.constexpr = 32 // PLANES
    WORDS: tl.constexpr = G // PER_WORD
    split = tl.program_id(2)
    rows = tl.program_id(0) * BM + tl.arange(0, BM)
    tokens = tl.program_id(1) * BN + tl.arange(0, BN)
    g = tl.arange(0, G)
    w = tl.arange(0, WORDS)
    per_split = tl.cdiv(tl.cdiv(NUM_GROUPS, G), SPLIT) * G
    first = split * per_split
    last = tl.minimum(first + per_split, NUM_GROUPS)
    is_row = (rows < M)[:, None]
    value_block = values + rows[:, None].to(tl.int64) * (n * NUM_GROUPS) + (first + g)[None, :]
    word_block = (
        metadata + rows[:, None].to(tl.int64) * NUM_WORDS + (first // PER_WORD + w)[None, :]
    )
    x_t += ((first + g) * m)[:, None] * NP + tokens[None, :]
    acc = tl.zeros([BM, BN], tl.float32)
    for start in range(first, last, G):
        inside = start + g < last
        if EVEN:
            v0 = tl.load(value_block)
            v1 = tl.load(value_block + NUM_GROUPS) if n == 2 else v0
            word = tl.load(word_block)
        else:
            keep = is_row & inside[None, :]
            v0 = tl.load(value_block, keep, other=0.0)
            v1 = tl.load(value_block + NUM_GROUPS, keep, other=0.0) if n == 2 else v0
            word = tl.load(
                word_block, is_row & (start // PER_WORD + w < NUM_WORDS)[None, :], other=0
            )
        word = tl.broadcast_to(word[:, :, None], (BM, WORDS, PER_WORD)).reshape(BM, G)
        planes = decode(v0, v1, align(word, g, PLANES), n, m, PLANES, USE_ASM)
        for j in tl.static_range(m):
            if EVEN:
                b = tl.load(x_t + j * NP)
            else:
                b = tl.load(x_t + j * NP, inside[:, None], other=0.0)
            acc = tl.dot(planes[j], b, acc, input_precision="ieee")
        value_block += G
        word_block += WORDS
        x_t += G * m * NP
    put(acc, rows, tokens, split, y, partial, bias, inner, outer, gate, M, N, NP, R,
        SPLIT, ACTIVATION, ADAPTER_FIRST)  # fmt: skip
