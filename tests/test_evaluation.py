"""The evaluator: every value against a closed form, a direct forward pass, or the surrogate itself; and the searches built on it."""

from __future__ import annotations

import functools
import math
import pickle
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from made_up import made_up_profile, made_up_supernet
from small_run import DECODE, finished_run, load_profile_of, load_supernet_of
from small_spaces import small_space

import nas.deploy.energy as energy_module
from nas.deploy.device_profile import DeviceProfile, fit_profile
from nas.deploy.energy_counters import find_counter
from nas.deploy.measure import measure_peak_memory
from nas.deploy.profile import profile
from nas.evaluation import Evaluator, claim_again, reference_point
from nas.model import extract
from nas.objectives import Evaluation, Objective
from nas.pareto import ParetoFront, non_dominated_mask, normalized_hypervolume
from nas.search_study import search
from nas.searchers import samplers
from nas.study import StudyResult
from nas.training import TrainedSupernet
from search_spaces import DENSE, Architecture, Sparsity, Workload, costs, decode_flops, preset

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


# --- what fits together: models of 24 tokens of context with made-up text and times -----------------------

SMALL_DECODE = "decode_ms[batch=1,context=16]"
GOALS = ("perplexity", SMALL_DECODE, "weight_bytes")


@pytest.fixture(scope="module")
def small() -> TrainedSupernet:
    return made_up_supernet(small_space())


@pytest.fixture(scope="module")
def times(small: TrainedSupernet) -> DeviceProfile:
    return made_up_profile(small.space, Workload("decode", 1, 16))


def _search(small: TrainedSupernet, times: DeviceProfile, **changed: Any) -> StudyResult:
    fields = {"space": small.space, "objectives": GOALS, "sampler": "random", "num_tokens": 96}
    fields |= {"supernet": small, "device": times, "n_trials": 1, "progress": False} | changed
    return search(fields.pop("space"), fields.pop("objectives"), **fields)


@pytest.mark.parametrize(("asked", "used"), [(1, 24), (96, 96), (119, 96), (480, 480), (8192, 480)])
def test_fidelity_is_the_number_of_tokens_that_were_used(
    small: TrainedSupernet, times: DeviceProfile, asked: int, used: int
) -> None:
    """500 held-out tokens hold 20 windows of 24 that predict one another's first."""
    evaluate = Evaluator(small, times, (Objective.parse("perplexity"),), asked)
    assert evaluate.fidelity == used == small.validation(asked)[:, 1:].numel()
    assert evaluate(small.space.smallest).fidelity == used


def test_a_text_with_fewer_tokens_than_asked_for_is_noted(
    small: TrainedSupernet, times: DeviceProfile
) -> None:
    with pytest.warns(UserWarning, match="expected 8192 held-out tokens, got 480: made up has no"):
        study = _search(small, times, num_tokens=8192)
    assert study.evaluations[0].fidelity == 480
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert _search(small, times, num_tokens=500).evaluations[0].fidelity == 480


@pytest.mark.parametrize("number", [0, -5])
def test_no_tokens_are_refused(small: TrainedSupernet, times: DeviceProfile, number: int) -> None:
    with pytest.raises(ValueError, match=f"expected num_tokens of 1 or more, got {number}"):
        _search(small, times, num_tokens=number)


def test_a_profile_of_another_family_is_refused(
    small: TrainedSupernet, times: DeviceProfile
) -> None:
    longer = replace(small.space.family, context_length=64)
    other = made_up_profile(replace(small.space, family=longer), Workload("decode", 1, 16))
    with pytest.raises(
        ValueError, match=r"profile of models .* context_length 24 \(got 64\); profile"
    ):
        _search(small, other)
    without = _search(small, other, objectives=("perplexity", "weight_bytes"))
    assert len(without.evaluations) == 1  # nothing of the profile's models is used
    assert len(_search(small, times).evaluations) == 1


def test_memory_is_not_measured_here_for_another_device(
    small: TrainedSupernet, times: DeviceProfile
) -> None:
    goals = ("perplexity", "peak_memory_bytes[batch=1,context=16]")
    assert len(_search(small, times, objectives=goals).evaluations) == 1
    foreign = replace(times, records=[r | {"device": "a phone"} for r in times.records])
    with pytest.raises(ValueError, match=r"profile of this device .*got one of a phone: peak_mem"):
        _search(small, foreign, objectives=goals)


