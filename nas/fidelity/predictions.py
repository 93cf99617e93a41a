"""What the full perplexity of architectures is predicted to be, from those that were measured on all tokens."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nas.fidelity.agreement import agreement
from nas.fidelity.calibration import Calibration
from nas.fidelity.record import LossRecord
from nas.objectives import Evaluation


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
        """The median."""
        return math.exp(self.mean)


def predict_full(full: Sequence[Evaluation], partial: Sequence[Evaluation]) -> list[Predicted]:
    """Predict full perplexities by one calibration for each set of parts that was read.

    Args:
        full: evaluations on all tokens.
        partial: evaluations on fewer.

    Returns:
        One prediction for each of ``partial``.
    """
    known = [e.architecture for e in full]
    alike = agreement(known, known + [e.architecture for e in partial])
    among, with_partial = alike[:, : len(full)], alike[:, len(full) :]
    records = [LossRecord.of(e) for e in full]
    lows = [LossRecord.of(e) for e in partial]
    found: dict[int, Predicted] = {}
    for parts in dict.fromkeys(record.parts for record in lows):
        members = [i for i, record in enumerate(lows) if record.parts == parts]
        calibration = Calibration.fit(
            [r.mean(parts) for r in records], [r.mean() for r in records], among
        )
        low = np.array([lows[i].mean() for i in members])
        means, stds = calibration.predict(low, with_partial[:, members])
        pairs = zip(means.tolist(), stds.tolist(), strict=True)
        found |= {i: Predicted(*pair) for i, pair in zip(members, pairs, strict=True)}
    return [found[i] for i in range(len(partial))]
