"""Runtime, latency, memory and dense paths: clocks and devices are replaced where a number has to be exact, and real otherwise."""

from __future__ import annotations

import contextlib
import itertools
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import nas.deploy.measure as measure_module
from nas.deploy.baseline import DensePaths, measure_dense_paths
from nas.deploy.measure import (
    Timing,
    measure_latency,
    measure_peak_memory,
    step_function,
    time_calls,
    time_step,
)
from nas.deploy.runtime import Runtime, check_device, device_name, provenance
from nas.model import Supernet, extract
from search_spaces import Architecture, Workload, costs
from tests.toy_space import SHORT, SPACE, toy_supernet


@pytest.fixture(scope="module")
def supernet() -> Supernet:
    return toy_supernet()


# --- runtime


def test_unknown_and_absent_devices_are_refused() -> None:
    with pytest.raises(ValueError, match="expected device 'cpu' or 'cuda', got 'tpu'"):
        check_device("tpu")
    with pytest.raises(ValueError, match="got 'tpu'"):
        Runtime("tpu")
    if not torch.cuda.is_available():
        with pytest.raises(
            ValueError, match="expected a CUDA device, found none.*use device='cpu'"
        ):
            Runtime("cuda")


@pytest.mark.parametrize("fields", [{"dtype": "int8"}, {"threads": 0}])
def test_runtime_refuses_wrong_fields(fields: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="expected"):
        Runtime(**fields)


def test_runtime_uses_its_threads_and_gives_the_callers_back() -> None:
    before = torch.get_num_threads()
    with contextlib.suppress(RuntimeError), Runtime(threads=before + 1).active():
        assert torch.get_num_threads() == before + 1
        assert torch.is_inference_mode_enabled()
        raise RuntimeError
    assert torch.get_num_threads() == before


def test_provenance_names_the_processor_and_the_versions() -> None:
    found = provenance(Runtime())
    assert found["versions"]["torch"] == torch.__version__
    assert json.loads(json.dumps(found)) == found
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        assert device_name("cpu") in cpuinfo.read_text()


# --- latency


class Clock:
    """A clock that advances by the next of the given seconds while a call runs."""

    def __init__(self, seconds: list[float]) -> None:
        self.now, self.calls, self._seconds = 0.0, 0, itertools.cycle(seconds)

    def perf_counter(self) -> float:
        return self.now

    def call(self) -> None:
        self.calls += 1
        self.now += next(self._seconds)


@pytest.mark.parametrize(
    ("min_repeats", "min_seconds", "expected"),
    [(7, 0.0, 7), (2, 2.0, 8), (20, 2.0, 20)],  # calls take 0.25 s
)
def test_a_call_is_repeated_often_and_long_enough(
    monkeypatch: pytest.MonkeyPatch, min_repeats: int, min_seconds: float, expected: int
) -> None:
    clock = Clock([0.25])
    monkeypatch.setattr(measure_module.time, "perf_counter", clock.perf_counter)
    found = time_calls(
        clock.call, "cpu", min_repeats=min_repeats, min_seconds=min_seconds, warmup=3
    )
    assert clock.calls == expected + 3
    assert found == Timing(250.0, 250.0, 250.0, expected)


