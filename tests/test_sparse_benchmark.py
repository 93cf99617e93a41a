"""The sparse benchmark's own parts: draws, a resumable log, one table of two sources, and judging out of fold."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from made_up import made_up_profile, made_up_supernet
from small_spaces import GPT2, small_space

from experiments.sparse_benchmark import __main__ as sparse_benchmark
from experiments.sparse_benchmark.perplexities import draw, perplexities
from experiments.sparse_benchmark.quality import out_of_fold
from experiments.sparse_benchmark.table import faults, join
from nas.deploy.profile import profile_architectures
from nas.training import TrainedSupernet
from search_spaces import Workload
from surrogates import Benchmark
from surrogates.tables import NO_DEVICE, MeasurementTable

SPACE = small_space(family=replace(GPT2, context_length=130))
DECODE = Workload("decode", 1, 128)


def test_the_draw_begins_with_the_profiled_ones_and_repeats_none() -> None:
    found = draw(SPACE, 40, 16, 3)
    assert found[:16] == profile_architectures(SPACE, 16, 3)
    assert len(set(found)) == 40
    assert draw(SPACE, 60, 16, 3)[:40] == found  # more are the same and others
    with pytest.raises(ValueError, match="between 16"):
        draw(SPACE, 15, 16, 3)


class _Silent(TrainedSupernet):
    """One that has nothing left to evaluate."""

    def perplexities(self, *arguments: object) -> list[float]:
        raise AssertionError("evaluated twice")


def test_every_perplexity_is_kept(tmp_path: Path) -> None:
    supernet, log = made_up_supernet(SPACE), tmp_path / "perplexity.jsonl"
    asked = draw(SPACE, 20, 16, 0)
    first_n = perplexities(supernet, asked[:5], 130, log)
    all_n = perplexities(supernet, asked, 130, log)
    np.testing.assert_array_equal(all_n[:5], first_n)
    np.testing.assert_array_equal(all_n, supernet.perplexities(asked, 130))
    assert len(log.read_text().splitlines()) == 20
    silent = _Silent(supernet.model, supernet.corpus, supernet.info, supernet.path)
    np.testing.assert_array_equal(perplexities(silent, asked, 130, log), all_n)
    with pytest.raises(AssertionError, match="twice"):  # other tokens are another perplexity
        perplexities(silent, asked, 260, log)


def _joined(perplexity_n: np.ndarray | None = None) -> MeasurementTable:
    asked = draw(SPACE, 40, 16, 0)
    if perplexity_n is None:
        perplexity_n = np.array([30.0 - a.depth - a.embed_dim / 16 for a in asked])
    device = made_up_profile(SPACE, DECODE, 24)
    return join(made_up_supernet(SPACE), asked, perplexity_n, 130, device, DECODE)


def test_a_row_lacks_what_was_not_measured_and_that_is_no_fault(tmp_path: Path) -> None:
    table = _joined()
    (device,) = table.devices
    assert len(table.measured_rows("perplexity")) == 40
    assert len(table.measured_rows("decode_ms", device)) == 24
    assert len(table) < 40 + 24  # largest and smallest are in both
    assert table.skipped
    assert faults(table) == []
    table.save(tmp_path / "table.npz")
    again = MeasurementTable.load(tmp_path / "table.npz", bad="skip")
    for key, values in table.columns.items():
        np.testing.assert_array_equal(again.columns[key], values)


def test_worse_than_a_guess_is_left_out() -> None:
    perplexity_n = np.full(40, 20.0)
    perplexity_n[7] = SPACE.family.vocab_size + 1.0
    table = _joined(perplexity_n)
    assert np.isnan(table.values("perplexity")[7])
    assert len(table.measured_rows("perplexity")) == 39
    assert table.provenance["worse than a uniform guess, left out"] == 1


def test_every_column_says_its_own_source() -> None:
    table = _joined()
    bench = Benchmark(SPACE.name, table)
    (device,) = bench.devices
    time, perplexity = bench.provenance("decode_ms", device), bench.provenance("perplexity")
    assert time["source"].startswith("measured models on ")
    assert "1 thread" in time["source"]
    assert perplexity["source"].startswith("our supernet (embedded")
    assert perplexity["source"].endswith("40 architectures")
    assert "130 held-out tokens" in perplexity["confidence"]
    assert bench.provenance("weight_bytes")["confidence"] == "exact"


def test_no_row_is_predicted_by_a_fit_that_saw_it() -> None:
    table = _joined()
    key = ("perplexity", NO_DEVICE)
    before = out_of_fold(table, key)
    changed = {k: v.copy() for k, v in table.columns.items()}
    row = int(table.measured_rows(*key)[3])
    changed[key][row] *= 1.5
    other = MeasurementTable(
        table.space, table.workload, table.encoded, changed, provenance=table.provenance, bad="skip"
    )
    after = out_of_fold(other, key)
    assert after.mean_n[3] == before.mean_n[3]
    assert before.scores()["rows"] == 40


def test_the_command_writes_results_and_surrogates(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sparse_benchmark, "preset", lambda _: SPACE)
    monkeypatch.setattr(
        sparse_benchmark, "train_supernet", lambda *_, **__: made_up_supernet(SPACE)
    )
    device = made_up_profile(SPACE, DECODE, 24)
    monkeypatch.setattr(sparse_benchmark, "profile", lambda *_, **__: device)
    # random weights do worse than a uniform guess
    monkeypatch.setattr(sparse_benchmark, "perplexities", lambda *_: np.linspace(20.0, 30.0, 30))
    recipe = sparse_benchmark.Recipe(
        architectures=30,
        tokens=130,
        profiled=16,
        out=tmp_path / "work",
        asset=tmp_path / "tiny.npz",
        results=tmp_path,
    )
    sparse_benchmark.main(recipe)
    (path,) = tmp_path.glob("*/sparse_benchmark/result.json")
    stored = json.loads(path.read_text())
    assert stored["command"].startswith("python -m experiments.sparse_benchmark")
    assert set(stored["values"]["quality"]) == {
        "perplexity@",
        f"decode_ms@{Benchmark.open(recipe.asset).devices[0]}",
    }
    assert (path.parent / "predictions.png").stat().st_size > 1000
    shipped = Benchmark.open(recipe.asset)
    assert shipped.provenance_of_file["command"] == stored["command"]
    assert shipped.query([SPACE.largest], None, "perplexity")["perplexity"][0] > 0.0
