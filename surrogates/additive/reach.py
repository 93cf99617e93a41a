"""Reach: what the records have shown, so that a question far outside it can be flagged.

n architectures, g descriptors of the whole, w widths.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from surrogates.additive.descriptors import Described
from surrogates.additive.encoding import ABSENT, Encoded
from surrogates.base import BoolArray, FloatArray


@dataclass(frozen=True, eq=False)
class Reach:
    """Ranges and values of the records.

    Args:
        low_g: least value of each descriptor of the whole.
        high_g: greatest value.
        seen: widths, biases, attention parts and FFN parts that occurred, as sorted numbers.
    """

    low_g: FloatArray
    high_g: FloatArray
    seen: dict[str, npt.NDArray[np.int64]]

    @classmethod
    def fit(cls, x: Described, encoded: Encoded) -> Self:
        """Remember what n architectures show."""
        seen = {name: np.unique(values) for name, values in _choices(encoded).items()}
        return cls(x.whole_ng.min(axis=0), x.whole_ng.max(axis=0), seen)

    def is_beyond(self, x: Described, encoded: Encoded) -> BoolArray:
        """Where an architecture has a choice no record had, or lies half a range outside the records; shape (n,)."""
        margin_g = 0.5 * (self.high_g - self.low_g) + 1e-9
        outside_ng = (x.whole_ng < self.low_g - margin_g) | (x.whole_ng > self.high_g + margin_g)
        beyond_n: BoolArray = np.any(outside_ng, axis=1)
        for name, values in _choices(encoded).items():
            new = ~np.isin(values, self.seen[name])
            beyond_n |= new if new.ndim == 1 else np.any(new, axis=1)
        return beyond_n

    def to_arrays(self) -> dict[str, npt.NDArray[Any]]:
        """As arrays of an archive."""
        seen = {f"seen_{name}": values for name, values in self.seen.items()}
        return {"low_g": self.low_g, "high_g": self.high_g, **seen}

    @classmethod
    def from_arrays(cls, arrays: dict[str, npt.NDArray[Any]]) -> Self:
        """Inverse of :meth:`to_arrays`."""
        seen = {
            name.removeprefix("seen_"): values
            for name, values in arrays.items()
            if name.startswith("seen_")
        }
        return cls(arrays["low_g"], arrays["high_g"], seen)


def _choices(encoded: Encoded) -> dict[str, npt.NDArray[np.int64]]:
    """ABSENT counts as a choice that every record knows: depth is judged by its range."""
    return {
        "width": encoded.width_n,
        "bias": encoded.bias_n,
        "attention": np.column_stack([encoded.attention_nl, np.full(len(encoded), ABSENT)]),
        "ffn": np.column_stack([encoded.ffn_nl, np.full(len(encoded), ABSENT)]),
    }
