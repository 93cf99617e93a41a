"""search_spaces: sparsities, architectures and spaces, against enumeration, closed forms and SciPy's sparse formats."""

from __future__ import annotations

import functools
import itertools
import json
import math
import os
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
import scipy.sparse
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from search_spaces import (
    DENSE,
    Architecture,
    Choice,
    Family,
    LayerConfig,
    SearchSpace,
    Sparsity,
    Workload,
    linear_shapes,
    preset,
    presets,
)
from search_spaces.formats import default_format, formats_of
from tests.reference_gpt import groups_of, magnitude_mask
from tests.small_spaces import GPT2, small_space

REPOSITORY = Path(__file__).resolve().parents[1]
SPACE = small_space()
CONDITIONAL = small_space(
    embed_dims=(32,),
    biases=(False,),
    attention_sparsities=("dense", "2:4"),
    ffn_sparsities=("dense", "1:4"),
)
PLAIN = small_space(
    attention=(True,),
    ffn=(True,),
    attention_sparsities=("dense",),
    ffn_sparsities=("dense",),
    adapter_ranks=(0,),
)
SPACES = {"small": SPACE, "conditional": CONDITIONAL, "plain": PLAIN, "tiny": preset("tiny")}
ONE = SearchSpace("one", GPT2, (32,), (1,), (2,), (1,))

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


def points(space: SearchSpace) -> st.SearchStrategy[np.ndarray]:
    """Points of the unit cube, its faces and bin edges often."""
    edges = st.sampled_from([0.0, 0.25, 1 / 3, 0.5, 2 / 3, 0.75, 1.0])
    return hnp.arrays(np.float64, space.dim, elements=st.one_of(st.floats(0.0, 1.0), edges))


def architectures(space: SearchSpace) -> st.SearchStrategy[Architecture]:
    return points(space).map(space.decode)


@functools.cache
def every_point(space: SearchSpace) -> list[Architecture]:
    """What every combination of the choices' values decodes to, repeats included."""
    values = [[(i + 0.5) / len(c.values) for i in range(len(c.values))] for c in space.choices]
    return [space.decode(point) for point in itertools.product(*values)]


def is_active(slot: str, architecture: Architecture) -> bool:
    """Whether a slot decides anything about an architecture, written from the definition of a dropped part."""
    if "." not in slot:
        return True
    layer_name, name = slot.split(".")
    index = int(layer_name.removeprefix("layer"))
    if index >= len(architecture.layers):
        return False
    layer = architecture.layers[index]
    if name in ("num_heads", "attention_sparsity"):
        return layer.attention
    if name in ("ffn_ratio", "ffn_sparsity"):
        return layer.ffn
    if name == "adapter_rank":
        return str(layer.attention_sparsity) != "dense" or str(layer.ffn_sparsity) != "dense"
    return True


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


# --- LayerConfig, Architecture, Family, Workload --------------------------------------------------


@pytest.mark.parametrize(
    "fields",
    [
        {"num_heads": 0},
        {"num_heads": -1},
        {"num_heads": 2.0},
        {"num_heads": "2"},
        {"num_heads": True},
        {"num_heads": None},
        {"ffn_ratio": 0},
        {"ffn_ratio": -1.0},
        {"ffn_ratio": math.nan},
        {"ffn_ratio": math.inf},
        {"ffn_ratio": "2"},
        {"ffn_ratio": None},
        {"attention": False},
        {"ffn": False},
        {"attention": "False", "num_heads": 2},
        {"attention": 1},
        {"ffn": None},
        {"num_heads": 0, "attention": False, "attention_sparsity": "2:4"},
        {"ffn_ratio": 0, "ffn": False, "ffn_sparsity": "2:4"},
        {"attention_sparsity": "3:4"},
        {"ffn_sparsity": None},
        {"ffn_sparsity": 0.5},
        {"adapter_rank": 4},
        {"adapter_rank": -1, "ffn_sparsity": "2:4"},
        {"adapter_rank": True, "ffn_sparsity": "2:4"},
        {"adapter_rank": 4.0, "ffn_sparsity": "2:4"},
    ],
)
def test_an_invalid_layer_cannot_be_constructed(fields: dict[str, Any]) -> None:
    whole = {"num_heads": 2, "ffn_ratio": 2.0}
    LayerConfig(**whole)
    with pytest.raises(ValueError, match="expected"):
        LayerConfig(**(whole | fields))


