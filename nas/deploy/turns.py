"""Time calls in turns on the same machine, over cold caches: CUDA events, or the wall clock on the CPU.

A decoder reads all its other weights before it reads one of them again. Timed over and over, the same small product is up to four
times as fast as inside a model, because its weight then stays in the cache nearest to the core.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch

Call = Callable[[], object]

WARMUP = 3
REPEATS = {"cpu": 31, "cuda": 25}
# Written before every call. On the CPU more than a core's own cache and less than the shared one, which a small model stays in; on a
# GPU at least twice the L2 cache, and the time that takes also hides the launch.
FLUSH_BYTES = {"cpu": 8 * 2**20, "cuda": 256 * 2**20}
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
    calls: Mapping[str, Call],
    device: str,
    repeats: int | None = None,
    *,
    graphs: bool = False,
    is_cold: bool = True,
) -> dict[str, Timing]:
    """Time every call once a round, so that all of them see the same clocks, temperature and neighbours.

    The order shifts by one from round to round: no call always follows the same other one.

    Args:
        calls: by name.
        device: ``cpu`` (wall clock) or ``cuda`` (events).
        repeats: rounds; 31 on the CPU and 25 on a GPU by default.
        graphs: on a GPU, replay captured graphs where capture succeeds.
        is_cold: write over the caches before every call; not for whole models, which do so themselves.
    """
    names, repeats = list(calls), repeats or REPEATS[device]
    rounds = [_shifted(names, number) for number in range(repeats)]
    with torch.inference_mode():
        for call in calls.values():
            for _ in range(WARMUP):
                call()
        if device == "cuda":
            return _cuda(calls, rounds, graphs, is_cold)
        return _cpu(calls, rounds, is_cold)


def _cpu(calls: Mapping[str, Call], rounds: list[list[str]], is_cold: bool) -> dict[str, Timing]:
    flush = torch.empty(FLUSH_BYTES["cpu"] if is_cold else 0, dtype=torch.uint8)
    times: dict[str, list[float]] = {name: [] for name in calls}
    for number, names in enumerate(rounds):
        for name in names:
            flush.fill_(number % 251)  # by all threads: every core's cache
            start = time.perf_counter()
            calls[name]()
            times[name].append(1e6 * (time.perf_counter() - start))
    return {name: Timing.of(found) for name, found in times.items()}


def _cuda(
    calls: Mapping[str, Call], rounds: list[list[str]], graphs: bool, is_cold: bool
) -> dict[str, Timing]:
    l2_bytes = int(torch.cuda.get_device_properties().L2_cache_size)
    flush = torch.empty(flush_bytes(l2_bytes) if is_cold else 0, dtype=torch.uint8, device="cuda")
    replays = {name: capture(call) if graphs else None for name, call in calls.items()}
    run = {name: replays[name] or call for name, call in calls.items()}
    for call in run.values():
        call()
    torch.cuda.synchronize()
    events: dict[str, list[tuple[torch.cuda.Event, torch.cuda.Event]]] = {n: [] for n in calls}
    # No wait inside: the queue stays full, so that the device never idles between the two events of a call.
    for number, names in enumerate(rounds):
        for name in names:
            pair = (torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True))
            flush.fill_(number % 251)
            pair[0].record()
            run[name]()
            pair[1].record()
            events[name].append(pair)
    torch.cuda.synchronize()
    return {
        name: Timing.of([1e3 * a.elapsed_time(b) for a, b in pairs], replays[name] is not None)
        for name, pairs in events.items()
    }


def copy_bandwidth(device: str, repeats: int = 10, num_bytes: int | None = None) -> float:
    """Bytes per second, read and written, of a large copy on the device: what no product can exceed."""
    count = num_bytes or _COPY_BYTES[device]
    source = torch.randint(0, 255, (count,), dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    timing = time_in_turns({"copy": lambda: target.copy_(source)}, device, repeats, is_cold=False)[
        "copy"
    ]
    return 2 * source.numel() / (1e-6 * timing.median_us)


def flush_bytes(l2_bytes: int) -> int:
    """Bytes to write so that nothing of the last call is left in a cache of ``l2_bytes``."""
    return max(2 * l2_bytes, FLUSH_BYTES["cuda"])


def _shifted(names: list[str], number: int) -> list[str]:
    first = number % len(names)
    return names[first:] + names[:first]


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
