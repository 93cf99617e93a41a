"""The supernet that ships with the project: its files, its hash and its recipe agree, and it has learned something."""

from __future__ import annotations

import hashlib
import json
import platform
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from small_run import finished_run

import nas
from nas.data import load_tokenizer, tokenizer_fingerprint, validation_batch
from nas.model import load_supernet, supernet_perplexities
from nas.training import TrainingRecipe, embedded_path
from nas.training.trained import embedded_tokenizer, fits_embedded
from search_spaces import SearchSpace, preset

MAX_BYTES = 16_000_000


@pytest.fixture(scope="module")
def header() -> dict[str, Any]:
    """The JSON as it lies there, read without the code under test."""
    found: dict[str, Any] = json.loads(embedded_path().read_text())
    return found


def test_the_weights_are_small_and_have_the_stated_hash(header: dict[str, Any]) -> None:
    weights = embedded_path().with_name(header["file"])
    content = weights.read_bytes()
    assert len(content) <= MAX_BYTES
    assert hashlib.sha256(content).hexdigest() == header["sha256"]


def test_nothing_else_ships(header: dict[str, Any]) -> None:
    shipped = {path.name for path in embedded_path().parent.iterdir() if path.suffix != ".py"}
    expected = {embedded_path().name, header["file"], embedded_tokenizer().name}
    assert shipped - {"__pycache__"} == expected


def test_the_recipe_is_whole_and_was_followed_to_its_end(header: dict[str, Any]) -> None:
    info = header["info"]
    recipes = [TrainingRecipe.from_json(stage) for stage in info["recipes"]]
    assert all(
        recipe.to_json() == stage for recipe, stage in zip(recipes, info["recipes"], strict=True)
    )
    assert info["tokens"] == sum(r.steps * r.batch_size * r.context for r in recipes)
    assert info["start"] is None  # trained from nothing: the recipe alone reproduces it


def test_the_loss_curve_ends_at_the_last_step_and_falls(header: dict[str, Any]) -> None:
    curve = header["info"]["loss_curve"]
    steps = [step for step, _, _ in curve]
    assert steps[-1] == sum(stage["steps"] for stage in header["info"]["recipes"])
    assert all(a < b for a, b in pairwise(steps))
    tenth = max(1, len(curve) // 10)
    for column in (1, 2):
        losses = [row[column] for row in curve]
        assert sum(losses[-tenth:]) < 0.8 * sum(losses[:tenth])


def test_the_space_is_the_preset(header: dict[str, Any]) -> None:
    assert SearchSpace.from_json(header["info"]["space"]) == preset("tiny")
    assert fits_embedded(preset("tiny"))
    assert not fits_embedded(preset("tiny", sparsity=False))


def test_the_tokenizer_is_the_recipes(header: dict[str, Any]) -> None:
    tokenizer = load_tokenizer(embedded_tokenizer())
    assert tokenizer_fingerprint(tokenizer) == header["info"]["tokenizer"]
    assert tokenizer.get_vocab_size() == preset("tiny").family.vocab_size


def test_this_python_gives_the_text_it_was_trained_on(
    header: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> None:
    trained_with = header["info"]["python"]
    if platform.python_version() != trained_with:
        pytest.skip(f"the standard library's source is that of Python {trained_with}")
    record = json.loads((finished_run(tmp_path_factory) / "tokens" / "corpus.json").read_text())
    assert record["num_tokens"]["train"] == header["info"]["train_corpus_tokens"]
    parts = record["sha256"]["train"] + record["sha256"]["validation"]
    digest = hashlib.sha256((parts + header["info"]["tokenizer"]).encode()).hexdigest()
    assert digest[:16] == header["info"]["corpus"]


def test_it_has_learned_and_its_largest_subnet_most() -> None:
    supernet, _ = load_supernet(embedded_path())
    assert all(bool(torch.isfinite(p).all()) for p in supernet.parameters())
    text = (
        Path(nas.__file__).with_name("pareto") / "front.py"
    ).read_text()  # it has never seen this project
    tokens = torch.tensor(load_tokenizer(embedded_tokenizer()).encode(text).ids)
    space = supernet.space
    windows = validation_batch(tokens.numpy().astype("uint16"), space.family.context_length, 2048)
    largest, smallest = supernet_perplexities(supernet, [space.largest, space.smallest], windows)
    assert largest < space.family.vocab_size / 8
    assert largest < smallest < space.family.vocab_size / 4
