"""Gauges: seconds of the few calls that a machine's figures are made of, in rounds, so that a disturbance spoils one round only."""

from __future__ import annotations

import functools
import statistics
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F

from nas.deploy.measure import prepare, time_calls
from nas.deploy.runtime import DTYPES, Runtime
from nas.model import Supernet, extract
from search_spaces import Family, SearchSpace, Workload
from surrogates import operators

ROUNDS = 3
BUSY = 1.5  # rounds that differ by this factor (the median over the gauges) are worth a warning
GEMM = {"cpu": 1024, "cuda": 4096}  # rows and columns of the square matrices
STEP = "decode step of six layers of 64 features, per launch,"

Gauge = Callable[[], Mapping[str, float]]


def least_disturbed(gauges: Sequence[Gauge], rounds: int = ROUNDS) -> dict[str, float]:
    """The least seconds of each call over the rounds: other programs only ever slow it down.

    Args:
        gauges: each gives seconds by name, once a round.
        rounds: apart in time, all gauges in each.
    """
    found: dict[str, list[float]] = {}
    for _ in range(rounds):
        for gauge in gauges:
            for name, value in gauge().items():
                found.setdefault(name, []).append(value)
    differs = statistics.median(max(v) / min(v) for v in found.values())
    if differs > BUSY:
        warnings.warn(
            f"expected a quiet machine, got rounds that differ by a factor of {differs:.2f}: other programs run on it; the best of "
            f"{rounds} rounds is taken. Delete machine.json to measure it again",
            stacklevel=2,
        )
    return {name: min(values) for name, values in found.items()}


def seconds(call: Callable[[], Any], device: str) -> float:
    """Median seconds of one call: wall clock on the CPU, CUDA events around ten calls on a GPU."""
    if device == "cpu":
        found = time_calls(call, device, min_repeats=5, min_seconds=0.03, warmup=2)
        return 1e-3 * found.median_ms
    call()
    times: list[float] = []
    for _ in range(5):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        for _ in range(10):
            call()
        end.record()
        torch.cuda.synchronize()
        times.append(1e-4 * start.elapsed_time(end))
    return statistics.median(times)


def gemm(device: str, dtypes: Sequence[str]) -> Gauge:
    """Product of square matrices by dtype."""
    size = GEMM[device]
    calls = {}
    for name in dtypes:
        a, b = (torch.ones(size, size, dtype=DTYPES[name], device=device) for _ in range(2))
        calls[name] = functools.partial(torch.mm, a, b)
    return lambda: {name: seconds(call, device) for name, call in calls.items()}


def reads(device: str, sizes: Sequence[int]) -> Gauge:
    """Dense product of one token with so many bytes of float32 weights, by ``str(size)``; sizes are multiples of 32 KiB."""
    features = 1024 if device == "cpu" else 8192
    weight = torch.ones(max(sizes) // (4 * features), features, device=device)
    x = torch.ones(1, features, device=device)
    parts = {str(size): weight[: size // (4 * features)] for size in sizes}
    return lambda: {
        name: seconds(functools.partial(F.linear, x, part), device) for name, part in parts.items()
    }


def launches(runtime: Runtime) -> Gauge:
    """Seconds per launch of a decode step whose products are so small that nothing but launching takes time."""
    space = SearchSpace(
        name="launches",
        family=Family(vocab_size=64, context_length=32, head_dim=32),
        embed_dims=(64,),
        depths=(6,),
        num_heads=(2,),
        ffn_ratios=(1.0,),
        biases=(False,),
    )
    model = extract(Supernet(space), space.largest).to(runtime.device)
    workload = Workload("decode", 1, 16)
    step = prepare(model, workload, Runtime(runtime.device, "float32", runtime.threads))
    number = sum(op.launches for op in operators(space.largest, space.family, workload))

    def gauge() -> dict[str, float]:
        found = time_calls(step, runtime.device, min_repeats=100, min_seconds=0.1, warmup=20)
        return {"launch": 1e-3 * found.median_ms / number}

    return gauge
