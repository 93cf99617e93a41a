"""Verification: measure materialized models afresh and hold what was measured against what the search claimed."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor
from tqdm import tqdm

from nas.deploy.baseline import DensePaths, measure_dense_paths
from nas.deploy.materialize import Winner, Winners
from nas.deploy.measure import measure_latency, measure_peak_memory, time_step
from nas.deploy.profile import DEFAULT_WORKLOAD
from nas.deploy.runtime import Runtime, check_device, device_name, provenance
from nas.files import PathLike, append_jsonl, read_jsonl
from nas.model import GPT, perplexity
from nas.objectives import Objective
from search_spaces import Architecture, Workload, costs, decode_flops

PERPLEXITY_TOLERANCE = 0.005  # extraction is exact; a reduced-precision runtime rounds
MEMORY_TOLERANCE = 0.01
_LATENCY = ("decode_ms", "prefill_ms")


@dataclass(frozen=True)
class Check:
    """One claim held against one measurement.

    Args:
        name: of the objective.
        measured: afresh.
        low: lower end of what was claimed.
        high: upper end.
        tolerance: relative widening of both ends.
        unit: of all three.
        passed: whether the measurement lies inside.
    """

    name: str
    measured: float
    low: float
    high: float
    tolerance: float
    unit: str
    passed: bool

    @classmethod
    def of(cls, objective: Objective, measured: float, claim: Mapping[str, Any]) -> Check:
        """Judge a measurement; counted metrics must agree exactly."""
        tolerance = {"perplexity": PERPLEXITY_TOLERANCE, "peak_memory_bytes": MEMORY_TOLERANCE}.get(
            objective.metric, 0.0
        )
        low, high = float(claim["low"]), float(claim["high"])
        passed = low * (1.0 - tolerance) <= measured <= high * (1.0 + tolerance)
        return cls(str(objective), measured, low, high, tolerance, objective.unit, passed)


@dataclass
class VerificationReport:
    """Everything that was measured, as the JSON that ``report.html`` is drawn from.

    Args:
        results: schema 1 of ``results.json``.
    """

    results: dict[str, Any]

    @property
    def checks(self) -> list[Check]:
        """Of all winners."""
        return [Check(**check) for winner in self.results["winners"] for check in winner["checks"]]

    def save(self, path: PathLike) -> Path:
        """Draw the page; its figures and ``results.json`` go beside it.

        Args:
            path: of the HTML file.
        """
        from nas.deploy.report import render
        from nas.files import write_json_atomic

        target = Path(path)
        write_json_atomic(target.with_name("results.json"), self.results)
        render(self.results, target.parent)
        if target.name != "report.html":
            (target.parent / "report.html").replace(target)
        return target


def verify(
    winners: Winners,
    device: str = "cpu",
    *,
    rounds: int = 3,
    compile: bool = True,
    out: PathLike | None = None,
    progress: bool = True,
) -> VerificationReport:
    """Measure perplexity, latency, memory and size of materialized models and of the dense baseline, in one run.

    Latencies are taken in rounds over all models, the dense baseline's paths among them, and the
    median over the rounds is reported: what disturbs the machine for a moment disturbs winner and
    baseline alike. With ``out`` a killed verification goes on where it stopped.

    Args:
        winners: from :func:`nas.materialize`.
        device: ``cpu`` or ``cuda``.
        rounds: measurements of each latency.
        compile: whether the dense baseline may use ``torch.compile``.
        out: folder for ``verify.jsonl``; None keeps nothing.
        progress: whether to show a progress bar.

    Returns:
        The report: per winner every check with what was measured, claimed and tolerated.

    Raises:
        ValueError: if the device is absent or not the one the claims are for.
    """
    check_device(device)
    if rounds < 1:
        raise ValueError(f"expected rounds of 1 or more, got {rounds}")
    if device != winners.runtime.device:
        raise ValueError(
            f"expected device {winners.runtime.device!r}, which the claims are for, got {device!r}; profile it first"
        )
    supernet, runtime = winners.supernet, winners.runtime
    workloads = [o.workload for o in winners.objectives if o.metric in _LATENCY and o.workload]
    workloads = list(dict.fromkeys(workloads)) or [DEFAULT_WORKLOAD]
    log = _Log(None if out is None else Path(out) / "verify.jsonl", winners)
    tokens = supernet.validation(winners.num_tokens)
    dense = supernet.space.largest
    paths = {w: measure_dense_paths(supernet.model, w, device, compile=compile) for w in workloads}
    models = {w.architecture.key: w.model.to(device) for w in winners}
    steps = len(models) * (2 + rounds * len(workloads)) + 1 + rounds * len(workloads)
    with tqdm(total=steps, desc="verify", unit="measurement", disable=not progress) as bar:
        for number in range(rounds):
            for workload in workloads:
                _baseline_round(log, dense, workload, paths[workload], number)
                bar.update()
                for key, model in models.items():
                    log.once(
                        key,
                        f"{workload}#{number}",
                        partial(_latency_ms, model, workload, runtime),
                    )
                    bar.update()
        base = paths[workloads[0]]
        base_runtime = _fastest(log, dense, workloads[0], base, rounds)
        base_model = base.models[base_runtime.dtype]
        everything = {**models, dense.key + ":baseline": base_model}
        for key, model in everything.items():
            run = base_runtime if key.endswith(":baseline") else runtime
            log.once(key, "perplexity", partial(perplexity, model, tokens))
            for memory in _memory_objectives(winners):
                assert memory.workload is not None
                log.once(
                    key, str(memory), partial(measure_peak_memory, model, memory.workload, run)
                )
            bar.update(2 if key in models else 1)
    baseline = _baseline_result(log, dense, workloads, paths, rounds, winners, base_model)
    results: dict[str, Any] = {
        "schema": 1,
        "provenance": provenance(runtime) | {"rounds": rounds, "num_tokens": winners.num_tokens},
        "objectives": [
            {"name": str(o), "unit": o.unit, "direction": o.direction} for o in winners.objectives
        ],
        "baseline": baseline,
        "trials": [
            {
                "number": i,
                "architecture": w.architecture.to_json(),
                "values": dict(w.evaluation.values),
            }
            for i, w in enumerate(winners)
        ],
        "winners": [_winner_result(log, w, winners, workloads, rounds, baseline) for w in winners],
    }
    return VerificationReport(results)


class _Log:
    """Finished measurements by (model, name), on disk before the next is taken."""

    def __init__(self, path: Path | None, winners: Winners) -> None:
        self.path = path
        self.identity = {
            "supernet": winners.supernet.info["sha256"],
            "corpus": winners.supernet.corpus.fingerprint,
            "winners": sorted(w.architecture.key for w in winners),
            "num_tokens": winners.num_tokens,
            "runtime": winners.runtime.to_json(),
            "device": device_name(winners.runtime.device),
        }
        self.values: dict[tuple[str, str], float] = {}
        for number, record in enumerate([] if path is None else read_jsonl(path), start=1):
            if not _is_measurement(record):
                raise ValueError(
                    f"expected a measurement in line {number} of {path}, got {json.dumps(record)[:80]}; "
                    "remove that line, or delete the file to measure again"
                )
            if record["identity"] == self.identity:
                self.values[record["key"], record["name"]] = record["value"]

    def once(self, key: str, name: str, measure: Any) -> float:
        if (key, name) not in self.values:
            value = float(measure())
            if self.path is not None:
                record = {"key": key, "name": name, "value": value, "identity": self.identity}
                append_jsonl(self.path, record)
            self.values[key, name] = value
        return self.values[key, name]

    def median(self, key: str, workload: Workload, rounds: int, suffix: str = "") -> float:
        return statistics.median(self.values[key, f"{workload}{suffix}#{n}"] for n in range(rounds))


def _is_measurement(record: Mapping[str, Any]) -> bool:
    value = record.get("value")
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    names = all(isinstance(record.get(name), str) for name in ("key", "name"))
    return set(record) == {"key", "name", "value", "identity"} and names and is_number


def _latency_ms(model: GPT, workload: Workload, runtime: Runtime) -> float:
    return measure_latency(model, workload, runtime).median_ms


def _step_ms(step: Callable[[], Tensor], runtime: Runtime) -> float:
    return time_step(step, runtime).median_ms


def _baseline_round(
    log: _Log, dense: Architecture, workload: Workload, paths: DensePaths, number: int
) -> None:
    for runtime, step in paths.steps.items():
        name = f"{workload}@{runtime}#{number}"
        log.once(dense.key + ":baseline", name, partial(_step_ms, step, runtime))


def _fastest(
    log: _Log, dense: Architecture, workload: Workload, paths: DensePaths, rounds: int
) -> Runtime:
    key = dense.key + ":baseline"
    return min(paths.steps, key=lambda r: log.median(key, workload, rounds, f"@{r}"))


def _baseline_result(
    log: _Log,
    dense: Architecture,
    workloads: list[Workload],
    paths: dict[Workload, DensePaths],
    rounds: int,
    winners: Winners,
    model: GPT,
) -> dict[str, Any]:
    key = dense.key + ":baseline"
    fastest = {w: _fastest(log, dense, w, paths[w], rounds) for w in workloads}
    measured = {
        f"{w.phase}_ms[batch={w.batch},context={w.context}]": log.median(key, w, rounds, f"@{r}")
        for w, r in fastest.items()
    }
    runtime = fastest[workloads[0]]
    measured |= _unhurried(log, key, dense, winners, runtime, model)
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


def _winner_result(
    log: _Log,
    winner: Winner,
    winners: Winners,
    workloads: list[Workload],
    rounds: int,
    baseline: dict[str, Any],
) -> dict[str, Any]:
    architecture = winner.architecture
    key = architecture.key
    latency = {
        f"{w.phase}_ms[batch={w.batch},context={w.context}]": log.median(key, w, rounds)
        for w in workloads
    }
    measured = latency | _unhurried(log, key, architecture, winners, winners.runtime, winner.model)
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
        "measured": measured,
        "verified": all(check.passed for check in checks),
        "checks": [asdict(check) for check in checks],
        "speedup": baseline["measured"][first] / measured[first],
        "perplexity_ratio": measured["perplexity"] / baseline["measured"]["perplexity"],
        "size_ratio": measured["weight_bytes"] / baseline["measured"]["weight_bytes"],
        "sample": _sample(winner, winners),
    }


def _memory_objectives(winners: Winners) -> list[Objective]:
    """Peak memory as the search asked for it, or at the default workload: reports always show it."""
    asked = [o for o in winners.objectives if o.metric == "peak_memory_bytes"]
    return asked or [Objective("peak_memory_bytes", DEFAULT_WORKLOAD)]


def _unhurried(
    log: _Log,
    key: str,
    architecture: Architecture,
    winners: Winners,
    runtime: Runtime,
    model: GPT,
) -> dict[str, float]:
    """Everything but latency: perplexity, memory, and sizes counted on the model that was built."""
    family = winners.supernet.space.family
    found = costs(architecture, family, runtime.value_bytes)
    values: dict[str, float] = {
        "perplexity": log.values[key, "perplexity"],
        "weight_bytes": model.weight_bytes(),
        "params": found.params,
        "nonzeros": found.nonzeros,
        "flops": decode_flops(architecture, family, DEFAULT_WORKLOAD.context),
    }
    for memory in _memory_objectives(winners):
        values[str(memory)] = values["peak_memory_bytes"] = log.values[key, str(memory)]
    for objective in winners.objectives:
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
