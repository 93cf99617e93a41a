"""TrainingRecipe: everything that decides what a training run computes, as one frozen value."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal


@dataclass(frozen=True)
class TrainingRecipe:
    """How a supernet is trained.

    Args:
        steps: optimizer steps; each reads ``batch_size * context`` tokens.
        batch_size: sequences per step, over all processes.
        context: tokens per sequence.
        learning_rate: peak of AdamW's learning rate (Loshchilov & Hutter, 1711.05101).
        warmup_steps: linear rise to the peak.
        final_learning_rate: end of the cosine, as a share of the peak.
        weight_decay: decoupled, on matrices only.
        beta2: AdamW's second momentum.
        gradient_clip: largest global gradient norm.
        num_random: random subnets per step beside the largest and the smallest (sandwich rule,
            1903.05134).
        size_bias: how often random subnets take the largest widths (:func:`~nas.training.sandwich.draw_subnet`).
        whole_share: how often random subnets leave a kind of choice whole (:func:`~nas.training.sandwich.draw_subnet`).
        distillation_weight: of the students' mean loss beside the largest subnet's.
        mask_refresh_steps: masks are recomputed from the weights every so many steps.
        checkpoint_steps: a checkpoint every so many steps; a multiple of ``mask_refresh_steps``, so
            that resuming is exact.
        seed: of weights, batches and subnets.
        dtype: arithmetic of the forward pass; ``auto`` is bfloat16 autocast where a timed product
            is faster.

    Raises:
        ValueError: if a field is outside its domain.
    """

    steps: int = 400
    batch_size: int = 16
    context: int = 256
    learning_rate: float = 1.5e-3
    warmup_steps: int = 100
    final_learning_rate: float = 0.05
    weight_decay: float = 0.05
    beta2: float = 0.98
    gradient_clip: float = 1.0
    num_random: int = 2
    size_bias: float = 0.0
    whole_share: float = 0.0
    distillation_weight: float = 1.0
    mask_refresh_steps: int = 25
    checkpoint_steps: int = 100
    seed: int = 0
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "context", "mask_refresh_steps", "checkpoint_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"expected {name} of 1 or more, got {getattr(self, name)}")
        for name in ("warmup_steps", "num_random", "weight_decay", "seed"):
            if getattr(self, name) < 0:
                raise ValueError(f"expected {name} of 0 or more, got {getattr(self, name)}")
        for name in ("size_bias", "whole_share"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f"expected {name} in [0, 1], got {getattr(self, name)}")
        for name in ("learning_rate", "gradient_clip", "distillation_weight"):
            if not getattr(self, name) > 0:
                raise ValueError(f"expected {name} above 0, got {getattr(self, name)}")
        if self.checkpoint_steps % self.mask_refresh_steps:
            raise ValueError(
                f"expected checkpoint_steps to be a multiple of mask_refresh_steps={self.mask_refresh_steps}, "
                f"got {self.checkpoint_steps}"
            )
        if self.dtype not in ("auto", "float32", "bfloat16"):
            raise ValueError(f"expected dtype auto, float32 or bfloat16, got {self.dtype!r}")

    @property
    def tokens(self) -> int:
        """Training tokens read in all."""
        return self.steps * self.batch_size * self.context

    def learning_rate_at(self, step: int) -> float:
        """Linear warm-up, then cosine to ``final_learning_rate`` of the peak (Loshchilov & Hutter, 1608.03983, eq. 5)."""
        if step < self.warmup_steps:
            return self.learning_rate * (step + 1) / self.warmup_steps
        progress = (step - self.warmup_steps) / max(1, self.steps - self.warmup_steps)
        cosine = 0.5 * (1.0 + math.cos(math.pi * min(1.0, progress)))
        return self.learning_rate * (
            self.final_learning_rate + (1.0 - self.final_learning_rate) * cosine
        )

    def to_json(self) -> dict[str, Any]:
        """Fields as JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> TrainingRecipe:
        """Inverse of :meth:`to_json`.

        Raises:
            ValueError: if a field is unknown or invalid.
        """
        try:
            return cls(**fields)
        except TypeError as error:
            raise ValueError(
                f"expected the fields of a TrainingRecipe ({', '.join(cls.__dataclass_fields__)}), got {sorted(fields)}"
            ) from error
