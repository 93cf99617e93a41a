"""What fits together: a supernet, a profile, a space and a text, on models of 24 tokens of context with made-up text and times."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_up import made_up_profile, made_up_supernet
from small_spaces import small_space

from nas.deploy.device_profile import DeviceProfile, fit_profile
from nas.deploy.profile import profile
from nas.evaluation import Evaluator, claim_again
from nas.objectives import Objective
from nas.pareto import ParetoFront
from nas.search_study import search
from nas.study import StudyResult
from nas.training import TrainedSupernet
from search_spaces import DENSE, Sparsity, Workload, costs

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
