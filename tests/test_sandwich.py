"""The sandwich rule: which subnets a step trains, and what one step does."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from nas.data import TokenBatches
from nas.model import MaskCache, Supernet, supernet_perplexities
from nas.training import TrainingRecipe, train
from nas.training.sandwich import draw_subnet, sandwich
from search_spaces import Architecture, SearchSpace, costs, preset
from tests.small_models import random_supernet
from tests.training_recipe import RECIPE, SPACE, TOKENS, VISITED, recorded, text

# --- sandwich -------------------------------------------------------------------------------------


def test_the_sandwich_is_a_function_of_seed_and_step() -> None:
    forward = {
        (seed, step): sandwich(SPACE, 3, seed, step) for seed in (0, 1) for step in range(20)
    }
    np.random.seed(7)  # noqa: NPY002 - the global state must not matter, nor be moved
    torch.manual_seed(7)
    before = np.random.get_state()[1].copy()  # type: ignore[index]  # noqa: NPY002
    for seed, step in sorted(forward, reverse=True):
        assert sandwich(SPACE, 3, seed, step) == forward[seed, step]
    assert np.array_equal(before, np.random.get_state()[1])  # type: ignore[index]  # noqa: NPY002
    for drawn in forward.values():
        assert drawn[:2] == [SPACE.largest, SPACE.smallest]
        assert len(drawn) == 5
        assert all(SPACE.contains(a) for a in drawn)
    randoms = {a for drawn in forward.values() for a in drawn[2:]}
    assert len(randoms) > 100  # seeds and steps differ
    assert sandwich(SPACE, 1, 0, 3)[2] == forward[0, 3][2]
    assert sandwich(SPACE, 0, 0, 3) == [SPACE.largest, SPACE.smallest]


def test_size_bias_draws_larger_subnets() -> None:
    space = preset("tiny")

    def mean_params(bias: float) -> float:
        rng = np.random.default_rng(0)
        drawn = [draw_subnet(space, rng, size_bias=bias) for _ in range(100)]
        return float(np.mean([costs(a, space.family).params for a in drawn]))

    assert mean_params(0.0) < mean_params(0.5) < mean_params(1.0)


def _reduced_kinds(space: SearchSpace, architecture: Architecture) -> set[str]:
    largest = space.largest.layers[0]
    changed = {"embed_dim"} if architecture.embed_dim != space.embed_dims[-1] else set()
    changed |= {"depth"} if architecture.depth != space.depths[-1] else set()
    for layer in architecture.layers:
        if not (layer.attention and layer.ffn):
            changed.add("parts")
        if layer.attention and layer.num_heads != largest.num_heads:
            changed.add("heads")
        if layer.ffn and layer.ffn_ratio != largest.ffn_ratio:
            changed.add("ratio")
        if not (layer.attention_sparsity.is_dense and layer.ffn_sparsity.is_dense):
            changed.add("sparsity")
    return changed


def test_whole_share_leaves_kinds_of_choice_whole() -> None:
    space, rng = preset("tiny"), np.random.default_rng(0)
    assert all(draw_subnet(space, rng, whole_share=1.0) == space.largest for _ in range(5))
    drawn = [draw_subnet(space, rng, whole_share=0.7) for _ in range(400)]
    seen = Counter(frozenset(_reduced_kinds(space, a)) for a in drawn)
    for kind in ("embed_dim", "depth", "parts", "heads", "ratio", "sparsity"):
        assert seen[frozenset({kind})] > 5  # 0.3 * 0.7^5 of 400 is 20
    without = [draw_subnet(space, rng) for _ in range(400)]
    assert all(len(_reduced_kinds(space, a)) > 1 for a in without)


def test_drawn_subnets_reach_from_whole_and_dense_to_sparse_and_few() -> None:
    space = preset("tiny")
    rng = np.random.default_rng(0)
    drawn = [draw_subnet(space, rng) for _ in range(600)]
    kept = Counter(
        sum(layer.attention + layer.ffn for layer in a.layers) / (2 * a.depth) for a in drawn
    )
    assert kept[1.0] > 30
    assert min(kept) <= 0.25
    sparse = [
        not s.is_dense
        for a in drawn
        for layer in a.layers
        for s, is_kept in (
            (layer.attention_sparsity, layer.attention),
            (layer.ffn_sparsity, layer.ffn),
        )
        if is_kept
    ]
    assert 0.25 < sum(sparse) / len(sparse) < 0.55
    values: dict[str, set[Any]] = {}
    for a in drawn:
        for name, value in space.to_params(a).items():
            values.setdefault(name, set()).add(value)
    assert values == {choice.name: set(choice.values) for choice in space.choices}


# --- one step -------------------------------------------------------------------------------------


def plain_training(
    supernet: Supernet, recipe: TrainingRecipe, steps: int
) -> list[tuple[float, float]]:
    """The step written out with torch's own losses and unfused optimizer; fresh masks every ``mask_refresh_steps``."""
    matrices = [p for p in supernet.parameters() if p.ndim == 2]
    others = [p for p in supernet.parameters() if p.ndim != 2]
    optimizer = torch.optim.AdamW(
        [
            {"params": matrices, "weight_decay": recipe.weight_decay},
            {"params": others, "weight_decay": 0.0},
        ],
        betas=(0.9, recipe.beta2),
        fused=False,
        foreach=False,
    )
    batches = TokenBatches(TOKENS, recipe.context, recipe.batch_size, recipe.seed)
    losses: list[tuple[float, float]] = []
    masks = MaskCache(hold=True)
    for step in range(steps):
        if step % recipe.mask_refresh_steps == 0:
            masks = MaskCache(hold=True)
        windows = batches.batch(step)
        teacher, *students = VISITED
        logits = supernet(windows[:, :-1], teacher, masks)
        hard = F.cross_entropy(logits.flatten(0, 1), windows[:, 1:].flatten())
        p = torch.softmax(logits.detach(), dim=-1)
        soft = torch.stack(
            [
                -(p * torch.log_softmax(supernet(windows[:, :-1], student, masks), dim=-1))
                .sum(-1)
                .mean()
                for student in students
            ]
        ).mean()
        optimizer.zero_grad()
        (hard + soft).backward()
        gradients = [p.grad for p in supernet.parameters() if p.grad is not None]
        norm = math.sqrt(sum(float(g.double().square().sum()) for g in gradients))
        for gradient in gradients:
            gradient.mul_(min(1.0, recipe.gradient_clip / (norm + 1e-6)))
        for group in optimizer.param_groups:
            group["lr"] = recipe.learning_rate_at(step)
        optimizer.step()
        losses.append((hard.item(), soft.item()))
    return losses


