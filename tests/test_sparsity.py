"""Sparsity: what a pattern keeps and what it may be, against counting by hand."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import scipy.sparse
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from search_spaces import (
    DENSE,
    Sparsity,
)
from search_spaces.formats import default_format, formats_of
from tests.reference_gpt import groups_of, magnitude_mask

levels = st.floats(0.0, 1.0, exclude_min=True, exclude_max=True)


sparsities = st.one_of(
    st.just(DENSE),
    st.sampled_from(["2:4", "1:4", "2:8", "1:8"]).map(Sparsity.parse),
    levels.map(lambda level: Sparsity("unstructured", level)),
    st.builds(
        lambda level, size: Sparsity("block", level, size), levels, st.sampled_from([16, 32, 64])
    ),
    st.builds(
        lambda level, size: Sparsity("vector", level, size), levels, st.sampled_from([32, 64, 128])
    ),
)


# --- Sparsity -------------------------------------------------------------------------------------


@given(sparsities)
def test_a_sparsity_is_read_back_from_its_string(sparsity: Sparsity) -> None:
    assert Sparsity.parse(str(sparsity)) == sparsity
    assert hash(Sparsity.parse(str(sparsity))) == hash(sparsity)


@pytest.mark.parametrize(
    ("text", "fields"),
    [
        ("dense", ("dense", 0.0, 0, 0, 0)),
        ("2:4", ("n:m", 0.5, 0, 2, 4)),
        ("1:8", ("n:m", 0.875, 0, 1, 8)),
        ("unstructured:0.80", ("unstructured", 0.8, 0, 0, 0)),
        ("block32:0.75", ("block", 0.75, 32, 0, 0)),
        ("vector64:0.80", ("vector", 0.8, 64, 0, 0)),
    ],
)
def test_the_spellings_of_the_design(text: str, fields: tuple[Any, ...]) -> None:
    s = Sparsity.parse(text)
    assert (s.pattern, s.level, s.size, s.n, s.m) == fields
    assert str(s) == text


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            "Dense",
            " dense",
            "sparse",
            "0.8",
            "2:4 ",
            "4:2",
            "2:0",
            "0:4",
            "3:4",
            "-2:4",
            "2:4:8",
            "٢:٤",
        ),
        *(
            "unstructured",
            "unstructured:",
            "unstructured:.",
            "unstructured:0.8.1",
            "unstructured:nan",
        ),
        *(
            "unstructured:0",
            "unstructured:1",
            "unstructured:1.00",
            "unstructured:-0.5",
            "unstructured:80",
        ),
        *("block:0.5", "block32", "block8:0.5", "block33:0.5", "block32:1.0", "block0032:0.50x"),
        *("vector16:0.5", "vector64:0.0", "vector64:1.5", "2:" + "4" * 5000),
    ],
)
def test_other_spellings_and_levels_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="expected"):
        Sparsity.parse(text)


@pytest.mark.parametrize("value", [None, 0.5, ["2:4"], b"2:4", {"n": 2}])
def test_what_is_no_string_is_refused(value: Any) -> None:
    with pytest.raises(ValueError, match="expected a sparsity such as"):
        Sparsity.parse(value)


@pytest.mark.parametrize(
    "fields",
    [
        {"pattern": "unstructured", "level": 1.0},
        {"pattern": "unstructured", "level": -0.1},
        {"pattern": "unstructured", "level": math.nan},
        {"pattern": "unstructured", "level": "0.5"},
        {"pattern": "unstructured", "level": 0.0},
        {"pattern": "dense", "level": 0.5},
        {"pattern": "block", "level": 0.5},
        {"pattern": "block", "level": 0.5, "size": 32.0},
        {"pattern": "vector", "level": 0.5, "size": 16},
        {"pattern": "n:m", "level": 0.5, "n": 2.0, "m": 4.0},
        {"pattern": "n:m", "level": 0.4, "n": 2, "m": 4},
        {"pattern": "unstructured", "level": 0.5, "n": 2, "m": 4},
        {"pattern": "diagonal", "level": 0.5},
    ],
)
def test_an_invalid_sparsity_cannot_be_constructed(fields: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="expected"):
        Sparsity(**fields)


@given(sparsities, st.integers(1, 4), st.integers(1, 4))
def test_kept_groups_are_the_nearest_count_to_the_level(s: Sparsity, tall: int, wide: int) -> None:
    rows, columns = tall * max(s.size, 1), wide * max(s.m, s.size if s.pattern == "block" else 8)
    sets = groups_of(s, rows, columns)
    groups, kept = s.num_groups(rows, columns), s.num_kept(rows, columns)
    assert all(len(competing) == groups for competing in sets)
    assert s.nonzeros(rows, columns) == kept * len(sets) * len(sets[0][0])
    assert 1 <= kept <= groups
    zeros = groups - kept
    if kept > 1:
        assert abs(zeros - s.level * groups) <= 0.5 + 1e-9
    else:  # the last group is never dropped
        assert zeros <= s.level * groups + 0.5 + 1e-9


@pytest.mark.parametrize("value_bytes", [2, 4])
@pytest.mark.parametrize(
    ("text", "rows", "columns"),
    [
        *itertools.product(["dense", "unstructured:0.80", "unstructured:0.37"], [5, 16], [7, 24]),
        *itertools.product(["unstructured:0.95"], [128, 130], [128, 150]),
        *itertools.product(["2:4", "1:4", "2:8", "1:8"], [3, 8], [8, 24, 136]),
        *itertools.product(["block16:0.50", "block16:0.95"], [32, 64], [32, 48]),
        *itertools.product(["vector32:0.75", "vector32:0.30"], [32, 96], [5, 24]),
    ],
)
def test_stored_bytes_are_those_of_scipys_arrays(
    text: str, rows: int, columns: int, value_bytes: int
) -> None:
    """Index arrays by SciPy where it has the format, else by NumPy from the format's definition."""
    s = Sparsity.parse(text)
    rng = np.random.default_rng(0)
    weight = rng.normal(size=(rows, columns)).astype(np.float32)
    mask = magnitude_mask(weight, s)
    values = np.where(mask, weight, np.float32(0)).astype(f"f{value_bytes}")[mask].nbytes
    found: dict[str, int] = {"dense": 0}
    if s.pattern == "unstructured":
        matrix = scipy.sparse.csr_array(np.where(mask, weight, 0))
        found["csr"] = sum(a.astype(np.int32).nbytes for a in (matrix.indices, matrix.indptr))
        tiles = scipy.sparse.coo_array(mask)
        across, down = math.ceil(columns / 64), math.ceil(rows / 128)
        counts = np.bincount(tiles.row // 128 * across + tiles.col // 64, minlength=across * down)
        starts = np.cumsum([0, *counts]).astype(np.int32)
        found["csl"] = np.zeros(mask.sum(), f"i{value_bytes}").nbytes + starts.nbytes
        wide = np.pad(mask, ((0, -rows % 8), (0, -columns % 32)))
        bits = np.packbits(wide, axis=1)
        in_rows = wide.reshape(len(wide), -1, 32).sum(axis=2).astype(np.uint8)
        in_tiles = in_rows.reshape(-1, 8, in_rows.shape[1]).sum(axis=1).astype(np.int32)
        found["bitmap"] = bits.nbytes + in_rows.nbytes + in_tiles.nbytes
    elif s.pattern == "block":
        blocks = scipy.sparse.bsr_array(np.where(mask, weight, 0), blocksize=(s.size, s.size))
        found["bsr"] = sum(a.astype(np.int32).nbytes for a in (blocks.indices, blocks.indptr))
    elif s.pattern == "vector":
        panels = mask.reshape(-1, s.size, columns).any(axis=1)
        found["vector"] = np.nonzero(panels)[1].astype(np.int32).nbytes
    elif s.pattern == "n:m":
        width = {"2:4": 4, "1:4": 2, "2:8": 8, "1:8": 4}[text]
        code_bits = np.zeros((rows, columns // s.m * width), dtype=np.uint8)
        whole_words = np.pad(code_bits, ((0, 0), (0, -code_bits.shape[1] % 32)))
        found["nm"] = np.packbits(whole_words, axis=1).nbytes
    assert mask.sum() == s.nonzeros(rows, columns)
    for format in formats_of(s):
        assert s.stored_bytes(rows, columns, value_bytes, format) == values + found[format]
    default = default_format(s, value_bytes)
    assert s.stored_bytes(rows, columns, value_bytes) == values + found[default]


def test_unstructured_weights_of_two_bytes_are_stored_as_csl() -> None:
    s = Sparsity.parse("unstructured:0.80")
    assert [default_format(s, v) for v in (1, 2, 4, 8)] == ["csr", "csl", "csr", "csr"]
    assert formats_of(s) == ("csr", "csl", "bitmap")
    for text, format in (("dense", "dense"), ("2:4", "nm"), ("vector32:0.75", "vector")):
        assert formats_of(Sparsity.parse(text)) == (format,)
        assert {default_format(Sparsity.parse(text), v) for v in (1, 2, 4, 8)} == {format}


@pytest.mark.parametrize(
    ("text", "format", "value_bytes", "message"),
    [
        ("2:4", "csr", 2, r"expected a format of 2:4, one of \('nm',\), got 'csr'"),
        ("unstructured:0.80", "nm", 4, "one of .*'csr', 'csl', 'bitmap'.* got 'nm'"),
        ("dense", "coo", 4, "one of .*'dense'"),
        ("unstructured:0.80", "csl", 1, "values of 2, 4 or 8 bytes for 'csl'"),
    ],
)
def test_bytes_of_formats_that_do_not_fit_are_refused(
    text: str, format: str, value_bytes: int, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        Sparsity.parse(text).stored_bytes(64, 64, value_bytes, format)


@pytest.mark.parametrize(
    ("text", "rows", "columns", "message"),
    [
        ("block32:0.50", 48, 64, "out_features divisible by 32.*got 48.*use 32 or 64"),
        ("block32:0.50", 64, 100, "in_features divisible by 32.*use 96 or 128"),
        ("vector64:0.50", 96, 5, "out_features divisible by 64"),
        ("2:4", 5, 10, "in_features divisible by 4.*use 8 or 12"),
        ("dense", 0, 4, "out_features"),
    ],
)
def test_a_shape_that_does_not_divide_is_refused(
    text: str, rows: int, columns: int, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        Sparsity.parse(text).nonzeros(rows, columns)
