"""``README.md`` beside the results: their tables in words, made of the result files alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from nas.files import write_text_atomic

_ABOUT = """# One study, many processes

Made by `python -m experiments.scale_out`; each part's command, versions and date are in its JSON file.
"""
_KILL = """
## kill -9

{workers} processes, each on a machine of its own as far as the others can tell (deaths show by heartbeats only, one a second), on
one study of the space {space}; random ones are killed at random moments of its progress and replaced. The sampler is `random`,
whose proposals depend on the index alone: the finished trials must be exactly those of a study that one process ran at a stretch.
*Faults* are lost or duplicated trials, indices or numbers, trials that still run, other architectures than uninterrupted, and
architectures that two living processes evaluated at one time.

| storage | trials complete | kills | trials given up and made again | faults | wall time, s |
|---|---|---|---|---|---|
"""
_OVERHEAD = """
## Overhead

Evaluations take no time here: asking and telling are all there is. Workers are forked from a process that has imported
everything, so what an import costs (1 to 2 s of a core each, once) is not in the figures; *first trial* is from the start signal
to the end of the first evaluation (connecting, opening the study), *ms a trial* from there to the last, over the trials of all
workers together. Proposals are made one at a time, so this is the share of the study that does not run side by side: with W
workers nobody waits where an evaluation takes (W - 1) times as long. All processes, the servers included, share the cores of the
device.

| storage | workers | first trial, s | ms a trial | trials a second | no waiting from evaluations of, s |
|---|---|---|---|---|---|
"""
_PARALLELISM = """
## Hypervolume lost by parallelism

Simulated on {problem}, {budget} trials: a sampler is asked with so many trials at work, whose values it does not know yet. Share
of the best known hypervolume; the loss is paired by seed.

| sampler | at work | share, % (+- standard deviation) | points lost (+- standard error) |
|---|---|---|---|
"""


def write_report(folder: Path) -> Path:
    """Write ``README.md`` of those parts whose results are there."""
    parts = {name: _read(folder / f"{name}.json") for name in ("kill", "overhead", "parallelism")}
    text = _ABOUT
    if values := parts["kill"]:
        text += _KILL.format(**values)
        for engine, row in values["engines"].items():
            faults = "; ".join(row["faults"]) or "none"
            text += f"| {engine} | {row['trials']} | {row['kills']} | {row['given_up_and_made_again']} | {faults} | {row['wall_s']} |\n"
    if values := parts["overhead"]:
        text += _OVERHEAD
        for row in values["rows"]:
            text += (
                f"| {row['engine']} | {row['workers']} | {row['first_trial_s']} | {row['ms_a_trial']} | {row['trials_a_second']} "
                f"| {row['no_queue_from_evaluations_of_s']} |\n"
            )
        text += f"\nThe machine did other work meanwhile: load average {values['load']} on {values['cores']} cores.\n"
    if values := parts["parallelism"]:
        text += _PARALLELISM.format(**values)
        for row in values["rows"]:
            text += (
                f"| {row['sampler']} | {row['running']} | {row['share_percent']} +- {row['std']} "
                f"| {row['lost_points']} +- {row['lost_standard_error']} |\n"
            )
    path = folder / "README.md"
    write_text_atomic(path, text)
    return path


def _read(path: Path) -> dict[str, Any] | None:
    """Values of a result file; None where there is none."""
    if not path.exists():
        return None
    values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))["values"]
    return values
