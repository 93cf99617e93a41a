"""Run ``nas search`` in a process group of its own, kill it, restart it, and hold what it kept against what it had."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from experiments.kill.moments import PROGRESS, Moment, finished_trials, lines

LOGS = ("profile.jsonl", "search.journal", "random-0.journal", "verify.jsonl")
_ROOT = Path(__file__).parents[2]


def write_text(path: Path, num_chars: int) -> Path:
    """A text to train on: the beginning of the standard library's ``argparse`` and ``typing``."""
    folder = Path(sysconfig.get_path("stdlib"))
    names = ("argparse.py", "typing.py", "inspect.py")
    text = "".join((folder / name).read_text(encoding="utf-8") for name in names)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text[:num_chars], encoding="utf-8")
    return path


@dataclass
class Victim:
    """A run that is killed again and again.

    Args:
        folder: of the run.
        options: of ``nas search``, without ``--out``.
        program: that is ``nas``.
        losses: what a restart no longer had; empty if all is well.
        killed: the moments at which it was really killed; a moment is missed when the stage ended before.
    """

    folder: Path
    options: Sequence[str]
    program: Sequence[str] = (sys.executable, "-m", "nas")
    losses: list[str] = field(default_factory=list)
    killed: list[Moment] = field(default_factory=list)
    _kept: dict[str, list[bytes]] = field(default_factory=dict)
    _step: int = 0

    def kill_at(self, moment: Moment) -> None:
        """Start the run, kill its whole process group at the moment, and compare."""
        process, log = self._start()
        progress = PROGRESS[moment.stage]
        while process.poll() is None and progress(self.folder, log) < moment.done:
            time.sleep(0.01)
        time.sleep(moment.delay_s)
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            self.killed.append(moment)
        status = process.wait()
        if status not in (0, -signal.SIGKILL):
            raise RuntimeError(
                f"expected a run that ends with 0, got {status}: {log.read_text()[-2000:]}"
            )
        self._compare()

    def finish(self) -> dict[str, Any]:
        """Let the run end, compare a last time, and return its results."""
        process, log = self._start()
        if process.wait() != 0:
            raise RuntimeError(f"expected the run to end with 0, got: {log.read_text()[-2000:]}")
        self._compare()
        results: dict[str, Any] = json.loads((self.folder / "results.json").read_text())
        return results

    def repeated(self) -> list[str]:
        """Records, trials and measurements that were made twice; a killed one that was not yet on disk is none."""
        records = [json.loads(line) for line in lines(self.folder / "profile.jsonl")]
        checks = [json.loads(line) for line in lines(self.folder / "verify.jsonl")]
        names: dict[str, list[Any]] = {
            "profile.jsonl": [(r["key"], r["workload"], r["round"]) for r in records],
            "verify.jsonl": [(c["key"], c["name"]) for c in checks],
            "search.journal": finished_trials(self.folder / "search.journal"),
        }
        return [name for name, found in names.items() if len(set(found)) != len(found)]

    def _start(self) -> tuple[subprocess.Popen[bytes], Path]:
        self.folder.mkdir(parents=True, exist_ok=True)
        log = self.folder.with_name(f"{self.folder.name}.log")
        command = [*self.program, "search", *self.options, "--out", str(self.folder)]
        environment = os.environ | {"PYTHONPATH": str(_ROOT), "PYTHONUNBUFFERED": "1"}
        with log.open("wb") as file:
            process = subprocess.Popen(
                command,
                stdout=file,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,
            )
        return process, log

    def _compare(self) -> None:
        """What a log held at the last kill is the beginning of what it holds now; training never falls behind its checkpoint."""
        for name in LOGS:
            before, now = self._kept.get(name, []), lines(self.folder / name)
            if now[: len(before)] != before:
                self.losses.append(f"{name} had {len(before)} lines, of which some are gone")
            self._kept[name] = now
        checkpoints = [json.loads(path.read_text()) for path in self.folder.glob("training-*.json")]
        step = sum(int(checkpoint["info"]["step"]) for checkpoint in checkpoints)
        if step < self._step:
            self.losses.append(f"training was at step {self._step}, and is at {step}")
        self._step = step


def uninterrupted(victim: Victim, folder: Path) -> dict[str, Any]:
    """Results of the same run in another folder with the same profile records, and no kill."""
    folder.mkdir(parents=True)
    shutil.copy(victim.folder / "profile.jsonl", folder)
    return Victim(folder, victim.options, victim.program).finish()


def differences(results: dict[str, Any], expected: dict[str, Any]) -> list[str]:
    """What differs between two runs, of all that must not: weights, trials, claims, front."""

    def claims(of: dict[str, Any]) -> list[Any]:
        return [[w["architecture"], w["predicted"]] for w in of["winners"]]

    found = [
        name
        for name in ("ref_point", "trials", "hypervolume_trace", "random_search")
        if results[name] != expected[name]
    ]
    if results["provenance"]["supernet"] != expected["provenance"]["supernet"]:
        found.append("supernet")
    if claims(results) != claims(expected):
        found.append("winners")
    return found
