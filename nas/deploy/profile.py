"""Profiling a device: measure materialized models of a space, store every record, fit the latency surrogates."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from nas.deploy.baseline import DensePaths, measure_dense_paths
from nas.deploy.measure import Timing, check_workload, measure_latency
from nas.deploy.runtime import Runtime, check_device, device_name, provenance
from nas.files import PathLike, append_jsonl, read_jsonl, write_json_atomic
from nas.model import GPT, MaskCache, extract
from nas.training import TrainedSupernet
from nas.training.sandwich import draw_subnet
from search_spaces import Architecture, SearchSpace, Workload
from surrogates import LatencySurrogate, Prediction

DEFAULT_WORKLOAD = Workload("decode", 1, 128)
MIN_ARCHITECTURES = 16


@dataclass
class DeviceProfile:
    """What was measured on a device, and the surrogates fitted to it.

    Args:
        runtime: how the models were executed.
        surrogates: one per workload.
        quality: cross-validated Kendall tau, MAPE and coverage of the intervals, per workload.
        records: every stored measurement.
        paths: what the dense paths took when the runtime was chosen.
    """

    runtime: Runtime
    surrogates: dict[Workload, LatencySurrogate]
    quality: dict[str, dict[str, float]]
    records: list[dict[str, Any]]
    paths: dict[str, Any] = field(default_factory=dict)

    def predict(self, workload: Workload, architectures: Sequence[Architecture]) -> Prediction:
        """Latency in ms with its interval.

        Raises:
            ValueError: if the workload was not profiled.
        """
        if workload not in self.surrogates:
            known = ", ".join(str(w) for w in self.surrogates)
            raise ValueError(
                f"expected one of the profiled workloads ({known}), got {workload}; profile it first"
            )
        return self.surrogates[workload].predict(architectures)

    @property
    def fingerprint(self) -> str:
        """16 hexadecimal digits; equal ones mean the same records, and so the same surrogates."""
        names, runtime = {str(w) for w in self.surrogates}, self.runtime.to_json()
        rows = sorted(
            (r["key"], r["workload"], r["round"], r["median_ms"])
            for r in self.records
            if r["workload"] in names and r["runtime"] == runtime
        )
        return hashlib.sha256(json.dumps([runtime, rows]).encode()).hexdigest()[:16]


def profile(
    supernet: TrainedSupernet,
    space: SearchSpace | None = None,
    *,
    device: str = "cpu",
    workloads: Sequence[Workload] = (DEFAULT_WORKLOAD,),
    num_architectures: int = 64,
    rounds: int = 4,
    threads: int | None = None,
    seed: int = 0,
    out: PathLike | None = None,
    progress: bool = True,
) -> DeviceProfile:
    """Measure real models of a space on a device and fit a latency surrogate per workload.

    Every architecture is measured once in each round; the rounds lie apart in time, so their spread
    holds the machine's drift. With ``out`` every record is on disk before the next is taken, and a
    killed profile goes on where it stopped.

    Args:
        supernet: the weights.
        space: where architectures are drawn from; by default the supernet's own.
        device: ``cpu`` or ``cuda``.
        workloads: what to time.
        num_architectures: models to measure, largest and smallest included.
        rounds: measurements of each.
        threads: of one operator on the CPU; by default whichever of one and all cores runs the
            dense model faster.
        seed: of the draw.
        out: folder for ``profile.jsonl`` and ``profile.json``; None keeps nothing.
        progress: whether to show a progress bar.

    Returns:
        The fitted profile.

    Raises:
        ValueError: if the device is absent, a workload is too long for the models, or there are too
            few architectures.
    """
    check_device(device)
    if rounds < 1:
        raise ValueError(
            f"expected rounds of 1 or more, got {rounds}; four keep the intervals narrow"
        )
    if num_architectures < MIN_ARCHITECTURES:
        raise ValueError(
            f"expected num_architectures of {MIN_ARCHITECTURES} or more, got {num_architectures}; "
            "cross-validation fits the surrogate to four fifths of them"
        )
    space = supernet.space if space is None else space
    if not workloads:
        raise ValueError(f"expected one workload or more, got none; pass {DEFAULT_WORKLOAD}")
    for workload in workloads:
        check_workload(space.family, workload)
    path = None if out is None else Path(out) / "profile.jsonl"
    # What another processor took says nothing about this one, nor do the models of another space.
    mine = {"device": device_name(device), "space": space.fingerprint}
    records = [r for r in _read_records(path) if all(r[k] == v for k, v in mine.items())]
    runtime, paths = _runtime(supernet, workloads[0], device, threads, records)
    architectures = profile_architectures(space, num_architectures, seed)
    done = {
        (r["key"], r["workload"], r["round"]) for r in records if r["runtime"] == runtime.to_json()
    }
    masks = MaskCache()
    models: dict[str, GPT] = {}
    total = len(architectures) * rounds * len(workloads)
    with tqdm(total=total, desc="profile", unit="record", disable=not progress) as bar:
        for number in range(rounds):
            for architecture in architectures:
                for workload in workloads:
                    bar.update()
                    if (architecture.key, str(workload), number) in done:
                        continue
                    if architecture.key not in models:
                        models[architecture.key] = extract(
                            supernet.model, architecture, dtype=runtime.torch_dtype, masks=masks
                        ).to(device)
                    timing = measure_latency(models[architecture.key], workload, runtime)
                    record = _record(architecture, workload, number, timing, runtime, paths) | mine
                    if path is not None:
                        append_jsonl(path, record)
                    records.append(record)
    found = fit_profile(space, records, runtime, workloads, paths)
    if out is not None:
        write_json_atomic(
            Path(out) / "profile.json",
            {"runtime": runtime.to_json(), "quality": found.quality, "dense_paths_ms": paths},
        )
    return found


def fit_profile(
    space: SearchSpace,
    records: Sequence[dict[str, Any]],
    runtime: Runtime,
    workloads: Sequence[Workload],
    paths: dict[str, Any] | None = None,
) -> DeviceProfile:
    """Fit the surrogates to stored records; the same records give the same surrogates.

    Raises:
        ValueError: if a workload has too few records.
    """
    surrogates, quality = {}, {}
    for workload in workloads:
        rows: dict[str, tuple[Architecture, dict[int, float]]] = {}
        for record in records:
            if record["workload"] == str(workload) and record["runtime"] == runtime.to_json():
                entry = rows.setdefault(
                    record["key"], (Architecture.from_json(record["architecture"]), {})
                )
                entry[1][record["round"]] = record["median_ms"]
        last = max((number for _, times in rows.values() for number in times), default=-1)
        repeats = np.full((len(rows), last + 1), np.nan)
        for i, (_, times) in enumerate(rows.values()):
            for number, median in times.items():
                repeats[i, number] = median
        surrogate = LatencySurrogate(space.family, workload, dtype=runtime.dtype)
        surrogate.fit([architecture for architecture, _ in rows.values()], repeats_nr=repeats)
        surrogates[workload] = surrogate
        scores = surrogate.cross_validate(5)
        # The surrogate counts an architecture's rounds as one record.
        quality[str(workload)] = {name: round(value, 5) for name, value in scores.items()} | {
            "num_records": int(np.isfinite(repeats).sum()),
            "num_architectures": len(rows),
        }
    return DeviceProfile(runtime, surrogates, quality, list(records), dict(paths or {}))


def profile_architectures(space: SearchSpace, number: int, seed: int) -> list[Architecture]:
    """Distinct architectures to measure: largest and smallest, then draws from nearly whole to nearly empty ones.

    Raises:
        ValueError: if fewer than two are asked for.
    """
    if number < 2:
        raise ValueError(f"expected num_architectures of 2 or more, got {number}")
    rng = np.random.default_rng((seed, 7))
    found: dict[Architecture, None] = {space.largest: None, space.smallest: None}
    for _ in range(50 * number):  # a small space may not hold that many
        if len(found) >= min(number, space.cardinality):
            break
        found[draw_subnet(space, rng, size_bias=1.0)] = None  # fronts hold nearly whole subnets too
    return list(found)[:number]


def _runtime(
    supernet: TrainedSupernet,
    workload: Workload,
    device: str,
    threads: int | None,
    records: list[dict[str, Any]],
) -> tuple[Runtime, dict[str, Any]]:
    """The runtime of the latest earlier record of this device, else the fastest eager dense path."""
    for record in reversed(records):
        earlier = Runtime(**record["runtime"])
        if threads in (None, earlier.threads):
            return earlier, record["dense_paths_ms"]
    found: DensePaths = measure_dense_paths(
        supernet.model, workload, device, threads=threads, compile=False
    )
    return found.fastest(), found.to_json()


def _read_records(path: Path | None) -> list[dict[str, Any]]:
    """Records of earlier runs, each whole.

    Raises:
        ValueError: naming the first line that is damaged.
    """
    records = [] if path is None else read_jsonl(path)
    for number, record in enumerate(records, start=1):
        try:
            ms, fields = record["median_ms"], set(record["runtime"])
            is_whole = (
                {"device", "space", "dense_paths_ms"} <= set(record)
                and fields == set(Runtime.__dataclass_fields__)
                and isinstance(record["round"], int)
                and isinstance(record["workload"], str)
                and Architecture.from_json(record["architecture"]).key == record["key"]
                and 0.0 < ms < math.inf
            )
        except (KeyError, TypeError, ValueError):
            is_whole = False
        if not is_whole:
            raise ValueError(
                f"expected a latency record in line {number} of {path}, got {json.dumps(record)[:80]}; "
                "remove that line or restore the file"
            )
    return records


def _record(
    architecture: Architecture,
    workload: Workload,
    number: int,
    timing: Timing,
    runtime: Runtime,
    paths: dict[str, Any],
) -> dict[str, Any]:
    return {
        "key": architecture.key,
        "architecture": architecture.to_json(),
        "workload": str(workload),
        "round": number,
        "median_ms": timing.median_ms,
        "p20_ms": timing.p20_ms,
        "p80_ms": timing.p80_ms,
        "repeats": timing.repeats,
        "dense_paths_ms": paths,
        **provenance(runtime),
    }
