"""Inline PTX without a GPU: runs the text of an inline assembly for all threads of a block, one instruction at a time.

Here are names, scopes and operands; :mod:`tests.ptx_instructions` says what an instruction does. What PTX does not allow is an error: a
register of another width or one read before it was written, an access out of bounds, a race in shared memory. A register is an array with
one entry a thread.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from tests.ptx_instructions import INSTRUCTIONS, UNSIGNED, PtxError
from tests.ptx_memory import GlobalMemory, SharedMemory

Array = npt.NDArray[Any]

_CONSTRAINT_BITS = {"h": 16, "r": 32, "f": 32, "l": 64, "d": 64}


@dataclass
class Register:
    """One register of every thread; ``values`` is None before the first write."""

    bits: int
    values: Array | None = None


@dataclass(frozen=True)
class Statement:
    """One line of PTX, taken apart."""

    opcode: str  # "{" and "}" for the ends of a scope, ".reg" and ".shared" for declarations
    modifiers: tuple[str, ...] = ()
    operands: tuple[str, ...] = ()
    predicate: str = ""


@cache
def parse(text: str) -> tuple[Statement, ...]:
    """Statements of a text, in order."""
    text = re.sub(r"//[^\n]*", "", text)
    found = []
    while text := text.strip():
        if text[0] in "{}":
            found.append(Statement(text[0]))
            text = text[1:]
            continue
        line, semicolon, text = text.partition(";")
        if not semicolon:
            raise PtxError(f"expected a semicolon after {line!r}")
        if line.startswith("."):
            directive, _, rest = line.partition(" ")
            found.append(Statement(directive, (), (rest.strip(),)))
            continue
        predicate = ""
        if line.startswith("@"):
            predicate, _, line = line[1:].partition(" ")
        name, _, rest = line.strip().partition(" ")
        opcode, *modifiers = name.split(".")
        operands = re.split(r",(?![^{\[]*[}\]])", rest)
        found.append(
            Statement(opcode, tuple(modifiers), tuple(o.strip() for o in operands if o), predicate)
        )
    return tuple(found)


class Block:
    """Threads of one block with their shared memory; its names live as long as a kernel.

    Args:
        num_threads: a multiple of 32 where the text has instructions of whole warps.
        memory: global memory.
        unordered: ranges (first byte, bytes) of shared arrays, by name, where threads may store without an order.
        record: keep shared accesses, for :func:`ptx_memory.bank_ways`.
    """

    def __init__(
        self,
        num_threads: int = 128,
        memory: GlobalMemory | None = None,
        unordered: dict[str, Sequence[tuple[int, int]]] | None = None,
        record: bool = False,
    ) -> None:
        self.num_threads = num_threads
        self.memory = memory or GlobalMemory()
        self.shared = SharedMemory(record)
        self._unordered = unordered or {}
        self.threads = np.arange(num_threads)
        self.special = {"%tid.x": self.threads}
        self.constants: dict[str, int] = {}  # parameters of an entry
        self._scopes: list[dict[str, Register | int]] = [{}]
        self._operands: list[Register] = []

    def run(self, text: str, constraints: str, inputs: Sequence[Array]) -> list[Array]:
        """Outputs of one inline assembly: an unsigned array ``[threads]`` for every ``=``."""
        kinds = [kind.strip() for kind in constraints.split(",")]
        outputs = [kind for kind in kinds if kind.startswith("=")]
        if len(kinds) - len(outputs) != len(inputs):
            raise PtxError(f"expected {len(kinds) - len(outputs)} inputs, got {len(inputs)}")
        self._operands = [Register(_CONSTRAINT_BITS[kind[-1]]) for kind in kinds]
        for register, values in zip(self._operands[len(outputs) :], inputs, strict=True):
            dtype = UNSIGNED[register.bits]
            if values.shape != (self.num_threads,) or values.dtype.itemsize * 8 != register.bits:
                raise PtxError(
                    f"expected {register.bits} bits for each of {self.num_threads} threads"
                )
            register.values = values.view(dtype).copy()
        for statement in parse(text):
            self.execute(statement)
        if len(self._scopes) != 1:
            raise PtxError("expected as many closing as opening braces")
        return [self.value(f"${i}", self._operands[i].bits) for i in range(len(outputs))]

    def execute(self, statement: Statement) -> None:
        """Run one statement that does not branch."""
        if statement.opcode == "{":
            self._scopes.append({})
        elif statement.opcode == "}":
            if len(self._scopes) == 1:
                raise PtxError("expected an opening brace before a closing one")
            self._scopes.pop()
        elif statement.opcode == ".reg":
            self._declare_registers(statement.operands[0])
        elif statement.opcode == ".shared":
            self._declare_shared(statement.operands[0])
        elif statement.opcode != ".label":
            handler = INSTRUCTIONS.get(statement.opcode)
            if handler is None:
                raise PtxError(f"expected an instruction of the emulator, got {statement.opcode!r}")
            active = self.predicate(statement)
            handler(self, statement.modifiers, statement.operands, active)

    def predicate(self, statement: Statement) -> Array:
        """Threads that execute a statement."""
        if not statement.predicate:
            return np.ones(self.num_threads, np.bool_)
        name = statement.predicate.removeprefix("!")
        return self.value(name, 1) ^ statement.predicate.startswith("!")

    def _declare_registers(self, text: str) -> None:
        kind, _, names = text.partition(" ")
        bits = 1 if kind == ".pred" else int(kind[2:])
        for name in names.split(","):
            if match := re.fullmatch(r"\s*(%?\w+)<(\d+)>\s*", name):
                for i in range(int(match[2])):
                    self._name(f"{match[1]}{i}", Register(bits))
            else:
                self._name(name.strip(), Register(bits))

    def _declare_shared(self, text: str) -> None:
        match = re.fullmatch(r"\.align (\d+) \.b8 (\w+)\[(\d+)\]", text)
        if match is None:
            raise PtxError(f"expected a shared array of bytes, got {text!r}")
        address = self.shared.declare(int(match[3]), int(match[1]))
        self._name(match[2], address)
        for first, width in self._unordered.get(match[2], ()):
            self.shared.allow_unordered_stores(address + first, width)

    def _name(self, name: str, what: Register | int) -> None:
        if not re.fullmatch(r"[A-Za-z%]\w*", name) or name in self._scopes[-1]:
            raise PtxError(f"expected a new name in its scope, got {name!r}")
        self._scopes[-1][name] = what

    def _find(self, name: str) -> Register | int:
        if name.startswith("$"):
            return self._operands[int(name[1:])]
        for scope in reversed(self._scopes):
            if name in scope:
                return scope[name]
        raise PtxError(f"expected a declared name, got {name!r}")

    def value(self, operand: str, bits: int) -> Array:
        """An operand of so many bits, one a thread."""
        if re.fullmatch(r"-?(0[xX][0-9a-fA-F]+|\d+)", operand):
            return self._all(int(operand, 0), bits)
        if bits == 32 and re.fullmatch(r"0f[0-9a-fA-F]{8}", operand):  # a float32's bits
            return self._all(int(operand[2:], 16), bits)
        if operand in self.special:
            return self.special[operand].astype(UNSIGNED[bits])
        found = self._find(operand)
        if isinstance(found, int):
            return self._all(found, bits)
        if found.bits != bits:
            raise PtxError(f"expected {bits} bits in {operand!r}, got {found.bits}")
        if found.values is None:
            raise PtxError(f"expected a value in {operand!r} before it is read")
        return found.values

    def _all(self, number: int, bits: int) -> Array:
        return np.full(self.num_threads, number & (2**bits - 1), UNSIGNED[bits])

    def write(self, name: str, values: Array, active: Array, may_widen: bool = False) -> None:
        found = self._find(name)
        bits = 1 if values.dtype == np.bool_ else values.dtype.itemsize * 8
        if isinstance(found, int):
            raise PtxError(f"expected a register, got the array {name!r}")
        if bits != found.bits and not (may_widen and bits < found.bits):
            raise PtxError(f"expected {found.bits} bits for {name!r}, got {bits}")
        values = values.astype(UNSIGNED[found.bits])  # zero-extended
        if active.all():
            found.values = values
        elif found.values is None:
            raise PtxError(f"expected a value in {name!r} before a predicated write")
        else:
            found.values = np.where(active, values, found.values)

    def address(self, operand: str, bits: int) -> Array:
        match = re.fullmatch(r"\[\s*([$%\w]+)\s*(?:\+\s*(-?\d+)\s*)?\]", operand)
        if match is None:
            raise PtxError(f"expected an address, got {operand!r}")
        offset = np.array(int(match[2] or 0)).astype(UNSIGNED[bits])
        return self.value(match[1], bits) + offset
