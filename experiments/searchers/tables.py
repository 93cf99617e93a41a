"""Tables in Markdown, from finished runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from experiments.searchers.claims import AT
from experiments.searchers.collect import CHECKPOINTS, Row, Runs
from experiments.searchers.methods import ABLATIONS, OURS
from experiments.searchers.problems import GROUPS
from experiments.searchers.statistics import mean_of


def markdown(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)]) + "\n"


def problem_rows(runs: Runs) -> tuple[list[str], list[list[str]]]:
    """One problem: mean share in percent ± 95 % interval at every checkpoint, seeds, seconds of a suggestion; columns and rows."""
    rows = []
    for method, records in runs.by_method.items():
        cells = [_cell(runs, method, point) for point in CHECKPOINTS]
        median = np.median([s for record in records.values() for s in record["seconds"]])
        rows.append([method, *cells, str(len(records)), _seconds(float(median))])
    head = [f"@{point}" for point in CHECKPOINTS]
    return ["method", *head, "seeds", "seconds"], rows


def _cell(runs: Runs, method: str, point: int) -> str:
    values = list(runs.at(method, point, runs.judged).values())
    if not values:
        return "-"
    mean = mean_of(values)
    spread = f" ±{100 * mean.half_width:.1f}" if mean.num > 1 else ""
    return f"{100 * mean.mean:.1f}{spread}"


def group_table(all_runs: Sequence[Runs], point: int = AT) -> str:
    """A group: the mean over seeds of every method on every problem after ``point`` evaluations; problems are the rows."""
    variants = {method.name for method in ABLATIONS}  # they have a table of their own
    methods = list(dict.fromkeys(name for runs in all_runs for name in runs.by_method))
    methods = [name for name in methods if name not in variants]
    methods = [m for m in methods if any(runs.at(m, point) for runs in all_runs)]
    rows = []
    for runs in all_runs:
        means = {m: runs.at(m, point, runs.judged) for m in methods}
        shown = {m: mean_of(list(v.values())).mean for m, v in means.items() if v}
        best = max(shown.values(), default=0.0)
        cells = [
            "-"
            if m not in shown
            else f"**{shown[m]:.1%}**"
            if shown[m] == best
            else f"{shown[m]:.1%}"
            for m in methods
        ]
        rows.append([runs.problem, *cells])
    counts = []
    for m in methods:
        numbers = sorted({len(runs.at(m, point)) for runs in all_runs} - {0})
        counts.append(str(numbers[0]) if len(numbers) == 1 else f"{numbers[0]} to {numbers[-1]}")
    rows.append(["seeds", *counts])
    return markdown(["problem", *methods], rows)


def pair_table(rows: Sequence[Row]) -> str:
    """Ours against each other method over a family of problems."""
    lines = []
    for other in dict.fromkeys(row["other"] for row in rows):
        own = [row for row in rows if row["other"] == other]
        differences = [row["difference"] for row in own]
        lines.append(
            [
                other,
                f"{np.mean(differences):+.2%}",
                f"{min(differences):+.2%}",
                f"{sum(d > 0 for d in differences)} of {len(own)}",
                *(
                    str(sum(row[f"p_{test}"] < 0.05 for row in own))
                    for test in ("t", "t_holm", "wilcoxon", "wilcoxon_holm")
                ),
                f"{sum(row['wins'] for row in own)} : {sum(row['losses'] for row in own)}",
                str(min(row["seeds"] for row in own)),
            ]
        )
    return markdown(
        [
            "against",
            "mean difference",
            "least",
            "higher mean",
            "p < 0.05, t",
            "t, Holm",
            "Wilcoxon",
            "Wilcoxon, Holm",
            "runs won : lost",
            "seeds",
        ],
        lines,
    )


def second_table(rows: Sequence[Row]) -> str:
    """Processor seconds of a suggestion on one problem."""
    lines = [
        [
            row["method"],
            _seconds(row["median"]),
            *("-" if row[f"at_{p}"] is None else _seconds(row[f"at_{p}"]) for p in CHECKPOINTS),
            f"{row['repeats']:g}",
            str(row["seeds"]),
        ]
        for row in rows
    ]
    head = [f"at {p}" for p in CHECKPOINTS]
    return markdown(["method", "median, s", *head, "repeats a run", "seeds"], lines)


def claim_table(rows: Sequence[Row]) -> str:
    """Claims, targets, measurements."""
    columns = ("claim", "target", "measured", "met")
    return markdown(columns, [[str(row[name]) for name in columns] for row in rows])


def ablation_table(by_name: Mapping[str, Runs], ablations: Sequence[tuple[str, str]]) -> str:
    """Variants of ours: mean difference to ours on common seeds after 100 evaluations, by problem.

    Args:
        by_name: the runs.
        ablations: names of the variants, and what they change.
    """
    problems = [
        n for n, runs in by_name.items() if any(name in runs.by_method for name, _ in ablations)
    ]
    rows = []
    for name, about in ablations:
        cells = []
        for problem in problems:
            runs = by_name[problem]
            own, base = runs.at(name, AT, runs.judged), runs.at(OURS, AT, runs.judged)
            seeds = sorted(set(own) & set(base))
            if not seeds:
                cells.append("-")
                continue
            mean = mean_of([own[s] - base[s] for s in seeds])
            spread = f" ± {100 * mean.half_width:.2f}" if mean.num > 1 else ""
            cells.append(f"{100 * mean.mean:+.2f}{spread} ({mean.num})")
        rows.append([name, about, *cells])
    return markdown(["variant", "change", *problems], rows)


def group_of(name: str) -> str:
    """First group that has a problem; ``more`` for those of no group."""
    return next(
        (group for group, names in GROUPS.items() if name in names and group != "a100"), "more"
    )


def _seconds(value: float) -> str:
    return f"{value:.4f}" if value < 0.1 else f"{value:.2f}"
