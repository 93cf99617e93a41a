"""Means with intervals, paired tests, and Holm's correction.

s seeds, k tests.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats

LEVEL = 0.05


@dataclass(frozen=True)
class Mean:
    """A mean over seeds.

    Args:
        mean: of the values.
        half_width: of its 95 % interval by Student's t; 0 for a single value, which has none.
        num: of values.
        least: value.
    """

    mean: float
    half_width: float
    num: int
    least: float

    def __str__(self) -> str:
        """In percent, with what it rests on."""
        if self.num == 1:
            return f"{self.mean:.2%} (1 seed)"
        return f"{self.mean:.2%} ± {self.half_width:.2%} ({self.num} seeds)"


def mean_of(values_s: npt.ArrayLike) -> Mean:
    """Mean of values over seeds, with its 95 % interval by Student's t.

    Raises:
        ValueError: if there is no value.
    """
    values = np.asarray(values_s, dtype=np.float64).reshape(-1)
    if not len(values):
        raise ValueError("expected one value or more, got none")
    half = 0.0
    if len(values) > 1:
        spread = float(values.std(ddof=1)) / np.sqrt(len(values))
        half = float(stats.t.ppf(0.975, len(values) - 1)) * spread
    return Mean(float(values.mean()), half, len(values), float(values.min()))


@dataclass(frozen=True)
class Paired:
    """One searcher against another on the same seeds; the larger value is better.

    Args:
        num: seeds that both have.
        difference: mean of ours minus theirs.
        wins: seeds where ours is larger.
        losses: seeds where theirs is.
        p_t: one-sided paired t-test of ours being no larger; 1 where there are fewer than two seeds.
        p_wilcoxon: the same by Wilcoxon's signed-rank test (exact without ties); at least ``2^-num``, so it needs five seeds for 0.05.
    """

    num: int
    difference: float
    wins: int
    losses: int
    p_t: float
    p_wilcoxon: float


def paired(ours: Mapping[int, float], theirs: Mapping[int, float]) -> Paired:
    """Compare values by seed, on the seeds that both have.

    Raises:
        ValueError: if they have no seed in common.
    """
    seeds = sorted(set(ours) & set(theirs))
    if not seeds:
        raise ValueError("expected runs with a common seed, got none")
    d = np.array([ours[s] - theirs[s] for s in seeds])
    p_t = p_wilcoxon = 1.0
    if len(d) > 1:
        if np.ptp(d) == 0.0:  # no spread: the t statistic is infinite, or there is no difference
            p_t = 0.0 if d[0] > 0 else 1.0
        else:
            p_t = float(stats.ttest_1samp(d, 0.0, alternative="greater").pvalue)
        if np.any(d != 0.0):
            p_wilcoxon = float(stats.wilcoxon(d, alternative="greater").pvalue)
    wins, losses = int((d > 0).sum()), int((d < 0).sum())
    return Paired(len(d), float(d.mean()), wins, losses, p_t, p_wilcoxon)


def holm(p_k: Sequence[float]) -> list[float]:
    """Holm's step-down adjusted p values (1979): below a level, they reject with that family-wise error."""
    order = sorted(range(len(p_k)), key=lambda i: p_k[i])
    adjusted = [0.0] * len(p_k)
    before = 0.0
    for rank, i in enumerate(order):
        before = max(before, min(1.0, (len(p_k) - rank) * p_k[i]))
        adjusted[i] = before
    return adjusted
