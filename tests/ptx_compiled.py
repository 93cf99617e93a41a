"""Whole kernels as Triton compiles them, without a GPU: its PTX runs in the emulator, branches and all.

This holds what :mod:`tests.kernel_emulator` takes for granted: how Triton packs the operands of an inline assembly, which registers its
compiler lets share a name, and the index arithmetic after its optimizations.
"""

from __future__ import annotations

import ast
import atexit
import importlib
import json
import os
import subprocess
import sys
import traceback
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.experimental.gluon._runtime import GluonASTSource

from tests.ptx_emulator import Block
from tests.ptx_entry import run_entry
from tests.ptx_memory import GlobalMemory

_TYPES = {
    torch.float16: "*fp16", torch.bfloat16: "*bf16", torch.int16: "*i16", torch.uint8: "*u8", torch.int32: "*i32", torch.float32: "*fp32",
}  # fmt: skip


class CompiledKernel:
    """Stands where a kernel is launched: ``kernel[grid](...)`` compiles for a card that need not be there, and emulates the PTX.

    Args:
        kernel: a jitted function of Triton or Gluon.
        capability: 80 for sm_80.
        output: name of the argument it writes; filled with NaN before.
        unordered: see :class:`Block`.
    """

    def __init__(self, kernel: Any, capability: int, output: str, unordered: Any = None) -> None:
        self._kernel = kernel
        self._capability = capability
        self._output = output
        self._unordered = unordered
        self.written: torch.Tensor | None = None
        self.constants: dict[str, Any] = {}

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
        def launch(*arguments: Any, num_warps: int, **constants: Any) -> None:
            hosts = [a.cpu() if isinstance(a, torch.Tensor) else a for a in arguments]
            place = self._kernel.arg_names.index(self._output)
            self.written, self.constants = hosts[place], constants
            if self.written.is_floating_point():
                self.written.fill_(float("nan"))
            memory = GlobalMemory()
            named = dict(zip(self._kernel.arg_names, hosts, strict=False))
            ptx = self._compile(named, constants, num_warps)
            parameters = [_parameter(host, memory) for host in hosts if not _is_constant(host)]
            for program in np.ndindex(*grid):
                run_entry(ptx, Block(32 * num_warps, memory, self._unordered), parameters, program)
            arguments[place].copy_(self.written)

        return launch

    def _compile(self, arguments: dict[str, Any], constants: dict[str, Any], num_warps: int) -> str:
        """As Triton's launcher would: ones are constants, and multiples of 16 are known to be."""
        names = self._kernel.arg_names
        signature = dict.fromkeys(names, "constexpr")
        values = {(names.index(name),): value for name, value in constants.items()}
        attributes = {}
        for name, argument in arguments.items():
            if _is_constant(argument):
                values[names.index(name),] = argument
                continue
            is_tensor = isinstance(argument, torch.Tensor)
            signature[name] = _TYPES[argument.dtype] if is_tensor else "i32"
            if is_tensor or argument % 16 == 0:
                attributes[names.index(name),] = [["tt.divisibility", 16]]
        return _compiled(
            repr((self._kernel.fn.__module__, self._kernel.fn.__name__, signature, values, attributes, self._capability, num_warps))
        )  # fmt: skip


@cache
def _compiler() -> subprocess.Popen[str]:
    """A process that compiles one request a line: where the interpreter is chosen, Triton does not, and a process is seconds of imports."""
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    process = subprocess.Popen(
        [sys.executable, "-c", "from tests.ptx_compiled import serve; serve()"],
        env=environment, cwd=Path(__file__).parents[1], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    atexit.register(process.kill)
    return process


@cache
def _compiled(wanted: str) -> str:
    """PTX of what :func:`compile_here` takes."""
    process = _compiler()
    assert process.stdin is not None
    assert process.stdout is not None
    print(wanted, file=process.stdin, flush=True)
    line = process.stdout.readline()
    assert line, "the compiler ended; its traceback is above"
    ptx, error = json.loads(line)
    assert ptx is not None, error
    return str(ptx)


def serve() -> None:
    """Answer each line of the standard input with a line of JSON: PTX and None, or None and what was raised."""
    answers, sys.stdout = sys.stdout, sys.stderr  # whatever is printed meanwhile is no answer
    for line in sys.stdin:
        try:
            answer = (compile_here(ast.literal_eval(line)), None)
        except Exception:
            answer = (None, traceback.format_exc())
        print(json.dumps(answer), file=answers, flush=True)


def compile_here(wanted: tuple[Any, ...]) -> str:
    """PTX of (module, kernel, signature, constants, attributes, capability, warps)."""
    module, name, signature, values, attributes, capability, num_warps = wanted
    kernel = getattr(importlib.import_module(module), name)
    source = GluonASTSource if kernel.is_gluon() else ASTSource
    compiled = triton.compile(
        source(kernel, signature, constexprs=values, attrs=attributes),
        target=GPUTarget("cuda", capability, 32),
        options={"num_warps": num_warps},
    )
    return str(compiled.asm["ptx"])


def _is_constant(argument: Any) -> bool:
    return isinstance(argument, int) and argument == 1


def _parameter(host: Any, memory: GlobalMemory) -> int:
    if isinstance(host, torch.Tensor):
        return memory.place((host.view(torch.int16) if host.element_size() == 2 else host).numpy())
    return int(host)
