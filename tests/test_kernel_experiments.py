"""The kernel harness: what it measures, that it checks first, and that it goes on after a kill."""

from __future__ import annotations

import csv
import json
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import tyro

from experiments import results
from experiments.kernels import __main__ as bench_main
from experiments.kernels import bound, checks, decode, measure, tables
from experiments.kernels.cases import Bench, select_cases
from experiments.kernels.decode_models import MODELS, build, unpacked
from experiments.kernels.shapes import OPT_SHAPES, SHAPES, Kind, find_kinds, kinds
from search_spaces import linear_shapes

SMALL = Bench(
    shapes=("tiny.o",),
    sparsities=("vector64:0.80", "2:4", "csl:0.80"),
    rows=(1, 16),
    repeats=2,
)


@pytest.fixture
def results_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where results go; made by the first that writes one."""
    folder = tmp_path / "results"

    def made(experiment: str, device: str, root: Path) -> Path:
        assert root == results.ROOT
        (folder / experiment).mkdir(parents=True, exist_ok=True)
        return folder / experiment

    monkeypatch.setattr(bench_main, "result_folder", made)
    monkeypatch.setattr(decode, "result_folder", made)
    return folder


def log_of(bench: Bench) -> Path:
    return bench.out / results.device_slug("cpu") / "cases.jsonl"


# --- what is measured ----------------------------------------------------------------------------


def test_the_shapes_are_those_of_the_published_benchmark() -> None:
    sizes = {(s.out_features, s.in_features) for s in OPT_SHAPES}
    expected = [(21504, 7168), (7168, 7168), (28672, 7168), (7168, 28672)]
    expected += [(27648, 9216), (9216, 9216), (36864, 9216), (9216, 36864)]
    expected += [(36864, 12288), (12288, 12288), (49152, 12288), (12288, 49152)]
    assert sizes == set(expected)
    names = [s.name for device in SHAPES for s in SHAPES[device]]
    assert len(set(names)) == len(names)
    assert all(kind.fits(shape) for shape in SHAPES["cuda"] for kind in kinds("cuda"))


def test_the_most_telling_cases_come_first() -> None:
    cases = select_cases(Bench(device="cuda"))
    assert len(cases) == len({c.key for c in cases}) == 20 * 34 * 5
    first = cases[0]
    assert (first.shape.model, first.rows, first.kind.sparsity.level) == ("opt-175b", 8, 0.8)
    rows = [c.rows for c in cases]
    assert set(rows[: rows.index(1)]) == {8, 16, 32}
    middle = [c for c in cases if c.rows == 16]
    sizes = [c.shape.size for c in middle]
    assert sizes == sorted(sizes, reverse=True)
    quick = select_cases(Bench(device="cuda", quick=True))
    assert {c.key for c in quick} < {c.key for c in cases}
    assert {c.rows for c in quick} == {8, 16, 32}


def test_filters_say_what_they_do_not_know() -> None:
    one = Bench(device="cuda", shapes=("llama-3-8b.o", "opt-30b"), sparsities=("2:4",), rows=(3,))
    assert sorted({c.shape.model for c in select_cases(one)}) == ["llama-3-8b", "opt-30b"]
    assert {c.rows for c in select_cases(one)} == {3}
    assert [k.label for k in find_kinds("cuda", ("csl:0.75", "bitmap"))][:2] == [
        "csl:0.75",
        "bitmap:0.50",
    ]
    with pytest.raises(ValueError, match="expected shapes among"):
        select_cases(Bench(shapes=("opt-30b",)))
    with pytest.raises(ValueError, match="expected a sparsity such as"):
        select_cases(Bench(sparsities=("csl:high",)))
    with pytest.raises(ValueError, match="expected rows of 1 or more"):
        select_cases(Bench(rows=(0,)))
    with pytest.raises(ValueError, match="expected dtypes in"):
        select_cases(Bench(dtypes=("int8",)))


def test_labels_are_read_back() -> None:
    for kind in (*kinds("cuda"), *kinds("cpu")):
        assert Kind.parse(kind.label) == kind
    assert Kind.parse("csl:0.80").sparsity == Kind.parse("bitmap:0.80").sparsity


def test_the_stored_command_repeats_every_setting() -> None:
    asked = Bench(quick=True, graphs=False, rows=(1, 8), sparsities=("2:4",), minutes=1.5)
    for recipe in (asked, Bench(), decode.Decode(models=("opt-30b",), depth=2), bound.Bound()):
        words = shlex.split(results.command_line("experiments.kernels", recipe))
        assert tyro.cli(type(recipe), args=words[3:]) == recipe


# --- correctness and timing ----------------------------------------------------------------------


def test_a_product_is_judged_by_what_rounding_explains() -> None:
    generator = torch.Generator().manual_seed(0)
    x, weight = torch.randn(3, 512, generator=generator), torch.randn(64, 512, generator=generator)
    exact, dense = checks.exact_product(x, weight), F.linear(x, weight)
    torch.testing.assert_close(exact, x.double() @ weight.double().T)
    assert checks.check_product(dense, dense, exact, 512, "it") < 1e-6
    for wrong in (1.001 * dense, dense.roll(1, 0), torch.full_like(dense, float("nan"))):
        with pytest.raises(checks.WrongProduct, match="expected it within .* got .*nothing is"):
            checks.check_product(wrong, dense, exact, 512, "it")
    coarse = dense.bfloat16()
    checks.check_product(coarse, coarse, exact, 512, "it")
    off = coarse + 0.1 * exact.abs().max().bfloat16()  # bfloat16 has 8 bits, not 4
    with pytest.raises(checks.WrongProduct):
        checks.check_product(off, coarse, exact, 512, "it")


def test_every_format_is_checked_in_every_dtype_and_on_every_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = tmp_path / "checks.jsonl"

    def check(dtypes: tuple[str, ...], **settings: Any) -> list[dict[str, Any]]:
        found, missing = checks.check_kinds(
            kinds("cpu"), dtypes, "cpu", log=log, **{"setting": "a", **settings}
        )
        assert not missing
        return found

    found = check(("float32", "bfloat16"))
    patterns = {kind.pattern for kind in kinds("cpu")}
    assert {(f["pattern"], f["dtype"]) for f in found} == {
        (p, d) for p in patterns for d in ("float32", "bfloat16")
    }
    for record in found:
        assert {"default", "unpack"} <= set(record["errors"])
        assert all(0.0 <= error < 0.05 for error in record["errors"].values())
    real = checks.multiply
    monkeypatch.setattr(checks, "multiply", lambda *a, **k: 1.05 * real(*a, **k))
    assert check(("float32",), thorough=False) == found[::2]  # passed before, and more
    with pytest.raises(checks.WrongProduct):
        check(("float32",), setting="b")


# --- the whole harness ---------------------------------------------------------------------------


def test_a_run_writes_table_figures_and_result(
    tmp_path: Path, results_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bench_main.main(replace(SMALL, out=tmp_path / "work"))
    folder = results_folder / "kernels"
    assert {p.name for p in folder.iterdir()} == {
        "kernels.csv",
        "result.json",
        "speedup.png",
        "wins.png",
    }
    assert "small CPU version" in capsys.readouterr().out
    rows = tables.read_csv(folder / "kernels.csv")
    assert {(r["sparsity"], r["rows"]) for r in rows} == {
        (s, n) for s in ("vector64:0.80", "2:4", "csl:0.80") for n in (1, 16)
    }
    for row in rows:
        assert min(row["median_us"], row["dense_us"], row["speedup"], row["byte_bound"]) > 0.0
        assert row["share_of_copy"] > 0.0
        assert not (row["is_best"] and row["kind"] != "sparse")
    for sparsity, number in {(r["sparsity"], r["rows"]) for r in rows}:
        case = [r for r in rows if (r["sparsity"], r["rows"]) == (sparsity, number)]
        dense = [r for r in case if r["kind"] == "dense"]
        assert len(dense) >= 2
        assert {r["dense_us"] for r in case} == {min(r["median_us"] for r in dense)}
        assert sum(r["is_best"] for r in case) == 1
        assert "default" in {r["path"] for r in case}
    stored = json.loads((folder / "result.json").read_text())
    values = stored["values"]
    assert values["cases"] == values["of_cases"] == 6
    assert values["left_out"] == []
    assert "small CPU version" in values["version"]
    assert len(values["speedups"]) == 6
    assert all(s["shapes"] == 1 and s["speedup"] > 0.0 for s in values["speedups"])
    assert any("CUTLASS" in name for name in values["unavailable_paths"])


def test_a_killed_run_goes_on_from_its_log(
    tmp_path: Path, results_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = replace(SMALL, out=tmp_path / "work", sparsities=("vector64:0.80", "2:4"))
    bench_main.main(bench)
    log = log_of(bench)
    whole = log.read_bytes()
    lines = whole.splitlines(keepends=True)
    assert len(lines) == 4
    log.write_bytes(b"".join(lines[:3]) + lines[3][:40])  # torn in the fourth record
    measured: list[str] = []
    real = measure._measure_case

    def counting(case: Any, *arguments: Any) -> Any:
        measured.append(case.key)
        return real(case, *arguments)

    monkeypatch.setattr(measure, "_measure_case", counting)
    bench_main.main(bench)
    assert measured == [json.loads(lines[3])["key"]]
    assert log.read_bytes().startswith(b"".join(lines[:3]))
    assert len(log.read_bytes().splitlines()) == 4
    bench_main.main(bench)
    assert len(measured) == 1  # nothing is left to do
    bench_main.main(replace(bench, repeats=3))  # another setting: none of the records is its own
    assert len(measured) == 5


def test_a_budget_ends_a_run_cleanly(
    tmp_path: Path, results_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    none = replace(SMALL, out=tmp_path / "work", minutes=0.0)
    bench_main.main(none)
    assert "Nothing was measured" in capsys.readouterr().out
    assert not results_folder.exists()
    one = replace(SMALL, out=tmp_path / "work", sparsities=("2:4",))
    bench_main.main(one)
    bench_main.main(none)
    values = json.loads((results_folder / "kernels" / "result.json").read_text())["values"]
    assert values["cases"] == 2
    assert len(values["left_out"]) == 4
    assert "4 cases left out" in capsys.readouterr().out


def test_a_failing_check_writes_nothing(
    tmp_path: Path, results_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = replace(SMALL, out=tmp_path / "work")
    real = checks.multiply
    monkeypatch.setattr(checks, "multiply", lambda *a, **k: 1.05 * real(*a, **k))
    with pytest.raises(checks.WrongProduct, match="nothing is timed"):
        bench_main.main(bench)
    assert not results_folder.exists()
    assert not bench.out.exists()
    monkeypatch.undo()
    monkeypatch.setattr(bench_main, "result_folder", lambda *_: pytest.fail("it wrote a result"))
    # right on small weights and wrong on the case's own
    monkeypatch.setattr(measure, "multiply", lambda *a, **k: 1.05 * real(*a, **k))
    with pytest.raises(checks.WrongProduct, match="tiny.o"):
        bench_main.main(bench)
    assert not log_of(bench).exists()


def test_a_path_that_cannot_run_is_named_and_the_others_are_timed(
    tmp_path: Path, results_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = measure.multiply

    def broken(x: Any, packed: Any, path: str) -> Any:
        if path == "unpack":
            raise RuntimeError("out of resource: shared memory")
        return real(x, packed, path)

    monkeypatch.setattr(measure, "multiply", broken)
    bench_main.main(replace(SMALL, out=tmp_path / "work", sparsities=("2:4",), rows=(1,)))
    values = json.loads((results_folder / "kernels" / "result.json").read_text())["values"]
    assert values["unavailable_paths"]["2:4 unpack"].endswith("out of resource: shared memory")
    rows = tables.read_csv(results_folder / "kernels" / "kernels.csv")
    assert "unpack" not in {r["path"] for r in rows}


# --- decode ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["opt-13b", "llama-3-8b"])
def test_a_built_model_is_the_function_of_its_unpacked_weights(name: str) -> None:
    shape = MODELS[name].reduced(40)
    sparse = build(shape, Kind.parse("vector64:0.80"), 8, torch.float32, "cpu", depth=2)
    tokens = torch.arange(6)[None]
    with torch.inference_mode():
        torch.testing.assert_close(
            sparse(tokens), unpacked(sparse, torch.float32)(tokens), atol=1e-4, rtol=1e-4
        )
    dense = build(shape, None, 8, torch.float32, "cpu", depth=2)
    assert sparse.weight_bytes() < dense.weight_bytes()
    pointers = [
        layer.get_submodule("down").weight.tensors()["values"].data_ptr() for layer in sparse.layers
    ]
    assert len(set(pointers)) == 2  # layers share no memory, or the cache would hold it


def test_published_sizes_are_whole_models() -> None:
    """Weights of the linears inside the layers, worked out by hand."""
    llama = MODELS["llama-3-8b"]
    attention = 4096 * (4096 + 1024 + 1024) + 4096 * 4096
    assert (llama.dim, llama.depth, llama.neurons) == (4096, 32, 14336)
    family = llama.family(16)
    found = linear_shapes(llama.architecture(), family)
    assert sum(s.out_features * s.in_features for s in found if s.layer == 0) == (
        attention + 3 * 4096 * 14336
    )
    assert MODELS["opt-30b"].reduced(1) == MODELS["opt-30b"]


def test_decode_writes_tokens_per_second(tmp_path: Path, results_folder: Path) -> None:
    recipe = decode.Decode(
        sparsities=("vector64:0.80", "2:4"), batches=(1, 2), context=8, reduce=40, repeats=2
    )
    decode.main(recipe)
    with (results_folder / "kernels" / "decode.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {(r["model"], r["sparsity"], r["batch"]) for r in rows} == {
        (m, s, b) for m in recipe.models for s in recipe.sparsities for b in "12"
    }
    for row in rows:
        rate, step = float(row["sparse_tokens_per_s"]), float(row["sparse_ms"])
        assert rate == pytest.approx(1e3 * int(row["batch"]) / step)
        assert float(row["speedup"]) > 0.0
        assert float(row["byte_bound"]) > 1.0
        assert 0.0 <= float(row["error"]) < 1e-4
    assert json.loads((results_folder / "kernels" / "decode.json").read_text())["values"]["rows"]
    with pytest.raises(ValueError, match="expected models among"):
        decode.main(replace(recipe, models=("gpt-5",)))


def test_a_wrong_model_is_not_timed(results_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(model: Any, dtype: torch.dtype) -> Any:
        other = unpacked(model, dtype)
        with torch.no_grad():
            other.layers[0].get_submodule("down").weight.mul_(1.5)
        return other

    monkeypatch.setattr(decode, "unpacked", wrong)
    with pytest.raises(checks.WrongProduct, match="logits"):
        decode.main(decode.Decode(models=("opt-13b",), sparsities=("2:4",), reduce=40, context=8))
    assert not results_folder.exists()


# --- on a GPU -------------------------------------------------------------------------------------


@pytest.mark.gpu
def test_the_harness_on_a_gpu(tmp_path: Path, results_folder: Path) -> None:
    bench = Bench(
        device="cuda",
        shapes=("llama-3-8b.o",),
        sparsities=("vector64:0.80", "block64:0.80", "2:4", "csl:0.80", "bitmap:0.50"),
        rows=(8, 16),
        repeats=3,
        out=tmp_path / "work",
    )
    bench_main.main(bench)
    rows = tables.read_csv(results_folder / "kernels" / "kernels.csv")
    assert len({(r["sparsity"], r["rows"]) for r in rows}) == 10
    assert all(r["captured"] == "True" for r in rows if r["kind"] == "dense")
    # dense products read their weight from memory: a warm cache would show more than a copy's rate
    assert all(r["share_of_copy"] < 1.3 for r in rows if r["kind"] == "dense")
    decode.main(
        decode.Decode(device="cuda", batches=(1,), context=64, reduce=16, depth=2, repeats=3)
    )
    assert (results_folder / "kernels" / "decode.csv").exists()
