"""The experiment's speeds of the benchmark: every question is asked, counted and written down. Their values are not judged."""

from __future__ import annotations

import csv
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from experiments.hw_gpt_bench import __main__ as experiment
from experiments.hw_gpt_bench.speed import speeds
from surrogates import Benchmark
from tests.small_benchmark import small_table

METRICS = ("perplexity", "prefill_ms", "energy_j")


class Counting(Benchmark):
    """A benchmark that counts what it is asked: method, architectures, metrics, noise."""

    def __init__(self) -> None:
        super().__init__("gpt-s", small_table(60))
        self.asked: Counter[tuple[object, ...]] = Counter()

    def query(self, architectures: Any, device: Any = None, metrics: Any = (), noise: Any = None):  # type: ignore[no-untyped-def]
        self.asked["query", type(architectures), len(architectures), len(metrics), noise] += 1
        return super().query(architectures, device, metrics, noise)

    def predict(self, architectures: Any, metric: Any, device: Any = None):  # type: ignore[no-untyped-def]
        self.asked["predict", type(architectures), len(architectures)] += 1
        return super().predict(architectures, metric, device)


def test_each_question_is_asked_once_before_it_is_timed() -> None:
    bench = Counting()
    rows = speeds(bench, "fast", METRICS, num=30, repeats=3)
    assert len({row["question"] for row in rows}) == len(rows) == len(bench.asked) == 7
    assert set(bench.asked.values()) == {4}  # three times and the first, which fits
    for row in rows:
        assert 0 <= row["least"] <= row["seconds"] <= row["most"]
    sizes = Counter((row["architectures"], row["metrics"]) for row in rows)
    assert sizes == {(30, 1): 5, (30, 3): 1, (1, 1): 1}


def test_the_command_records_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a table the shipped surrogates would be searched; a small benchmark stands in."""
    monkeypatch.setattr(experiment, "find_table", lambda: None)
    bench = Benchmark("gpt-s", small_table(60))
    monkeypatch.setattr(experiment, "Benchmark", lambda name: bench)
    monkeypatch.setattr(
        experiment, "_searches", lambda *_: []
    )  # what takes long, and is told apart
    recipe = experiment.Recipe(budget=25, seeds=2, asked=20, repeats=2, out=tmp_path)
    experiment.main(recipe)
    rows = json.loads((tmp_path / "result.json").read_text())["values"]["speed"]
    with (tmp_path / "speed.csv").open(newline="") as file:
        stored = list(csv.DictReader(file))
    assert stored == [{name: str(value) for name, value in row.items()} for row in rows]
    assert {row["architectures"] for row in rows} == {1, 20}
    with pytest.raises(ValueError, match="repeats of 1 or more"):
        experiment.main(experiment.Recipe(repeats=0, out=tmp_path))
