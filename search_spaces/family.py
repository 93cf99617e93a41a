"""Family: what every architecture of a search space has in common (norm, activation, positions, vocabulary)."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

Norm = Literal["layernorm", "rmsnorm"]
Activation = Literal["gelu", "gelu_tanh", "swiglu"]
Positions = Literal["learned", "rotary"]
Residual = Literal["sequential", "parallel"]


@dataclass(frozen=True)
class Family:
    """The fixed part of a GPT.

    Args:
        vocab_size: tokens in the vocabulary.
        context_length: longest sequence, in tokens.
        head_dim: features of one attention head; even when positions are rotary.
        norm: ``layernorm`` (weight and bias) or ``rmsnorm`` (weight only).
        activation: ``gelu`` (up, down), ``gelu_tanh`` (the same with the tanh approximation, as GPT-2) or ``swiglu`` (gate, up,
            down).
        positions: ``learned`` absolute embeddings or ``rotary`` (Su et al., 2104.09864).
        rotary_fraction: share of each head that rotates, in (0, 1] (GPT-NeoX uses 0.25,
            HW-GPT-Bench 0.5).
        residual: ``sequential`` (GPT-2) or ``parallel`` (GPT-NeoX: attention and FFN read the same
            input).
        queries_per_kv_head: query heads that share one key/value head; 1 is multi-head attention.
        tied_embeddings: whether the output layer is the token embedding.

    Raises:
        ValueError: if a field is outside its domain.
    """

    vocab_size: int
    context_length: int
    head_dim: int
    norm: Norm = "layernorm"
    activation: Activation = "gelu"
    positions: Positions = "learned"
    rotary_fraction: float = 1.0
    residual: Residual = "sequential"
    queries_per_kv_head: int = 1
    tied_embeddings: bool = True

    def __post_init__(self) -> None:
        for name in ("vocab_size", "context_length", "head_dim", "queries_per_kv_head"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ValueError(f"expected {name} to be a positive integer, got {value!r}")
        for name, domain in (
            ("norm", Norm),
            ("activation", Activation),
            ("positions", Positions),
            ("residual", Residual),
        ):
            if getattr(self, name) not in get_args(domain):
                raise ValueError(
                    f"expected {name} in {get_args(domain)}, got {getattr(self, name)!r}"
                )
        fraction = self.rotary_fraction
        if not isinstance(fraction, int | float) or not 0.0 < fraction <= 1.0:
            raise ValueError(f"expected rotary_fraction in (0, 1], got {fraction!r}")
        object.__setattr__(self, "rotary_fraction", float(fraction))  # 1 and 1.0 are one family
        if not isinstance(self.tied_embeddings, bool):
            raise ValueError(
                f"expected tied_embeddings to be True or False, got {self.tied_embeddings!r}"
            )
        if self.positions == "rotary" and (self.rotary_dim < 2 or self.rotary_dim % 2):
            raise ValueError(
                f"expected an even number (2 or more) of rotary features, got {self.rotary_dim} "
                f"(head_dim {self.head_dim} x rotary_fraction {self.rotary_fraction})"
            )

    @property
    def rotary_dim(self) -> int:
        """Features of each head that rotate."""
        return int(self.head_dim * self.rotary_fraction)

    def kv_heads(self, num_heads: int) -> int:
        """Key/value heads that serve ``num_heads`` query heads.

        Raises:
            ValueError: if the query heads do not divide into groups.
        """
        if num_heads % self.queries_per_kv_head:
            raise ValueError(
                f"expected num_heads divisible by queries_per_kv_head={self.queries_per_kv_head}, "
                f"got {num_heads}"
            )
        return num_heads // self.queries_per_kv_head

    def to_json(self) -> dict[str, Any]:
        """Fields as JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> Family:
        """Inverse of :meth:`to_json`.

        Raises:
            ValueError: if a field is missing, unknown or outside its domain.
        """
        if not isinstance(fields, dict) or not set(fields) <= set(cls.__dataclass_fields__):
            raise ValueError(
                f"expected the fields of a Family ({', '.join(cls.__dataclass_fields__)}), got {fields!r}"
            )
        try:
            return cls(**fields)
        except TypeError as error:
            raise ValueError(f"expected a whole Family, got {fields!r}: {error}") from error
