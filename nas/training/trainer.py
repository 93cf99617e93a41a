"""Training a supernet: sandwich rule with in-place distillation, checkpoints, exact resume, data parallelism."""

from __future__ import annotations

import contextlib
import hashlib
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from nas.data import TokenBatches
from nas.model.checkpoint import CheckpointError, load_tensors, save_tensors
from nas.model.masks import MaskCache
from nas.model.supernet import Supernet
from nas.training.distributed import Processes
from nas.training.loss import distillation_loss, next_token_loss
from nas.training.precision import faster_dtype
from nas.training.recipe import TrainingRecipe
from nas.training.sandwich import sandwich
from search_spaces import Architecture

LossCurve = list[tuple[int, float, float]]
Sampler = Callable[[int], list[Architecture]]


class TrainingDiverged(ValueError):
    """The loss is no longer a number."""


def train(
    supernet: Supernet,
    tokens: Any,
    recipe: TrainingRecipe,
    *,
    checkpoint: Path | None = None,
    start_from: str | None = None,
    subnets: Sampler | None = None,
    progress: bool = True,
    stop_after: int | None = None,
) -> LossCurve:
    """Train in place, from the last checkpoint if there is one.

    Args:
        supernet: on the device to train on; overwritten by the checkpoint's weights when resuming.
        tokens: one-dimensional array of token ids to draw sequences from.
        recipe: what to compute.
        checkpoint: JSON to keep checkpoints at; None keeps none.
        start_from: name of the weights training starts from; a checkpoint that started from others
            is refused. None for fresh ones.
        subnets: step to the subnets it visits, teacher first; the sandwich rule by default.
        progress: whether to show loss, tokens/s and the time left.
        stop_after: end early after this step, as if killed there: steps since the last checkpoint
            are lost.

    Returns:
        Loss curve: (step, largest subnet's loss, mean distillation loss of the others) in nats per
        token, averaged over 25 steps.

    Raises:
        TrainingDiverged: if a loss is not finite.
        ValueError: if the checkpoint belongs to another recipe, space or text, or the batch does
            not divide by the processes.
    """
    device = next(supernet.parameters()).device
    processes = Processes(device)
    if recipe.batch_size % processes.world_size:
        raise ValueError(
            f"expected batch_size divisible by {processes.world_size} processes, got {recipe.batch_size}"
        )
    visit = subnets or (
        lambda step: sandwich(
            supernet.space,
            recipe.num_random,
            recipe.seed,
            step,
            recipe.size_bias,
            recipe.whole_share,
        )
    )
    batches = TokenBatches(
        tokens, recipe.context, recipe.batch_size // processes.world_size, recipe.seed
    )
    optimizer = _optimizer(supernet, recipe)
    identity = {
        "start_from": start_from,
        "recipe": recipe.to_json(),
        "space": supernet.space.fingerprint,
        "num_tokens": len(tokens),
        "tokens_sha256": hashlib.sha256(np.ascontiguousarray(tokens).data).hexdigest(),
    }
    start, curve, recent, dtype = _resume(supernet, optimizer, checkpoint, identity)
    dtype = dtype or processes.agree(faster_dtype(recipe.dtype, device))
    masks = MaskCache(hold=True)
    bar = tqdm(
        total=recipe.steps,
        initial=start,
        unit="step",
        disable=not (progress and processes.is_first),
    )
    bar.set_description("train supernet")
    began = time.perf_counter()
    try:
        for step in range(start, recipe.steps):
            if step % recipe.mask_refresh_steps == 0:
                masks.clear()
            windows = batches.batch(step, processes.rank, processes.world_size)
            optimizer.zero_grad(set_to_none=True)
            losses = _backward(
                supernet, windows.to(device), visit(step), masks, dtype, recipe.distillation_weight
            )
            processes.average_gradients(supernet.parameters())
            for group in optimizer.param_groups:
                group["lr"] = recipe.learning_rate_at(step)
            norm = float(nn.utils.clip_grad_norm_(supernet.parameters(), recipe.gradient_clip))
            largest, others = processes.mean(losses).tolist()
            # Looked at before the optimizer can spoil the weights.
            if not all(math.isfinite(number) for number in (largest, others, norm)):
                raise TrainingDiverged(
                    f"expected a finite loss and gradient at step {step}, got {largest}, {others} and "
                    f"{norm}; lower learning_rate (now {recipe.learning_rate})"
                )
            optimizer.step()
            # The fused optimizer does not count its changes; mask caches would not notice them.
            torch.autograd.graph.increment_version(list(supernet.parameters()))

            recent.append((largest, others))
            if len(recent) == 25 or step + 1 == recipe.steps:
                mean = [sum(column) / len(recent) for column in zip(*recent, strict=True)]
                curve.append((step + 1, round(mean[0], 5), round(mean[1], 5)))
                recent.clear()
            num_tokens = (step + 1 - start) * recipe.batch_size * recipe.context
            speed = num_tokens / (time.perf_counter() - began)
            bar.set_postfix_str(f"loss {largest:.3f}, {speed:,.0f} tokens/s")
            bar.update()
            if (step + 1) % recipe.checkpoint_steps == 0 or step + 1 == recipe.steps:
                if checkpoint is not None and processes.is_first:
                    _save(supernet, optimizer, checkpoint, identity, step + 1, curve, recent, dtype)
                processes.wait()
            if step + 1 == stop_after:
                break
    finally:
        optimizer.zero_grad(set_to_none=True)
        bar.close()
    return curve


