"""What an evaluation keeps of its log-losses, so that the rest of the text can be added to them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from nas.objectives import Evaluation
from search_spaces import Architecture

_KEY = "log_loss"  # of an evaluation's provenance
_LARGEST = 700.0  # nats a token; exp of more overflows


@dataclass(frozen=True)
class LossRecord:
    """Summed log-losses of one architecture on the parts of a held-out text that it has read.

    A sum over the text is the sum over its parts: going on from a record costs the parts that it lacks alone, and whatever was read
    first, the perplexity of all parts is the same number.

    Args:
        parts: indices, ascending.
        tokens: predicted in each part.
        nats: summed negative log-likelihood of these tokens.

    Raises:
        ValueError: if the lengths differ, the indices do not ascend, or a sum is not finite.
    """

    parts: tuple[int, ...] = ()
    tokens: tuple[int, ...] = ()
    nats: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        lengths = {len(self.parts), len(self.tokens), len(self.nats)}
        if len(lengths) > 1 or list(self.parts) != sorted({*self.parts}):
            raise ValueError(
                f"expected ascending parts with tokens and a sum each, got {self.parts}, {self.tokens} and {self.nats}"
            )
        if not all(map(math.isfinite, self.nats)):
            raise ValueError(
                f"expected finite sums of log-losses, got {self.nats}; the weights hold NaN or infinity"
            )

    @classmethod
    def of(cls, evaluation: Evaluation | None) -> LossRecord:
        """The record an evaluation keeps; an empty one for none."""
        fields = {} if evaluation is None else evaluation.provenance.get(_KEY, {})
        return cls(**{name: tuple(values) for name, values in fields.items()})

    def to_provenance(self) -> dict[str, Any]:
        """The entry of an evaluation's provenance."""
        fields = {"parts": self.parts, "tokens": self.tokens, "nats": self.nats}
        return {_KEY: {name: list(values) for name, values in fields.items()}}

    def lacks(self, parts: Sequence[int]) -> list[int]:
        """Those of ``parts`` that were not read."""
        return [part for part in parts if part not in self.parts]

    def extended(self, found: Mapping[int, tuple[int, float]]) -> LossRecord:
        """With the (tokens, nats) of more parts."""
        mine = dict(zip(self.parts, zip(self.tokens, self.nats, strict=True), strict=True))
        every = sorted((mine | dict(found)).items())
        return LossRecord(
            tuple(part for part, _ in every),
            tuple(tokens for _, (tokens, _) in every),
            tuple(nats for _, (_, nats) in every),
        )

    def mean(self, parts: Sequence[int] | None = None) -> float:
        """Nats a token (log perplexity) on some parts, by default on all that were read."""
        wanted = set(self.parts if parts is None else parts)
        rows = zip(self.parts, self.tokens, self.nats, strict=True)
        chosen = [(tokens, nats) for part, tokens, nats in rows if part in wanted]
        return math.fsum(n for _, n in chosen) / sum(t for t, _ in chosen)

    @property
    def num_tokens(self) -> int:
        """Tokens read."""
        return sum(self.tokens)

    @property
    def perplexity(self) -> float:
        """On all that was read."""
        return perplexity_of(self.mean())


def perplexity_of(log_perplexity: float) -> float:
    """exp, bounded where it would overflow: a broken architecture must not end a search."""
    return math.exp(min(log_perplexity, _LARGEST))


def full_mask(
    evaluations: Sequence[Evaluation], full_fidelity: int | None
) -> npt.NDArray[np.bool_]:
    """Which evaluations are on all tokens: all where nothing says how many those are."""
    full = [full_fidelity is None or e.fidelity == full_fidelity for e in evaluations]
    return np.array(full, dtype=np.bool_)


def tokens_paid(evaluations: Sequence[Evaluation]) -> tuple[int, ...]:
    """Tokens that each evaluation had to read beyond those of an earlier one of its architecture; 0 where it depends on none."""
    paid = []
    known: dict[Architecture, int] = {}
    for evaluation in evaluations:
        before = known.get(evaluation.architecture, 0)
        paid.append(max(0, (evaluation.fidelity or 0) - before))
        known[evaluation.architecture] = before + paid[-1]
    return tuple(paid)


def spread_order(count: int) -> list[int]:
    """All of ``count`` parts in an order of which every beginning is spread evenly over the text: bits reversed.

    The first files of a text are no fair sample of it (van der Corput, 1935: the sequence of radical inverses).
    """
    bits = max(count - 1, 0).bit_length()
    reversed_bits = [int(f"{i:0{bits}b}"[::-1], 2) if bits else 0 for i in range(2**bits)]
    return [i for i in reversed_bits if i < count]