def test_timing_is_the_median_after_the_warmup(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = [9.0, 9.0, *(n / 1024 for n in (5, 1, 4, 2, 3, 6, 11, 8, 9, 10, 7))]
    clock = Clock(seconds)
    monkeypatch.setattr(measure_module.time, "perf_counter", clock.perf_counter)
    found = time_calls(clock.call, "cpu", min_repeats=11, min_seconds=0.0, warmup=2)
    of = [1e3 * s for s in seconds[2:]]
    percentiles = np.percentile(of, [50, 20, 80], method="nearest")
    assert [found.median_ms, found.p20_ms, found.p80_ms] == percentiles.tolist()


@pytest.mark.parametrize("workload", [SHORT, Workload("prefill", 2, 32)], ids=str)
def test_real_measurements_are_positive_and_ordered(
    supernet: Supernet, workload: Workload, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measure_module, "time_calls", time_calls)  # with all its repeats
    found = measure_latency(extract(supernet, SPACE.largest), workload, Runtime())
    assert 0.0 < found.p20_ms <= found.median_ms <= found.p80_ms < math.inf
    assert found.repeats >= 20


def test_a_step_can_be_repeated_and_reads_what_the_workload_says(supernet: Supernet) -> None:
    model = extract(supernet, SPACE.largest)
    with torch.inference_mode():
        for workload, length in ((Workload("decode", 3, 20), 1), (Workload("prefill", 2, 9), 9)):
            step = step_function(model, workload)
            first = step().clone()
            assert first.shape == (workload.batch, length, SPACE.family.vocab_size)
            assert torch.equal(step(), first)  # the cache was set back


@pytest.mark.parametrize(
    ("workload", "fits"),
    [
        (Workload("decode", 1, 31), True),
        (Workload("decode", 1, 32), False),  # the new token has no room
        (Workload("prefill", 1, 32), True),
        (Workload("prefill", 1, 33), False),
    ],
    ids=str,
)
def test_workloads_longer_than_the_context_are_refused(
    supernet: Supernet, workload: Workload, fits: bool
) -> None:
    model = extract(supernet, SPACE.smallest)
    if fits:
        step_function(model, workload)()
        return
    with pytest.raises(
        ValueError, match=r"expected a workload of at most 32 tokens, got .* 33; use"
    ):
        step_function(model, workload)


@pytest.mark.parametrize("batch", [10**18, 10**17], ids=["bytes", "overflow"])
def test_a_workload_that_cannot_be_allocated_is_refused(supernet: Supernet, batch: int) -> None:
    model = extract(supernet, SPACE.largest)
    for phase in ("decode", "prefill"):
        with pytest.raises(ValueError, match=r"fits into memory, got .*; use a smaller batch"):
            step_function(model, Workload(phase, batch, 16))  # type: ignore[arg-type]


def test_only_errors_of_memory_are_called_so() -> None:
    def fail(error: Exception) -> Callable[[], Any]:
        def step() -> Any:
            raise error

        return step

    with pytest.raises(ValueError, match="fits into memory, got one that does not: CUDA out of"):
        time_step(fail(torch.OutOfMemoryError("CUDA out of memory. Tried")), Runtime())
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        time_step(fail(RuntimeError("shapes cannot be multiplied")), Runtime())


# --- memory


def test_peak_memory_by_hand(supernet: Supernet) -> None:
    """Without attention and FFN, the peak is when the logits are made: input and output of the last norm are still there."""
    bare = next(a for a in _all_architectures() if not any(c.attention or c.ffn for c in a.layers))
    model = extract(supernet, bare)
    batch, length, dim = 3, 32, bare.embed_dim
    weights = (64 + 32) * dim + 2 * dim  # tokens, positions, final norm
    activations = 2 * batch * length * dim + batch * length * 64
    workload = Workload("prefill", batch, length)
    found = {measure_peak_memory(model, workload, Runtime()) for _ in range(3)}
    assert found == {4 * (weights + activations)}


@pytest.mark.parametrize(
    "workload", [Workload("decode", 2, 20), Workload("prefill", 3, 32)], ids=str
)
@pytest.mark.parametrize(
    "architecture", [SPACE.largest, SPACE.smallest], ids=["largest", "smallest"]
)
def test_peak_memory_is_what_the_allocator_records(
    supernet: Supernet, architecture: Architecture, workload: Workload
) -> None:
    model = extract(supernet, architecture)
    heads = [c.num_heads if c.attention else 0 for c in architecture.layers]
    room = workload.context + (workload.phase == "decode")
    held = costs(architecture, SPACE.family).weight_bytes
    held += sum(2 * 4 * workload.batch * h * room * SPACE.family.head_dim for h in heads)
    counted = measure_peak_memory(model, workload, Runtime()) - held
    recorded = _recorded_peak(step_function(model, workload))
    assert counted <= recorded <= counted + 64  # scratch inside a library call is not counted


def _recorded_peak(step: Callable[[], Any]) -> int:
    """Peak of the CPU allocations that PyTorch's profiler saw during one call."""
    activity = torch.profiler.ProfilerActivity.CPU
    with torch.inference_mode():
        step()
        with torch.profiler.profile(activities=[activity], profile_memory=True) as recording:
            step()
    results = recording.profiler.kineto_results  # type: ignore[union-attr]
    events = [e for e in results.events() if e.name() == "[memory]"]
    sizes = [e.nbytes() for e in sorted(events, key=lambda e: e.start_ns())]
    assert sizes
    return max(itertools.accumulate(sizes))


def _all_architectures() -> Iterator[Architecture]:
    rng = np.random.default_rng(0)
    yield from (SPACE.sample(rng) for _ in range(200))


# --- dense paths


def test_the_fastest_path_is_the_least_median() -> None:
    medians = {
        Runtime(dtype="float32", threads=1): 3.0,
        Runtime(dtype="bfloat16", threads=1): 4.0,
        Runtime(dtype="float32", threads=1, compiled=True): 2.0,
    }
    timings = {r: Timing(ms, ms, ms, 1) for r, ms in medians.items()}
    paths = DensePaths(timings, {"float16 eager": "not available: no"}, {}, {})
    assert medians[paths.fastest()] == 2.0
    assert medians[paths.fastest(compiled=False)] == 3.0
    assert paths.to_json() == {str(r): ms for r, ms in medians.items()} | paths.unavailable


def test_without_a_compiler_the_reason_is_recorded(
    supernet: Supernet, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: Any, **kwargs: Any) -> Any:
        raise RuntimeError("no C++ compiler\nand a long story")

    monkeypatch.setattr(torch, "compile", fail)
    found = measure_dense_paths(supernet, SHORT, "cpu", threads=1, seconds=0.0)
    assert {(r.dtype, r.compiled) for r in found.timings} == {
        ("float32", False),
        ("bfloat16", False),
    }
    [(path, reason)] = found.unavailable.items()
    assert "compiled" in path
    assert reason == "not available: RuntimeError: no C++ compiler"


def test_a_compiler_that_fails_at_the_first_call_is_recorded_too(
    supernet: Supernet, monkeypatch: pytest.MonkeyPatch
) -> None:
    def compile_badly(step: Any, **kwargs: Any) -> Callable[[], Any]:
        def call() -> Any:
            raise OSError("g++ not found")

        return call

    monkeypatch.setattr(torch, "compile", compile_badly)
    found = measure_dense_paths(supernet, SHORT, "cpu", threads=1, seconds=0.0)
    assert all(not runtime.compiled for runtime in found.steps)
    assert list(found.unavailable.values()) == ["not available: OSError: g++ not found"]
