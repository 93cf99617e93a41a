"""A recipe, a text and a record of what a run visits, for the tests of training."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from torch import Tensor

from nas.training import TrainingRecipe, trainer
from tests.small_spaces import small_space, uniform

SPACE = small_space()


RECIPE = TrainingRecipe(
    steps=6,
    batch_size=4,
    context=8,
    learning_rate=3e-3,
    warmup_steps=2,
    mask_refresh_steps=2,
    checkpoint_steps=2,
    dtype="float32",
)


def text(num_tokens: int = 4000, seed: int = 0) -> np.ndarray:
    """Tokens with something to learn: each is a fixed function of the one before, three times in four."""
    rng = np.random.default_rng(seed)
    follows = rng.permutation(64)
    tokens = [0]
    for _ in range(num_tokens - 1):
        tokens.append(int(follows[tokens[-1]]) if rng.uniform() < 0.75 else int(rng.integers(64)))
    return np.array(tokens, dtype=np.uint16)


TOKENS = text()


# One sparse subnet again and again: its masks live from one refresh to the next.
VISITED = [SPACE.largest, uniform(SPACE, "2:4"), uniform(SPACE, "unstructured:0.70", rank=4)]


def recorded(monkeypatch: pytest.MonkeyPatch) -> list[list[float]]:
    """Losses of every step, [largest, mean of the others], as the trainer sees them."""
    losses: list[list[float]] = []
    backward = trainer._backward

    def record(*args: Any) -> Tensor:
        found = backward(*args)
        losses.append(found.tolist())
        return found

    monkeypatch.setattr(trainer, "_backward", record)
    return losses
