"""``python -m experiments.hw_gpt_bench``: how good surrogates from few rows are, what transfers, what the baselines find."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from threadpoolctl import threadpool_limits

from experiments.hw_gpt_bench.data import device_name, find_table, load_table, short_name
from experiments.hw_gpt_bench.plots import (
    plot_correlation,
    plot_learning,
    plot_quality,
    plot_searches,
)
from experiments.hw_gpt_bench.quality import judge, summary
from experiments.hw_gpt_bench.searches import correlation, objectives, race, race_rows
from experiments.hw_gpt_bench.speed import speeds
from experiments.hw_gpt_bench.tasks import run_tasks
from experiments.hw_gpt_bench.transfer import fit_known, leave_one_out
from experiments.results import (
    ROOT,
    command_line,
    digest,
    result_folder,
    run,
    write_csv,
    write_result,
)
from nas.files import sha256_file, write_json_atomic
from surrogates.additive.exact import METRICS as EXACT
from surrogates.benchmark import Benchmark, shipped_benchmarks
from surrogates.tables import MeasurementTable


@dataclass(frozen=True)
class Recipe:
    """What is measured.

    Args:
        table: measurements in the layout of HW-GPT-Bench or of this project; by default the file that the environment variable
            HW_GPT_BENCH_TABLE names or the one in a ``shared`` folder; without any, the shipped surrogates are searched.
        n_train: rows that a surrogate is fitted to.
        n_test: other rows that judge it.
        draws: of those rows; a single draw's coverage has a standard deviation of 2 percent (200 scores), whatever the method.
        transfer_draws: of the rows of the new device.
        budget: evaluations of a search.
        seeds: of the searches.
        asked: architectures of a timed question.
        repeats: of each timed question.
        out: folder of tables and plots; by default the one of this machine under ``results``.
        results: where that folder is.
    """

    table: Path | None = None
    n_train: int = 200
    n_test: int = 1000
    draws: int = 16
    transfer_draws: int = 3
    budget: int = 2000
    seeds: int = 20
    asked: int = 10_000
    repeats: int = 7
    out: Path | None = None
    results: Path = ROOT


def main(recipe: Recipe) -> None:
    """Run everything that the data at hand allow."""
    begin, say = time.perf_counter(), Console()
    counts = ("n_train", "n_test", "draws", "transfer_draws", "budget", "seeds", "asked", "repeats")
    for name in counts:
        if getattr(recipe, name) < 1:
            raise ValueError(f"expected {name} of 1 or more, got {getattr(recipe, name)}")
    threadpool_limits(1, "blas")  # small matrices, beside worker processes
    if recipe.n_train < 20:
        raise ValueError(
            f"expected n_train of 20 or more (the split-conformal baseline calibrates on half), got {recipe.n_train}"
        )
    out = recipe.out or result_folder("hw_gpt_bench", results=recipe.results)
    out.mkdir(parents=True, exist_ok=True)
    path = recipe.table or find_table()
    values: dict[str, Any] = {}
    if path is not None and not path.exists():
        raise ValueError(f"expected a table of measurements (.npz), got no file {path}")
    if path is None:
        say.print(
            f"No table of measurements here: the shipped surrogates ({', '.join(shipped_benchmarks())}) are searched; "
            "surrogate quality and transfer need the measurements (--table FILE.npz).",
            markup=False,
        )
        bench = Benchmark("gpt-s")
    else:
        table = load_table(str(path))
        for line in table.skipped:
            say.print(line, markup=False)
        bench = Benchmark(table.space.name, table)
        values["metrics"] = _quality(recipe, path, table, out, say)
        values["transfer"] = _transfer(recipe, path, table, out, values["metrics"], say)
    values["searches"] = _searches(recipe, bench, out, say)
    values["speed"] = _speed(recipe, bench, out, say)
    values["seconds"] = round(time.perf_counter() - begin, 1)
    write_result(
        out,
        command=command_line("experiments.hw_gpt_bench", recipe),
        seeds=list(range(recipe.draws)),
        values=values,
    )
    say.print(f"\n{values['seconds']:.0f} s. Tables and plots: {out}", markup=False)
    say.print(
        "next: surrogates.Benchmark(...).problem(device, metrics) is a ready problem for any searcher",
        markup=False,
    )


def _settings(recipe: Recipe, path: Path, version: int = 1) -> str:
    return digest(
        {
            "file": sha256_file(path),
            "version": version,
            "n_train": recipe.n_train,
            "n_test": recipe.n_test,
        }
    )


def _quality(
    recipe: Recipe, path: Path, table: MeasurementTable, out: Path, say: Console
) -> dict[str, dict[str, dict[str, float]]]:
    """metrics.json: {device: {metric: {tau, mape, nll, coverage90, width90, ...}}}; ``any`` for metrics that need no device."""
    tasks, keys = [], []
    for key in table.columns:
        known = len(table.measured_rows(*key))
        if known < recipe.n_train + 20:
            say.print(
                f"{'@'.join(key)}: {known} rows are too few for {recipe.n_train} and a test",
                markup=False,
            )
            continue
        keys.append(key)
        for seed in range(recipe.draws):
            tasks.append(
                {
                    "table": str(path),
                    "key": list(key),
                    "train": recipe.n_train,
                    "test": recipe.n_test,
                    "seed": seed,
                }
            )
    found = run_tasks(
        judge, tasks, out / "progress" / "quality.jsonl", _settings(recipe, path, 2), "surrogates"
    )
    metrics: dict[str, dict[str, dict[str, float]]] = {}
    for i, key in enumerate(keys):
        draws = found[i * recipe.draws : (i + 1) * recipe.draws]
        metrics.setdefault(device_name(key), {})[short_name(key[0])] = summary(draws)
    write_json_atomic(out / "metrics.json", metrics)
    rows = [
        {"device": device, "metric": metric, **values}
        for device, by_metric in metrics.items()
        for metric, values in by_metric.items()
    ]
    write_csv(out / "metrics.csv", rows)
    plot_quality(metrics, out / "quality.png")
    shown = Table("device", "metric", "tau", "MAPE", "OLS", "full", "cov.", "width", "split")
    for row in rows:
        shown.add_row(
            str(row["device"]),
            str(row["metric"]),
            f"{row['tau']:.3f}",
            f"{row['mape']:.2%}",
            f"{row['ols_mape']:.2%}",
            f"{row.get('full_tau', float('nan')):.3f}",
            f"{row['coverage90']:.1%}",
            f"{row['width90']:.2%}",
            f"{row['split_width90']:.2%}",
        )
    say.print(shown)
    return metrics


def _transfer(
    recipe: Recipe,
    path: Path,
    table: MeasurementTable,
    out: Path,
    metrics: dict[str, dict[str, dict[str, float]]],
    say: Console,
) -> list[dict[str, Any]]:
    """Leave one device out: MAPE by method and number of measurements, and its ratio to 200 rows of that device alone."""
    costs = [k for k in table.columns if short_name(k[0]) in ("latency", "energy")]
    costs = [k for k in costs if len(table.measured_rows(*k)) >= 200 + recipe.n_test]
    settings, folder = _settings(recipe, path), out / "progress"
    known_tasks = [
        {"table": str(path), "key": list(k), "file": str(folder / f"{k[0]}-{k[1]}.npz")}
        for k in costs
    ]
    files = run_tasks(fit_known, known_tasks, folder / "known.jsonl", settings, "known devices")
    tasks = [
        {
            "table": str(path),
            "key": list(key),
            "test": recipe.n_test,
            "draws": recipe.transfer_draws,
            "sizes": [10, 20, 50, 100, 200],
            "active_sizes": [10, 20, 30],
            "known": [[k[1], file] for k, file in zip(costs, files, strict=True)],
        }
        for key in costs
    ]
    found = run_tasks(
        leave_one_out,
        tasks,
        out / "progress" / "transfer.jsonl",
        _settings(recipe, path),
        "devices",
    )
    rows = []
    for key, entries in zip(costs, found, strict=True):
        groups: dict[tuple[str, int], list[float]] = {}
        for entry in entries:
            name = f"{entry['method']} {entry['choice']}"
            groups.setdefault((name, entry["rows"]), []).append(entry["mape"])
        base = sum(groups["alone random", 200]) / len(groups["alone random", 200])
        for (method, size), errors in groups.items():
            error = sum(errors) / len(errors)
            rows.append(
                {
                    "device": key[1],
                    "metric": short_name(key[0]),
                    "method": method,
                    "rows": size,
                    "mape": round(error, 6),
                    "ratio": round(error / base, 4),
                }
            )
    if not rows:
        return rows
    write_csv(out / "transfer.csv", rows)
    plot_learning(rows, out / "transfer.png")
    shown = Table("new device", "metric", "20 random", "20 chosen", "alone, 20 random", "200 rows")
    for key in costs:
        of = {
            (r["method"], r["rows"]): r
            for r in rows
            if (r["device"], r["metric"]) == (key[1], short_name(key[0]))
        }
        cells = [("transfer random", 20), ("transfer active", 20), ("alone random", 20)]
        texts = [f"{of[c]['mape']:.2%} ({of[c]['ratio']:.2f}x)" if c in of else "-" for c in cells]
        shown.add_row(key[1], short_name(key[0]), *texts, f"{of['alone random', 200]['mape']:.2%}")
    say.print(shown)
    return rows


def _searches(recipe: Recipe, bench: Benchmark, out: Path, say: Console) -> list[dict[str, Any]]:
    """Baselines on two metrics of the first device, and the correlation of everything."""
    asked = objectives(bench)
    if asked is None:
        say.print("No device with a latency or an energy: nothing to search.", markup=False)
        return []
    device, metrics = asked
    begin = time.perf_counter()
    simulations = race(bench, device, metrics, recipe.budget, recipe.seeds)
    rows = race_rows(simulations, device)
    say.print(
        f"{len(simulations)} baselines, {recipe.seeds} seeds, {recipe.budget} evaluations: {time.perf_counter() - begin:.1f} s",
        markup=False,
    )
    write_csv(out / "searches.csv", rows)
    plot_searches(simulations, f"{bench.name}, {device}", out / "searches.png")
    names, matrix = correlation(bench)
    lines = [
        {"": name, **dict(zip(names, row.round(4).tolist(), strict=True))}
        for name, row in zip(names, matrix, strict=True)
    ]
    write_csv(out / "correlation.csv", lines)
    plot_correlation(names, matrix, out / "correlation.png")
    return rows


def _speed(recipe: Recipe, bench: Benchmark, out: Path, say: Console) -> list[dict[str, Any]]:
    """Seconds of questions to the first device's surrogates, one thread."""
    asked = objectives(bench)
    if asked is None:
        return []
    device = asked[0]
    metrics = tuple(name for name in bench.metrics(device) if name not in EXACT)
    rows = speeds(bench, device, metrics, recipe.asked, recipe.repeats)
    write_csv(out / "speed.csv", rows)
    shown = Table("question", "architectures", "metrics", "ms", "least", "most")
    for row in rows:
        times = [f"{1e3 * row[name]:.3g}" for name in ("seconds", "least", "most")]
        shown.add_row(row["question"], str(row["architectures"]), str(row["metrics"]), *times)
    say.print(shown)
    return rows


if __name__ == "__main__":
    run(main, Recipe, __doc__)
