"""Tiled CSL through shared memory: Flash-LLM's Load-as-Sparse, Compute-as-Dense (2309.10285, sections 4.2 and 4.3).

A tile's items come straight into registers, one 32-bit load each (value low, byte offset high); every item is one 16-bit store into a
zeroed shared tile, in the order that the format dealt to the banks; the tensor cores read the tile back as fragments. Two tiles
alternate; the next tile's items are on their way while one is multiplied.

Triton has no scatter into shared memory before 3.7, so the tile is a shared array that the kernel's assembly declares itself, and all
accesses to it are assembly with their own barriers. Rows are 144 bytes apart: eight rows of a fragment lie in different banks.
A block is 4 warps; warp w multiplies rows 32 w to 32 w + 31 of the tile.
"""

from __future__ import annotations

from triton.experimental import gluon
from triton.experimental.gluon import language as gl

TILE_BYTES = 128 * 144
PADDING = 128 << 16  # a zero for byte 128 of row 0: behind its 64 columns, where no fragment reads


def declare() -> str:
    """Two tiles for the whole kernel, and where they are: a name declared outside braces has the scope of the function."""
    return f".shared .align 128 .b8 csl_tile[{2 * TILE_BYTES}]; mov.u32 $0, csl_tile;"


def clear() -> str:
    """Zero this warp's 32 rows of a tile, the bytes that :func:`multiply` reads from ``$1`` on: 8 stores of 16 bytes a thread."""
    lines = [
        f"st.shared.v4.b32 [$1+{2304 * tile + 32 * step}], {{0, 0, 0, 0}};"
        for tile in range(2)
        for step in range(4)
    ]
    return "\n".join([*lines, "mov.b32 $0, 0;"])


def fetch(full: int, items: int) -> tuple[str, str]:
    """Load items 128 apart from pointer ``$items``; the first ``full`` are always there, the others where ``left`` says so."""
    pointer, left = f"${items}", f"${items + 1}"
    lines = ["{ .reg .pred p;"]
    for i in range(items):
        if i < full:
            lines.append(f"ld.global.nc.b32 ${i}, [{pointer}+{512 * i}];")
        else:
            lines.append(f"setp.gt.s32 p, {left}, {128 * i};")
            lines.append(f"mov.b32 ${i}, {PADDING};")
            lines.append(f"@p ld.global.nc.b32 ${i}, [{pointer}+{512 * i}];")
    return "\n".join([*lines, "}"]), ",".join(["=r"] * items + ["l", "r"])


def scatter(items: int) -> tuple[str, str]:
    """Store the low half of each item at the byte that its high half says, in the tile at ``$1``."""
    lines = ["{ .reg .b32 a; .reg .b16 v;"]
    for i in range(items):
        lines += [
            f"cvt.u16.u32 v, ${i + 2};",
            f"shr.u32 a, ${i + 2}, 16;",
            "add.u32 a, a, $1;",
            "st.shared.b16 [a], v;",
        ]
    return "\n".join([*lines, "mov.b32 $0, 0;", "}"]), ",".join(["=r", "r"] + ["r"] * items)


def fetch_input(blocks: int) -> tuple[str, str]:
    """Load the B fragments of 64 columns and ``blocks`` blocks of 8 tokens from a pointer."""
    number = 8 * blocks
    lines = []
    for half in range(2):
        for block in range(blocks):
            first = 4 * (half * blocks + block)
            registers = ", ".join(f"${first + i}" for i in range(4))
            place = 1024 * block + 512 * half
            lines.append(f"ld.global.nc.v4.b32 {{{registers}}}, [${number}+{place}];")
    return "\n".join(lines), ",".join(["=r"] * number + ["l"])


