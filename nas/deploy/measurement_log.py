"""MeasurementLog: what a verification has measured so far, so that a killed one goes on where it stopped.

Verifying again is another attempt, and every line says of which attempt it is: nothing is deleted before the new numbers are whole.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from nas.deploy.baseline import DensePaths
from nas.deploy.materialize import Winners
from nas.deploy.runtime import Runtime, device_name
from nas.files import append_jsonl, read_jsonl
from search_spaces import Architecture, Workload


class MeasurementLog:
    """Finished measurements by (model, name), on disk before the next is taken.

    Args:
        path: of the JSON lines; None keeps them in memory.
        winners: what is measured; lines of other models, texts or devices are not reused.
        newer_than: number of an attempt whose values are not wanted again; None goes on with the latest.

    Attributes:
        attempt: the one whose values are used and taken.

    Raises:
        ValueError: if a line is not a measurement.
    """

    def __init__(self, path: Path | None, winners: Winners, newer_than: int | None = None) -> None:
        self.path = path
        self.identity = {
            "supernet": winners.supernet.info["sha256"],
            "corpus": winners.supernet.corpus.fingerprint,
            "winners": sorted(w.architecture.key for w in winners),
            "num_tokens": winners.num_tokens,
            "runtime": winners.runtime.to_json(),
            "device": device_name(winners.runtime.device),
        }
        attempts: dict[int, dict[tuple[str, str], float]] = {}
        for number, record in enumerate([] if path is None else read_jsonl(path), start=1):
            if not _is_measurement(record):
                raise ValueError(
                    f"expected a measurement in line {number} of {path}, got {json.dumps(record)[:80]}; "
                    "remove that line, or delete the file to measure again"
                )
            if record["identity"] == self.identity:
                values = attempts.setdefault(record["attempt"], {})
                values[record["key"], record["name"]] = record["value"]
        self.attempt = max(attempts, default=0)
        if newer_than is not None:
            self.attempt = max(self.attempt, newer_than + 1)
        self.values = attempts.get(self.attempt, {})

    def once(self, key: str, name: str, measure: Callable[[], float]) -> float:
        """The stored value, or a fresh one, stored."""
        if (key, name) not in self.values:
            value = float(measure())
            if self.path is not None:
                record = {"key": key, "name": name, "value": value, "attempt": self.attempt}
                append_jsonl(self.path, record | {"identity": self.identity})
            self.values[key, name] = value
        return self.values[key, name]

    def median(self, key: str, workload: Workload, rounds: int, suffix: str = "") -> float:
        """Over the rounds, in ms; ``suffix`` names a dense path."""
        return statistics.median(self.values[key, f"{workload}{suffix}#{n}"] for n in range(rounds))

    def fastest(
        self, dense: Architecture, workload: Workload, paths: DensePaths, rounds: int
    ) -> Runtime:
        """The dense path of the smallest median over the rounds."""
        key = baseline_key(dense)
        return min(paths.steps, key=lambda r: self.median(key, workload, rounds, f"@{r}"))


def baseline_key(dense: Architecture) -> str:
    """Under which the dense baseline is logged; the largest architecture may be a winner as well."""
    return dense.key + ":baseline"


def _is_measurement(record: Mapping[str, Any]) -> bool:
    value, attempt = record.get("value"), record.get("attempt")
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    is_counted = isinstance(attempt, int) and not isinstance(attempt, bool)
    names = all(isinstance(record.get(name), str) for name in ("key", "name"))
    fields = {"key", "name", "value", "attempt", "identity"}
    return set(record) == fields and names and is_number and is_counted
