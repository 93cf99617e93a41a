"""What the kernel harness makes of its measurements: tables, figures, and predictions beside them."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from experiments import results
from experiments.kernels import __main__ as bench_main
from experiments.kernels import bound, decode, packing, plots, prediction, static, tables
from experiments.kernels.cards import CARDS
from experiments.kernels.cases import Bench
from experiments.kernels.shapes import Kind
from experiments.results import write_csv
from nas.deploy.turns import Timing

# --- arithmetic of the tables ---------------------------------------------------------------------


def made_up_record(rows: int = 16, factor: float = 1.0, dtype: str = "float16") -> dict[str, Any]:
    """A case whose dense weight is 2 MB and whose sparse one is 0.5 MB."""

    def path(name: str, kind: str, median: float) -> dict[str, Any]:
        timing = Timing(median, 0.9 * median, 1.2 * median, 5)
        return {"path": name, "kind": kind, "error": 1e-4, **vars(timing)}

    paths = [
        path(f"dense {dtype} linear", "dense", 120.0),
        path(f"dense {dtype} mm", "dense", 100.0),
        path("dense", "dense copy", 20.0),
        path("default", "sparse", 80.0 / factor),
        path("triton", "sparse", 50.0 / factor),
    ]
    return {
        "dtype": dtype,
        "model": "m",
        "layer": "up",
        "out_features": 1000,
        "in_features": 1000,
        "pattern": "csl",
        "sparsity": "csl:0.80",
        "level": 0.8,
        "rows": rows,
        "stored_bytes": 500_000,
        "dense_bytes": 2_000_000,
        "moved_bytes": 100_000,
        "paths": paths,
        "unavailable": {},
        "copy_gbps": 42.0,
    }


def test_speed_up_bound_and_share_are_what_they_say() -> None:
    rows = {r["path"]: r for r in tables.path_rows(made_up_record())}
    best = rows["triton"]
    assert best["is_best"]
    assert best["dense_us"] == 100.0  # of the faster dense path
    assert best["speedup"] == 2.0
    assert best["byte_bound"] == 4.0
    assert best["gbps"] == 12.0  # 0.6 MB in 50 us
    assert best["share_of_copy"] == pytest.approx(12.0 / 42.0, rel=1e-3)
    assert rows["dense float16 mm"]["gbps"] == 21.0
    assert not rows["dense"]["is_best"]  # keeps a dense copy: no win of sparsity's
    assert rows["default"]["speedup"] == 1.25


def test_means_over_shapes_are_geometric() -> None:
    assert tables.geometric_mean([2.0, 0.5]) == pytest.approx(1.0)
    rows = [r for f in (1.0, 4.0) for r in tables.path_rows(made_up_record(factor=f))]
    (summary,) = tables.summarize(rows)
    assert (summary["shapes"], summary["least"], summary["largest"]) == (2, 2.0, 8.0)
    assert summary["speedup"] == pytest.approx(4.0)
    assert summary["byte_bound"] == 4.0


def test_bytes_are_counted_as_the_formats_store_them() -> None:
    """Per weight: values, and for 2:4 half a bit each, for vectors an int32 per column of V, for a bitmap a bit and its starts."""
    shape = (4096, 4096)
    for label, bytes_per_weight in (
        ("2:4", 1.0 + 0.125),
        ("vector64:0.50", 0.5 * (2 + 4 / 64)),
        ("csl:0.50", 0.5 * 4),
        ("bitmap:0.50", 1.0 + 1 / 8 + 12 / 256),
    ):
        assert prediction.byte_ratio(Kind.parse(label), shape) == pytest.approx(
            2 / bytes_per_weight, rel=1e-3
        )


# --- figures --------------------------------------------------------------------------------------


def test_the_published_curve_is_the_published_one() -> None:
    assert {n: tuple(curve.values()) for n, curve in plots.PUBLISHED.items()} == {
        8: (1.47, 1.79, 2.23),
        16: (1.46, 1.76, 2.20),
        32: (1.40, 1.63, 1.93),
    }
    assert all(tuple(curve) == (0.7, 0.8, 0.9) for curve in plots.PUBLISHED.values())
    assert "published, A100 (2309.10285)" in plots.PUBLISHED_LABEL


def test_figures_are_drawn_from_the_file(tmp_path: Path) -> None:
    path = tmp_path / "kernels.csv"
    records = [made_up_record(n, f) for n, f in ((1, 0.25), (16, 1.0), (64, 2.0))]
    write_csv(path, [r for c in records for r in tables.path_rows(c)], tables.COLUMNS)
    files = plots.draw(path, "a card")
    assert [f.name for f in files] == ["speedup.png", "wins.png"]
    assert all(f.read_bytes().startswith(b"\x89PNG") for f in files)
    records += [made_up_record(dtype="bfloat16")]
    write_csv(path, [r for c in records for r in tables.path_rows(c)], tables.COLUMNS)
    assert {f.name for f in plots.draw(path, "a card")} == {
        f"{name}-{dtype}.png" for name in ("speedup", "wins") for dtype in ("float16", "bfloat16")
    }
    path.write_text("path,median_us\na,1\n")
    with pytest.raises(ValueError, match="expected the columns"):
        plots.draw(path, "a card")


# --- the predicted bound --------------------------------------------------------------------------


def card(name: str) -> Any:
    return next(c for c in CARDS if c.name == name)


def counted(label: str, instructions: float, popc: float = 0.0, **more: Any) -> dict[str, Any]:
    return {
        "kernel": f"nm {label}",
        "sparsity": label,
        "arch": "sm_90",
        "instructions_per_weight": instructions,
        "pop_c_per_weight": popc,
        **more,
    }


def test_slots_are_those_worked_out_by_hand() -> None:
    """H200: 0.9 x 4.8e12 / 2 = 2.16e12 weights per second on 132 x 1.755e9 clocks are 9.32 a clock; 128 / 9.32 = 13.7."""
    slots = {c.name: round(c.slots, 1) for c in CARDS}
    expected = {"A100": 21.2, "H100": 19.7, "H200": 13.7, "B200": 9.7}
    assert {name: slots[name] for name in expected} == expected
    assert round(slots["RTX 4090"]) == 91
    assert all("[unverified]" in c.label and c.source for c in CARDS)


def test_predictions_are_the_least_of_the_caps() -> None:
    h200 = card("H200")
    two_of_four = prediction.predict(h200, counted("2:4", 4.08))
    assert two_of_four.issue_cap == pytest.approx(0.75 * 13.73 / 4.08, rel=1e-3)  # 2.5
    assert round(two_of_four.issue_cap, 1) == 2.5
    assert two_of_four.shared_cap == pytest.approx(128 / 4 / 9.32, rel=1e-3)  # 3.4
    assert two_of_four.popc_cap == float("inf")
    assert two_of_four.limit == "bytes"
    assert two_of_four.speedup == pytest.approx(2 / 1.125, rel=1e-3)
    bitmap = {"kernel": "bitmap", "sparsity": "unstructured:0.50", "arch": "sm_90"}
    slow = prediction.predict(
        h200, bitmap | {"instructions_per_weight": 9.72, "pop_c_per_weight": 0.5}
    )
    assert slow.speedup == pytest.approx(1.06, abs=0.005)
    assert slow.limit == "issue"
    assert slow.popc_cap == pytest.approx(3.43, abs=0.01)
    two = prediction.predict(
        h200, bitmap | {"instructions_per_weight": 1.0, "pop_c_per_weight": 2.0}
    )
    assert (round(two.speedup, 2), two.limit) == (0.86, "POPC")
    # vectors are counted per stored weight, a fifth of all
    vector = prediction.predict(h200, counted("vector64:0.80", 1.78))
    assert vector.issue_cap == pytest.approx(0.75 * 13.73 / (0.2 * 1.78), rel=1e-3)
    assert vector.limit == "bytes"


@pytest.mark.parametrize(
    ("main", "settings", "options", "message"),
    [
        (bench_main.main, Bench, ["--repeats", "0"], "expected repeats of 1 or more, got 0"),
        (bench_main.main, Bench, ["--minutes", "-1"], "expected minutes of 0 or more, got -1"),
        (bench_main.main, Bench, ["--shapes", "opt-1t"], "opt-1t"),
        (decode.main, decode.Decode, ["--batches", "1", "0"], "batches of 1 or more"),
        (decode.main, decode.Decode, ["--dtype", "float99"], "expected a dtype of"),
        (decode.main, decode.Decode, ["--reduce", "0"], "reduce of 1 or more"),
        (static.main, static.Static, ["--jobs", "0"], "jobs of 1 or more"),
        (packing.main, packing.Packing, ["--dtype", "int8"], "expected a dtype of"),
    ],
)
def test_wrong_settings_are_a_line_to_read(
    main: Any,
    settings: Any,
    options: list[str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("sys.argv", ["experiment", *options])
    with pytest.raises(SystemExit) as stopped:
        results.run(main, settings, None)
    assert stopped.value.code == 2
    said = " ".join(capsys.readouterr().err.replace("│", " ").split())
    assert message in said
    assert "Traceback" not in said


def test_results_go_where_they_are_wanted(tmp_path: Path) -> None:
    packing.main(packing.Packing(rows=128, columns=128, results=tmp_path))
    found = json.loads(
        (tmp_path / results.device_slug("cpu") / "packing" / "result.json").read_text()
    )
    assert {row["format"] for row in found["values"]["rows"]} >= {"csl", "bitmap", "nm", "bsr"}
    assert "--results" not in found["command"]


def test_bound_prints_predictions_beside_what_was_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = tmp_path / "static.json"
    with pytest.raises(ValueError, match="found no file; write it with"):
        bound.main(bound.Bound(table, results=tmp_path))
    table.write_text('{"rows": [{"kernel": "nm 2:4"}]}')
    with pytest.raises(ValueError, match="write it again with"):
        bound.main(bound.Bound(table, results=tmp_path))
    kernels = [counted("2:4", 4.08), counted("2:4", 3.74, arch="sm_80")]
    kernels += [counted("unstructured:0.80", 5.0, kernel="csl 128x128")]
    table.write_text(json.dumps({"rows": kernels}))
    measured = tmp_path / "nvidia-h200" / "kernels" / "kernels.csv"
    measured.parent.mkdir(parents=True)
    write_csv(measured, tables.path_rows(made_up_record()), tables.COLUMNS)
    bound.main(bound.Bound(table, results=tmp_path))
    printed = capsys.readouterr().out
    assert "no measurement" in printed
    assert "[unverified]" in printed
    with (tmp_path / "predicted" / "kernels" / "bound.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 + 1 + 2 + 2 + 1  # A100, RTX 4090: sm_80 has one kernel; the others two
    by_case = {(r["card"].split(" [")[0], r["sparsity"]): r for r in rows}
    assert by_case["H200", "csl:0.80"]["measured"] == "2.0"
    assert by_case["H200", "2:4"]["measured"] == ""
    assert by_case["H100", "csl:0.80"]["measured"] == ""
    assert by_case["RTX 4090", "2:4"]["arch"] == "sm_80 for sm_89"
    assert by_case["B200", "2:4"]["arch"] == "sm_90 for sm_100"
    stored = json.loads((tmp_path / "predicted" / "kernels" / "result.json").read_text())
    assert "not measurements" in stored["values"]["kind"]