@pytest.mark.parametrize("clip", [1.0, 1e-3, 100.0])
def test_training_equals_the_step_written_out(clip: float, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = replace(RECIPE, gradient_clip=clip, learning_rate=1e-3)
    mine, plain = random_supernet(SPACE), random_supernet(SPACE)
    losses = recorded(monkeypatch)
    train(mine, TOKENS, recipe, progress=False, subnets=lambda step: VISITED)
    expected = plain_training(plain, recipe, recipe.steps)
    assert np.allclose(losses, expected, rtol=2e-4)
    # A key bias adds the same to every score of a query, which softmax ignores: its gradient is rounding alone, and AdamW's first
    # steps are the sign of it. Elsewhere a rounding can turn a few weights whose gradient is nearly nothing.
    pairs = zip(mine.named_parameters(), plain.parameters(), strict=True)
    moved = [(a - b).abs() for (name, a), b in pairs if not name.endswith("k.bias")]
    assert sum(int((difference > 2e-5).sum()) for difference in moved) <= 10


def test_the_loss_curve_holds_means_of_25_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = replace(
        RECIPE, steps=27, batch_size=1, num_random=0, mask_refresh_steps=5, checkpoint_steps=5
    )
    losses = recorded(monkeypatch)
    curve = train(Supernet(SPACE), TOKENS, recipe, progress=False)
    assert [step for step, _, _ in curve] == [25, 27]
    for (_, largest, others), part in zip(curve, (losses[:25], losses[25:]), strict=True):
        assert (largest, others) == pytest.approx(tuple(np.mean(part, axis=0)), abs=6e-6)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_short_run_teaches_every_end_of_the_sandwich(dtype: Any) -> None:
    recipe = replace(
        RECIPE,
        steps=60,
        batch_size=8,
        context=16,
        learning_rate=1e-2,
        warmup_steps=5,
        dtype=dtype,
        num_random=1,
    )
    supernet = Supernet(SPACE)
    windows = torch.from_numpy(text(2000)[: 17 * 20].astype(np.int64)).reshape(20, 17)
    ends = [SPACE.largest, SPACE.smallest]
    before = supernet_perplexities(supernet, ends, windows)
    curve = train(supernet, TOKENS, recipe, progress=False)
    after = supernet_perplexities(supernet, ends, windows)
    assert before == pytest.approx(
        [64.0, 64.0], rel=0.05
    )  # a fresh model knows nothing about 64 tokens
    assert all(value < 30.0 for value in after)
    assert curve[-1][1] < curve[0][1]
    assert {p.dtype for p in supernet.parameters()} == {torch.float32}


def test_a_mask_cache_kept_across_training_is_not_stale() -> None:
    supernet, masks = random_supernet(SPACE), MaskCache()
    windows = torch.from_numpy(TOKENS[:90].astype(np.int64)).reshape(10, 9)
    sparse = [
        a for a in sandwich(SPACE, 20, 0, 0) if any(not s.ffn_sparsity.is_dense for s in a.layers)
    ]
    before = supernet_perplexities(supernet, sparse, windows, masks=masks)
    train(supernet, TOKENS, RECIPE, progress=False)
    after = supernet_perplexities(supernet, sparse, windows, masks=masks)
    assert after == supernet_perplexities(supernet, sparse, windows, masks=MaskCache())
    assert after != before
