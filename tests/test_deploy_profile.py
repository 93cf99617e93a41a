"""The device profile: what is measured, in which order, what is kept of it, and what a profile refuses."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import nas.deploy.profile as profile_module
from nas.deploy.baseline import DensePaths
from nas.deploy.device_profile import fit_profile
from nas.deploy.kernels_in_use import kernels_in_use
from nas.deploy.measure import Timing
from nas.deploy.profile import profile, profile_architectures
from nas.deploy.runtime import Runtime, device_name
from nas.files import FolderLock, FolderLockedError, read_jsonl
from nas.kernels import use_table
from nas.model import GPT, Supernet
from nas.training import TrainedSupernet
from search_spaces import Workload, costs
from surrogates import KernelRow, KernelTable
from tests.toy_space import SHORT, SPACE, toy_supernet, toy_trained


@pytest.fixture(scope="module")
def supernet() -> Supernet:
    return toy_supernet()


@pytest.fixture
def trained(supernet: Supernet) -> TrainedSupernet:
    return toy_trained(supernet)


class FakeDevice:
    """Latencies in closed form, and a count of how often they were asked for."""

    def __init__(self, stop_after: int | None = None) -> None:
        self.calls, self.stop_after = 0, stop_after

    def measure(self, model: GPT, workload: Workload, runtime: Runtime) -> Timing:
        if self.calls == self.stop_after:
            raise KeyboardInterrupt
        self.calls += 1
        nonzeros = costs(model.architecture, SPACE.family).nonzeros
        ms = 0.1 + 1e-5 * nonzeros * (1 + 0.01 * math.sin(self.calls))
        return Timing(ms, 0.99 * ms, 1.01 * ms, 20)

    def paths(self, *args: Any, **kwargs: Any) -> DensePaths:
        return DensePaths({Runtime(): Timing(1.0, 1.0, 1.0, 20)}, {}, {}, {})


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Callable[..., FakeDevice]:
    def install(stop_after: int | None = None) -> FakeDevice:
        found = FakeDevice(stop_after)
        monkeypatch.setattr(profile_module, "measure_latency", found.measure)
        monkeypatch.setattr(profile_module, "measure_dense_paths", found.paths)
        return found

    return install


def _profile(trained: TrainedSupernet, out: Path | None, **options: Any) -> Any:
    fields = {"workloads": [SHORT], "num_architectures": 16, "rounds": 3, "progress": False}
    return profile(trained, out=out, **(fields | options))


def test_a_profile_resumes_without_measuring_anything_twice(
    trained: TrainedSupernet, tmp_path: Path, fake: Callable[..., FakeDevice]
) -> None:
    interrupted = fake(stop_after=20)
    with pytest.raises(KeyboardInterrupt):
        _profile(trained, tmp_path)
    stored = read_jsonl(tmp_path / "profile.jsonl")
    assert len(stored) == interrupted.calls == 20
    rest = fake()
    found = _profile(trained, tmp_path)
    assert rest.calls == 16 * 3 - 20
    records = read_jsonl(tmp_path / "profile.jsonl")
    assert records[:20] == stored
    triples = {(r["key"], r["workload"], r["round"]) for r in records}
    assert len(triples) == len(records) == 48
    nothing = fake()
    again = _profile(trained, tmp_path)
    assert nothing.calls == 0
    draws = [SPACE.sample(np.random.default_rng(i)) for i in range(20)]
    for name in ("mean_n", "std_n", "low_n", "high_n"):
        one, two = (getattr(p.predict(SHORT, draws), name) for p in (found, again))
        assert np.array_equal(one, two)
    assert again.fingerprint == found.fingerprint


def test_the_same_records_give_the_same_surrogates(
    trained: TrainedSupernet, fake: Callable[..., FakeDevice]
) -> None:
    fake()
    found = _profile(trained, None)
    copied = json.loads(json.dumps(found.records))
    again = fit_profile(SPACE, copied, found.runtime, [SHORT])
    draws = [SPACE.sample(np.random.default_rng(i)) for i in range(20)]
    assert np.array_equal(found.predict(SHORT, draws).mean_n, again.predict(SHORT, draws).mean_n)
    assert found.quality == again.quality
    assert found.fingerprint == again.fingerprint
    copied[0]["median_ms"] *= 1.0001
    other = fit_profile(SPACE, copied, found.runtime, [SHORT])
    assert other.fingerprint != found.fingerprint


def test_a_profile_reads_the_table_in_use(
    trained: TrainedSupernet, tmp_path: Path, fake: Callable[..., FakeDevice]
) -> None:
    """It is recorded, decides the fingerprint, and records that dispatch made by another one are measured again."""
    before = kernels_in_use("cpu")
    use_table(None, device_name("cpu"))
    try:
        fake()
        plain = _profile(trained, tmp_path)
        assert json.loads((tmp_path / "profile.json").read_text())["kernels"] is None
        row = KernelRow("float32", 32, 64, 1, "dense", "dense", {"dense": 5.0})
        table = KernelTable(device_name("cpu"), (row,), {"date": "2026-01-01"})
        use_table(table, device_name("cpu"))
        fresh = fake()
        found = _profile(trained, tmp_path)
        assert fresh.calls == 48
        assert found.kernels is table
        assert found.fingerprint != plain.fingerprint
        described = json.loads((tmp_path / "profile.json").read_text())["kernels"]
        assert (described["date"], described["rows"]) == ("2026-01-01", 1)
        again = fake()
        assert _profile(trained, tmp_path).fingerprint == found.fingerprint
        assert again.calls == 0
        other = fit_profile(SPACE, plain.records, plain.runtime, [SHORT], kernels=table)
        assert other.fingerprint != plain.fingerprint
    finally:
        use_table(before, device_name("cpu"))


def test_records_of_another_processor_or_space_are_not_ours(
    trained: TrainedSupernet, tmp_path: Path, fake: Callable[..., FakeDevice]
) -> None:
    fake()
    _profile(trained, tmp_path)
    path = tmp_path / "profile.jsonl"
    for name in ("device", "space"):
        records = read_jsonl(path)[:48]
        path.write_text("".join(json.dumps(r | {name: "another"}) + "\n" for r in records))
        fresh = fake()
        assert len(_profile(trained, tmp_path).records) == 48
        assert fresh.calls == 48
        path.write_text("".join(json.dumps(r) + "\n" for r in read_jsonl(path)[48:]))


@pytest.mark.parametrize(
    "damage",
    [
        lambda r: {},
        lambda r: {k: v for k, v in r.items() if k != "architecture"},
        lambda r: r | {"median_ms": "fast"},
        lambda r: r | {"median_ms": -1.0},
        lambda r: r | {"median_ms": math.nan},
        lambda r: r | {"key": "0" * 16},
        lambda r: r | {"runtime": {"device": "cpu"}},
        lambda r: r | {"runtime": None},
        lambda r: r | {"architecture": {"embed_dim": 0}},
        lambda r: r | {"round": "first"},
    ],
)
def test_damaged_records_are_named(
    trained: TrainedSupernet,
    tmp_path: Path,
    fake: Callable[..., FakeDevice],
    damage: Callable[[dict[str, Any]], dict[str, Any]],
) -> None:
    fake(stop_after=3)
    with pytest.raises(KeyboardInterrupt):
        _profile(trained, tmp_path)
    path = tmp_path / "profile.jsonl"
    records = read_jsonl(path)
    records[1] = damage(records[1])
    path.write_text("".join(json.dumps(r) + "\n" for r in records))
    with pytest.raises(
        ValueError, match=r"expected a latency record in line 2 of .*remove that line"
    ):
        _profile(trained, tmp_path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_architectures": 15}, "expected num_architectures of 16 or more, got 15"),
        ({"rounds": 0}, "expected rounds of 1 or more, got 0"),
        ({"workloads": []}, "expected one workload or more, got none"),
        ({"workloads": [Workload("decode", 1, 32)]}, "expected a workload of at most 32 tokens"),
        ({"workloads": [Workload("decode", 10**9, 16)]}, "fits into the .* bytes of free memory"),
        ({"workloads": ["decode_ms"]}, "expected a workload of at most 32 tokens"),
        ({"workloads": ["perplexity"]}, "expected workloads such as .*, got 'perplexity'"),
        ({"workloads": ["flops[context=16]"]}, "expected workloads such as"),
        ({"workloads": [16]}, "expected workloads such as .*, got 16"),
        ({"workloads": SHORT}, "expected a list of workloads"),
        ({"workloads": "decode_ms[context=16]"}, "expected a list of workloads"),
        ({"device": "tpu"}, "expected device"),
        ({"space": "cpu"}, "expected a search space, got 'cpu'; name the device as"),
        (
            {
                "space": replace(
                    SPACE,
                    depths=(1,),
                    embed_dims=(16,),
                    num_heads=(1,),
                    ffn=(True,),
                    ffn_ratios=(1.0,),
                )
            },
            "expected a space of 16 architectures or more, got 4",
        ),
    ],
)
def test_a_profile_refuses_wrong_values_before_it_measures(
    trained: TrainedSupernet,
    fake: Callable[..., FakeDevice],
    options: dict[str, Any],
    message: str,
) -> None:
    device = fake()
    with pytest.raises(ValueError, match=message):
        _profile(trained, None, **options)
    assert device.calls == 0


def test_what_is_no_supernet_is_not_profiled() -> None:
    anything: Any = SPACE
    with pytest.raises(ValueError, match="expected a trained supernet, got SearchSpace"):
        profile(anything)


def test_workloads_may_be_texts_and_have_a_default_that_fits(
    trained: TrainedSupernet, fake: Callable[..., FakeDevice]
) -> None:
    fake()
    texts = ["decode_ms[batch=2,context=16]", "prefill_ms[context=8]"]
    found = _profile(trained, None, workloads=texts, rounds=1)
    assert list(found.surrogates) == [Workload("decode", 2, 16), Workload("prefill", 1, 8)]
    found = _profile(trained, None, workloads=None, rounds=1)
    assert list(found.surrogates) == [Workload("decode", 1, 31)]
    assert found.device_name == device_name("cpu")


def test_two_profiles_in_one_folder_are_refused(
    trained: TrainedSupernet, tmp_path: Path, fake: Callable[..., FakeDevice]
) -> None:
    device = fake()
    with FolderLock(tmp_path), pytest.raises(FolderLockedError, match="choose another folder"):
        _profile(trained, tmp_path)
    assert device.calls == 0
    assert not (tmp_path / "profile.jsonl").exists()
    _profile(trained, tmp_path, rounds=1)


def test_an_unprofiled_workload_is_refused(
    trained: TrainedSupernet, fake: Callable[..., FakeDevice]
) -> None:
    fake()
    with pytest.raises(
        ValueError, match=r"expected one of the profiled workloads \(decode.*profile it"
    ):
        _profile(trained, None).predict(Workload("prefill", 1, 8), [SPACE.largest])


def test_profiled_architectures_are_distinct_and_hold_both_ends() -> None:
    found = profile_architectures(SPACE, 16, seed=3)
    assert len(set(found)) == 16
    assert found[:2] == [SPACE.largest, SPACE.smallest]
    assert found == profile_architectures(SPACE, 16, seed=3)
    assert found != profile_architectures(SPACE, 16, seed=4)
    assert all(SPACE.contains(a) for a in found)
