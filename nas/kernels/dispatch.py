"""Dispatch: which path, tile and split a product takes, from what was measured on this device.

A table (:class:`surrogates.KernelTable`, JSON, built by ``nas tune``) holds the fastest path of every measured (dtype, shape, tokens,
pattern). Where a weight may keep a dense copy, the table's winner is never slower than the dense product it was measured beside, because
the dense product was a candidate. Without a table: the format's own product where it has one, a Triton kernel for at most 64 tokens
on a GPU once it has proved itself there, else the dense weight rebuilt.
"""

from __future__ import annotations

import functools
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from nas.kernels.epilogue import Epilogue
from nas.kernels.formats import PackedWeight
from nas.kernels.paths import is_interpreted, paths, run_path, takes_triton
from search_spaces import Sparsity
from surrogates.kernel_table import KernelTable, slug

if TYPE_CHECKING:
    from nas.kernels.triton.configs import TileConfig

SHIPPED = Path(__file__).parent / "tables"
MAX_DECODE_TOKENS = 64  # above, a product is bound by arithmetic and the dense library wins

_tables: dict[str, KernelTable | None] = {}


@dataclass(frozen=True)
class Choice:
    """A path and, for Triton, its tile configuration (None: the format's default)."""

    path: str
    config: TileConfig | None = None


def use_table(table: KernelTable | None, device: str) -> None:
    """Dispatch by this table on the named device (its own name or ``device_slug``); None forgets it and the shipped one."""
    global _tables
    _tables = _tables | {
        slug(device): table
    }  # a new one: weights know by it that their choices are old
    choose_cached.cache_clear()


def table_for(device: torch.device) -> KernelTable | None:
    """The table in use on a device: the one of :func:`use_table`, else the shipped one, else None."""
    name = slug(processor_name(device))
    if name not in _tables:
        path = SHIPPED / f"{name}.json"
        _tables[name] = KernelTable.load(path) if path.exists() else None
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
    return names[0] if names else device.type


def choose(packed: PackedWeight, num_tokens: int) -> Choice:
    """The path a product takes.

    Args:
        packed: the weight, where it is.
        num_tokens: rows of the input, one or more.
    """
    known = packed.choices.get(num_tokens)
    if known is not None and known[0] is _tables and known[1] == packed.may_copy:
        return known[2]  # type: ignore[no-any-return]
    tensor = packed.values_tensor
    found = Choice("dense")
    if packed.format != "dense":
        found = choose_cached(
            packed.sparsity, packed.format, packed.shape, tensor.dtype, tensor.device, num_tokens,
            packed.may_copy, paths(packed, num_tokens),
        )  # fmt: skip
    packed.choices[num_tokens] = (_tables, packed.may_copy, found)
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
) -> Choice:
    """:func:`choose` by what it depends on."""
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
    is_decode = "triton" in possible and num_tokens <= MAX_DECODE_TOKENS
    if is_decode and not is_interpreted() and is_trusted(str(sparsity), stored, dtype, device):
        return Choice("triton")
    return Choice("native" if "native" in possible else "unpack")


@functools.cache
def is_trusted(sparsity: str, stored: str, dtype: torch.dtype, device: torch.device) -> bool:
    """Whether the format's kernel gives the right numbers on this device: tried once, on a small weight, before its first use."""
    from nas.kernels.formats import pack
    from nas.kernels.reference import reference_linear

    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(256, 512, generator=generator).to(device, dtype)
    x = torch.randn(3, 512, generator=generator).to(device, dtype)
    packed = pack(weight, sparsity, format=stored)
    if not takes_triton(packed):
        return False
    exact = reference_linear(packed, x)
    try:
        error = (run_path("triton", packed, x, Epilogue()).double() - exact).abs().max()
    except Exception as problem:  # a kernel that does not build here is not used here
        warnings.warn(
            f"the Triton kernel of {stored} does not run on {device}: {problem}; the weight is rebuilt instead",
            stacklevel=2,
        )
        return False
    is_right = bool(error <= 4 * torch.finfo(dtype).eps * exact.abs().max())
    if not is_right:
        warnings.warn(
            f"the Triton kernel of {stored} is wrong on {device} (error {float(error):.1e}); the weight is rebuilt instead",
            stacklevel=2,
        )
    return is_right
