"""KernelTable: which measured product is nearest, what damaged files say, and costs read from the rows."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from search_spaces import (
    Architecture,
    Family,
    LayerConfig,
    Sparsity,
    Workload,
    fused_linears,
    layer_linears,
    preset,
)
from surrogates import KernelRow, KernelTable, feature_matrix, feature_names
from surrogates.kernel_table import slug
from surrogates.linears import linears_us

VECTOR = "vector32:0.75"


def row(
    rows: int,
    columns: int,
    us: dict[str, float],
    sparsity: str = VECTOR,
    stored: str = "vector",
    tokens: int = 1,
    **more: Any,
) -> KernelRow:
    fields = {"dtype": "float32", "sparsity": sparsity, "format": stored, "tokens": tokens}
    return KernelRow(**(fields | {"out_features": rows, "in_features": columns, "us": us} | more))  # type: ignore[arg-type]


def dense(rows: int, columns: int, us: float, tokens: int = 1) -> KernelRow:
    return row(rows, columns, {"dense": us}, "dense", "dense", tokens)


def table(*rows: KernelRow) -> KernelTable:
    return KernelTable("Test CPU 1.0", rows, {"date": "2026-01-01"})


SMALL = row(128, 128, {"dense": 5.0, "unpack": 9.0, "native": 4.0})
LARGE = row(512, 512, {"dense": 30.0, "unpack": 90.0, "native": 40.0})
EVERY = ("dense", "unpack", "native", "triton")


def best(found: KernelTable, shape: tuple[int, int], **changes: Any) -> Any:
    asked = {"dtype": "float32", "tokens": 1, "sparsity": VECTOR, "stored": "vector"}
    return found.best(shape=shape, **({**asked, "allowed": EVERY} | changes))


# ---- the nearest product


def test_the_fastest_allowed_path_of_the_nearest_row_is_taken() -> None:
    found = table(SMALL, LARGE)
    assert best(found, (128, 128)).path == "native"
    assert best(found, (512, 512)).path == "dense"
    assert best(found, (512, 512), allowed=("unpack", "native")).path == "native"
    assert best(found, (512, 512), allowed=("triton",)) is None
    assert (
        best(found, (160, 160)).us == 4.0
    )  # a ratio of 1.25 to the small one, 3.2 to the large one
    assert best(found, (320, 320)).us == 30.0  # 2.5 and 1.6


def test_two_equal_paths_are_told_apart_by_name() -> None:
    equal = table(row(64, 64, {"unpack": 2.0, "native": 2.0}))
    assert best(equal, (64, 64)).path == "native"


def test_beyond_the_limits_nothing_is_near() -> None:
    found = table(SMALL)
    assert best(found, (256, 64)) is not None  # each a factor of two
    for shape in ((288, 128), (128, 288), (32, 128)):
        assert best(found, shape) is None
    assert best(found, (128, 128), tokens=2) is not None
    assert best(found, (128, 128), tokens=3) is None
    assert best(found, (128, 128), sparsity="vector32:0.85") is not None
    for changed in (
        {"sparsity": "vector32:0.90"},
        {"sparsity": "vector64:0.75"},
        {"sparsity": "block32:0.75"},
        {"stored": "bsr"},
        {"dtype": "bfloat16"},
    ):
        assert best(found, (128, 128), **changed) is None


def test_only_triton_has_a_configuration() -> None:
    config = {"block_k": 64, "num_warps": 4, "num_stages": 3, "block_m": 0, "split": 0}
    found = table(row(64, 64, {"triton": 1.0, "native": 2.0}, config=config))
    assert best(found, (64, 64)).config == config
    assert best(found, (64, 64), allowed=("native",)).config is None


# ---- costs


def test_a_measured_product_costs_what_was_measured_without_a_copy() -> None:
    found = table(SMALL, LARGE, dense(128, 128, 3.0))
    assert found.product_us("float32", (128, 128), 1, VECTOR, "vector") == 4.0
    assert found.product_us("float32", (512, 512), 1, VECTOR, "vector") == 40.0
    assert found.product_us("float32", (128, 128), 1, "dense", "dense") == 3.0


def test_another_product_costs_by_the_ratio_of_stored_bytes() -> None:
    found = table(SMALL)
    # vector32: a quarter of the columns kept, 4 bytes a value and 4 bytes of column for 32 of them
    for shape, level in (((128, 256), 0.75), ((1024, 1024), 0.75), ((128, 128), 0.5)):
        kept = round((1 - level) * shape[1])
        mine = 4 * kept * shape[0] + 4 * kept * shape[0] // 32
        measured = 4 * 32 * 128 + 4 * 32 * 128 // 32
        us = found.product_us("float32", shape, 1, f"vector32:{level:.2f}", "vector")
        assert us == pytest.approx(4.0 * mine / measured)
    assert found.product_us("float32", (128, 128), 2, VECTOR, "vector") == 4.0
    assert found.product_us("float32", (128, 128), 3, VECTOR, "vector") is None
    assert found.product_us("bfloat16", (128, 128), 1, VECTOR, "vector") is None
    assert found.product_us("float32", (128, 128), 1, "2:4", "nm") is None


def test_rows_with_a_copy_alone_say_nothing_of_stored_weights() -> None:
    found = table(row(128, 128, {"dense": 1.0}), LARGE)
    us = found.product_us("float32", (128, 128), 1, VECTOR, "vector")
    assert us == pytest.approx(40.0 / 16)
    assert (
        table(row(64, 64, {"dense": 1.0})).product_us("float32", (64, 64), 1, VECTOR, "vector")
        is None
    )


def test_linears_are_added_up_as_a_model_runs_them() -> None:
    """One layer of each kind by hand: fused dense q, k and v; every sparse linear alone; an unmeasured pattern as dense."""
    family = Family(vocab_size=16, context_length=8, head_dim=32)
    rows = [dense(96, 32, 7.0), dense(32, 32, 2.0), dense(64, 32, 3.0), dense(32, 64, 4.0)]
    found = table(*rows, row(32, 32, {"native": 11.0}), row(64, 32, {"native": 13.0}))
    plain, sparse = LayerConfig(1, 2.0), LayerConfig.make(
        1, 2.0, attention_sparsity=Sparsity.parse(VECTOR), ffn_sparsity=Sparsity.parse("2:4")
    )  # fmt: skip
    architectures = [Architecture(32, layers) for layers in ((plain,), (sparse,), (plain, sparse))]
    workload = Workload("decode", 1, 4)
    us = linears_us(architectures, family, workload, "float32", found)
    dense_layer, sparse_layer = 7 + 2 + 3 + 4, 4 * 11 + 3 + 4
    assert us.tolist() == [dense_layer, sparse_layer, dense_layer + sparse_layer]
    matrix = feature_matrix(architectures, family, workload, "float32", found)
    assert feature_names(kernels=True)[-1] == "kernels.us"
    np.testing.assert_array_equal(matrix[:, -1], us)
    np.testing.assert_array_equal(
        matrix[:, :-1], feature_matrix(architectures, family, workload, "float32")
    )
    assert feature_matrix([], family, workload, kernels=found).shape == (0, matrix.shape[1])
    # Where the table has no such tokens or dtype, it says nothing of any architecture.
    for other, dtype in ((Workload("decode", 4, 4), "float32"), (workload, "bfloat16")):
        assert not linears_us(architectures, family, other, dtype, found).any()


@given(st.integers(0, 2**32 - 1))
def test_fused_linears_hold_the_same_weights(seed: int) -> None:
    space = preset("tiny")
    architecture = space.sample(np.random.default_rng(seed))
    for layer in architecture.layers:
        arguments = (layer, architecture.embed_dim, architecture.bias, space.family)
        apart, fused = layer_linears(*arguments), fused_linears(*arguments)
        assert sum(s.nonzeros for s in apart) == sum(s.nonzeros for s in fused)
        assert ("qkv" in {s.name for s in fused}) == (
            layer.attention and layer.attention_sparsity.is_dense
        )


def test_a_part_costs_the_same() -> None:
    whole = table(SMALL, LARGE, dense(8, 8, 1.0), row(128, 128, {"native": 1.0}, tokens=8))
    part = whole.part("float32", 1)
    assert len(part.rows) == 3
    assert part.has_tokens("float32", 2)
    assert not part.has_tokens("float32", 8)
    for shape in ((128, 128), (64, 2048)):
        asked = ("float32", shape, 1, VECTOR, "vector")
        assert part.product_us(*asked) == whole.product_us(*asked)


# ---- files


def test_round_trip(tmp_path: Path) -> None:
    config = {"block_k": 64, "num_warps": 4, "num_stages": 3, "block_m": 0, "split": 0}
    found = table(SMALL, LARGE, row(64, 64, {"triton": 1.25}, config=config))
    found.save(tmp_path / "deep" / "t.json")
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["t.json"]
    again = KernelTable.load(tmp_path / "deep" / "t.json")
    assert again.rows == found.rows
    assert (again.device, again.provenance) == (found.device, found.provenance)
    assert again.fingerprint == found.fingerprint
    other = dataclasses.replace(found, rows=found.rows[:2])
    assert other.fingerprint != found.fingerprint
    later = dataclasses.replace(found, provenance={"date": "2027-01-01"})
    assert later.fingerprint == found.fingerprint
    table().save(tmp_path / "empty.json")
    assert KernelTable.load(tmp_path / "empty.json").rows == ()


def test_a_failed_write_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "t.json"
    table(SMALL).save(path)
    before = path.read_bytes()

    def full(*_: Any) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="no space"):
        table(SMALL, LARGE).save(path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["t.json"]


def change(name: str, value: Any) -> Callable[[Any], None]:
    def damage(data: Any) -> None:
        data["rows"][1][name] = value

    return damage


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (change("us", {"native": 0.0}), "row 1: .*microseconds"),
        (change("us", {"native": math.nan}), "row 1"),
        (change("us", {"native": "fast"}), "row 1"),
        (change("us", {}), "row 1"),
        (change("us", 3.0), "row 1"),
        (change("sparsity", "3:4"), "row 1: .*3:4"),
        (change("sparsity", None), "row 1"),
        (change("tokens", 0), "row 1: .*sizes"),
        (change("out_features", 12.5), "row 1"),
        (change("speed", 1), "row 1: .*speed"),
        (lambda data: data["rows"][1].pop("format"), "row 1: .*format"),
        (lambda data: data["rows"].append("text"), "row 2"),
        (lambda data: data.update(rows={}), "rows"),
        (lambda data: data.update(provenance=3), "kernel table"),
        (lambda data: data.pop("device"), "device"),
        (lambda data: data.update(schema=99), "schema 1"),
        (lambda data: data.clear(), "schema 1"),
    ],
)
def test_damaged_tables_are_refused(
    tmp_path: Path, damage: Callable[[Any], None], message: str
) -> None:
    data = json.loads(json.dumps(table(SMALL, LARGE).to_json()))
    damage(data)
    path = tmp_path / "t.json"
    path.write_text(json.dumps(data))
    with pytest.raises(ValueError, match=message) as error:
        KernelTable.load(path)
    assert str(path) in str(error.value)
    assert "nas tune" in str(error.value)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", b'{"schema": 1}'])
def test_other_files_are_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "t.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="expected a kernel table"):
        KernelTable.load(path)
    with pytest.raises(FileNotFoundError):
        KernelTable.load(tmp_path / "none.json")


def test_device_names_as_file_names() -> None:
    assert slug("NVIDIA H200") == "nvidia-h200"
    assert slug("Intel(R) Xeon(R) Processor @ 2.5GHz") == "intel-r-xeon-r-processor-2-5ghz"
    assert slug(slug("NVIDIA H200")) == "nvidia-h200"
