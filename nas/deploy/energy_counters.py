"""Energy counters of the hardware: which ones this machine lets us read, and what they say.

========  =============================================  ==========  ====================================================
counter   of                                             updates     where it is read
========  =============================================  ==========  ====================================================
``nvml``  one NVIDIA GPU, its memory included            ~ 100 ms    ``nvmlDeviceGetTotalEnergyConsumption``, mJ (Volta on)
``rapl``  all CPU packages; without the memory modules   ~ 1 ms      ``/sys/class/powercap/intel-rapl:N/energy_uj``
========  =============================================  ==========  ====================================================

Power readings are not used: they see a quarter of the time on recent GPUs (2312.02741). A counter that is not there, or may not be
read, is said with its reason; nothing stands in for it.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import psutil

POWERCAP = Path("/sys/class/powercap")
# Packages alone: ``intel-rapl:0:0`` (cores) is a part of ``intel-rapl:0``, and ``intel-rapl-mmio:0`` is the same package once more.
_PACKAGE = re.compile(r"intel-rapl:\d+")


class EnergyCounter(Protocol):
    """Energy that a device has used since some moment in the past.

    Attributes:
        name: ``nvml`` or ``rapl``.
        update_s: seconds between two updates of the counter, at most.
    """

    @property
    def name(self) -> str: ...

    @property
    def update_s(self) -> float: ...

    def read(self) -> tuple[int, ...]:
        """The raw counters now."""

    def joules(self, before: tuple[int, ...], after: tuple[int, ...]) -> float:
        """Joules between two readings."""

    def state(self) -> Mapping[str, float]:
        """Clocks in MHz and temperature in degrees Celsius, as far as the machine tells."""


@dataclass(frozen=True)
class RaplCounter:
    """Sum over the CPU packages of Linux's powercap interface; a counter that wraps around once in between is followed.

    Args:
        files: ``energy_uj`` of each package.
        ranges_uj: microjoules at which each starts again from 0.
    """

    files: tuple[Path, ...]
    ranges_uj: tuple[int, ...]
    name: str = "rapl"
    update_s: float = 1e-3

    def read(self) -> tuple[int, ...]:
        """Microjoules of each package."""
        return tuple(int(path.read_text(encoding="ascii")) for path in self.files)

    def joules(self, before: tuple[int, ...], after: tuple[int, ...]) -> float:
        """Joules between two readings, minutes apart at most: a range lasts that long."""
        steps = zip(before, after, self.ranges_uj, strict=True)
        return 1e-6 * sum(b - a + (size if b < a else 0) for a, b, size in steps)

    def state(self) -> dict[str, float]:
        """What psutil reads of the CPU; virtual machines seldom pass the sensors on."""
        found = {}
        frequency = psutil.cpu_freq()
        if frequency is not None and frequency.current:
            found["clock_mhz"] = float(frequency.current)
        sensors: dict[str, list[Any]] = getattr(psutil, "sensors_temperatures", dict)()
        readings = [
            s.current for n in ("coretemp", "k10temp", "zenpower") for s in sensors.get(n, ())
        ]
        if readings:
            found["temperature_c"] = float(max(readings))
        return found


@dataclass(frozen=True)
class NvmlCounter:
    """The energy counter of one GPU, through NVIDIA's management library.

    Args:
        handle: of the GPU.
        nvml: the module ``pynvml``, initialized.
    """

    handle: Any
    nvml: Any = field(repr=False)
    name: str = "nvml"
    update_s: float = 0.1

    def read(self) -> tuple[int, ...]:
        """Millijoules since the driver was loaded."""
        return (int(self.nvml.nvmlDeviceGetTotalEnergyConsumption(self.handle)),)

    def joules(self, before: tuple[int, ...], after: tuple[int, ...]) -> float:
        """Joules between two readings."""
        return 1e-3 * (after[0] - before[0])

    def state(self) -> dict[str, float]:
        """Clocks and temperature; what a board does not tell is left out."""
        nvml, found = self.nvml, {}
        reads: dict[str, Callable[[], Any]] = {
            "clock_mhz": lambda: nvml.nvmlDeviceGetClockInfo(self.handle, nvml.NVML_CLOCK_SM),
            "memory_clock_mhz": lambda: nvml.nvmlDeviceGetClockInfo(
                self.handle, nvml.NVML_CLOCK_MEM
            ),
            "temperature_c": lambda: nvml.nvmlDeviceGetTemperature(
                self.handle, nvml.NVML_TEMPERATURE_GPU
            ),
        }
        for name, read in reads.items():
            try:
                found[name] = float(read())
            except nvml.NVMLError:
                continue
        return found


def find_counter(device: str, *, powercap: Path = POWERCAP, nvml: Any = None) -> EnergyCounter:
    """The counter of a device.

    Args:
        device: ``cpu`` or ``cuda``.
        powercap: folder of Linux's powercap interface.
        nvml: the module ``pynvml``; imported by default.

    Raises:
        ValueError: naming every counter that was looked for, and why it cannot be read.
    """
    if device not in ("cpu", "cuda"):
        raise ValueError(f"expected device 'cpu' or 'cuda', got {device!r}")
    try:
        return _rapl(powercap) if device == "cpu" else _nvml(nvml)
    except _Absent as reason:
        other = "nvml counts GPUs only" if device == "cpu" else "rapl counts CPUs only"
        raise ValueError(
            f"expected an energy counter of {device!r}, got none: {reason}; {other}"
        ) from reason


class _Absent(Exception):
    """Why a counter cannot be read."""


def _rapl(powercap: Path) -> RaplCounter:
    if not powercap.is_dir():
        raise _Absent(
            f"rapl: no {powercap} (not Linux, no RAPL driver, or a virtual machine that does not pass it on)"
        )
    files, ranges = [], []
    for folder in sorted(powercap.iterdir()):
        if not _PACKAGE.fullmatch(folder.name):
            continue
        path = folder / "energy_uj"
        try:
            if not (folder / "name").read_text(encoding="ascii").startswith("package"):
                continue  # psys, the whole board, holds the packages once more
            ranges.append(int((folder / "max_energy_range_uj").read_text(encoding="ascii")))
            int(path.read_text(encoding="ascii"))
        except PermissionError as error:
            raise _Absent(
                f"rapl: no permission to read {path}; as root: chmod a+r {powercap}/intel-rapl:*/energy_uj"
            ) from error
        except (OSError, ValueError) as error:
            raise _Absent(f"rapl: {path} cannot be read ({error})") from error
        files.append(path)
    if not files:
        raise _Absent(f"rapl: no CPU package among the zones of {powercap}")
    return RaplCounter(tuple(files), tuple(ranges))


def _nvml(nvml: Any) -> NvmlCounter:
    if nvml is None:
        try:
            nvml = importlib.import_module("pynvml")
        except ImportError as error:
            raise _Absent("nvml: no module pynvml; pip install nvidia-ml-py") from error
    try:
        nvml.nvmlInit()
        counter = NvmlCounter(_handle(nvml), nvml)
        counter.read()
    except nvml.NVMLError as error:
        raise _Absent(
            f"nvml: {error} (the counter needs NVIDIA's driver and Volta or later)"
        ) from error
    return counter


def _handle(nvml: Any) -> Any:
    """Of torch's current GPU: NVML counts all boards, torch only those of CUDA_VISIBLE_DEVICES."""
    import torch

    if not torch.cuda.is_available():
        return nvml.nvmlDeviceGetHandleByIndex(0)
    uuid = torch.cuda.get_device_properties(torch.cuda.current_device()).uuid
    return nvml.nvmlDeviceGetHandleByUUID(f"GPU-{uuid}")


def power_limit(device: str, powercap: Path = POWERCAP) -> tuple[float, str] | None:
    """Watts that the device may draw for long, and where that was read; None where nothing says.

    Args:
        device: ``cpu`` or ``cuda``.
        powercap: folder of Linux's powercap interface.
    """
    try:
        if device == "cuda":
            counter = _nvml(None)
            try:
                milliwatts = counter.nvml.nvmlDeviceGetEnforcedPowerLimit(counter.handle)
            except counter.nvml.NVMLError:
                return None
            return 1e-3 * float(milliwatts), "read: nvmlDeviceGetEnforcedPowerLimit"
        limits = [
            int((path.parent / "constraint_0_power_limit_uw").read_text(encoding="ascii"))
            for path in _rapl(powercap).files
        ]
    except (_Absent, OSError, ValueError):
        return None
    return 1e-6 * sum(limits), f"read: long-term limits of the packages in {powercap}"
