"""The PTX emulator against the ISA's own examples and against matrices cut into fragments by reshaping."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from tests.ptx_emulator import Block, PtxError
from tests.ptx_entry import run_entry
from tests.ptx_memory import GlobalMemory, MemoryAccessError, SharedAccess, bank_ways

Array = npt.NDArray[Any]

ARRAY = ".shared .align 128 .b8 tile[512];"


def run(text: str, constraints: str, inputs: Sequence[Array] = (), **options: Any) -> list[Array]:
    return Block(**options).run(text, constraints, inputs)


def word(number: int, threads: int = 32) -> Array:
    return np.full(threads, number, np.uint32)


def one(text: str, constraints: str, *numbers: int) -> int:
    """The output of one thread for 32-bit inputs."""
    found = run(text, constraints, [word(n, 1) for n in numbers], num_threads=1)
    return int(found[0][0])


@pytest.mark.parametrize(
    ("selector", "expected"),
    [
        (0x3210, 0x83828180),  # a as it is
        (0x7654, 0x07060504),  # b
        (0x0123, 0x80818283),  # a's bytes turned round
        (0x5410, 0x05048180),  # the lower halves of both
        (0x6543, 0x06050483),  # a funnel shift by 3 bytes
        (0xB3A0, 0xFF83FF80),  # bytes 3 and 2 by their signs
        (0xFEDC, 0x00000000),  # b's signs
        (0xC888, 0x00FFFFFF),
    ],
)
def test_prmt(selector: int, expected: int) -> None:
    found = one(f"prmt.b32 $0, $1, $2, 0x{selector:X};", "=r,r,r", 0x83828180, 0x07060504)
    assert found == expected


@pytest.mark.parametrize(
    ("table", "expected"),
    [  # the examples of the ISA
        (0x80, lambda a, b, c: a & b & c),
        (0xFE, lambda a, b, c: a | b | c),
        (0x40, lambda a, b, c: a & b & ~c),
        (0x1A, lambda a, b, c: (a & b | c) ^ a),
        (0xCA, lambda a, b, c: (a & b) | (~a & c)),
    ],
)
def test_lop3(table: int, expected: Any) -> None:
    a, b, c = 0x12345678, 0x9ABCDEF0, 0x0F1E2D3C
    found = one(f"lop3.b32 $0, $1, $2, $3, {table};", "=r,r,r,r", a, b, c)
    assert found == expected(a, b, c) & 0xFFFFFFFF


@pytest.mark.parametrize(
    ("text", "inputs", "expected"),
    [
        ("popc.b32 $0, $1;", (0xF000000F, 0), 8),
        ("shl.b32 $0, $1, 4;", (0xF0000001, 0), 0x10),
        ("shl.b32 $0, $1, $2;", (1, 32), 0),
        ("shr.u32 $0, $1, 31;", (0x80000000, 0), 1),
        ("shr.s32 $0, $1, 40;", (0x80000000, 0), 0xFFFFFFFF),
        ("bfe.u32 $0, $1, 4, 8;", (0x12345678, 0), 0x67),
        ("not.b32 $0, $1;", (0x0F0F0F0F, 0), 0xF0F0F0F0),
        ("min.s32 $0, $1, $2;", (0xFFFFFFFF, 1), 0xFFFFFFFF),
        ("sub.s32 $0, $1, $2;", (1, 2), 0xFFFFFFFF),
        ("mul.hi.s32 $0, $1, $2;", (0xFFFFFFFE, 3), 0xFFFFFFFF),
        ("mul.hi.u32 $0, $1, $2;", (0xFFFFFFFE, 3), 2),
        ("{ .reg .b64 a; cvt.s64.s32 a, $1; mov.b64 {$1, $0}, a; }", (0x80000000, 0), 0xFFFFFFFF),
        (
            "{ .reg .b64 a; mov.b64 a, 3; mad.wide.s32 a, $1, 2, a; mov.b64 {$0, $1}, a; }",
            (0xFFFFFFFF, 0),
            1,
        ),
        ("add.u32 $0, $1, $2;", (0xFFFFFFFF, 2), 1),
        ("mad.lo.u32 $0, $1, 16, $2;", (3, 5), 53),
        ("{ .reg .b64 a; mov.b64 a, {$1, $2}; mov.b64 {$0, $1}, a; }", (7, 9), 7),
        ("{ .reg .b16 h; cvt.u16.u32 h, $1; mov.b32 $0, {h, h}; }", (0x12345678, 0), 0x56785678),
        ("{ .reg .pred p; setp.gt.s32 p, $1, $2; selp.u32 $0, 3, 4, p; }", (1, 0xFFFFFFFF), 3),
        ("{ .reg .pred p; setp.gt.u32 p, $1, $2; selp.u32 $0, 3, 4, p; }", (1, 0xFFFFFFFF), 4),
        ("{ .reg .pred p; setp.ne.u32 p, $1, 0; mov.b32 $0, 1; @p mov.b32 $0, $2; }", (5, 6), 6),
        ("{ .reg .pred p; setp.ne.u32 p, $1, 0; mov.b32 $0, 1; @!p mov.b32 $0, $2; }", (5, 6), 1),
    ],
)
def test_scalar_instructions(text: str, inputs: tuple[int, ...], expected: int) -> None:
    assert one(text, "=r,r,r", *inputs) == expected


def test_wide_multiplication_and_addition_keep_64_bits() -> None:
    base = np.array([2**40, 2**40], np.int64)
    found = run("mad.wide.u32 $0, $1, $2, $3;", "=l,r,r,l", [word(2**31, 2), word(4, 2), base], num_threads=2)  # fmt: skip
    assert (found[0] == 2**40 + 2**33).all()


def cut_rows(matrix: Array) -> Array:
    """``[16 or 8, 16]`` with 16-bit entries to registers ``[4 or 2, 32 lanes]``, by the figure: two bits of place a time."""
    row_halves = matrix.shape[0] // 8
    pairs = matrix.reshape(
        row_halves, 8, 2, 4, 2
    )  # row half, lane // 4, column half, lane % 4, pair
    registers = np.ascontiguousarray(pairs.transpose(2, 0, 1, 3, 4)).view(np.uint32)
    return registers.reshape(2 * row_halves, 32)


@pytest.mark.parametrize("kind", ["f16", "bf16"])
def test_mma_is_the_matrix_product(kind: str) -> None:
    rng = np.random.default_rng(0)
    a, b, c = (rng.integers(-8, 9, shape).astype(np.float32) for shape in ((3, 16, 16), (3, 16, 8), (3, 16, 8)))  # fmt: skip

    def narrow(x: Array) -> Array:
        if kind == "f16":
            return x.astype(np.float16).view(np.uint16)
        return (x.view(np.uint32) >> 16).astype(np.uint16)  # exact for such small whole numbers

    def accumulators(x: Array) -> Array:  # row half, lane // 4, lane % 4, pair
        return x.reshape(2, 8, 4, 2).transpose(0, 3, 1, 2).reshape(4, 32)

    inputs = [cut_rows(narrow(x)) for x in a]
    columns = [cut_rows(narrow(np.ascontiguousarray(x.T))) for x in b]
    registers = [
        *np.concatenate(inputs, axis=1),
        *np.concatenate(columns, axis=1),
        *np.concatenate([accumulators(x) for x in c], axis=1),
    ]
    found = run(
        f"mma.sync.aligned.m16n8k16.row.col.f32.{kind}.{kind}.f32 "
        "{$0, $1, $2, $3}, {$4, $5, $6, $7}, {$8, $9}, {$10, $11, $12, $13};",
        "=f,=f,=f,=f,r,r,r,r,r,r,f,f,f,f",
        registers,
        num_threads=96,
    )
    expected = np.concatenate([accumulators(x) for x in a @ b + c], axis=1)
    np.testing.assert_array_equal(np.stack(found).view(np.float32), expected)


def test_ldmatrix_gives_the_fragments_of_a_matrix() -> None:
    """Four 8 x 8 quarters of a 16 x 16 matrix, stored row by row by half of the threads, come back cut as ``mma`` takes them."""
    matrix = np.arange(256, dtype=np.uint16).reshape(16, 16)
    block = Block(32)
    rows = matrix.reshape(32, 8).view(np.uint32)  # thread i stores half a row
    store = (
        ARRAY
        + "{ .reg .b32 a, b; mov.u32 a, %tid.x; mov.u32 b, tile; mad.lo.u32 a, a, 16, b; st.shared.v4.b32 [a], {$1, $2, $3, $4}; }"
    )
    block.run(f"{store} mov.b32 $0, 0; bar.sync 0;", "=r,r,r,r,r", list(rows.T))
    lane = np.arange(32)
    offset = lane % 16 * 32 + lane // 16 * 16
    found = block.run(
        "{ .reg .b32 a; mov.u32 a, tile; add.u32 a, a, $4; ldmatrix.sync.aligned.m8n8.x4.shared.b16 {$0, $1, $2, $3}, [a+0]; }",
        "=r,=r,=r,=r,r",
        [offset.astype(np.uint32)],
    )
    np.testing.assert_array_equal(np.stack(found), cut_rows(matrix))


def test_global_loads() -> None:
    memory = GlobalMemory()
    numbers = np.arange(64, dtype=np.uint32) * 0x10001
    base = memory.place(numbers)
    lanes = np.arange(4)
    pointers = base + 16 * lanes
    load = "ld.global.nc.v4.b32 {$0, $1, $2, $3}, [$4+64];"
    found = run(load, "=r,=r,=r,=r,l", [pointers], num_threads=4, memory=memory)
    np.testing.assert_array_equal(np.stack(found, axis=1), numbers[16:32].reshape(4, 4))
    narrow = run("ld.global.nc.u16 $0, [$1+2];", "=r,l", [pointers], num_threads=4, memory=memory)
    np.testing.assert_array_equal(narrow[0], 4 * lanes)


@pytest.mark.parametrize("offset", [-4, 256, 2])
def test_loads_outside_a_buffer_or_misaligned_are_refused(offset: int) -> None:
    memory = GlobalMemory()
    pointer = np.array([memory.place(np.zeros(64, np.uint32)) + offset])
    with pytest.raises(MemoryAccessError):
        run("ld.global.nc.b32 $0, [$1];", "=r,l", [pointer], num_threads=1, memory=memory)


def test_a_predicate_keeps_a_thread_from_loading() -> None:
    memory = GlobalMemory()
    pointers = memory.place(np.array([7], np.uint32)) + np.array([0, 4])  # the second is outside
    text = "{ .reg .pred p; setp.gt.s32 p, $2, 0; mov.b32 $0, 9; @p ld.global.nc.b32 $0, [$1]; }"
    flags = np.array([1, 0], np.int32)
    found = run(text, "=r,l,r", [pointers, flags], num_threads=2, memory=memory)
    assert found[0].tolist() == [7, 9]


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("clz.b32 $0, $1;", "instruction of the emulator"),
        ("prmt.b32.f4e $0, $1, $2, 0;", "variants"),
        ("mov.b64 $0, $1;", "64 bits"),
        ("mov.b32 $0, a;", "declared name"),
        ("{ .reg .b32 a; } mov.b32 $0, a;", "declared name"),
        ("{ .reg .b32 a; mov.b32 $0, a; }", "before it is read"),
        ("{ .reg .b32 a, a; }", "new name"),
        ("{ .reg .pred p; setp.ne.u32 p, $1, $2; @p mov.b32 $0, 1; }", "before a predicated write"),
        ("mov.b32 $1, 0;", "before it is read"),  # the output stays unwritten
        ("{ mov.b32 $0, 0;", "closing"),
        ("mov.b32 $0, 0", "semicolon"),
    ],
)
def test_what_ptx_does_not_allow_is_refused(text: str, match: str) -> None:
    with pytest.raises(PtxError, match=match):
        run(text, "=r,r,r", [word(1), np.arange(32, dtype=np.uint32) % 2 + 1], num_threads=32)


OWN = "mov.u32 a, %tid.x; mad.lo.u32 a, a, 2, b;"
NEXT = "mov.u32 a, %tid.x; add.u32 a, a, 1; and.b32 a, a, 31; mad.lo.u32 a, a, 2, b;"
STORE = "mov.b16 h, 5; st.shared.b16 [a], h;"
LOAD = "ld.shared.b16 h, [a];"
FRAGMENT = "mov.u32 a, %tid.x; mad.lo.u32 a, a, 16, b; ldmatrix.sync.aligned.m8n8.x4.shared.b16 {c, c, c, c}, [a];"
ALL = "mov.u32 a, %tid.x; mad.lo.u32 a, a, 16, b; st.shared.v4.b32 [a], {0, 0, 0, 0};"


def shared_program(*steps: str, unordered: Any = None) -> None:
    body = f"{ARRAY} {{ .reg .b32 a, b, c; .reg .b16 h; mov.u32 b, tile; {' '.join(steps)} }} mov.b32 $0, 0;"
    run(body, "=r", num_threads=32, unordered=unordered)


@pytest.mark.parametrize(
    ("first", "second", "what"),
    [
        ((OWN, STORE), (NEXT, STORE), "store after a store"),
        ((OWN, STORE), (NEXT, LOAD), "load after a store"),
        ((OWN, STORE, LOAD), (NEXT, STORE), "store after a"),
        ((ALL,), (FRAGMENT,), "load after a store"),
    ],
)
def test_races_are_noticed_and_barriers_end_them(
    first: tuple[str, ...], second: tuple[str, ...], what: str
) -> None:
    with pytest.raises(MemoryAccessError, match=what):
        shared_program(*first, *second)
    shared_program(*first, "bar.sync 0;", *second)
    shared_program(OWN, STORE, LOAD, STORE)  # a thread is in order with itself


def test_a_warp_may_store_where_it_loaded_a_fragment_but_no_other() -> None:
    """Two warps store all; the first loads a fragment from its half and then stores there, or the second one does."""
    whole = (
        f"{ARRAY.replace('512', '1024')} {{ .reg .b32 a, b, c; mov.u32 b, tile; {ALL} bar.sync 0;"
    )
    fragment = "and.b32 a, $1, 511; add.u32 a, a, b; ldmatrix.sync.aligned.m8n8.x4.shared.b16 {c, c, c, c}, [a];"
    again = "add.u32 a, $1, b; st.shared.v4.b32 [a], {1, 1, 1, 1}; } mov.b32 $0, 0;"
    neighbour = 16 * (np.arange(64, dtype=np.uint32) // 32 * 32 + (np.arange(64) + 1) % 32)
    own = fragment.replace("and.b32 a, $1, 511;", "mov.b32 a, $1;")
    run(f"{whole} {own} {again}", "=r,r", [neighbour.astype(np.uint32)], num_threads=64)
    with pytest.raises(MemoryAccessError, match="store after a load"):
        run(f"{whole} {fragment} {again}", "=r,r", [neighbour.astype(np.uint32)], num_threads=64)


def test_two_threads_in_one_place_race_unless_it_is_allowed() -> None:
    same = "mov.u32 a, tile;"
    with pytest.raises(MemoryAccessError, match="store beside a store"):
        shared_program(same, STORE)
    shared_program(same, STORE, same, STORE, unordered={"tile": [(0, 2)]})
    with pytest.raises(MemoryAccessError, match="load after a store"):
        shared_program(same, STORE, same, LOAD, unordered={"tile": [(0, 2)]})


def test_untouched_and_foreign_shared_bytes_are_refused() -> None:
    with pytest.raises(MemoryAccessError, match="untouched"):
        shared_program(OWN, LOAD)
    with pytest.raises(MemoryAccessError, match="inside"):
        shared_program(OWN, "add.u32 a, a, 512;", STORE)


def test_bank_ways() -> None:
    lane = np.arange(32)

    def ways(addresses: Array, width: int) -> list[int]:
        return bank_ways(SharedAccess("st", lane, 256 + addresses, width))

    assert ways(4 * lane, 4) == [1]
    assert ways(2 * lane, 2) == [1]  # two threads in a word
    assert ways(0 * lane, 2) == [1]
    assert ways(8 * lane, 4) == [2]
    assert ways(128 * lane, 4) == [32]
    assert ways(144 * lane, 16) == [1, 1, 1, 1]
    assert ways(128 * lane, 16) == [8, 8, 8, 8]


def test_a_whole_entry_with_a_loop() -> None:
    """Thread i of program p sums i + 1 for p turns; a branch that threads take differently is refused."""
    entry = """
    .visible .entry sums(
        .param .u64 .ptr .global .align 1 sums_param_0,
        .param .u32 sums_param_1
    )
    .reqntid 32
    {
        .reg .pred %p<2>; .reg .b32 %r<5>; .reg .b64 %rd<3>;
        ld.param.b64 %rd1, [sums_param_0];
        ld.param.b32 %r4, [sums_param_1];
        mov.u32 %r1, %tid.x;
        mov.u32 %r2, %ctaid.x;
        mov.b32 %r3, 0;
    $L__BB0_1:  // the loop
        .loc 1 2 3
        mad.lo.s32 %r3, %r1, 1, %r3;
        add.s32 %r3, %r3, %r4;
        add.s32 %r2, %r2, -1;
        setp.gt.s32 %p1, COUNTER, 0;
        @%p1 bra $L__BB0_1;
        mad.wide.u32 %rd2, %r1, 4, %rd1;
        st.global.b32 [ %rd2 + 0 ], { %r3 };
        ret;
    }
    """
    memory = GlobalMemory()
    sums = np.zeros(32, np.uint32)
    parameters = [memory.place(sums), 1]
    run_entry(entry.replace("COUNTER", "%r2"), Block(32, memory), parameters, (3, 0, 0))
    np.testing.assert_array_equal(sums, 3 * (np.arange(32) + 1))
    with pytest.raises(PtxError, match="branch alike"):
        run_entry(entry.replace("COUNTER", "%r1"), Block(32, memory), parameters, (3, 0, 0))
