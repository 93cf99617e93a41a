"""A trial whose parameters are given, in a study of any sampler."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

from optuna.distributions import BaseDistribution
from optuna.study import Study
from optuna.trial import FrozenTrial

from nas.searchers.indexed import IndexedSampler


class _Given(IndexedSampler):
    """Proposes one point, under the index that the study's own sampler would have taken."""

    def __init__(self, params: Mapping[str, Any]) -> None:
        super().__init__(seed=0)
        self._params = dict(params)

    def infer_relative_search_space(
        self, study: Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """Nothing: no parameter depends on another."""
        return {}

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Nothing."""
        return {}

    def sample_independent(
        self,
        study: Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """The given value."""
        return self._params[param_name]


@contextlib.contextmanager
def given_params(study: Study, params: Mapping[str, Any] | None) -> Iterator[None]:
    """Trials asked for in here have these parameters; with None the study's sampler proposes.

    Not by ``study.enqueue_trial``: a process killed between enqueueing and asking would leave a waiting trial to whoever comes next.

    Args:
        study: any.
        params: a value for every parameter that will be asked for.
    """
    if params is None:
        yield
        return
    sampler, study.sampler = study.sampler, _Given(params)
    try:
        yield
    finally:
        study.sampler = sampler
