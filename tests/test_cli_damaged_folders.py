"""Folders of runs that are taken, damaged or foreign: refused with one clear line, and kept as they are."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from small_run import arguments, begun_run, copy_of_run, finished_run, load_results

from nas.cli import main
from nas.files import FolderLock
from nas.training import TrainingRecipe, train_supernet
from search_spaces import preset
from tests.cli_cases import Refused, refusal_of, short_text


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Refused:
    return refusal_of(capsys)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return finished_run(tmp_path_factory)


@pytest.fixture
def copy(tmp_path_factory: pytest.TempPathFactory, tmp_path: Path) -> Path:
    return copy_of_run(tmp_path_factory, tmp_path)


@pytest.fixture
def begun(tmp_path_factory: pytest.TempPathFactory, tmp_path: Path) -> Path:
    return begun_run(tmp_path_factory, tmp_path)


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return short_text(tmp_path_factory)


# --- wrong folders


def test_a_file_in_the_place_of_the_folder_is_refused(refused: Refused, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("mine")
    assert "choose another one with --out" in refused("search", "--out", str(tmp_path / "out"))
    assert (tmp_path / "out").read_text() == "mine"


def test_two_runs_on_one_folder_are_refused(refused: Refused, copy: Path) -> None:
    with FolderLock(copy):
        for command in (
            arguments(copy),
            ["profile", "--out", str(copy)],
            ["train", "--out", str(copy)],
            ["verify", "--run", str(copy)],
            ["materialize", "--run", str(copy)],
        ):
            message = refused(*command)
            assert f"process {os.getpid()}" in message
            assert "choose another folder" in message
    assert main(arguments(copy)) == 0


@pytest.mark.parametrize("content", ["{", "[]", '{"trials": 5}', '"run"', "\x00"])
def test_a_damaged_run_json_is_refused(refused: Refused, copy: Path, content: str) -> None:
    (copy / "run.json").write_text(content)
    for command in (arguments(copy), ["verify", "--run", str(copy)]):
        message = refused(*command)
        assert "run.json" in message
        assert "use another --out, or delete the folder" in message


@pytest.mark.parametrize("content", ["{", "[]", '{"schema": 2}', '{"schema": 1}'])
def test_damaged_results_are_refused_where_nothing_else_can_give_them(
    refused: Refused, copy: Path, content: str
) -> None:
    (copy / "results.json").write_text(content)
    for command in ("report", "verify", "materialize"):
        assert "results" in refused(command, "--run", str(copy))


def _damage_line(path: Path, number: int, line: str) -> None:
    lines = path.read_text().splitlines(keepends=True)
    lines[number - 1] = line + "\n"
    path.write_text("".join(lines))


@pytest.mark.parametrize("line", ["{", "[]", '{"key": "a"}'])
def test_a_damaged_profile_is_refused_with_its_line(
    refused: Refused, begun: Path, line: str
) -> None:
    _damage_line(begun / "profile.jsonl", 2, line)
    message = refused(*arguments(begun))
    assert "line 2 of" in message
    assert "profile.jsonl" in message
    assert "remove that line" in message


@pytest.mark.parametrize("line", ["{", "[]", "3", '{"op_code": 99}', '{"op_code": 5}', "{}"])
def test_a_damaged_journal_is_refused(refused: Refused, copy: Path, line: str) -> None:
    (copy / "results.json").unlink()
    _damage_line(copy / "search.journal", 3, line)
    assert "search.journal" in refused(*arguments(copy))


def test_a_journal_cut_in_its_last_line_goes_on(copy: Path) -> None:
    results = load_results(copy)
    (copy / "results.json").unlink()
    journal = (copy / "search.journal").read_bytes()
    (copy / "search.journal").write_bytes(journal[:-7])  # the last trial was not told
    assert main(arguments(copy)) == 0
    assert load_results(copy)["trials"] == results["trials"]


def test_a_damaged_verification_is_refused(refused: Refused, copy: Path) -> None:
    (copy / "results.json").unlink()
    _damage_line(copy / "verify.jsonl", 4, "{}")
    assert "expected a measurement in line 4 of" in refused(*arguments(copy))


# --- damaged supernets


@pytest.fixture(scope="module")
def trained(text: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a supernet that ``nas search --train-steps 2`` takes for its own."""
    folder = tmp_path_factory.mktemp("trained")
    recipe = TrainingRecipe(
        steps=2, batch_size=8, context=256, learning_rate=1e-3, warmup_steps=0, checkpoint_steps=25
    )
    train_supernet(preset("tiny"), text, recipe=recipe, out=folder, progress=False)
    return folder


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def _flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("pattern", "damage"),
    [
        ("supernet-*.safetensors", _truncate),
        ("supernet-*.safetensors", _flip_a_bit),
        ("supernet-*.safetensors", Path.unlink),
        ("supernet.json", _truncate),
        ("supernet.json", _flip_a_bit),
    ],
)
def test_a_damaged_supernet_is_refused(
    refused: Refused,
    trained: Path,
    text: Path,
    tmp_path: Path,
    pattern: str,
    damage: Callable[[Path], None],
) -> None:
    out = shutil.copytree(trained, tmp_path / "out")
    [path] = out.glob(pattern)
    damage(path)
    before = {p.name: p.read_bytes() for p in out.glob("supernet*")}
    message = refused(*arguments(out, corpus=text, train_steps=2))
    assert "supernet" in message
    assert {p.name: p.read_bytes() for p in out.glob("supernet*")} == before


def test_a_foreign_supernet_is_refused_and_kept(
    refused: Refused, trained: Path, text: Path, tmp_path: Path, run: Path
) -> None:
    out = shutil.copytree(trained, tmp_path / "out")
    before = (out / "supernet.json").read_bytes()
    message = refused(*arguments(out, corpus=text, train_steps=3))
    assert "got one that differs in recipe" in message
    assert "use another output folder, or delete it" in message
    assert (out / "supernet.json").read_bytes() == before
    [winner, *_] = (run / "winners").iterdir()
    shutil.copy(winner / "model.json", out / "supernet.json")
    message = refused(*arguments(out, corpus=text, train_steps=2))
    assert "expected a supernet at" in message
    assert "got a gpt" in message


def test_a_run_without_its_supernet_is_refused(refused: Refused, copy: Path) -> None:
    results = load_results(copy)
    results["inputs"]["supernet"] = "0" * 64
    (copy / "results.json").write_text(json.dumps(results))
    for command in ("verify", "materialize"):
        assert "expected the supernet 000" in refused(command, "--run", str(copy))
