"""Measuring, profiling, building and verifying: clocks and devices are replaced where a number has to be exact, and real otherwise."""

from __future__ import annotations

import contextlib
import itertools
import json
import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_run import DECODE, finished_run, load_profile_of, load_results, load_supernet_of

import nas.deploy.baseline as baseline_module
import nas.deploy.measure as measure_module
import nas.deploy.profile as profile_module
import nas.deploy.verify as verify_module
from nas.commands.run_folder import winners_of
from nas.deploy.baseline import DensePaths, measure_dense_paths
from nas.deploy.check import Check
from nas.deploy.device_profile import fit_profile
from nas.deploy.kernels_in_use import kernels_in_use
from nas.deploy.materialize import Winners, materialize, select
from nas.deploy.measure import (
    Timing,
    measure_latency,
    measure_peak_memory,
    step_function,
    time_calls,
    time_step,
)
from nas.deploy.profile import profile, profile_architectures
from nas.deploy.report import validate
from nas.deploy.runtime import Runtime, check_device, device_name, provenance
from nas.deploy.verify import verify
from nas.files import FolderLock, FolderLockedError, read_jsonl
from nas.kernels import use_table
from nas.model import GPT, Supernet, extract, load_gpt
from nas.objectives import Evaluation, Objective
from nas.pareto import ParetoFront
from nas.training import TrainedSupernet
from search_spaces import Architecture, Family, SearchSpace, Sparsity, Workload, costs
from surrogates import KernelRow, KernelTable

DENSE, UNSTRUCTURED = Sparsity.parse("dense"), Sparsity.parse("unstructured:0.80")
SPACE = SearchSpace(
    name="toy",
    family=Family(vocab_size=64, context_length=32, head_dim=8),
    embed_dims=(16, 32),
    depths=(1, 2),
    num_heads=(1, 2),
    ffn_ratios=(1.0, 2.0),
    biases=(False,),
    attention=(False, True),
    ffn=(False, True),
    attention_sparsities=(DENSE,),
    ffn_sparsities=(DENSE, UNSTRUCTURED),
    adapter_ranks=(0,),
)
SHORT = Workload("decode", 1, 16)


@pytest.fixture(scope="module")
def supernet() -> Supernet:
    return Supernet(SPACE, 0)


@pytest.fixture
def trained(supernet: Supernet) -> TrainedSupernet:
    return TrainedSupernet(supernet, None, {"sha256": "0" * 64}, Path("toy.json"))  # type: ignore[arg-type]


# --- runtime


def test_unknown_and_absent_devices_are_refused() -> None:
    with pytest.raises(ValueError, match="expected device 'cpu' or 'cuda', got 'tpu'"):
        check_device("tpu")
    with pytest.raises(ValueError, match="got 'tpu'"):
        Runtime("tpu")
    if not torch.cuda.is_available():
        with pytest.raises(
            ValueError, match="expected a CUDA device, found none.*use device='cpu'"
        ):
            Runtime("cuda")


@pytest.mark.parametrize("fields", [{"dtype": "int8"}, {"threads": 0}])
def test_runtime_refuses_wrong_fields(fields: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="expected"):
        Runtime(**fields)


def test_runtime_uses_its_threads_and_gives_the_callers_back() -> None:
    before = torch.get_num_threads()
    with contextlib.suppress(RuntimeError), Runtime(threads=before + 1).active():
        assert torch.get_num_threads() == before + 1
        assert torch.is_inference_mode_enabled()
        raise RuntimeError
    assert torch.get_num_threads() == before


def test_provenance_names_the_processor_and_the_versions() -> None:
    found = provenance(Runtime())
    assert found["versions"]["torch"] == torch.__version__
    assert json.loads(json.dumps(found)) == found
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        assert device_name("cpu") in cpuinfo.read_text()


# --- latency


class Clock:
    """A clock that advances by the next of the given seconds while a call runs."""

    def __init__(self, seconds: list[float]) -> None:
        self.now, self.calls, self._seconds = 0.0, 0, itertools.cycle(seconds)

    def perf_counter(self) -> float:
        return self.now

    def call(self) -> None:
        self.calls += 1
        self.now += next(self._seconds)


