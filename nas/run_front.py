"""The front of a finished run of ``nas search``, read from its results."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from nas.constraints import feasible_mask
from nas.deploy.report.schema import load
from nas.deploy.report.view import View, Winner
from nas.files import PathLike
from nas.objectives import Evaluation, Objective
from nas.pareto import ParetoFront
from search_spaces import Architecture

_COUNTED = ("params", "nonzeros", "weight_bytes", "flops")
_MEASURED = ("perplexity", "peak_memory_bytes")  # the search measures these itself


def front(run: PathLike, *, searched: bool = False) -> ParetoFront:
    """The front of a finished run.

    Args:
        run: folder of ``nas search``, or its ``results.json``.
        searched: False: of the winners, which were built, with the values that were measured on them. True: of all architectures that
            the search evaluated and that keep to its constraints, with the values it saw, of which latencies and energies are predictions.

    Returns:
        The non-dominated ones. ``provenance["sources"]`` of each evaluation says of every objective whether it was ``measured``,
        ``computed`` (exactly) or ``predicted``; ``provenance["winner"]`` is None or the winner's ``number``, ``status`` and ``folder``.

    Raises:
        ValueError: if the folder holds no results, damaged ones, or no architecture of the kind that is asked for.
    """
    path = Path(run)
    try:
        view = View(load(path))
    except FileNotFoundError:
        folder = path.parent if path.suffix == ".json" else path
        raise ValueError(
            f"expected a finished run in {folder}, found no results.json; run: nas search --out {folder}"
        ) from None
    goals = [Objective.parse(m.name) for m in view.metrics]
    found = _trials(view, goals) if searched else _winners(view, goals)
    if not found:
        remedy = "run nas search with more --trials"
        if not searched and view.trials:
            remedy = "see what the search found: nas front --searched"
        kind = "trials" if searched else "winners"
        raise ValueError(f"expected {kind} in the results of {path}, found none; {remedy}")
    ref = view.results.get("ref_point")
    return ParetoFront(found, goals, ref)


def _winners(view: View, goals: list[Objective]) -> list[Evaluation]:
    return [_winner(view, winner, goals) for winner in view.winners]


def _winner(view: View, winner: Winner, goals: list[Objective]) -> Evaluation:
    """A winner with its measured values; where one was not measured, with what the search saw or claimed."""
    claims = {name: claim.mean for name, claim in winner.predicted.items()}
    searched = view.results["winners"][winner.number - 1].get("searched") or {}
    values = _spelled(claims) | _spelled(searched)
    sources = {name: _searched_source(name) for name in values}
    measured = _spelled(winner.measured)
    values |= measured
    sources |= dict.fromkeys(measured, "measured")
    return _evaluation(winner.architecture, values, sources, goals, winner)


def _trials(view: View, goals: list[Objective]) -> list[Evaluation]:
    """Feasible trials (all, where none is), each architecture once; of several fidelities, the highest alone."""
    numbers = {winner.architecture: winner for winner in view.winners}
    fidelities = [t.get("fidelity") for t in view.trials]
    full = max((f for f in fidelities if f is not None), default=None)
    found: dict[Architecture, Evaluation] = {}
    for trial, fidelity in zip(view.trials, fidelities, strict=True):
        if fidelity != full and fidelity is not None:
            continue
        architecture = Architecture.from_json(trial["architecture"])
        values = _spelled(trial["values"])
        sources = {name: _searched_source(name) for name in values}
        winner = numbers.get(architecture)
        found.setdefault(architecture, _evaluation(architecture, values, sources, goals, winner))
    evaluations = list(found.values())
    mask = feasible_mask(evaluations, view.results.get("constraints") or {})
    return [e for e, keep in zip(evaluations, mask, strict=True) if keep or not mask.any()]


def _evaluation(
    architecture: Architecture,
    values: Mapping[str, float],
    sources: Mapping[str, str],
    goals: Iterable[Objective],
    winner: Winner | None,
) -> Evaluation:
    if missing := [str(o) for o in goals if str(o) not in values]:
        raise ValueError(
            f"expected values of all objectives in the results, got none of {missing} for {architecture.key}; "
            "run the same nas search again"
        )
    of_winner = None
    if winner is not None:
        of_winner = {"number": winner.number, "status": winner.status, "folder": winner.folder}
    provenance = {"sources": dict(sources), "winner": of_winner}
    return Evaluation(architecture, values, provenance=provenance)


def _spelled(values: Mapping[str, float]) -> dict[str, float]:
    """Values under the one spelling of their objective; what is no objective is of no use here."""
    found = {}
    for name, value in values.items():
        try:
            found[str(Objective.parse(name))] = value
        except ValueError:
            continue
    return found


def _searched_source(name: str) -> str:
    """Where a search takes a value from."""
    metric = Objective.parse(name).metric
    if metric in _COUNTED:
        return "computed"
    return "measured" if metric in _MEASURED else "predicted"
