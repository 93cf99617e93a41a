"""Measuring a model on the device: wall time of decode and prefill, and peak memory."""

from __future__ import annotations

import statistics
import time
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from nas.deploy.runtime import Runtime
from nas.model import GPT
from search_spaces import Family, Workload


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


def cache_tokens(workload: Workload) -> int:
    """Tokens per sequence that the KV cache has to hold: a decode step adds one to the context."""
    return workload.context + (workload.phase == "decode")


def check_workload(family: Family, workload: Workload | None) -> None:
    """Refuse a workload that is longer than the models' context.

    Raises:
        ValueError: naming the longest that fits.
    """
    if workload is not None and cache_tokens(workload) > family.context_length:
        raise ValueError(
            f"expected a workload of at most {family.context_length} tokens, got {workload} which needs "
            f"{cache_tokens(workload)}; use a shorter context"
        )


def step_function(model: GPT, workload: Workload) -> Callable[[], Tensor]:
    """A call that performs the workload once.

    Decode resets the cache to ``context`` tokens and reads one more per sequence; prefill reads the
    prompts into an empty cache.

    Raises:
        ValueError: if the workload is longer than the model's context.
    """
    check_workload(model.family, workload)
    device = model.embedding.device
    generator = torch.Generator().manual_seed(0)
    length = 1 if workload.phase == "decode" else workload.context
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
        ValueError: if the workload does not fit the model's context.
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
    with runtime.active():
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
    with runtime.active():
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
        with _LiveStorages() as live:
            step()
        return int(held + live.peak_bytes)


class _LiveStorages(TorchDispatchMode):
    """Sum of the storages that operators allocated inside the block and that are still alive, and its maximum."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.live_bytes = self.peak_bytes = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        before = {self._pointer(t) for t in tree_iter((args, kwargs)) if isinstance(t, Tensor)}
        result = func(*args, **(kwargs or {}))
        for tensor in tree_iter(result):
            if not isinstance(tensor, Tensor) or tensor.layout != torch.strided:
                continue
            pointer = self._pointer(tensor)
            if pointer in before or pointer in self._known or not pointer:
                continue
            storage = tensor.untyped_storage()
            self._known.add(pointer)
            self.live_bytes += storage.nbytes()
            self.peak_bytes = max(self.peak_bytes, self.live_bytes)
            weakref.finalize(storage, self._free, pointer, storage.nbytes())
        return result

    @staticmethod
    def _pointer(tensor: Tensor) -> int:
        return tensor.untyped_storage().data_ptr() if tensor.layout == torch.strided else 0

    def _free(self, pointer: int, num_bytes: int) -> None:
        self._known.discard(pointer)
        self.live_bytes -= num_bytes
