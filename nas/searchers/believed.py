"""The front of a noisy study by what is believed of its trials, instead of by one measurement each.

Of many noisy measurements the non-dominated ones are the luckiest: a front of told values is too good to be true, and made of the wrong
trials. A model that knows what alike architectures were told sees through luck.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from optuna.study import Study
from optuna.trial import FrozenTrial

from nas.pareto import non_dominated_mask
from nas.searchers.structured.sampler import StructuredSampler


@dataclass(frozen=True)
class BelievedTrial:
    """A complete trial and what is believed of it.

    Args:
        trial: as the study has it, with its told values.
        values: medians of what it is truly worth, in the study's units; as told where that is far worse than the bulk.
        stds: their standard deviations.
    """

    trial: FrozenTrial
    values: tuple[float, ...]
    stds: tuple[float, ...]


def believed_front(study: Study, sampler: StructuredSampler | None = None) -> list[BelievedTrial]:
    """Feasible trials that no other dominates by what is believed of them, in the study's order, each architecture once.

    Args:
        study: of any sampler, with two complete trials or more.
        sampler: a sampler ``auto`` whose beliefs to use, if it was made with ``known``, ``canonical`` or ``sources``; by default a new one.

    Raises:
        ValueError: if fewer than two trials are complete, they have not all the same parameters, or the sampler is another.
    """
    sampler = StructuredSampler(seed=0) if sampler is None else sampler
    if not isinstance(study, Study) or not isinstance(sampler, StructuredSampler):
        raise ValueError(
            f"expected an Optuna study and a sampler 'auto', got {study!r:.80} and {sampler!r:.80}; the study may be of any sampler, "
            "leave the second out"
        )
    trials, values, stds = sampler.believe(study)
    sign = np.array([1.0 if d.name == "MINIMIZE" else -1.0 for d in study.directions])
    feasible = [
        i for i, t in enumerate(trials) if all(excess <= 0.0 for excess in t.constraints.values())
    ]
    front = np.flatnonzero(non_dominated_mask(sign * values[feasible]))
    found: dict[tuple[object, ...], BelievedTrial] = {}
    for row in front:
        i = feasible[row]
        params = trials[i].params
        key = tuple(sorted((sampler.canonical(params) if sampler.canonical else params).items()))
        believed = BelievedTrial(trials[i], tuple(values[i].tolist()), tuple(stds[i].tolist()))
        found.setdefault(key, believed)
    return list(found.values())
