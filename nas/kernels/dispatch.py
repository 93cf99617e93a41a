"""Dispatch: which path, tile and split a product takes, from what was measured on this device.

A table (:class:`surrogates.KernelTable`, JSON, built by ``nas tune``) holds the fastest path of every measured (dtype, shape, tokens,
pattern). Where a weight may keep a dense copy, the table's winner is never slower than the dense product it was measured beside, because
the dense product was a candidate. Without a table: the format's own product where it has one, a Triton kernel for at most 64 tokens
on a GPU once it has proved itself there, else the dense weight rebuilt.
"""

from __future__ import annotations

import functools
import math
import platform
import re
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from nas.kernels.epilogue import Epilogue
from nas.kernels.formats import PackedWeight
from nas.kernels.paths import is_interpreted, paths, run_path
from search_spaces import Sparsity
from surrogates.kernel_table import KernelTable, slug

if TYPE_CHECKING:
    from nas.kernels.triton.configs import TileConfig

SHIPPED = Path(__file__).parent / "tables"
MAX_DECODE_TOKENS = 64  # above, a product is bound by arithmetic and the dense library wins

MAX_CHOICES = 1024  # numbers of tokens that a weight remembers a path for

_tables: dict[str, KernelTable | None] = {}
_version = 0  # of the tables: a choice of another one is old


@dataclass(frozen=True)
class Choice:
    """A path and, for Triton, its tile configuration (None: the format's default)."""

    path: str
    config: TileConfig | None = None


def use_table(table: KernelTable | None, device: str | torch.device | None = None) -> None:
    """Dispatch by this table; None forgets it and the shipped one.

    Args:
        table: of :func:`nas.tune`, or ``KernelTable.load(path)``.
        device: ``cpu``, ``cuda`` or a processor's name; by default the table's own.

    Raises:
        ValueError: if it is no table, of another device, or names a tile configuration that is not compiled ahead of time.
    """
    if table is not None and not isinstance(table, KernelTable):
        raise ValueError(
            f"expected a KernelTable, got {table!r:.80}; read it with KernelTable.load"
        )
    if device is None:
        if table is None:
            raise ValueError(
                "expected the device whose table is to be forgotten, such as device='cpu'"
            )
        device = table.device
    name = str(device)
    if re.fullmatch(r"cpu|cuda(:[0-9]+)?", name):
        name = processor_name(torch.device(name))
    if table is not None and slug(table.device) != slug(name):
        raise ValueError(
            f"expected a table of {name!r}, got one of {table.device!r}; make it there with nas tune"
        )
    if table is not None:
        check_configs(table)
    global _tables, _version
    _tables = _tables | {slug(name): table}
    _version += 1
    choose_cached.cache_clear()


def check_configs(table: KernelTable) -> None:
    """Refuse tile configurations that are in no list: they may not build, or race.

    Raises:
        ValueError: naming the row.
    """
    from nas.kernels.triton.configs import TileConfig, tile_configs

    for number, row in enumerate(table.rows):
        if row.config is None:
            continue
        known = tile_configs(Sparsity.parse(row.sparsity), row.format)
        try:
            config = TileConfig.from_json(row.config)
            is_known = replace(config, split=0) in known and 0 <= config.split <= 16
        except (TypeError, AttributeError):
            is_known = False
        if not is_known:
            raise ValueError(
                f"row {number}: expected a tile configuration of {row.sparsity} ({row.format}), got {row.config!r}; tune again"
            )


def table_for(device: torch.device) -> KernelTable | None:
    """The table in use on a device: the one of :func:`use_table`, else the shipped one, else None."""
    name = slug(processor_name(device))
    if name not in _tables:
        path = SHIPPED / f"{name}.json"
        table = KernelTable.load(path) if path.exists() else None
        if table is not None:
            check_configs(table)
        _tables[name] = table
    return _tables[name]


@functools.cache
def processor_name(device: torch.device) -> str:
    """Model name of the processor behind a torch device."""
    if device.type == "cuda":
        return str(torch.cuda.get_device_name(device))
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            names = [
                line.partition(":")[2].strip() for line in file if line.startswith("model name")
            ]
    except OSError:
        names = []
    return names[0] if names else platform.processor() or platform.machine()


def choose(packed: PackedWeight, num_tokens: int) -> Choice:
    """The path a product takes.

    Args:
        packed: the weight, where it is.
        num_tokens: rows of the input, one or more.
    """
    version = _version
    known = packed.choices.get(num_tokens)
    if known is not None and known[0] == version and known[1] == packed.may_copy:
        choice: Choice = known[2]
        return choice
    found = Choice("dense")
    if packed.format != "dense":
        found = choose_cached(
            packed.sparsity, packed.format, packed.shape, *packed.kind, num_tokens, packed.may_copy,
            paths(packed, num_tokens), version,
        )  # fmt: skip
    _remember(packed, num_tokens, found, version)
    return found


