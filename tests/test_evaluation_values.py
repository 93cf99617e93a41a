"""The evaluator: every value against a closed form, a direct forward pass, or the surrogate itself; and the searches built on it."""

from __future__ import annotations

import functools
import math
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from small_run import DECODE, finished_run, load_profile_of, load_supernet_of

import nas.deploy.energy as energy_module
from nas.deploy.device_profile import DeviceProfile
from nas.deploy.energy_counters import find_counter
from nas.deploy.measure import measure_peak_memory
from nas.evaluation import Evaluator, reference_point
from nas.model import extract
from nas.objectives import Evaluation, Objective
from nas.pareto import non_dominated_mask, normalized_hypervolume
from nas.search_study import search
from nas.searchers import samplers
from nas.training import TrainedSupernet
from search_spaces import Architecture, Workload, costs, decode_flops, preset

SPACE = preset("tiny")
TOKENS = 512
MEMORY = "peak_memory_bytes[batch=2,context=16]"
FLOPS = "flops[batch=1,context=40]"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return finished_run(tmp_path_factory)


@pytest.fixture(scope="module")
def supernet(run: Path) -> TrainedSupernet:
    return load_supernet_of(run)


@pytest.fixture(scope="module")
def device(run: Path) -> DeviceProfile:
    return load_profile_of(run)


def _evaluator(supernet: TrainedSupernet, device: DeviceProfile, *names: str) -> Evaluator:
    return Evaluator(supernet, device, tuple(map(Objective.parse, names)), TOKENS)


@pytest.fixture
def some() -> list[Architecture]:
    rng = np.random.default_rng(5)
    return [SPACE.largest, SPACE.smallest, *(SPACE.sample(rng) for _ in range(2))]


def test_perplexity_is_that_of_the_extracted_model(
    supernet: TrainedSupernet, device: DeviceProfile, some: list[Architecture]
) -> None:
    evaluate = _evaluator(supernet, device, "perplexity", "params")
    tokens = supernet.validation(TOKENS)
    assert tokens[:, 1:].numel() == TOKENS
    for architecture in some:
        model = extract(supernet.model, architecture)
        with torch.inference_mode():
            logits = model(tokens[:, :-1]).double()
        loss = -logits.log_softmax(-1).gather(-1, tokens[:, 1:, None]).mean()
        found = evaluate(architecture)
        assert found.values["perplexity"] == pytest.approx(math.exp(loss), rel=1e-4)
        assert found.fidelity == TOKENS
        claim = found.provenance["claims"]["perplexity"]
        assert claim["low"] == claim["mean"] == claim["high"]
        assert claim["source"] == "supernet"


def test_counted_metrics_are_the_closed_forms(
    supernet: TrainedSupernet, device: DeviceProfile, some: list[Architecture]
) -> None:
    evaluate = _evaluator(supernet, device, "weight_bytes", "params", "nonzeros", FLOPS)
    value_bytes = device.runtime.value_bytes
    for architecture in some:
        found = costs(architecture, SPACE.family, value_bytes)
        assert dict(evaluate(architecture).values) == {
            "weight_bytes": found.weight_bytes,
            "params": found.params,
            "nonzeros": found.nonzeros,
            FLOPS: decode_flops(architecture, SPACE.family, 40),
        }


def test_latency_is_the_surrogates_and_says_so(
    supernet: TrainedSupernet, device: DeviceProfile, some: list[Architecture]
) -> None:
    evaluate = _evaluator(supernet, device, DECODE, "params")
    predicted = device.predict(Workload("decode", 1, 128), some)
    for i, architecture in enumerate(some):
        found = evaluate(architecture)
        claim = found.provenance["claims"][DECODE]
        assert found.values[DECODE] == claim["mean"] == pytest.approx(predicted.mean_n[i], rel=1e-9)
        assert claim["low"] == pytest.approx(predicted.low_n[i], rel=1e-9)
        assert claim["high"] == pytest.approx(predicted.high_n[i], rel=1e-9)
        assert claim["source"] == "surrogate"


def test_peak_memory_is_measured_at_its_own_workload(
    supernet: TrainedSupernet, device: DeviceProfile
) -> None:
    evaluate = _evaluator(supernet, device, MEMORY, "params")
    for architecture in (SPACE.smallest, SPACE.largest):
        model = extract(supernet.model, architecture, dtype=device.runtime.torch_dtype)
        expected = measure_peak_memory(model, Workload("decode", 2, 16), device.runtime)
        found = evaluate(architecture)
        assert found.values[MEMORY] == expected
        assert found.provenance["claims"][MEMORY]["source"] == "measured"


def test_an_evaluation_is_deterministic_and_survives_json_and_pickle(
    supernet: TrainedSupernet, device: DeviceProfile, some: list[Architecture]
) -> None:
    evaluate = _evaluator(supernet, device, "perplexity", DECODE, "weight_bytes")
    elsewhere = pickle.loads(pickle.dumps(evaluate))  # as a worker process receives it
    for architecture in some:
        found = evaluate(architecture)
        assert Evaluation.from_json(found.to_json()) == found
        assert elsewhere(architecture) == evaluate(architecture) == found


