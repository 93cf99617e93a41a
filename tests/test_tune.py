"""nas tune: every product once and whole, nothing wrong in the table, and dispatch, profile and commands going by it."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from small_models import random_supernet
from small_spaces import small_space, uniform

import nas
from nas.cli import main
from nas.deploy import tune as tune_module
from nas.deploy.kernels_in_use import kernels_in_use, read_kernels, use_kernels, warn_of_threads
from nas.deploy.runtime import Runtime
from nas.deploy.tune_cases import tune_cases
from nas.deploy.turns import Timing
from nas.files import read_jsonl
from nas.kernels import PackedWeight, pack, use_table
from nas.kernels.dispatch import choose, processor_name
from nas.kernels.errors import allowed_error, relative_error
from nas.kernels.paths import has_triton, paths
from nas.kernels.reference import reference_linear
from nas.kernels.triton.configs import tile_configs
from nas.model import extract
from nas.run_settings import SearchRun, check_same_run, read_run, write_run
from search_spaces import Sparsity, preset
from search_spaces.formats import default_format
from surrogates import KernelRow, KernelTable

SHAPES = [(32, 64), (64, 32)]
SPARSITIES = ["dense", "unstructured:0.80", "vector32:0.75"]
HERE = processor_name(torch.device("cpu"))


@pytest.fixture(autouse=True)
def _table_of_before() -> Iterator[None]:
    before = kernels_in_use("cpu")
    yield
    use_table(before, HERE)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nas.deploy.turns.FLUSH_BYTES", {"cpu": 1, "cuda": 1})
    monkeypatch.setattr("nas.deploy.turns.REPEATS", {"cpu": 3, "cuda": 3})


def tune(out: Path | None = None, **changes: Any) -> KernelTable:
    options = {"sparsities": SPARSITIES, "tokens": (1, 8), "threads": 1, "progress": False}
    return nas.tune(changes.pop("what", SHAPES), out=out, **(options | changes))


def key(row: KernelRow) -> tuple[Any, ...]:
    return (row.dtype, row.out_features, row.in_features, row.tokens, row.sparsity, row.format)


# ---- what is measured


def test_every_product_is_there_once_with_every_path() -> None:
    table = tune()
    expected = {
        ("float32", *shape, tokens, text, default_format(Sparsity.parse(text), 4))
        for shape, tokens, text in itertools.product(SHAPES, (1, 8), SPARSITIES)
    }
    assert sorted(map(key, table.rows)) == sorted(expected)
    for row in table.rows:
        packed = pack(torch.ones(row.out_features, row.in_features), row.sparsity)
        assert set(row.us) == set(paths(packed, row.tokens)) - {"triton"}
        assert row.config is None
    assert table.device == HERE
    assert table.provenance["threads"] == 1
    assert {"date", "versions", "command", "runtime"} <= set(table.provenance)


@pytest.mark.skipif(not has_triton(), reason="needs Triton")
@pytest.mark.skipif(torch.cuda.is_available(), reason="Triton's interpreter stands in for a GPU")
def test_the_fastest_tiles_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every portable tile configuration is tried; the row names one of them, and dispatch runs it."""
    names: list[str] = []

    def record(calls: Any, device: str) -> dict[str, Timing]:
        names.extend(calls)
        return {n: Timing.of([100.0 - i]) for i, n in enumerate(calls)}  # the last is the fastest

    monkeypatch.setattr(tune_module, "is_interpreted", lambda: False)
    monkeypatch.setattr(tune_module, "time_in_turns", record)
    table = tune(what=[(32, 64)], sparsities=["vector32:0.75"], tokens=(2,))
    row = next(row for row in table.rows if row.format == "vector")
    tiles = tile_configs(Sparsity.parse(row.sparsity), "vector", has_assembly=False)
    tried = [json.loads(name.removeprefix("triton ")) for name in names if "triton" in name]
    assert tried == [tile.to_json() for tile in tiles]
    assert row.config == tiles[-1].to_json()
    assert min(row.us, key=row.us.__getitem__) == "triton"
    use_table(table, HERE)
    packed = pack(torch.randn(32, 64), row.sparsity)
    assert choose(packed, 2).config == tiles[-1]


def test_a_space_is_measured_as_its_models_run_it() -> None:
    """Every linear of random architectures has its case, dense q, k and v as one, and there is no other case."""
    space = small_space(embed_dims=(32, 64), biases=(False,))
    cases = {(c.out_features, c.in_features, c.sparsity) for c in tune_cases(space, "float32", 4, (1,), None)}  # fmt: skip
    supernet = random_supernet(space)
    seen = set()
    for dim, text in itertools.product((32, 64), map(str, space.ffn_sparsities)):
        model = extract(supernet, uniform(space, text, embed_dim=dim, bias=False))
        for name, part in model.parts().items():
            if name.startswith("layers.") and name.endswith(".weight") and len(part.shape) == 2:
                sparsity = part.sparsity if isinstance(part, PackedWeight) else "dense"
                seen.add((*part.shape, str(sparsity)))
    assert seen <= cases
    # Beside them stand the dense products of shapes that occur sparse only.
    assert {c for c in cases - seen if c[2] != "dense"} == set()
    assert {(r, c) for r, c, _ in cases} == {(r, c) for r, c, _ in seen}


