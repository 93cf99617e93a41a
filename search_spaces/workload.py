"""Workload: what a model is asked to do: the phases of generation, which are measured, and training, which is only modelled."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

Phase = Literal["decode", "prefill", "training"]


@dataclass(frozen=True)
class Workload:
    """One phase of a model's life at a batch size and a context length.

    ``decode`` is one step: one new token for each of ``batch`` sequences that already hold
    ``context`` tokens in the KV cache. ``prefill`` is one forward pass over ``batch`` prompts of
    ``context`` tokens. ``training`` is one step of an optimizer: forward, backward (gradients of
    inputs and of weights) and update, over ``batch`` sequences of ``context`` tokens.

    Args:
        phase: ``decode``, ``prefill`` or ``training``.
        batch: sequences at once.
        context: tokens per sequence.

    Raises:
        ValueError: if a field is outside its domain.
    """

    phase: Phase
    batch: int = 1
    context: int = 128

    def __post_init__(self) -> None:
        if self.phase not in get_args(Phase):
            raise ValueError(f"expected a phase in {get_args(Phase)}, got {self.phase!r}")
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
        return self.batch * (1 if self.phase == "decode" else self.context)

    def check_inference(self) -> None:
        """Refuse training where a forward pass is asked for: its time and its counts are others.

        Raises:
            ValueError: if the phase is ``training``.
        """
        if self.phase == "training":
            raise ValueError(
                f"expected a decode or prefill workload, got {self}; training is modelled by surrogates.latency_ms and "
                "surrogates.execution alone"
            )