@pytest.mark.parametrize(
    "fields",
    [
        {"embed_dim": 0},
        {"embed_dim": -32},
        {"embed_dim": 32.0},
        {"embed_dim": True},
        {"embed_dim": "32"},
        {"bias": "False"},
        {"bias": 0},
        {"layers": ()},
        {"layers": None},
        {"layers": "ab"},
        {"layers": (1,)},
        {"layers": (LayerConfig(2, 2), None)},
        {"layers": (LayerConfig(2, 0.3),)},
        {"layers": (LayerConfig(2, 1e308),)},
    ],
)
def test_an_invalid_architecture_cannot_be_constructed(fields: dict[str, Any]) -> None:
    whole: dict[str, Any] = {"embed_dim": 32, "layers": (LayerConfig(2, 2),)}
    Architecture(**whole)
    with pytest.raises(ValueError, match="expected"):
        Architecture(**(whole | fields))


def test_an_architecture_is_frozen() -> None:
    architecture = ONE.largest
    with pytest.raises(AttributeError):
        architecture.embed_dim = 64  # type: ignore[misc]
    with pytest.raises(AttributeError):
        architecture.layers[0].num_heads = 8  # type: ignore[misc]


def test_make_ignores_what_is_inactive() -> None:
    s = Sparsity.parse("2:4")
    assert LayerConfig.make(4, 2.0, attention=False, attention_sparsity=s) == LayerConfig(
        0, 2.0, attention=False
    )
    assert LayerConfig.make(4, 2.0, ffn=False, ffn_sparsity=s) == LayerConfig(4, 0.0, ffn=False)
    assert LayerConfig.make(4, 2.0, adapter_rank=8) == LayerConfig(4, 2.0)
    both = LayerConfig.make(
        4, 2.0, attention=False, attention_sparsity=s, ffn_sparsity=s, adapter_rank=8
    )
    assert both.adapter_rank == 8
    assert both == LayerConfig(0, 2.0, attention=False, ffn_sparsity=s, adapter_rank=8)


@given(st.sampled_from(sorted(SPACES)), st.data())
def test_an_architecture_survives_json(name: str, data: st.DataObject) -> None:
    architecture = data.draw(architectures(SPACES[name]))
    text = json.dumps(architecture.to_json())
    loaded = Architecture.from_json(json.loads(text))
    assert loaded == architecture
    assert hash(loaded) == hash(architecture)
    assert loaded.key == architecture.key
    assert json.dumps(loaded.to_json()) == text


def test_equal_architectures_have_one_key_however_they_are_written() -> None:
    a = Architecture(32, (LayerConfig(2, 2), LayerConfig(0, 1.0, attention=False)))
    b = Architecture(32, [LayerConfig(2, 2.0), LayerConfig(0, 1, False)])  # type: ignore[arg-type]
    zero = LayerConfig(2, -0.0, ffn=False)
    assert a == b
    assert a.key == b.key
    assert Architecture(32, (zero,)).key == Architecture(32, (LayerConfig(2, 0, ffn=False),)).key