def test_a_given_sparsity_is_tried_where_it_divides() -> None:
    cases = tune_cases([(32, 64), (48, 64)], "bfloat16", 2, (4,), ["block32:0.50"])
    found = {(c.out_features, c.sparsity, c.format) for c in cases}
    assert found == {
        (32, "block32:0.50", "bsr"),
        (32, "dense", "dense"),
        (48, "dense", "dense"),
    }


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tokens": ()}, "tokens"),
        ({"tokens": (0,)}, "tokens"),
        ({"sparsities": None}, "sparsities"),
        ({"sparsities": ["3:4"]}, "3:4"),
        ({"sparsities": ["block64:0.50"]}, "block64"),
        ({"what": []}, "shapes"),
        ({"what": [(0, 4)]}, "shapes"),
        ({"dtype": "int3"}, "dtype"),
        ({"device": "tpu"}, "device"),
        ({"threads": -1}, "threads"),
        ({"out": "table.txt"}, "JSON file"),
    ],
)
def test_wrong_values_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=message):
        tune(**changes)
    assert not list(tmp_path.iterdir())


# ---- kills


def test_a_killed_tuning_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = tune(tmp_path / "t.json")
    log = tmp_path / "t.jsonl"
    lines = log.read_bytes().splitlines(keepends=True)
    assert len(lines) == len(whole.rows) == 12
    log.write_bytes(b"".join(lines[:5]) + lines[5][:30])  # killed in the middle of a line
    (tmp_path / "t.json").unlink()
    measured: list[Any] = []
    real = tune_module._measure

    def count(case: Any, runtime: Any) -> Any:
        measured.append(case)
        return real(case, runtime)

    monkeypatch.setattr("nas.deploy.tune._measure", count)
    again = tune(tmp_path / "t.json")
    assert len(measured) == 7
    assert list(map(key, again.rows)) == list(map(key, whole.rows))
    kept = {key(r): r.us for r in whole.rows}
    first = [json.loads(line) for line in lines[:5]]
    for record in first:
        mine = key(KernelRow(**{k: v for k, v in record.items() if k != "setting"}))
        assert {key(r): r.us for r in again.rows}[mine] == kept[mine]
    assert KernelTable.load(tmp_path / "t.json").rows == again.rows
    measured.clear()
    tune(tmp_path / "t.json")
    assert measured == []
    # Other tokens join the table; other threads begin anew.
    assert len(tune(tmp_path / "t.json", tokens=(2,)).rows) == 18
    assert len(measured) == 6
    assert len(tune(tmp_path / "t.json", tokens=(2,), threads=2).rows) == 6


def test_a_damaged_log_is_refused(tmp_path: Path) -> None:
    tune(tmp_path / "t.json", tokens=(1,))
    log = tmp_path / "t.jsonl"
    records = read_jsonl(log)
    records[2]["us"] = {"dense": -1.0}
    log.write_text("".join(json.dumps(r) + "\n" for r in records))
    with pytest.raises(ValueError, match="line 3"):
        tune(tmp_path / "t.json", tokens=(1,))


# ---- wrong products


def test_a_wrong_path_never_enters(monkeypatch: pytest.MonkeyPatch) -> None:
    kind = type(pack(torch.ones(32, 32), "vector32:0.75"))
    right = kind.multiply
    monkeypatch.setattr(kind, "multiply", lambda self, x: right(self, x) * 1.001)
    with pytest.warns(UserWarning, match="'native' of vector32:0.75 .* is wrong"):
        table = tune()
    for row in table.rows:
        assert ("native" in row.us) == (row.format == "csr" and row.tokens == 1)
        assert "dense" in row.us


