"""Ahead-of-time compilation without a GPU, and what the machine code costs: registers, spills, shared memory, instructions.

``thread-instructions per weight`` counts every SASS instruction of the loop over K, times the threads that issue it, over the weights
one turn of the loop consumes. It is static: no stalls, no bank conflicts, no latency; what it bounds is the issue rate.
"""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

MAX_REGISTERS = 255
MAX_SHARED_BYTES = {80: 163 * 1024, 90: 227 * 1024}  # per block, CUDA C programming guide, table 24


@dataclass(frozen=True)
class MachineCode:
    """Static figures of one compiled kernel; counts are of one turn of its loop over K, and 0 where it has none.

    Args:
        registers: per thread.
        spill_bytes: of stack and local memory per thread; 0 is wanted.
        loop_spills: instructions in any loop that read or write them.
        shared_bytes: per block.
        threads: per block.
        loop_instructions: SASS instructions.
        loop_popc: of them, population counts (a sixteenth of a multiprocessor's rate on sm_80 and sm_90).
        loop_products: multiply-adds of the tensor cores, all threads of a block together.
        loop_shared_bytes: that pass into and out of shared memory, all threads of a block together.
        opcodes: how often each opcode occurs in the loop.
    """

    registers: int
    spill_bytes: int
    loop_spills: int
    shared_bytes: int
    threads: int
    loop_instructions: int
    loop_popc: int
    loop_products: int
    loop_shared_bytes: int
    opcodes: Mapping[str, int]

    def per_weight(self, weights: int) -> float:
        """Thread-instructions per weight, where a turn of the loop consumes ``weights``."""
        return self.loop_instructions * self.threads / weights


def compile_for(
    kernel: Any,
    arguments: Mapping[str, str],
    constants: Mapping[str, Any],
    capability: int,
    num_warps: int = 4,
    num_stages: int = 3,
    has_loop: bool = True,
) -> MachineCode:
    """Compile a kernel for a card that need not be there.

    Args:
        kernel: a ``triton.jit`` function.
        arguments: type of each argument that is no constexpr, such as ``"*fp16"`` or ``"i32"``; ``":16"`` behind it says that the
            pointer or number is a multiple of 16.
        constants: values of the constexprs.
        capability: 80 for sm_80, 90 for sm_90.
        num_warps: of a block.
        num_stages: of the software pipeline.
        has_loop: whether it loops over K.

    Raises:
        triton.CompilationError: if the kernel does not compile.
    """
    names = kernel.arg_names
    signature = {name: arguments.get(name, "constexpr").partition(":")[0] for name in names}
    missing = [n for n in names if n not in arguments and n not in constants]
    if missing:
        raise ValueError(f"expected a type or a value for every argument, got none for {missing}")
    aligned = {
        (i,): [["tt.divisibility", 16]]
        for i, name in enumerate(names)
        if arguments.get(name, "").endswith(":16")
    }
    values = {(names.index(name),): value for name, value in constants.items()}
    source = _source(kernel)(fn=kernel, signature=signature, constexprs=values, attrs=aligned)
    compiled = triton.compile(
        source,
        target=GPUTarget("cuda", capability, 32),
        options={"num_warps": num_warps, "num_stages": num_stages},
    )
    return read_cubin(compiled.asm["cubin"], compiled.metadata.shared, 32 * num_warps, has_loop)


def _source(kernel: Any) -> Any:
    if type(kernel).__name__ == "GluonJITFunction":
        from triton.experimental.gluon._runtime import GluonASTSource

        return GluonASTSource
    return ASTSource


