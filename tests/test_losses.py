"""Losses and recipes of training, against formulas by hand."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from nas.training import TrainingRecipe
from nas.training.loss import distillation_loss, next_token_loss
from nas.training.precision import faster_dtype
from tests.training_recipe import RECIPE

# --- losses ---------------------------------------------------------------------------------------


# Of the loss, and of the gradient relative to its largest entry. float32: sums of 64 terms in another order. bfloat16: two roundings to
# eight bits, one of the gradient and one of its product with the factor.
LOSS_TOLERANCE = {torch.float32: (1e-6, 1e-6), torch.bfloat16: (1e-6, 2**-7)}


@pytest.mark.parametrize("dtype", LOSS_TOLERANCE)
@pytest.mark.parametrize(
    "shape", [(1, 1, 5), (2, 3, 64), (4, 150, 64)], ids=str
)  # 600 rows: three chunks
@pytest.mark.parametrize("kind", ["next token", "distillation"])
@pytest.mark.parametrize("factor", [1.0, 0.5, -3.0])
def test_losses_equal_plain_autograd(
    dtype: torch.dtype, shape: tuple[int, int, int], kind: str, factor: float
) -> None:
    generator = torch.Generator().manual_seed(0)
    raw = torch.randn(shape, generator=generator).mul(3.0).to(dtype)
    teacher = torch.randn(shape, generator=generator).mul(3.0).to(dtype).requires_grad_()
    targets = torch.randint(shape[-1], shape[:-1], generator=generator)
    logits, plain = raw.clone().requires_grad_(), raw.clone().double().requires_grad_()
    if kind == "next token":
        loss = next_token_loss(logits, targets)
        expected = F.cross_entropy(plain.flatten(0, 1), targets.flatten())
    else:
        loss = distillation_loss(logits, teacher)
        p = torch.softmax(teacher.detach().double(), dim=-1)
        expected = -(p * torch.log_softmax(plain, dim=-1)).sum(dim=-1).mean()
    (loss * factor).backward()
    (expected * factor).backward()
    value, gradient = LOSS_TOLERANCE[dtype]
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(expected.item(), rel=value)
    assert logits.grad is not None
    assert plain.grad is not None
    assert logits.grad.dtype == dtype
    scale = float(plain.grad.abs().max())
    assert float((logits.grad.double() - plain.grad).abs().max()) <= gradient * scale
    assert teacher.grad is None


def test_losses_need_no_gradient_and_change_no_input() -> None:
    logits = torch.randn(2, 3, 64, generator=torch.Generator().manual_seed(1))
    before = logits.clone()
    targets = torch.zeros(2, 3, dtype=torch.long)
    with torch.no_grad():
        assert float(next_token_loss(logits, targets)) > 0
    assert not next_token_loss(logits, targets).requires_grad
    assert float(distillation_loss(logits, logits)) > 0
    assert logits.equal(before)


def test_distillation_is_least_at_the_teacher() -> None:
    """Gibbs: cross-entropy to p is at least the entropy of p, with equality at p, where the gradient vanishes."""
    teacher = torch.randn(1, 4, 64, generator=torch.Generator().manual_seed(2))
    p = torch.softmax(teacher.double(), dim=-1)
    entropy = float(-(p * p.log()).sum(dim=-1).mean())
    student = teacher.clone().requires_grad_()
    loss = distillation_loss(student, teacher)
    loss.backward()
    assert loss.item() == pytest.approx(entropy, rel=1e-6)
    assert student.grad is not None
    assert float(student.grad.abs().max()) < 1e-7
    assert float(distillation_loss(teacher * 0.5, teacher)) > entropy


# --- recipe ---------------------------------------------------------------------------------------


def test_the_learning_rate_rises_linearly_and_falls_as_a_cosine() -> None:
    recipe = TrainingRecipe(steps=110, warmup_steps=10, learning_rate=2.0, final_learning_rate=0.1)
    rising = [recipe.learning_rate_at(step) for step in range(10)]
    assert rising == pytest.approx([0.2 * (i + 1) for i in range(10)])
    assert recipe.learning_rate_at(10) == pytest.approx(2.0)
    assert recipe.learning_rate_at(60) == pytest.approx(
        (2.0 + 0.2) / 2
    )  # the middle of a cosine is the mean of its ends
    assert recipe.learning_rate_at(35) == pytest.approx(0.2 + 1.8 * (1 + math.sqrt(0.5)) / 2)
    assert recipe.learning_rate_at(110) == pytest.approx(0.2)
    assert recipe.learning_rate_at(500) == pytest.approx(0.2)
    falling = [recipe.learning_rate_at(step) for step in range(10, 111)]
    assert falling == sorted(falling, reverse=True)
    assert replace(recipe, warmup_steps=0).learning_rate_at(0) == pytest.approx(2.0)


@given(st.integers(1, 300), st.integers(0, 400), st.floats(0.0, 1.0), st.integers(0, 500))
def test_the_learning_rate_stays_between_its_ends(
    steps: int, warmup: int, final: float, step: int
) -> None:
    recipe = TrainingRecipe(
        steps=steps, warmup_steps=warmup, learning_rate=1.0, final_learning_rate=final
    )
    rate = recipe.learning_rate_at(step)
    assert min(final, 1 / max(warmup, 1)) - 1e-12 <= rate <= 1.0 + 1e-12


@pytest.mark.parametrize(
    "fields",
    [
        {"steps": 0},
        {"batch_size": 0},
        {"context": -1},
        {"learning_rate": 0.0},
        {"learning_rate": math.nan},
        {"gradient_clip": 0.0},
        {"warmup_steps": -1},
        {"num_random": -1},
        {"weight_decay": -0.1},
        {"seed": -1},
        {"mask_refresh_steps": 0},
        {"checkpoint_steps": 3, "mask_refresh_steps": 2},
        {"dtype": "float16"},
    ],
)
def test_an_invalid_recipe_cannot_be_constructed(fields: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="expected"):
        replace(RECIPE, **fields)


def test_a_recipe_survives_json_and_counts_its_tokens() -> None:
    assert TrainingRecipe.from_json(json.loads(json.dumps(RECIPE.to_json()))) == RECIPE
    assert RECIPE.tokens == 6 * 4 * 8
    with pytest.raises(ValueError, match="expected the fields of a TrainingRecipe"):
        TrainingRecipe.from_json({"step": 3})


def test_the_dtype_asked_for_is_the_dtype() -> None:
    cpu = torch.device("cpu")
    assert faster_dtype("float32", cpu) == torch.float32
    assert faster_dtype("bfloat16", cpu) == torch.bfloat16
    assert faster_dtype("auto", cpu) in (torch.float32, torch.bfloat16)
