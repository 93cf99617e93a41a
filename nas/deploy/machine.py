"""This machine as a DeviceSpec: every figure measured here, in seconds, with what it was measured by as its source.

Bandwidths are those of what a decoder does, a dense product of one token, which reads its weight once. A figure that cannot be
measured or read here is absent. Every call is timed in three rounds, as medians, and the least disturbed round counts. On a CPU the
figures are of so many threads, on a GPU of the whole device.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import math
import statistics
from pathlib import Path
from typing import Any

import psutil
import torch

from nas.deploy.energy_counters import POWERCAP, power_limit
from nas.deploy.machine_gauges import GEMM, STEP, gemm, launches, least_disturbed, reads
from nas.deploy.machine_products import sparse_products
from nas.deploy.runtime import Runtime, available_memory, provenance
from nas.files import PathLike, write_json_atomic
from surrogates import DeviceSpec

MIB = 2**20
_SETS_MIB = (4, 8, 16, 32, 64, 128, 256, 512)  # working sets that may still lie in a cache
_STREAM_MIB = 1024  # one that does not
_CACHE_FOLDER = Path("/sys/devices/system/cpu/cpu0/cache")
_LANES = 128  # thread-instructions a multiprocessor issues per clock (CUDA tuning guides)


def measure_machine(runtime: Runtime | None = None, *, powercap: Path = POWERCAP) -> DeviceSpec:
    """Peak rates, bandwidths, caches, launch cost, cost of sparse products and power limit of this machine.

    Takes about ten seconds and up to a gibibyte of memory.

    Args:
        runtime: device and threads; one thread of the CPU by default. Its dtype does not matter.
        powercap: folder of Linux's powercap interface.

    Returns:
        The machine, each figure with a source that starts with ``measured:`` or says where it was read.

    Raises:
        ValueError: if the device is absent.
    """
    runtime = runtime or Runtime()
    with runtime.active():
        return _cpu(runtime, powercap) if runtime.device == "cpu" else _cuda()


def machine_of(folder: PathLike | None, runtime: Runtime) -> DeviceSpec:
    """The machine as measured before in a folder's ``machine.json``, else measured now and kept there.

    Args:
        folder: of a profile; None keeps nothing.
        runtime: device and threads; a file of others is replaced.

    Raises:
        ValueError: if the file is no machine.
    """
    here = provenance(runtime)
    path = None if folder is None else Path(folder) / "machine.json"
    if path is not None and path.exists():
        try:
            stored = json.loads(path.read_text(encoding="utf-8"))
            spec = DeviceSpec.from_json(stored["spec"])
            found = (stored["device"], stored["runtime"]["device"], stored["runtime"]["threads"])
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"expected a measured machine in {path}, got {error}; delete the file"
            ) from error
        if found == (here["device"], runtime.device, runtime.threads):
            return spec
    spec = measure_machine(runtime)
    if path is not None:
        write_json_atomic(path, here | {"spec": spec.to_json()})
    return spec


def cache_sizes(folder: Path = _CACHE_FOLDER) -> dict[int, int]:
    """Bytes of the data caches of the first core by level, as Linux has them; empty elsewhere."""
    found: dict[int, int] = {}
    units = {"K": 2**10, "M": 2**20, "G": 2**30}
    for index in folder.glob("index*"):
        with contextlib.suppress(OSError, ValueError, KeyError):
            if (index / "type").read_text().strip() == "Instruction":
                continue
            text = (index / "size").read_text().strip()
            level = int((index / "level").read_text())
            found[level] = int(text[:-1]) * units[text[-1]] if text[-1] in units else int(text)
    return found


def effective_cache(rates: dict[int, float], memory_rate: float) -> tuple[int, float] | None:
    """The largest working set that is still read faster than memory, and the rate at which such sets are read.

    What counts as faster is a rate nearer, by ratio, to that of the smaller sets than to that of memory. A cache that virtual machines
    share is larger on paper than for any of them.

    Args:
        rates: bytes per second by bytes of the working set.
        memory_rate: bytes per second of a set that no cache holds.

    Returns:
        Bytes and bytes per second; None where nothing is read at 1.2 times memory's rate.
    """
    sizes = sorted(rates)
    inside: list[int] = []
    for size in sizes:
        typical = statistics.median([rates[s] for s in inside] or [rates[size]])
        if rates[size] < math.sqrt(typical * memory_rate) or rates[size] < 1.2 * memory_rate:
            break
        inside.append(size)
    if not inside:
        return None
    return inside[-1], statistics.median(rates[s] for s in inside)


def _measured(what: str) -> str:
    return f"measured: {what}, {datetime.datetime.now(datetime.UTC):%Y-%m-%d}"


def _cpu(runtime: Runtime, powercap: Path) -> DeviceSpec:
    caches, threads = cache_sizes(), f"{runtime.threads} thread{'s' * (runtime.threads > 1)}"
    # A set that the cores' own caches hold says nothing about the one they share.
    own = caches.get(2, 0) * runtime.threads
    stream = min(_STREAM_MIB, available_memory("cpu") // 4 // MIB) * MIB
    sets = [size * MIB for size in _SETS_MIB if own < size * MIB <= stream // 2]
    dtypes, products = ("float32", "bfloat16"), sparse_products()
    found = least_disturbed(
        [gemm("cpu", dtypes), reads("cpu", [*sets, stream]), launches(runtime), products.gauge]
    )
    rates = {size: size / found[str(size)] for size in sets}
    memory_rate, overhead = stream / found[str(stream)], found["launch"]
    cache = effective_cache(rates, memory_rate)
    peaks = {name: 2 * GEMM["cpu"] ** 3 / found[name] for name in dtypes}
    source = {
        "peak_flops": _measured(f"product of {GEMM['cpu']}^2 matrices on {threads}"),
        "bandwidth_bytes_s": _measured(
            f"dense product of one token with {stream // MIB} MiB of weights on {threads}"
        ),
        "op_overhead_s": _measured(f"{STEP} on {threads}"),
        "memory_bytes": "read: psutil.virtual_memory().total",
        "num_units": "read: cores this process may use",
    }
    figures: dict[str, Any] = {
        "memory_bytes": int(psutil.virtual_memory().total),
        "num_units": runtime.threads,
    }
    if cache is not None:
        listed = f"; the system lists {max(caches.values()) // MIB} MiB" if caches else ""
        figures |= {"cache_bytes": cache[0], "cache_bandwidth_bytes_s": cache[1]}
        figures["on_chip_bytes"] = cache[0]
        held = f"largest of {', '.join(str(s // MIB) for s in rates)} MiB that is read faster than memory"
        source["cache_bytes"] = source["on_chip_bytes"] = _measured(held + listed)
        source["cache_bandwidth_bytes_s"] = _measured(
            f"median over working sets of {min(rates) // MIB} to {cache[0] // MIB} MiB on {threads}"
        )
    limit = power_limit("cpu", powercap)
    if limit is not None:
        figures["power_w"], source["power_w"] = limit
    rate = memory_rate if cache is None else cache[1]
    figures["sparse_s"] = products.beyond_roofline(found, overhead, rate)
    source["sparse_s"] = _measured(f"products of one token in turns on {threads}")
    return DeviceSpec(runtime_name(runtime), peaks, memory_rate, overhead, source=source, **figures)


def runtime_name(runtime: Runtime) -> str:
    """Name of a machine as measured: the processor, and the threads where they matter."""
    name: str = provenance(runtime)["device"]
    return name if runtime.device == "cuda" else f"{name}, {runtime.threads} threads"


def _cuda() -> DeviceSpec:
    card = torch.cuda.get_device_properties(torch.cuda.current_device())
    l2_bytes = int(card.L2_cache_size)
    units = int(card.multi_processor_count)
    stream = min(4 * _STREAM_MIB, available_memory("cuda") // 4 // MIB) * MIB
    sets = [l2_bytes // part // 32768 * 32768 for part in (8, 4, 2)]
    dtypes = ("float32", "bfloat16", "float16")
    found = least_disturbed(
        [gemm("cuda", dtypes), reads("cuda", [*sets, stream]), launches(Runtime("cuda"))]
    )
    memory_rate = stream / found[str(stream)]
    read = "read: torch.cuda.get_device_properties"
    figures: dict[str, Any] = {
        "memory_bytes": int(card.total_memory),
        "num_units": units,
        "cache_bytes": l2_bytes,
        "cache_bandwidth_bytes_s": max(memory_rate, *(size / found[str(size)] for size in sets)),
        "on_chip_bytes": units * int(card.shared_memory_per_multiprocessor),
    }
    product = "dense product of one token"
    source = dict.fromkeys(figures, read) | {
        "peak_flops": _measured(f"product of {GEMM['cuda']}^2 matrices, CUDA events"),
        "bandwidth_bytes_s": _measured(
            f"{product} with {stream // MIB} MiB of weights, CUDA events"
        ),
        "cache_bandwidth_bytes_s": _measured(f"{product} with an eighth to half of the L2 cache"),
        "op_overhead_s": _measured(f"{STEP}, wall clock"),
    }
    clock_khz = getattr(card, "clock_rate", None)
    if clock_khz and (card.major, card.minor) >= (8, 0):  # where the project's kernels run
        figures["instructions_s"] = units * _LANES * 1e3 * float(clock_khz)
        source["instructions_s"] = f"{read}: multiprocessors x {_LANES} lanes x clock rate"
    limit = power_limit("cuda")
    if limit is not None:
        figures["power_w"], source["power_w"] = limit
    return DeviceSpec(
        runtime_name(Runtime("cuda")),
        {name: 2 * GEMM["cuda"] ** 3 / found[name] for name in dtypes},
        memory_rate,
        found["launch"],
        source=source,
        **figures,
    )
