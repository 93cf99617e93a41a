"""Decisions of a search whose fidelity grows, on cases made by hand; and the records that let it go on."""

from __future__ import annotations

import math
import pickle
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from growing_cases import (
    OPTIONS_GROWING,
    REF,
    WIDTH,
    WINDOWS,
    FormulaJudge,
    growing_search,
    true_perplexity,
    window_nats,
)
from small_study import SPACE

from nas.fidelity import (
    Growing,
    GrowingSearch,
    LossRecord,
    Step,
    full_mask,
    spread_order,
    telling_parts,
    tokens_paid,
)
from nas.fidelity.growing import LOW_FIDELITY
from nas.objectives import Evaluation, Objective

LOW, FULL = 20, 160  # two parts of sixteen
LOW_PARTS, ALL = (0, 8), tuple(range(WINDOWS))
_rng = np.random.default_rng(0)
ARCHITECTURES = list(dict.fromkeys(SPACE.sample(_rng) for _ in range(60)))
OPTIONS = OPTIONS_GROWING


def seen(number: int, perplexity: float, size: float, is_full: bool = False) -> Evaluation:
    """An evaluation with the same perplexity on every part that was read, and a size of our choice."""
    parts = ALL if is_full else LOW_PARTS
    nats = WIDTH * math.log(perplexity)
    record = LossRecord().extended(dict.fromkeys(parts, (WIDTH, nats)))
    claim = {"mean": perplexity, "low": 0.0, "high": 1e9, "source": LOW_FIDELITY}
    return Evaluation(
        ARCHITECTURES[number],
        {"perplexity": perplexity, "weight_bytes": size},
        fidelity=FULL if is_full else LOW,
        provenance={"claims": {"perplexity": claim}} | record.to_provenance(),
    )


def search(**changed: Any) -> GrowingSearch:
    return growing_search(**{"options": OPTIONS} | changed)


def proposes(step: Step) -> bool:
    """Whether it asks for a new architecture on the lowest fidelity."""
    return step.architecture is None and len(step.parts) == len(LOW_PARTS)


# Three full ones whose low perplexity tells the full one exactly, and a front of one: 20 at 40 000 bytes.
START = [
    seen(0, 20.0, 4e4, is_full=True),
    seen(1, 25.0, 5e4, is_full=True),
    seen(2, 28.0, 6e4, is_full=True),
]
# Proposed since; the first is dominated, the second adds little, the third much, the fourth is beyond the reference point.
POOL = [
    seen(3, 27.0, 4.5e4),
    seen(4, 19.5, 4.1e4),
    seen(5, 15.0, 3e4),
    seen(6, 40.0, 1e4),
]
# Beyond the reference point in bytes: nothing but tokens for promotions.
IDLE = [seen(10 + i, 22.0, 8e4) for i in range(12)]


def test_the_first_trials_are_full() -> None:
    for count in range(3):
        assert search().next_step(START[:count], (), 40) == Step(None, ALL)
    assert search().next_step(START[:1], [ARCHITECTURES[9]], 40) == Step(None, ALL)
    assert proposes(search().next_step(START[:2], [ARCHITECTURES[9]], 40))
    assert proposes(search().next_step(START, (), 40))


def test_proposals_read_the_parts_that_tell_most() -> None:
    past = [search().evaluate(a, ALL, None, ()) for a in ARCHITECTURES[:6]]
    losses = np.array([LossRecord.of(e).nats for e in past]) / WIDTH
    chosen = telling_parts(losses, np.full(WINDOWS, float(WIDTH)), 2)
    assert search().next_step(past, (), 40) == Step(None, tuple(sorted(chosen)))
    assert chosen != list(LOW_PARTS)
    assert search().next_step(START, (), 40) == Step(None, LOW_PARTS)  # all alike: spread


