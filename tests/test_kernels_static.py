"""Kernels as machine code, without a GPU: what dispatch may launch compiles, spills nothing, fits the card and decodes in few instructions.

The compilation is a process of its own: in this one Triton may be interpreting its kernels, and those cannot be compiled.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("triton", reason="needs Triton")

from experiments.kernels import gates
from experiments.kernels.bound import STATIC_TABLE, read_static_table
from experiments.kernels.static import Static, compile_all
from experiments.kernels.static_rows import best_rows
from nas.kernels.triton import sass
from nas.kernels.triton.aot import ARCHITECTURES, programs, sources_digest
from nas.kernels.triton.aot_weights import csl_hints
from nas.kernels.triton.configs import TOKEN_BLOCKS, all_tiles, tile_key

REPOSITORY = Path(__file__).resolve().parents[1]
COMMITTED: dict[str, Any] = json.loads(STATIC_TABLE.read_text(encoding="utf-8"))


IS_COMMITTED = COMMITTED["sources"] == sources_digest() and COMMITTED["versions"][
    "triton"
] == importlib.metadata.version("triton")
COMPILE = """
import json, sys
from experiments.kernels.static_rows import measure
from nas.kernels.triton.aot import programs
wanted = json.loads(sys.argv[1])
rows = [measure(p) for p in programs(edges=False, epilogues=False) if p.name in wanted]
json.dump(rows, open(sys.argv[2], "w"))
"""


def in_a_process(*arguments: str) -> None:
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=REPOSITORY, env=os.environ | {"TRITON_INTERPRET": "0"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert Path(arguments[-1]).exists(), done.stderr[-3000:]


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The table of every kernel, tile configuration and architecture at 16 tokens.

    Minutes of compiling; the same code under the same compiler is what the committed table counted, which a sample confirms.
    """
    if IS_COMMITTED:
        names = {p.name for p in programs(blocks=(16,), edges=False, epilogues=False)}
        rows = [row for row in COMMITTED["programs"] if row["name"] in names]
        return {"programs": rows, "rows": COMMITTED["rows"]}
    path = tmp_path_factory.mktemp("static") / "table.json"
    options = ["--tokens", "16", "--no-edges", "--no-epilogues", "--out", str(path)]
    in_a_process("-m", "experiments.kernels.static", *options)
    table: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return table


# --- what is compiled -----------------------------------------------------------------------------


def test_every_tile_configuration_is_compiled_for_every_block_of_tokens() -> None:
    found = {
        (
            tile_key(p.weight.sparsity, p.weight.stored), p.num_warps,
            replace(p.weight.config, num_warps=0), p.tokens, p.capability,
        )
        for p in programs()
        if p.kernel.endswith("_kernel")
    }  # fmt: skip
    for key, configs in all_tiles().items():
        for config in configs:
            for tokens in (1, 2, 4) if key == "csr" else TOKEN_BLOCKS:
                # 128 rows of 64 tokens take four warps at least, 32 rows two
                least = {"vector128": 4, "vector32": 2, "block32": 2}.get(key, 1)
                num_warps = max(config.num_warps, least if tokens == 64 else 1)
                for capability in ARCHITECTURES:
                    tile = replace(config, num_warps=0)
                    assert (key, num_warps, tile, tokens, capability) in found


def test_programs_are_what_the_launcher_gives() -> None:
    every = programs()
    names = [p.name for p in every]
    assert len(set(names)) == len(names)
    assert {p.kernel for p in every if not p.weights and not p.epilogue} == {
        "csl_kernel", "transpose_tokens", "fragment_tokens", "sum_parts",
    }  # fmt: skip
    for program in every:
        if "EVEN" in program.constants:
            assert program.constants["EVEN"] == program.weight.is_even
        if program.kernel == "nm_kernel":
            assert program.constants["USE_ASM"]  # as for tensors on a GPU
        config = program.weight.config
        if program.kernel in ("vector_kernel", "bsr_kernel", "nm_kernel"):
            assert program.num_stages == config.num_stages
            assert program.constants["SPLIT"] == 1
    csl = {p.name.split()[1]: p.constants for p in every if p.kernel == "csl_shared_kernel"}
    bounds = {level: (c["FULL"], c["ITEMS"]) for level, c in csl.items()}
    # 64 (1 - s) items a thread on average; 3.5 sqrt(8192 s (1 - s)) / 128 more or less, rounded outwards to even numbers
    assert bounds == {"0.50": (30, 34), "0.70": (18, 22), "0.80": (10, 14), "0.90": (4, 8), "any": (0, 64)}  # fmt: skip
    assert csl_hints(0.5) == (4096 - 159, 4096 + 159)