def test_what_cannot_be_scored_is_refused_when_the_evaluator_is_made(
    supernet: TrainedSupernet,
    device: DeviceProfile,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    absent = functools.partial(find_counter, powercap=tmp_path / "absent")
    monkeypatch.setattr(energy_module, "find_counter", absent)
    with pytest.raises(ValueError, match=r"got energy_j: .*; use decode_ms"):
        _evaluator(supernet, device, "perplexity", "energy_j")
    monkeypatch.setattr(energy_module, "find_counter", lambda device: None)
    with pytest.raises(ValueError, match=r"for energy_j; profile it first.*energy_j\[batch=1"):
        _evaluator(supernet, device, "perplexity", "energy_j")
    with pytest.raises(ValueError, match=r"profiled workloads .*got prefill.*profile it first"):
        _evaluator(supernet, device, "perplexity", "prefill_ms[batch=1,context=64]")


def test_known_objectives_agree_with_the_evaluator(
    supernet: TrainedSupernet, device: DeviceProfile, some: list[Architecture]
) -> None:
    names = ("perplexity", DECODE, "weight_bytes", FLOPS)
    evaluate = _evaluator(supernet, device, *names)
    known = evaluate.known(SPACE)
    assert set(known) == {1, 2, 3}  # perplexity has to be learned
    params = [SPACE.to_params(a) for a in some]
    for index, function in known.items():
        mean_n, std_n = function(params)
        values = [evaluate(a).values[names[index]] for a in some]
        assert mean_n == pytest.approx(np.array(values), rel=1e-9)
        assert mean_n.dtype == std_n.dtype == np.float64
        if index == 1:
            assert np.all(std_n > 0)
        else:
            assert not std_n.any()
        assert [len(a) for a in function([])] == [0, 0]


def test_the_reference_point_stands_on_the_dense_model(
    supernet: TrainedSupernet, device: DeviceProfile
) -> None:
    evaluate = _evaluator(supernet, device, "perplexity", DECODE, "weight_bytes")
    dense = evaluate(SPACE.largest).values
    ref_point, ideal = reference_point(evaluate)
    assert ref_point == {
        "perplexity": 1.5 * dense["perplexity"],
        DECODE: 1.001 * dense[DECODE],
        "weight_bytes": 1.001 * dense["weight_bytes"],
    }
    assert ideal == {"perplexity": 0.9 * dense["perplexity"], DECODE: 0.0, "weight_bytes": 0.0}


@pytest.mark.parametrize("sampler", samplers())
def test_every_sampler_searches(
    sampler: str, supernet: TrainedSupernet, device: DeviceProfile
) -> None:
    names = ["perplexity", DECODE, "weight_bytes"]
    study = search(
        SPACE,
        names,
        supernet=supernet,
        device=device,
        n_trials=3,
        sampler=sampler,
        seed=2,
        num_tokens=256,
        progress=False,
    )
    assert len(study.evaluations) == len(study.hypervolume_trace) == 3
    assert all(SPACE.contains(e.architecture) for e in study.evaluations)
    Y = np.array([[e.value(n) for n in names] for e in study.evaluations])
    front = {e.architecture for e in study.front.evaluations}
    mask = non_dominated_mask(Y)
    assert front == {e.architecture for e, m in zip(study.evaluations, mask, strict=True) if m}
    volume = normalized_hypervolume(Y, study.ideal, study.ref_point)
    assert study.hypervolume_trace[-1] == pytest.approx(float(volume), rel=1e-9)


@pytest.mark.parametrize(
    ("objectives", "options", "message"),
    [
        (["perplexity"], {}, "expected two to four different objectives"),
        (["perplexity", "perplexity"], {}, "expected two to four different objectives"),
        (["perplexity", "speed"], {}, "expected a metric in"),
        (["perplexity", "params"], {"n_trials": 0}, "expected n_trials of 1 or more"),
        (["perplexity", "params"], {"sampler": "cmaes"}, "expected a sampler in"),
        (["perplexity", "params"], {"workers": 2}, "expected a storage for several workers"),
    ],
)
def test_search_refuses_wrong_values(
    supernet: TrainedSupernet,
    device: DeviceProfile,
    objectives: list[str],
    options: dict[str, object],
    message: str,
) -> None:
    fields = {"n_trials": 1, "progress": False, "num_tokens": 256} | options
    with pytest.raises(ValueError, match=message):
        search(SPACE, objectives, supernet=supernet, device=device, **fields)  # type: ignore[arg-type]


def test_a_study_is_of_its_records_and_not_of_the_threads(
    supernet: TrainedSupernet, device: DeviceProfile, tmp_path: Path
) -> None:
    """Another number of threads rounds otherwise, and goes on with the study; other records do not."""

    def go_on(profile: DeviceProfile, n_trials: int) -> int:
        study = search(
            SPACE,
            ["perplexity", DECODE],
            supernet=supernet,
            device=profile,
            n_trials=n_trials,
            sampler="random",
            num_tokens=256,
            storage=tmp_path / "search.journal",
            progress=False,
        )
        return len(study.evaluations)

    assert go_on(device, 1) == 1
    before = torch.get_num_threads()
    torch.set_num_threads(before + 1)
    try:
        assert go_on(device, 2) == 2
    finally:
        torch.set_num_threads(before)
    records = [r | {"median_ms": 1.001 * r["median_ms"]} for r in device.records]
    with pytest.raises(ValueError, match=r"differs in profile.*use another name or output folder"):
        go_on(replace(device, records=records), 3)