@functools.lru_cache(maxsize=65536)
def choose_cached(
    sparsity: Sparsity,
    stored: str,
    shape: tuple[int, int],
    dtype: torch.dtype,
    device: torch.device,
    num_tokens: int,
    may_copy: bool,
    possible: tuple[str, ...],
    version: int,
) -> Choice:
    """:func:`choose` by what it depends on; ``version`` is that of the tables."""
    table = table_for(device)
    if table is not None:
        allowed = [p for p in possible if may_copy or p != "dense"]
        found = table.best(
            str(dtype).removeprefix("torch."), shape, num_tokens, str(sparsity), stored, allowed
        )
        if found is not None:
            config = None
            if found.config is not None:
                from nas.kernels.triton.configs import TileConfig

                config = TileConfig.from_json(found.config)
            return Choice(found.path, config)
    if "triton" in possible and num_tokens <= MAX_DECODE_TOKENS and not is_interpreted():
        config = proven_config(_representative(sparsity), stored, dtype, device)
        if config is not None:
            return Choice("triton", config)
    return Choice("native" if "native" in possible else "unpack")


def run_triton(
    packed: PackedWeight, x_NK: Tensor, epilogue: Epilogue, config: TileConfig | None
) -> Tensor:
    """The Triton path; where the card has no room for a tile, the next one, and at last the dense weight rebuilt."""
    from nas.kernels.triton.configs import tile_configs

    version = _version
    try:
        return run_path("triton", packed, x_NK, epilogue, config)
    except Exception as problem:
        if not _is_of_the_card(problem):
            raise
        first = problem
    for other in tile_configs(packed.sparsity, packed.format, has_assembly=x_NK.is_cuda):
        if other == config:
            continue
        try:
            y = run_path("triton", packed, x_NK, epilogue, other)
        except Exception as problem:
            if not _is_of_the_card(problem):
                raise
            continue
        _remember(packed, len(x_NK), Choice("triton", other), version)
        return y
    warnings.warn(
        f"no tile of {packed} fits this card ({first}); the weight is rebuilt instead", stacklevel=2
    )
    _remember(packed, len(x_NK), Choice("unpack"), version)
    return run_path("unpack", packed, x_NK, epilogue)


def _remember(packed: PackedWeight, num_tokens: int, choice: Choice, version: int) -> None:
    if len(packed.choices) >= MAX_CHOICES:
        packed.choices.clear()
    packed.choices[num_tokens] = (version, packed.may_copy, choice)


def _is_of_the_card(problem: Exception) -> bool:
    """Whether a kernel failed because this card or this Triton cannot take it."""
    names = {kind.__name__ for kind in type(problem).__mro__}
    return bool(names & {"OutOfResources", "CompilationError", "PTXASError", "ModuleNotFoundError"})


def _representative(sparsity: Sparsity) -> str:
    """One level stands for all: the kernel is the same."""
    if sparsity.pattern == "unstructured":
        return "unstructured:0.70"
    return f"{sparsity.pattern}{sparsity.size}:0.75" if sparsity.size else str(sparsity)


@functools.cache
def proven_config(
    sparsity: str, stored: str, dtype: torch.dtype, device: torch.device
) -> TileConfig | None:
    """The first tile configuration that gives the right numbers on this device; None if none does.

    Tried once before the first use: an even and an uneven weight, few and 64 tokens, split and whole, with bias, activation and gate.
    """
    if device.type == "cuda" and torch.cuda.is_current_stream_capturing():
        raise RuntimeError(
            "expected a first product before a CUDA graph is captured, since it proves the kernel; run the model once before"
        )
    from nas.kernels.triton.configs import tile_configs

    parsed = Sparsity.parse(sparsity)
    for config in tile_configs(parsed, stored, has_assembly=device.type == "cuda"):
        try:
            errors = _errors(parsed, stored, dtype, device, config)
        except Exception as problem:  # a kernel that does not build here is not used here
            warnings.warn(f"{config} of {stored} does not run on {device}: {problem}", stacklevel=2)
            continue
        if max(errors) <= 1.0:
            return config
        warnings.warn(
            f"{config} of {stored} is wrong on {device} ({max(errors):.1f} times the tolerance); it is not used",
            stacklevel=2,
        )
    return None


def _errors(
    sparsity: Sparsity, stored: str, dtype: torch.dtype, device: torch.device, config: TileConfig
) -> list[float]:
    """Errors of a configuration's kernels in units of what is allowed."""
    from nas.kernels.formats import pack
    from nas.kernels.reference import reference_linear

    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).to(device, dtype)

    rows = max(sparsity.size, 8)
    columns = {"block": sparsity.size, "n:m": sparsity.m}.get(sparsity.pattern, 1)
    found = []
    # even tiles, then edges in both directions
    for shape in ((256, 1024), (rows * 3, columns * (1 + 700 // columns))):
        packed = pack(random(*shape), sparsity, format=stored)
        for num_tokens, split in ((3, 1), (64, 2)):
            x = random(num_tokens, shape[1])
            epilogue = Epilogue(random(shape[0]), "gelu", None, False, random(num_tokens, shape[0]))
            exact = reference_linear(packed, x, epilogue)
            y = run_path("triton", packed, x, epilogue, replace(config, split=split))
            allowed = 6 * torch.finfo(dtype).eps * exact.abs().max()
            error = float((y.double() - exact).abs().max() / allowed)
            found.append(error if math.isfinite(error) else math.inf)
    return found
