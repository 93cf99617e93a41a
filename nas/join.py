"""Another machine joins the search of a run: the same study, the run's own profile, nothing written to the run's folder but its study."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from nas.constraints import parse_constraints
from nas.deploy.device_profile import DeviceProfile, fit_profile
from nas.deploy.kernels_in_use import kernels_in_use, use_kernels
from nas.deploy.profile import ROUNDS
from nas.deploy.profile_records import read_records
from nas.deploy.runtime import Runtime
from nas.deploy.workloads import energy_workloads, latency_workloads
from nas.files import run_lock
from nas.objectives import Objective
from nas.run_settings import SearchRun, read_run
from nas.search_study import search
from nas.storage_url import MASK, is_url
from nas.study import StudyResult
from nas.training import run_supernet
from search_spaces import SearchSpace, preset


def join_run(run: Path, *, out: Path, storage: str | None = None, workers: int = 1) -> StudyResult:
    """Work on the search of a run until it has all its trials.

    Args:
        run: folder of ``nas search`` that has its profile: on a disk that the machines share, or a copy.
        out: folder of this machine, for the tokens of the text.
        storage: of the study, where ``run.json`` cannot say it: its address as seen from here, or with its password.
        workers: processes of this machine.

    Returns:
        The study when it is full; the run itself goes on to build and verify.

    Raises:
        ValueError: if the run has no profile yet, measures energy, or a setting does not fit this machine.
        StudyStorageError: if the storage cannot be reached, or the study is another.
    """
    config = replace(settings_of(run), out=out)
    where = storage or config.storage or str(run / "search.journal")
    if MASK in where:
        raise ValueError(
            f"expected the password of {where}, which is kept in no file; pass --storage with it, or without any and set PGPASSWORD"
        )
    if not is_url(where) and not Path(where).exists():
        raise ValueError(
            f"expected the study of the run in {where}, found none; start it first: nas search --out {run}"
        )
    space = preset(config.space)
    with run_lock(out), use_kernels(config.kernels, config.device):
        device = stored_profile(run, config, space)
        return search(
            space,
            config.objectives,
            supernet=run_supernet(config, space),
            device=device,
            n_trials=config.trials,
            sampler=config.sampler,
            seed=config.seed,
            num_tokens=config.perplexity_tokens,
            fidelity=config.fidelity,
            storage=where,
            workers=workers,
            name="search",
            constraints=parse_constraints(config.constraints),
        )


def settings_of(run: Path) -> SearchRun:
    """What a run was started with, as ``run.json`` has it; its supernet is the one that lies there.

    Raises:
        ValueError: if there is no such run.
    """
    stored: dict[str, Any] = read_run(run)
    names = {field.name for field in fields(SearchRun)}
    values = {name: value for name, value in stored.items() if name in names}
    values["objectives"] = tuple(values["objectives"])
    values["constraints"] = tuple(f"{n}<={v!r}" for n, v in values["constraints"].items())
    for name in ("supernet", "kernels"):  # there the hash, beside the path
        path = stored.get(f"{name}_path")
        values[name] = None if path is None else Path(path)
    trained = run / "supernet.json"
    if values["supernet"] is None and trained.exists():
        values |= {"supernet": trained, "from_scratch": False}
    return SearchRun(**values)


def stored_profile(run: Path, config: SearchRun, space: SearchSpace) -> DeviceProfile:
    """The profile of a run, fitted to its records: it says what the study's latencies are, on whatever machine they are asked for.

    Raises:
        ValueError: if it is not whole, or energies are asked for.
    """
    goals = [Objective.parse(o) for o in config.objectives]
    if energy_workloads(goals):
        raise ValueError(
            "expected objectives without energy_j, which is read where the run is; leave it out, or use --workers there"
        )
    workloads = list(latency_workloads(goals, space.family))
    records = [r for r in read_records(run / "profile.jsonl") if r["space"] == space.fingerprint]
    if records:
        same = {key: records[-1].get(key) for key in ("device", "kernels", "runtime")}
        records = [r for r in records if all(r.get(k) == v for k, v in same.items())]
    chosen = [r for r in records if r["round"] < ROUNDS]
    taken = {(r["round"], r["key"], r["workload"]) for r in chosen}
    expected = ROUNDS * min(config.profile_architectures, space.cardinality) * len(workloads)
    found = sum(workload in {str(w) for w in workloads} for _, _, workload in taken)
    if found < expected:
        raise ValueError(
            f"expected the {expected} records of a whole profile in {run / 'profile.jsonl'}, got {found}; "
            f"join when `nas search --out {run}` has begun to search"
        )
    runtime = Runtime(**chosen[-1]["runtime"])
    paths = chosen[-1]["dense_paths_ms"]
    return fit_profile(space, chosen, runtime, workloads, paths, kernels_in_use(config.device))