def test_every_product_is_compiled_with_what_can_follow() -> None:
    """Assembly kernels, and CSR beside an adapter, leave that to the kernel that sums parts."""
    every = programs()
    found: dict[str, set[str]] = {}
    for program in every:
        found.setdefault(program.kernel, set()).add(program.epilogue)
    alone = {"", "bias+gelu", "bias+gate", "bias+gelu+gate"}
    adapters = {"bias+gelu+adapter", "bias+gate+adapter", "bias+adapter+gelu", "bias+adapter+gate"}
    crowded = {"bias+gelu+gate+adapter", "bias+adapter+gelu+gate"}
    assert found["sum_parts"] == alone | adapters | crowded
    for kernel in ("vector_kernel", "bsr_kernel", "nm_kernel", "bitmap_kernel", "csl_kernel"):
        assert found[kernel] == alone | adapters
    assert found["csr_kernel"] == alone
    for kernel in ("csl_shared_kernel", "bitmap_registers_kernel"):
        assert found[kernel] == {""}
    sizes = {p.constants["BN"] for p in every if p.kernel == "sum_parts" and p.epilogue}
    assert sizes == {4, 64}


def test_spills_in_a_loop_are_seen() -> None:
    inside = LOOPS.replace("LDS.128 R8, [R3+0x10]", "LDL R8, [R1+0x10]")
    outside = LOOPS.replace("MOV R1, c[0x0][0x28]", "STL [R1+0x10], R8")
    assert [len([i for i in loop if i.startswith("LDL")]) for loop in sass.loops_of(inside)] == [0, 1, 0]  # fmt: skip
    assert not any(i.startswith("STL") for loop in sass.loops_of(outside) for i in loop)


def test_interpreted_kernels_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("experiments.kernels.static.is_interpreted", lambda: True)
    with pytest.raises(ValueError, match="expected kernels to be compiled, got TRITON_INTERPRET=1"):
        compile_all(Static())
    monkeypatch.setattr("experiments.kernels.static.has_triton", lambda: False)
    with pytest.raises(ValueError, match="expected Triton, found none"):
        compile_all(Static())


# --- what came out --------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.skipif(not IS_COMMITTED, reason="everything is compiled: code or compiler has changed")
def test_the_committed_table_is_what_compiles(tmp_path: Path) -> None:
    """One program of every kernel, by turns for either architecture, to the last register."""
    by_kernel: dict[tuple[str, str], list[str]] = {}
    for program in programs(edges=False, epilogues=False):
        if program.tokens in (4, 16):  # CSR has other blocks
            names = by_kernel.setdefault((program.kernel, program.weight.stored), [])
            names.append(program.name)
    sample = [names[number % len(names)] for number, names in enumerate(by_kernel.values())]
    assert len(sample) > 10
    in_a_process("-c", COMPILE, json.dumps(sample), str(tmp_path / "rows.json"))
    found = json.loads((tmp_path / "rows.json").read_text())
    assert {row["name"] for row in found} == set(sample)
    committed = {row["name"]: row for row in COMMITTED["programs"]}
    for row in found:
        assert committed[row["name"]].items() <= row.items(), row["name"]


@pytest.mark.slow
def test_everything_compiles_without_spills_and_fits_the_card(compiled: dict[str, Any]) -> None:
    assert len(compiled["programs"]) > 100
    assert gates.broken(compiled["programs"]) == []


@pytest.mark.slow
def test_every_kernel_beats_its_target(compiled: dict[str, Any]) -> None:
    judged = {row["sparsity"] for row in compiled["rows"] if gates.target_of(row) is not None}
    assert {"2:4", "1:4", "vector128:0.80", "block64:0.80", "unstructured:0.90"} <= judged
    assert gates.missed(compiled["rows"]) == []


