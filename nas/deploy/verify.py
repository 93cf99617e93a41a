"""Verification: measure materialized models afresh and hold what was measured against what the search claimed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor
from tqdm import tqdm

from nas.deploy.baseline import DensePaths, measure_dense_paths
from nas.deploy.check import Check
from nas.deploy.energy import measure_energy
from nas.deploy.energy_counters import find_counter
from nas.deploy.materialize import Winners
from nas.deploy.measure import measure_latency, measure_peak_memory, time_step
from nas.deploy.measurement_log import MeasurementLog, baseline_key
from nas.deploy.results import baseline_result, memory_objectives, winner_result
from nas.deploy.runtime import Runtime, check_device, device_name, provenance
from nas.deploy.workloads import energy_workloads, latency_workloads
from nas.files import PathLike, run_lock
from nas.model import GPT, perplexity
from nas.objectives import Objective
from search_spaces import Architecture, Workload


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
        """Draw the page, with its picture and its numbers beside it.

        Beside ``report.html`` stand ``front.png`` and ``results.json``, beside any other page such as
        ``mine.html`` its own ``mine.front.png`` and ``mine.results.json``.

        Args:
            path: of the HTML file.

        Returns:
            The same path.

        Raises:
            ValueError: if it is no path of an HTML file, or that of a run's own report, whose results
                hold more than a verification.
        """
        from nas.deploy.report import publish

        target = Path(path)
        if target.suffix != ".html" or target.is_dir():
            raise ValueError(f"expected the path of an HTML file such as mine.html, got {path}")
        if target.name == "report.html" and (target.parent / "run.json").exists():
            raise ValueError(
                f"expected a name of its own for a page in the folder of a search, got {path}, which is that of the "
                "search's report; save it as mine.html, or run: nas verify --run "
                + str(target.parent)
            )
        return publish(self.results, target.parent, target.name).html


def check_rounds(rounds: int) -> None:
    """Refuse a number of rounds that measures nothing.

    Raises:
        ValueError: if it is below 1.
    """
    if rounds < 1:
        raise ValueError(f"expected rounds of 1 or more, got {rounds}")


def verify(
    winners: Winners,
    device: str = "cpu",
    *,
    rounds: int = 3,
    compile: bool = True,
    out: PathLike | None = None,
    newer_than: int | None = None,
    progress: bool = True,
) -> VerificationReport:
    """Measure perplexity, latency, memory and size of materialized models and of the dense baseline, in one run.

    Energy is measured, too, where it is an objective.

    Latencies are taken in rounds over all models, the dense baseline's paths among them, and the
    median over the rounds is reported: what disturbs the machine for a moment disturbs winner and
    baseline alike. With ``out`` a killed verification goes on where it stopped.

    Args:
        winners: from :func:`nas.materialize`.
        device: ``cpu`` or ``cuda``.
        rounds: measurements of each latency.
        compile: whether the dense baseline may use ``torch.compile``.
        out: folder for ``verify.jsonl``; None keeps nothing.
        newer_than: measure again what this attempt measured (the ``attempt`` in a report's
            provenance); None goes on with the latest attempt in ``out``.
        progress: whether to show a progress bar.

    Returns:
        The report: per winner every check with what was measured, claimed and tolerated.

    Raises:
        ValueError: if the device is absent or not the one the claims are for, or another run uses
            the folder.
    """
    check_rounds(rounds)
    _check_device(winners, device)
    with run_lock(out):
        log = MeasurementLog(
            None if out is None else Path(out) / "verify.jsonl", winners, newer_than
        )
        return _verify(winners, device, log, rounds, compile, progress)


def _check_device(winners: Winners, device: str) -> None:
    """Refuse winners that are none, and a device other than that of their claims."""
    if not isinstance(winners, Winners):
        raise ValueError(
            f"expected the winners of nas.materialize, got {type(winners).__name__}; "
            "call nas.materialize(study.front, supernet) first"
        )
    check_device(device)
    if device != winners.runtime.device:
        raise ValueError(
            f"expected device {winners.runtime.device!r}, which the claims are for, got {device!r}; profile it first"
        )
    here = device_name(device)
    if winners.device_name not in (None, here):
        raise ValueError(
            f"expected the processor that the claims are for ({winners.device_name}), got {here}; "
            "profile and search on this one: a latency claimed for another says nothing here"
        )


def _verify(
    winners: Winners, device: str, log: MeasurementLog, rounds: int, compile: bool, progress: bool
) -> VerificationReport:
    supernet, runtime = winners.supernet, winners.runtime
    workloads = latency_workloads(winners.objectives, supernet.space.family)
    energies = energy_workloads(winners.objectives)
    if energies:
        find_counter(device)  # refuses now, not after the other measurements
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
        base_runtime = log.fastest(dense, workloads[0], base, rounds)
        base_model = base.models[base_runtime.dtype]
        everything = {**models, baseline_key(dense): base_model}
        for key, model in everything.items():
            run = base_runtime if key.endswith(":baseline") else runtime
            log.once(key, "perplexity", partial(perplexity, model, tokens))
            for memory in memory_objectives(winners):
                assert memory.workload is not None
                log.once(
                    key, str(memory), partial(measure_peak_memory, model, memory.workload, run)
                )
            for number in range(rounds * bool(energies)):
                for workload in energies:
                    log.once(
                        key,
                        f"{Objective('energy_j', workload)}#{number}",
                        partial(_energy_j, model, workload, run),
                    )
            bar.update(2 if key in models else 1)
    baseline = baseline_result(log, dense, workloads, paths, rounds, winners, base_model)
    results: dict[str, Any] = {
        "schema": 1,
        "provenance": provenance(runtime)
        | {"rounds": rounds, "num_tokens": winners.num_tokens, "attempt": log.attempt},
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
        "winners": [winner_result(log, w, winners, workloads, rounds, baseline) for w in winners],
    }
    return VerificationReport(results)


def _latency_ms(model: GPT, workload: Workload, runtime: Runtime) -> float:
    return measure_latency(model, workload, runtime).median_ms


def _energy_j(model: GPT, workload: Workload, runtime: Runtime) -> float:
    return measure_energy(model, workload, runtime).joules


def _step_ms(step: Callable[[], Tensor], runtime: Runtime) -> float:
    return time_step(step, runtime).median_ms


def _baseline_round(
    log: MeasurementLog, dense: Architecture, workload: Workload, paths: DensePaths, number: int
) -> None:
    for runtime, step in paths.steps.items():
        name = f"{workload}@{runtime}#{number}"
        log.once(baseline_key(dense), name, partial(_step_ms, step, runtime))
