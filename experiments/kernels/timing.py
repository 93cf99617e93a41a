"""Time calls in turns on the same machine: CUDA events over a cold L2 cache, or the wall clock on the CPU."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch

Call = Callable[[], object]

WARMUP = 3
# A buffer this many times the L2 cache is written before every call; the time that takes also hides the launch.
_FLUSH_CACHES, _MIN_FLUSH_BYTES = 2, 256 * 2**20
_COPY_BYTES = {"cpu": 64 * 2**20, "cuda": 2**30}


@dataclass(frozen=True)
class Timing:
    """Microseconds of one call.

    Args:
        median_us: of the repeats.
        p20_us: 20th percentile.
        p80_us: 80th percentile.
        repeats: number of timed calls.
        captured: whether each call was the replay of a CUDA graph.
    """

    median_us: float
    p20_us: float
    p80_us: float
    repeats: int
    captured: bool = False

    @classmethod
    def of(cls, times_us: list[float], captured: bool = False) -> Timing:
        """Summarize repeats."""
        p20, median, p80 = (float(v) for v in np.percentile(times_us, (20, 50, 80)))
        return cls(median, p20, p80, len(times_us), captured)


def time_in_turns(
    calls: Mapping[str, Call], device: str, repeats: int, graphs: bool = False
) -> dict[str, Timing]:
    """Time every call once a round, so that all of them see the same clocks, temperature and neighbours.

    The order of a round shifts by one from round to round: no call always follows the same other one.
    On the CPU the caches stay as the calls leave them, since small weights are used from there.

    Args:
        calls: by name.
        device: ``cpu`` or ``cuda``.
        repeats: rounds.
        graphs: on a GPU, replay captured graphs where capture succeeds.
    """
    names = list(calls)
    with torch.inference_mode():
        if device == "cuda":
            return _cuda_rounds(calls, names, repeats, graphs)
        times: dict[str, list[float]] = {name: [] for name in names}
        for number in range(-WARMUP, repeats):
            for name in _shifted(names, number):
                start = time.perf_counter()
                calls[name]()
                elapsed = time.perf_counter() - start
                if number >= 0:
                    times[name].append(1e6 * elapsed)
    return {name: Timing.of(times[name]) for name in names}


def copy_bandwidth(device: str, repeats: int = 10, num_bytes: int | None = None) -> float:
    """Bytes per second, read and written, of a large copy on the device: what no product can exceed."""
    count = num_bytes or _COPY_BYTES[device]
    source = torch.randint(0, 255, (count,), dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    timing = time_in_turns({"copy": lambda: target.copy_(source)}, device, repeats)["copy"]
    return 2 * source.numel() / (1e-6 * timing.median_us)


def flush_bytes(l2_bytes: int) -> int:
    """Bytes to write so that nothing of the last call is left in a cache of ``l2_bytes``."""
    return max(_FLUSH_CACHES * l2_bytes, _MIN_FLUSH_BYTES)


def _shifted(names: list[str], number: int) -> list[str]:
    first = number % len(names)
    return names[first:] + names[:first]


def _cuda_rounds(
    calls: Mapping[str, Call], names: list[str], repeats: int, graphs: bool
) -> dict[str, Timing]:
    l2_bytes = int(torch.cuda.get_device_properties().L2_cache_size)
    flush = torch.empty(flush_bytes(l2_bytes), dtype=torch.uint8, device="cuda")
    for call in calls.values():
        for _ in range(WARMUP):
            call()
    replays = {name: capture(calls[name]) if graphs else None for name in names}
    run = {name: replays[name] or calls[name] for name in names}
    for name in names:
        run[name]()
    torch.cuda.synchronize()
    events: dict[str, list[tuple[torch.cuda.Event, torch.cuda.Event]]] = {n: [] for n in names}
    # No wait inside: the queue stays full, so that the device never idles between the two events of a call.
    for number in range(repeats):
        for name in _shifted(names, number):
            pair = (torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True))
            flush.fill_(number % 251)
            pair[0].record()
            run[name]()
            pair[1].record()
            events[name].append(pair)
    torch.cuda.synchronize()
    return {
        name: Timing.of(
            [1e3 * start.elapsed_time(end) for start, end in events[name]],
            replays[name] is not None,
        )
        for name in names
    }


def capture(call: Call) -> Call | None:
    """The replay of a call as a CUDA graph, or None if the call cannot be captured (it waits for the device, say)."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.stream(stream):
            call()  # what a first call on a stream sets up must not be captured
        torch.cuda.current_stream().wait_stream(stream)
        torch.cuda.synchronize()
        with torch.cuda.graph(graph):
            call()
    except RuntimeError:
        torch.cuda.synchronize()
        return None
    return graph.replay