def test_a_path_that_fails_or_is_not_finite_stays_out(monkeypatch: pytest.MonkeyPatch) -> None:
    kind = type(pack(torch.ones(32, 32), "vector32:0.75"))

    def broken(self: Any, x: Any) -> Any:
        raise RuntimeError("out of resources\nmore")

    monkeypatch.setattr(kind, "multiply", broken)
    with pytest.warns(UserWarning, match="does not run .RuntimeError: out of resources."):
        table = tune(tokens=(1,))
    assert all("native" not in row.us for row in table.rows if row.format == "vector")
    y = torch.tensor([1.0, float("nan")])
    assert relative_error(y, torch.ones(2).double()) == float("inf")
    assert relative_error(torch.ones(3), torch.ones(2).double()) == float("inf")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_tolerance_holds_rounding_and_little_more(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    weight = (torch.randn(64, 512, generator=generator) / 512**0.5).to(dtype)
    x = torch.randn(4, 512, generator=generator).to(dtype)
    packed = pack(weight, "2:4")
    exact = reference_linear(packed, x)
    y = torch.nn.functional.linear(x, packed.unpack())
    limit = allowed_error(relative_error(y, exact), dtype, 512)
    assert relative_error(y, exact) <= limit
    missing = weight.clone()
    missing[:, :4] = 0.0  # one group of columns forgotten
    wrong = torch.nn.functional.linear(x, pack(missing, "2:4").unpack())
    assert relative_error(wrong, exact) > limit


# ---- what reads the table


def with_times(**us: float) -> KernelTable:
    rows = KernelRow("float32", 32, 64, 1, "vector32:0.75", "vector", us)
    return KernelTable(HERE, (rows,), {"date": "2026-01-01"})


def test_dispatch_follows_the_table() -> None:
    packed = pack(torch.randn(32, 64), "vector32:0.75")
    for table in (
        tune(),
        with_times(dense=1.0, unpack=2.0, native=3.0),
        with_times(dense=9.0, unpack=2.0, native=3.0),
    ):
        use_table(table, HERE)
        for row in table.rows:
            if (row.out_features, row.in_features, row.format) != (32, 64, "vector"):
                continue
            packed.may_copy = True
            fastest = min(row.us, key=lambda path: (row.us[path], path))
            assert choose(packed, row.tokens).path == fastest
            packed.may_copy = False
            stored = {path: t for path, t in row.us.items() if path != "dense"}
            fastest = min(stored, key=lambda path: (stored[path], path))
            assert choose(packed, row.tokens).path == fastest


def test_a_model_keeps_no_dense_copy(tmp_path: Path) -> None:
    """Its stored bytes are what it claims, whatever the table holds for fastest."""
    space = small_space()
    model = extract(random_supernet(space), uniform(space, "vector32:0.75"))
    nas.save_gpt(model, tmp_path / "model.json")
    use_table(with_times(dense=1.0, unpack=200.0, native=300.0), HERE)
    tokens = torch.zeros(1, 4, dtype=torch.long)
    for found in (model, nas.load_gpt(tmp_path / "model.json")):
        with torch.inference_mode():
            found(tokens)
        packed = [m for m in found.modules() if isinstance(m, PackedWeight)]
        assert packed
        assert all(m._copy is None and not m.may_copy for m in packed)


def test_a_table_is_used_for_a_block(tmp_path: Path) -> None:
    path = tmp_path / "t.json"
    table = with_times(dense=1.0)
    table.save(path)
    before = kernels_in_use("cpu")
    with use_kernels(path, "cpu"):
        found = kernels_in_use("cpu")
        assert found is not None
        assert found.fingerprint == table.fingerprint
    assert kernels_in_use("cpu") is before
    with use_kernels(None, "cpu"):
        assert kernels_in_use("cpu") is before
    KernelTable("NVIDIA H200", table.rows).save(path)
    with pytest.raises(ValueError, match="NVIDIA H200"):
        read_kernels(path, "cpu")
    with pytest.raises(ValueError, match="nas tune"):
        read_kernels(tmp_path / "none.json", "cpu")


def test_a_table_of_other_threads_is_told(recwarn: pytest.WarningsRecorder) -> None:
    table = KernelTable("some processor", (), {"threads": 2})
    warn_of_threads(table, Runtime("cpu", "float32", 2))
    warn_of_threads(None, Runtime("cpu", "float32", 1))
    warn_of_threads(KernelTable("some processor", ()), Runtime("cpu", "float32", 1))
    assert not recwarn.list
    with pytest.warns(UserWarning, match="nas tune --threads 1"):
        warn_of_threads(table, Runtime("cpu", "float32", 1))


def test_a_run_knows_its_table(tmp_path: Path) -> None:
    path, run = tmp_path / "t.json", tmp_path / "run"
    with_times(dense=1.0).save(path)
    config = SearchRun(kernels=path, out=run)
    config.check()
    write_run(config)
    stored = read_run(run)
    assert stored["kernels"] == with_times(dense=1.0).fingerprint
    assert stored["kernels_path"] == str(path)
    check_same_run(config)
    with pytest.raises(ValueError, match="kernels"):
        check_same_run(SearchRun(out=run))
    with_times(dense=2.0).save(path)
    with pytest.raises(ValueError, match="kernels"):
        check_same_run(config)
    write_run(SearchRun(out=tmp_path / "plain"))
    assert "kernels" not in read_run(tmp_path / "plain")


# ---- the command


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "t.json"
    command = ["tune", "--tokens", "1", "--sparsities", "2:4", "--threads", "1", "--out", str(out)]
    assert main(command) == 0
    shown = capsys.readouterr().out
    assert f"nas search --kernels {out} --out runs/mine" in shown
    table = KernelTable.load(out)
    assert str(len(table.rows)) in shown
    assert table.provenance["command"].startswith("nas tune --tokens 1")
    tiny = preset("tiny")
    assert {row.sparsity for row in table.rows} == {"2:4", "dense"}
    assert {row.in_features for row in table.rows} >= set(tiny.embed_dims)
    assert main(["tune", "--sparsities", "3:4", "--out", str(out)]) == 2
    assert "expected" in capsys.readouterr().err
    assert (
        main(["search", "--kernels", str(tmp_path / "none.json"), "--out", str(tmp_path / "r")])
        == 2
    )
    assert "nas tune" in capsys.readouterr().err
    assert not (tmp_path / "r" / "run.json").exists()
