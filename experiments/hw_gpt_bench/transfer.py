"""Leave one device out: the error on a device with 10 to 200 measurements, alone and with what the others say, random and chosen rows."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from experiments.hw_gpt_bench.data import load_table
from experiments.hw_gpt_bench.quality import draw
from surrogates.additive.surrogate import AdditiveSurrogate
from surrogates.additive.transfer import Others
from surrogates.calibration import kendall_tau, mape

_ROWS_OF_OTHERS = 2000


def fit_known(task: dict[str, Any]) -> str:
    """Surrogate of one device from more rows than a newcomer has, for all the tasks that know this device; its file."""
    key = (task["key"][0], task["key"][1])
    table = load_table(task["table"])
    seen = np.random.default_rng(7).permutation(table.measured_rows(*key))[:_ROWS_OF_OTHERS]
    surrogate = AdditiveSurrogate(table.space, table.workload)
    surrogate.fit(table.encoded.take(seen), table.values(*key)[seen])
    surrogate.save(task["file"])
    return str(task["file"])


@functools.cache
def _known(path: str) -> AdditiveSurrogate:
    return AdditiveSurrogate.load(path)


def leave_one_out(task: dict[str, Any]) -> list[dict[str, Any]]:
    """All draws of one column: MAPE and Kendall tau by method and number of rows."""
    key = (task["key"][0], task["key"][1])
    table = load_table(task["table"])
    others = [_known(file) for device, file in task["known"] if device != key[1]]
    known = Others.of(others) if others else None
    value_n = table.values(*key)
    measured = table.measured_rows(*key)
    found = []
    for seed in range(task["draws"]):
        # 200 rows as in the quality table; test rows; and as many that could be chosen
        few, test = draw(table, measured, 200, task["test"], seed)
        rest = np.setdiff1d(measured, np.concatenate([few, test]))
        pool = np.random.default_rng(seed).permutation(rest)[:1000]
        truth_n = value_n[test]
        for method in ("alone", "transfer"):
            if method == "transfer" and known is None:
                continue
            for choice in ("random", "active"):
                sizes = task["sizes"] if choice == "random" else task["active_sizes"]
                chosen = None
                for size in sizes:
                    if method == "transfer" and size > 50:
                        continue
                    surrogate = AdditiveSurrogate(
                        table.space, table.workload, others=known if method == "transfer" else None
                    )
                    if choice == "active":
                        if len(pool) < max(sizes):
                            continue
                        if chosen is None:
                            chosen = pool[surrogate.choose(table.encoded.take(pool), max(sizes))]
                        rows = chosen[:size]
                    else:
                        rows = few[:size]
                    surrogate.fit(table.encoded.take(rows), value_n[rows])
                    mean_n = surrogate.mean(table.encoded.take(test))
                    found.append(
                        {
                            "method": method,
                            "choice": choice,
                            "rows": size,
                            "seed": seed,
                            "mape": mape(mean_n, truth_n),
                            "tau": kendall_tau(mean_n, truth_n),
                        }
                    )
    return found