@pytest.mark.slow
def test_no_kernel_grew_beyond_the_committed_table(compiled: dict[str, Any]) -> None:
    installed = importlib.metadata.version("triton")
    if installed != COMMITTED["versions"]["triton"]:
        pytest.skip(f"the table counts Triton {COMMITTED['versions']['triton']}, not {installed}")
    assert gates.exceeded(compiled["programs"], COMMITTED["programs"]) == []


@pytest.mark.slow
def test_a_turn_of_the_loop_consumes_what_it_is_said_to(compiled: dict[str, Any]) -> None:
    """Tensor cores make N products of each weight: an unrolled loop, or warps that repeat each other, would make more of them."""
    counted = [r for r in compiled["programs"] if "per" in r and not r["name"].startswith("csr")]
    assert len(counted) > 70
    for row in counted:
        assert row["products_per_weight"] == row["tokens"], row["name"]


@pytest.mark.slow
def test_stages_keep_more_tiles_on_their_way(compiled: dict[str, Any]) -> None:
    """2:4 with one stage more takes one more tile of shared memory: 128 x 32 groups of 2 values, their metadata, and the input."""
    space = {row["name"]: row["shared_bytes"] for row in compiled["programs"]}
    three, four = (space[f"nm 2:4 portable 128x32 4 warps {s} stages N=16 fp16 sm_80"] for s in (3, 4))  # fmt: skip
    assert four - three == 128 * 32 * 2 * 2 + 128 * 4 * 4 + 128 * 16 * 2


def test_the_committed_table_is_whole() -> None:
    assert {p.name for p in programs()} == {row["name"] for row in COMMITTED["programs"]}
    assert gates.broken(COMMITTED["programs"]) == []
    assert gates.missed(COMMITTED["rows"]) == []
    assert read_static_table(STATIC_TABLE) == COMMITTED["rows"]
    assert COMMITTED["targets"] == gates.TARGETS
    remedy = "the kernels have changed; make the table again: python -m experiments.kernels.static"
    assert COMMITTED["sources"] == sources_digest(), remedy


# --- gates ----------------------------------------------------------------------------------------

GOOD = {"name": "a", "arch": "sm_80", "spill_bytes": 0, "loop_spills": 0, "registers": 255, "shared_bytes": 163 * 1024}  # fmt: skip


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"spill_bytes": 8}, "a spills 8 bytes, expected 0"),
        ({"loop_spills": 1}, "a spills 1 times in a loop, expected never"),
        (
            {"name": "a bias+gelu b", "spill_bytes": 40},
            "a bias+gelu b spills 40 bytes, expected 32",
        ),
        ({"registers": 256}, "a has 256 registers, expected 255"),
        ({"shared_bytes": 163 * 1024 + 1}, "a has 166913 bytes of shared memory, expected 166912"),
        ({"error": "CompilationError: no"}, "a does not compile: CompilationError: no"),
    ],
)
def test_hard_gates(change: dict[str, Any], message: str) -> None:
    assert gates.broken([GOOD]) == []
    assert [text.startswith(message) for text in gates.broken([GOOD | change])] == [True]


def test_an_epilogue_may_spill_a_little() -> None:
    assert gates.broken([GOOD | {"name": "a bias+gelu b", "spill_bytes": 32}]) == []


def test_targets_hold_for_the_best_tiles() -> None:
    row = {
        "name": "b", "kernel": "csl assembly", "sparsity": "unstructured:0.90", "format": "csl", "arch": "sm_90", "tokens": 16,
        "dtype": "fp16", "is_even": True, "instructions_per_weight": 1.36,
    }  # fmt: skip
    assert gates.target_of(row) == 0.85 + 5 * 0.1
    assert gates.missed([row]) == [
        "csl assembly unstructured:0.90: 1.36 instructions per weight, expected 1.35 at most"
    ]
    assert gates.target_of(row | {"arch": "sm_80"}) is None
    better = row | {"instructions_per_weight": 1.3}
    assert best_rows([row, better]) == [better]
    assert best_rows([row | {"name": "csl any"}, row | {"dtype": "bf16"}, row | {"tokens": 32}]) == []  # fmt: skip
    vector = row | {"sparsity": "vector128:0.75", "format": "vector"}
    assert [r["sparsity"] for r in best_rows([vector])] == [
        f"vector128:{level}" for level in ("0.50", "0.60", "0.70", "0.80", "0.90")
    ]


