"""``nas front``: the front of a finished run as a table, narrowed by bounds, and the few members to build."""

from __future__ import annotations

import math
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from nas.commands.run_folder import results_of
from nas.deploy.report.units import Metric, percent
from nas.files import write_json_atomic
from nas.objectives import Evaluation
from nas.pareto import ParetoFront, hypervolume
from nas.run_front import front as front_of_run

if TYPE_CHECKING:
    from nas.cli import Front

_STATES = {
    "verified": Text("✓ passed", style="green"),
    "failed": Text("✕ failed", style="bold red"),
    "unmeasured": Text("unmeasured", style="dim italic"),
    "trial": Text("not built", style="dim italic"),
}
_KEY = 8  # digits of a key that tell architectures of one front apart


@dataclass(frozen=True)
class _Choice:
    """What is shown of a front.

    Args:
        whole: the front before it was narrowed.
        front: what the bounds leave.
        picked: keys of the members to build, in the order of the front.
        knee: key of the knee; None if it was not asked for.
        hypervolume: share of that of ``front`` which the picked ones have; None if nothing was picked by it.
        is_exact: whether no other choice of as many has more.
    """

    whole: ParetoFront
    front: ParetoFront
    picked: tuple[str, ...]
    knee: str | None
    hypervolume: float | None
    is_exact: bool


def parse_bounds(texts: Sequence[str]) -> dict[str, float]:
    """Read bounds spelled ``objective=most`` or ``objective<=most``; brackets of the objective may hold ``=`` too.

    Returns:
        Largest accepted value by the name as it was given.

    Raises:
        ValueError: if a text is no such bound, or a name has two.
    """
    bounds: dict[str, float] = {}
    for text in texts:
        name, sign, number = text.rpartition("=")
        name = name.removesuffix("<").strip()
        try:
            bound = float(number)
        except ValueError:
            bound = math.nan
        if not sign or not name or not math.isfinite(bound):
            raise ValueError(
                f'expected a bound such as --max "decode_ms=3", got {text!r}; the run folder goes before the options'
            )
        if name in bounds:
            raise ValueError(f"expected one bound for {name}, got two: {list(texts)}")
        bounds[name] = bound
    return bounds


def front_run(command: Front) -> None:
    """``nas front``."""
    if command.pick is not None and command.pick < 1:
        raise ValueError(f"expected to pick 1 or more, got {command.pick}")
    bounds = parse_bounds(command.max)
    results = results_of(command.run)
    whole = front_of_run(command.run, searched=command.searched)
    choice = _choose(whole, whole.within(bounds), command.pick, command.knee)
    console = Console()
    console.print(_table(choice, command))
    for line in _notes(choice, command, results, bounds):
        console.print(line, soft_wrap=True, highlight=False, markup=False)
    if command.json is not None:
        write_json_atomic(command.json, _to_json(choice, command, bounds))
        console.print(f"Written: {command.json}", soft_wrap=True, highlight=False, markup=False)
    for line in _next(choice, command, results):
        console.print(line, soft_wrap=True, highlight=False, markup=False)


def _choose(whole: ParetoFront, front: ParetoFront, pick: int | None, knee: bool) -> _Choice:
    chosen: set[str] = set()
    share, is_exact = None, True
    if pick is not None:
        selection = front.select(pick)
        chosen = {front.evaluations[row].architecture.key for row in selection.rows}
        is_exact = selection.is_exact
        if front.ref_point is not None and front.hypervolume > 0:
            share = selection.hypervolume / front.hypervolume
    knee_key = front.knee.architecture.key if knee else None
    keys = (e.architecture.key for e in front.evaluations)
    picked = tuple(key for key in keys if key in chosen or key == knee_key)
    return _Choice(whole, front, picked, knee_key, share, is_exact)


def _table(choice: _Choice, command: Front) -> Table:
    metrics = [Metric(str(o)) for o in choice.front.objectives]
    kind = "as the search saw it" if command.searched else "winners as measured"
    table = Table(
        box=box.SIMPLE_HEAD,
        title=f"Front of {command.run}, {kind} (≈ predicted only)",
        title_justify="left",
        show_edge=False,
        pad_edge=False,
        collapse_padding=True,
    )
    table.add_column("Key", no_wrap=True)
    for metric in metrics:
        table.add_column(f"{metric.title} {metric.workload}".strip(), justify="right")
    table.add_column("Verified", no_wrap=True)
    if choice.picked:
        table.add_column("Picked", no_wrap=True)
    column = next((i for i, m in enumerate(metrics) if m.is_latency), 0)
    for evaluation in sorted(
        choice.front.evaluations, key=lambda e: e.value(choice.front.objectives[column])
    ):
        key = evaluation.architecture.key
        marks = ["★"] * (key in choice.picked) + ["knee"] * (key == choice.knee)
        cells: list[Text] = [Text(key[:_KEY])]
        cells += [_cell(evaluation, metric) for metric in metrics]
        cells.append(_STATES[_status(evaluation)])
        if choice.picked:
            cells.append(Text(" ".join(marks), style="bold"))
        table.add_row(*cells)
    return table


