"""Runtime: how a model is executed while it is measured, and what the machine calls itself."""

from __future__ import annotations

import contextlib
import datetime
import os
import platform
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import psutil
import torch

from nas.kernels.dispatch import processor_name

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class Runtime:
    """Device, arithmetic and execution of a measurement.

    Args:
        device: ``cpu`` or ``cuda``.
        dtype: of weights and activations: ``float32``, ``bfloat16`` or ``float16``.
        threads: of one operator on the CPU.
        compiled: whether the forward pass went through ``torch.compile``.

    Raises:
        ValueError: if a field is outside its domain or the device is not there.
    """

    device: str = "cpu"
    dtype: str = "float32"
    threads: int = 1
    compiled: bool = False

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise ValueError(f"expected dtype in {tuple(DTYPES)}, got {self.dtype!r}")
        if self.threads < 1:
            raise ValueError(f"expected threads of 1 or more, got {self.threads}")
        check_device(self.device)

    def __str__(self) -> str:
        execution = "compiled" if self.compiled else "eager"
        threads = (
            f", {self.threads} thread{'s' * (self.threads > 1)}" if self.device == "cpu" else ""
        )
        return f"{self.dtype} {execution}{threads}"

    @property
    def torch_dtype(self) -> torch.dtype:
        """The dtype as torch names it."""
        return DTYPES[self.dtype]

    @property
    def value_bytes(self) -> int:
        """Bytes of one weight."""
        return self.torch_dtype.itemsize

    @contextlib.contextmanager
    def active(self) -> Iterator[None]:
        """Use this runtime's threads inside the block, and the caller's again after it."""
        before = torch.get_num_threads()
        torch.set_num_threads(self.threads)
        try:
            with torch.inference_mode():
                yield
        finally:
            torch.set_num_threads(before)

    def to_json(self) -> dict[str, Any]:
        """Fields as JSON values."""
        return asdict(self)


def check_device(device: str) -> None:
    """Refuse a device that is unknown or absent.

    Raises:
        ValueError: naming what there is.
    """
    if device not in ("cpu", "cuda"):
        raise ValueError(f"expected device 'cpu' or 'cuda', got {device!r}")
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError(
            "expected a CUDA device, found none (torch.cuda.is_available() is False); use device='cpu'"
        )


def device_name(device: str) -> str:
    """Model name of the processor."""
    return processor_name(torch.device(device))


def available_memory(device: str) -> int:
    """Bytes that this process may still use on the device."""
    if device == "cuda":
        # what torch holds in reserve counts as used to the driver and is free to us
        reserve = torch.cuda.memory_reserved() - torch.cuda.memory_allocated()
        return int(torch.cuda.mem_get_info()[0] + reserve)
    return int(psutil.virtual_memory().available)


def available_threads() -> int:
    """Cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def provenance(runtime: Runtime) -> dict[str, Any]:
    """Where, when and with what a number was measured."""
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "device": device_name(runtime.device),
        "runtime": runtime.to_json(),
        "versions": versions(),
    }


def versions() -> dict[str, str]:
    """Versions that a measured number depends on."""
    found = {"python": platform.python_version(), "torch": torch.__version__}
    if torch.version.cuda and torch.cuda.is_available():
        found["cuda"] = torch.version.cuda
    return found