@pytest.mark.parametrize(
    "damage",
    [
        lambda f: f.pop("bias"),
        lambda f: f.update(extra=1),
        lambda f: f.update(embed_dim="32"),
        lambda f: f.update(bias="False"),
        lambda f: f.update(layers={}),
        lambda f: f.update(layers=3),
        lambda f: f.update(layers=None),
        lambda f: f["layers"].append(None),
        lambda f: f["layers"][0].pop("ffn"),
        lambda f: f["layers"][0].update(attention="False"),
        lambda f: f["layers"][0].update(attention_sparsity=["2:4"]),
        lambda f: f["layers"][0].update(num_heads=None),
        lambda f: f["layers"][0].update(ffn_ratio=None),
    ],
)
def test_damaged_architecture_json_is_refused(damage: Any) -> None:
    fields = ONE.largest.to_json()
    damage(fields)
    with pytest.raises(ValueError, match="expected"):
        Architecture.from_json(fields)


@pytest.mark.parametrize("value", [None, 3, "d32 h2/f2", []])
def test_json_that_is_no_architecture_is_refused(value: Any) -> None:
    with pytest.raises(ValueError, match="expected an architecture"):
        Architecture.from_json(value)


def test_keys_and_fingerprints_are_equal_in_another_process() -> None:
    rng = np.random.default_rng(0)
    found = [SPACE.sample(rng) for _ in range(50)]
    code = (
        "import json, sys\n"
        "from search_spaces import Architecture, SearchSpace\n"
        "read = json.load(sys.stdin)\n"
        "keys = [Architecture.from_json(a).key for a in read['architectures']]\n"
        "print(json.dumps([keys, SearchSpace.from_json(read['space']).fingerprint, hash('salt')]))\n"
    )
    text = json.dumps({"architectures": [a.to_json() for a in found], "space": SPACE.to_json()})
    salts = set()
    for seed in ("1", "2"):
        environment = os.environ | {"PYTHONHASHSEED": seed}
        run = subprocess.run(
            [sys.executable, "-c", code],
            input=text,
            env=environment,
            cwd=REPOSITORY,
            capture_output=True,
            text=True,
            check=True,
        )
        keys, fingerprint, salt = json.loads(run.stdout)
        salts.add(salt)
        assert keys == [a.key for a in found]
        assert fingerprint == SPACE.fingerprint
    assert len(salts) == 2  # the two processes did hash differently


@pytest.mark.parametrize(
    "fields",
    [
        {"vocab_size": 0},
        {"context_length": -1},
        {"head_dim": 1.5},
        {"norm": "batchnorm"},
        {"activation": "relu"},
        {"positions": "alibi"},
        {"residual": "none"},
        {"queries_per_kv_head": 0},
        {"rotary_fraction": 0.0},
        {"rotary_fraction": 1.5},
        {"rotary_fraction": "1"},
        {"positions": "rotary", "head_dim": 3},
        {"positions": "rotary", "rotary_fraction": 0.01},
        {"tied_embeddings": "False"},
    ],
)
def test_an_invalid_family_cannot_be_constructed(fields: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="expected"):
        replace(GPT2, **fields)


def test_a_family_survives_json_and_refuses_another() -> None:
    assert Family.from_json(json.loads(json.dumps(GPT2.to_json()))) == GPT2
    assert replace(GPT2, rotary_fraction=1).to_json() == GPT2.to_json()
    for value in (None, 5, {"vocab_size": 4}, GPT2.to_json() | {"extra": 1}):
        with pytest.raises(ValueError, match="expected"):
            Family.from_json(value)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="num_heads divisible by queries_per_kv_head=2"):
        replace(GPT2, queries_per_kv_head=2).kv_heads(3)


@pytest.mark.parametrize(
    ("phase", "fields"),
    [
        ("train", {}),
        ("decode", {"batch": "0"}),
        ("decode", {"batch": "-1"}),
        ("decode", {"context": "1.5"}),
        ("decode", {"context": "many"}),
        ("prefill", {"ctx": "128"}),
    ],
)
def test_an_unknown_workload_is_refused(phase: str, fields: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="expected"):
        Workload.parse(phase, fields)