@pytest.mark.parametrize(
    ("min_repeats", "min_seconds", "expected"),
    [(7, 0.0, 7), (2, 2.0, 8), (20, 2.0, 20)],  # calls take 0.25 s
)
def test_a_call_is_repeated_often_and_long_enough(
    monkeypatch: pytest.MonkeyPatch, min_repeats: int, min_seconds: float, expected: int
) -> None:
    clock = Clock([0.25])
    monkeypatch.setattr(measure_module.time, "perf_counter", clock.perf_counter)
    found = time_calls(
        clock.call, "cpu", min_repeats=min_repeats, min_seconds=min_seconds, warmup=3
    )
    assert clock.calls == expected + 3
    assert found == Timing(250.0, 250.0, 250.0, expected)


def test_timing_is_the_median_after_the_warmup(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = [9.0, 9.0, *(n / 1024 for n in (5, 1, 4, 2, 3, 6, 11, 8, 9, 10, 7))]
    clock = Clock(seconds)
    monkeypatch.setattr(measure_module.time, "perf_counter", clock.perf_counter)
    found = time_calls(clock.call, "cpu", min_repeats=11, min_seconds=0.0, warmup=2)
    of = [1e3 * s for s in seconds[2:]]
    percentiles = np.percentile(of, [50, 20, 80], method="nearest")
    assert [found.median_ms, found.p20_ms, found.p80_ms] == percentiles.tolist()


@pytest.mark.parametrize("workload", [SHORT, Workload("prefill", 2, 32)], ids=str)
def test_real_measurements_are_positive_and_ordered(
    supernet: Supernet, workload: Workload, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measure_module, "time_calls", time_calls)  # with all its repeats
    found = measure_latency(extract(supernet, SPACE.largest), workload, Runtime())
    assert 0.0 < found.p20_ms <= found.median_ms <= found.p80_ms < math.inf
    assert found.repeats >= 20


def test_a_step_can_be_repeated_and_reads_what_the_workload_says(supernet: Supernet) -> None:
    model = extract(supernet, SPACE.largest)
    with torch.inference_mode():
        for workload, length in ((Workload("decode", 3, 20), 1), (Workload("prefill", 2, 9), 9)):
            step = step_function(model, workload)
            first = step().clone()
            assert first.shape == (workload.batch, length, SPACE.family.vocab_size)
            assert torch.equal(step(), first)  # the cache was set back


@pytest.mark.parametrize(
    ("workload", "fits"),
    [
        (Workload("decode", 1, 31), True),
        (Workload("decode", 1, 32), False),  # the new token has no room
        (Workload("prefill", 1, 32), True),
        (Workload("prefill", 1, 33), False),
    ],
    ids=str,
)
def test_workloads_longer_than_the_context_are_refused(
    supernet: Supernet, workload: Workload, fits: bool
) -> None:
    model = extract(supernet, SPACE.smallest)
    if fits:
        step_function(model, workload)()
        return
    with pytest.raises(
        ValueError, match=r"expected a workload of at most 32 tokens, got .* 33; use"
    ):
        step_function(model, workload)


@pytest.mark.parametrize("batch", [10**18, 10**17], ids=["bytes", "overflow"])
def test_a_workload_that_cannot_be_allocated_is_refused(supernet: Supernet, batch: int) -> None:
    model = extract(supernet, SPACE.largest)
    for phase in ("decode", "prefill"):
        with pytest.raises(ValueError, match=r"fits into memory, got .*; use a smaller batch"):
            step_function(model, Workload(phase, batch, 16))  # type: ignore[arg-type]


def test_only_errors_of_memory_are_called_so() -> None:
    def fail(error: Exception) -> Callable[[], Any]:
        def step() -> Any:
            raise error

        return step

    with pytest.raises(ValueError, match="fits into memory, got one that does not: CUDA out of"):
        time_step(fail(torch.OutOfMemoryError("CUDA out of memory. Tried")), Runtime())
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        time_step(fail(RuntimeError("shapes cannot be multiplied")), Runtime())


# --- memory


def test_peak_memory_by_hand(supernet: Supernet) -> None:
    """Without attention and FFN, the peak is when the logits are made: input and output of the last norm are still there."""
    bare = next(a for a in _all_architectures() if not any(c.attention or c.ffn for c in a.layers))
    model = extract(supernet, bare)
    batch, length, dim = 3, 32, bare.embed_dim
    weights = (64 + 32) * dim + 2 * dim  # tokens, positions, final norm
    activations = 2 * batch * length * dim + batch * length * 64
    workload = Workload("prefill", batch, length)
    found = {measure_peak_memory(model, workload, Runtime()) for _ in range(3)}
    assert found == {4 * (weights + activations)}


@pytest.mark.parametrize(
    "workload", [Workload("decode", 2, 20), Workload("prefill", 3, 32)], ids=str
)
@pytest.mark.parametrize(
    "architecture", [SPACE.largest, SPACE.smallest], ids=["largest", "smallest"]
)
def test_peak_memory_is_what_the_allocator_records(
    supernet: Supernet, architecture: Architecture, workload: Workload
) -> None:
    model = extract(supernet, architecture)
    heads = [c.num_heads if c.attention else 0 for c in architecture.layers]
    room = workload.context + (workload.phase == "decode")
    held = costs(architecture, SPACE.family).weight_bytes
    held += sum(2 * 4 * workload.batch * h * room * SPACE.family.head_dim for h in heads)
    counted = measure_peak_memory(model, workload, Runtime()) - held
    recorded = _recorded_peak(step_function(model, workload))
    assert counted <= recorded <= counted + 64  # scratch inside a library call is not counted


def _recorded_peak(step: Callable[[], Any]) -> int:
    """Peak of the CPU allocations that PyTorch's profiler saw during one call."""
    activity = torch.profiler.ProfilerActivity.CPU
    with torch.inference_mode():
        step()
        with torch.profiler.profile(activities=[activity], profile_memory=True) as recording:
            step()
    results = recording.profiler.kineto_results  # type: ignore[union-attr]
    events = [e for e in results.events() if e.name() == "[memory]"]
    sizes = [e.nbytes() for e in sorted(events, key=lambda e: e.start_ns())]
    assert sizes
    return max(itertools.accumulate(sizes))


def _all_architectures() -> Iterator[Architecture]:
    rng = np.random.default_rng(0)
    yield from (SPACE.sample(rng) for _ in range(200))


# --- dense paths


def test_the_fastest_path_is_the_least_median() -> None:
    medians = {
        Runtime(dtype="float32", threads=1): 3.0,
        Runtime(dtype="bfloat16", threads=1): 4.0,
        Runtime(dtype="float32", threads=1, compiled=True): 2.0,
    }
    timings = {r: Timing(ms, ms, ms, 1) for r, ms in medians.items()}
    paths = DensePaths(timings, {"float16 eager": "not available: no"}, {}, {})
    assert medians[paths.fastest()] == 2.0
    assert medians[paths.fastest(compiled=False)] == 3.0
    assert paths.to_json() == {str(r): ms for r, ms in medians.items()} | paths.unavailable


def test_without_a_compiler_the_reason_is_recorded(
    supernet: Supernet, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: Any, **kwargs: Any) -> Any:
        raise RuntimeError("no C++ compiler\nand a long story")

    monkeypatch.setattr(torch, "compile", fail)
    found = measure_dense_paths(supernet, SHORT, "cpu", threads=1, seconds=0.0)
    assert {(r.dtype, r.compiled) for r in found.timings} == {
        ("float32", False),
        ("bfloat16", False),
    }
    [(path, reason)] = found.unavailable.items()
    assert "compiled" in path
    assert reason == "not available: RuntimeError: no C++ compiler"


def test_a_compiler_that_fails_at_the_first_call_is_recorded_too(
    supernet: Supernet, monkeypatch: pytest.MonkeyPatch
) -> None:
    def compile_badly(step: Any, **kwargs: Any) -> Callable[[], Any]:
        def call() -> Any:
            raise OSError("g++ not found")

        return call

    monkeypatch.setattr(torch, "compile", compile_badly)
    found = measure_dense_paths(supernet, SHORT, "cpu", threads=1, seconds=0.0)
    assert all(not runtime.compiled for runtime in found.steps)
    assert list(found.unavailable.values()) == ["not available: OSError: g++ not found"]


# --- profile


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


# --- choosing winners


def _front_of(Y: np.ndarray, names: tuple[str, ...], ref: np.ndarray) -> ParetoFront:
    rng = np.random.default_rng(0)
    architectures: dict[Architecture, None] = {}
    while len(architectures) < len(Y):
        architectures[SPACE.sample(rng)] = None
    evaluations = [
        Evaluation(a, dict(zip(names, map(float, row), strict=True)))
        for a, row in zip(architectures, Y, strict=True)
    ]
    return ParetoFront(evaluations, names, ref.tolist())


def _volume(Y: np.ndarray, ref: np.ndarray) -> float:
    """Hypervolume by inclusion and exclusion."""
    total = 0.0
    for size in range(1, len(Y) + 1):
        for subset in itertools.combinations(Y, size):
            corner = np.max(subset, axis=0)
            total -= (-1) ** size * float(np.prod(np.maximum(ref - corner, 0.0)))
    return total


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("names", [("perplexity", DECODE), ("weight_bytes", "perplexity", DECODE)])
def test_selection_is_within_the_greedy_bound_of_the_best_subset(
    names: tuple[str, ...], seed: int
) -> None:
    rng = np.random.default_rng(seed)
    Y = rng.uniform(0.1, 1.0, (8, len(names))) * (10.0 ** np.arange(len(names)))
    ref = 1.1 * 10.0 ** np.arange(len(names))
    front = _front_of(Y, names, ref)
    points = np.array([[e.value(n) for n in names] for e in front.evaluations])
    for number in (1, 2, 3):
        chosen = select(front, number)
        assert len(chosen) == min(number, len(points))
        assert len({e.architecture for e in chosen}) == len(chosen)
        mine = _volume(np.array([[e.value(n) for n in names] for e in chosen]), ref)
        subsets = itertools.combinations(range(len(points)), len(chosen))
        best = max(_volume(points[list(s)], ref) for s in subsets)
        assert mine >= (1.0 - 1.0 / math.e) * best - 1e-12
        if number == 1:
            assert mine == pytest.approx(best)
    every = select(front, 100)
    assert {e.architecture for e in every} == {e.architecture for e in front.evaluations}
    latency = [e.value(DECODE) for e in every]
    assert latency == sorted(latency)


def test_members_beyond_the_reference_point_come_last() -> None:
    Y = np.array([[5.0, 0.5], [1.0, 1.0], [0.5, 4.0]])  # the first and last exceed 2 somewhere
    chosen = select(_front_of(Y, ("perplexity", DECODE), np.array([2.0, 2.0])), 1)
    assert [e.value("perplexity") for e in chosen] == [1.0]


def test_an_empty_front_and_foreign_evaluations_are_refused(trained: TrainedSupernet) -> None:
    names = ("perplexity", DECODE)
    with pytest.raises(ValueError, match="got an empty one; run more trials"):
        materialize(ParetoFront([], names), trained)
    front = _front_of(np.array([[1.0, 1.0]]), names, np.array([2.0, 2.0]))
    with pytest.raises(ValueError, match=r"expected evaluations of nas\.search"):
        materialize(front, trained)


# --- checks


def test_check_boundaries() -> None:
    claim = {"mean": 10.0, "low": 10.0, "high": 10.0}
    perplexity = Objective("perplexity")
    for measured, passed in (
        (10.0, True),
        (10.0 * 1.005, True),
        (10.0 * (1 - 0.005), True),
        (math.nextafter(10.0 * 1.005, 11), False),
        (math.nextafter(10.0 * (1 - 0.005), 9), False),
    ):
        assert Check.of(perplexity, measured, claim).passed is passed
    counted = {"mean": 1000, "low": 1000, "high": 1000}
    for metric in ("weight_bytes", "params", "nonzeros"):
        for measured, passed in ((1000, True), (999, False), (1001, False)):
            assert Check.of(Objective(metric), measured, counted).passed is passed
    memory = Objective.parse("peak_memory_bytes")
    for measured, passed in ((1010, True), (990, True), (1011, False), (989, False)):
        assert Check.of(memory, measured, counted).passed is passed
    latency = Objective.parse(DECODE)
    interval = {"mean": 1.2, "low": 1.0, "high": 1.5}
    for ms, passed in ((1.0, True), (1.5, True), (0.999999, False), (1.500001, False)):
        check = Check.of(latency, ms, interval)
        assert check.passed is passed
        assert (check.low, check.high, check.tolerance, check.unit) == (1.0, 1.5, 0.0, "ms")


# --- verify, on the small run's winners


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return finished_run(tmp_path_factory)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of models and measurements: what one test measured the next finds there."""
    return tmp_path_factory.mktemp("verify")


@pytest.fixture(scope="module")
def winners(run: Path, shared: Path) -> Winners:
    front = winners_of(load_results(run), None)
    return materialize(front, load_supernet_of(run), max_winners=2, out=shared)


@pytest.fixture(autouse=True)
def quick_paths(monkeypatch: pytest.MonkeyPatch) -> None:
    """The dense paths are timed for 20 calls instead of 0.3 seconds and more."""
    real = baseline_module.time_step

    def short(step: Any, runtime: Runtime, **options: Any) -> Timing:
        return real(step, runtime, min_repeats=3, min_seconds=0.0, warmup=1)

    monkeypatch.setattr(baseline_module, "time_step", short)


def _verify(winners: Winners, out: Path) -> Any:
    return verify(winners, rounds=2, compile=False, out=out, progress=False)


def _claiming(winners: Winners, **changes: dict[str, float]) -> Winners:
    """The same winners with other claims about the first; names are metrics."""
    first = winners[0]
    claims = {name: dict(claim) for name, claim in first.claims.items()}
    for name in claims:
        claims[name] |= changes.get(name.partition("[")[0], {})
    provenance = dict(first.evaluation.provenance) | {"claims": claims}
    evaluation = replace(first.evaluation, provenance=provenance)
    return replace(winners, models=(replace(first, evaluation=evaluation), *winners.models[1:]))


def _around(value: float) -> dict[str, float]:
    return {"low": 0.5 * value, "high": 2.0 * value}


def test_honest_claims_pass_and_the_report_is_valid(winners: Winners, shared: Path) -> None:
    first = _verify(winners, shared).results
    for winner in first["winners"]:
        by_name = {c["name"]: c for c in winner["checks"]}
        assert by_name["perplexity"]["passed"]  # latency is the machine's to decide
        assert by_name["weight_bytes"]["passed"]
    measured = first["winners"][0]["measured"]
    honest = _claiming(winners, decode_ms=_around(measured[DECODE]))
    report = _verify(honest, shared)
    assert report.results["winners"][0]["verified"]
    assert validate(report.results) is report.results
    assert all(isinstance(check, Check) for check in report.checks)
    ours, dense = report.results["winners"][0], report.results["baseline"]["measured"]
    assert ours["speedup"] == dense[DECODE] / measured[DECODE]
    assert ours["perplexity_ratio"] == measured["perplexity"] / dense["perplexity"]
    assert ours["size_ratio"] == measured["weight_bytes"] / dense["weight_bytes"]
    paths = [v for v in report.results["baseline"]["paths"].values() if isinstance(v, float)]
    assert dense[DECODE] == pytest.approx(min(paths), abs=1e-5)


@pytest.mark.parametrize(
    ("metric", "falsify"),
    [
        ("perplexity", lambda value: {"low": 1.01 * value, "high": 1.01 * value}),
        ("perplexity", lambda value: {"low": 0.99 * value, "high": 0.99 * value}),
        ("decode_ms", lambda value: {"low": 1.001 * value, "high": 3.0 * value}),
        ("decode_ms", lambda value: {"low": 0.1 * value, "high": 0.999 * value}),
        ("weight_bytes", lambda value: {"low": value + 1, "high": value + 1}),
        ("weight_bytes", lambda value: {"low": value - 1, "high": value - 1}),
    ],
)
def test_each_falsified_claim_fails_alone(
    winners: Winners, shared: Path, metric: str, falsify: Callable[[float], dict[str, float]]
) -> None:
    measured = _verify(winners, shared).results["winners"][0]["measured"]
    name = DECODE if metric == "decode_ms" else metric
    changes = {"decode_ms": _around(measured[DECODE])} | {metric: falsify(measured[name])}
    [winner, *_] = _verify(_claiming(winners, **changes), shared).results["winners"]
    assert not winner["verified"]
    assert [c["name"] for c in winner["checks"] if not c["passed"]] == [name]


def test_measured_perplexity_is_that_of_the_stored_model(winners: Winners, shared: Path) -> None:
    winner = _verify(winners, shared).results["winners"][0]
    assert winners[0].folder is not None
    model = load_gpt(winners[0].folder)
    tokens = winners.supernet.validation(winners.num_tokens)
    with torch.inference_mode():
        logits = model(tokens[:, :-1]).double()
    picked = logits.log_softmax(-1).gather(-1, tokens[:, 1:, None])
    assert winner["measured"]["perplexity"] == pytest.approx(math.exp(-picked.mean()), rel=1e-5)


def test_a_finished_verification_measures_nothing_again(
    winners: Winners, shared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = _verify(winners, shared)
    lines = (shared / "verify.jsonl").read_bytes()

    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError("measured again")

    for name in ("measure_latency", "measure_peak_memory", "perplexity", "time_step"):
        monkeypatch.setattr(verify_module, name, refuse)
    again = _verify(winners, shared)
    assert (shared / "verify.jsonl").read_bytes() == lines
    assert again.results["winners"] == first.results["winners"]
    assert again.results["baseline"]["measured"] == first.results["baseline"]["measured"]


def test_damaged_measurements_are_named(winners: Winners, shared: Path, tmp_path: Path) -> None:
    _verify(winners, shared)
    lines = (shared / "verify.jsonl").read_text().splitlines(keepends=True)
    for bad in ("{}\n", json.dumps(json.loads(lines[1]) | {"value": "fast"}) + "\n"):
        (tmp_path / "verify.jsonl").write_text("".join([lines[0], bad, *lines[2:]]))
        with pytest.raises(ValueError, match="expected a measurement in line 2 of"):
            _verify(winners, tmp_path)


def test_winners_come_back_bit_equal(winners: Winners, tmp_path: Path) -> None:
    tokens = winners.supernet.validation(512)[:, :-1]
    for winner in winners:
        assert winner.folder is not None
        again = load_gpt(winner.folder)
        assert again.architecture == winner.architecture
        with torch.inference_mode():
            assert torch.equal(again(tokens), winner.model(tokens))
        assert again.weight_bytes() == winner.claims["weight_bytes"]["mean"]
        assert (winner.folder / "tokenizer.json").exists()


def test_verification_refuses_other_devices_and_no_rounds(winners: Winners) -> None:
    with pytest.raises(ValueError, match="expected device 'cpu' or 'cuda'"):
        verify(winners, "tpu")
    with pytest.raises(ValueError, match="expected rounds of 1 or more, got 0"):
        verify(winners, rounds=0)


def test_a_saved_report_is_a_page_and_its_numbers(
    winners: Winners, shared: Path, tmp_path: Path
) -> None:
    report = _verify(winners, shared)
    page = report.save(tmp_path / "page" / "mine.html")
    assert page == tmp_path / "page" / "mine.html"
    assert page.read_text(encoding="utf-8").lstrip().lower().startswith("<!doctype html>")
    assert json.loads((page.parent / "mine.results.json").read_text()) == report.results
    assert (page.parent / "mine.front.png").read_bytes().startswith(b"\x89PNG")


def test_the_runs_records_give_the_runs_claims(run: Path) -> None:
    surrogates = load_profile_of(run)
    for winner in load_results(run)["winners"]:
        architecture = Architecture.from_json(winner["architecture"])
        predicted = surrogates.predict(Workload("decode", 1, 128), [architecture])
        claim = winner["predicted"][DECODE]
        assert claim["mean"] == pytest.approx(float(predicted.mean_n[0]), rel=1e-9)
        assert claim["low"] == pytest.approx(float(predicted.low_n[0]), rel=1e-9)
        assert claim["high"] == pytest.approx(float(predicted.high_n[0]), rel=1e-9)
