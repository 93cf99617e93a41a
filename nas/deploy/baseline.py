"""The dense baseline: the largest architecture on the fastest dense path of the device, found by measuring all of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from nas.deploy.measure import Timing, prepare, time_step
from nas.deploy.runtime import Runtime, available_threads
from nas.model import GPT, Supernet, extract
from search_spaces import Workload


@dataclass(frozen=True)
class DensePaths:
    """What every dense path took.

    Args:
        timings: runtime to its timing.
        unavailable: path to the reason it could not run.
        steps: runtime to a call that performs the workload once, to time again later.
        models: dtype to the dense model.
    """

    timings: dict[Runtime, Timing]
    unavailable: dict[str, str]
    steps: dict[Runtime, Callable[[], Tensor]] = field(repr=False)
    models: dict[str, GPT] = field(repr=False)

    def fastest(self, *, compiled: bool | None = None) -> Runtime:
        """Runtime of the smallest median, among all paths or the (un)compiled ones."""
        allowed = {r: t for r, t in self.timings.items() if compiled in (None, r.compiled)}
        return min(allowed, key=lambda r: allowed[r].median_ms)

    def to_json(self) -> dict[str, Any]:
        """Path to ms, or to the reason it is missing."""
        measured: dict[str, Any] = {str(r): round(t.median_ms, 5) for r, t in self.timings.items()}
        return measured | self.unavailable


def measure_dense_paths(
    supernet: Supernet,
    workload: Workload,
    device: str,
    *,
    threads: int | None = None,
    compile: bool = True,
    seconds: float = 0.3,
) -> DensePaths:
    """Time the largest architecture in every dtype, thread count and execution that this device offers.

    Args:
        supernet: whose largest subnet is the baseline.
        workload: what to time.
        device: ``cpu`` or ``cuda``.
        threads: of one operator; by default one thread and all cores are both tried.
        compile: whether to try ``torch.compile`` on the fastest eager path (half a minute when its
            cache is cold).
        seconds: of timed calls per path.
    """
    cores = available_threads()
    counts = [threads] if threads else sorted({1, cores})
    found = DensePaths({}, {}, {}, {})
    for dtype in ["float32", "bfloat16"] + (["float16"] if device == "cuda" else []):
        for count in counts if device == "cpu" else [cores]:
            runtime = Runtime(device, dtype, count)
            if dtype not in found.models:
                largest = supernet.space.largest
                found.models[dtype] = extract(supernet, largest, dtype=runtime.torch_dtype).to(
                    device
                )
            _add(found, runtime, workload, seconds)
    if compile:
        best = found.fastest()
        runtime = Runtime(device, best.dtype, best.threads, compiled=True)
        try:
            _add(found, runtime, workload, seconds)
        except Exception as error:  # no compiler, no triton, an unsupported operator: the reason is part of the result
            reason = (str(error).splitlines() or [""])[0][:120]
            found.unavailable[str(runtime)] = f"not available: {type(error).__name__}: {reason}"
    return found


def _add(found: DensePaths, runtime: Runtime, workload: Workload, seconds: float) -> None:
    step = prepare(found.models[runtime.dtype], workload, runtime)
    found.timings[runtime] = time_step(step, runtime, min_seconds=seconds, warmup=10)
    found.steps[runtime] = step
