"""A whole PTX entry in the emulator: parameters, program numbers and branches."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from tests.ptx_emulator import Block, PtxError, parse


def run_entry(
    ptx: str, block: Block, parameters: Sequence[int], program: Sequence[int] = (0, 0, 0)
) -> None:
    """Run the one entry of a module to its end; threads of a block must branch alike."""
    found = re.search(r"\.entry (\w+)\((.*?)\)\s*\.reqntid (\d+)\s*\{", ptx, re.DOTALL)
    if found is None or int(found[3]) != block.num_threads:
        raise PtxError(f"expected one entry of {block.num_threads} threads")
    # Triton adds pointers to scratch memory that the kernels do not use.
    for i in range(len(re.findall(r"\.param", found[2]))):
        block.constants[f"{found[1]}_param_{i}"] = parameters[i] if i < len(parameters) else 0
    for axis, number in zip("xyz", program, strict=True):
        block.special[f"%ctaid.{axis}"] = np.full(block.num_threads, number)
    body = re.sub(r"//.*|^\s*\.loc\b.*", "", _until_closing(ptx[found.end() :]), flags=re.MULTILINE)
    body = re.sub(r"^\s*(\$L\w+):", r".label \1;", body, flags=re.MULTILINE)
    statements = parse(re.sub(r"[ \t]+", " ", body))
    labels = {s.operands[0]: i for i, s in enumerate(statements) if s.opcode == ".label"}
    next_one = 0
    while next_one < len(statements):
        statement = statements[next_one]
        next_one += 1
        if statement.opcode == "ret":
            return
        if statement.opcode != "bra":
            block.execute(statement)
        elif statement.predicate:
            taken = block.predicate(statement)
            if taken.any() != taken.all():
                raise PtxError("expected all threads of a block to branch alike")
            next_one = labels[statement.operands[0]] if taken.all() else next_one
        else:
            next_one = labels[statement.operands[0]]
    raise PtxError("expected the entry to return")


def _until_closing(text: str) -> str:
    depth = 1
    for brace in re.finditer(r"[{}]", text):
        depth += 1 if brace[0] == "{" else -1
        if depth == 0:
            return text[: brace.start()]
    raise PtxError("expected a closing brace")