def test_promotions_wait_until_proposals_have_cost_as_much() -> None:
    past = START + POOL[2:3]
    needed = (FULL - LOW) // LOW  # proposals that cost as many tokens as a promotion
    for idle in range(needed + 2):
        step = search().next_step(past + IDLE[:idle], (), 40)
        is_promotion = 1 + idle >= needed
        assert step.architecture == (ARCHITECTURES[5] if is_promotion else None)
        assert step.parts == ALL if is_promotion else proposes(step)
    promoted = seen(5, 15.0, 3e4, is_full=True)
    after = past + IDLE[:needed] + [promoted] + POOL[:2]
    assert search().next_step(after, (), 40).architecture is None  # and once more from there


def test_the_best_gain_is_promoted_first_and_what_adds_nothing_never() -> None:
    past, order = START + POOL + IDLE, []
    for _ in range(6):
        step = search(options=replace(OPTIONS, min_gain=1e-6)).next_step(past, (), 1)
        if step.architecture is None:
            break
        order.append(ARCHITECTURES.index(step.architecture))
        low = next(e for e in past if e.architecture == step.architecture)
        values = [low.value("perplexity"), low.value("weight_bytes")]
        past = [*past, seen(order[-1], *values, is_full=True)]
    assert order == [5]  # it dominates the others
    without = START + POOL[:2] + POOL[3:] + IDLE
    least = search(options=replace(OPTIONS, min_gain=1e-6))
    assert least.next_step(without, (), 1).architecture == ARCHITECTURES[4]


def test_the_last_trials_promote_when_no_more_are_left_than_are_worth_it() -> None:
    past = START + POOL[1:3]
    assert search().next_step(past, (), 1).architecture == ARCHITECTURES[5]
    # the other adds a little to the front, but nothing beside the better one: one promotion is worth it, and two trials are left
    assert search().next_step(past, (), 2).architecture is None
    # two that each add something: the last two trials promote
    rich = [*START, seen(5, 15.0, 3.9e4), seen(7, 19.0, 2e4)]
    assert search().next_step(rich, (), 3).architecture is None
    assert search().next_step(rich, (), 2).architecture == ARCHITECTURES[7]
    assert search().next_step(rich, [ARCHITECTURES[7]], 1).architecture == ARCHITECTURES[5]


def test_what_others_promote_is_not_promoted_twice() -> None:
    past = START + POOL[2:3]
    assert proposes(search().next_step(past, [ARCHITECTURES[5]], 1))


def test_a_gain_below_the_least_is_not_worth_a_promotion() -> None:
    past = START + POOL[1:2]
    certain = replace(OPTIONS, min_gain=0.0)
    assert search(options=certain).next_step(past, (), 1).architecture == ARCHITECTURES[4]
    choosy = replace(certain, min_gain=1.0)
    assert search(options=choosy).next_step(past, (), 1).architecture is None


def test_what_breaks_a_constraint_is_not_promoted() -> None:
    past = START + POOL[2:3]
    assert search(constraints={"weight_bytes": 2.9e4}).next_step(past, (), 1).architecture is None
    assert search(constraints={"weight_bytes": 3e4}).next_step(past, (), 1).architecture
    # of the perplexity only the part within the bound counts
    within = [*past, seen(8, 5.0, 6.9e4, is_full=True)]
    assert search(constraints={"perplexity": 6.0}).next_step(within, (), 1).architecture is None
    # where nothing is within it, the best there is shall be known all the same
    assert search(constraints={"perplexity": 6.0}).next_step(past, (), 1).architecture
    assert search(constraints={"perplexity": 16.0}).next_step(past, (), 1).architecture


def test_an_exhausted_space_leaves_promotions_alone() -> None:
    assert search().next_step(START + POOL, (), 0).architecture == ARCHITECTURES[5]
    assert search().next_step(START + IDLE, (), 0).architecture is None


def test_decisions_depend_on_the_past_alone() -> None:
    past = START + POOL + IDLE[:4]
    once = search()
    first = once.next_step(past, (), 5)
    once.next_step(START, (), 9)
    assert once.next_step(past, (), 5) == first == search().next_step(past, (), 5)
    again = [Evaluation.from_json(e.to_json()) for e in past]
    assert pickle.loads(pickle.dumps(search())).next_step(again, (), 5) == first


