"""Contracts: one class per family of interchangeable parts. A test module subclasses it, supplies the part, and inherits the laws."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from search_spaces import Architecture
from surrogates import Prediction, Surrogate, kendall_tau


class SurrogateContract:
    """Laws of every surrogate of a positive metric.

    A subclass supplies :meth:`make` (a new, unfitted surrogate) and :meth:`data` (architectures with noisy measurements of one truth,
    60 or more, in random order).
    """

    num_fit = 40

    def make(self) -> Any:
        """A new surrogate that has seen nothing."""
        raise NotImplementedError

    def data(self) -> tuple[list[Architecture], npt.NDArray[np.float64]]:
        """Architectures and measured values of one truth."""
        raise NotImplementedError

    @pytest.fixture
    def seen(self) -> tuple[list[Architecture], npt.NDArray[np.float64]]:
        architectures, values = self.data()
        return architectures[: self.num_fit], values[: self.num_fit]

    @pytest.fixture
    def unseen(self) -> tuple[list[Architecture], npt.NDArray[np.float64]]:
        architectures, values = self.data()
        return architectures[self.num_fit :], values[self.num_fit :]

    @pytest.fixture
    def fitted(self, seen: tuple[list[Architecture], npt.NDArray[np.float64]]) -> Any:
        return self.make().fit(*seen)

    def assert_equal(self, a: Prediction, b: Prediction, rtol: float = 1e-9) -> None:
        for name in ("mean_n", "std_n", "low_n", "high_n"):
            np.testing.assert_allclose(getattr(a, name), getattr(b, name), rtol=rtol, err_msg=name)
        np.testing.assert_array_equal(a.extrapolates_n, b.extrapolates_n)
        assert a.level == b.level

    def test_is_a_surrogate(self) -> None:
        assert isinstance(self.make(), Surrogate)

    def test_predict_before_fit_is_refused(self, unseen: Any) -> None:
        with pytest.raises(ValueError, match="fit"):
            self.make().predict(unseen[0])

    def test_fit_returns_itself(self, seen: Any) -> None:
        surrogate = self.make()
        assert surrogate.fit(*seen) is surrogate

    def test_predictions_are_positive_and_ordered(self, fitted: Any, unseen: Any) -> None:
        guess = fitted.predict(unseen[0])
        assert len(guess) == len(unseen[0])
        assert np.all(guess.low_n > 0)
        assert np.all(guess.low_n < guess.mean_n)
        assert np.all(guess.mean_n < guess.high_n)
        assert np.all(guess.std_n > 0)

    def test_one_by_one_equals_all_at_once_in_any_order(self, fitted: Any, unseen: Any) -> None:
        architectures: Sequence[Architecture] = unseen[0][:8]
        together = fitted.predict(architectures)
        backwards = fitted.predict(architectures[::-1])
        np.testing.assert_allclose(together.mean_n, backwards.mean_n[::-1], rtol=1e-9)
        for i, architecture in enumerate(architectures):
            alone = fitted.predict([architecture])
            np.testing.assert_allclose(alone.mean_n[0], together.mean_n[i], rtol=1e-9)
            np.testing.assert_allclose(alone.high_n[0], together.high_n[i], rtol=1e-9)

    def test_samples_follow_the_prediction(self, fitted: Any, unseen: Any) -> None:
        asked = unseen[0][:20]
        guess = fitted.predict(asked)
        draws = np.stack([fitted.sample(asked, np.random.default_rng(s)) for s in range(400)])
        assert np.all(draws > 0)
        np.testing.assert_array_equal(draws[0], fitted.sample(asked, np.random.default_rng(0)))
        low, high = guess.quantiles([0.1, 0.9]).T
        inside = np.mean((draws >= low) & (draws <= high))
        assert 0.75 < inside < 0.85

    def test_nothing_asked_nothing_answered(self, fitted: Any) -> None:
        assert len(fitted.predict([])) == 0

    def test_fit_is_reproducible_and_forgets(self, fitted: Any, seen: Any, unseen: Any) -> None:
        other = self.make().fit(seen[0], seen[1] * np.linspace(1.0, 2.0, len(seen[1])))
        assert not np.allclose(other.predict(unseen[0]).mean_n, fitted.predict(unseen[0]).mean_n)
        self.assert_equal(other.fit(*seen).predict(unseen[0]), fitted.predict(unseen[0]), rtol=1e-6)

    def test_knows_more_than_the_mean(self, fitted: Any, unseen: Any) -> None:
        guess = fitted.predict(unseen[0]).mean_n
        assert kendall_tau(guess, unseen[1]) > 0.8
        error = np.mean((guess - unseen[1]) ** 2)
        assert error < 0.1 * np.var(unseen[1])

    @pytest.mark.parametrize("value", [np.nan, np.inf, 0.0, -1.0])
    def test_impossible_measurements_are_refused(self, seen: Any, value: float) -> None:
        values = seen[1].copy()
        values[7] = value
        with pytest.raises(ValueError, match="record 7"):
            self.make().fit(seen[0], values)

    def test_lengths_must_agree(self, seen: Any) -> None:
        with pytest.raises(ValueError, match="expected"):
            self.make().fit(seen[0], seen[1][:-1])

    def test_too_few_records_are_refused(self, seen: Any) -> None:
        with pytest.raises(ValueError, match="measure more"):
            self.make().fit(seen[0][:5], seen[1][:5])

    def test_save_and_load(self, fitted: Any, unseen: Any, tmp_path: Path) -> None:
        path = tmp_path / "surrogate.npz"
        fitted.save(path)
        loaded = type(fitted).load(path)
        self.assert_equal(loaded.predict(unseen[0]), fitted.predict(unseen[0]))
        assert [p.name for p in tmp_path.iterdir()] == ["surrogate.npz"]

    def test_unfitted_is_not_saved(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="fit"):
            self.make().save(tmp_path / "surrogate.npz")
        assert not list(tmp_path.iterdir())

    def test_damaged_files_are_refused(self, fitted: Any, tmp_path: Path) -> None:
        path = tmp_path / "surrogate.npz"
        fitted.save(path)
        whole = path.read_bytes()
        middle = len(whole) // 3
        damaged = {
            "truncated": whole[: len(whole) // 2],
            "empty": b"",
            "flipped": whole[:middle] + bytes([whole[middle] ^ 255]) + whole[middle + 1 :],
            "foreign": b"PK\x03\x04 not an archive",
            "text": b"hello",
        }
        for what, content in damaged.items():
            path.write_bytes(content)
            with pytest.raises(ValueError, match="damaged or foreign"):
                type(fitted).load(path)
            assert path.read_bytes() == content, what

    def test_pickles_are_refused(self, fitted: Any, tmp_path: Path) -> None:
        path = tmp_path / "surrogate.npz"
        with open(path, "wb") as handle:
            np.savez(handle, **{"meta.json": np.array([{"kind": "x"}], dtype=object)})
        with pytest.raises(ValueError, match="damaged or foreign"):
            type(fitted).load(path)

    def test_missing_file(self, fitted: Any, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError):
            type(fitted).load(tmp_path / "nothing.npz")
