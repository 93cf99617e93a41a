"""Workloads that are measured: which one where none is asked for, and whether the models and the memory have room for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from nas.deploy.runtime import available_memory
from nas.objectives import Objective
from search_spaces import Family, SearchSpace, Workload, costs

DEFAULT_WORKLOAD = Workload("decode", 1, 128)
LATENCIES = ("decode_ms", "prefill_ms")
_ALLOCATING = (
    *LATENCIES,
    "peak_memory_bytes",
    "energy_j",
)  # the other metrics with a workload are computed


def default_workload(family: Family) -> Workload:
    """Decode of one sequence at 128 tokens, or at as many as the models' context has room for."""
    longest = family.context_length - 1
    return replace(DEFAULT_WORKLOAD, context=min(DEFAULT_WORKLOAD.context, longest))


def latency_workloads(objectives: Sequence[Objective], family: Family) -> list[Workload]:
    """Workloads whose latency is measured: the objectives' own, else the first one that any objective names, else the default."""
    asked = [o.workload for o in objectives if o.metric in LATENCIES and o.workload is not None]
    asked = asked or [o.workload for o in objectives if o.workload is not None][:1]
    return list(dict.fromkeys(asked)) or [default_workload(family)]


def memory_workload(objectives: Sequence[Objective], family: Family) -> Workload:
    """The decode workload at which peak memory is measured where no objective asks for it."""
    asked = [o.workload for o in objectives if o.workload and o.workload.phase == "decode"]
    return asked[0] if asked else default_workload(family)


def energy_workloads(objectives: Sequence[Objective]) -> list[Workload]:
    """Workloads whose energy an objective asks for."""
    asked = [o.workload for o in objectives if o.metric == "energy_j" and o.workload is not None]
    return list(dict.fromkeys(asked))


def split_energy(
    items: Sequence[Workload | str],
) -> tuple[list[Workload | str], list[Workload]]:
    """What of a list is timed, and the workloads whose energy is asked for: ``"energy_j[batch=1,context=128]"``.

    Raises:
        ValueError: if it is no list, or one is no objective.
    """
    if isinstance(items, str | Workload) or not isinstance(items, Sequence):
        return list(parse_workloads(items)), []  # refuses
    parsed = [(i, Objective.parse(i) if isinstance(i, str) else None) for i in items]
    energies = [o for _, o in parsed if o is not None and o.metric == "energy_j"]
    timed = [i for i, o in parsed if o is None or o.metric != "energy_j"]
    return timed, energy_workloads(energies)


def parse_workloads(items: Sequence[Workload | str]) -> list[Workload]:
    """Workloads, each given as one or as the latency that is about it: ``"decode_ms[batch=8,context=64]"``.

    Raises:
        ValueError: if there is none, or one is neither.
    """
    example = "['decode_ms[batch=1,context=128]']"
    if isinstance(items, str | Workload) or not isinstance(items, Sequence):
        raise ValueError(f"expected a list of workloads such as {example}, got {items!r}")
    if not items:
        raise ValueError(f"expected one workload or more, got none; pass {example}")
    found: dict[Workload, None] = {}
    for item in items:
        workload: object = item
        if isinstance(item, str):
            objective = Objective.parse(item)
            workload = objective.workload if objective.metric in LATENCIES else None
        if not isinstance(workload, Workload):
            raise ValueError(f"expected workloads such as {example}, got {item!r}")
        found[workload] = None
    return list(found)


def cache_tokens(workload: Workload) -> int:
    """Tokens per sequence that the KV cache has to hold: a decode step adds one to the context."""
    return workload.context + (workload.phase == "decode")


def check_workload(family: Family, workload: Workload | None) -> None:
    """Refuse a workload that is no forward pass (training), or is longer than the models' context.

    Raises:
        ValueError: naming the longest that fits.
    """
    if workload is not None:
        workload.check_inference()
    if workload is not None and cache_tokens(workload) > family.context_length:
        raise ValueError(
            f"expected a workload of at most {family.context_length} tokens, got {workload} which needs "
            f"{cache_tokens(workload)}; use a shorter context"
        )


def check_memory(space: SearchSpace, workload: Workload, device: str) -> None:
    """Refuse a workload whose KV cache and logits alone, of the largest architecture in float32, exceed the free memory.

    Raises:
        ValueError: naming the bytes needed and free.
    """
    per_token = costs(space.largest, space.family).kv_bytes_per_token
    needed = workload.batch * cache_tokens(workload) * per_token
    needed += workload.num_tokens * space.family.vocab_size * 4
    free = available_memory(device)
    if needed > free:
        raise ValueError(
            f"expected a workload that fits into the {free:,} bytes of free memory, got {workload} which needs "
            f"{needed:,} for keys, values and logits of the largest architecture; use a smaller batch or a shorter context"
        )


def check_objective(space: SearchSpace, objective: Objective, device: str) -> None:
    """Refuse an objective whose workload the models or the memory have no room for.

    Raises:
        ValueError: naming what is too long or too large.
    """
    check_workload(space.family, objective.workload)
    if objective.workload is not None and objective.metric in _ALLOCATING:
        check_memory(space, objective.workload, device)
