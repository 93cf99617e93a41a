"""Training into a folder: no text, supernet or tokenizer of one run takes the place of another's, in one process or several."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import nas.training.trained as trained_module
from nas.data import CorpusError
from nas.files import FolderLock, FolderLockedError
from nas.model import CheckpointError
from nas.training import load_trained, train_supernet
from search_spaces import preset
from tests.trained_cases import FAMILY, RECIPE, SPACE, contents, text_a, text_b, trained_on

REPOSITORY = Path(__file__).resolve().parents[1]


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


# --- a training that is refused harms nothing


def test_another_text_in_the_folder_of_a_supernet_is_refused_before_anything_is_written(
    folder: Path, b: Path
) -> None:
    before = contents(folder)
    with pytest.raises(CorpusError, match=r"expected the text.*got .*b\.txt \(other text\).*use"):
        train_supernet(SPACE, b, recipe=RECIPE, out=folder, progress=False)
    assert contents(folder) == before


@pytest.mark.parametrize("lost", ["supernet.json", "tokens/corpus.json"])
def test_neither_checkpoints_nor_a_supernet_lose_their_tokenizer(
    folder: Path, b: Path, lost: str
) -> None:
    """Killed before the supernet was stored, or without the record of the tokens: what is left is kept as well."""
    (folder / lost).unlink()
    before = contents(folder)
    with pytest.raises(ValueError, match="expected the text"):
        train_supernet(SPACE, b, recipe=RECIPE, out=folder, progress=False)
    assert contents(folder) == before


def test_the_same_text_goes_on_and_mends_its_tokens(folder: Path, a: Path) -> None:
    before = contents(folder)
    (folder / "tokens" / "train.npy").write_bytes(b"damaged")
    (folder / "tokenizer.json").unlink()
    again = train_supernet(SPACE, a, recipe=RECIPE, out=folder, progress=False)
    assert contents(folder) == before
    assert again.info["corpus"] == again.corpus.fingerprint


def test_a_folder_with_another_supernet_does_not_get_the_embedded_one(
    folder: Path, a: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trained_module, "fits_embedded", lambda space: True)
    before = contents(folder)
    with pytest.raises(CheckpointError, match=r"--supernet .*supernet\.json"):
        train_supernet(preset("tiny"), "stdlib", out=folder, progress=False)
    assert contents(folder) == before


@pytest.mark.parametrize("space", ["tiny", None, {"name": "tiny"}])
def test_a_space_by_its_name_is_refused(a: Path, tmp_path: Path, space: Any) -> None:
    with pytest.raises(ValueError, match=r"expected a SearchSpace, got .*preset\("):
        train_supernet(space, a, out=tmp_path / "new")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("corpus", ["", " ", "missing.txt"])
def test_a_misspelt_text_makes_no_folder(tmp_path: Path, corpus: str) -> None:
    with pytest.raises(CorpusError, match="expected stdlib"):
        train_supernet(SPACE, corpus, recipe=RECIPE, out=tmp_path / "new")
    assert not (tmp_path / "new").exists()


# --- one folder, one run


def test_a_second_training_in_the_folder_is_refused(
    a: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trained_module, "_LOCK_WAIT_S", 0.0)
    out, refused = tmp_path / "out", []
    train = trained_module.train

    def train_and_try_again(*args: Any, **kwargs: Any) -> Any:
        monkeypatch.setattr(trained_module, "train", train)  # once

        def second() -> None:
            with pytest.raises(FolderLockedError) as error:
                train_supernet(SPACE, a, recipe=replace(RECIPE, seed=1), out=out, progress=False)
            refused.append(str(error.value))

        thread = threading.Thread(target=second)
        thread.start()
        thread.join()
        return train(*args, **kwargs)

    monkeypatch.setattr(trained_module, "train", train_and_try_again)
    found = train_supernet(SPACE, a, recipe=RECIPE, out=out, progress=False)
    assert f"process {os.getpid()}" in refused[0]
    assert found.info["recipes"] == [RECIPE.to_json()]
    with FolderLock(out):  # free again
        pass


def test_a_supernet_stored_meanwhile_is_kept(
    a: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a network folder that another machine writes to."""
    train = trained_module.train

    def train_beside_another(*args: Any, **kwargs: Any) -> Any:
        (tmp_path / "out" / "supernet.json").write_text("theirs")
        return train(*args, **kwargs)

    monkeypatch.setattr(trained_module, "train", train_beside_another)
    with pytest.raises(CheckpointError, match="another process has stored meanwhile"):
        train_supernet(SPACE, a, recipe=RECIPE, out=tmp_path / "out", progress=False)
    assert (tmp_path / "out" / "supernet.json").read_text() == "theirs"


LAUNCHED = """
import os, sys
import torch
torch.set_num_threads(1)
from nas import cli
from nas.commands import training
from nas.training import trained
from tests.trained_cases import SPACE
training.preset = lambda name: SPACE
if os.environ["RANK"] != "0":
    trained.save_supernet = None  # the first process stores for all
sys.exit(cli.main(sys.argv[1:]))
"""


def test_torchrun_trains_one_supernet_in_one_folder(a: Path, tmp_path: Path) -> None:
    script = tmp_path / "launched.py"
    script.write_text(LAUNCHED)
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", str(script)]
    command = ["train", "--corpus", str(a), "--steps", "2", "--batch-size", "2"]
    found = subprocess.run(
        [sys.executable, *launch, *command, "--out", str(tmp_path / "out")],
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)},
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 0, found.stderr[-3000:]
    assert found.stdout.count("Perplexity: largest subnet") == 1  # the first process speaks
    header = json.loads((tmp_path / "out" / "supernet.json").read_text())
    assert header["info"]["tokens"] == 2 * 2 * FAMILY.context_length
    supernet = load_trained(tmp_path / "out" / "supernet.json", a, tmp_path / "out")
    assert supernet.info["corpus"] == supernet.corpus.fingerprint