def test_a_workload_counts_the_tokens_of_a_pass() -> None:
    assert Workload.parse("decode", {"batch": "8", "context": "512"}).num_tokens == 8
    assert Workload.parse("prefill", {"batch": "8", "context": "512"}).num_tokens == 4096
    assert Workload.parse("decode", {}) == Workload("decode", 1, 128)


# --- SearchSpace: points --------------------------------------------------------------------------


@pytest.mark.parametrize("name", SPACES)
@given(data=st.data())
@settings(max_examples=60)
def test_every_point_decodes_and_its_architecture_is_read_back(
    name: str, data: st.DataObject
) -> None:
    space = SPACES[name]
    architecture = space.decode(data.draw(points(space)))
    point = space.encode(architecture)
    assert space.contains(architecture)
    assert point.shape == (space.dim,)
    assert np.all((point > 0.0) & (point < 1.0))
    assert space.decode(point) == architecture
    assert space.from_params(space.to_params(architecture)) == architecture


@given(data=st.data())
@settings(max_examples=60)
def test_inactive_choices_are_canonical(data: st.DataObject) -> None:
    """Two points that differ in inactive slots only decode to one architecture, whose encoding has their first values."""
    architecture = data.draw(architectures(SPACE))
    point = SPACE.encode(architecture)
    noise = data.draw(points(SPACE))
    active = np.array([is_active(c.name, architecture) for c in SPACE.choices])
    first = np.array([0.5 / len(c.values) for c in SPACE.choices])
    assert np.array_equal(point[~active], first[~active])
    assert SPACE.decode(np.where(active, point, noise)) == architecture


@given(data=st.data())
@settings(max_examples=30)
def test_an_active_choice_always_matters(data: st.DataObject) -> None:
    architecture = data.draw(architectures(SPACE))
    params = SPACE.to_params(architecture)
    for choice in SPACE.choices:
        if is_active(choice.name, architecture):
            for value in choice.values:
                changed = SPACE.from_params(params | {choice.name: value})
                assert (changed == architecture) == (value == params[choice.name])


@pytest.mark.parametrize(
    "point",
    [
        np.full(SPACE.dim, 1.0 + 1e-9),
        np.full(SPACE.dim, -1e-9),
        np.full(SPACE.dim, np.nan),
        np.full(SPACE.dim + 1, 0.5),
        np.full((1, SPACE.dim), 0.5),
        np.array(0.5),
    ],
)
def test_what_is_no_point_is_refused(point: np.ndarray) -> None:
    with pytest.raises(ValueError, match="coordinates in"):
        SPACE.decode(point)


def test_params_are_json_scalars_and_wrong_ones_are_refused() -> None:
    architecture = SPACE.sample(np.random.default_rng(3))
    params = SPACE.to_params(architecture)
    assert SPACE.from_params(json.loads(json.dumps(params))) == architecture
    assert list(params) == [choice.name for choice in SPACE.choices] == list(SPACE.to_optuna())
    whole = SPACE.from_params(params | {"embed_dim": np.int64(64), "depth": 2.0, "bias": 1})
    assert (
        whole.to_json()
        == SPACE.from_params(params | {"embed_dim": 64, "depth": 2, "bias": True}).to_json()
    )
    for wrong in (
        {k: v for k, v in params.items() if k != "depth"},
        params | {"width": 3},
        params | {"embed_dim": 33},
        params | {"layer0.ffn_sparsity": "2:5"},
        params | {"layer0.attention": "False"},
    ):
        with pytest.raises(ValueError, match="expected"):
            SPACE.from_params(wrong)


def test_optuna_draws_architectures_of_the_space() -> None:
    space = SPACES["tiny"]
    slots = {
        n: optuna.distributions.CategoricalDistribution(v) for n, v in space.to_optuna().items()
    }
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for _ in range(5):
        trial = study.ask(slots)  # type: ignore[arg-type]
        assert space.contains(space.from_params(trial.params))


