"""The learned surrogate on latencies that others measured (HW-GPT-Bench, 2405.10299)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from search_spaces import (
    Architecture,
    LayerConfig,
    Workload,
    preset,
)
from surrogates import (
    LatencySurrogate,
    coverage,
    kendall_tau,
    mape,
)
from tests.surrogate_truths import Array

HW_GPT_BENCH = Path(__file__).parents[2] / "shared" / "data" / "hw-gpt-bench" / "gpt-s.npz"


# ---- measured by others (HW-GPT-Bench, 2405.10299)


@pytest.fixture(scope="module")
def gpt_s() -> tuple[list[Architecture], dict[str, Array]]:
    if not HW_GPT_BENCH.exists():
        pytest.skip(f"needs the measurements of HW-GPT-Bench in {HW_GPT_BENCH}")
    with np.load(HW_GPT_BENCH, allow_pickle=False) as table:
        latencies = {
            n: table[n].astype(float) for n in ("lat_a100", "lat_h100", "lat_cpu_amd_7502")
        }
        rows = table["arch"].astype(int).tolist()
    architectures = []
    for embed_dim, depth, bias, *rest in rows:
        ratios, heads = rest[:depth], rest[12 : 12 + depth]
        layers = tuple(LayerConfig(h, float(r)) for h, r in zip(heads, ratios, strict=True))
        architectures.append(Architecture(embed_dim, layers, bool(bias)))
    return architectures, latencies


@pytest.mark.parametrize(
    ("name", "least_tau", "most_mape"),
    [("lat_a100", 0.97, 0.01), ("lat_h100", 0.97, 0.01), ("lat_cpu_amd_7502", 0.83, 0.08)],
)
def test_hw_gpt_bench(
    gpt_s: tuple[list[Architecture], dict[str, Array]],
    name: str,
    least_tau: float,
    most_mape: float,
) -> None:
    """Fitted to 200 rows, judged on 1 000 others; a count-linear fit to 8 000 rows has tau 0.993 on the A100 and 0.883 on the AMD."""
    architectures, latencies = gpt_s
    values = np.nanmedian(latencies[name], axis=1)
    order = np.random.default_rng(0).permutation(len(values))
    seen, unseen = order[:200], order[200:1200]
    surrogate = LatencySurrogate(preset("gpt-s").family, Workload("prefill", 8, 1024))
    surrogate.fit([architectures[i] for i in seen], values[seen])
    guess = surrogate.predict([architectures[i] for i in unseen])
    assert kendall_tau(guess.mean_n, values[unseen]) > least_tau
    assert mape(guess.mean_n, values[unseen]) < most_mape
    assert 0.85 <= coverage(guess.low_n, guess.high_n, values[unseen]) <= 0.97
    assert guess.extrapolates_n.mean() < 0.05
