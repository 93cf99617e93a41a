"""nas.training: losses, sandwich, one step, resume after kill -9 and two processes, against plain torch and uninterrupted runs."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from nas.data import TokenBatches
from nas.model import CheckpointError, MaskCache, Supernet, supernet_perplexities
from nas.model.checkpoint import load_info
from nas.training import TrainingDiverged, TrainingRecipe, train, trainer
from nas.training.loss import distillation_loss, next_token_loss
from nas.training.precision import faster_dtype
from nas.training.sandwich import draw_subnet, sandwich
from search_spaces import Architecture, SearchSpace, costs, preset
from tests.small_models import random_supernet
from tests.small_spaces import small_space, uniform

REPOSITORY = Path(__file__).resolve().parents[1]
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


def weights(supernet: Supernet) -> list[Tensor]:
    return [p.detach().clone() for p in supernet.parameters()]


def are_equal(a: list[Tensor], b: list[Tensor]) -> bool:
    return all(x.equal(y) for x, y in zip(a, b, strict=True))


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


# --- resume ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "stops", [(1,), (2,), (3,), (4,), (5,), (6,), (1, 3), (2, 4), (3, 5, 6)], ids=str
)
@pytest.mark.parametrize("subnets", [None, lambda step: VISITED], ids=["sandwich", "same subnets"])
def test_a_resumed_run_equals_an_uninterrupted_one(
    stops: tuple[int, ...], subnets: trainer.Sampler | None, tmp_path: Path
) -> None:
    """Weights bit by bit and the loss curve, wherever it stopped, with another supernet in the process's memory each time."""
    whole = random_supernet(SPACE)
    curve = train(whole, TOKENS, RECIPE, progress=False, subnets=subnets)
    path = tmp_path / "training.json"
    for seed, stop in enumerate(stops):
        begun = (
            random_supernet(SPACE) if not path.exists() else random_supernet(SPACE, seed=100 + seed)
        )
        train(
            begun, TOKENS, RECIPE, checkpoint=path, progress=False, stop_after=stop, subnets=subnets
        )
        if stop >= 2:
            assert load_info(path, "training")["step"] == stop // 2 * 2
    resumed = random_supernet(SPACE, seed=99) if path.exists() else random_supernet(SPACE)
    assert train(resumed, TOKENS, RECIPE, checkpoint=path, progress=False, subnets=subnets) == curve
    assert are_equal(weights(resumed), weights(whole))
    done = random_supernet(SPACE, seed=98)
    assert (
        train(done, TOKENS, RECIPE, checkpoint=path, progress=False, subnets=subnets) == curve
    )  # nothing left to do
    assert are_equal(weights(done), weights(whole))
    assert len(list(tmp_path.glob("*.safetensors"))) == 1


