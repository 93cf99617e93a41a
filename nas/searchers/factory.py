"""Searchers by name."""

from __future__ import annotations

import difflib
import functools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from optuna.samplers import (
    BaseSampler,
    GPSampler,
    NSGAIIISampler,
    NSGAIISampler,
    RandomSampler,
    TPESampler,
)

from nas.searchers.indexed import ReseededSampler

if TYPE_CHECKING:
    from nas.searchers.model_sampler import KnownObjective

# Optuna's 50 leaves NSGA in its random first generation for the whole of a small budget.
_POPULATION = 20


def _optuna(seed: int, *, name: str, options: Mapping[str, Any]) -> BaseSampler:
    """An Optuna sampler with the setting that did best on discrete multi-objective spaces."""
    if name == "random":
        return RandomSampler(seed=seed, **options)
    if name == "nsga2":
        return _NSGAII(seed=seed, **{"population_size": _POPULATION} | dict(options))
    if name == "nsga3":
        return _NSGAIII(seed=seed, **{"population_size": _POPULATION} | dict(options))
    if name == "tpe":
        # off by default with several objectives, though it finds more hypervolume there too
        tpe = {"multivariate": True, "constant_liar": False} | dict(options)
        return TPESampler(seed=seed, **tpe)
    return GPSampler(seed=seed, **{"warn_independent_sampling": False} | dict(options))


class _Stateless:
    """Makes the children of a generation independent of whether its parents were selected just now or are read from the storage.

    Optuna returns parents in the order of their selection the first time and by number later, and NSGA-III's selection draws from the
    random state that the children are drawn from. A study resumed after the first proposal of a generation was lost finds the parents
    stored, and would propose other children.
    """

    def __init__(self, *, seed: int, **options: Any) -> None:
        super().__init__(seed=seed, **options)  # type: ignore[call-arg]
        self._seed = seed

    def get_parent_population(self, study: Any, generation: int) -> list[Any]:
        """As Optuna's, by number and with the random state set back."""
        parents: list[Any] = super().get_parent_population(study, generation)  # type: ignore[misc]
        self._rng.rng.seed(self._seed)  # type: ignore[attr-defined]
        return sorted(parents, key=lambda trial: int(trial.number))


class _NSGAII(_Stateless, NSGAIISampler):
    pass


class _NSGAIII(_Stateless, NSGAIIISampler):
    pass


_OPTUNA = ("random", "nsga2", "nsga3", "tpe", "gp")
_BAYESIAN = {"qlognehvi": "nehvi", "qlognparego": "nparego"}
DEFAULT = "auto"


def model_samplers() -> tuple[str, ...]:
    """Names of those that also take ``search_space``, ``known``, ``canonical`` and ``ref_point``."""
    return (DEFAULT, *_BAYESIAN)


def samplers() -> tuple[str, ...]:
    """Names that :func:`make_sampler` knows."""
    return (DEFAULT, *_OPTUNA, *_BAYESIAN)


def make_sampler(
    name: str = DEFAULT,
    *,
    seed: int = 0,
    known: Mapping[int, KnownObjective] | None = None,
    ref_point: Sequence[float] | None = None,
    warm_start: Sequence[Mapping[str, Any]] = (),
    **options: Any,
) -> BaseSampler:
    """Make a searcher: an Optuna sampler for ``study.ask`` / ``study.tell`` and ``study.optimize``.

    Every proposal is a pure function of ``seed``, the trial's index and the finished trials, so a study can be resumed.

    Args:
        name: one of :func:`samplers`; ``auto`` is the default of a search.
        seed: of the whole study, 0 or more.
        known: objective index -> function of a list of params that returns (mean_n, std_n); used by :func:`model_samplers`, of no use to
            the others, which take it so that all can be raced with the same call.
        ref_point: worst values that still count; used by :func:`model_samplers` likewise.
        warm_start: parameters of the first proposals.
        options: further arguments of the sampler (``population_size``, ``n_startup_trials``, ...; for ``auto`` those of
            :class:`nas.searchers.structured.sampler.StructuredSampler`, for qlognehvi and qlognparego those of
            :class:`nas.searchers.bayesian_sampler.BayesianSampler`: ``search_space``, ``n_startup``, ``canonical``, ...).

    Raises:
        ValueError: if the name is unknown (the near ones are proposed), or an option is unknown or out of range.
    """
    if name not in samplers():
        near = difflib.get_close_matches(str(name).lower(), samplers(), n=3, cutoff=0.4)
        hint = f"; did you mean {' or '.join(near)}?" if near else ""
        raise ValueError(f"expected a sampler in {', '.join(samplers())}, got {name!r}{hint}")
    try:
        if name == DEFAULT:
            from nas.searchers.structured.sampler import StructuredSampler

            return StructuredSampler(
                seed=seed, known=known, ref_point=ref_point, warm_start=warm_start, **options
            )
        if name in _BAYESIAN:
            # here, because BoTorch takes two seconds to import
            from nas.searchers.bayesian_sampler import BayesianSampler

            acquisition: Any = _BAYESIAN[name]
            return BayesianSampler(
                seed=seed,
                acquisition=acquisition,
                known=known,
                ref_point=ref_point,
                warm_start=warm_start,
                **options,
            )
        make = functools.partial(_optuna, name=name, options=options)
        make(0)  # refuses wrong options now, not at the first trial
    except TypeError as error:
        raise ValueError(
            f"expected options of the sampler {name!r}, got {sorted(options)}: {error}"
        ) from error
    return ReseededSampler(make, seed=seed, warm_start=warm_start)
