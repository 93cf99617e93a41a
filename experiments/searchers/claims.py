"""What the searchers are held to, and what was measured: each claim with its number, its target, and whether it is met."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from experiments.searchers.collect import Row, Runs, pair_rows
from experiments.searchers.methods import OURS
from experiments.searchers.problems import GROUPS
from experiments.searchers.statistics import LEVEL, mean_of

AT = 100  # evaluations at which searchers are compared
_A100 = GROUPS["a100"][0]
_NOISE_LOSS = 0.015
_SHORTFALL = 0.005
# Of the best known hypervolume, after so many evaluations; and milliseconds of the suggestion at trial 100.
_TARGETS = {
    "a100": ({50: 0.94, 100: 0.985, 200: 0.995}, 50.0),
    "nonlinear": ({100: 0.90, 200: 0.95}, 200.0),
}


def device_table(all_runs: Sequence[Runs], rows: Sequence[Row]) -> dict[str, Any]:
    """Ours against every other searcher on a family of problems.

    Args:
        all_runs: the problems.
        rows: :func:`experiments.searchers.collect.pair_rows` of them.

    Returns:
        ``ahead``: problems where ours has the higher mean than every other method on their common seeds; ``t``, ``wilcoxon``: where each of
        those differences has p < 0.05 by itself; ``t_holm``, ``wilcoxon_holm``: also after Holm's correction over the problems;
        ``shortfall``: the most by which another method's mean is above ours on common seeds; ``of``: problems where all methods that appear
        anywhere have been run; ``seeds``: least number of common seeds by method.
    """
    by_problem: dict[str, list[Row]] = {}
    for row in rows:
        by_problem.setdefault(row["problem"], []).append(row)
    others = {row["other"] for row in rows}
    whole = {name: own for name, own in by_problem.items() if {r["other"] for r in own} == others}
    found: dict[str, Any] = {"of": len(whole), "problems": len(all_runs)}
    found["ahead"] = sum(all(r["difference"] > 0 for r in own) for own in whole.values())
    for name in ("t", "wilcoxon", "t_holm", "wilcoxon_holm"):
        found[name] = sum(all(r[f"p_{name}"] < LEVEL for r in own) for own in whole.values())
    differences = [r["difference"] for own in whole.values() for r in own]
    found["shortfall"] = round(max(0.0, -min(differences, default=0.0)), 5)
    found["seeds"] = {
        other: min(r["seeds"] for r in rows if r["other"] == other) for other in sorted(others)
    }
    return found


def claims(by_name: Mapping[str, Runs], ours: str = OURS) -> list[Row]:
    """Claims that can be judged by the runs at hand: claim, target, measured, met."""
    rows: list[Row] = []

    def add(claim: str, target: str, measured: str, met: bool) -> None:
        rows.append(
            {"claim": claim, "target": target, "measured": measured, "met": "yes" if met else "no"}
        )

    def add_shares(group: str, name: str, title: str) -> None:
        targets, most_ms = _TARGETS[group]
        if name not in by_name:
            return
        runs = by_name[name]
        for point, target in targets.items():
            values = list(runs.at(ours, point).values())
            if values:
                mean = mean_of(values)
                met = mean.mean >= target
                add(f"{title}, {point} evaluations", f"≥ {target:.1%}", str(mean), met)
        near = [
            np.median(record["seconds"][AT - 3 : AT + 2])
            for record in runs.by_method.get(ours, {}).values()
            if len(record["seconds"]) >= AT
        ]
        if near:
            milliseconds = 1e3 * float(np.median(near))
            text = f"{milliseconds:.1f} ms"
            add(
                f"{title}, a suggestion at trial {AT}",
                f"< {most_ms:g} ms",
                text,
                milliseconds < most_ms,
            )

    add_shares("a100", _A100, "S on A100")
    for name in GROUPS["nonlinear"]:
        add_shares("nonlinear", name, name)
    devices = [by_name[name] for name in GROUPS["devices"] if name in by_name]
    compared = device_table(devices, pair_rows(devices, AT, ours))
    if compared["of"]:
        text = f"{compared['t']} of {compared['of']} (t), {compared['wilcoxon']} (Wilcoxon), ahead on {compared['ahead']}"
        add(
            "above every other searcher, p < 0.05, 100 evaluations",
            "≥ 11 of 13 devices",
            text,
            compared["t"] >= 11,
        )
        worst = compared["shortfall"]
        add(
            "below the best of the others by at most",
            f"{_SHORTFALL:.1%}",
            f"{worst:.2%}",
            worst <= _SHORTFALL,
        )
    for name in GROUPS["noisy"]:
        plain = name.removesuffix("/noisy")
        if name not in by_name or plain not in by_name:
            continue
        for point in (100, 200):
            clean = by_name[plain].at(ours, point)
            noisy = {
                judged: by_name[name].at(ours, point, judged)
                for judged in ("believed", "share", "picked")
            }
            seeds = sorted(set(clean) & set(noisy["believed"]))
            if seeds:
                loss, evaluated, told = (
                    mean_of([clean[s] - shares[s] for s in seeds]) for shares in noisy.values()
                )
                text = f"{loss}; by all it evaluated {evaluated.mean:.2%}, by the told front {told.mean:.2%}"
                met = loss.mean <= _NOISE_LOSS
                add(f"{name}: lost to noise at {point}", f"≤ {_NOISE_LOSS:.1%}", text, met)
    for group in ("three", "constrained"):
        for name in GROUPS[group]:
            pairs = pair_rows([by_name[name]], AT, ours) if name in by_name else []
            if pairs:
                closest = min(pairs, key=lambda row: float(row["difference"]))
                text = f"{closest['difference']:+.2%} to {closest['other']}"
                add(f"{name}: leads at {AT}", "> 0", text, closest["difference"] > 0)
    return rows