def test_three_fidelities_grow_one_at_a_time() -> None:
    options = Growing(shares=(1 / 8, 1 / 2, 1.0), num_full=2, min_gain=0.0)
    grown = search(options=options)
    past = [grown.evaluate(a, ALL, None, ()) for a in ARCHITECTURES[:2]]
    low = grown.next_step(past, (), 9)
    assert low.architecture is None
    assert len(low.parts) == 2
    past.append(grown.evaluate(SPACE.smallest, low.parts, None, past))
    middle = grown.next_step(past, (), 1)
    assert middle.architecture == SPACE.smallest
    assert len(middle.parts) == 8
    assert {*low.parts} < {*middle.parts}  # what was read is part of it
    past.append(grown.evaluate(SPACE.smallest, middle.parts, past[-1], past))
    assert past[-1].fidelity == 80
    assert grown.next_step(past, (), 1) == Step(SPACE.smallest, ALL)


def test_the_last_trials_are_enough_for_all_steps_of_a_promotion() -> None:
    """One architecture that is worth it, two fidelities to go: both of the last two trials are its own."""
    options = Growing(shares=(1 / 8, 1 / 2, 1.0), num_full=3, min_gain=0.01, early=0.0)
    past = START + POOL[2:3]
    assert search(options=options).next_step(past, (), 3).architecture is None
    assert search(options=options).next_step(past, (), 2).architecture == ARCHITECTURES[5]


def test_of_two_gains_the_cheaper_is_promoted() -> None:
    """As much gain for fewer tokens: what was read on half of the parts goes first, if it gains a little less."""
    options = Growing(shares=(1 / 8, 1 / 2, 1.0), num_full=3, min_gain=0.0)
    more, less = seen(5, 15.0, 3.0e4), seen(7, 15.0, 3.2e4)
    record = LossRecord().extended(dict.fromkeys(range(8), (WIDTH, WIDTH * math.log(15.0))))
    half = replace(less, fidelity=80, provenance=dict(less.provenance) | record.to_provenance())
    grown = search(options=options)
    assert grown.next_step([*START, more, less], (), 1).architecture == ARCHITECTURES[5]
    assert grown.next_step([*START, more, half], (), 1).architecture == ARCHITECTURES[7]


# --- measuring and telling ---------------------------------------------------------------------------


def test_a_low_evaluation_keeps_what_was_measured_and_tells_what_is_predicted() -> None:
    grown = search()
    past = [grown.evaluate(a, ALL, None, ()) for a in ARCHITECTURES[:8]]
    errors = []
    for architecture in ARCHITECTURES[8:40]:
        low = grown.evaluate(architecture, LOW_PARTS, None, past)
        assert low.fidelity == LOW
        measured = sum(window_nats(architecture, part) for part in LOW_PARTS) / LOW
        assert low.value("perplexity") == pytest.approx(math.exp(measured), rel=1e-12)
        claim = low.provenance["claims"]["perplexity"]
        assert claim["source"] == LOW_FIDELITY
        assert claim["low"] < claim["mean"] < claim["high"]
        (told,) = grown.told([*past, low])[len(past) :]
        assert told == dict(low.values) | {"perplexity": pytest.approx(claim["mean"], rel=1e-12)}
        true = true_perplexity(architecture)
        errors.append([claim["mean"] / true - 1.0, low.value("perplexity") / true - 1.0])
        full = grown.evaluate(architecture, ALL, low, past)
        assert full.value("perplexity") == pytest.approx(true, rel=1e-12)
        assert full == grown.evaluate(architecture, ALL, None, past)  # to the last digit
        assert grown.told([*past, low, full])[len(past) :] == [dict(full.values)] * 2
        assert full.provenance["claims"]["perplexity"]["source"] == "formula"
    predicted, measured = np.abs(errors).mean(axis=0)
    assert predicted < 0.8 * measured


