"""The experiments' own parts: tables, races, results files. Their numbers are made by their commands, not here."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from experiments import results
from experiments.exhaustive.race import box, race, run_one
from experiments.exhaustive.table import OBJECTIVES, Lookup, small_space
from experiments.kernels.__main__ import check, time_pair
from experiments.supernet_quality.overhead import overheads
from experiments.supernet_quality.ranking import only
from nas.kernels import PackedWeight, pack
from nas.model import Supernet
from nas.pareto import normalized_hypervolume
from search_spaces import costs, preset


def table() -> tuple[list, np.ndarray]:
    """A made-up truth with a real trade-off: fewer bytes and less time cost perplexity."""
    architectures = list(small_space())
    size = np.array(
        [costs(a, small_space().family).weight_bytes for a in architectures], dtype=float
    )
    rng = np.random.default_rng(0)
    noise = rng.uniform(1.0, 1.2, (2, len(size)))
    return architectures, np.stack(
        [30.0 * noise[0] * (size.max() / size) ** 0.3, noise[1] * size / 1e6, size], axis=1
    )


def test_the_small_space_has_1728_subnets_of_tiny() -> None:
    space = small_space()
    architectures = list(space)
    assert len(set(architectures)) == space.cardinality == 1728
    tiny = preset("tiny")
    assert all(tiny.contains(a) for a in architectures[::50])
    assert tiny.family == space.family


def test_a_race_reads_the_table_and_reports_shares_of_the_truth(tmp_path: Path) -> None:
    architectures, values = table()
    run = run_one(("random", 3, 12, architectures, values))
    assert len(run["share"]) == 12
    assert all(a <= b + 1e-12 for a, b in zip(run["share"], run["share"][1:], strict=False))
    assert 0.0 < run["share"][-1] < 1.0
    path = tmp_path / "race.jsonl"
    first = race(["random"], [0], 6, architectures, values, path, 1)
    stored = path.read_text()
    assert race(["random"], [0], 6, architectures, values, path, 1) == first
    assert path.read_text() == stored  # a finished study is not run again


def test_the_whole_table_has_share_one() -> None:
    architectures, values = table()
    ideal, ref = box(values)
    truth = normalized_hypervolume(values, ideal, ref)
    lookup = Lookup(architectures, values)
    read = np.array([[lookup(a).value(o) for o in OBJECTIVES] for a in architectures])
    assert float(normalized_hypervolume(read, ideal, ref)) == float(truth) > 0.0


def test_a_result_says_where_it_comes_from(tmp_path: Path) -> None:
    path = results.write_result(
        tmp_path, command="python -m x", seeds=[0, 1], values={"share": 0.97}
    )
    stored = json.loads(path.read_text())
    assert stored["command"] == "python -m x"
    assert stored["values"] == {"share": 0.97}
    assert {"date", "device", "runtime", "versions", "seeds"} <= set(stored)
    assert results.device_slug("cpu").endswith("-cores")


def test_the_space_around_one_architecture_holds_its_weights_exactly() -> None:
    tiny = preset("tiny")
    rng = np.random.default_rng(1)
    for architecture in (tiny.smallest, *(tiny.sample(rng) for _ in range(8))):
        space = only(tiny, architecture)
        assert space.contains(architecture)
        assert space.embed_dims == (architecture.embed_dim,)
        assert space.depths == (architecture.depth,)


def test_overheads_are_ratios_of_real_forward_passes() -> None:
    tiny = preset("tiny")
    ratios = overheads(
        Supernet(tiny), [tiny.smallest], torch.zeros(1, 8, dtype=torch.long), repeats=3
    )
    assert len(ratios) == 1
    assert ratios[0] > 0.0


def test_a_wrong_product_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    weight = torch.randn(64, 64, generator=torch.Generator().manual_seed(0))
    packed, x = pack(weight, "unstructured:0.80"), torch.ones(2, 64)
    assert check(packed, x) < 1e-6
    monkeypatch.setattr(
        type(packed), "multiply", lambda self, x: 1.01 * PackedWeight.multiply(self, x)
    )
    with pytest.raises(RuntimeError, match="expected an error of at most"):
        check(packed, x)
    dense_us, sparse_us = time_pair(lambda: x, lambda: x, "cpu", 3)
    assert dense_us > 0.0
    assert sparse_us > 0.0