def test_sampling_is_uniform_over_points_and_set_by_the_seed() -> None:
    """Chi-square of the draws against the share of the cube that decodes to each architecture."""
    counts = Counter(every_point(CONDITIONAL))
    total = sum(counts.values())
    rng = np.random.default_rng(0)
    drawn = Counter(CONDITIONAL.sample(rng) for _ in range(3000))
    assert set(drawn) <= set(counts)
    common = [a for a, count in counts.items() if count / total * 3000 >= 5]
    assert len(common) > 50
    expected = [counts[a] / total * 3000 for a in common]
    observed = [drawn[a] for a in common]
    observed.append(3000 - sum(observed))
    expected.append(3000 - sum(expected))
    assert scipy.stats.chisquare(observed, expected).pvalue > 1e-3
    again = [CONDITIONAL.sample(np.random.default_rng(7)) for _ in range(2)]
    assert again[0] == again[1]


def test_each_choice_is_drawn_uniformly_and_by_itself() -> None:
    rng = np.random.default_rng(1)
    sampled = [PLAIN.encode(PLAIN.sample(rng)) for _ in range(2000)]
    deep = np.array(
        [point for point in sampled if point[[c.name for c in PLAIN.choices].index("depth")] > 0.5]
    )
    correlation = np.corrcoef(
        deep[:, [i for i, c in enumerate(PLAIN.choices) if c.name != "depth"]].T
    )
    np.fill_diagonal(correlation, 0.0)
    assert np.abs(correlation).max() < 0.15  # four standard errors of 1000 draws
    for i, choice in enumerate(PLAIN.choices):
        if choice.name != "depth":
            found = Counter(np.round(deep[:, i], 6).tolist())
            assert scipy.stats.chisquare(list(found.values())).pvalue > 1e-4
            assert len(found) == len(choice.values)


# --- SearchSpace: neighbors -----------------------------------------------------------------------


def test_neighbors_are_exactly_those_one_coordinate_away() -> None:
    members = list(CONDITIONAL)
    encoded = np.stack([CONDITIONAL.encode(a) for a in members])
    for index in np.random.default_rng(0).integers(len(members), size=12):
        distance = (encoded != encoded[index]).sum(axis=1)
        expected = {members[i].key for i in np.flatnonzero(distance == 1)}
        neighbors = CONDITIONAL.neighbors(members[index])
        assert len({a.key for a in neighbors}) == len(neighbors)
        assert {a.key for a in neighbors} == expected


@given(data=st.data())
@settings(max_examples=10)
def test_neighbors_are_mutual(data: st.DataObject) -> None:
    architecture = data.draw(architectures(SPACE))
    for neighbor in SPACE.neighbors(architecture):
        assert architecture in SPACE.neighbors(neighbor)


def test_neighbors_lead_from_everywhere_to_everywhere() -> None:
    space = small_space(
        embed_dims=(32,),
        biases=(False,),
        num_heads=(2,),
        attention_sparsities=("dense", "2:4"),
        ffn_sparsities=("dense",),
    )
    reached = {space.smallest}
    frontier = [space.smallest]
    while frontier:
        fresh = {b for a in frontier for b in space.neighbors(a)} - reached
        reached |= fresh
        frontier = list(fresh)
    assert reached == set(space)


@given(data=st.data(), seed=st.integers(0, 2**32))
@settings(max_examples=60)
def test_a_mutation_changes_one_active_choice(data: st.DataObject, seed: int) -> None:
    before = data.draw(architectures(SPACE))
    after = SPACE.mutate(before, np.random.default_rng(seed))
    assert SPACE.contains(after)
    assert after == SPACE.mutate(before, np.random.default_rng(seed))
    old, new = SPACE.to_params(before), SPACE.to_params(after)
    shared = [
        c.name for c in SPACE.choices if is_active(c.name, before) and is_active(c.name, after)
    ]
    assert sum(old[name] != new[name] for name in shared) == 1


