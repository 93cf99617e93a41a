"""Time short calls in turns and over cold caches, as a model makes them.

A decoder reads all its other weights before it reads one of them again. Timed over and over, the same small product is up to four
times as fast as inside a model, because its weight then stays in the cache nearest to the core.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping

import torch

Call = Callable[[], object]

WARMUP = 3
REPEATS = {"cpu": 31, "cuda": 25}
# Written before every call. On the CPU more than a core's own cache and less than the shared one, which a small model stays in.
FLUSH_BYTES = {"cpu": 8 * 2**20, "cuda": 256 * 2**20}


def time_in_turns(
    calls: Mapping[str, Call], device: str, repeats: int | None = None
) -> dict[str, float]:
    """Median microseconds of each call.

    Every call is timed once a round, so that all of them see the same clocks, temperature and
    neighbours, and the order shifts from round to round: no call always follows the same other one.

    Args:
        calls: by name.
        device: ``cpu`` (wall clock) or ``cuda`` (events).
        repeats: rounds; 31 on the CPU and 25 on a GPU by default.
    """
    names, repeats = list(calls), repeats or REPEATS[device]
    rounds = [_shifted(names, number) for number in range(repeats)]
    for call in calls.values():
        for _ in range(WARMUP):
            call()
    times = _cuda(calls, rounds) if device == "cuda" else _cpu(calls, rounds)
    return {name: statistics.median(found) for name, found in times.items()}


def _cpu(calls: Mapping[str, Call], rounds: list[list[str]]) -> dict[str, list[float]]:
    flush = torch.empty(FLUSH_BYTES["cpu"], dtype=torch.uint8)
    times: dict[str, list[float]] = {name: [] for name in calls}
    for number, names in enumerate(rounds):
        for name in names:
            flush.fill_(number % 251)  # by all threads: every core's cache
            start = time.perf_counter()
            calls[name]()
            times[name].append(1e6 * (time.perf_counter() - start))
    return times


def _cuda(calls: Mapping[str, Call], rounds: list[list[str]]) -> dict[str, list[float]]:
    l2_bytes = int(torch.cuda.get_device_properties().L2_cache_size)
    size = max(2 * l2_bytes, FLUSH_BYTES["cuda"])
    flush = torch.empty(size, dtype=torch.uint8, device="cuda")
    torch.cuda.synchronize()
    events: dict[str, list[tuple[torch.cuda.Event, torch.cuda.Event]]] = {n: [] for n in calls}
    # No wait inside: the queue stays full, so that the device never idles between the two events of a call.
    for number, names in enumerate(rounds):
        for name in names:
            pair = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            flush.fill_(number % 251)
            pair[0].record()
            calls[name]()
            pair[1].record()
            events[name].append(pair)
    torch.cuda.synchronize()
    return {n: [1e3 * a.elapsed_time(b) for a, b in pairs] for n, pairs in events.items()}


def _shifted(names: list[str], number: int) -> list[str]:
    first = number % len(names)
    return names[first:] + names[:first]
