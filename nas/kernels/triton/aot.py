"""Every program that dispatch may launch, compiled without a GPU.

The programs are not listed by hand: :func:`launch.launches` is asked, with tensors that have a shape but no memory, what it would launch
for a large weight, so that what is compiled here cannot drift from what runs.
"""

from __future__ import annotations

import hashlib
import importlib
import itertools
import tokenize
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from nas.kernels.epilogue import Epilogue
from nas.kernels.triton.aot_weights import PER, Weight, all_weights
from nas.kernels.triton.configs import TOKEN_BLOCKS, tile_key
from nas.kernels.triton.launch import Launch, launches
from nas.kernels.triton.sass import MachineCode, compile_for

ARCHITECTURES = (80, 90)
_RANK = 64
_CSR_TOKENS = (1, 2, 4)
_BFLOAT16_LEVELS = (
    0.75,
    0.8,
)  # one weight of each assembly kernel: its instructions differ by a word
_NAMES = {torch.float16: "fp16", torch.bfloat16: "bf16", torch.float32: "fp32", torch.int32: "i32", torch.uint8: "u8"}  # fmt: skip


@dataclass(frozen=True)
class Program:
    """One kernel with all that it is compiled for.

    Args:
        kernel: name of its function.
        module: it is defined in.
        weight: it is launched for.
        tokens: of one program, BN.
        dtype: of weight and input.
        capability: 80 for sm_80.
        arguments: types by name; what is absent is a constant.
        constants: values by name.
        num_warps: of a block.
        num_stages: of the software pipeline.
        weights: that a turn of its loop over K consumes; 0 where turns differ or there is no loop.
    """

    kernel: str
    module: str
    weight: Weight
    tokens: int
    dtype: str
    capability: int
    arguments: Mapping[str, str]
    constants: Mapping[str, Any]
    num_warps: int
    num_stages: int
    weights: int

    @property
    def per(self) -> str:
        """What the weights are: ``stored`` ones or those of the ``dense`` matrix."""
        return PER[self.weight.stored]

    @property
    def name(self) -> str:
        """The program in words: what is stored and launched how."""
        weight, config = self.weight, self.weight.config
        launched = f"N={self.tokens} {self.dtype} sm_{self.capability}"
        if not self.kernel.endswith("_kernel"):  # it prepares or sums, whatever the weight
            options = {k: v for k, v in self.constants.items() if k in ("SPLIT", "TENSOR_ORDER")}
            parts = [self.kernel, *(f"{k}={v}" for k, v in options.items())]
            return " ".join([*parts, *filter(None, [self.epilogue]), launched])
        parts = [weight.stored, tile_key(weight.sparsity, weight.stored)]
        if "ITEMS" in self.constants:
            level = f"{weight.sparsity.level:.2f}" if weight.hints else "any"
            items = f"items {self.constants['FULL']}-{self.constants['ITEMS']}"
            parts = [weight.stored, level, items]
        if not weight.is_even:
            parts.append("uneven")
        if self.epilogue:
            parts.append(self.epilogue)
        tiles = f"{config.block_m or weight.sparsity.size or 128}x{config.block_k}"
        warps = f"{self.num_warps} warps {self.num_stages} stages"
        return " ".join([*parts, config.kernel, tiles, warps, launched])

    @property
    def epilogue(self) -> str:
        """What follows the product, in words; empty where nothing does."""
        if "bias" not in self.arguments:
            return ""
        words = [self.constants["ACTIVATION"] or "", "gate" * ("gate" in self.arguments)]
        if "outer" in self.arguments:
            words.insert(0 if self.constants["ADAPTER_FIRST"] else len(words), "adapter")
        return "+".join(["bias", *filter(None, words)])

    @property
    def identity(self) -> str:
        """What tells it from another program."""
        parts = self.kernel, self.arguments, self.constants, self.num_warps, self.num_stages
        return f"{parts} {self.capability}"

    def compile(self) -> MachineCode:
        """Its machine code's figures.

        Raises:
            triton.CompilationError: if it does not compile.
        """
        kernel = getattr(importlib.import_module(self.module), self.kernel)
        return compile_for(
            kernel, self.arguments, self.constants, self.capability,
            self.num_warps, self.num_stages, has_loop=self.weights > 0,
        )  # fmt: skip


