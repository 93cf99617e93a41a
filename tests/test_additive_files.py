"""A fitted surrogate as a file: what is loaded predicts the same, and nothing foreign is loaded."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from search_spaces import Architecture
from surrogates.additive.surrogate import AdditiveSurrogate
from surrogates.additive.transfer import Others
from surrogates.storage import read_archive, write_archive
from tests.additive_cases import GPT_S, PREFILL, Array, device_ms, draws

KIND = "additive-surrogate"


@functools.cache
def measurements() -> tuple[list[Architecture], Array]:
    architectures = draws(GPT_S, 700, 0)
    truth = device_ms(architectures, GPT_S, PREFILL, 1)
    return architectures, truth * np.exp(0.003 * np.random.default_rng(1).normal(size=700))


@functools.cache
def fitted(n: int) -> AdditiveSurrogate:
    architectures, values = measurements()
    settings: dict[str, Any] = {"dtype": "bfloat16", "level": 0.8, "seed": 3}
    return AdditiveSurrogate(GPT_S, PREFILL, **settings).fit(architectures[:n], values[:n])


def test_loaded_draws_and_settings_are_the_same(tmp_path: Path) -> None:
    surrogate, asked = fitted(50), measurements()[0][50:150]
    surrogate.save(tmp_path / "s.npz")
    loaded = AdditiveSurrogate.load(tmp_path / "s.npz")
    for name in ("space", "workload", "dtype", "level", "seed", "num_records", "middle"):
        assert getattr(loaded, name) == getattr(surrogate, name), name
    assert loaded.hyperparameters == surrogate.hyperparameters
    one, two = (s.sample(asked, np.random.default_rng(0)) for s in (surrogate, loaded))
    np.testing.assert_allclose(one, two, rtol=1e-5)
    one, two = (s.predict(asked, "value") for s in (surrogate, loaded))
    for name in ("mean_n", "std_n", "low_n", "high_n", "extrapolates_n"):
        np.testing.assert_allclose(getattr(one, name), getattr(two, name), rtol=1e-9, err_msg=name)


def test_many_rows_are_compressed_without_being_noticed(tmp_path: Path) -> None:
    """What is left out is small beside the noise on average over the space; a deviation moves by 2 % at the most."""
    surrogate, asked = fitted(600), measurements()[0][600:]
    surrogate.save(tmp_path / "s.npz")
    loaded = AdditiveSurrogate.load(tmp_path / "s.npz")
    one, two = surrogate.predict(asked), loaded.predict(asked)
    np.testing.assert_array_equal(one.mean_n, two.mean_n)
    np.testing.assert_allclose(one.std_n, two.std_n, rtol=0.02)
    assert np.mean(np.abs(two.std_n / one.std_n - 1.0)) < 2e-3
    _, arrays = read_archive(tmp_path / "s.npz", KIND, 1)
    assert arrays["spread_rp"].shape[0] < arrays["spread_rp"].shape[1]


def test_of_few_rows_the_records_are_kept(tmp_path: Path) -> None:
    """They say the posterior in a hundredth of its size, and a loaded surrogate can be saved again."""
    surrogate, asked = fitted(120), measurements()[0][600:]
    surrogate.save(tmp_path / "s.npz")
    _, arrays = read_archive(tmp_path / "s.npz", KIND, 1)
    assert "spread_rp" not in arrays
    assert len(arrays["records_z_n"]) == 120
    assert (tmp_path / "s.npz").stat().st_size < 40_000
    AdditiveSurrogate.load(tmp_path / "s.npz").save(tmp_path / "t.npz")
    one, two = surrogate.predict(asked), AdditiveSurrogate.load(tmp_path / "t.npz").predict(asked)
    np.testing.assert_allclose(one.mean_n, two.mean_n, rtol=1e-9)
    np.testing.assert_allclose(one.std_n, two.std_n, rtol=1e-6)


def test_what_other_devices_say_is_kept(tmp_path: Path) -> None:
    architectures, _ = measurements()
    second = device_ms(architectures, GPT_S, PREFILL, 2)
    surrogate = AdditiveSurrogate(GPT_S, PREFILL, others=Others.of([fitted(50)]))
    surrogate.fit(architectures[:20], second[:20])
    surrogate.save(tmp_path / "s.npz")
    loaded = AdditiveSurrogate.load(tmp_path / "s.npz")
    one, two = (s.predict(architectures[20:80]) for s in (surrogate, loaded))
    for name in ("mean_n", "std_n", "low_n", "high_n"):
        np.testing.assert_allclose(getattr(one, name), getattr(two, name), rtol=1e-9, err_msg=name)


@pytest.mark.parametrize("what", ["kind", "schema", "names", "kinds", "space", "theta", "scores"])
def test_another_version_is_refused(tmp_path: Path, what: str) -> None:
    path = tmp_path / "s.npz"
    fitted(50).save(path)
    meta, arrays = read_archive(path, KIND, 1)
    kind, schema = KIND, 1
    if what == "kind":
        kind = "another"
    elif what == "schema":
        schema = 2
    elif what == "theta":
        del arrays["theta"]
    elif what in ("names", "kinds"):
        meta[what] = meta[what][:-1]
    else:
        meta[what] = {}
    write_archive(path, kind, schema, meta, arrays)
    with pytest.raises(ValueError, match="fit and save it again"):
        AdditiveSurrogate.load(path)