def read_cubin(
    cubin: bytes, dynamic_shared: int, threads: int, has_loop: bool = True
) -> MachineCode:
    """Figures of a compiled kernel, by the disassembler that Triton ships."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.cubin"
        path.write_bytes(cubin)
        usage = _tool("cuobjdump", "-res-usage", str(path))
        code = _tool("nvdisasm", "-c", str(path))
    found = {k: int(v) for k, v in re.findall(r"(REG|STACK|SHARED|LOCAL):(\d+)", usage)}
    loop = loop_of(code) if has_loop else []
    opcodes = Counter(line.split(".")[0].split()[0] for line in loop)
    return MachineCode(
        registers=found["REG"],
        spill_bytes=found["STACK"] + found["LOCAL"],
        loop_spills=max((sum(map(_is_spill, loop)) for loop in loops_of(code)), default=0),
        shared_bytes=dynamic_shared + found.get("SHARED", 0),
        threads=threads,
        loop_instructions=len(loop),
        loop_popc=opcodes["POPC"],
        loop_products=sum(map(products_of, loop)) * threads // 32,
        loop_shared_bytes=sum(map(shared_bytes_of, loop)) * threads,
        opcodes=dict(opcodes.most_common()),
    )


def loop_of(code: str) -> list[str]:
    """Instructions of the innermost loop that multiplies, from a disassembly: opcode and operands, without predicates.

    Raises:
        ValueError: if no loop multiplies.
    """
    loops = loops_of(code)
    for multiplies in (("HMMA", "HGMMA"), ("HFMA2", "FFMA", "DFMA")):
        holding = [loop for loop in loops if any(line.startswith(multiplies) for line in loop)]
        if holding:
            return min(holding, key=len)
    raise ValueError("expected a loop that multiplies, got none; was it unrolled away?")


def loops_of(code: str) -> list[list[str]]:
    """Instructions of every loop, from the target of a branch backwards to the branch."""
    instructions: list[str] = []
    labels: dict[str, int] = {}
    branches: list[tuple[int, str]] = []
    for line in code.splitlines():
        if label := re.match(r"\s*(\.L\w+):", line):
            labels[label[1]] = len(instructions)
        elif match := re.match(r"\s*/\*[0-9a-f]+\*/\s+(?:@!?U?P\w+\s+)?([A-Z][^;]*)", line):
            instructions.append(match[1].strip())
            if match[1].startswith("BRA") and (target := re.search(r"\((\.L\w+)\)", match[1])):
                branches.append((len(instructions), target[1]))
    return [
        instructions[labels[name] : end] for end, name in branches if labels.get(name, end) < end
    ]


def _is_spill(instruction: str) -> bool:
    """Whether it moves a register to or from local memory."""
    return instruction.startswith(("LDL", "STL"))


def products_of(instruction: str) -> int:
    """Multiply-adds that one warp's tensor-core instruction makes; four warps share an HGMMA."""
    if match := re.match(r"HGMMA\.(\d+)x(\d+)x(\d+)", instruction):
        return int(match[1]) * int(match[2]) * int(match[3]) // 4
    if match := re.match(r"HMMA\.(16)(8)(\d+)", instruction):
        return int(match[1]) * int(match[2]) * int(match[3])
    return 0


def shared_bytes_of(instruction: str) -> int:
    """Bytes of shared memory's rate that an instruction takes of one thread: a narrower access than 4 takes a bank's turn all the same."""
    opcode = instruction.split()[0]
    if match := re.match(r"HGMMA\.(\d+)x(\d+)x(\d+)", opcode):
        m, n, k = (int(size) for size in match.groups())
        has_a_in_registers = re.search(r",\s*R\d+\S*,\s*gdesc", instruction) is not None
        return 2 * k * (n + (0 if has_a_in_registers else m)) // 128
    if match := re.match(r"LDSM\.16\.MT?88(?:\.(\d))?", opcode):
        return 4 * int(match[1] or 1)
    if opcode.startswith(("LDS", "STS", "LDGSTS", "ATOMS")):
        width = re.search(r"\.(64|128)\b", opcode)
        return int(width[1]) // 8 if width else 4
    return 0


def _tool(name: str, *arguments: str) -> str:
    folder = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
    done = subprocess.run(
        [os.fspath(folder / name), *arguments], capture_output=True, text=True, check=True
    )
    return done.stdout
