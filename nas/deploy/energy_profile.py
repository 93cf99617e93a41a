"""Energy of the models of a profile: measured in rounds like their latencies, stored beside them, and fitted to a surrogate."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from nas.deploy.energy import IDLE_S, WINDOW_S, EnergyMeasurement, measure_energy
from nas.deploy.energy_counters import EnergyCounter
from nas.deploy.runtime import Runtime, provenance
from nas.files import append_jsonl, read_jsonl
from nas.model import GPT
from search_spaces import Architecture, Workload


def read_energy_records(path: Path | None) -> list[dict[str, Any]]:
    """Records of earlier runs, each whole.

    Raises:
        ValueError: naming the first line that is damaged.
    """
    records = [] if path is None else read_jsonl(path)
    for number, record in enumerate(records, start=1):
        try:
            is_whole = (
                {"device", "space", "counter", "idle_watts", "window_s"} <= set(record)
                and set(record["runtime"]) == set(Runtime.__dataclass_fields__)
                and isinstance(record["round"], int)
                and isinstance(record["workload"], str)
                and Architecture.from_json(record["architecture"]).key == record["key"]
                and 0.0 < record["joules"] < math.inf
            )
        except (KeyError, TypeError, ValueError):
            is_whole = False
        if not is_whole:
            raise ValueError(
                f"expected an energy record in line {number} of {path}, got {json.dumps(record)[:80]}; "
                "remove that line or restore the file"
            )
    return records


def energy_record(
    architecture: Architecture,
    workload: Workload,
    number: int,
    found: EnergyMeasurement,
    runtime: Runtime,
) -> dict[str, Any]:
    """One measurement with everything it depends on.

    Args:
        architecture: of the model.
        workload: that was repeated.
        number: of the round.
        found: what it took.
        runtime: how it was executed.
    """
    what = {
        "key": architecture.key,
        "architecture": architecture.to_json(),
        "workload": str(workload),
        "round": number,
    }
    return what | provenance(runtime) | found.to_json()


def profile_energy(
    architectures: Sequence[Architecture],
    build: Callable[[Architecture], GPT],
    workloads: Sequence[Workload],
    runtime: Runtime,
    counter: EnergyCounter,
    *,
    rounds: int,
    mine: dict[str, Any],
    path: Path | None,
    window_s: float = WINDOW_S,
    idle_s: float = IDLE_S,
    progress: bool = True,
) -> list[dict[str, Any]]:
    """Measure what is not measured yet; every record is on disk before the next is taken.

    Args:
        architectures: to measure.
        build: makes a model, on the runtime's device.
        workloads: to repeat.
        runtime: threads and execution.
        counter: to read.
        rounds: measurements of each.
        mine: what a record of this device and space says beside; others are left alone.
        path: of the JSON lines; None keeps them in memory.
        window_s: least seconds of calls.
        idle_s: seconds of doing nothing before.
        progress: whether to show a progress bar.

    Returns:
        All records of this device, space, runtime and counter.
    """
    own = mine | {"runtime": runtime.to_json(), "counter": counter.name}
    keys = {*own, "kernels"}
    records = [r for r in read_energy_records(path) if all(r.get(k) == own.get(k) for k in keys)]
    done = {(r["round"], r["key"], r["workload"]) for r in records}
    steps = list(itertools.product(range(rounds), architectures, workloads))
    for number, architecture, workload in tqdm(
        steps, desc="energy", unit="record", disable=not progress
    ):
        if (number, architecture.key, str(workload)) in done:
            continue
        found = measure_energy(
            build(architecture),
            workload,
            runtime,
            window_s=window_s,
            idle_s=idle_s,
            counter=counter,
        )
        record = energy_record(architecture, workload, number, found, runtime) | mine
        if path is not None:
            append_jsonl(path, record)
        records.append(record)
    return records
