"""Samplers against the truth: the share of the true front's hypervolume after a budget of evaluations."""

from __future__ import annotations

import hashlib
import multiprocessing
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from experiments.exhaustive.table import OBJECTIVES, Lookup, small_space
from nas.files import append_jsonl, read_jsonl
from nas.objectives import Objective
from nas.pareto import normalized_hypervolume
from nas.searchers import model_samplers
from nas.study import run_study
from search_spaces import Architecture

Task = tuple[str, int, int, list[Architecture], npt.NDArray[np.float64]]


class _KnownBytes:
    """Stored bytes, the one objective the model-based samplers need not learn here.

    Args:
        lookup: the table: its bytes are those of the dtype that the profile chose.
    """

    def __init__(self, lookup: Lookup) -> None:
        self._lookup = lookup

    def __call__(
        self, params: Sequence[Any]
    ) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        space = small_space()
        mean = [self._lookup.row(space.from_params(p))[2] for p in params]
        return np.array(mean, dtype=np.float64), np.zeros(len(mean))


def box(values: npt.NDArray[np.float64]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Ideal and reference point: the best of each objective, and the dense architecture's at 1.5 times its perplexity."""
    dense = values[np.argmax(values[:, 2])]
    return values.min(axis=0) * 0.999, dense * np.array([1.5, 1.001, 1.001])


def run_one(task: Task) -> dict[str, Any]:
    """One study of one sampler and seed: share of the true hypervolume after every evaluation."""
    import torch

    torch.set_num_threads(1)  # a process of its own: two studies share the machine
    sampler, seed, budget, architectures, values = task
    ideal, ref = box(values)
    names = list(OBJECTIVES)
    lookup = Lookup(architectures, values)
    start = time.perf_counter()
    result = run_study(
        f"{sampler}-{seed}",
        small_space(),
        lookup,
        [Objective.parse(o) for o in names],
        sampler=sampler,
        n_trials=budget,
        seed=seed,
        known={2: _KnownBytes(lookup)} if sampler in model_samplers() else None,
        ref_point=dict(zip(names, ref.tolist(), strict=True)),
        ideal=dict(zip(names, ideal.tolist(), strict=True)),
        progress=False,
    )
    truth = float(normalized_hypervolume(values, ideal, ref))
    share = [hv / truth for hv in result.hypervolume_trace]
    seconds = (time.perf_counter() - start) / budget
    return {
        "sampler": sampler,
        "seed": seed,
        "budget": budget,
        "share": share,
        "s_per_trial": seconds,
    }


def race(
    samplers: Sequence[str],
    seeds: Sequence[int],
    budget: int,
    architectures: list[Architecture],
    values: npt.NDArray[np.float64],
    path: Path,
    processes: int,
) -> list[dict[str, Any]]:
    """Every sampler with every seed; finished studies are kept in ``path``, each with the table that it read."""
    table = hashlib.sha256("".join(a.key for a in architectures).encode())
    table.update(np.ascontiguousarray(values).tobytes())
    identity = table.hexdigest()[:16]
    runs = [r for r in read_jsonl(path) if r.get("table") == identity]
    done = {(r["sampler"], r["seed"], r["budget"]) for r in runs}
    tasks = [
        (sampler, seed, budget, architectures, values)
        for seed in seeds
        for sampler in samplers
        if (sampler, seed, budget) not in done
    ]
    if tasks:
        with multiprocessing.get_context("spawn").Pool(min(processes, len(tasks))) as pool:
            found = pool.imap_unordered(run_one, tasks)
            for run in tqdm(found, total=len(tasks), desc="race", unit="study"):
                run["table"] = identity
                append_jsonl(path, run)
                runs.append(run)
    return [
        r for r in runs if r["sampler"] in samplers and r["seed"] in seeds and r["budget"] == budget
    ]
