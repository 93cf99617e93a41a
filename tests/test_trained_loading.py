"""Loading a supernet: it is read in its own tokens, and used for its own space, text and run only."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import nas.training.trained as trained_module
from nas.commands import run_folder
from nas.data import CorpusError
from nas.model import CheckpointError
from nas.run_settings import SearchRun, write_run
from nas.training import embedded_path, load_trained, reuse_supernet, train_supernet
from search_spaces import preset
from tests.trained_cases import FAMILY, RECIPE, SPACE, contents, text_a, text_b, trained_on


@pytest.fixture
def a(tmp_path: Path) -> Path:
    return text_a(tmp_path)


@pytest.fixture
def b(tmp_path: Path) -> Path:
    return text_b(tmp_path)


@pytest.fixture
def folder(a: Path, tmp_path: Path) -> Path:
    """A finished training on the text ``a``."""
    return trained_on(a, tmp_path / "out")


def test_a_loaded_supernet_reads_another_text_in_its_own_tokens(
    folder: Path, a: Path, b: Path, tmp_path: Path
) -> None:
    before = contents(folder)
    trained = load_trained(folder / "supernet.json", a, folder)
    assert trained.corpus.fingerprint == trained.info["corpus"]
    other = load_trained(folder / "supernet.json", b, tmp_path / "cache")
    assert other.corpus.tokenizer_fingerprint == other.info["tokenizer"]
    assert other.corpus.fingerprint != other.info["corpus"]
    assert other.perplexities([SPACE.largest], 200)[0] < 2 * FAMILY.vocab_size
    with pytest.raises(CorpusError, match=r"other text.*use another"):
        load_trained(folder / "supernet.json", b, folder)
    assert contents(folder) == before


@pytest.mark.parametrize("damage", ["missing", "another"])
def test_a_supernet_without_its_tokenizer_is_refused(
    folder: Path, b: Path, tmp_path: Path, damage: str
) -> None:
    (folder / "tokenizer.json").unlink()
    if damage == "another":
        train_supernet(SPACE, b, recipe=RECIPE, out=tmp_path / "b", progress=False)
        (folder / "tokenizer.json").write_bytes((tmp_path / "b" / "tokenizer.json").read_bytes())
    with pytest.raises(CheckpointError, match="expected the tokenizer"):
        load_trained(folder / "supernet.json", b, tmp_path / "cache")


def _results(folder: Path) -> dict[str, Any]:
    """What ``nas verify`` needs to know of a run to find its supernet."""
    info = json.loads((folder / "supernet.json").read_text())
    return {"inputs": {"supernet": info["sha256"], "corpus": info["info"]["corpus"]}}


def test_a_run_is_verified_on_its_own_tokens_whatever_became_of_the_text(
    folder: Path, a: Path
) -> None:
    write_run(SearchRun(corpus=str(a), out=folder, from_scratch=True))
    results, before = _results(folder), contents(folder)
    first = run_folder.supernet_of(folder, results)
    a.write_text(a.read_text() + "one more line\n")
    again = run_folder.supernet_of(folder, results)
    assert again.corpus.fingerprint == first.corpus.fingerprint == results["inputs"]["corpus"]
    a.unlink()
    run_folder.supernet_of(folder, results)
    assert contents(folder) == before


def test_a_run_without_its_tokens_is_refused_on_another_text_and_mended_on_its_own(
    folder: Path, a: Path
) -> None:
    write_run(SearchRun(corpus=str(a), out=folder, from_scratch=True))
    results = _results(folder)
    (folder / "tokens" / "train.npy").unlink()
    before, text = contents(folder), a.read_text()
    a.write_text(text + "one more line\n")
    expected = results["inputs"]["corpus"]
    with pytest.raises(CorpusError, match=f"fingerprint {expected}, got .* restore the text"):
        run_folder.supernet_of(folder, results)
    assert contents(folder) == before
    a.write_text(text)
    assert run_folder.supernet_of(folder, results).corpus.fingerprint == expected


@pytest.mark.parametrize(
    ("field", "value"),
    [("runtime", {"device": "cpu", "speed": 1}), ("runtime", "cpu"), ("num_tokens", "many")],
)
def test_results_with_values_of_another_type_are_refused(field: str, value: Any) -> None:
    winner = {
        "architecture": SPACE.largest.to_json(),
        "predicted": {"perplexity": {"mean": 2.0, "low": 2.0, "high": 2.0}},
    }
    provenance = {"runtime": {"device": "cpu"}, "num_tokens": 8, "device": "x"} | {field: value}
    results = {
        "objectives": [{"name": "perplexity"}],
        "ref_point": {"perplexity": 3.0},
        "provenance": provenance,
        "winners": [winner],
    }
    with pytest.raises(ValueError, match="expected the results of `nas search`, got a provenance"):
        run_folder.winners_of(results, None)


def test_a_supernet_is_used_for_its_own_space_and_text_only(
    folder: Path, a: Path, b: Path, tmp_path: Path
) -> None:
    path, out = folder / "supernet.json", tmp_path / "run"
    found = reuse_supernet(path, SPACE, a, out)
    assert (found.path, found.info["corpus"]) == (path, found.corpus.fingerprint)
    assert (out / "tokens" / "train.npy").read_bytes() == (
        folder / "tokens" / "train.npy"
    ).read_bytes()
    before = contents(tmp_path)
    with pytest.raises(CheckpointError, match="expected a supernet of space 'tiny'.*'small'"):
        reuse_supernet(path, preset("tiny"), a, out)
    with pytest.raises(CorpusError, match="expected the text with fingerprint"):
        reuse_supernet(path, SPACE, b, out)
    with pytest.raises(CheckpointError, match="found no such file"):
        reuse_supernet(tmp_path / "none.json", SPACE, a, out)
    assert contents(tmp_path) == before


def test_the_embedded_supernet_has_its_tokenizer_beside_it() -> None:
    info = json.loads(embedded_path().read_text())["info"]
    assert trained_module._tokenizer_of(embedded_path(), info).exists()
