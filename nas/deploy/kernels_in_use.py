"""Which kernel table dispatch and profile read on a device: the one asked for, else the one in use."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from nas.deploy.runtime import Runtime, device_name
from nas.kernels.dispatch import table_for, use_table
from surrogates import KernelTable
from surrogates.kernel_table import slug


def read_kernels(path: Path, device: str) -> KernelTable:
    """A table of this machine's processor.

    Raises:
        ValueError: if there is no such file, it is damaged, or was measured on another processor.
    """
    try:
        table = KernelTable.load(path)
    except FileNotFoundError:
        raise ValueError(
            f"expected a kernel table in {path}, found none; make it with: nas tune --out {path}"
        ) from None
    here = device_name(device)
    if slug(table.device) != slug(here):
        raise ValueError(
            f"expected a kernel table of {here} in {path}, got one of {table.device}; make one here with: nas tune"
        )
    return table


def kernels_in_use(device: str) -> KernelTable | None:
    """The table that dispatch reads on ``cpu`` or ``cuda``; None where there is none."""
    return table_for(torch.device(device))


def warn_of_threads(kernels: KernelTable | None, runtime: Runtime) -> None:
    """Warn where a table was measured with other threads than the models run with: other paths may be the fastest."""
    threads = None if kernels is None else kernels.provenance.get("threads")
    if runtime.device == "cpu" and threads not in (None, runtime.threads):
        warnings.warn(
            f"the kernel table was measured with {threads} threads, models run with {runtime.threads}: "
            f"make one of their own with nas tune --threads {runtime.threads}",
            stacklevel=3,
        )


@contextlib.contextmanager
def use_kernels(path: Path | None, device: str) -> Iterator[None]:
    """Dispatch by the table of a file inside the block, and by the one before after it; None changes nothing.

    Raises:
        ValueError: as :func:`read_kernels`.
    """
    if path is None:
        yield
        return
    name, before = device_name(device), kernels_in_use(device)
    use_table(read_kernels(path, device), name)
    try:
        yield
    finally:
        use_table(before, name)


def describe(kernels: KernelTable | None) -> dict[str, Any] | None:
    """What a table is, as JSON: its device, date, number of rows and fingerprint."""
    if kernels is None:
        return None
    return {
        "device": kernels.device,
        "date": kernels.provenance.get("date"),
        "rows": len(kernels.rows),
        "fingerprint": kernels.fingerprint,
    }
