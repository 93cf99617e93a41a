"""Energy of a workload: a hardware counter's delta over seconds of repetitions, beside what the idle device draws.

A counter moves in steps, so one call cannot be seen: the call is repeated until the window holds enough steps, and the delta is
divided by the repetitions (the advice of Zeus, ml.energy; 2312.02741). Counters are of the whole device: whatever else runs on it is
counted too, and the idle baseline, taken just before, shows it.
"""

from __future__ import annotations

import datetime
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch

from nas.deploy.energy_counters import EnergyCounter, find_counter
from nas.deploy.measure import memory_errors, prepare
from nas.deploy.runtime import Runtime, available_threads, check_device
from nas.model import GPT
from nas.objectives import Objective
from search_spaces import Workload

WINDOW_S = 3.0
IDLE_S = 2.0
MIN_UPDATES = (
    10  # of the counter in a window: the first and the last step are then 10 % of it each at most
)
_WARMUP = 3


@dataclass(frozen=True)
class EnergyMeasurement:
    """Energy of one call, and all that it was made with.

    Args:
        joules: per call, everything the device drew in the window.
        net_joules: per call, what it would have drawn idle taken off; noise may bring it below 0.
        idle_watts: mean power in the idle window.
        watts: mean power in the window of calls.
        window_s: seconds of calls.
        idle_s: seconds of the idle window before.
        repetitions: calls in the window.
        counter: ``nvml`` or ``rapl``.
        before: clocks (MHz) and temperature (degrees Celsius) at the window's start, as far as the machine tells.
        after: the same at its end.
        date: of the measurement, UTC.
    """

    joules: float
    net_joules: float
    idle_watts: float
    watts: float
    window_s: float
    idle_s: float
    repetitions: int
    counter: str
    before: Mapping[str, float]
    after: Mapping[str, float]
    date: str

    def to_json(self) -> dict[str, Any]:
        """Fields as JSON values."""
        return asdict(self)


def measure_energy(
    model: GPT,
    workload: Workload | str,
    device: str | Runtime = "cpu",
    *,
    window_s: float = WINDOW_S,
    idle_s: float = IDLE_S,
    counter: EnergyCounter | None = None,
) -> EnergyMeasurement:
    """Energy that a model takes for a workload: per new token of every sequence (decode), or per forward pass (prefill).

    Args:
        model: on the device, in the dtype of the runtime.
        workload: what to repeat, also as a text such as ``"energy_j[batch=1,context=128]"``.
        device: ``cpu`` or ``cuda``, or a runtime with its threads.
        window_s: least seconds of calls.
        idle_s: seconds of doing nothing before.
        counter: to read; by default the device's own.

    Raises:
        ValueError: if the device has no counter that can be read (naming why), a window is too short for its steps, or the workload
            does not fit the model or the memory.
    """
    if isinstance(workload, str):
        found = Objective.parse(workload).workload
        if found is None:
            raise ValueError(f"expected a workload such as energy_j[batch=1], got {workload!r}")
        workload = found
    if isinstance(device, str):
        check_device(device)
        dtype = str(model.embedding.dtype).removeprefix("torch.")
        device = Runtime(device, dtype, available_threads())
    counter = find_counter(device.device) if counter is None else counter
    step = prepare(model, workload, device)
    with memory_errors(workload), device.active():
        return measure_call(step, device.device, counter, window_s=window_s, idle_s=idle_s)


def measure_call(
    call: Callable[[], Any],
    device: str,
    counter: EnergyCounter,
    *,
    window_s: float = WINDOW_S,
    idle_s: float = IDLE_S,
    clock: Callable[[], float] = time.perf_counter,
    sleep: Callable[[float], None] = time.sleep,
) -> EnergyMeasurement:
    """Energy of one call of a function; see :func:`measure_energy`.

    Args:
        call: repeated; on CUDA it may return before the device is done.
        device: ``cpu`` or ``cuda``.
        counter: to read.
        window_s: least seconds of calls.
        idle_s: seconds of doing nothing before.
        clock: seconds, monotone.
        sleep: waits for some seconds.

    Raises:
        ValueError: if a window holds fewer than 10 steps of the counter, or the counter stood still in it.
    """
    least = MIN_UPDATES * counter.update_s
    for name, seconds in (("window_s", window_s), ("idle_s", idle_s)):
        if not seconds >= least:
            raise ValueError(
                f"expected {name} of {least:g} s or more, got {seconds:g}: {counter.name} moves every {counter.update_s:g} s, "
                f"and {MIN_UPDATES} steps are the least that say anything"
            )
    for _ in range(_WARMUP):
        call()
    _wait(device)

    start, first = clock(), counter.read()
    sleep(idle_s)
    idle_seconds, idle_joules = clock() - start, counter.joules(first, counter.read())

    before = counter.state()
    calls, batch = 0, 1
    start, first = clock(), counter.read()
    while (window := clock() - start) < window_s:
        for _ in range(batch):
            call()
        _wait(device)
        calls += batch
        # Looking at the clock, and on a GPU waiting, about 20 times a window only: the pauses would be counted as work.
        batch = max(1, int(calls / max(clock() - start, 1e-9) * window_s / 20))
    joules = counter.joules(first, counter.read())
    window = clock() - start
    if joules <= 0:
        raise ValueError(
            f"expected {counter.name} to move within {window:.3g} s, got {joules:g} J; use a longer window_s, or look for another "
            "reader that holds the counter"
        )
    idle_watts = idle_joules / idle_seconds
    return EnergyMeasurement(
        joules=joules / calls,
        net_joules=(joules - idle_watts * window) / calls,
        idle_watts=idle_watts,
        watts=joules / window,
        window_s=window,
        idle_s=idle_seconds,
        repetitions=calls,
        counter=counter.name,
        before=dict(before),
        after=dict(counter.state()),
        date=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    )


def check_energy(objective: Objective, device: str) -> None:
    """Refuse an energy objective where nothing counts energy; any other objective passes.

    Raises:
        ValueError: naming the counters looked for, why each cannot be read, and metrics to use in its place.
    """
    if objective.metric != "energy_j":
        return
    try:
        find_counter(device)
    except ValueError as error:
        raise ValueError(
            f"expected objectives this device can measure, got energy_j: {error}; use decode_ms, weight_bytes or flops"
        ) from error


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()
