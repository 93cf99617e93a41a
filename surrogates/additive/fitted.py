"""Fitted: what a fit of the additive surrogate leaves behind, and its parts in a file.

n records, s architectures asked for, p whitened features.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, Self, get_args

import numpy as np
import numpy.typing as npt
from threadpoolctl import threadpool_limits

from surrogates.additive.choices import ChoiceVectors
from surrogates.additive.descriptors import Described
from surrogates.additive.encoding import Encoded
from surrogates.additive.evidence import Posterior, posterior
from surrogates.additive.fitting import Units
from surrogates.additive.inputs import Inputs
from surrogates.additive.kernel import NAMES, LinearForm, Whitening
from surrogates.additive.reach import Reach
from surrogates.additive.scores import Scores
from surrogates.base import FloatArray

_POINTS, _LOSS = 1000, 0.01  # a saved covariance may lose this share of the noise, over that many
_NOISE = NAMES.index("noise")
Of = Literal["measurement", "value"]
Arrays = dict[str, npt.NDArray[Any]]


@dataclass(frozen=True, eq=False)
class Rows:
    """The records of a fit, which say the posterior in a hundredth of its size where they are few.

    Args:
        encoded: n architectures.
        z_n: their standardized values.
        noise_n: variance of the noise of each.
    """

    encoded: Encoded
    z_n: FloatArray
    noise_n: FloatArray

    def to_arrays(self) -> Arrays:
        """As arrays of an archive."""
        rows = {f"records_{name}": array for name, array in self.encoded.to_arrays().items()}
        return {**rows, "records_z_n": self.z_n, "records_noise_n": self.noise_n}

    @classmethod
    def from_arrays(cls, arrays: Arrays, space: str) -> Self:
        """Inverse of :meth:`to_arrays`, for the space of a fingerprint; other arrays may stand beside."""
        own = named("records_", arrays)
        z_n, noise_n = own.pop("z_n"), own.pop("noise_n")
        return cls(Encoded.from_arrays(own, space), z_n, noise_n)


@dataclass(frozen=True, eq=False)
class Fitted:
    """A fitted model of one metric.

    Args:
        inputs: what it is told about architectures.
        theta: logarithms of the hyperparameters, in the order of ``kernel.NAMES``.
        posterior: of the weights of the whitened features, for standardized values.
        units: of the values.
        scores: distribution of the error, of a ``measurement`` and of the ``value``.
        reach: what the records have shown.
        rows: the records; None where a file holds the posterior in their place.
        num_records: how many there were.
        quality: Kendall's tau and MAPE out of fold.
    """

    inputs: Inputs
    theta: FloatArray
    posterior: Posterior
    units: Units
    scores: Mapping[str, Scores]
    reach: Reach
    rows: Rows | None
    num_records: int
    quality: dict[str, float]

    @cached_property
    def whitening(self) -> Whitening:
        """The prior's weight-space form under the learned hyperparameters."""
        return self.inputs.whitening(self.theta)

    @cached_property
    def _linear(self) -> LinearForm:
        nothing = self.inputs.describe(self.inputs.encoder([]))
        return self.whitening.fold(self.posterior.mean_p, nothing)

    def mean(self, x: Described, width_n: npt.NDArray[np.int64]) -> FloatArray:
        """Expected values of s architectures, shape (s,), without their variance, which costs most."""
        return self.units.positive(self._linear(x, width_n))

    def mean_and_std(
        self, x: Described, width_n: npt.NDArray[np.int64]
    ) -> tuple[FloatArray, FloatArray]:
        """Expected values of s architectures, and the standard deviation of the model's own uncertainty relative to them."""
        mean_s, variance_s = self.posterior(self.whitening(x, width_n))
        mean_s = self.units.positive(mean_s)
        return mean_s, self.units.unit * np.sqrt(variance_s) / mean_s

    def to_parts(self) -> tuple[dict[str, Any], Arrays]:
        """As JSON values and arrays."""
        meta = {
            "names": list(NAMES),
            "kinds": list(self.inputs.kinds),
            "middle": self.units.middle,
            "unit": self.units.unit,
            "floor": self.units.floor,
            "num_records": self.num_records,
            "out_of_fold_quality": self.quality,
            "scores": {name: scores.to_json() for name, scores in self.scores.items()},
        }
        return meta, {
            "theta": self.theta,
            **self._posterior_arrays(),
            **self.reach.to_arrays(),
        }

    def _posterior_arrays(self) -> Arrays:
        """Of few records the records themselves; of many the posterior, in single precision and without what hardly matters."""
        found = self.posterior
        if found.is_reduction:
            assert self.rows is not None
            return self.rows.to_arrays()
        choices = ChoiceVectors(self.inputs.encoder)
        sample = choices.decode(choices.sample(_POINTS, np.random.default_rng(0)))
        psi_sp = self.inputs.features(self.whitening, sample)
        found = found.compressed(psi_sp, _LOSS * float(np.exp(self.theta[_NOISE])))
        return {"mean_p": found.mean_p, "spread_rp": found.spread_rp.astype(np.float32)}

    @classmethod
    def from_parts(cls, inputs: Inputs, meta: Mapping[str, Any], arrays: Arrays) -> Self:
        """Inverse of :meth:`to_parts`, for the inputs it was fitted with.

        Raises:
            ValueError, KeyError, TypeError: if they are not those of this version.
        """
        if meta["names"] != list(NAMES) or meta["kinds"] != list(inputs.kinds):
            raise ValueError("its descriptors are not those of this version")
        theta, rows = arrays["theta"], None
        if "mean_p" in arrays:
            spread_rp = arrays["spread_rp"].astype(np.float64)
            found = Posterior(arrays["mean_p"], spread_rp, False)
        else:
            rows = Rows.from_arrays(arrays, inputs.space.fingerprint)
            with threadpool_limits(1, "blas"):
                psi_np = inputs.features(inputs.whitening(theta), rows.encoded)
                found = posterior(psi_np, rows.z_n, rows.noise_n)
        return cls(
            inputs=inputs,
            theta=theta,
            posterior=found,
            units=Units(float(meta["middle"]), float(meta["unit"]), float(meta["floor"])),
            scores={name: Scores.from_json(meta["scores"][name]) for name in get_args(Of)},
            reach=Reach.from_arrays(arrays),
            rows=rows,
            num_records=int(meta["num_records"]),
            quality=dict(meta["out_of_fold_quality"]),
        )


def named(prefix: str, arrays: Arrays) -> Arrays:
    """The arrays whose names start with a prefix, without it."""
    return {k.removeprefix(prefix): v for k, v in arrays.items() if k.startswith(prefix)}
