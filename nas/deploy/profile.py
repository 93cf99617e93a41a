"""Profiling a device: measure materialized models of a space and store every record."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from nas.deploy.baseline import DensePaths, measure_dense_paths
from nas.deploy.device_profile import DeviceProfile, fit_profile, fit_surrogates
from nas.deploy.energy_counters import find_counter
from nas.deploy.energy_profile import profile_energy
from nas.deploy.kernels_in_use import describe, kernels_in_use, warn_of_threads
from nas.deploy.measure import measure_latency
from nas.deploy.profile_records import latency_record, read_records
from nas.deploy.runtime import Runtime, check_device, device_name
from nas.deploy.workloads import (
    check_memory,
    check_workload,
    default_workload,
    parse_workloads,
    split_energy,
)
from nas.files import PathLike, append_jsonl, run_lock, write_json_atomic
from nas.model import GPT, MaskCache, extract
from nas.training import TrainedSupernet
from nas.training.sandwich import draw_subnet
from search_spaces import Architecture, SearchSpace, Workload

MIN_ARCHITECTURES = 16
ROUNDS = 4


def profile(
    supernet: TrainedSupernet,
    space: SearchSpace | None = None,
    *,
    device: str = "cpu",
    workloads: Sequence[Workload | str] | None = None,
    num_architectures: int = 64,
    rounds: int = ROUNDS,
    threads: int | None = None,
    seed: int = 0,
    out: PathLike | None = None,
    progress: bool = True,
) -> DeviceProfile:
    """Measure real models of a space on a device and fit a latency surrogate per workload.

    Every architecture is measured once in each round; the rounds lie apart in time, so their spread
    holds the machine's drift. With ``out`` every record is on disk before the next is taken, and a
    killed profile goes on where it stopped. Where a kernel table is in use on the device
    (:func:`nas.kernels.use_table`, ``nas tune``), the surrogates read it.

    Args:
        supernet: the weights.
        space: where architectures are drawn from; by default the supernet's own.
        device: ``cpu`` or ``cuda``.
        workloads: what to time, each also as a text such as ``"decode_ms[batch=8,context=64]"``; by
            default decode of one sequence at 128 tokens (fewer, if the models' context is shorter). Of
            ``"energy_j[batch=1,context=128]"`` the energy is measured, some five seconds a record.
        num_architectures: models to measure, largest and smallest included.
        rounds: measurements of each.
        threads: of one operator on the CPU; by default whichever of one and all cores runs the
            dense model faster.
        seed: of the draw.
        out: folder for ``profile.jsonl`` and ``profile.json`` (``energy.jsonl`` where energy is
            measured); None keeps nothing.
        progress: whether to show a progress bar.

    Returns:
        The fitted profile.

    Raises:
        ValueError: if the device is absent or lacks the counter of an energy that is asked for, a
            workload is too long for the models or too large for the memory, there are too few
            architectures, or another run uses the folder.
    """
    space = _checked_space(supernet, space, num_architectures)
    check_device(device)
    if rounds < 1:
        raise ValueError(
            f"expected rounds of 1 or more, got {rounds}; four keep the intervals narrow"
        )
    asked, energies = split_energy(workloads) if workloads is not None else ([], [])
    if workloads is None or (energies and not asked):
        asked = [default_workload(space.family)]
    wanted = parse_workloads(asked)
    counter = find_counter(device) if energies else None
    for workload in (*wanted, *energies):
        check_workload(space.family, workload)
        check_memory(space, workload, device)
    path = None if out is None else Path(out) / "profile.jsonl"
    # What another processor took says nothing about this one, nor do the models of another space.
    mine = {"device": device_name(device), "space": space.fingerprint}
    kernels = kernels_in_use(device)
    if kernels is not None:  # dispatch went by it
        mine["kernels"] = kernels.fingerprint
    keys = {"device", "space", "kernels"}
    with run_lock(out):
        records = [r for r in read_records(path) if all(r.get(k) == mine.get(k) for k in keys)]
        runtime, paths = _runtime(supernet, wanted[0], device, threads, records)
        warn_of_threads(kernels, runtime)
        timed = [r for r in records if r["runtime"] == runtime.to_json()]
        done = {(r["round"], r["key"], r["workload"]) for r in timed}
        architectures = profile_architectures(space, num_architectures, seed)
        steps = list(itertools.product(range(rounds), architectures, wanted))
        masks = MaskCache()
        models: dict[Architecture, GPT] = {}

        def build(architecture: Architecture) -> GPT:
            if architecture not in models:
                models[architecture] = extract(
                    supernet.model, architecture, dtype=runtime.torch_dtype, masks=masks
                ).to(device)
            return models[architecture]

        for number, architecture, workload in tqdm(
            steps, desc="profile", unit="record", disable=not progress
        ):
            if (number, architecture.key, str(workload)) in done:
                continue
            timing = measure_latency(build(architecture), workload, runtime)
            record = latency_record(architecture, workload, number, timing, runtime, paths) | mine
            if path is not None:
                append_jsonl(path, record)
            records.append(record)
        # Later rounds may stand there as well: a resumed search must see what it saw before.
        chosen = [r for r in records if r["round"] < rounds]
        found = fit_profile(space, chosen, runtime, wanted, paths, kernels)
        if counter is not None:
            joules = profile_energy(
                architectures,
                build,
                energies,
                runtime,
                counter,
                rounds=rounds,
                mine=mine,
                path=None if out is None else Path(out) / "energy.jsonl",
                progress=progress,
            )
            found.energy_records = [r for r in joules if r["round"] < rounds]
            found.energy, found.energy_quality = fit_surrogates(
                space, found.energy_records, runtime, energies, kernels, value="joules"
            )
        if out is not None:
            summary: dict[str, Any] = {"runtime": runtime.to_json(), "quality": found.quality}
            summary |= {"dense_paths_ms": paths, "kernels": describe(kernels)}
            if found.energy:
                summary["energy_quality"] = found.energy_quality
            write_json_atomic(Path(out) / "profile.json", summary)
    return found


def _checked_space(
    supernet: TrainedSupernet, space: SearchSpace | None, num_architectures: int
) -> SearchSpace:
    """The space to profile, the supernet's own by default; refused if no surrogate could be fitted to it."""
    if not isinstance(supernet, TrainedSupernet):
        raise ValueError(
            f"expected a trained supernet, got {supernet!r:.80}; pass that of nas.train_supernet"
        )
    space = supernet.space if space is None else space
    if not isinstance(space, SearchSpace):
        raise ValueError(
            f"expected a search space, got {space!r:.80}; name the device as device='cpu'"
        )
    if num_architectures < MIN_ARCHITECTURES:
        raise ValueError(
            f"expected num_architectures of {MIN_ARCHITECTURES} or more, got {num_architectures}; "
            "cross-validation fits the surrogate to four fifths of them"
        )
    if space.cardinality < MIN_ARCHITECTURES:
        raise ValueError(
            f"expected a space of {MIN_ARCHITECTURES} architectures or more, got {space.cardinality}; "
            "a surrogate cannot be cross-validated on so few: give the space more choices"
        )
    return space


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
