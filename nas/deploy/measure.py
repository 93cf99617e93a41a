"""Measuring a model on the device: wall time of decode and prefill, and peak memory."""

from __future__ import annotations

import contextlib
import re
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from nas.deploy.live_storages import LiveStorages
from nas.deploy.runtime import Runtime
from nas.deploy.workloads import cache_tokens, check_workload
from nas.model import GPT
from search_spaces import Workload

# what torch says when the allocator refuses, or when the number of bytes is no longer a number to it
_MEMORY = re.compile(r"allocate memory|out of memory|size calculation overflow", re.IGNORECASE)


@dataclass(frozen=True)
class Timing:
    """Wall times of one workload, in ms.

    Args:
        median_ms: of the repeats.
        p20_ms: 20th percentile.
        p80_ms: 80th percentile.
        repeats: number of timed calls.
    """

    median_ms: float
    p20_ms: float
    p80_ms: float
    repeats: int

    @classmethod
    def of(cls, times_ms: list[float]) -> Timing:
        """Summarize repeats."""
        ordered = sorted(times_ms)
        last = len(ordered) - 1
        return cls(
            statistics.median(ordered),
            ordered[round(0.2 * last)],
            ordered[round(0.8 * last)],
            len(ordered),
        )


@contextlib.contextmanager
def memory_errors(what: object = "one that does not") -> Iterator[None]:
    """Say of a failed allocation inside the block what it was for, and what to do.

    Args:
        what: was to be measured.

    Raises:
        ValueError: in place of torch's RuntimeError or OutOfMemoryError.
    """
    try:
        yield
    except RuntimeError as error:
        lines = str(error).splitlines() or [""]
        if not isinstance(error, torch.OutOfMemoryError) and not _MEMORY.search(lines[0]):
            raise
        raise ValueError(
            f"expected a workload that fits into memory, got {what}: {lines[0][:200]}; "
            "use a smaller batch or a shorter context"
        ) from error


def step_function(model: GPT, workload: Workload) -> Callable[[], Tensor]:
    """A call that performs the workload once.

    Decode resets the cache to ``context`` tokens and reads one more per sequence; prefill reads the
    prompts into an empty cache.

    Raises:
        ValueError: if the workload is longer than the model's context, or does not fit into memory.
    """
    check_workload(model.family, workload)
    device = model.embedding.device
    generator = torch.Generator().manual_seed(0)
    length = 1 if workload.phase == "decode" else workload.context
    with memory_errors(workload):
        tokens = torch.randint(
            model.family.vocab_size, (workload.batch, length), generator=generator
        ).to(device)
        cache = model.make_cache(workload.batch, cache_tokens(workload))
    start = workload.context if workload.phase == "decode" else 0

    def step() -> Tensor:
        cache.length = start
        logits: Tensor = model(tokens, cache)
        return logits

    return step


def prepare(model: GPT, workload: Workload, runtime: Runtime) -> Callable[[], Tensor]:
    """The workload as a call, compiled if the runtime says so (seconds to a minute at its first call)."""
    step = step_function(model, workload)
    return torch.compile(step, dynamic=False) if runtime.compiled else step


def measure_latency(model: GPT, workload: Workload, runtime: Runtime) -> Timing:
    """Median wall time of a workload after warm-up.

    Args:
        model: on the runtime's device, in its dtype.
        workload: what to time.
        runtime: threads and execution.

    Returns:
        Milliseconds per call: per new token of every sequence (decode) or per forward pass (prefill).

    Raises:
        ValueError: if the workload does not fit the model's context or the memory.
    """
    return time_step(prepare(model, workload, runtime), runtime)


def time_step(
    step: Callable[[], Tensor],
    runtime: Runtime,
    *,
    min_repeats: int = 20,
    min_seconds: float = 0.06,
    warmup: int = 3,
) -> Timing:
    """Time a prepared call.

    Args:
        step: from :func:`prepare`.
        runtime: it was prepared for.
        min_repeats: fewest timed calls.
        min_seconds: shortest total of the timed calls.
        warmup: calls before the first timed one.
    """
    with memory_errors(), runtime.active():
        return time_calls(
            step, runtime.device, min_repeats=min_repeats, min_seconds=min_seconds, warmup=warmup
        )


def time_calls(
    call: Callable[[], Any], device: str, *, min_repeats: int, min_seconds: float, warmup: int
) -> Timing:
    """Time a call until there are enough repeats and enough seconds."""
    for _ in range(warmup):
        call()
    times: list[float] = []
    total = 0.0
    while len(times) < min_repeats or total < min_seconds:
        if device == "cuda":
            torch.cuda.synchronize()
        start = time.perf_counter()
        call()
        if device == "cuda":
            torch.cuda.synchronize()
        elapsed = time.perf_counter() - start
        times.append(1e3 * elapsed)
        total += elapsed
    return Timing.of(times)


def measure_peak_memory(model: GPT, workload: Workload, runtime: Runtime) -> int:
    """Most bytes held in tensors at once during a workload: weights, KV cache, activations and rebuilt weights.

    On CUDA the allocator's own maximum; on the CPU the live storages counted operator by operator.
    Scratch memory inside a library call is not seen there.
    """
    step = step_function(model, workload)
    with memory_errors(workload), runtime.active():
        step()
        if runtime.device == "cuda":
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
            step()
            torch.cuda.synchronize()
            return int(torch.cuda.max_memory_allocated())
        held = (
            model.weight_bytes()
            + model.make_cache(workload.batch, cache_tokens(workload)).num_bytes
        )
        with LiveStorages() as live:
            step()
        return int(held + live.peak_bytes)
