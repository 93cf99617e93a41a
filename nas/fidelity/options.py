"""How fidelity grows."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Growing:
    """How fidelity grows.

    Args:
        shares: of the tokens, ascending; the last is 1.
        num_full: trials at the beginning that are measured on all tokens: they teach the calibration, and begin the front.
        min_gain: expected hypervolume that a promotion must be worth, as a share of the front's.
        early: tokens that promotions may cost before the end of the search, as a share of what new architectures have cost.

    Raises:
        ValueError: if the shares do not ascend to 1, fewer than two full trials begin, or another value is negative.
    """

    shares: tuple[float, ...] = (1 / 16, 3 / 16, 1.0)
    num_full: int = 4
    min_gain: float = 0.002
    early: float = 1.0

    def __post_init__(self) -> None:
        shares = tuple(map(float, self.shares))
        if not shares or shares[-1] != 1.0 or list(shares) != sorted({*shares}) or shares[0] <= 0:
            raise ValueError(
                f"expected ascending shares of the tokens that end with 1, got {self.shares}; (1/16, 3/16, 1) is the default"
            )
        if self.num_full < 2:
            raise ValueError(
                f"expected num_full of 2 or more, got {self.num_full}: a calibration needs pairs"
            )
        for name in ("min_gain", "early"):
            if not 0.0 <= getattr(self, name) < math.inf:
                raise ValueError(f"expected {name} of 0 or more, got {getattr(self, name)}")
        object.__setattr__(self, "shares", shares)

    def parts(self, count: int) -> tuple[int, ...]:
        """Parts of each fidelity, ascending, of a text of ``count`` parts; shares that come to the same count once."""
        return tuple(sorted({max(1, round(share * count)) for share in self.shares}))

    def to_json(self) -> dict[str, Any]:
        """Fields as JSON values."""
        return asdict(self) | {"shares": list(self.shares)}
