"""The report: tables and plots of finished runs. It reads them only."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from experiments.results import write_csv
from experiments.searchers.claims import AT, claims, device_table
from experiments.searchers.collect import (
    Row,
    Runs,
    collect,
    pair_rows,
    second_rows,
    share_rows,
)
from experiments.searchers.methods import ABLATIONS, METHODS, OURS, Method
from experiments.searchers.problems import GROUPS, is_without_table, judge_quality, problem
from experiments.searchers.progress import Progress
from experiments.searchers.tables import (
    ablation_table,
    claim_table,
    group_of,
    group_table,
    markdown,
    pair_table,
    problem_rows,
    second_table,
)
from nas.files import write_bytes_atomic, write_text_atomic
from nas.pareto import convergence_figure

# Problems with a plot and a table of their own.
SHOWN = (
    "gpt-s/a100/perplexity+latency",
    "nonlinear/rtx2080/relu3x64-0",
    "nonlinear/cpu_xeon_gold/tanh2x64-0",
    "gpt-s/a100/perplexity+latency/noisy",
    "gpt-s/a100/perplexity+energy/latency<=median",
    "gpt-s/a100/perplexity+latency+energy",
    "synthetic/gpt-m/a100",
    "synthetic/gpt-l/a100",
    "tiny/perplexity+latency+weight_bytes",
    "zdt/pairs",
)
_LEGEND = (
    "Share of the best known hypervolume, in percent; ± is the half-width of the 95 % interval of the mean (Student's t over seeds). With "
    "noise: true values of the points that nas.searchers.believed_front picks. Seconds are processor time of ask and tell on one thread."
)


def write_report(
    progress: Progress,
    names: Sequence[str],
    cache: Path,
    table: Path | None,
    folder: Path,
    say: Console,
) -> dict[str, Any]:
    """Write tables and plots of the finished runs into a folder.

    Args:
        progress: the runs.
        names: problems to report on; those without a run are left out.
        cache: folder of fronts and nets.
        table: measurements for the non-linear judges.
        folder: where to write.
        say: where the main table is printed.

    Returns:
        The values of ``result.json``.
    """
    methods = (*METHODS, *ABLATIONS)
    by_name: dict[str, Runs] = {}
    boxes: dict[str, Row] = {}
    for name in names:
        if not progress.has(name):
            continue
        try:
            judged = problem(name, cache, table)
        except ValueError as error:
            if not is_without_table(name, error):
                raise
            say.print(f"left out: {error}", markup=False, soft_wrap=True)
            continue
        runs = collect(progress, judged, methods)
        if runs.by_method:
            by_name[name] = runs
            box = judged.box
            boxes[name] = {
                "dimensions": len(judged.distributions),
                "objectives": list(judged.objectives),
                "ideal": box.ideal_m.tolist(),
                "ref_point": box.ref_point_m.tolist(),
                "best_known": round(box.best, 6),
                "best_known_by": box.source,
                f"share_at_{AT}": {
                    method: round(float(np.mean(list(values.values()))), 5)
                    for method in runs.by_method
                    if (values := runs.at(method, AT, runs.judged))
                },
            }
            if name.startswith("nonlinear/"):
                tau, train_tau = judge_quality(name, cache, table)
                boxes[name] |= {"tau_held_out": round(tau, 4), "tau_train": round(train_tau, 4)}
    if not by_name:
        raise ValueError(
            f"expected finished runs in {progress.folder}, got none; leave out --no-search"
        )
    folder.mkdir(parents=True, exist_ok=True)
    shares = [row for runs in by_name.values() for row in share_rows(runs)]
    seconds = [row for runs in by_name.values() for row in second_rows(runs)]
    families = _families(by_name)
    pairs = {group: pair_rows(family, AT) for group, family in families.items()}
    judged_claims = claims(by_name)
    write_csv(folder / "shares.csv", shares)
    write_csv(folder / "seconds.csv", seconds)
    write_csv(
        folder / "pairs.csv", [{"family": g, **row} for g, rows in pairs.items() for row in rows]
    )
    text = _document(by_name, families, pairs, seconds, judged_claims, boxes)
    write_text_atomic(folder / "tables.md", text)
    plots = _plots(by_name, folder)
    codes = _codes(by_name, methods)
    for line in _notices(codes, by_name):
        say.print(line, markup=False, soft_wrap=True)
    first = next((name for name in SHOWN if name in by_name), next(iter(by_name)))
    columns, rows = problem_rows(by_name[first])
    shown = Table(*columns, title=f"{first}: % of the best known hypervolume")
    for row in rows:
        shown.add_row(*row)
    say.print(shown)
    return {
        "problems": boxes,
        "families": {g: device_table(families[g], rows) for g, rows in pairs.items() if rows},
        "claims": judged_claims,
        "codes": codes,
        "plots": plots,
    }


def _families(by_name: dict[str, Runs]) -> dict[str, list[Runs]]:
    """Problems whose comparisons are one family of tests: the groups, and what is in none."""
    found: dict[str, list[Runs]] = {group: [] for group in (*GROUPS, "more") if group != "a100"}
    for name, runs in by_name.items():
        found[group_of(name)].append(runs)
    return {group: family for group, family in found.items() if family}


def _document(
    by_name: dict[str, Runs],
    families: dict[str, list[Runs]],
    pairs: dict[str, list[Row]],
    seconds: list[Row],
    judged_claims: list[Row],
    boxes: dict[str, Row],
) -> str:
    parts = [
        "# Searchers: tables",
        _LEGEND,
    ]
    if judged_claims:
        parts += ["## Claims", claim_table(judged_claims)]
    for name in SHOWN:
        if name in by_name:
            own = [row for row in seconds if row["problem"] == name]
            parts += [f"## {name}", markdown(*problem_rows(by_name[name])), second_table(own)]
    for group, family in families.items():
        parts += [f"## Group {group}, after {AT} evaluations", group_table(family)]
        if not pairs[group]:
            continue
        parts.append(
            f"{OURS} against the others, paired by seed, one-sided; Holm's correction is over the {len(family)} problems of the group:"
        )
        parts.append(pair_table(pairs[group]))
        c = device_table(family, pairs[group])
        parts.append(
            f"{OURS} has a higher mean than every other on {c['ahead']} of {c['of']} problems; each difference has p < 0.05 by the t-test "
            f"on {c['t']} (after Holm {c['t_holm']}), by Wilcoxon's on {c['wilcoxon']} (after Holm {c['wilcoxon_holm']}; it needs five "
            f"seeds to be able to). Largest lead of another: {c['shortfall']:.2%}."
        )
    variants = [(m.name, m.about) for m in ABLATIONS]
    if any(name in runs.by_method for runs in by_name.values() for name, _ in variants):
        parts += [
            f"## Ablations of {OURS}, after {AT} evaluations",
            f"Points of share lost (-) or won against {OURS} on the same seeds, ± 95 %, (seeds).",
            ablation_table(by_name, variants),
        ]
    nets = [(n, b) for n, b in boxes.items() if "tau_held_out" in b]
    if nets:
        rows = [[n, f"{b['tau_held_out']:.3f}", f"{b['tau_train']:.3f}"] for n, b in nets]
        parts += ["## Non-linear judges", markdown(["judge", "tau held out", "tau train"], rows)]
    return "\n\n".join(part.rstrip("\n") for part in parts) + "\n"


def _plots(by_name: dict[str, Runs], folder: Path) -> list[str]:
    """One convergence plot for each shown problem, written as ``convergence-PROBLEM.png``."""
    written = []
    for name in SHOWN:
        runs = by_name.get(name)
        if runs is None:
            continue
        traces = {}
        for method in runs.by_method:
            if method in {m.name for m in ABLATIONS}:
                continue
            own = list(runs.traces(method, runs.judged).values())
            longest = max(len(trace) for trace in own)
            traces[method] = np.stack([trace for trace in own if len(trace) == longest])
        if not traces:
            continue
        image = io.BytesIO()
        convergence_figure(traces, title=name).savefig(image, format="png")
        file = (
            "convergence-" + "".join(c if c.isalnum() or c in "+-" else "_" for c in name) + ".png"
        )
        write_bytes_atomic(folder / file, image.getvalue())
        written.append(file)
    return written


def _codes(by_name: dict[str, Runs], methods: Sequence[Method]) -> dict[str, dict[str, int]]:
    """Runs by method and by the code that made them."""
    found: dict[str, dict[str, int]] = {method.name: {} for method in methods}
    for runs in by_name.values():
        for name, records in runs.by_method.items():
            for record in records.values():
                found[name][record["code"]] = found[name].get(record["code"], 0) + 1
    return {name: codes for name, codes in found.items() if codes}


def _notices(codes: dict[str, dict[str, int]], by_name: dict[str, Runs]) -> list[str]:
    """What a reader must know about the runs."""
    known = {method.name: method for method in (*METHODS, *ABLATIONS)}
    lines = []
    for name, own in codes.items():
        other = sum(count for code, count in own.items() if code != known[name].code)
        if other:
            lines.append(
                f"{other} of {sum(own.values())} runs of {name} were made by other code of the searchers; --redo {name} repeats them"
            )
    above = [
        (name, method)
        for name, runs in by_name.items()
        for method in runs.by_method
        if any(trace[-1] > 1.0 for trace in runs.traces(method).values())
    ]
    lines += [f"{method} found more than the best known front of {name}" for name, method in above]
    return lines
