"""The experiments' own parts: tables, races, results files. Their numbers are made by their commands, not here."""

from __future__ import annotations

import functools
import json
import shlex
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import tyro
from made_up import made_up_profile, made_up_supernet
from small_spaces import GPT2
from small_spaces import small_space as few_weights

from experiments import results
from experiments.exhaustive import __main__ as exhaustive
from experiments.exhaustive import race as races
from experiments.exhaustive import table as tables
from experiments.exhaustive.race import _KnownBytes, box, race, run_one
from experiments.exhaustive.table import OBJECTIVES, Lookup, evaluate_table, small_space
from experiments.search_seeds import __main__ as search_seeds
from experiments.supernet_quality import __main__ as supernet_quality
from experiments.supernet_quality.overhead import overheads
from experiments.supernet_quality.ranking import only, rank, tau_within
from nas.model import Supernet
from nas.objectives import Evaluation
from nas.pareto import normalized_hypervolume
from nas.training import TrainingRecipe
from search_spaces import Workload, costs, preset


@functools.cache
def table() -> tuple[list, np.ndarray]:
    """A made-up truth with a real trade-off: fewer bytes and less time cost perplexity; read it, do not write to it."""
    space = small_space()
    architectures = list(space)
    size = np.array([costs(a, space.family).weight_bytes for a in architectures], dtype=float)
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


class _Ran(Exception):
    """A study was about to run."""


def _run(*arguments: Any) -> None:
    raise _Ran


def test_a_race_reads_the_table_and_reports_shares_of_the_truth(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
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
    monkeypatch.setattr(races.multiprocessing, "get_context", _run)
    with pytest.raises(_Ran):  # of another table: that study is to be run
        race(["random"], [0], 6, architectures, values * [1.0, 2.0, 1.0], path, 1)


class _Counting:
    """An evaluator that counts its calls."""

    calls = 0

    def __init__(self, *arguments: Any) -> None:
        pass

    def __call__(self, architecture: Any) -> Evaluation:
        type(self).calls += 1
        return Evaluation(architecture, dict.fromkeys(OBJECTIVES, 1.0))


def test_a_table_is_of_its_supernet_text_tokens_and_profile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "Evaluator", _Counting)
    few = replace(small_space(), depths=(1,))
    monkeypatch.setattr(tables, "small_space", lambda: few)
    settings = {"sha256": "s", "corpus": "c", "tokens": 512, "profile": "p"}

    def calls(**changed: Any) -> int:
        made = settings | changed
        supernet: Any = SimpleNamespace(
            info={"sha256": made["sha256"]}, corpus=SimpleNamespace(fingerprint=made["corpus"])
        )
        device: Any = SimpleNamespace(fingerprint=made["profile"])
        before = _Counting.calls
        evaluate_table(supernet, device, made["tokens"], tmp_path / "table.npz")
        return _Counting.calls - before

    assert calls() == few.cardinality
    assert calls() == 0
    for name, value in (("sha256", "t"), ("corpus", "d"), ("tokens", 256), ("profile", "q")):
        assert calls(**{name: value}) == few.cardinality
        assert calls() == few.cardinality  # and back: the last one replaced it


def test_the_bytes_a_sampler_knows_are_those_of_the_table() -> None:
    architectures, values = table()
    halved = values * [1.0, 1.0, 0.5]  # as a profile that chose bfloat16 counts them
    some = architectures[::200]
    mean_n, std_n = _KnownBytes(Lookup(architectures, halved))(
        [small_space().to_params(a) for a in some]
    )
    assert mean_n.tolist() == halved[::200, 2].tolist()
    assert not std_n.any()


def test_studies_of_another_setting_are_not_taken_for_these() -> None:
    supernet: Any = SimpleNamespace(
        space=small_space(), info={"sha256": "s"}, corpus=SimpleNamespace(fingerprint="c")
    )
    device: Any = SimpleNamespace(fingerprint="p")
    recipe = search_seeds.Recipe()

    def setting(device: Any = device, **changed: Any) -> str:
        changed_recipe = replace(recipe, **changed)
        return results.digest(search_seeds.study_setting(supernet, device, changed_recipe))

    assert setting() == setting(seeds=9, samplers=("random",))  # each study has its own of these
    others = [setting(tokens=16), setting(trials=8), setting(SimpleNamespace(fingerprint="q"))]
    assert len({setting(), *others}) == 4


def test_the_studies_of_a_killed_run_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    space = few_weights(family=replace(GPT2, context_length=130))
    monkeypatch.setattr(search_seeds, "preset", lambda _: space)
    monkeypatch.setattr(search_seeds, "train_supernet", lambda *_, **__: made_up_supernet(space))
    profile = made_up_profile(space, Workload("decode", 1, 128))
    monkeypatch.setattr(search_seeds, "profile", lambda *_, **__: profile)
    monkeypatch.setattr(search_seeds, "result_folder", lambda _: tmp_path)
    recipe = search_seeds.Recipe(
        samplers=("random", "nsga2"), seeds=1, trials=3, tokens=130, out=tmp_path / "work"
    )
    search_seeds.main(replace(recipe, samplers=("random",)))
    log = tmp_path / "work" / "studies.jsonl"
    first = log.read_text()
    search_seeds.main(recipe)
    assert log.read_text().startswith(first)
    assert [json.loads(line)["sampler"] for line in log.read_text().splitlines()] == [
        "random",
        "nsga2",
    ]
    search_seeds.main(replace(recipe, trials=2))  # other studies, though the file is the same
    stored = json.loads((tmp_path / "result.json").read_text())
    assert len(log.read_text().splitlines()) == 4
    assert stored["runtime"]["threads"] == torch.get_num_threads()
    assert stored["values"]["profile"] == profile.fingerprint
    assert [row["sampler"] for row in stored["values"]["samplers"]] == ["random", "nsga2"]