def programs(
    architectures: Sequence[int] = ARCHITECTURES,
    blocks: Sequence[int] = TOKEN_BLOCKS,
    edges: bool = True,
    epilogues: bool = True,
) -> list[Program]:
    """All programs of all tile configurations: products first, then what follows, prepares and sums.

    Args:
        architectures: 80 and 90 for sm_80 and sm_90.
        blocks: numbers of tokens, each a block of its own; CSR has its own.
        edges: see :func:`aot_weights.all_weights`.
        epilogues: also, for the most tokens and weights that the tiles divide, with what can follow: see :func:`_finished`.
    """
    found: dict[str, Program] = {}
    for weight in all_weights(edges):
        is_assembly = weight.config.kernel == "assembly"
        with_bfloat16 = is_assembly and weight.sparsity.level in _BFLOAT16_LEVELS
        for dtype in (torch.float16, torch.bfloat16)[: 1 + with_bfloat16]:
            numbers = _CSR_TOKENS if weight.stored == "csr" else blocks
            for tokens in numbers:
                launched = _launched(weight, tokens, dtype)
                is_largest = weight.is_even and tokens == max(numbers)
                if epilogues and is_largest and dtype == torch.float16:
                    launched += _finished(weight, tokens, dtype)
                for launch, weights in launched:
                    for capability in architectures:
                        program = _program(launch, weight, dtype, capability, weights)
                        found.setdefault(program.identity, program)
    return sorted(found.values(), key=lambda program: not program.weights)


def sources_digest() -> str:
    """16 hexadecimal digits of the kernels' code without comments, and of all they are compiled for: equal ones mean equal programs."""
    every = programs()
    parts = [program.identity for program in every]
    modules = {program.module for program in every} | {"nas.kernels.triton.epilogue"}
    for name in sorted(modules):
        with tokenize.open(str(importlib.import_module(name).__file__)) as file:
            lines = file.readlines()
        for token in tokenize.generate_tokens(iter(lines).__next__):
            if token.type == tokenize.COMMENT:
                line, column = token.start
                lines[line - 1] = lines[line - 1][:column]
        parts += [line.rstrip() for line in lines if line.strip()]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def _launched(weight: Weight, tokens: int, dtype: torch.dtype) -> list[tuple[Launch, int]]:
    """What a product launches, each with the weights of a turn of its loop."""
    with FakeTensorMode():
        packed = weight.pack(dtype, "cuda")
        x = torch.empty(tokens, weight.shape[1], dtype=dtype, device="cuda")
        # alone, so that the epilogue is in the kernel; shared by many, so that parts are summed
        _, wanted = launches(packed, x, Epilogue(), replace(weight.config, split=1))
        _, shared = launches(packed, x, Epilogue(), replace(weight.config, split=16))
    product = next(i for i, launch in enumerate(wanted) if "SPLIT" in launch.keywords)
    return [
        (launch, weight.weights_of_turn if i == product else 0)
        for i, launch in enumerate([*wanted, shared[-1]])
    ]


def _finished(weight: Weight, tokens: int, dtype: torch.dtype) -> list[tuple[Launch, int]]:
    """What is launched with a bias and what takes most registers behind it: erf, gate, adapter before or after them, in all ways."""
    with FakeTensorMode():
        packed = weight.pack(dtype, "cuda")
        (rows, columns) = packed.shape
        x = torch.empty(tokens, columns, dtype=dtype, device="cuda")
        lora = x.new_empty(_RANK, columns), x.new_empty(rows, _RANK)
        bias, gate = x.new_empty(rows), x.new_empty(tokens, rows)
        found: list[Launch] = []
        for activation, beside, (adapter, is_first) in itertools.product(
            (None, "gelu"), (None, gate), ((None, False), (lora, False), (lora, True))
        ):
            if activation is None and beside is None:  # the others hold as much, and more
                continue
            epilogue = Epilogue(bias, activation, adapter, is_first, beside)
            for split in (1, 16):
                found += launches(packed, x, epilogue, replace(weight.config, split=split))[1]
    return [
        (launch, 0)
        for launch in found
        if launch.kernel.fn.__name__ == "sum_parts" or launch.keywords.get("SPLIT") == 1
    ]


def _program(
    launch: Launch, weight: Weight, dtype: torch.dtype, capability: int, weights: int
) -> Program:
    arguments: dict[str, str] = {}
    constants = dict(launch.keywords)
    num_warps, num_stages = constants.pop("num_warps"), constants.pop("num_stages", 3)
    for name, value in zip(launch.kernel.arg_names, launch.arguments, strict=False):
        if isinstance(value, torch.Tensor):
            arguments[name] = f"*{_NAMES[value.dtype]}:16"
        elif value is None or value == 1:  # Triton takes a 1 for a constant
            constants[name] = value
        else:
            arguments[name] = "i32" if value % 16 else "i32:16"
    return Program(
        kernel=launch.kernel.__name__,
        module=launch.kernel.fn.__module__,  # also where it is interpreted
        weight=weight,
        tokens=constants.get("BN", 8),  # fragments have blocks of 8
        dtype=_NAMES[dtype],
        capability=capability,
        arguments=arguments,
        constants=constants,
        num_warps=num_warps,
        num_stages=num_stages,
        weights=weights,
    )
