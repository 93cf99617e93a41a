"""Sparsity: which weights of a matrix may be zero, and how many, as one short string.

``dense``, ``2:4``, ``unstructured:0.80``, ``block32:0.75``, ``vector64:0.80``: the number is the fraction of zeros. A weight
matrix is ``[out_features, in_features]``. A *group* is what is kept or dropped together:

=============  ==============================================  =======================================
pattern        group                                           how many are kept
=============  ==============================================  =======================================
unstructured   one weight                                      a fixed count in the whole matrix
block{B}       a B x B block                                   a fixed count in the whole matrix
vector{V}      one column of V consecutive output rows         the same count in every panel of V rows
N:M            one weight of M consecutive input columns       N in every M (Mishra et al., 2104.08378)
=============  ==============================================  =======================================

Balanced vector panels give every panel the same shape, which is what lets a kernel run them as one batched dense product.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from decimal import Decimal
from functools import cache
from typing import Literal

Pattern = Literal["dense", "unstructured", "block", "vector", "n:m"]

BLOCK_SIZES = (16, 32, 64)
VECTOR_SIZES = (32, 64, 128)
N_OF_M = ((2, 4), (1, 4), (2, 8), (1, 8))

_SPELLINGS = "dense, N:M (2:4, 1:4, 2:8, 1:8), unstructured:0.80, block{16,32,64}:0.75, vector{32,64,128}:0.80"


@dataclass(frozen=True, order=True)
class Sparsity:
    """A sparsity pattern and level.

    Args:
        pattern: ``dense``, ``unstructured``, ``block``, ``vector`` or ``n:m``.
        level: fraction of zero weights, in [0, 1); 0 exactly for ``dense``.
        size: edge of a block or length of a column vector; 0 for the other patterns.
        n: weights kept in each ``m`` consecutive input columns; 0 for the other patterns.
        m: group length of ``n:m``; 0 for the other patterns.

    Raises:
        ValueError: if the fields do not describe a pattern of the table above.
    """

    pattern: Pattern = "dense"
    level: float = 0.0
    size: int = 0
    n: int = 0
    m: int = 0

    def __post_init__(self) -> None:
        if not (isinstance(self.level, int | float) and 0.0 <= self.level < 1.0):
            raise ValueError(
                f"expected a sparsity level in [0, 1) (the fraction of zeros), got {self.level!r}; "
                "to drop a whole block use attention=False or ffn=False"
            )
        object.__setattr__(self, "level", float(self.level))
        if any(type(number) is not int for number in (self.size, self.n, self.m)):
            raise ValueError(
                f"expected whole numbers for size, n and m, got {(self.size, self.n, self.m)}"
            )
        expected_size = {"block": BLOCK_SIZES, "vector": VECTOR_SIZES}.get(self.pattern, (0,))
        if self.pattern not in ("dense", "unstructured", "block", "vector", "n:m"):
            raise ValueError(
                f"expected one of the patterns {_SPELLINGS}, got pattern {self.pattern!r}"
            )
        if self.size not in expected_size:
            raise ValueError(
                f"expected size in {expected_size} for pattern {self.pattern!r}, got {self.size}"
            )
        if self.pattern == "n:m":
            if (self.n, self.m) not in N_OF_M:
                raise ValueError(f"expected N:M in {N_OF_M}, got {self.n}:{self.m}")
            if self.level != 1.0 - self.n / self.m:
                raise ValueError(
                    f"expected level {1.0 - self.n / self.m} for {self.n}:{self.m}, got {self.level}"
                )
        elif (self.n, self.m) != (0, 0):
            raise ValueError(
                f"expected n = m = 0 for pattern {self.pattern!r}, got {self.n}:{self.m}"
            )
        if (self.pattern == "dense") != (self.level == 0.0):
            raise ValueError(
                f"expected level 0 for 'dense' and above 0 for {self.pattern!r}, got {self.level}; "
                "write 'dense' for a matrix without zeros"
            )

    @classmethod
    def parse(cls, text: str) -> Sparsity:
        """Read the short string form.

        Args:
            text: for example ``"dense"``, ``"2:4"``, ``"unstructured:0.80"``, ``"block32:0.75"``.

        Raises:
            ValueError: if ``text`` is not a spelling of a pattern, or its level or size is not allowed.
        """
        if not isinstance(text, str):
            raise ValueError(f"expected a sparsity such as {_SPELLINGS}, got {text!r}")
        return _parse(text)

    def __str__(self) -> str:
        if self.pattern == "dense":
            return "dense"
        if self.pattern == "n:m":
            return f"{self.n}:{self.m}"
        # Two decimals is the house spelling; a finer level keeps every digit it needs to be read back equal.
        level = f"{self.level:.2f}"
        if float(level) != self.level:
            # Digits alone: 1e-05 is no spelling of a level.
            level = f"{Decimal(repr(self.level)):f}"
        return f"{self.pattern}{self.size or ''}:{level}"

    @property
    def is_dense(self) -> bool:
        """Whether every weight is kept."""
        return self.pattern == "dense"

    def check_shape(self, out_features: int, in_features: int) -> None:
        """Refuse a matrix that the pattern does not divide.

        Raises:
            ValueError: naming the dimension, the divisor and the nearest sizes that fit.
        """
        divisors = {
            "block": (self.size, self.size),
            "vector": (self.size, 1),
            "n:m": (1, self.m),
        }.get(self.pattern, (1, 1))
        for name, size, divisor in (
            ("out_features", out_features, divisors[0]),
            ("in_features", in_features, divisors[1]),
        ):
            if size < 1 or size % divisor:
                low = max(divisor, size - size % divisor)
                raise ValueError(
                    f"expected {name} divisible by {divisor} for sparsity {self}, got {size} "
                    f"(matrix {out_features} x {in_features}); use {low} or {low + divisor}, or another pattern"
                )

    def num_groups(self, out_features: int, in_features: int) -> int:
        """Groups that compete with one another: in the matrix, in a vector panel, or in M columns."""
        if self.pattern == "block":
            return (out_features // self.size) * (in_features // self.size)
        if self.pattern == "vector":
            return in_features
        if self.pattern == "n:m":
            return self.m
        return out_features * in_features

    def num_kept(self, out_features: int, in_features: int) -> int:
        """Groups kept of :meth:`num_groups`: the level rounded to the nearest count, at least one."""
        groups = self.num_groups(out_features, in_features)
        return max(1, groups - math.floor(self.level * groups + 0.5))

    def nonzeros(self, out_features: int, in_features: int) -> int:
        """Exact number of weights kept in an ``out_features x in_features`` matrix."""
        self.check_shape(out_features, in_features)
        kept = self.num_kept(out_features, in_features)
        if self.pattern == "block":
            return kept * self.size * self.size
        if self.pattern == "vector":
            return kept * out_features
        if self.pattern == "n:m":
            return out_features * (in_features // self.m) * self.n
        return kept

    def stored_bytes(
        self, out_features: int, in_features: int, value_bytes: int, format: str | None = None
    ) -> int:
        """Exact bytes of the stored weight matrix; see :func:`search_spaces.formats.stored_bytes`."""
        from search_spaces.formats import stored_bytes  # which reads this module

        return stored_bytes(self, out_features, in_features, value_bytes, format)


@cache
def _parse(text: str) -> Sparsity:
    if text == "dense":
        return DENSE
    if match := re.fullmatch(r"([0-9]{1,3}):([0-9]{1,3})", text):
        n, m = int(match[1]), int(match[2])
        if (n, m) not in N_OF_M:
            raise ValueError(f"expected N:M in {N_OF_M}, got {text!r}; {_SPELLINGS} are known")
        return Sparsity("n:m", 1.0 - n / m, n=n, m=m)
    if match := re.fullmatch(r"unstructured:(-?[0-9.]+)", text):
        return Sparsity("unstructured", _level(match[1], text))
    if match := re.fullmatch(r"(block|vector)([0-9]{1,4}):(-?[0-9.]+)", text):
        pattern: Pattern = "block" if match[1] == "block" else "vector"
        return Sparsity(pattern, _level(match[3], text), size=int(match[2]))
    raise ValueError(f"expected a sparsity such as {_SPELLINGS}, got {text!r}")


def _level(number: str, text: str) -> float:
    try:
        return float(number)
    except ValueError:
        raise ValueError(f"expected a sparsity such as {_SPELLINGS}, got {text!r}") from None


DENSE = Sparsity()