@pytest.mark.parametrize(
    ("module", "recipe"),
    [
        (
            "exhaustive",
            exhaustive.Recipe(samplers=("random", "tpe"), tokens=256, fraction=0.1, processes=3),
        ),
        ("search_seeds", search_seeds.Recipe(samplers=("gp",), seeds=2, trials=7, tokens=64)),
        ("supernet_quality", supernet_quality.Recipe(steps=3, architectures=5, tokens=9, seed=8)),
    ],
)
def test_the_stored_command_repeats_every_setting(module: str, recipe: Any) -> None:
    """Parsed again, it is the same recipe."""
    words = shlex.split(results.command_line(f"experiments.{module}", recipe))
    assert words[:3] == ["python", "-m", f"experiments.{module}"]
    assert tyro.cli(type(recipe), args=words[3:]) == recipe
    absent = replace(recipe, out=Path("elsewhere"))
    assert results.command_line(f"experiments.{module}", absent) == shlex.join(words)


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
    assert stored["runtime"]["threads"] == torch.get_num_threads()
    assert results.device_slug("cpu").endswith("-cores")
    other = results.write_result(tmp_path, command="x", seeds=[], values={}, name="other.json")
    assert other == tmp_path / "other.json"
    assert json.loads(path.read_text()) == stored


def test_rows_are_written_under_their_columns(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    results.write_csv(path, [{"b": 1, "a": "x, y"}, {"c": 0.5, "a": "z"}])
    written = 'b,a,c\n1,"x, y",\n,z,0.5\n'
    assert path.read_text() == written
    with pytest.raises(ValueError, match="fields not in fieldnames"):
        results.write_csv(path, [{"a": 1}], ["b"])
    assert path.read_text() == written
    results.write_csv(path, [{"b": 2, "a": 3}], ["a", "b"])
    assert path.read_text() == "a,b\n3,2\n"


def test_the_space_around_one_architecture_holds_its_weights_exactly() -> None:
    tiny = preset("tiny")
    rng = np.random.default_rng(1)
    for architecture in (tiny.smallest, *(tiny.sample(rng) for _ in range(8))):
        space = only(tiny, architecture)
        assert space.contains(architecture)
        assert space.embed_dims == (architecture.embed_dim,)
        assert space.depths == (architecture.depth,)


def _text(fingerprint: str = "text") -> Any:
    tokens = np.random.default_rng(3).integers(0, 64, 2000).astype(np.uint16)
    return SimpleNamespace(
        train_tokens=tokens[:1500], validation_tokens=tokens[1500:], fingerprint=fingerprint
    )


def test_a_ranking_keeps_what_its_own_setting_made(tmp_path: Path) -> None:
    space = few_weights(adapter_ranks=(0,))
    recipe = TrainingRecipe(
        steps=2, batch_size=2, context=16, warmup_steps=1, learning_rate=0.01, dtype="float32"
    )

    def made(recipe: TrainingRecipe, number: int, text: Any, num_tokens: int = 96) -> Any:
        return rank(
            space, text, recipe, num_architectures=number, num_tokens=num_tokens, out=tmp_path
        )

    def records() -> int:
        return len((tmp_path / "trained.jsonl").read_text().splitlines())

    first = made(recipe, 3, _text())
    assert records() == 6
    assert made(recipe, 3, _text()) == first
    assert records() == 6  # nothing is trained again
    more = made(recipe, 4, _text())
    assert more["pairs"][:3] == first["pairs"]
    assert records() == 8
    longer = made(replace(recipe, steps=4), 3, _text())
    assert records() == 14
    assert longer["pairs"] != first["pairs"]
    made(recipe, 3, _text("another"))
    assert records() == 20
    made(recipe, 3, _text(), num_tokens=48)
    assert records() == 26
    # Asked for more than there is: what was used is reported.
    assert made(recipe, 2, _text(), num_tokens=10**6)["validation_tokens"] == 480
    assert made(recipe, 3, _text()) == first


def test_tau_within_groups_looks_at_pairs_of_one_group_only() -> None:
    alone = np.array([1.0, 2.0, 3.0, 10.0, 11.0])
    assert tau_within([1, 1, 1, 2, 2], alone, alone) == 1.0
    assert tau_within([1, 1, 1, 2, 2], -alone, alone) == -1.0
    # Between the groups the order is right, inside the second it is turned round: 3 pairs agree, 1 does not.
    turned = np.array([1.0, 2.0, 3.0, 11.0, 10.0])
    assert tau_within([1, 1, 1, 2, 2], turned, alone) == 0.5
    assert tau_within([1, 2], alone[:2], alone[:2]) is None


def test_training_speed_says_what_it_was_timed_with() -> None:
    speed = supernet_quality.training_speed(
        Supernet(few_weights(), 0), _text().train_tokens, steps=2
    )
    assert speed["tokens_per_s"] > 0.0
    assert speed["threads"] == torch.get_num_threads()
    assert speed["dtype"] in ("float32", "bfloat16")
    assert speed["subnets_per_step"] == 4


def test_overheads_are_ratios_of_real_forward_passes() -> None:
    tiny = preset("tiny")
    ratios = overheads(
        Supernet(tiny), [tiny.smallest], torch.zeros(1, 8, dtype=torch.long), repeats=3
    )
    assert len(ratios) == 1
    assert ratios[0] > 0.0
