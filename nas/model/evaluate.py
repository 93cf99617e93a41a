"""Perplexity on a fixed token set."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from nas.model.masks import MaskCache
from nas.model.supernet import Supernet
from nas.model.transformer import GPTWeights, gpt_forward
from search_spaces import Architecture


@torch.inference_mode()
def total_log_loss(
    forward: Callable[[Tensor], Tensor], tokens_NT: Tensor, *, batch_size: int = 16
) -> float:
    """Next-token cross-entropy in nats, summed over all windows: sums over parts of the windows add up.

    Args:
        forward: maps token ids ``[B, T]`` to logits ``[B, T, V]``.
        tokens_NT: windows of ``T + 1`` tokens; each predicts its last T.
        batch_size: windows per forward pass; changes the result by rounding only.

    Raises:
        ValueError: if there is no window.
    """
    if tokens_NT.ndim != 2 or tokens_NT.shape[0] < 1 or tokens_NT.shape[1] < 2:
        raise ValueError(
            f"expected windows [N, T + 1] with N >= 1 and T >= 1, got {tuple(tokens_NT.shape)}"
        )
    total = 0.0
    for batch in tokens_NT.split(batch_size):
        logits = forward(batch[:, :-1]).float()
        total += float(
            F.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten(), reduction="sum").double()
        )
    return total


def perplexity(
    forward: Callable[[Tensor], Tensor], tokens_NT: Tensor, *, batch_size: int = 16
) -> float:
    """exp of the mean next-token cross-entropy over all windows.

    Args:
        forward: maps token ids ``[B, T]`` to logits ``[B, T, V]``.
        tokens_NT: windows of ``T + 1`` tokens; each predicts its last T.
        batch_size: windows per forward pass; changes the result by rounding only.

    Returns:
        Perplexity per token; lower is better.

    Raises:
        ValueError: if there is no window, or the model's loss is not finite.
    """
    total = total_log_loss(forward, tokens_NT, batch_size=batch_size)
    loss = total / (tokens_NT.shape[0] * (tokens_NT.shape[1] - 1))
    if not math.isfinite(loss):
        raise ValueError(f"expected a finite loss, got {loss}; the weights hold NaN or infinity")
    return math.exp(min(loss, 700.0))


def supernet_perplexities(
    supernet: Supernet,
    architectures: Sequence[Architecture],
    tokens_NT: Tensor,
    *,
    batch_size: int = 16,
    masks: MaskCache | None = None,
) -> list[float]:
    """Perplexity of many subnets on the same windows, sharing one mask cache.

    Args:
        supernet: the weights.
        architectures: members of its space.
        tokens_NT: windows of ``T + 1`` tokens on the supernet's device.
        batch_size: windows per forward pass.
        masks: shared across calls to reuse masks; a fresh one by default.

    Returns:
        One perplexity per architecture, in order.
    """
    masks = MaskCache() if masks is None else masks
    return [
        perplexity(subnet_forward(supernet, a, masks), tokens_NT, batch_size=batch_size)
        for a in architectures
    ]


def subnet_forward(
    supernet: Supernet, architecture: Architecture, masks: MaskCache
) -> Callable[[Tensor], Tensor]:
    """Token ids to logits of one subnet, for inference."""
    with torch.inference_mode():
        weights: GPTWeights = supernet.subnet(architecture, masks)

    def forward(tokens_BT: Tensor) -> Tensor:
        return gpt_forward(supernet.space.family, weights, tokens_BT)

    return forward