@pytest.mark.parametrize("sampler", ["random", "qlognehvi"])
def test_a_part_of_the_supernets_space_is_searched(
    small: TrainedSupernet, times: DeviceProfile, sampler: str
) -> None:
    """The default sampler asks for what is known of the part's own parameters."""
    part = replace(
        small.space,
        name="part",
        embed_dims=(64,),
        depths=(2,),
        attention=(True,),
        biases=(False,),
        ffn_sparsities=small.space.ffn_sparsities[:2],
    )
    assert set(part.to_optuna()) < set(small.space.to_optuna())
    study = _search(small, times, space=part, sampler=sampler, n_trials=14)
    assert len(study.evaluations) == 14
    assert all(part.contains(e.architecture) for e in study.evaluations)
    known = Evaluator(small, times, tuple(map(Objective.parse, GOALS)), 96).known(part)
    some = [e.architecture for e in study.evaluations]
    mean_n, _ = known[2]([part.to_params(a) for a in some])
    assert mean_n.tolist() == [costs(a, part.family).weight_bytes for a in some]


def test_a_space_that_is_no_part_of_the_supernets_is_refused(
    small: TrainedSupernet, times: DeviceProfile
) -> None:
    dense = {"attention_sparsities": (DENSE,), "ffn_sparsities": (DENSE,)}
    wider = replace(small.space, embed_dims=(48, 64), **dense)  # its largest fits
    assert small.space.contains(wider.largest)
    with pytest.raises(
        ValueError, match=r"expected embed_dims of the supernet \(32, 64\), got 48;"
    ):
        _search(small, times, space=wider)
    sparser = replace(small.space, ffn_sparsities=(Sparsity.parse("unstructured:0.95"),))
    with pytest.raises(ValueError, match=r"expected ffn_sparsities .*got unstructured:0.95; leave"):
        _search(small, times, space=sparser)
    family = replace(small.space.family, vocab_size=65)
    with pytest.raises(
        ValueError, match=r"supernet's family, got another: vocab_size 64 \(got 65\)"
    ):
        _search(small, times, space=replace(small.space, family=family))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"device": "cpu"}, r"device to be a DeviceProfile, got 'cpu'; pass what nas.profile"),
        (
            {"supernet": "tiny"},
            r"supernet to be a TrainedSupernet, got 'tiny'; pass what nas.train",
        ),
        ({"space": "tiny"}, r"space to be a SearchSpace, got 'tiny'; pass search_spaces.preset"),
        (
            {"objectives": "perplexity"},
            r"list of two to four objectives, got 'perplexity'; pass \[",
        ),
        ({"objectives": None}, r"list of two to four objectives, got None"),
        ({"objectives": ["perplexity", 3]}, r"expected an objective such as .*got 3"),
    ],
)
def test_arguments_of_another_kind_are_refused(
    small: TrainedSupernet, times: DeviceProfile, changed: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        _search(small, times, **changed)


def test_claims_are_made_again_from_later_records_and_nothing_else_changes(
    small: TrainedSupernet, times: DeviceProfile
) -> None:
    name = "decode_ms[batch=1,context=16]"
    goals = (Objective.parse("perplexity"), Objective.parse(name))
    evaluator = Evaluator(small, times, goals, 64)
    rng = np.random.default_rng(1)
    found = [evaluator(small.space.sample(rng)) for _ in range(12)]
    front = ParetoFront(found, goals, (1e9, 1e9))
    slower = [r | {"round": 2, "median_ms": 1.2 * r["median_ms"]} for r in times.records]
    workload = Workload("decode", 1, 16)
    later = fit_profile(small.space, [*times.records, *slower], times.runtime, [workload])
    again = claim_again(front, later)
    assert [e.architecture for e in again.evaluations] == [
        e.architecture for e in front.evaluations
    ]
    for before, after in zip(front.evaluations, again.evaluations, strict=True):
        assert dict(after.values) == dict(before.values)
        old, new = before.provenance["claims"], after.provenance["claims"]
        assert new["perplexity"] == old["perplexity"]
        # A third round that was a fifth slower has to fit into the interval.
        assert new[name]["high"] > 1.15 * old[name]["mean"]
        prediction = later.predict(workload, [after.architecture])
        assert new[name]["mean"] == prediction.to_json(0)["mean"]


def test_a_later_round_leaves_the_profile_of_the_first_ones_as_it_was(
    small: TrainedSupernet, tmp_path: Path
) -> None:
    """A search that is resumed after the later round must see what it saw before."""

    def measured(rounds: int) -> DeviceProfile:
        return profile(
            small,
            workloads=[Workload("decode", 1, 16)],
            num_architectures=16,
            rounds=rounds,
            threads=1,
            out=tmp_path,
            progress=False,
        )

    first, later = measured(2), measured(3)
    assert (
        len(later.records) == 3 * 16 == len((tmp_path / "profile.jsonl").read_text().splitlines())
    )
    assert later.fingerprint != first.fingerprint
    assert measured(2).fingerprint == first.fingerprint
