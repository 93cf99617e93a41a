"""Quality of one column: fitted to some rows, judged on others, over many draws, beside least squares and plain split-conformal."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from experiments.hw_gpt_bench.data import count_features, least_squares, load_table
from surrogates.additive.surrogate import AdditiveSurrogate
from surrogates.base import FloatArray
from surrogates.calibration import conformal_quantile, coverage, kendall_tau, mape, nll
from surrogates.tables import MeasurementTable

_FULL = 8000  # rows of the reference fit


def draw(table: MeasurementTable, rows: Any, num_train: int, num_test: int, seed: int) -> Any:
    """Rows to fit and rows to judge, disjoint."""
    order = np.random.default_rng(1000 + seed).permutation(rows)
    return order[:num_train], order[num_train : num_train + num_test]


def judge(task: dict[str, Any]) -> dict[str, float]:
    """One draw of one column: Kendall tau, MAPE, NLL, coverage and width of 90 % intervals, beside the baselines.

    Widths are means of (high - low) / value. ``split`` is plain split-conformal prediction: half the rows fit the same surrogate, the
    other half give one absolute residual's quantile for all. ``full`` is the count-linear fit to up to 8000 other rows.
    """
    table = load_table(task["table"])
    key = tuple(task["key"])
    measured = table.measured_rows(*key)
    seen, unseen = draw(table, measured, task["train"], task["test"], task["seed"])
    value_n = table.values(*key)
    y_seen, y_unseen = value_n[seen], value_n[unseen]
    repeats_nr = table.columns[key]
    singles = repeats_nr[seen] if repeats_nr.shape[1] > 1 else None
    begin = time.perf_counter()
    surrogate = AdditiveSurrogate(table.space, table.workload).fit(
        table.encoded.take(seen), y_seen, repeats_nr=singles
    )
    fit_s = time.perf_counter() - begin
    test = table.encoded.take(unseen)
    guess = surrogate.predict(test, of="value")
    found = {
        "tau": kendall_tau(guess.mean_n, y_unseen),
        "mape": mape(guess.mean_n, y_unseen),
        "nll": nll(guess.mean_n, guess.std_n, y_unseen),
        "coverage90": coverage(guess.low_n, guess.high_n, y_unseen),
        "width90": float(np.mean((guess.high_n - guess.low_n) / y_unseen)),
        "fit_s": fit_s,
        "num_train": len(seen),
        "num_test": len(unseen),
    }
    if singles is not None:
        single = surrogate.predict(test)
        inside = (repeats_nr[unseen] >= single.low_n[:, None]) & (
            repeats_nr[unseen] <= single.high_n[:, None]
        )
        known = np.isfinite(repeats_nr[unseen])
        found["coverage90_single"] = float(np.mean(inside.sum(axis=1) / known.sum(axis=1)))
        found["width90_single"] = float(np.mean((single.high_n - single.low_n) / y_unseen))
    return found | _baselines(table, seen, unseen, measured, value_n, task)


def _baselines(
    table: MeasurementTable,
    seen: Any,
    unseen: Any,
    measured: Any,
    value_n: FloatArray,
    task: dict[str, Any],
) -> dict[str, float]:
    X_seen = count_features(table.encoded.take(seen), table)
    X_unseen = count_features(table.encoded.take(unseen), table)
    y_seen, y_unseen = value_n[seen], value_n[unseen]
    ols_n = X_unseen @ least_squares(X_seen, y_seen)
    half = len(seen) // 2
    split = AdditiveSurrogate(table.space, table.workload).fit(
        table.encoded.take(seen[:half]), y_seen[:half]
    )
    residual_n = np.abs(split.mean(table.encoded.take(seen[half:])) - y_seen[half:])
    reach = conformal_quantile(residual_n, 0.9)
    split_n = split.mean(table.encoded.take(unseen))
    found = {
        "ols_tau": kendall_tau(ols_n, y_unseen),
        "ols_mape": mape(ols_n, y_unseen),
        "split_coverage90": coverage(split_n - reach, split_n + reach, y_unseen),
        "split_width90": float(np.mean(2.0 * reach / y_unseen)),
    }
    if task["seed"] < 5:  # a reference that hardly moves between draws
        others = np.setdiff1d(measured, unseen)[:_FULL]
        weights = least_squares(
            count_features(table.encoded.take(others), table), value_n[others], robust=True
        )
        found["full_tau"] = kendall_tau(X_unseen @ weights, y_unseen)
        found["full_mape"] = mape(X_unseen @ weights, y_unseen)
        found["full_rows"] = len(others)
    return found


def summary(draws: list[dict[str, float]]) -> dict[str, float]:
    """Mean over the draws, and the standard deviation over them of what the acceptance is about."""
    names = list(dict.fromkeys(name for d in draws for name in d))
    found = {
        name: round(float(np.mean([d[name] for d in draws if name in d])), 6) for name in names
    }
    for name in ("tau", "mape", "coverage90"):
        found[f"{name}_std"] = round(float(np.std([d[name] for d in draws])), 6)
    return found | {"draws": len(draws)}
