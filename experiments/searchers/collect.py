"""Finished runs as arrays, and as rows of tables.

s seeds, b evaluations.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from experiments.searchers.judged import JudgedProblem
from experiments.searchers.methods import ABLATIONS, OURS, Method
from experiments.searchers.progress import Progress, Record
from experiments.searchers.statistics import holm, mean_of, paired
from surrogates.base import FloatArray

CHECKPOINTS = (25, 50, 100, 200)
# which evaluated points count, by their true values
_JUDGED = {"share": "all evaluated", "believed": "believed front", "picked": "told front"}
_AROUND = 5  # suggestions whose median stands for one of them
Row = dict[str, Any]


@dataclass(frozen=True, eq=False)
class Runs:
    """All finished runs of a problem.

    Args:
        problem: its name.
        by_method: method to seed to record; methods in the order of the tables.
        is_noisy: whether values were told with noise.
    """

    problem: str
    by_method: Mapping[str, Mapping[int, Record]]
    is_noisy: bool

    def traces(self, method: str, judged: str = "share") -> dict[int, FloatArray]:
        """Share of the best known hypervolume after each evaluation, by seed; a run that exhausted its space holds its last value.

        Runs that were not judged in this way are left out.
        """
        found = {}
        for seed, record in self.by_method.get(method, {}).items():
            if judged not in record:
                continue
            trace: list[float] = record[judged]
            found[seed] = np.array(trace + [trace[-1]] * (record["budget"] - len(trace)))
        return found

    def at(self, method: str, evaluations: int, judged: str = "share") -> dict[int, float]:
        """Share after so many evaluations, by seed, of the runs that have as many."""
        return {
            seed: float(trace[evaluations - 1])
            for seed, trace in self.traces(method, judged).items()
            if len(trace) >= evaluations
        }

    @property
    def judged(self) -> str:
        """What comparisons go by: with noise, the points that a user would pick; else all."""
        return "believed" if self.is_noisy else "share"


def collect(progress: Progress, problem: JudgedProblem, methods: Sequence[Method]) -> Runs:
    """Runs of a problem under the present settings."""
    found = progress.latest(problem.name, problem.version, methods)
    ordered = {method.name: found[method.name] for method in methods if method.name in found}
    return Runs(problem.name, ordered, problem.noise is not None)


def share_rows(runs: Runs) -> list[Row]:
    """Mean share with its 95 % interval (t over seeds) by method and number of evaluations; with noise, judged in three ways."""
    rows = []
    for method in runs.by_method:
        for judged, words in _JUDGED.items():
            for point in CHECKPOINTS:
                values = list(runs.at(method, point, judged).values())
                if not values:
                    continue
                mean = mean_of(values)
                rows.append(
                    {
                        "problem": runs.problem,
                        "method": method,
                        "judged": words,
                        "evaluations": point,
                        "share": round(mean.mean, 5),
                        "ci95": round(mean.half_width, 5),
                        "least": round(mean.least, 5),
                        "seeds": mean.num,
                    }
                )
    return rows


def second_rows(runs: Runs) -> list[Row]:
    """Processor seconds of a suggestion (ask and tell): median of all, and about certain trials (medians of five, then over seeds)."""
    rows = []
    for method, records in runs.by_method.items():
        row: Row = {"problem": runs.problem, "method": method, "seeds": len(records)}
        row["median"] = _short(np.median([s for r in records.values() for s in r["seconds"]]))
        for point in CHECKPOINTS:
            near = [
                float(np.median(r["seconds"][max(point - 1 - _AROUND // 2, 0) : point + 2]))
                for r in records.values()
                if len(r["seconds"]) >= point
            ]
            row[f"at_{point}"] = _short(np.median(near)) if near else None
        row["repeats"] = round(float(np.mean([r["repeats"] for r in records.values()])), 2)
        rows.append(row)
    return rows


def pair_rows(all_runs: Sequence[Runs], evaluations: int, ours: str = OURS) -> list[Row]:
    """Ours against each other method on each problem, paired by seed; p values also after Holm's correction over these problems.

    Args:
        all_runs: the problems that are one family of tests, such as thirteen devices.
        evaluations: after which they are compared.
        ours: the method that is compared with the others.
    """
    rows: list[Row] = []
    left_out = {ours, *(method.name for method in ABLATIONS)}  # variants of ours are no rivals
    others = dict.fromkeys(n for runs in all_runs for n in runs.by_method if n not in left_out)
    for other in others:
        own: list[Row] = []
        for runs in all_runs:
            a, b = (runs.at(name, evaluations, runs.judged) for name in (ours, other))
            if not set(a) & set(b):
                continue
            test = paired(a, b)
            own.append(
                {
                    "problem": runs.problem,
                    "evaluations": evaluations,
                    "other": other,
                    "seeds": test.num,
                    "difference": round(test.difference, 5),
                    "wins": test.wins,
                    "losses": test.losses,
                    "p_t": _short(test.p_t),
                    "p_wilcoxon": _short(test.p_wilcoxon),
                }
            )
        for row, t, wilcoxon in zip(
            own,
            holm([row["p_t"] for row in own]),
            holm([row["p_wilcoxon"] for row in own]),
            strict=True,
        ):
            row["p_t_holm"], row["p_wilcoxon_holm"] = _short(t), _short(wilcoxon)
        rows += own
    return rows


def _short(value: Any) -> float:
    return float(f"{float(value):.4g}")
