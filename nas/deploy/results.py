"""Results: measurements and claims as the entries ``baseline`` and ``winners`` of ``results.json``."""

from __future__ import annotations

import statistics
from dataclasses import asdict
from typing import Any

from nas.deploy.baseline import DensePaths
from nas.deploy.check import Check
from nas.deploy.materialize import Winner, Winners
from nas.deploy.measurement_log import MeasurementLog, baseline_key
from nas.deploy.runtime import Runtime
from nas.deploy.workloads import default_workload, memory_workload
from nas.model import GPT
from nas.objectives import Objective
from search_spaces import Architecture, Workload, costs, decode_flops


def memory_objectives(winners: Winners) -> list[Objective]:
    """Peak memory as the search asked for it, or at its first decode workload: reports always show it."""
    asked = [o for o in winners.objectives if o.metric == "peak_memory_bytes"]
    family = winners.supernet.space.family
    return asked or [Objective("peak_memory_bytes", memory_workload(winners.objectives, family))]


def baseline_result(
    log: MeasurementLog,
    dense: Architecture,
    workloads: list[Workload],
    paths: dict[Workload, DensePaths],
    rounds: int,
    winners: Winners,
    model: GPT,
) -> dict[str, Any]:
    """The dense baseline on its fastest path, and what every other path took."""
    key = baseline_key(dense)
    fastest = {w: log.fastest(dense, w, paths[w], rounds) for w in workloads}
    measured = {
        f"{w.phase}_ms[batch={w.batch},context={w.context}]": log.median(key, w, rounds, f"@{r}")
        for w, r in fastest.items()
    }
    runtime = fastest[workloads[0]]
    measured |= _everything_else(log, key, dense, winners, runtime, model)
    times = {
        str(r): round(log.median(key, workloads[0], rounds, f"@{r}"), 5)
        for r in paths[workloads[0]].steps
    }
    return {
        "architecture": dense.to_json(),
        "measured": measured,
        "path": str(runtime),
        "paths": times | paths[workloads[0]].unavailable,
    }


def winner_result(
    log: MeasurementLog,
    winner: Winner,
    winners: Winners,
    workloads: list[Workload],
    rounds: int,
    baseline: dict[str, Any],
) -> dict[str, Any]:
    """One winner: claimed, measured, checked, and set against the baseline."""
    architecture = winner.architecture
    key = architecture.key
    latency = {
        f"{w.phase}_ms[batch={w.batch},context={w.context}]": log.median(key, w, rounds)
        for w in workloads
    }
    measured = latency | _everything_else(
        log, key, architecture, winners, winners.runtime, winner.model
    )
    checks = [Check.of(o, measured[str(o)], winner.claims[str(o)]) for o in winners.objectives]
    first = next(iter(latency))
    return {
        "architecture": architecture.to_json(),
        "label": str(architecture),
        "folder": None if winner.folder is None else str(winner.folder),
        "predicted": {
            str(o): {k: winner.claims[str(o)][k] for k in ("mean", "low", "high")}
            for o in winners.objectives
        },
        "searched": dict(winner.evaluation.values),
        "measured": measured,
        "verified": all(check.passed for check in checks),
        "checks": [asdict(check) for check in checks],
        "speedup": baseline["measured"][first] / measured[first],
        "perplexity_ratio": measured["perplexity"] / baseline["measured"]["perplexity"],
        "size_ratio": measured["weight_bytes"] / baseline["measured"]["weight_bytes"],
        "sample": _sample(winner, winners),
    }


def _everything_else(
    log: MeasurementLog,
    key: str,
    architecture: Architecture,
    winners: Winners,
    runtime: Runtime,
    model: GPT,
) -> dict[str, float]:
    """Everything but latency: perplexity, memory, energy where it is an objective, and sizes counted on the model that was built."""
    family = winners.supernet.space.family
    found = costs(architecture, family, runtime.value_bytes)
    values: dict[str, float] = {
        "perplexity": log.values[key, "perplexity"],
        "weight_bytes": model.weight_bytes(),
        "params": found.params,
        "nonzeros": found.nonzeros,
        "flops": decode_flops(architecture, family, default_workload(family).context),
    }
    for memory in memory_objectives(winners):
        values[str(memory)] = values["peak_memory_bytes"] = log.values[key, str(memory)]
    for objective in winners.objectives:
        if objective.metric == "energy_j":
            taken = [
                v for (k, n), v in log.values.items() if k == key and n.startswith(f"{objective}#")
            ]
            values[str(objective)] = statistics.median(taken)
        if objective.metric == "flops" and objective.workload is not None:
            values[str(objective)] = decode_flops(architecture, family, objective.workload.context)
    return values


def _sample(winner: Winner, winners: Winners) -> str:
    """Text the materialized model writes through its KV cache, after a prompt from the held-out text."""
    tokens = winners.supernet.validation(winners.supernet.space.family.context_length)[:1, :16]
    device = winner.model.embedding.device
    written = winner.model.generate(
        tokens.to(device), min(48, winner.model.family.context_length - 16)
    )
    return str(winners.supernet.corpus.tokenizer.decode(written[0].tolist()))