def _cell(evaluation: Evaluation, metric: Metric) -> Text:
    text = metric.format(evaluation.value(metric.name))
    if evaluation.provenance["sources"][metric.name] == "predicted":
        return Text(f"≈ {text}", style="dim italic")
    return Text(text)


def _status(evaluation: Evaluation) -> str:
    winner = evaluation.provenance["winner"]
    return winner["status"] if winner else "trial"


def _notes(
    choice: _Choice, command: Front, results: dict[str, Any], bounds: dict[str, float]
) -> list[str]:
    """What the table holds, what was left out of it, and how good the choice is."""
    front, whole = choice.front, choice.whole
    lines = []
    winners = len(results["winners"])
    if not command.searched and len(whole) < winners:
        lines.append(
            f"{winners - len(whole)} of {winners} winners are left out: as measured, another is nowhere worse."
        )
    if bounds:
        limits = ", ".join(f"{name} <= {most:g}" for name, most in bounds.items())
        lines.append(f"{len(front)} of {len(whole)} on the front keep to {limits}.")
    lines.append(_sources(front, results))
    if command.pick is not None:
        lines.append(_picked(choice, command.pick))
    if choice.knee is not None:
        lines.append(
            f"Knee: {choice.knee[:_KEY]}, where giving up a little of one objective stops gaining much of the others."
        )
    return lines


def _sources(front: ParetoFront, results: dict[str, Any]) -> str:
    """Which objectives' values were measured, computed or predicted."""
    by_source: dict[str, list[str]] = {}
    for objective in front.objectives:
        found = {e.provenance["sources"][str(objective)] for e in front.evaluations}
        source = " or ".join(sorted(found - {"predicted"}, reverse=True)) or "predicted"
        if len(found) > 1 and "predicted" in found:
            source += " or, with ≈, predicted"
        by_source.setdefault(source, []).append(str(objective))
    device = (results.get("provenance") or {}).get("device")
    on = f" (device: {device})" if device else ""
    parts = [f"{', '.join(names)} {source}" for source, names in by_source.items()]
    return f"Values: {'; '.join(parts)}{on}."


def _picked(choice: _Choice, pick: int) -> str:
    size = len(choice.front)
    if pick >= size:
        extra = "" if pick == size else f", fewer than the {pick} asked for"
        return f"★ All {size} are picked{extra}."
    share = ""
    if choice.hypervolume is not None:
        share = f" with {percent(choice.hypervolume, 1)} of the hypervolume of all {size}"
    how = (
        "no other choice of as many has more"
        if choice.is_exact
        else "chosen one by one, at least 63 % of the best choice"
    )
    return f"★ {pick} picked{share}; {how}."


def _to_json(choice: _Choice, command: Front, bounds: dict[str, float]) -> dict[str, Any]:
    front = choice.front
    names = [str(o) for o in front.objectives]
    volume = None if front.ref_point is None else float(front.hypervolume)
    picked = [e for e in front.evaluations if e.architecture.key in choice.picked]
    of_picked = None
    if front.ref_point is not None and picked:
        rows = [[e.value(n) for n in names] for e in picked]
        of_picked = float(hypervolume(rows, front.ref_point))
    return {
        "schema": 1,
        "run": str(command.run),
        "searched": command.searched,
        "objectives": [o.to_json() for o in front.objectives],
        "ref_point": None
        if front.ref_point is None
        else dict(zip(names, front.ref_point, strict=True)),
        "bounds": bounds,
        "hypervolume": volume,
        "picked_hypervolume": of_picked,
        "is_best_choice": choice.is_exact,
        "picked": list(choice.picked),
        "knee": choice.knee,
        "front": [
            {
                "key": e.architecture.key,
                "architecture": e.architecture.to_json(),
                "values": dict(e.values),
                "sources": e.provenance["sources"],
                "winner": e.provenance["winner"],
            }
            for e in front.evaluations
        ],
    }


def _next(choice: _Choice, command: Front, results: dict[str, Any]) -> list[str]:
    run = command.run
    if not choice.picked:
        return [f"Next: {_words('nas', 'front', run, '--pick', min(5, len(choice.front)))}"]
    members = {e.architecture.key: e for e in choice.front.evaluations}
    built = [key for key in choice.picked if members[key].provenance["winner"]]
    lines = []
    if built:
        commands = [
            _words("nas", "materialize", "--run", run, "--key", key, "--out", Path(run) / "picked")
            for key in built
        ]
        lines += ["Next: build what was picked, in a folder of its own:", *commands]
        lines.append(f"or measure all winners again: {_words('nas', 'verify', '--run', run)}")
    if unbuilt := len(choice.picked) - len(built):
        again = results.get("command") or _words("nas", "search", "--out", run)
        lines.append(
            f"Next: {unbuilt} of the picked ones are no winners of this run, so nothing was measured on them. The same search builds and "
            f"measures its whole front with: {again} --max-winners {len(choice.whole)}"
        )
    return lines


def _words(*words: object) -> str:
    return shlex.join(map(str, words))