def _backward(
    supernet: Supernet,
    batch: Tensor,
    architectures: list[Architecture],
    masks: MaskCache,
    dtype: torch.dtype,
    distillation_weight: float,
) -> Tensor:
    """Accumulate the gradients of one step; losses [largest, mean of the others]."""
    inputs, targets = batch[:, :-1], batch[:, 1:]
    reduced = dtype != torch.float32

    def forward(architecture: Architecture) -> Tensor:
        with torch.autocast(batch.device.type, dtype) if reduced else contextlib.nullcontext():
            logits: Tensor = supernet(inputs, architecture, masks)
        return logits

    logits = forward(architectures[0])
    loss = next_token_loss(logits, targets)
    teacher = logits.detach()
    loss.backward()
    others = torch.zeros((), device=batch.device)
    for architecture in architectures[1:]:
        # The students' mean, not their sum: three students outvote the teacher, and a weak teacher holds all of them back.
        distilled = distillation_loss(forward(architecture), teacher) / (len(architectures) - 1)
        (distillation_weight * distilled).backward()
        others += distilled.detach()
    return torch.stack([loss.detach(), others])


def _optimizer(supernet: Supernet, recipe: TrainingRecipe) -> torch.optim.AdamW:
    matrices = [p for p in supernet.parameters() if p.ndim == 2]
    vectors = [p for p in supernet.parameters() if p.ndim != 2]
    groups = [
        {"params": matrices, "weight_decay": recipe.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=recipe.learning_rate, betas=(0.9, recipe.beta2), fused=True)


def _save(
    supernet: Supernet,
    optimizer: torch.optim.AdamW,
    path: Path,
    identity: dict[str, Any],
    step: int,
    curve: LossCurve,
    recent: list[tuple[float, float]],
    dtype: torch.dtype,
) -> None:
    tensors: dict[str, Tensor] = {f"model.{name}": p for name, p in supernet.named_parameters()}
    for name, parameter in supernet.named_parameters():
        for key, value in optimizer.state.get(parameter, {}).items():
            tensors[f"adam.{name}.{key}"] = torch.as_tensor(value)
    progress = {"step": step, "loss_curve": curve, "recent_losses": recent}
    info = identity | progress | {"dtype": str(dtype).removeprefix("torch.")}
    save_tensors(path, "training", tensors, info)


def _resume(
    supernet: Supernet, optimizer: torch.optim.AdamW, path: Path | None, identity: dict[str, Any]
) -> tuple[int, LossCurve, list[tuple[float, float]], torch.dtype | None]:
    if path is None or not path.exists():
        return 0, [], [], None
    tensors, info = load_tensors(path, "training")
    for name, expected in identity.items():
        if info.get(name, expected) != expected:
            raise CheckpointError(
                f"expected a checkpoint of this run at {path}, but its {name} differs: {info[name]} is not {expected}; "
                "use another output folder, or delete the checkpoint"
            )
    with torch.no_grad():
        for name, parameter in supernet.named_parameters():
            parameter.copy_(tensors[f"model.{name}"])
            prefix = f"adam.{name}."
            state = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
            if state:
                optimizer.state[parameter] = {k: v.to(parameter.device) for k, v in state.items()}
    curve = [(int(s), float(a), float(b)) for s, a, b in info["loss_curve"]]
    recent = [(float(a), float(b)) for a, b in info.get("recent_losses", [])]
    return int(info["step"]), curve, recent, getattr(torch, info["dtype"])