def test_every_active_choice_is_mutated_and_new_ones_are_drawn() -> None:
    start = SPACE.from_params(SPACE.to_params(SPACE.smallest) | {"depth": 1})
    rng = np.random.default_rng(0)
    found = [SPACE.mutate(start, rng) for _ in range(400)]
    old = SPACE.to_params(start)
    active = [c.name for c in SPACE.choices if is_active(c.name, start)]
    changed = Counter(next(n for n in active if SPACE.to_params(a)[n] != old[n]) for a in found)
    assert set(changed) == set(active)
    assert scipy.stats.chisquare(list(changed.values())).pvalue > 1e-4
    second = {a.layers[1] for a in found if a.depth == 2}
    assert len(second) > 10  # a new layer is not always the same one


def test_a_space_of_one_has_no_neighbors_and_no_mutations() -> None:
    only = ONE.largest
    assert ONE.cardinality == 1
    assert ONE.dim == 0
    assert ONE.neighbors(only) == []
    assert ONE.mutate(only, np.random.default_rng(0)) == only
    assert ONE.decode([]) == only
    assert ONE.encode(only).shape == (0,)


# --- SearchSpace: the whole -----------------------------------------------------------------------


@pytest.mark.parametrize("space", [CONDITIONAL, PLAIN], ids=["conditional", "plain"])
def test_cardinality_is_the_number_of_distinct_architectures(space: SearchSpace) -> None:
    decoded = every_point(space)
    assert len({a.key for a in decoded}) == len(set(decoded)) == space.cardinality
    listed = list(space)
    assert len(listed) == len(set(listed)) == space.cardinality
    assert set(listed) == set(decoded)


# embed_dims, depths, num_heads, ffn_ratios of HW-GPT-Bench (2405.10299) and the sizes its tables round to
HW_GPT = {
    "gpt-s": ((192, 384, 768), (10, 11, 12), (4, 8, 12), (2, 3, 4), "1.9e+12"),
    "gpt-m": ((256, 512, 1024), (22, 23, 24), (8, 12, 16), (2, 3, 4), "5.4e+23"),
    "gpt-l": ((320, 640, 1280), (34, 35, 36), (8, 16, 20), (2, 3, 4), "1.5e+35"),
    "gpt-s-wide": ((192, 384, 768), (3, 6, 12), (4, 8, 12), (1, 2, 4), "1.7e+12"),
    "gpt-m-wide": ((256, 512, 1024), (6, 12, 24), (4, 8, 16), (1, 2, 4), "4.8e+23"),
    "gpt-l-wide": ((320, 640, 1280), (9, 18, 36), (5, 10, 20), (1, 2, 4), "1.4e+35"),
}


@pytest.mark.parametrize("name", HW_GPT)
def test_the_presets_are_those_of_hw_gpt_bench(name: str) -> None:
    embed_dims, depths, heads, ratios, rounded = HW_GPT[name]
    space = preset(name)
    assert space.cardinality == 3 * 2 * sum(9**depth for depth in depths)
    assert f"{space.cardinality:.1e}" == rounded
    assert space.dim == 3 + 2 * depths[-1]
    values = {choice.name: choice.values for choice in space.choices}
    assert (values["embed_dim"], values["depth"], values["bias"]) == (
        embed_dims,
        depths,
        (False, True),
    )
    last = depths[-1] - 1
    assert values["layer0.num_heads"] == values[f"layer{last}.num_heads"] == heads
    assert values["layer0.ffn_ratio"] == values[f"layer{last}.ffn_ratio"] == ratios
    family = space.family
    assert (family.vocab_size, family.context_length, family.head_dim) == (50254, 1024, 64)
    assert family.rotary_dim == 32
    assert (family.norm, family.activation, family.residual) == ("layernorm", "gelu", "parallel")


