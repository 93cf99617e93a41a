"""One at a time: no architecture is evaluated by two processes at once, and no more trials run than were asked for."""

from __future__ import annotations

import contextlib
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from small_study import FEW, Formula, study

from nas.claims import ClaimLostError, NoClaim
from nas.heartbeat import working
from nas.searchers.indexed import index_of
from nas.study_loop import Places, work
from nas.study_plan import StudyPlan, open_study
from tests.scale_out_cases import plan
from tests.threads import at_once


def test_an_architecture_is_not_evaluated_by_two_at_once(tmp_path: Path) -> None:
    """Twelve architectures, forty trials, four at a time: proposals repeat all the while."""
    calls: list[tuple[str, float, float]] = []

    def evaluate(architecture: Any) -> Any:
        began = time.monotonic()
        time.sleep(0.03)
        calls.append((architecture.key, began, time.monotonic()))
        return Formula()(architecture)

    at_once(lambda: study("tpe", 40, space=FEW, evaluate=evaluate, storage=tmp_path / "j"), 4)
    keys = [key for key, _, _ in calls]
    assert len(keys) == len({*keys})  # not at once, and not one after another


def test_a_repeated_proposal_waits_for_the_first(tmp_path: Path) -> None:
    mine = plan(tmp_path / "j", 3)
    with working() as first, working() as second:
        one = Places(open_study(mine, first), mine, first)
        two = Places(open_study(mine, second), mine, second)
        trial, twin = one.take(), two.take()
        assert trial is not None
        assert twin is not None
        key = FEW.from_params(trial.params).key
        two._rivals = {trial.number}
        found: list[Any] = []
        thread = threading.Thread(target=lambda: found.append(two.known(key)))
        thread.start()
        time.sleep(0.2)
        assert not found
        stored = Formula()(FEW.from_params(trial.params)).to_json()
        trial.set_user_attr("evaluation", stored)
        one.study.tell(trial, [1.0, 1.0])
        thread.join(30.0)
        assert found == [stored]
        third = two.take()
        assert third is not None
        two._rivals = {twin.number}
        two.give_back(twin)
        assert two.known("of nobody") is None  # the first failed: ours to evaluate


def test_a_lost_claim_gives_the_trial_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Lost(NoClaim):
        times = 2

        def __exit__(self, *error: object) -> None:
            if Lost.times:
                Lost.times -= 1
                raise ClaimLostError

    monkeypatch.setattr(StudyPlan, "claim", lambda *_: Lost())
    mine = plan(None, 3)
    with working() as owner:
        opened = open_study(mine, owner)
        for _ in work(opened, mine, owner):
            pass
    assert [t.state.name for t in opened.trials] == ["FAIL"] * 2 + ["COMPLETE"] * 3
    assert [index_of(t) for t in opened.trials] == [0, 0, 0, 1, 2]
    assert opened.trials[0].params == opened.trials[1].params == opened.trials[2].params


def test_no_more_trials_than_asked_for_run_at_once(tmp_path: Path) -> None:
    mine = plan(tmp_path / "j", 3)
    with contextlib.ExitStack() as stack:
        places = []
        for _ in range(4):
            owner = stack.enter_context(working(60.0))
            places.append(Places(open_study(mine, owner), mine, owner))
        taken = [p.take() for p in places[:3]]
        last: list[Any] = []
        thread = threading.Thread(target=lambda: last.append(places[3].take()))
        thread.start()
        time.sleep(0.3)
        assert not last  # it waits
        assert taken[0] is not None
        places[0].give_back(taken[0])
        thread.join(30.0)
        assert last[0].params == taken[0].params
        for place, trial in zip(places[1:], [taken[1], taken[2], last[0]], strict=True):
            place.study.tell(trial, [1.0, 1.0])
        assert places[0].take() is None
