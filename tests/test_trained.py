"""nas.training.trained: no text, supernet or tokenizer of one run takes the place of another's, in one process or several."""

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
from nas.cli import main
from nas.commands import profiling, run_folder, searching
from nas.data import CorpusError
from nas.files import FolderLock, FolderLockedError
from nas.model import CheckpointError
from nas.pipeline import run
from nas.run_settings import SearchRun, check_same_run, read_run, write_run
from nas.training import (
    TrainingRecipe,
    embedded_path,
    load_trained,
    reuse_supernet,
    run_recipe,
    train_supernet,
)
from search_spaces import Family, SearchSpace, preset
from tests.small_spaces import small_space

REPOSITORY = Path(__file__).resolve().parents[1]
FAMILY = Family(vocab_size=300, context_length=24, head_dim=16)
SPACE = small_space(FAMILY)
RECIPE = TrainingRecipe(steps=2, batch_size=2, context=16, warmup_steps=0, dtype="float32")


def prose(animal: str) -> str:
    return "".join(f"{i}: the {animal} number {i * i} is {i % 7} feet.\n" for i in range(400))


@pytest.fixture
def a(tmp_path: Path) -> Path:
    path = tmp_path / "a.txt"
    path.write_text(prose("fox"))
    return path


@pytest.fixture
def b(tmp_path: Path) -> Path:
    path = tmp_path / "b.txt"
    path.write_text(prose("dog with a bone"))
    return path


@pytest.fixture
def folder(a: Path, tmp_path: Path) -> Path:
    """A finished training on the text ``a``."""
    train_supernet(SPACE, a, recipe=RECIPE, out=tmp_path / "out", progress=False)
    return tmp_path / "out"


def contents(folder: Path) -> dict[str, bytes]:
    """Every file but the locks."""
    files = [p for p in folder.rglob("*") if p.is_file() and not p.name.startswith(".")]
    return {str(p.relative_to(folder)): p.read_bytes() for p in files}


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
from tests.test_trained import SPACE
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


# --- loading


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


# --- a supernet that was trained before


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


@pytest.fixture
def small_preset(monkeypatch: pytest.MonkeyPatch) -> SearchSpace:
    """The preset ``tiny`` is the small space."""
    for module in ("nas.commands.profiling", "nas.pipeline", "nas.run_settings"):
        monkeypatch.setattr(f"{module}.preset", lambda name: SPACE)
    return SPACE


def test_a_search_goes_on_with_a_trained_supernet_and_resumes_with_no_other(
    folder: Path, a: Path, tmp_path: Path, small_preset: SearchSpace
) -> None:
    config = SearchRun(
        corpus=str(a),
        supernet=folder / "supernet.json",
        out=tmp_path / "run",
        trials=2,
        sampler="random",
        objectives=("perplexity", "weight_bytes"),
        profile_architectures=16,
        perplexity_tokens=100,
        random_seeds=0,
        max_winners=1,
        compile=False,
        threads=1,
    )
    before = contents(folder)
    results = run(config)
    sha256 = json.loads((folder / "supernet.json").read_text())["sha256"]
    assert results["inputs"]["supernet"] == sha256
    assert read_run(config.out)["supernet"] == sha256
    assert not (config.out / "supernet.json").exists()
    assert run_folder.supernet_of(config.out, results).path == (folder / "supernet.json").resolve()
    assert run(config) == results
    with pytest.raises(ValueError, match=r"expected the run that .*'supernet': .*None"):
        check_same_run(replace(config, supernet=None))
    moved = folder.rename(tmp_path / "moved")  # the same supernet in another place
    assert run(replace(config, supernet=moved / "supernet.json")) == results
    other = tmp_path / "other"
    recipe = replace(RECIPE, seed=3)
    train_supernet(SPACE, a, recipe=recipe, out=other, progress=False)
    with pytest.raises(ValueError, match="expected the run that .*'supernet'"):
        run(replace(config, supernet=other / "supernet.json"))
    assert contents(moved) == before


def test_a_run_without_a_given_supernet_is_stored_as_before_there_was_a_choice(
    tmp_path: Path,
) -> None:
    write_run(SearchRun(out=tmp_path))
    assert "supernet" not in read_run(tmp_path)
    assert "supernet_path" not in read_run(tmp_path)
    check_same_run(SearchRun(out=tmp_path))


def test_a_supernet_and_from_scratch_exclude_each_other(
    folder: Path, tmp_path: Path, small_preset: SearchSpace, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--supernet", str(folder / "supernet.json"), "--from-scratch"]
    objectives = ["--objectives", "perplexity", "weight_bytes"]
    workload = ["--workloads", "decode_ms[context=8]"]
    for command in (["search", *objectives], ["profile", *workload]):
        assert main([*command, *flags, "--out", str(tmp_path / "new")]) == 2
        assert "expected --supernet or --from-scratch, got both" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


# --- commands that follow one another


def test_profile_trains_what_search_trains(
    a: Path, tmp_path: Path, small_preset: SearchSpace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In one folder the search takes over the supernet of the profile; the recipe is the same for both."""
    asked = []

    def note(*args: Any, **kwargs: Any) -> Any:
        asked.append(kwargs["recipe"])
        raise ValueError("expected this far, got there")

    monkeypatch.setattr("nas.training.supernet_options.train_supernet", note)
    flags = ["--corpus", str(a), "--seed", "3", "--train-steps", "7", "--out", str(tmp_path / "x")]
    assert main(["search", "--objectives", "perplexity", "weight_bytes", *flags]) == 2
    assert main(["profile", "--workloads", "decode_ms[context=8]", *flags]) == 2
    assert asked[0] == asked[1]
    assert asked[0] == run_recipe(SPACE, a, steps=7, seed=3)
    assert (asked[0].steps, asked[0].seed) == (7, 3)


def test_the_search_that_a_profile_proposes_uses_its_folder() -> None:
    from nas.cli import Profile

    plain = searching.search_command(profiling.search_options(Profile(out=Path("runs/p"))))
    assert plain == "nas search --out runs/p"
    command = Profile(
        corpus="a b.txt",
        supernet=Path("t/supernet.json"),
        architectures=32,
        workloads=("decode_ms[batch=8, context=64]",),
        out=Path("runs/p"),
    )
    assert searching.search_command(profiling.search_options(command)) == (
        "nas search --corpus 'a b.txt' --supernet t/supernet.json --profile-architectures 32 "
        "--objectives perplexity 'decode_ms[batch=8,context=64]' weight_bytes --out runs/p"
    )


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--rounds", "0"], "expected rounds of 1 or more"),
        (["--architectures", "5"], "expected architectures of 16 or more"),
        (["--workloads", "decode_ms[context=300]"], "use a shorter context"),
        (["--train-steps", "0"], "expected train_steps of 1 or more"),
        (["--supernet", "none.json"], "found no such file"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_a_profile_refuses_before_it_trains(
    a: Path, tmp_path: Path, flags: list[str], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new"
    assert main(["profile", "--corpus", str(a), *flags, "--out", str(out)]) == 2
    assert expected in capsys.readouterr().err
    assert not out.exists()


def test_a_misspelt_run_is_not_made(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("verify", "materialize", "report"):
        assert main([command, "--run", str(tmp_path / "typo")]) == 2
        assert "found no results.json" in capsys.readouterr().err
    assert not (tmp_path / "typo").exists()


def test_the_embedded_supernet_has_its_tokenizer_beside_it() -> None:
    info = json.loads(embedded_path().read_text())["info"]
    assert trained_module._tokenizer_of(embedded_path(), info).exists()