def multiply(blocks: int, kind: str) -> tuple[str, str]:
    """Multiply this warp's 32 rows of a tile with B fragments; ``kind`` is f16 or bf16.

    Operands: 8 accumulators a block of tokens out (row tile, block, register), the address of this lane's row of the first fragment,
    8 B registers a block, the accumulators in.
    """
    out, b0 = 8 * blocks, 8 * blocks + 1
    into = b0 + 8 * blocks
    lines = ["{ .reg .b32 m<4>;"]
    for step in range(4):
        for tile in range(2):
            lines.append(
                f"ldmatrix.sync.aligned.m8n8.x4.shared.b16 {{m0, m1, m2, m3}}, [${out}+{2304 * tile + 32 * step}];"
            )
            for block in range(blocks):
                register = 4 * (tile * blocks + block)
                d = [f"${register + i}" for i in range(4)]
                c = [f"${into + register + i}" for i in range(4)] if step == 0 else d
                half = b0 + 4 * (step // 2 * blocks + block) + 2 * (step % 2)
                lines.append(
                    f"mma.sync.aligned.m16n8k16.row.col.f32.{kind}.{kind}.f32 {{{', '.join(d)}}}, "
                    f"{{m0, m1, m2, m3}}, {{${half}, ${half + 1}}}, {{{', '.join(c)}}};"
                )
    constraints = ["=f"] * (8 * blocks) + ["r"] * (1 + 8 * blocks) + ["f"] * (8 * blocks)
    return "\n".join([*lines, "}"]), ",".join(constraints)


BARRIER = gl.constexpr("bar.sync 0; mov.b32 $0, 0;")


@gluon.constexpr_function
def _text(name, *options):
    return globals()[name](*options)


@gluon.constexpr_function
def _first(name, *options):
    return globals()[name](*options)[0]


@gluon.constexpr_function
def _second(name, *options):
    return globals()[name](*options)[1]


@gluon.constexpr_function
def _many(dtype, number):
    return (dtype,) * number


@gluon.jit
def csl_shared_kernel(
    items, starts, x_f, partial, M, NP, NUM_TILES,
    FULL: gl.constexpr, ITEMS: gl.constexpr, BN: gl.constexpr, SPLIT: gl.constexpr, KIND: gl.constexpr,
):  # fmt: skip
    """One row of tiles, BN tokens and one of SPLIT ranges of its tiles.

    ``items`` [nnz] as int32; every tile holds at least 128 FULL and at most 128 ITEMS of them; x_f from
    :func:`fragments.fragment_tokens`. Leaves float32 sums in ``partial [SPLIT, NP, M]``, also where SPLIT is 1.
    """
    BLOCKS: gl.constexpr = BN // 8
    TILE: gl.constexpr = 128 * 144
    LAYOUT: gl.constexpr = gl.BlockedLayout([1], [32], [4], [0])
    tile_row = gl.program_id(0)
    split = gl.program_id(2)
    thread = gl.arange(0, 128, layout=LAYOUT)
    lane = thread % 32
    per_split = (NUM_TILES + SPLIT - 1) // SPLIT
    first = split * per_split
    last = min(first + per_split, NUM_TILES)
    zero = thread * 0
    buffer = gl.inline_asm_elementwise(
        _text("declare"), "=r,r", [zero], gl.int32, is_pure=False, pack=1
    )
    both = 2 * buffer + TILE  # the sum of the two tiles' addresses
    # ldmatrix: lane % 16 names a row of a fragment, lane // 16 its columns 0-7 or 8-15
    fragment = thread // 32 * (32 * 144) + thread % 16 * 144 + lane // 16 * 16
    for tile in gl.static_range(2):
        gl.inline_asm_elementwise(
            _text("clear"), "=r,r", [buffer + tile * TILE + fragment], gl.int32, is_pure=False, pack=1)  # fmt: skip
    x_f += first * (NP * 64).to(gl.int64) + gl.program_id(1) * (BN * 64) + lane * 8
    starts += tile_row * NUM_TILES
    acc = ()
    for _ in gl.static_range(8 * BLOCKS):
        acc = acc + (gl.zeros([128], gl.float32, layout=LAYOUT),)
    # a split without tiles fetches the last one, so that FULL holds, and stores zeros
    opening = min(first, NUM_TILES - 1)
    begin = gl.load(starts + opening)
    end = gl.load(starts + opening + 1)
    found = gl.inline_asm_elementwise(
        _first("fetch", FULL, ITEMS), _second("fetch", FULL, ITEMS),
        [(items + begin + thread).to(gl.int64), end - begin - thread], _many(gl.int32, ITEMS), is_pure=False, pack=1)  # fmt: skip
    # no thread stores items where another one has yet to clear
    gl.inline_asm_elementwise(BARRIER, "=r,r", [zero], gl.int32, is_pure=False, pack=1)
    for index in range(first, last):
        b = gl.inline_asm_elementwise(
            _first("fetch_input", BLOCKS), _second("fetch_input", BLOCKS),
            [x_f.to(gl.int64)], _many(gl.int32, 8 * BLOCKS), is_pure=False, pack=1)  # fmt: skip
        gl.inline_asm_elementwise(
            _first("scatter", ITEMS), _second("scatter", ITEMS), (buffer,) + found, gl.int32, is_pure=False, pack=1)  # fmt: skip
        # the next tile's items; the last tile fetches its own again, which is cheaper than to ask
        following = min(index + 1, last - 1)
        begin = gl.load(starts + following)
        end = gl.load(starts + following + 1)
        found = gl.inline_asm_elementwise(
            _first("fetch", FULL, ITEMS), _second("fetch", FULL, ITEMS),
            [(items + begin + thread).to(gl.int64), end - begin - thread], _many(gl.int32, ITEMS), is_pure=False, pack=1)  # fmt: skip
        gl.inline_asm_elementwise(BARRIER, "=r,r", [zero], gl.int32, is_pure=False, pack=1)
        acc = gl.inline_asm_elementwise(
            _first("multiply", BLOCKS, KIND), _second("multiply", BLOCKS, KIND),
            (buffer + fragment,) + b + acc, _many(gl.float32, 8 * BLOCKS), is_pure=False, pack=1)  # fmt: skip
        gl.inline_asm_elementwise(BARRIER, "=r,r", [zero], gl.int32, is_pure=False, pack=1)
        gl.inline_asm_elementwise(
            _text("clear"), "=r,r", [buffer + fragment], gl.int32, is_pure=False, pack=1)  # fmt: skip
        buffer = both - buffer
        x_f += NP * 64
    row = tile_row * 128 + thread // 32 * 32 + lane // 4
    token = gl.program_id(1) * BN + 2 * (lane % 4)
    for register in gl.static_range(8 * BLOCKS):
        r = row + 16 * (register // (4 * BLOCKS)) + 8 * (register % 4 // 2)
        n = token + 8 * (register // 4 % BLOCKS) + register % 2
        gl.store(partial + (split * NP + n).to(gl.int64) * M + r, acc[register], r < M)
