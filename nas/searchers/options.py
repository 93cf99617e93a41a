"""Options of the samplers, checked where a sampler is made instead of at its first model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from numbers import Integral
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
from optuna.distributions import BaseDistribution

FloatArray = npt.NDArray[np.float64]
F = TypeVar("F", bound=Callable[..., Any])


def at_least(name: str, value: Any, least: int) -> int:
    """A whole number.

    Raises:
        ValueError: if it is none, or smaller than ``least``.
    """
    if isinstance(value, bool) or not isinstance(value, Integral) or int(value) < least:
        raise ValueError(f"expected {name} of {least} or more, a whole number, got {value!r}")
    return int(value)


def function(name: str, value: F | None) -> F | None:
    """A function or None.

    Raises:
        ValueError: if it cannot be called.
    """
    if value is not None and not callable(value):
        raise ValueError(f"expected {name} to be a function of params, got {value!r}")
    return value


def indices(name: str, values: Any) -> frozenset[int]:
    """Indices of objectives.

    Raises:
        ValueError: if they are no list of whole numbers of zero or more.
    """
    is_list = isinstance(values, Sequence | set | frozenset) and not isinstance(values, str | bytes)
    if not is_list or not all(
        isinstance(v, Integral) and not isinstance(v, bool) and int(v) >= 0 for v in values
    ):
        raise ValueError(
            f"expected {name} to be a list of indices of objectives, like [1], got {values!r}"
        )
    return frozenset(int(v) for v in values)


def names(name: str, values: Any, offered: Sequence[str]) -> frozenset[str]:
    """Some of the names that are offered.

    Raises:
        ValueError: if they are no list, or another is among them.
    """
    is_list = isinstance(values, Sequence | set | frozenset) and not isinstance(values, str | bytes)
    if not is_list or (foreign := sorted(str(v) for v in {*values} - {*offered})):
        got = repr(values) if not is_list else foreign
        raise ValueError(f"expected {name} to be a list of {', '.join(offered)}, got {got}")
    return frozenset(values)


def reference(values: Any) -> tuple[float, ...] | None:
    """A reference point or None.

    Raises:
        ValueError: if it is no list of finite numbers.
    """
    if values is None:
        return None
    try:
        found = tuple(float(v) for v in values)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"expected ref_point to be a list of numbers, one an objective, got {values!r}"
        ) from error
    if not found or not np.isfinite(found).all():
        raise ValueError(
            f"expected a finite ref_point, got {values!r}; leave it out to have it chosen"
        )
    return found


def known_objectives(values: Any) -> dict[int, Any]:
    """Known objectives by index.

    Raises:
        ValueError: if it is no mapping of indices to functions.
    """
    if values is None:
        return {}
    if not isinstance(values, Mapping) or not all(map(callable, values.values())):
        raise ValueError(
            "expected known to be a mapping of an objective's index to a function of a list of params that returns "
            f"(means, stds), got {values!r:.120}"
        )
    indices("known", list(values))
    return {int(index): values[index] for index in values}


def moments(objective: int, returned: Any, count: int) -> tuple[FloatArray, FloatArray]:
    """What a known objective returned: means and standard deviations, shapes (count,).

    Raises:
        ValueError: if it is anything but as many finite means, and deviations of zero or more.
    """
    try:
        mean, std = returned
        means = np.asarray(mean, dtype=np.float64)
        stds = np.broadcast_to(np.asarray(std, dtype=np.float64), means.shape)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"expected known objective {objective} to return a pair, {count} finite means and standard deviations of 0 or more, got "
            f"{returned!r:.120}"
        ) from error
    is_finite = np.isfinite(means).all() and np.isfinite(stds).all()
    if means.shape != (count,) or not is_finite or (stds < 0.0).any():
        raise ValueError(
            f"expected known objective {objective} to return {count} finite means and standard deviations of 0 or more, got shapes "
            f"{means.shape} and {np.shape(std)} with values from {means.min():g} and {stds.min():g}"
            if means.size
            else f"expected known objective {objective} to return {count} finite means, got none"
        )
    return means, stds


def warm_starts(values: Any) -> tuple[dict[str, Any], ...]:
    """Parameters of the first proposals.

    Raises:
        ValueError: if they are no list of mappings.
    """
    is_list = isinstance(values, Sequence) and not isinstance(values, str | bytes)
    if not is_list or not all(isinstance(params, Mapping) for params in values):
        raise ValueError(
            f"expected warm_start to be a list of params, like [{{'depth': 4}}], got {values!r:.120}"
        )
    return tuple(dict(params) for params in values)


def distributions(
    search_space: Any, warm_start: Sequence[Mapping[str, Any]]
) -> dict[str, BaseDistribution] | None:
    """A search space or None.

    Raises:
        ValueError: if it is empty, no mapping of names to distributions, or misses a parameter of the warm start.
    """
    if search_space is None:
        return None
    if not isinstance(search_space, Mapping) or not all(
        isinstance(d, BaseDistribution) for d in search_space.values()
    ):
        raise ValueError(
            f"expected search_space to map names to Optuna distributions, got {search_space!r:.120}"
        )
    if not search_space:
        raise ValueError(
            "expected a search_space of one parameter or more, got an empty one; leave it out to have it read from the study"
        )
    if foreign := sorted({name for params in warm_start for name in params} - {*search_space}):
        raise ValueError(
            f"expected warm_start with parameters of search_space, got {foreign} besides"
        )
    return dict(search_space)


def given(name: str, value: Any, distribution: BaseDistribution) -> Any:
    """A value of a warm start.

    Raises:
        ValueError: if the distribution does not offer it.
    """
    try:
        inside = distribution._contains(distribution.to_internal_repr(value))
    except (TypeError, ValueError, KeyError):
        inside = False
    if not inside:
        raise ValueError(
            f"expected warm_start with values that the space offers, got {name}={value!r} where it is {distribution}"
        )
    return value
