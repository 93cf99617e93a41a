"""The learned surrogate with a kernel table: prices of measured products."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from search_spaces import (
    Architecture,
    LinearShape,
    Sparsity,
    fused_linears,
)
from search_spaces.formats import default_format
from surrogates import (
    KernelRow,
    KernelTable,
    LatencySurrogate,
    device,
    feature_matrix,
    feature_names,
    kendall_tau,
    mape,
)
from surrogates.mean import roofline_coefficients
from surrogates.storage import read_archive
from tests.surrogate_truths import DECODE, TINY, Array, hidden_truth, sample


def odd_us(out_features: int, in_features: int, sparsity: Sparsity) -> float:
    """Microseconds of a product on an invented machine whose kernels have thresholds that no count of FLOPs or bytes shows."""
    us = 3.0 + sparsity.stored_bytes(out_features, in_features, 4) / 20e3
    weights = out_features * in_features
    if sparsity.pattern == "vector" and out_features <= 256:
        return 40.0 + weights / 2.5e3
    if sparsity.pattern == "block" and in_features <= 256:
        return 60.0
    if sparsity.pattern == "unstructured" and weights > 100_000:
        return 2.0 * us
    return 20.0 + weights / 1e3 if sparsity.pattern == "n:m" else us


def odd_table() -> KernelTable:
    """Every linear of tiny's architectures, measured without error."""
    rows = {}
    for architecture in [TINY.largest, *sample(1500, 42)]:
        for layer in architecture.layers:
            for s in fused_linears(layer, architecture.embed_dim, architecture.bias, TINY.family):
                size, stored = _size(s), default_format(s.sparsity, 4)
                path = "dense" if stored == "dense" else "native"
                us = {path: odd_us(*size, s.sparsity)}
                rows[size, s.sparsity] = KernelRow("float32", *size, 1, str(s.sparsity), stored, us)
    return KernelTable("odd", tuple(rows.values()), {"date": "2026-01-01"})


def _size(shape: LinearShape) -> tuple[int, int]:
    return shape.out_features, shape.in_features


def odd_truth(architectures: list[Architecture]) -> Array:
    """Milliseconds of that machine: its products, each 10 % slower than alone, and 4 us for every other launch."""
    names, sparse = feature_names(), {"dense", "n:m", "unstructured", "block", "vector"}
    kinds = [name.split(".") for name in names]
    launch_f = [4e-3 * (q == "launches" and k not in sparse) for k, q in kinds]
    other_n = feature_matrix(architectures, TINY.family, DECODE) @ np.array(launch_f)
    products = [
        sum(
            odd_us(*_size(s), s.sparsity)
            for layer in a.layers
            for s in fused_linears(layer, a.embed_dim, a.bias, TINY.family)
        )
        for a in architectures
    ]
    found: Array = other_n + 1.1e-3 * np.array(products)
    return found


def test_a_kernel_table_tells_what_counts_cannot() -> None:
    """The same 24 records with 1 % noise, with and without the table, judged on 200 others; three draws."""
    table, taus, errors = odd_table(), [], []
    for seed in range(3):
        architectures = sample(224, 300 + seed)
        truth = odd_truth(architectures)
        values = truth * np.exp(np.random.default_rng(seed).normal(0.0, 0.01, 224))
        guesses = [
            LatencySurrogate(TINY.family, DECODE, kernels=kernels)
            .fit(architectures[:24], values[:24])
            .predict(architectures[24:])
            .mean_n
            for kernels in (None, table)
        ]
        taus.append([kendall_tau(guess, truth[24:]) for guess in guesses])
        errors.append([mape(guess, truth[24:]) for guess in guesses])
    (tau, tau_with), (error, error_with) = np.mean(taus, axis=0), np.mean(errors, axis=0)
    assert tau_with > tau + 0.02
    assert tau_with > 0.97
    assert error_with < 0.5 * error


def test_a_surrogate_with_a_table_is_complete_in_its_file(tmp_path: Path) -> None:
    architectures = sample(60, 17)
    values = odd_truth(architectures)
    rows = odd_table().rows
    other = [dataclasses.replace(row, tokens=64) for row in rows]
    table = KernelTable("odd", (*rows, *other))
    surrogate = LatencySurrogate(TINY.family, DECODE, kernels=table)
    surrogate.fit(architectures[:30], values[:30])
    assert surrogate.coefficients["kernels.us"] > 0
    surrogate.save(tmp_path / "s.npz")
    loaded = LatencySurrogate.load(tmp_path / "s.npz")
    assert loaded.kernels is not None
    assert len(loaded.kernels.rows) == len(rows)  # those it needs
    a, b = (s.predict(architectures[30:]) for s in (surrogate, loaded))
    np.testing.assert_array_equal(a.mean_n, b.mean_n)
    np.testing.assert_array_equal(a.high_n, b.high_n)
    assert loaded.coefficients == surrogate.coefficients
    assert loaded.cross_validate() == surrogate.cross_validate()


def test_without_a_table_nothing_changes(tmp_path: Path) -> None:
    """Neither columns nor files: an archive of before there were tables has the same names and fields."""
    architectures = sample(20, 0)
    assert "kernels.us" not in feature_names()
    assert feature_matrix(architectures, TINY.family, DECODE).shape == (20, len(feature_names()))
    reference = roofline_coefficients(device("cpu"), "float32")
    with_table = roofline_coefficients(device("cpu"), "float32", kernels=True)
    assert with_table.tolist() == [*reference.tolist(), pytest.approx(1e-3)]
    surrogate = LatencySurrogate(TINY.family, DECODE)
    surrogate.fit(architectures, hidden_truth(architectures)).save(tmp_path / "s.npz")
    meta, arrays = read_archive(tmp_path / "s.npz", "latency-surrogate", 1)
    assert "kernels" not in meta
    assert arrays["features_nf"].shape[1] == len(feature_names())


def test_a_table_of_another_dtype_or_batch_says_nothing() -> None:
    """Its column is zero, and the surrogate is the one without it, up to rounding."""
    architectures = sample(60, 19)
    values = hidden_truth(architectures)
    table = KernelTable("odd", [dataclasses.replace(r, tokens=64) for r in odd_table().rows])
    guesses = [
        LatencySurrogate(TINY.family, DECODE, kernels=kernels)
        .fit(architectures[:40], values[:40])
        .predict(architectures[40:])
        .mean_n
        for kernels in (None, table)
    ]
    np.testing.assert_allclose(guesses[1], guesses[0], rtol=1e-6)