@pytest.mark.parametrize("name", presets())
def test_the_sparse_presets_count_their_layers_in_closed_form(name: str) -> None:
    space = preset(name, sparsity=True)
    attention = 1 + len(space.num_heads) * len(space.attention_sparsities)
    ffn = 1 + len(space.ffn_ratios) * len(space.ffn_sparsities)
    dense = (1 + len(space.num_heads)) * (1 + len(space.ffn_ratios))
    per_layer = dense + len(space.adapter_ranks) * (attention * ffn - dense)
    outer = len(space.embed_dims) * len(space.biases)
    assert space.cardinality == outer * sum(per_layer**depth for depth in space.depths)
    dense_space = preset(name, sparsity=False)
    assert dense_space.fingerprint != space.fingerprint
    assert all(space.contains(a) for a in (dense_space.largest, dense_space.smallest))
    rng = np.random.default_rng(0)
    for _ in range(3):  # every matrix of every draw can be built
        shapes = linear_shapes(space.sample(rng), space.family)
        assert all(shape.nonzeros >= 1 for shape in shapes)


@pytest.mark.parametrize(("wrong", "near"), [("gpt-x", "gpt-"), ("tny", "tiny"), ("gpts", "gpt-s")])
def test_an_unknown_preset_proposes_near_names(wrong: str, near: str) -> None:
    with pytest.raises(ValueError, match=f"got '{wrong}'; did you mean .*{near}"):
        preset(wrong)
    with pytest.raises(ValueError, match="expected a preset in tiny"):
        preset("zzzzzz")


@pytest.mark.parametrize("name", SPACES)
def test_largest_and_smallest_bound_the_space(name: str) -> None:
    space = SPACES[name]
    assert space.contains(space.largest)
    assert space.contains(space.smallest)
    assert space.largest.depth == max(space.depths)
    assert space.smallest.depth == min(space.depths)
    rng = np.random.default_rng(0)
    biggest, least = space.largest, space.smallest
    for architecture in (space.sample(rng) for _ in range(50)):
        assert least.embed_dim <= architecture.embed_dim <= biggest.embed_dim
        for layer in architecture.layers:
            assert layer.num_heads <= biggest.layers[0].num_heads
            assert layer.ffn_ratio <= biggest.layers[0].ffn_ratio
    assert all(layer.attention and layer.ffn for layer in (*biggest.layers, *least.layers))
    assert all(layer.attention_sparsity.is_dense for layer in (*biggest.layers, *least.layers))


def test_a_space_without_a_dense_choice_still_has_a_largest_and_a_smallest() -> None:
    space = small_space(
        attention_sparsities=("1:4", "2:4"),
        ffn_sparsities=("unstructured:0.80", "unstructured:0.50"),
        adapter_ranks=(0, 2, 4),
    )
    assert space.contains(space.largest)
    assert space.contains(space.smallest)
    assert [
        str(space.largest.layers[0].attention_sparsity),
        space.largest.layers[0].adapter_rank,
    ] == ["2:4", 4]
    assert [str(space.smallest.layers[0].ffn_sparsity), space.smallest.layers[0].adapter_rank] == [
        "unstructured:0.50",
        0,
    ]


def test_contains_refuses_what_another_space_offers() -> None:
    assert not PLAIN.contains(Architecture(48, (LayerConfig(2, 1),)))
    assert not PLAIN.contains(Architecture(32, (LayerConfig(3, 1),)))
    assert not PLAIN.contains(Architecture(32, (LayerConfig(2, 1),) * 3))
    assert not PLAIN.contains(
        Architecture(32, (LayerConfig(2, 1, ffn_sparsity=Sparsity.parse("2:4")),))
    )
    assert not PLAIN.contains(Architecture(32, (LayerConfig(0, 1, attention=False),)))
    assert not ONE.contains(Architecture(32, (LayerConfig(2, 1),), bias=True))
    with pytest.raises(ValueError, match="expected embed_dim in"):
        PLAIN.encode(Architecture(48, (LayerConfig(2, 1),)))
    with pytest.raises(ValueError, match="expected layer 0 to be one of"):
        PLAIN.neighbors(Architecture(32, (LayerConfig(3, 1),)))


