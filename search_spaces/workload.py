"""Workload: what a deployed model is asked to do while it is measured."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Phase = Literal["decode", "prefill"]


@dataclass(frozen=True)
class Workload:
    """One phase of generation at a batch size and a context length.

    ``decode`` is one step: one new token for each of ``batch`` sequences that already hold
    ``context`` tokens in the KV cache. ``prefill`` is one forward pass over ``batch`` prompts of
    ``context`` tokens.

    Args:
        phase: ``decode`` or ``prefill``.
        batch: sequences at once.
        context: tokens per sequence.

    Raises:
        ValueError: if a field is outside its domain.
    """

    phase: Phase
    batch: int = 1
    context: int = 128

    def __post_init__(self) -> None:
        if self.phase not in ("decode", "prefill"):
            raise ValueError(f"expected the phase 'decode' or 'prefill', got {self.phase!r}")
        for name in ("batch", "context"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ValueError(f"expected {name} to be a positive integer, got {value!r}")

    @classmethod
    def parse(cls, phase: str, fields: dict[str, str]) -> Workload:
        """Build from the text between the brackets of an objective, ``{"batch": "8", "context": "512"}``.

        Raises:
            ValueError: if a name is unknown or a number is not a positive integer.
        """
        unknown = set(fields) - {"batch", "context"}
        if unknown:
            raise ValueError(
                f"expected a workload of batch and context, got {sorted(unknown)}; write {phase}_ms[batch=1,context=128]"
            )
        try:
            numbers = {name: int(text) for name, text in fields.items()}
        except ValueError:
            raise ValueError(f"expected whole numbers in the workload, got {fields}") from None
        return cls(phase, **numbers)  # type: ignore[arg-type]

    def __str__(self) -> str:
        return f"{self.phase}[batch={self.batch},context={self.context}]"

    @property
    def num_tokens(self) -> int:
        """Tokens that pass through the linear layers at once."""
        return self.batch * (self.context if self.phase == "prefill" else 1)
