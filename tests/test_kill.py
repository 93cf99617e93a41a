"""A run killed with SIGKILL in every stage loses nothing and ends where an uninterrupted run ends."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from experiments.kill.moments import Moment, draw_moments, finished_trials, lines
from experiments.kill.victim import Victim, differences, uninterrupted, write_text
from nas.deploy.profile import ROUNDS

TOTALS = {"train": 2, "profile": 16 * ROUNDS, "search": 14, "verify": 2 * 5}


def test_moments_are_spread_over_the_stages_in_order() -> None:
    moments = draw_moments(22, TOTALS, seed=1)
    assert len(moments) == 22
    assert {m.stage for m in moments} == set(TOTALS)
    order = [list(TOTALS).index(m.stage) for m in moments]
    assert order == sorted(order)
    for stage, total in TOTALS.items():
        done = [m.done for m in moments if m.stage == stage]
        assert done == sorted(done)
        assert len(done) in (5, 6)
        assert 0 <= done[0] <= done[-1] < total
    assert moments == draw_moments(22, TOTALS, seed=1)
    assert moments != draw_moments(22, TOTALS, seed=2)


def test_the_comparison_sees_what_was_lost(tmp_path: Path) -> None:
    """The judge is judged: a line that is gone or another, and a step that is lost, are seen."""
    victim = Victim(tmp_path / "run", [])
    victim.folder.mkdir()
    log, checkpoint = victim.folder / "profile.jsonl", victim.folder / "training-0.json"
    log.write_text('{"a": 1}\n{"a": 2}\n{"a"')
    checkpoint.write_text(json.dumps({"info": {"step": 50}}))
    victim._compare()
    log.write_text('{"a": 1}\n{"a": 2}\n{"a": 3}\n')
    victim._compare()
    assert victim.losses == []
    log.write_text('{"a": 1}\n{"a": 3}\n')
    checkpoint.write_text(json.dumps({"info": {"step": 25}}))
    victim._compare()
    assert len(victim.losses) == 2


@pytest.mark.slow
def test_a_killed_run_loses_nothing_and_ends_like_any_other(tmp_path: Path) -> None:
    text = write_text(tmp_path / "text.txt", 60_000)
    options = ["--corpus", str(text), "--train-steps", "2", "--trials", "14", "--no-compile"]
    options += ["--profile-architectures", "16", "--perplexity-tokens", "512"]
    options += ["--random-seeds", "1", "--max-winners", "2"]
    quick = (sys.executable, "-m", "tests.quick_timing")  # times are not compared
    victim = Victim(tmp_path / "killed", options, quick)
    moments = draw_moments(4, TOTALS, seed=0)
    for moment in moments:
        victim.kill_at(moment)
    assert victim.killed == moments
    results = victim.finish()
    assert victim.losses == []
    assert victim.repeated() == []
    assert len(lines(victim.folder / "profile.jsonl")) == 16 * (ROUNDS + 1)
    assert len(finished_trials(victim.folder / "search.journal")) == 14
    assert [t["number"] for t in results["trials"]] == list(range(14))
    expected = uninterrupted(victim, tmp_path / "uninterrupted")
    assert differences(results, expected) == []


def test_differences_are_seen() -> None:
    results = {
        "ref_point": {},
        "trials": [1],
        "hypervolume_trace": [0.5],
        "random_search": {},
        "provenance": {"supernet": {"sha256": "a"}},
        "winners": [{"architecture": {}, "predicted": {"perplexity": 1.0}, "measured": 2.0}],
    }
    assert differences(results, results) == []
    slower = [{"architecture": {}, "predicted": {"perplexity": 1.0}, "measured": 3.0}]
    assert differences(results, results | {"winners": slower}) == []
    claimed = [{"architecture": {}, "predicted": {"perplexity": 1.1}, "measured": 2.0}]
    other = {"trials": [2], "winners": claimed, "provenance": {"supernet": {"sha256": "b"}}}
    assert differences(results, results | other) == ["trials", "supernet", "winners"]


@pytest.mark.parametrize("number", [0, 1, 3])
def test_few_kills_are_possible(number: int) -> None:
    found = draw_moments(number, TOTALS, seed=0)
    assert len(found) == number
    assert all(isinstance(m, Moment) for m in found)
