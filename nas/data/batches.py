"""Batches as pure functions of (seed, step, rank): a resumed run needs no data state."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch

Tokens = npt.NDArray[np.unsignedinteger[Any]]


class TokenBatches:
    """Random windows of a token array, the same for every run with the same seed.

    Rank r of a world of W takes rows r*B to (r+1)*B of the step's W*B windows, so W processes with batch B together
    see exactly the batch of one process with W*B rows.

    Args:
        tokens: [N] token ids, in memory or memory-mapped.
        context: T, tokens a model sees; a window has T+1 (inputs and targets).
        batch_size: B, rows per process.
        seed: chooses the windows, with the step.

    Raises:
        ValueError: fewer than T+1 tokens, or a size that is not positive.
    """

    def __init__(self, tokens: Tokens, context: int, batch_size: int, seed: int) -> None:
        _check_window(tokens, context)
        if batch_size < 1:
            raise ValueError(f"expected batch_size >= 1, got {batch_size}; pass a positive number")
        self.tokens = tokens
        self.context = context
        self.batch_size = batch_size
        self.seed = seed

    def batch(self, step: int, rank: int = 0, world_size: int = 1) -> torch.Tensor:
        """Return the windows of one step.

        Args:
            step: number of the optimizer step, from 0.
            rank: number of this process.
            world_size: number of processes.

        Returns:
            int64 [B, T+1]; inputs are ``[:, :-1]``, targets ``[:, 1:]``.
        """
        if not 0 <= rank < world_size:
            raise ValueError(f"expected 0 <= rank < world_size, got rank {rank} of {world_size}")
        rng = np.random.default_rng([self.seed, step])
        num_starts = len(self.tokens) - self.context
        starts = rng.integers(0, num_starts, size=world_size * self.batch_size)
        mine = starts[rank * self.batch_size : (rank + 1) * self.batch_size]
        return _windows(self.tokens, mine, self.context)


def validation_batch(tokens: Tokens, context: int, num_tokens: int) -> torch.Tensor:
    """Return fixed windows spread evenly over a held-out text, no token predicted twice.

    The text is cut into consecutive windows of T targets, and every k-th is taken: the first files
    of a text are no fair sample of it. When all windows are wanted, neighbors share one token, the
    last target of one and the first input of the next.

    Args:
        tokens: [N] held-out token ids.
        context: T, tokens a model sees.
        num_tokens: targets wanted; rounded down to whole windows, at least one and at most what the text holds.

    Returns:
        int64 [n, T+1] with n*T targets.

    Raises:
        ValueError: fewer than T+1 tokens.
    """
    _check_window(tokens, context)
    available = (len(tokens) - 1) // context
    wanted = max(1, min(num_tokens // context, available))
    chosen = np.arange(wanted, dtype=np.int64) * available // wanted
    return _windows(tokens, chosen * context, context)


def _check_window(tokens: Tokens, context: int) -> None:
    if context < 1:
        raise ValueError(f"expected context >= 1, got {context}; pass a positive number")
    if len(tokens) < context + 1:
        raise ValueError(
            f"expected at least context + 1 = {context + 1} tokens, got {len(tokens)}; "
            "use a longer text or a shorter context"
        )


def _windows(tokens: Tokens, starts: npt.NDArray[np.int64], context: int) -> torch.Tensor:
    index = starts[:, None] + np.arange(context + 1)
    return torch.from_numpy(np.asarray(tokens[index], dtype=np.int64))