@pytest.mark.parametrize("name", SPACES)
def test_a_space_survives_json(name: str) -> None:
    space = SPACES[name]
    loaded = SearchSpace.from_json(json.loads(json.dumps(space.to_json())))
    assert loaded == space
    assert loaded.fingerprint == space.fingerprint
    assert loaded.choices == space.choices
    renamed = SearchSpace.from_json(space.to_json() | {"name": "other"})
    assert renamed.fingerprint == space.fingerprint
    wider = SearchSpace.from_json(space.to_json() | {"ffn_ratios": [1.0, 8.0]})
    assert wider.fingerprint != space.fingerprint


@pytest.mark.parametrize(
    "change",
    [
        {"embed_dims": 32},
        {"embed_dims": []},
        {"embed_dims": [32, 32]},
        {"embed_dims": ["32"]},
        {"embed_dims": [32.0]},
        {"embed_dims": [0]},
        {"depths": [0, 1]},
        {"depths": [1.0]},
        {"depths": None},
        {"num_heads": [0]},
        {"num_heads": [True]},
        {"ffn_ratios": ["1"]},
        {"ffn_ratios": [0.3]},
        {"ffn_ratios": [1, 1.0]},
        {"biases": ["False"]},
        {"attention": [0, 1]},
        {"attention": []},
        {"attention_sparsities": ["2:5"]},
        {"attention_sparsities": [0.5]},
        {"ffn_sparsities": ["2:4", "2:4"]},
        {"adapter_ranks": [-1]},
        {"adapter_ranks": ["4"]},
        {"family": None},
        {"family": {}},
        {"name": 3},
        {"extra": 1},
    ],
)
def test_damaged_space_json_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="expected"):
        SearchSpace.from_json(SPACE.to_json() | change)


def test_json_that_is_no_space_is_refused() -> None:
    fields = SPACE.to_json()
    del fields["depths"]
    for value in (fields, None, 3, [], "tiny"):
        with pytest.raises(ValueError, match="expected a search space"):
            SearchSpace.from_json(value)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "changes",
    [
        {"embed_dims": (32, 48), "ffn_sparsities": ("dense", "block32:0.50")},
        {"embed_dims": (48,), "attention_sparsities": ("dense", "vector32:0.50")},
        {"embed_dims": (36,), "attention_sparsities": ("dense", "2:8")},
        {"num_heads": (1, 2), "attention_sparsities": ("dense", "vector32:0.50")},
        {"ffn_ratios": (0.5, 1), "ffn_sparsities": ("dense", "block32:0.50")},
    ],
)
def test_a_sparsity_that_does_not_divide_is_refused_when_the_space_is_made(
    changes: dict[str, Any],
) -> None:
    dense = {k: v for k, v in changes.items() if not k.endswith("sparsities")}
    other = {"attention_sparsities": ("dense",), "ffn_sparsities": ("dense",)}
    small_space(**(other | dense))
    with pytest.raises(ValueError, match="divisible by"):
        small_space(**(other | changes))


def test_heads_that_do_not_form_groups_are_refused_when_the_space_is_made() -> None:
    shared = replace(GPT2, queries_per_kv_head=2)
    with pytest.raises(ValueError, match="num_heads divisible by queries_per_kv_head=2"):
        SearchSpace("odd", shared, (32,), (1,), (2, 3), (1,))


def test_choices_are_static_and_only_those_that_choose() -> None:
    names = [choice.name for choice in PLAIN.choices]
    assert names == [
        *("embed_dim", "depth", "bias"),
        *("layer0.num_heads", "layer0.ffn_ratio", "layer1.num_heads", "layer1.ffn_ratio"),
    ]
    assert PLAIN.choices[0] == Choice("embed_dim", (32, 64))
    assert all(len(choice.values) > 1 for choice in SPACE.choices)
