"""Progress: a line for each finished run, in a file for each problem; what a killed experiment goes on from."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from experiments.results import digest
from experiments.searchers.methods import Method
from nas.files import append_jsonl, read_jsonl

Record = dict[str, Any]


def setting(method: Method, problem_version: str) -> str:
    """Digest of what a run depends on besides seed, budget and code: another setting's runs are not taken for this one's."""
    options = dict(method.options)
    return digest({"sampler": method.sampler, "options": options, "problem": problem_version})


class Progress:
    """Finished runs in a folder. Several processes may add to it.

    Args:
        folder: a JSON-lines file for each problem.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._read: dict[Path, tuple[int, list[Record]]] = {}  # by file: its size, its records

    def _path(self, problem: str) -> Path:
        return self.folder / (re.sub(r"[^A-Za-z0-9+.-]+", "_", problem) + ".jsonl")

    def has(self, problem: str) -> bool:
        """Whether any run of a problem is kept."""
        return self._path(problem).exists()

    def records(self, problem: str) -> list[Record]:
        """Runs of a problem, in the order of their end; a file that has not grown is not read again."""
        path = self._path(problem)
        size = path.stat().st_size if path.exists() else 0
        if self._read.get(path, (-1, []))[0] != size:
            self._read[path] = size, read_jsonl(path)
        return [record for record in self._read[path][1] if record["problem"] == problem]

    def find(
        self, problem: str, version: str, method: Method, seed: int, budget: int, fresh: bool
    ) -> Record | None:
        """A run of so many evaluations or more (its beginning is the shorter run); the last one made.

        Args:
            problem: its name.
            version: its version.
            method: the searcher.
            seed: of the run.
            budget: evaluations asked for.
            fresh: take only a run of the code as it is now.
        """
        own = setting(method, version)
        for record in reversed(self.records(problem)):
            if (record["method"], record["seed"], record["setting"]) != (method.name, seed, own):
                continue
            if record["budget"] >= budget and (not fresh or record["code"] == method.code):
                return record
        return None

    def add(
        self, problem: str, version: str, method: Method, seed: int, budget: int, found: Record
    ) -> Record:
        """Keep a finished run; when this returns it is on the disk."""
        record = {
            "problem": problem,
            "method": method.name,
            "seed": seed,
            "budget": budget,
            "setting": setting(method, version),
            "code": method.code,
            **found,
        }
        append_jsonl(self._path(problem), record)
        return record

    def latest(
        self, problem: str, version: str, methods: Iterable[Method]
    ) -> dict[str, dict[int, Record]]:
        """Of each method and seed, the longest run of the present setting (of equally long ones the last made)."""
        settings = {m.name: setting(m, version) for m in methods}
        found: dict[str, dict[int, Record]] = {name: {} for name in settings}
        for record in self.records(problem):
            if settings.get(record["method"]) != record["setting"]:
                continue
            runs = found[record["method"]]
            kept = runs.get(record["seed"])
            if kept is None or kept["budget"] <= record["budget"]:
                runs[record["seed"]] = record
        return {name: dict(sorted(runs.items())) for name, runs in found.items() if runs}
