"""Benchmark: answers of a table's surrogates and of those that ship, in one call, with clear refusals."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import surrogates
from search_spaces import Architecture, LayerConfig, costs, prefill_flops, preset
from surrogates import Benchmark, MeasurementTable, kendall_tau, mape
from surrogates.additive.encoding import Encoder
from tests.small_benchmark import SPACE, small_table, truths


@pytest.fixture(scope="module")
def bench() -> Benchmark:
    return Benchmark("gpt-s", small_table())


@pytest.fixture(scope="module")
def architectures() -> list[Architecture]:
    rng = np.random.default_rng(5)
    return [SPACE.sample(rng) for _ in range(100)]


def test_expected_values_are_near_the_truth(
    bench: Benchmark, architectures: list[Architecture]
) -> None:
    truth = truths(Encoder(SPACE)(architectures))
    found = bench.query(architectures, "fast", ["perplexity", "prefill_ms", "energy_j"])
    assert list(found) == ["perplexity", "prefill_ms", "energy_j"]
    for metric, values in found.items():
        expected = truth[metric, "" if metric == "perplexity" else "fast"]
        assert mape(values, expected) < 0.01
        assert kendall_tau(values, expected) > 0.97


def test_the_papers_words_mean_the_same(
    bench: Benchmark, architectures: list[Architecture]
) -> None:
    words = bench.query(architectures, "Slow-Chip", ["latency", "ppl"])
    names = bench.query(architectures, "slow chip", ["prefill_ms", "perplexity"])
    assert set(words) == {"latency", "ppl"}
    np.testing.assert_array_equal(words["latency"], names["prefill_ms"])
    np.testing.assert_array_equal(words["ppl"], names["perplexity"])


def test_exact_metrics_equal_the_closed_forms(
    bench: Benchmark, architectures: list[Architecture]
) -> None:
    found = bench.query(architectures, None, ["params", "weight_bytes", "nonzeros", "flops"])
    for i, architecture in enumerate(architectures):
        exact = costs(architecture, SPACE.family, 4)
        assert found["params"][i] == exact.params
        assert found["weight_bytes"][i] == exact.weight_bytes
        assert found["nonzeros"][i] == exact.nonzeros
        assert found["flops"][i] == prefill_flops(architecture, SPACE.family, 1024)


def test_exact_bytes_are_those_of_the_dtype_that_was_measured(
    architectures: list[Architecture], tmp_path: Path
) -> None:
    """Two bytes a weight of a table in bfloat16, four of one in float32, before and after a file."""
    table = replace(small_table(40), dtype="bfloat16")
    bench = Benchmark("gpt-s", table)
    bench.surrogate("prefill_ms", "fast")
    bench.save(tmp_path / "half.npz")
    expected = [costs(a, SPACE.family, 2).weight_bytes for a in architectures]
    for found in (bench, Benchmark.open(tmp_path / "half.npz")):
        assert found.query(architectures, None, "weight_bytes")["weight_bytes"].tolist() == expected
        assert found.dtype == found.surrogate("prefill_ms", "fast").dtype == "bfloat16"
    assert expected[0] < costs(architectures[0], SPACE.family, 4).weight_bytes


def test_noise_is_one_measurement_reproducible_and_positive(
    bench: Benchmark, architectures: list[Architecture]
) -> None:
    mean = bench.query(architectures, "fast", ["latency"])["latency"]
    one, same, other = (
        bench.query(architectures, "fast", ["latency"], noise=seed)["latency"] for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(one, same)
    assert not np.array_equal(one, other)
    assert np.all(one > 0)
    draws = np.stack(
        [bench.query(architectures[:5], "fast", "latency", noise=s)["latency"] for s in range(300)]
    )
    spread = np.log(draws / mean[:5]).std(axis=0)
    assert np.all((spread > 0.005) & (spread < 0.02))  # the table's noise is one percent


def test_noise_of_a_column_does_not_depend_on_what_else_is_asked(
    bench: Benchmark, architectures: list[Architecture]
) -> None:
    alone = bench.query(architectures, "fast", ["energy"], noise=4)["energy"]
    both = bench.query(architectures, "fast", ["latency", "energy"], noise=4)["energy"]
    np.testing.assert_array_equal(alone, both)


def test_raw_mistakes_are_told_plainly(bench: Benchmark, architectures: list[Architecture]) -> None:
    with pytest.raises(ValueError, match=r"write \[architecture\]"):
        bench.query(architectures[0], "fast", ["latency"])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="position 0"):
        bench.query([1, 2], "fast", ["latency"])  # type: ignore[list-item]
    with pytest.raises(ValueError, match="device in fast"):
        bench.query(architectures, 3, ["latency"])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="name of a metric"):
        bench.query(architectures, "fast", [3])  # type: ignore[list-item]
    for noise in (-1, "x", True):
        with pytest.raises(ValueError, match="seed of 0 or more"):
            bench.query(architectures, "fast", ["latency"], noise=noise)  # type: ignore[arg-type]
    other = Encoder(preset("gpt-s-wide"))
    foreign = other([other.space.largest])
    with pytest.raises(ValueError, match="another one"):
        bench.query(foreign, "fast", ["latency"])


ROWS: dict[str, tuple[str, tuple[int, ...], int]] = {
    "below what is absent": ("ffn_nl", (7, 1), -2),
    "a hole": ("attention_nl", (7, 1), -1),
    "an FFN part beyond the depth": ("ffn_nl", (7, 11), 0),
    "an attention part beyond the depth": ("attention_nl", (7, 11), 0),
    "an unknown part": ("attention_nl", (7, 0), 99),
    "an unknown width": ("width_n", (7,), 3),
}


@pytest.mark.parametrize("what", ROWS)
def test_numbers_that_are_no_architecture_are_refused_by_row(what: str) -> None:
    encoder = Encoder(SPACE)
    encoded = encoder([SPACE.smallest] * 9)  # of 10 layers in 12
    assert encoder.check(encoded) is encoded
    name, where, value = ROWS[what]
    getattr(encoded, name)[where] = value
    with pytest.raises(ValueError, match=r"another one \(row 7 is no architecture"):
        encoder.check(encoded)
    short = replace(encoder([SPACE.smallest] * 2), ffn_nl=encoded.ffn_nl[:2, :10])
    with pytest.raises(ValueError, match=r"ffn_nl has shape \(2, 10\)"):
        encoder.check(short)


def test_encoded_architectures_are_taken_as_they_are(
    bench: Benchmark, architectures: list[Architecture]
) -> None:
    encoded = bench.surrogate("latency", "fast").encode(architectures)
    np.testing.assert_array_equal(
        bench.query(encoded, "fast", ["latency"])["latency"],
        bench.query(architectures, "fast", ["latency"])["latency"],
    )


def test_nothing_asked_nothing_answered(bench: Benchmark) -> None:
    assert bench.query([], "fast", ["latency", "params"])["latency"].shape == (0,)


@pytest.mark.parametrize(
    ("device", "metric", "said"),
    [
        ("fats", "latency", "did you mean fast"),
        ("fast", "latncy", "expected a metric in"),
        ("fast", "perplexty", "did you mean perplexity"),
        ("slow chip", "energy_j", "expected a metric in"),
        (None, "prefill_ms", "needs a device"),
    ],
)
def test_unknown_names_are_refused_and_near_ones_proposed(
    bench: Benchmark, architectures: list[Architecture], device: str | None, metric: str, said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        bench.query(architectures, device, [metric])


def test_an_architecture_outside_the_space_is_named(
    bench: Benchmark, architectures: list[Architecture]
) -> None:
    foreign = Architecture(200, (LayerConfig(4, 2.0),) * 10)
    with pytest.raises(ValueError, match="position 1"):
        bench.query([architectures[0], foreign], "fast", ["latency"])


def test_a_question_far_outside_the_data_is_flagged() -> None:
    table = small_table(300)
    shallow = np.flatnonzero((table.encoded.depth_n == 10) & (table.encoded.width_n < 2))
    part = MeasurementTable(
        table.space,
        table.workload,
        table.encoded.take(shallow),
        {key: values[shallow] for key, values in table.columns.items()},
    )
    bench = Benchmark("gpt-s", part)
    with pytest.warns(UserWarning, match="1 of 2 architectures lie far outside.*position 1"):
        bench.query([SPACE.smallest, SPACE.largest], "fast", ["latency"])
    guess = bench.predict([SPACE.smallest, SPACE.largest], "latency", "fast")
    assert guess.extrapolates_n.tolist() == [False, True]


def test_every_number_says_where_it_comes_from(bench: Benchmark) -> None:
    assert bench.provenance("params") == {
        "source": "closed form of search_spaces.costs",
        "confidence": "exact",
    }
    found = bench.provenance("latency", "fast")
    assert found["source"] == "invented"
    assert found["rows"] == 240
    assert found["kendall_tau"] > 0.95


def test_save_and_open(bench: Benchmark, architectures: list[Architecture], tmp_path: Path) -> None:
    asked = ("fast", ["perplexity", "latency", "energy"])
    before = bench.query(architectures, *asked)
    bench.save(tmp_path / "mine.npz", {"made": "by a test"})
    again = Benchmark.open(tmp_path / "mine.npz")
    assert again.devices == ("fast", "slow chip")[: len(again.devices)]
    assert again.provenance("latency", "fast")["source"] == "invented"
    for metric, values in again.query(architectures, *asked).items():
        np.testing.assert_allclose(values, before[metric], rtol=1e-12)
    noisy = again.query(architectures, *asked, noise=3)
    for metric, values in bench.query(architectures, *asked, noise=3).items():
        np.testing.assert_allclose(noisy[metric], values, rtol=1e-3)


@pytest.mark.parametrize("content", [b"", b"hello", b"PK\x03\x04 not an archive"])
def test_foreign_files_are_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "mine.npz"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="damaged or foreign"):
        Benchmark.open(path)
    with pytest.raises(ValueError, match="damaged or foreign"):
        Benchmark("gpt-s", path)
    with pytest.raises(FileNotFoundError):
        Benchmark("gpt-s", tmp_path / "none.npz")


def test_a_table_of_another_space_is_refused() -> None:
    with pytest.raises(ValueError, match="'gpt-s'"):
        Benchmark("gpt-m", small_table(60))
    with pytest.raises(ValueError, match="expected a benchmark in"):
        Benchmark("gpt-x")


# ---- what ships


@pytest.mark.parametrize("name", surrogates.shipped_benchmarks())
def test_shipped_benchmarks_answer_offline(name: str) -> None:
    bench = Benchmark(name)
    space = preset(name)
    assert bench.space.fingerprint == space.fingerprint
    rng = np.random.default_rng(0)
    architectures = [space.sample(rng) for _ in range(50)]
    for metric, device in bench.keys:
        values = bench.query(architectures, device or None, metric)[metric]
        assert np.all(values > 0)
        found = bench.provenance(metric, device or None)
        assert {"source", "confidence", "rows", "kendall_tau", "mape"} <= set(found)
    path = Path(surrogates.__file__).parent / "assets" / f"{name}.npz"
    assert path.stat().st_size < 600_000
    assert bench.provenance_of_file["command"].startswith("python -m experiments.")


def test_gpt_s_ships_the_thirteen_devices() -> None:
    bench = Benchmark("gpt-s")
    assert len(bench.devices) == 13
    for device in bench.devices:
        assert {"perplexity", "prefill_ms", "energy_j"} <= set(bench.metrics(device))
    small, large = (
        bench.query([a], "h100", ["latency", "energy", "perplexity"])
        for a in (bench.space.smallest, bench.space.largest)
    )
    # an H100 takes 4.5 to 12.8 ms for these models (HW-GPT-Bench's raw data)
    assert 4.0 < small["latency"][0] < 6.0
    assert 11.0 < large["latency"][0] < 14.0
    assert large["perplexity"][0] < small["perplexity"][0]
