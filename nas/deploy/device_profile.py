"""DeviceProfile: the records of a device and the surrogates of latency, and where asked for of energy, fitted to them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from nas.deploy.runtime import Runtime
from nas.objectives import Objective
from search_spaces import Architecture, SearchSpace, Workload
from surrogates import KernelTable, LatencySurrogate, Prediction
from surrogates.base import FloatArray


@dataclass
class DeviceProfile:
    """What was measured on a device, and the surrogates fitted to it.

    Args:
        runtime: how the models were executed.
        surrogates: one per workload.
        quality: cross-validated Kendall tau, MAPE and coverage of the intervals, per workload.
        records: every stored measurement.
        paths: what the dense paths took when the runtime was chosen.
        kernels: measured products that the surrogates read; None where there was no table.
        energy: surrogates of the joules of a call, per workload; empty where energy was not asked for.
        energy_quality: of those, as ``quality``.
        energy_records: every stored measurement of energy.
    """

    runtime: Runtime
    surrogates: dict[Workload, LatencySurrogate]
    quality: dict[str, dict[str, float]]
    records: list[dict[str, Any]]
    paths: dict[str, Any] = field(default_factory=dict)
    kernels: KernelTable | None = None
    energy: dict[Workload, LatencySurrogate] = field(default_factory=dict)
    energy_quality: dict[str, dict[str, float]] = field(default_factory=dict)
    energy_records: list[dict[str, Any]] = field(default_factory=list)

    def surrogate(self, objective: Objective) -> LatencySurrogate:
        """Of a latency or an energy.

        Raises:
            ValueError: if its workload was not profiled.
        """
        of_energy = objective.metric == "energy_j"
        surrogates = self.energy if of_energy else self.surrogates
        if objective.workload not in surrogates:
            known = ", ".join(str(w) for w in surrogates) or "none"
            remedy = f"; profile it first: nas.profile(..., workloads=['{objective}'])"
            raise ValueError(
                f"expected one of the profiled workloads ({known}), got {objective.workload}"
                f"{' for energy_j' if of_energy else ''}{remedy if of_energy else '; profile it first'}"
            )
        return surrogates[objective.workload]

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
    def device_name(self) -> str | None:
        """The processor that was measured; None where no record says."""
        return self.records[-1].get("device") if self.records else None

    @property
    def fingerprint(self) -> str:
        """16 hexadecimal digits; equal ones mean the same records and kernel table, and so the same surrogates."""
        names, runtime = {str(w) for w in self.surrogates}, self.runtime.to_json()
        rows = sorted(
            (r["key"], r["workload"], r["round"], r["median_ms"])
            for r in self.records
            if r["workload"] in names and r["runtime"] == runtime
        )
        content = [runtime, rows] + ([self.kernels.fingerprint] if self.kernels else [])
        if (
            self.energy
        ):  # nothing is added to profiles without, so that they keep the fingerprint they had
            content.append(
                sorted(
                    (r["key"], r["workload"], r["round"], r["joules"]) for r in self.energy_records
                )
            )
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]


def fit_profile(
    space: SearchSpace,
    records: Sequence[dict[str, Any]],
    runtime: Runtime,
    workloads: Sequence[Workload],
    paths: dict[str, Any] | None = None,
    kernels: KernelTable | None = None,
) -> DeviceProfile:
    """Fit the surrogates to stored records; the same records, and the same kernel table if any, give the same surrogates.

    Raises:
        ValueError: if a workload has too few records.
    """
    surrogates, quality = fit_surrogates(space, records, runtime, workloads, kernels)
    return DeviceProfile(runtime, surrogates, quality, list(records), dict(paths or {}), kernels)


def fit_surrogates(
    space: SearchSpace,
    records: Sequence[dict[str, Any]],
    runtime: Runtime,
    workloads: Sequence[Workload],
    kernels: KernelTable | None = None,
    value: str = "median_ms",
) -> tuple[dict[Workload, LatencySurrogate], dict[str, dict[str, float]]]:
    """A surrogate of each workload, and its cross-validated quality.

    Energy is a sum over operators as time is, and its errors are shares too: ``value="joules"`` gives surrogates that predict joules.

    Raises:
        ValueError: if a workload has too few records.
    """
    surrogates, quality = {}, {}
    for workload in workloads:
        architectures, repeats = rounds_of(records, workload, runtime, value)
        surrogate = LatencySurrogate(space.family, workload, dtype=runtime.dtype, kernels=kernels)
        surrogate.fit(architectures, repeats_nr=repeats)
        surrogates[workload] = surrogate
        scores = surrogate.cross_validate(5)
        # The surrogate counts an architecture's rounds as one record.
        quality[str(workload)] = {name: round(value, 5) for name, value in scores.items()} | {
            "num_records": int(np.isfinite(repeats).sum()),
            "num_architectures": len(architectures),
        }
    return surrogates, quality


def rounds_of(
    records: Sequence[dict[str, Any]], workload: Workload, runtime: Runtime, value: str
) -> tuple[list[Architecture], FloatArray]:
    """Architectures in the order of their first record, and one measurement a round, shape (n, r); NaN where one is missing.

    Args:
        records: of latency or energy; those of another workload or runtime are left out.
        workload: that was measured.
        runtime: how.
        value: field of the measurement: ``median_ms`` or ``joules``.
    """
    rows: dict[str, tuple[Architecture, dict[int, float]]] = {}
    for record in records:
        if record["workload"] == str(workload) and record["runtime"] == runtime.to_json():
            entry = rows.setdefault(
                record["key"], (Architecture.from_json(record["architecture"]), {})
            )
            entry[1][record["round"]] = record[value]
    last = max((number for _, values in rows.values() for number in values), default=-1)
    repeats_nr = np.full((len(rows), last + 1), np.nan)
    for i, (_, values) in enumerate(rows.values()):
        for number, measured in values.items():
            repeats_nr[i, number] = measured
    return [architecture for architecture, _ in rows.values()], repeats_nr
