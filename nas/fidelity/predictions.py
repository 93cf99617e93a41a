"""What the full perplexity of architectures is predicted to be, from those that were measured on all tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from nas.fidelity.agreement import agreement
from nas.fidelity.calibration import Z_90, Calibration
from nas.fidelity.record import LossRecord, perplexity_of
from nas.objectives import Evaluation
from search_spaces import Architecture

FloatArray = npt.NDArray[np.float64]
Parts = tuple[int, ...]
_Key = tuple[Architecture, Parts, float]  # what was read of it, and the nats a token there


@dataclass(frozen=True)
class Predicted:
    """A full log perplexity that was not measured.

    Args:
        mean: nats a token.
        std: of the same.
    """

    mean: float
    std: float

    @property
    def perplexity(self) -> float:
        """exp of the mean."""
        return perplexity_of(self.mean)

    @property
    def interval(self) -> tuple[float, float]:
        """Of perplexity, 90 %, as if its logarithm were normal."""
        reach = Z_90 * self.std
        return perplexity_of(self.mean - reach), perplexity_of(self.mean + reach)


@dataclass
class Predictions:
    """Predicts full perplexities by one calibration for each set of parts that was read.

    It remembers what it found until another architecture is measured on all tokens. Each prediction is made by itself: what else is
    asked for, and when, does not change its last digits.
    """

    _full: tuple[tuple[Architecture, float], ...] = ()
    _records: list[LossRecord] = field(default_factory=list)
    _agreement: FloatArray | None = None
    _calibrations: dict[Parts, Calibration] = field(default_factory=dict)
    _found: dict[_Key, Predicted] = field(default_factory=dict)

    def __call__(
        self, full: Sequence[Evaluation], partial: Sequence[Evaluation]
    ) -> list[Predicted]:
        """One prediction for each partial evaluation.

        Args:
            full: evaluations on all tokens.
            partial: evaluations on fewer.
        """
        records = [LossRecord.of(e) for e in full]
        known = tuple((e.architecture, r.mean()) for e, r in zip(full, records, strict=True))
        if known != self._full or self._agreement is None:
            self._full, self._records = known, records
            architectures = [a for a, _ in known]
            self._agreement = agreement(architectures, architectures)
            self._calibrations, self._found = {}, {}
        keys = [_key(evaluation) for evaluation in partial]
        new = [key for key in dict.fromkeys(keys) if key not in self._found]
        alike = agreement([a for a, _ in known], [key[0] for key in new])  # exact, in any company
        for i, key in enumerate(new):
            _, parts, low = key
            mean, std = self._calibration(parts).predict([low], alike[:, i : i + 1])
            self._found[key] = Predicted(float(mean[0]), float(std[0]))
        return [self._found[key] for key in keys]

    def _calibration(self, parts: Parts) -> Calibration:
        if parts not in self._calibrations:
            low = [record.mean(parts) for record in self._records]
            full = [mean for _, mean in self._full]
            self._calibrations[parts] = Calibration.fit(low, full, self._agreement)
        return self._calibrations[parts]


def _key(evaluation: Evaluation) -> _Key:
    record = LossRecord.of(evaluation)
    return evaluation.architecture, record.parts, record.mean()