def test_a_resumed_run_keeps_its_curve_and_its_dtype(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Losses since the last entry of the curve are in the checkpoint, and a dtype once chosen by timing is kept."""
    recipe = replace(RECIPE, steps=28, batch_size=1, num_random=0, dtype="auto")
    monkeypatch.setattr(trainer, "faster_dtype", lambda requested, device: torch.bfloat16)
    whole = random_supernet(SPACE)
    curve = train(whole, TOKENS, recipe, progress=False)
    path = tmp_path / "training.json"
    train(random_supernet(SPACE), TOKENS, recipe, checkpoint=path, progress=False, stop_after=10)
    monkeypatch.setattr(trainer, "faster_dtype", lambda requested, device: torch.float32)
    resumed = random_supernet(SPACE, seed=9)
    assert train(resumed, TOKENS, recipe, checkpoint=path, progress=False) == curve
    assert are_equal(weights(resumed), weights(whole))
    assert [step for step, _, _ in curve] == [25, 28]


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"recipe": replace(RECIPE, learning_rate=1e-3)}, "recipe"),
        ({"recipe": replace(RECIPE, seed=1)}, "recipe"),
        ({"space": small_space(depths=(1, 2, 3))}, "space"),
        ({"tokens": TOKENS[:-1]}, "num_tokens"),
        ({"tokens": TOKENS[::-1]}, "tokens_sha256"),
    ],
)
def test_a_checkpoint_of_another_run_is_refused(
    change: dict[str, Any], name: str, tmp_path: Path
) -> None:
    path = tmp_path / "training.json"
    train(random_supernet(SPACE), TOKENS, RECIPE, checkpoint=path, progress=False, stop_after=2)
    before = path.read_bytes()
    supernet = random_supernet(change.get("space", SPACE))
    with pytest.raises(CheckpointError, match=f"its {name} differs.*another output folder"):
        train(
            supernet,
            change.get("tokens", TOKENS),
            change.get("recipe", RECIPE),
            checkpoint=path,
            progress=False,
        )
    assert path.read_bytes() == before


def test_a_damaged_checkpoint_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "training.json"
    train(random_supernet(SPACE), TOKENS, RECIPE, checkpoint=path, progress=False, stop_after=2)
    (file,) = tmp_path.glob("*.safetensors")
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match="truncated or altered"):
        train(random_supernet(SPACE), TOKENS, RECIPE, checkpoint=path, progress=False)
    path.write_text('{"step": 2}')
    with pytest.raises(CheckpointError, match="foreign or damaged"):
        train(random_supernet(SPACE), TOKENS, RECIPE, checkpoint=path, progress=False)


@pytest.mark.parametrize("poison", ["weight", "gradient"])
def test_a_diverging_run_stops_before_it_spoils_weights(
    poison: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "training.json"
    supernet = random_supernet(SPACE)
    train(supernet, TOKENS, RECIPE, checkpoint=path, progress=False, stop_after=2)
    stored, before = path.read_bytes(), weights(supernet)
    backward = trainer._backward

    def spoiled(*args: Any) -> Tensor:
        losses = backward(*args)
        assert supernet.embedding.grad is not None
        if poison == "gradient":  # the loss is still a number, the step would not be
            supernet.embedding.grad[3, 3] = math.inf
            return losses
        return losses * math.nan

    monkeypatch.setattr(trainer, "_backward", spoiled)
    with pytest.raises(
        TrainingDiverged, match="expected a finite loss and gradient at step 2.*lower learning_rate"
    ):
        train(supernet, TOKENS, RECIPE, checkpoint=path, progress=False)
    assert are_equal(weights(supernet), before)
    assert path.read_bytes() == stored
    assert all(parameter.grad is None for parameter in supernet.parameters())


def test_not_a_number_in_the_weights_is_noticed_at_once() -> None:
    supernet = random_supernet(SPACE)
    with torch.no_grad():
        supernet.layers[0].up.weight[0, 0] = math.nan
    with pytest.raises(TrainingDiverged, match="at step 0"):
        train(supernet, TOKENS, RECIPE, progress=False)


def test_leftover_gradients_do_not_leak_into_training() -> None:
    clean, dirty = random_supernet(SPACE), random_supernet(SPACE)
    for parameter in dirty.parameters():
        parameter.grad = torch.ones_like(parameter)
    for supernet in (clean, dirty):
        train(supernet, TOKENS, RECIPE, progress=False)
    assert are_equal(weights(clean), weights(dirty))


def test_training_leaves_the_global_random_states_alone() -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state()
    train(random_supernet(SPACE), TOKENS, RECIPE, progress=False)
    assert torch.get_rng_state().equal(before)


def test_a_text_shorter_than_the_context_is_refused() -> None:
    with pytest.raises(ValueError, match="expected at least context"):
        train(random_supernet(SPACE), TOKENS[:8], RECIPE, progress=False)


# --- kill -9 --------------------------------------------------------------------------------------

KILLER = """
import json, os, random, signal, sys, time
from pathlib import Path
import torch
torch.set_num_threads(1)
from nas.model.checkpoint import load_info, load_tensors
from nas.training import train
from tests.small_models import random_supernet
from tests.test_training import KILLED_RECIPE, SPACE, TOKENS
random.seed(0)

# What the first optimizer imports takes seconds: once here, not in every child. No backward pass before a fork.
warm = torch.nn.Parameter(torch.ones(2, 2))
warm.grad = torch.ones(2, 2)
torch.optim.AdamW([warm], fused=True).step()

def start(path):
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            train(random_supernet(SPACE), TOKENS, KILLED_RECIPE, checkpoint=path, progress=False)
            status = 0
        finally:
            os._exit(status)
    return pid

def finish(pid):
    return os.waitpid(pid, 0)[1]

folder = Path(sys.argv[1])
whole, killed = folder / "whole.json", folder / "killed.json"
began = time.perf_counter()
assert finish(start(whole)) == 0
duration = time.perf_counter() - began
def is_running(pid):
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None

def stored():
    return load_info(killed, "training")["step"] if killed.exists() else 0

steps, finished = [0], False
while not finished:
    pid = start(killed)
    if len(steps) <= 8:
        if len(steps) > 2:  # not before it has come further than the one before it
            while stored() == steps[-1] and is_running(pid):
                time.sleep(0.001)
        time.sleep(random.uniform(0.0, 0.1 * duration))
        os.kill(pid, signal.SIGKILL)
    status = finish(pid)
    assert status in (0, signal.SIGKILL), status
    finished = status == 0
    steps.append(stored())
(a, info_a), (b, info_b) = load_tensors(whole, "training"), load_tensors(killed, "training")
equal = a.keys() == b.keys() and all(a[n].equal(b[n]) for n in a)
print(json.dumps({"steps": steps, "equal": equal, "info": info_a == info_b}))
"""
KILLED_RECIPE = replace(RECIPE, steps=30, num_random=1)


def environment(**more: str) -> dict[str, str]:
    return os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)} | more


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_run_killed_at_random_moments_ends_as_an_uninterrupted_one(tmp_path: Path) -> None:
    """Eight kill -9 at random moments: no finished checkpoint is lost, and weights, optimizer and curve are bit-equal."""
    run = subprocess.run(
        [sys.executable, "-c", KILLER, str(tmp_path)],
        env=environment(),
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr[-3000:]
    found = json.loads(run.stdout.splitlines()[-1])
    assert found["equal"]
    assert found["info"]
    assert found["steps"] == sorted(found["steps"])  # no step that was stored is lost
    assert found["steps"][-1] == KILLED_RECIPE.steps
    assert len(set(found["steps"])) > 2  # it was killed in the middle, not only at the ends


# --- two processes --------------------------------------------------------------------------------

PARALLEL = """
import atexit, json, os, sys

@atexit.register  # the last to run
def list_threads():
    tasks = [f"/proc/self/task/{task}/comm" for task in os.listdir("/proc/self/task")]
    (folder / f"threads{rank}.json").write_text(json.dumps([open(task).read() for task in tasks]))

from dataclasses import replace
from pathlib import Path
import torch
torch.set_num_threads(1)
from nas.training import train
from nas.training.distributed import Processes
from tests.small_models import random_supernet
from tests.test_training import RECIPE, SPACE, TOKENS

losses, mean = [], Processes.mean
def record(self, values):
    found = mean(self, values)
    losses.append(found.tolist())
    return found
Processes.mean = record
folder, rank = Path(sys.argv[1]), os.environ["RANK"]
path = folder / "training.json"
train(random_supernet(SPACE), TOKENS, RECIPE, checkpoint=path, progress=False, stop_after=4)
resumed = random_supernet(SPACE, seed=5)
curve = train(resumed, TOKENS, RECIPE, checkpoint=path, progress=False)
parameters = [torch.nn.Parameter(torch.zeros(3)), torch.nn.Parameter(torch.zeros(2))]
parameters[0].grad = torch.full((3,), 1.0 + 2.0 * int(rank))
Processes(torch.device("cpu")).average_gradients(parameters)
averaged = [None if p.grad is None else p.grad.tolist() for p in parameters]
refused = ""
try:
    train(resumed, TOKENS, replace(RECIPE, batch_size=3), progress=False)
except ValueError as error:
    refused = str(error)
result = {"losses": losses, "curve": curve, "refused": refused, "averaged": averaged}
(folder / f"rank{rank}.json").write_text(json.dumps(result))
"""


def test_two_processes_learn_as_one_with_twice_the_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two gloo processes of torchrun, stopped and resumed once, each with half of the batch."""
    script = tmp_path / "parallel.py"
    script.write_text(PARALLEL)
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    run = subprocess.run(
        [sys.executable, *launch, str(script), str(tmp_path)],
        env=environment(),
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr[-3000:]
    losses = recorded(monkeypatch)
    curve = train(random_supernet(SPACE), TOKENS, RECIPE, progress=False)
    first, second = (json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in (0, 1))
    assert first == second
    assert len(losses) == len(first["losses"]) == RECIPE.steps
    # float32 sums in two halves, over six steps
    assert np.allclose(losses, first["losses"], rtol=1e-4)
    assert np.allclose(curve, first["curve"], rtol=1e-4)
    assert first["averaged"] == [
        [2.0, 2.0, 2.0],
        None,
    ]  # the mean of 1 and 3; what has no gradient keeps none
    assert "divisible by 2 processes, got 3" in first["refused"]
    assert len(list(tmp_path.glob("training-*.safetensors"))) == 1  # one of them writes
    # gloo's threads have ended before Python has: one that lets go of a tensor later aborts
    threads = [json.loads((tmp_path / f"threads{rank}.json").read_text()) for rank in (0, 1)]
    assert all("gloo" not in name for names in threads for name in names)