def test_ceilings_leave_two_percent() -> None:
    committed = [{"name": "a", "instructions_per_weight": 2.0}, {"name": "helper"}]
    assert gates.exceeded([{"name": "a", "instructions_per_weight": 2.04}, {"name": "helper"}], committed) == []  # fmt: skip
    assert len(gates.exceeded([{"name": "a", "instructions_per_weight": 2.05}], committed)) == 1
    assert gates.exceeded([{"name": "new"}], committed) == ["new is not in the committed table"]


# --- reading machine code -------------------------------------------------------------------------

LOOPS = """
        /*0000*/                   MOV R1, c[0x0][0x28] ;
.L_x_3:
        /*0010*/                   LDG.E R2, [R4.64] ;
.L_x_1:
        /*0020*/                   IADD3 R3, R3, 0x1, RZ ;
        /*0030*/              @P0  BRA `(.L_x_1) ;
        /*0040*/                   HMMA.16816.F32 R4, R8, R12, R4 ;
        /*0050*/             @!UP1 LDS.128 R8, [R3+0x10] ;
        /*0060*/               @P1 BRA `(.L_x_3) ;
        /*0070*/                   FFMA R5, R6, R7, R8 ;
        /*0080*/              @!P2 BRA `(.L_x_9) ;
        /*0090*/                   EXIT ;
.L_x_9:
        /*00a0*/                   BRA `(.L_x_9) ;
"""


def test_the_loop_is_the_innermost_that_multiplies() -> None:
    assert sass.loop_of(LOOPS) == [
        "LDG.E R2, [R4.64]",
        "IADD3 R3, R3, 0x1, RZ",
        "BRA `(.L_x_1)",
        "HMMA.16816.F32 R4, R8, R12, R4",
        "LDS.128 R8, [R3+0x10]",
        "BRA `(.L_x_3)",
    ]


def test_tensor_cores_come_before_plain_multiplies() -> None:
    plain = ".L_a:\n /*0000*/ FFMA R1, R2, R3, R1 ;\n /*0010*/ BRA `(.L_a) ;\n"
    assert sass.loop_of(plain) == ["FFMA R1, R2, R3, R1", "BRA `(.L_a)"]
    assert len(sass.loop_of(plain + LOOPS)) == 6
    shorter = (
        ".L_b:\n /*0100*/ HGMMA.64x16x16.F32 R24, R4, gdesc[UR8], R24 ;\n /*0110*/ BRA `(.L_b) ;\n"
    )
    assert sass.loop_of(LOOPS + shorter)[0].startswith("HGMMA")


@pytest.mark.parametrize("code", ["", LOOPS.replace("HMMA", "IMMA").replace("FFMA", "FADD")])
def test_a_program_without_a_loop_is_refused(code: str) -> None:
    with pytest.raises(ValueError, match="expected a loop that multiplies, got none"):
        sass.loop_of(code)


@pytest.mark.parametrize(
    ("instruction", "products", "shared"),
    [
        ("HMMA.16816.F32 R4, R8, R12, R4", 16 * 8 * 16, 0),
        ("HMMA.1688.F32.TF32 R4, R8, R12, R4", 16 * 8 * 8, 0),
        # four warps share it: 16 columns of input, and of 64 rows where they are not in registers, two bytes each
        ("HGMMA.64x16x16.F32 R24, R4, gdesc[UR8], R24", 64 * 16 * 16 // 4, 2 * 16 * 16 // 128),
        ("HGMMA.64x16x16.F32 R24, gdesc[UR8], R24", 64 * 16 * 16 // 4, 2 * 16 * 80 // 128),
        ("LDSM.16.M88.4 R20, [R70+UR4]", 0, 16),
        ("LDSM.16.MT88.2 R20, [R70+UR4]", 0, 8),
        ("LDS.128 R8, [R3]", 0, 16),
        ("LDS R8, [R3]", 0, 4),
        ("STS.U16 [R48], R77", 0, 4),
        ("LDGSTS.E.BYPASS.128 [R3], [R4.64]", 0, 16),
        ("LDG.E.128 R8, [R4.64]", 0, 0),
    ],
)
def test_what_an_instruction_moves(instruction: str, products: int, shared: int) -> None:
    assert sass.products_of(instruction) == products
    assert sass.shared_bytes_of(instruction) == shared
