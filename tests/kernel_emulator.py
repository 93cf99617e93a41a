"""Kernels with inline assembly without a GPU: runs the Python of a Gluon or Triton function as it stands, with NumPy for the language.

What is tested is therefore the kernel's own text, not a copy of it: every array operation is NumPy's, every inline assembly goes to
:mod:`tests.ptx_emulator`. As in Triton, integers are int32 and wrap, a pointer moves by whole elements, and a whole number that is 1 is a
constant.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from types import FunctionType
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from tests.ptx_emulator import Block
from tests.ptx_memory import GlobalMemory

Array = npt.NDArray[Any]

# 16-bit numbers are only moved: their bits are enough.
_BITS = {
    torch.float16: np.uint16, torch.bfloat16: np.uint16, torch.int16: np.uint16, torch.uint8: np.uint8,
    torch.int32: np.int32, torch.float32: np.float32,
}  # fmt: skip


class Value:
    """A scalar or array of a kernel."""

    def __init__(self, values: Any) -> None:
        self.values = np.asarray(values)

    @property
    def dtype(self) -> Any:
        return self.values.dtype

    def to(self, dtype: Any) -> Value:
        return Value(self.values.astype(dtype))

    def __getitem__(self, index: Any) -> Value:
        return Value(self.values[index])

    def __index__(self) -> int:
        assert self.values.shape == ()
        assert self.values.dtype.kind in "iu"
        return int(self.values)

    def __bool__(self) -> bool:
        assert self.values.shape == ()
        return bool(self.values)


def _operator(name: str) -> Callable[[Value, Any], Any]:
    def operate(self: Value, other: Any) -> Any:
        if isinstance(other, Pointer):
            return NotImplemented
        operand = other.values if isinstance(other, Value) else other
        if name.strip("_").lstrip("r") in ("mod", "floordiv"):  # C rounds to zero, Python down
            assert (self.values >= 0).all()
            assert (np.asarray(operand) >= 0).all()
        # arrays wrap around in silence, NumPy's scalars do not
        result = getattr(np.atleast_1d(self.values), name)(operand)
        if result is NotImplemented:
            raise TypeError(f"{name} of {self.values.dtype} and {operand!r}")
        return Value(result.reshape(np.broadcast_shapes(self.values.shape, np.shape(operand))))

    return operate


for _name in (
    "add", "radd", "sub", "rsub", "mul", "rmul", "floordiv", "mod", "and", "rand", "or", "lshift", "rlshift", "rshift", "lt", "gt", "ge",
    "le", "eq", "ne",
):  # fmt: skip
    setattr(Value, f"__{_name}__", _operator(f"__{_name}__"))


@dataclass(frozen=True)
class Pointer:
    """Addresses of elements of one size."""

    addresses: Array
    element: Any

    def __add__(self, other: Any) -> Pointer:
        number = other.values if isinstance(other, Value) else np.asarray(other)
        assert number.dtype.kind == "i"
        return Pointer(self.addresses + number.astype(np.int64) * self.itemsize, self.element)

    @property
    def itemsize(self) -> int:
        return np.dtype(self.element).itemsize

    def to(self, dtype: Any) -> Value:
        assert np.dtype(dtype) == np.int64
        return Value(self.addresses)


class Language:
    """The part of ``gl`` and ``tl`` that the kernels with assembly use, for one program of the grid."""

    int32, int64, float32 = np.int32, np.int64, np.float32
    constexpr = None  # annotations

    def __init__(self, block: Block, program: Sequence[int], order: Array | None = None) -> None:
        self._block = block
        self._program = program
        self._order = order  # elements of a packed assembly, pair by pair; any order is allowed

    def program_id(self, axis: int) -> Value:
        return Value(np.int32(self._program[axis]))

    def static_range(self, number: int) -> Iterator[int]:
        return iter(range(number))

    def BlockedLayout(self, *sizes: Any) -> Any:
        return sizes

    def arange(self, first: int, last: int, layout: Any) -> Value:
        # thread i holds element i: what the assembly takes %tid.x to be
        assert layout == ([1], [32], [4], [0])
        assert (first, last) == (0, self._block.num_threads)
        return Value(np.arange(first, last, dtype=np.int32))

    def zeros(self, shape: Sequence[int], dtype: Any, layout: Any) -> Value:
        return Value(np.zeros(shape, dtype))

    def load(self, pointer: Pointer, mask: Value | None = None, other: Any = None) -> Value:
        shape = pointer.addresses.shape
        active = np.broadcast_to(True if mask is None else mask.values, shape).reshape(-1)
        found = np.full(active.shape, 0 if other is None else other, pointer.element)
        octets = self._block.memory.read(pointer.addresses.reshape(-1)[active], pointer.itemsize)
        found[active] = octets.view(pointer.element)[:, 0]
        return Value(found.reshape(shape))

    def store(self, pointer: Pointer, value: Value, mask: Value) -> None:
        octets = value.values.astype(pointer.element)[mask.values][:, None].view(np.uint8)
        self._block.memory.write(pointer.addresses[mask.values], octets)

    def inline_asm_elementwise(
        self,
        text: Any,
        constraints: Any,
        args: Sequence[Value],
        dtype: Any,
        is_pure: bool,
        pack: int,
    ) -> Any:
        text, constraints = getattr(text, "value", text), getattr(constraints, "value", constraints)
        arrays = np.broadcast_arrays(*(arg.values for arg in args))
        shape = arrays[0].shape
        order = np.arange(arrays[0].size) if self._order is None else self._order
        inputs: list[Array] = []
        for array in arrays:  # 16-bit elements share a register, wider ones take one each
            elements = np.ascontiguousarray(array.reshape(-1)[order]).reshape(-1, pack)
            if elements.dtype.itemsize * pack <= 4:
                inputs += [elements.view(np.uint32)[:, 0]]
            else:
                inputs += list(elements.T)
        outputs = self._block.run(text, constraints, inputs)
        dtypes = dtype if isinstance(dtype, tuple) else (dtype,)
        assert len(outputs) == len(dtypes)
        results = []
        for output, kind in zip(outputs, dtypes, strict=True):
            array = np.empty(arrays[0].size, kind)
            array[order] = output.view(kind)
            results.append(Value(array.reshape(shape)))
        return tuple(results) if isinstance(dtype, tuple) else results[0]


def python_of(function: Any, language: Language) -> Callable[..., Any]:
    """The Python function under a jitted one, and those that it calls, with another language."""
    names = dict(function.fn.__globals__)
    for name, value in names.items():
        if type(value).__name__ in ("JITFunction", "GluonJITFunction", "InterpretedFunction"):
            names[name] = FunctionType(value.fn.__code__, names)
    names["gl"] = names["tl"] = language
    return FunctionType(function.fn.__code__, names)


class EmulatedKernel:
    """Stands where a Gluon kernel of 4 warps is launched: ``kernel[grid](...)``.

    Args:
        kernel: the ``gluon.jit`` function.
        output: name of the argument it writes; filled with NaN before.
        unordered: see :class:`Block`.
        record: keep shared accesses.
    """

    def __init__(
        self, kernel: Any, output: str, unordered: Any = None, record: bool = False
    ) -> None:
        self._kernel = kernel
        self._output = output
        self._unordered = unordered
        self._record = record
        self.blocks: list[Block] = []
        self.written: torch.Tensor | None = None
        self.constants: dict[str, Any] = {}

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
        def launch(*arguments: Any, num_warps: int, **constants: Any) -> None:
            assert num_warps == 4
            memory = GlobalMemory()
            hosts = [a.cpu() if isinstance(a, torch.Tensor) else a for a in arguments]
            place = self._kernel.arg_names.index(self._output)
            self.written, self.constants = hosts[place], constants
            self.written.fill_(float("nan"))
            values = [_argument(host, memory) for host in hosts]
            for program in np.ndindex(*grid):
                block = Block(32 * num_warps, memory, self._unordered, self._record)
                python_of(self._kernel, Language(block, program))(*values, **constants)
                self.blocks.append(block)
            arguments[place].copy_(self.written)

        return launch


def _argument(host: Any, memory: GlobalMemory) -> Any:
    if isinstance(host, torch.Tensor):
        array = host.view(torch.int16) if host.element_size() == 2 else host
        address = memory.place(array.numpy())
        return Pointer(np.asarray(address, np.int64), _BITS[host.dtype])
    return host if host == 1 else Value(np.int32(host))