def test_what_is_known_well_enough_is_not_measured_again() -> None:
    class Refuses(FormulaJudge):
        def measure(self, *arguments: object) -> Evaluation:
            raise AssertionError

    grown = growing_search(Refuses())
    for known in (START[0], POOL[0]):
        assert grown.evaluate(known.architecture, (3, 4), known, START) is known
    assert grown.evaluate(START[0].architecture, ALL, START[0], START) is START[0]


def test_tokens_are_paid_once() -> None:
    promoted = seen(5, 15.0, 3e4, is_full=True)
    past = [START[0], POOL[2], POOL[2], promoted, POOL[2], START[0]]
    assert tokens_paid(past) == (FULL, LOW, 0, FULL - LOW, 0, 0)
    assert tokens_paid([replace(START[0], fidelity=None)]) == (0,)
    assert full_mask(past, FULL).tolist() == [True, False, False, True, False, True]
    assert full_mask(past, None).all()


def test_a_record_grows() -> None:
    record = LossRecord().extended({3: (10, 25.0)}).extended({1: (30, 75.0)})
    assert (record.parts, record.tokens, record.nats) == ((1, 3), (30, 10), (75.0, 25.0))
    assert record.num_tokens == 40
    assert record.perplexity == math.exp(2.5)
    assert record.mean([3]) == 2.5
    assert record.lacks([0, 1, 2, 3]) == [0, 2]
    assert LossRecord.of(None) == LossRecord() == LossRecord.of(Evaluation(SPACE.largest, {"params": 1}))  # fmt: skip
    assert LossRecord.of(START[0]).parts == ALL
    with pytest.raises(ValueError, match="finite sums.*NaN or infinity"):
        record.extended({5: (1, math.inf)})
    with pytest.raises(ValueError, match="ascending parts"):
        LossRecord((3, 3), (1, 1), (1.0, 2.0))
    with pytest.raises(ValueError, match="ascending parts"):
        LossRecord((3,), (1, 1), (1.0, 2.0))


@pytest.mark.parametrize("count", [1, 2, 3, 8, 13, 32])
def test_every_beginning_of_the_order_is_spread_over_the_text(count: int) -> None:
    order = spread_order(count)
    assert sorted(order) == list(range(count))
    for size in range(2, count + 1):
        gaps = np.diff(np.sort(np.array([*order[:size], order[0] + 2 ** (count - 1).bit_length()])))
        assert gaps.max() <= 2 * 2 ** (count - 1).bit_length() / 2 ** (size.bit_length() - 1)
    if count == 8:
        assert order == [0, 4, 2, 6, 1, 5, 3, 7]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"shares": ()}, "ascending shares"),
        ({"shares": (0.5,)}, "ascending shares"),
        ({"shares": (0.5, 0.25, 1.0)}, "ascending shares"),
        ({"shares": (0.0, 1.0)}, "ascending shares"),
        ({"num_full": 1}, "num_full of 2 or more, got 1"),
        ({"min_gain": -0.1}, "min_gain of 0 or more"),
        ({"min_gain": math.nan}, "min_gain of 0 or more"),
        ({"early": -1.0}, "early of 0 or more, got -1.0"),
    ],
)
def test_options_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Growing(**fields)


def test_shares_become_parts() -> None:
    assert Growing().parts(32) == (2, 6, 32)
    assert Growing(shares=(1 / 16, 1 / 4, 1.0)).parts(3) == (1, 3)
    assert Growing().parts(1) == (1,)
    assert Growing(**Growing().to_json()) == Growing()


def test_a_search_without_perplexity_or_reference_is_refused() -> None:
    with pytest.raises(ValueError, match="expected perplexity among the objectives"):
        replace(search(), objectives=(Objective.parse("params"),))
    with pytest.raises(
        ValueError, match="reference value of every objective, got none of .'weight"
    ):
        search(ref_point={"perplexity": REF["perplexity"]})
