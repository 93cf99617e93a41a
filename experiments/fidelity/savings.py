"""How many tokens a search needs for a hypervolume, from its trace; and how well low fidelity predicted the full one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from nas.fidelity.growing import LOW_FIDELITY
from nas.fidelity.promotions import PERPLEXITY
from nas.study import StudyResult

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Curve:
    """Hypervolume of full evaluations against the tokens paid so far, one entry a trial.

    Args:
        tokens: paid up to and with each trial.
        hypervolume: normalized, after each trial.
    """

    tokens: tuple[int, ...]
    hypervolume: tuple[float, ...]

    @classmethod
    def of(cls, study: StudyResult) -> Curve:
        """Of a study."""
        return cls(tuple(np.cumsum(study.tokens).tolist()), tuple(study.hypervolume_trace))

    def tokens_to(self, target: float) -> int | None:
        """Tokens paid when the hypervolume first reached ``target``; None if it never did."""
        for tokens, volume in zip(self.tokens, self.hypervolume, strict=True):
            if volume >= target:
                return tokens
        return None

    def at(self, tokens_n: npt.ArrayLike) -> FloatArray:
        """Hypervolume at numbers of tokens, shape (n,); 0 before the first trial."""
        steps = np.searchsorted(np.array(self.tokens), np.asarray(tokens_n), side="right")
        found: FloatArray = np.concatenate([[0.0], self.hypervolume])[steps]
        return found


@dataclass(frozen=True)
class Saving:
    """What growing fidelity saved with one seed.

    Args:
        seed: of both studies.
        target: final hypervolume of the search at full fidelity.
        full_tokens: what that search paid.
        full_tokens_to_target: what it had paid when it first reached its final hypervolume.
        growing_tokens: what the search with growing fidelity paid in all.
        growing_tokens_to_target: when it first reached the target with full evaluations; None if it did not.
        growing_hypervolume: its final one.
    """

    seed: int
    target: float
    full_tokens: int
    full_tokens_to_target: int
    growing_tokens: int
    growing_tokens_to_target: int | None
    growing_hypervolume: float

    @classmethod
    def of(cls, seed: int, full: Curve, growing: Curve) -> Saving:
        """Compare two studies of one seed."""
        target = full.hypervolume[-1]
        reached = full.tokens_to(target)
        assert reached is not None
        return cls(
            seed,
            target,
            full.tokens[-1],
            reached,
            growing.tokens[-1],
            growing.tokens_to(target),
            growing.hypervolume[-1],
        )

    @property
    def share(self) -> float | None:
        """Tokens to the target, of all that the search at full fidelity paid."""
        reached = self.growing_tokens_to_target
        return None if reached is None else reached / self.full_tokens

    @property
    def strict_share(self) -> float | None:
        """The same, of what that search had paid when it reached the target itself."""
        reached = self.growing_tokens_to_target
        return None if reached is None else reached / self.full_tokens_to_target

    def to_json(self) -> dict[str, Any]:
        """Fields and shares as JSON values."""
        return asdict(self) | {"share": self.share, "strict_share": self.strict_share}


def mean_curve(curves: Sequence[Curve]) -> Curve:
    """Mean hypervolume of several searches at every number of tokens at which one of them changed, up to where the first ends."""
    end = min(curve.tokens[-1] for curve in curves)
    tokens = sorted({t for curve in curves for t in curve.tokens if t <= end})
    means = np.mean([curve.at(tokens) for curve in curves], axis=0)
    return Curve(tuple(tokens), tuple(means.tolist()))


def prediction_errors(study: StudyResult) -> tuple[FloatArray, list[bool]]:
    """Of the architectures that were measured at low fidelity first: relative error of the predicted perplexity, and whether the 90 %
    interval held the full one. Promoted ones are the hopeful ones, so the errors lean to the optimistic side."""
    full = {e.architecture: e.value(PERPLEXITY) for e in study.full_evaluations}
    errors, covered = [], []
    for evaluation in study.evaluations:
        claim = evaluation.provenance["claims"][PERPLEXITY]
        true = full.get(evaluation.architecture)
        if claim["source"] == LOW_FIDELITY and true is not None:
            errors.append(claim["mean"] / true - 1.0)
            covered.append(claim["low"] <= true <= claim["high"])
    return np.array(errors), covered
