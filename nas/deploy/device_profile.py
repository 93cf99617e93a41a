"""DeviceProfile: the records of a device and the latency surrogates fitted to them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from nas.deploy.runtime import Runtime
from search_spaces import Architecture, SearchSpace, Workload
from surrogates import KernelTable, LatencySurrogate, Prediction


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
    """

    runtime: Runtime
    surrogates: dict[Workload, LatencySurrogate]
    quality: dict[str, dict[str, float]]
    records: list[dict[str, Any]]
    paths: dict[str, Any] = field(default_factory=dict)
    kernels: KernelTable | None = None

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
        surrogate = LatencySurrogate(space.family, workload, dtype=runtime.dtype, kernels=kernels)
        surrogate.fit([architecture for architecture, _ in rows.values()], repeats_nr=repeats)
        surrogates[workload] = surrogate
        scores = surrogate.cross_validate(5)
        # The surrogate counts an architecture's rounds as one record.
        quality[str(workload)] = {name: round(value, 5) for name, value in scores.items()} | {
            "num_records": int(np.isfinite(repeats).sum()),
            "num_architectures": len(rows),
        }
    return DeviceProfile(runtime, surrogates, quality, list(records), dict(paths or {}), kernels)
