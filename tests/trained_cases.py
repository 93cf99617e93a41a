"""A small space, a short recipe and two texts to train on, for the tests of supernets and their folders."""

from __future__ import annotations

from pathlib import Path

from nas.training import TrainingRecipe, train_supernet
from search_spaces import Family
from tests.small_spaces import small_space

FAMILY = Family(vocab_size=300, context_length=24, head_dim=16)
SPACE = small_space(FAMILY)
RECIPE = TrainingRecipe(steps=2, batch_size=2, context=16, warmup_steps=0, dtype="float32")


def prose(animal: str) -> str:
    return "".join(f"{i}: the {animal} number {i * i} is {i % 7} feet.\n" for i in range(400))


def text_a(folder: Path) -> Path:
    path = folder / "a.txt"
    path.write_text(prose("fox"))
    return path


def text_b(folder: Path) -> Path:
    path = folder / "b.txt"
    path.write_text(prose("dog with a bone"))
    return path


def trained_on(text: Path, folder: Path) -> Path:
    """A finished training on the text."""
    train_supernet(SPACE, text, recipe=RECIPE, out=folder, progress=False)
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    """Every file but the locks."""
    files = [p for p in folder.rglob("*") if p.is_file() and not p.name.startswith(".")]
    return {str(p.relative_to(folder)): p.read_bytes() for p in files}
