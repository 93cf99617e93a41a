"""Bitmap in registers: every lane expands the bits of its own byte straight into tensor-core fragments (SpInfer, EuroSys'25).

Lane 4 g + t of a warp holds byte t of row g's word: 8 columns, which it loads one by one where a bit is set, from a pointer that moves on
with every bit. One population count places the first of the 8 (SpInfer counts four times a pair). The columns of a lane are consecutive:
the tensor core's order of columns is met by permuting the input instead (:func:`fragments.fragment_tokens` without TENSOR_ORDER), since a
sum over columns may be taken in any order. There is no tile in shared memory.

A block is 4 warps of 32 rows each: four 8 x 32 tiles of the format a warp and turn of the loop.
"""

from __future__ import annotations

from triton.experimental import gluon
from triton.experimental.gluon import language as gl


def expand() -> tuple[str, str]:
    """Four registers of two 16-bit weights each, from a lane's byte and the pointer to its first value; zero where not kept."""
    lines = ["{ .reg .pred p; .reg .b32 b, v<8>; .reg .b64 a;", "mov.b64 a, $5;"]
    for i in range(8):
        lines += [
            f"and.b32 b, $4, {1 << i};",
            "setp.ne.u32 p, b, 0;",
            f"mov.b32 v{i}, 0;",
            f"@p ld.global.nc.u16 v{i}, [a];",
        ]
        if i < 7:  # a predicated 64-bit sum would be four instructions
            lines += ["selp.u32 b, 2, 0, p;", "mad.wide.u32 a, b, 1, a;"]
    lines += [f"prmt.b32 ${i}, v{2 * i}, v{2 * i + 1}, 0x5410;" for i in range(4)]
    return "\n".join([*lines, "}"]), "=r,=r,=r,=r,r,l"


def multiply(blocks: int, kind: str) -> tuple[str, str]:
    """Two steps of 16 columns for 16 rows.

    Operands: accumulators out, 4 registers of rows 0-7, 4 of rows 8-15, 4 B registers a block of tokens, accumulators in.
    """
    upper, lower, b0 = 4 * blocks, 4 * blocks + 4, 4 * blocks + 8
    into = b0 + 4 * blocks
    lines = []
    for step in range(2):
        a = ", ".join(f"${part + 2 * step + i}" for i in range(2) for part in (upper, lower))
        for block in range(blocks):
            d = ", ".join(f"${4 * block + i}" for i in range(4))
            c = ", ".join(f"${into + 4 * block + i}" for i in range(4)) if step == 0 else d
            b = f"${b0 + 4 * block + 2 * step}, ${b0 + 4 * block + 2 * step + 1}"
            lines.append(
                f"mma.sync.aligned.m16n8k16.row.col.f32.{kind}.{kind}.f32 {{{d}}}, {{{a}}}, {{{b}}}, {{{c}}};"
            )
    constraints = ["=f"] * (4 * blocks) + ["r"] * (8 + 4 * blocks) + ["f"] * (4 * blocks)
    return "\n".join(lines), ",".join(constraints)


def fetch_input(blocks: int) -> tuple[str, str]:
    """B fragments of 32 columns: 4 registers for each block of 8 tokens, 512 bytes apart."""
    number = 4 * blocks
    lines = []
    for block in range(blocks):
        registers = ", ".join(f"${4 * block + i}" for i in range(4))
        lines.append(f"ld.global.nc.v4.b32 {{{registers}}}, [${number}+{512 * block}];")
    return "\n".join(lines), ",".join(["=r"] * number + ["l"])


@gluon.constexpr_function
def _text(name, *options):
    return globals()[name](*options)[0]


@gluon.constexpr_function
def _operands(name, *options):
    return globals()[name](*options)[1]


@gluon.constexpr_function
def _many(dtype, number):
    return (dtype,) * number


@gluon.jit
def count(word):
    """Set bits of each word."""
    return gl.inline_asm_elementwise(
        "popc.b32 $0, $1;", "=r,r", [word], gl.int32, is_pure=True, pack=1
    )


@gluon.jit
def bitmap_registers_kernel(
    values, tiles, octets, x_f, partial, M, NP, NUM_PANELS, NUM_TILES,
    BN: gl.constexpr, SPLIT: gl.constexpr, KIND: gl.constexpr,
):  # fmt: skip
    """128 rows, BN tokens and one of SPLIT ranges of NUM_TILES tiles of 32 columns; leaves float32 sums in ``partial [SPLIT, NP, M]``."""
    BLOCKS: gl.constexpr = BN // 8
    LAYOUT: gl.constexpr = gl.BlockedLayout([1], [32], [4], [0])
    split = gl.program_id(2)
    thread = gl.arange(0, 128, layout=LAYOUT)
    lane = thread % 32
    g = lane // 4
    t = lane % 4
    panel = gl.program_id(0) * 16 + thread // 32 * 4
    per_split = (NUM_TILES + SPLIT - 1) // SPLIT
    first = split * per_split
    last = min(first + per_split, NUM_TILES)
    below = (1 << (8 * t)) - 1
    x_pointer = x_f + first * (NP * 32).to(gl.int64) + gl.program_id(1) * (BN * 32) + lane * 8
    acc = ()
    for _ in gl.static_range(2):
        rows = ()
        for _ in gl.static_range(4 * BLOCKS):
            rows = rows + (gl.zeros([128], gl.float32, layout=LAYOUT),)
        acc = acc + (rows,)
    tile = panel * NUM_TILES + first
    for _ in range(first, last):
        b = gl.inline_asm_elementwise(
            _text("fetch_input", BLOCKS), _operands("fetch_input", BLOCKS), [x_pointer.to(gl.int64)],
            _many(gl.int32, 4 * BLOCKS), is_pure=True, pack=1)  # fmt: skip
        summed = ()
        for half in gl.static_range(2):
            a = ()
            for part in gl.static_range(2):
                number = 2 * half + part
                here = tile + number * NUM_TILES
                is_panel = panel + number < NUM_PANELS
                record = tiles + here * 11
                word = gl.load(record + g, is_panel, other=0)
                begin = gl.load(record + 8, is_panel, other=0)
                begin += gl.load(octets + here * 44 + 36 + g, is_panel, other=0).to(gl.int32)
                begin += count(word & below)
                octet = word >> (8 * t)
                a = a + gl.inline_asm_elementwise(
                    _text("expand"), _operands("expand"), [octet, (values + begin).to(gl.int64)],
                    _many(gl.int32, 4), is_pure=True, pack=1)  # fmt: skip
            summed = summed + (gl.inline_asm_elementwise(
                _text("multiply", BLOCKS, KIND), _operands("multiply", BLOCKS, KIND), a + b + acc[half],
                _many(gl.float32, 4 * BLOCKS), is_pure=True, pack=1),)  # fmt: skip
        acc = summed
        tile += 1
        x_pointer += NP * 32
    row = panel * 8 + g
    token = gl.program_id(1) * BN + 2 * t
    for half in gl.static_range(2):
        for register in gl.static_range(4 * BLOCKS):
            r = row + 16 * half + 8 * (register % 4 // 2)
            n = token + 8 * (register // 4) + register % 2
            gl.store(partial + (split * NP + n).to(gl.int64) * M + r, acc[half][register], r < M)
