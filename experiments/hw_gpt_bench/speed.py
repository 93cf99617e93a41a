"""How long a benchmark takes to answer, on one thread: what the README says of it."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from surrogates.additive.choices import ChoiceVectors
from surrogates.additive.encoding import Encoder
from surrogates.benchmark import Benchmark


def speeds(
    bench: Benchmark, device: str, metrics: tuple[str, ...], num: int, repeats: int
) -> list[dict[str, Any]]:
    """Seconds of each kind of question, after one that is not timed.

    Args:
        bench: whose surrogates answer; those asked are fitted before.
        device: that is asked about.
        metrics: of that device.
        num: architectures a question.
        repeats: of each question.

    Returns:
        A row for each question: what was asked, architectures, metrics, and the median, least and most seconds of the repeats.
    """
    choices = ChoiceVectors(Encoder(bench.space))
    encoded = choices.decode(choices.sample(num, np.random.default_rng(0)))
    architectures = Encoder(bench.space).decode(encoded)
    one = metrics[:1]
    questions: dict[str, tuple[int, int, Callable[[], object]]] = {
        "query": (num, 1, lambda: bench.query(architectures, device, one)),
        "query, encoded": (num, 1, lambda: bench.query(encoded, device, one)),
        "query, encoded, with noise": (num, 1, lambda: bench.query(encoded, device, one, noise=0)),
        "query, encoded, all metrics": (
            *(num, len(metrics)),
            lambda: bench.query(encoded, device, metrics),
        ),
        "query of one": (1, 1, lambda: bench.query(architectures[:1], device, one)),
        "predict": (num, 1, lambda: bench.predict(architectures, one[0], device)),
        "predict, encoded": (num, 1, lambda: bench.predict(encoded, one[0], device)),
    }
    rows = []
    with threadpool_limits(1, "blas"):
        for name, (size, num_metrics, ask) in questions.items():
            ask()
            seconds = [_seconds(ask) for _ in range(repeats)]
            rows.append(
                {
                    "question": name,
                    "architectures": size,
                    "metrics": num_metrics,
                    "seconds": round(statistics.median(seconds), 6),
                    "least": round(min(seconds), 6),
                    "most": round(max(seconds), 6),
                }
            )
    return rows


def _seconds(ask: Callable[[], object]) -> float:
    begin = time.perf_counter()
    ask()
    return time.perf_counter() - begin
