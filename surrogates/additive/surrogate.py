"""AdditiveSurrogate: any metric of a search space from a few hundred measurements, in less than a second, with intervals that cover.

    value(x) = sum of effects of parts, layer by layer + interactions + a combination of analytic counts;   log(measured / value) ~ scores

The effects have the Gaussian process prior of ``kernel.py``; noise grows with the value and has heavy tails (``evidence.py``); the
intervals are cross-conformal (``scores.py``). On HW-GPT-Bench this beats least squares on the same counts where the data are dirty, and
equals it where they are clean; `experiments/hw_gpt_bench` has the table.

n architectures, r repeats, s architectures asked for, p whitened features.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from threadpoolctl import threadpool_limits

from search_spaces import Architecture, SearchSpace, Workload
from surrogates.additive.descriptors import Described
from surrogates.additive.encoding import Encoded
from surrogates.additive.evidence import posterior
from surrogates.additive.fitted import Arrays, Fitted, Of, Rows, named
from surrogates.additive.fitting import MIN_RECORDS, Fitting, Units
from surrogates.additive.inputs import Inputs
from surrogates.additive.kernel import NAMES
from surrogates.additive.reach import Reach
from surrogates.additive.scores import Scores
from surrogates.additive.transfer import Others, choose
from surrogates.base import BoolArray, FloatArray, Prediction
from surrogates.calibration import kendall_tau, mape
from surrogates.device_spec import value_bytes
from surrogates.measured import check_values
from surrogates.storage import read_archive, write_archive

_SCHEMA = 1
_FOLDS = 10
_WIDEST = 50.0  # logarithm of an interval's end over the mean: beyond, nothing was learned
_MOST_CANDIDATES = 1000
_NOISE = NAMES.index("noise")


class AdditiveSurrogate:
    """A positive metric as a function of the architecture.

    Args:
        space: the search space; predictions are for its architectures only.
        workload: whose operator counts to start from; by default a prefill of one prompt as long as the context.
        dtype: of weights and activations.
        level: probability with which an interval should hold a fresh measurement.
        seed: of the folds.
        others: what is known of other devices, for a device with few measurements.

    Raises:
        ValueError: if the level or the dtype is unknown.
    """

    def __init__(
        self,
        space: SearchSpace,
        workload: Workload | None = None,
        *,
        dtype: str = "float32",
        level: float = 0.9,
        seed: int = 0,
        others: Others | None = None,
    ) -> None:
        if not isinstance(space, SearchSpace):
            raise ValueError(
                f"expected a SearchSpace such as search_spaces.preset(...), got {space!r}"
            )
        if not isinstance(level, float) or not 0.0 < level < 1.0:
            raise ValueError(f"expected a level in (0, 1), got {level!r}")
        value_bytes(dtype)
        self.space = space
        self.workload = workload or Workload("prefill", 1, space.family.context_length)
        self.dtype, self.level, self.seed = dtype, level, seed
        self.others = others
        self._inputs = Inputs(space, self.workload, dtype, others)
        self.encoder = self._inputs.encoder
        self._found: Fitted | None = None

    # --- inputs ----------------------------------------------------------------------------------

    def encode(self, architectures: Sequence[Architecture] | Encoded) -> Encoded:
        """Architectures as arrays, which every method takes in their place.

        Raises:
            ValueError: if one is not in the space.
        """
        return self._inputs.encode(architectures)

    def describe(self, encoded: Encoded) -> Described:
        """Inputs of the kernel."""
        return self._inputs.describe(encoded)

    # --- fit -------------------------------------------------------------------------------------

    def fit(
        self,
        architectures: Sequence[Architecture] | Encoded,
        values_n: npt.ArrayLike | None = None,
        *,
        repeats_nr: npt.ArrayLike | None = None,
    ) -> Self:
        """Learn from measurements; what was learned before is forgotten.

        Args:
            architectures: n measured subnets of the space.
            values_n: what was measured, above 0, any unit; by default the trimmed mean of the repeats.
            repeats_nr: single measurements of each, NaN where there is none. With them a prediction of a single measurement holds
                the noise between repeats.

        Returns:
            Itself.

        Raises:
            ValueError: if there are fewer than 10 different architectures, lengths differ, or a value is not finite and positive.
        """
        encoded = self.encode(architectures)
        y_n, singles_nr = check_values(len(encoded), values_n, repeats_nr)
        # Small matrices: threads that wait for each other beside another process made this a hundred times slower
        with threadpool_limits(1, "blas"):
            return self._fit(encoded, y_n, singles_nr)

    def _fit(self, encoded: Encoded, y_n: FloatArray, singles_nr: FloatArray | None) -> Self:
        keys_n = encoded.keys()
        num_different = int(keys_n.max()) + 1 if len(keys_n) else 0
        if num_different < MIN_RECORDS:
            raise ValueError(
                f"expected records of {MIN_RECORDS} or more different architectures, got {num_different}; measure more"
            )
        x, inputs = self.describe(encoded), self._inputs
        units = Units.of(y_n)
        z_n = units.standardize(y_n)
        rng = np.random.default_rng(self.seed)
        fold_n = (rng.permutation(num_different) % _FOLDS)[keys_n]
        fitting = Fitting(x, encoded.width_n, inputs.whitening, inputs.kinds, inputs.prior(), units)
        theta, noise_n, trust_n = fitting.learn(y_n, z_n, rng)
        mean_n, variance_n = fitting.out_of_fold(z_n, theta, noise_n, trust_n, fold_n)
        predicted_n = units.positive(mean_n)
        own_n = units.unit * np.sqrt(variance_n) / predicted_n
        of_value = Scores.fit(y_n[:, None], predicted_n, own_n, self.level)
        of_measurement = (
            of_value
            if singles_nr is None
            else Scores.fit(singles_nr, predicted_n, own_n, self.level)
        )
        self._found = Fitted(
            inputs=inputs,
            theta=theta,
            posterior=posterior(inputs.whitening(theta)(x, encoded.width_n), z_n, noise_n),
            units=units,
            scores={"value": of_value, "measurement": of_measurement},
            reach=Reach.fit(x, encoded),
            rows=Rows(encoded, z_n, noise_n),
            num_records=len(encoded),
            quality={
                "kendall_tau": round(kendall_tau(predicted_n, y_n), 4),
                "mape": round(mape(predicted_n, y_n), 5),
            },
        )
        return self

    def choose(
        self, candidates: Sequence[Architecture] | Encoded, num: int, seed: int = 0
    ) -> npt.NDArray[np.int64]:
        """Which candidates to measure before a fit, by what the prior says (that of other devices, where there are some).

        Args:
            candidates: n different subnets that could be measured; of more than 1000, that many are drawn. One that is listed twice may be
                chosen twice.
            num: how many to choose.
            seed: of that draw.

        Returns:
            Rows of the candidates, most informative first.

        Raises:
            ValueError: if there are fewer candidates than asked for.
        """
        encoded = self.encode(candidates)
        if not 1 <= num <= len(encoded):
            raise ValueError(
                f"expected between 1 and {len(encoded)} architectures to choose, got {num}"
            )
        rows = np.arange(len(encoded))
        if len(rows) > _MOST_CANDIDATES:
            rows = np.random.default_rng(seed).choice(
                rows, max(_MOST_CANDIDATES, num), replace=False
            )
        pool = encoded.take(rows)
        x, prior = self.describe(pool), self._inputs.prior()
        size_n = x.counts_nk.mean(axis=1) if self.others is None else x.others_no[:, 0]
        weight_n = (np.median(size_n) / size_n) ** 2
        psi_np = self._inputs.whitening(prior)(x, pool.width_n)
        return rows[choose(psi_np, weight_n, num, float(np.exp(prior[_NOISE])))]

    # --- predict ---------------------------------------------------------------------------------

    def predict(
        self, architectures: Sequence[Architecture] | Encoded, of: Of = "measurement"
    ) -> Prediction:
        """Believe something about architectures, in the order given.

        Args:
            architectures: s subnets of the space.
            of: what the interval is about: one fresh ``measurement``, or the ``value`` that many would settle at.

        Raises:
            ValueError: if called before :meth:`fit`, or an architecture is not in the space.
        """
        found = self._fitted()
        if of not in ("measurement", "value"):
            raise ValueError(f"expected of to be 'measurement' or 'value', got {of!r}")
        encoded = self.encode(architectures)
        if len(encoded) == 0:
            empty = np.zeros(0)
            return Prediction(empty, empty, empty, empty, self.level)
        x = self.describe(encoded)
        mean_s, own_std_s = found.mean_and_std(x, encoded.width_n)
        scores = found.scores[of]
        scale_s = scores.scale(mean_s, own_std_s)
        low_s = mean_s * np.exp(np.clip(scores.low * scale_s, -_WIDEST, 0.0))
        high_s = mean_s * np.exp(np.clip(scores.high * scale_s, 0.0, _WIDEST))
        return Prediction(
            mean_s,
            mean_s * scale_s * scores.deviation,
            low_s,
            high_s,
            self.level,
            found.reach.is_beyond(x, encoded),
            log_scale_n=scale_s,
            knots_q=scores.knots_q,
        )

    def mean(self, architectures: Sequence[Architecture] | Encoded) -> FloatArray:
        """Predicted values alone, shape (s,): a fraction of the cost of :meth:`predict`."""
        encoded = self.encode(architectures)
        return self.mean_of(self.describe(encoded), encoded.width_n)

    def mean_of(self, x: Described, width_n: npt.NDArray[np.int64]) -> FloatArray:
        """:meth:`mean` of architectures that :meth:`describe` has described, of this or of another surrogate of the same inputs."""
        return self._fitted().mean(x, width_n)

    def is_beyond(self, x: Described, encoded: Encoded) -> BoolArray:
        """Where an architecture lies far outside the records, shape (s,)."""
        return self._fitted().reach.is_beyond(x, encoded)

    def sample(
        self,
        architectures: Sequence[Architecture] | Encoded,
        rng: np.random.Generator,
        of: Of = "measurement",
    ) -> FloatArray:
        """One draw per architecture from the predictive distribution, above 0, shape (s,)."""
        return self.predict(architectures, of).sample(rng)

    def _fitted(self) -> Fitted:
        if self._found is None:
            raise ValueError(
                "expected a fitted surrogate, got one without records; call fit() or load() first"
            )
        return self._found

    @property
    def num_records(self) -> int:
        """Records of the last fit; 0 before it."""
        return 0 if self._found is None else self._found.num_records

    @property
    def out_of_fold_quality(self) -> dict[str, float]:
        """Kendall's tau and MAPE of the last fit, out of fold; empty before it."""
        return {} if self._found is None else dict(self._found.quality)

    @property
    def middle(self) -> float:
        """Median of the records' values.

        Raises:
            ValueError: if called before :meth:`fit`.
        """
        return self._fitted().units.middle

    @property
    def theta(self) -> FloatArray:
        """Logarithms of the hyperparameters, in the order of ``kernel.NAMES``.

        Raises:
            ValueError: if called before :meth:`fit`.
        """
        return self._fitted().theta

    @property
    def hyperparameters(self) -> dict[str, float]:
        """What was learned about the prior, by name.

        Raises:
            ValueError: if called before :meth:`fit`.
        """
        return dict(zip(NAMES, np.exp(self._fitted().theta).tolist(), strict=True))

    # --- files -----------------------------------------------------------------------------------

    def to_parts(self) -> tuple[dict[str, Any], Arrays]:
        """The fitted surrogate as JSON values and arrays."""
        own, arrays = self._fitted().to_parts()
        meta: dict[str, Any] = {
            "space": self.space.to_json(),
            "workload": [self.workload.phase, self.workload.batch, self.workload.context],
            "dtype": self.dtype,
            "level": self.level,
            "seed": self.seed,
            **own,
        }
        if self.others is not None:
            others: list[dict[str, Any]] = []
            for i, other in enumerate(self.others.surrogates):
                other_meta, other_arrays = other.to_parts()
                others.append(other_meta)
                arrays |= {f"other{i}.{name}": array for name, array in other_arrays.items()}
            meta["others"] = others
        return meta, arrays

    @classmethod
    def from_parts(cls, meta: dict[str, Any], arrays: Arrays) -> Self:
        """Inverse of :meth:`to_parts`.

        Raises:
            ValueError, KeyError, TypeError: if they are not those of this version.
        """
        space = SearchSpace.from_json(meta["space"])
        others = [
            cls.from_parts(other, named(f"other{i}.", arrays))
            for i, other in enumerate(meta.get("others", []))
        ]
        found = cls(
            space,
            Workload(*meta["workload"]),
            dtype=meta["dtype"],
            level=meta["level"],
            seed=meta["seed"],
            others=Others.of(others) if others else None,
        )
        found._found = Fitted.from_parts(found._inputs, meta, arrays)
        return found

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the fitted surrogate to one ``.npz`` file (arrays and JSON; nothing is unpickled).

        Raises:
            ValueError: if called before :meth:`fit`.
        """
        write_archive(path, "additive-surrogate", _SCHEMA, *self.to_parts())

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Inverse of :meth:`save`: the loaded surrogate predicts the same numbers.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: if the file is truncated, damaged, foreign or of another version.
        """
        meta, arrays = read_archive(path, "additive-surrogate", _SCHEMA)
        try:
            return cls.from_parts(meta, arrays)
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise ValueError(
                f"expected an additive-surrogate of this version in {os.fspath(path)}, got another one ({error}); "
                "fit and save it again"
            ) from error
