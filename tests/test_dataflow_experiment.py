"""The sweep of sparsity x fusion x device: its files, and where sparsity pays on curves that are known."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from experiments.dataflow.__main__ import Recipe, main
from experiments.dataflow.sweep import gpt, pays_from, pays_until, s2d_rows
from surrogates import execution


def recipe(folder: Path) -> Recipe:
    return Recipe(
        ("a100", "sn40l"), ("unstructured",), (0.5, 0.875), 256, 2, 2, 1, 128, results=folder
    )


def test_a_small_sweep_writes_tables_and_figures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = recipe(tmp_path)
    main(settings)
    folder = tmp_path / "predicted" / "dataflow"
    for name in ("training.png", "prefill.png", "decode.png"):
        assert (folder / name).read_bytes().startswith(b"\x89PNG")
    with (folder / "dataflow.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 3 * 2 * 3 * 3  # workloads, devices, levels with the dense one, modes
    result = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    assert "not measurements" in result["values"]["kind"]
    assert result["values"]["devices"]["sn40l"]["source"]["on_chip_bytes"]
    assert "python -m experiments.dataflow" in result["command"]
    # every row's speed-up is over the fastest dense one of its device, and its time is the model's
    for row in rows:
        own = [r for r in rows if (r["workload"], r["device"]) == (row["workload"], row["device"])]
        fastest = min(float(r["ms"]) for r in own if float(r["level"]) == 0.0)
        assert float(row["speedup"]) == pytest.approx(fastest / float(row["ms"]), rel=1e-2)
    from search_spaces import Workload

    row = next(r for r in rows if r["workload"].startswith("training") and r["level"] == "0.875")
    architecture, family = gpt(256, 2, 129, "unstructured:0.875")
    expected = execution(
        architecture, family, Workload("training", 2, 128), "a100", "kernel-by-kernel"
    )
    assert float(row["ms"]) == pytest.approx(1e3 * expected.seconds, abs=1e-5)
    assert str(folder) in capsys.readouterr().out.replace("\n", "")


def test_where_sparsity_pays_on_known_curves() -> None:
    halves = [0.0, 0.5, 0.75, 0.875, 0.9375]

    def amdahl(rest: float) -> list[tuple[float, float]]:
        return [(level, 1 / (rest + (1 - rest) * (1 - level))) for level in halves]

    assert (pays_from(amdahl(0.0)), pays_until(amdahl(0.0))) == (0.5, 0.9375)
    # three quarters are not sparse: 1.143, 1.231, 1.28: the second halving gains 7.7 %
    assert (pays_from(amdahl(0.75)), pays_until(amdahl(0.75))) == (0.5, 0.5)
    # a third is not: 1.5, 2, 2.4, 2.67: gains of 50, 33, 20 and 11 %
    assert pays_until(amdahl(1 / 3)) == 0.9375
    assert pays_until(amdahl(0.4)) == 0.875  # 1.43, 1.82, 2.11, 2.29: 43, 27, 16 and 8.6 %
    flat = [(level, 1.0 - 0.1 * (level > 0)) for level in halves]
    assert (pays_from(flat), pays_until(flat)) == (None, None)
    # an index as large as its value: nothing at half the weights, then bytes halve
    late = [(0.0, 1.0), (0.5, 1.0), (0.75, 2.0), (0.875, 2.0)]
    assert (pays_from(late), pays_until(late)) == (0.75, 0.75)


def test_sparse_to_dense_rows_by_hand() -> None:
    rows = [
        {"device": d, "pattern": "x", "level": level, "mode": "kernel-by-kernel", "ms": ms, "speedup_in_mode": gain}
        for d, level, ms, gain in (("a100", 0.0, 12.0, 1.0), ("sn40l", 0.0, 6.0, 1.0), ("sn40l", 0.5, 2.0, 3.0))
    ]  # fmt: skip
    (found,) = s2d_rows(rows, "a100")
    assert (found["sparse_ratio"], found["device_ratio"]) == (3.0, 2.0)
    assert found["speedup"]["0.0"] == 6.0
    assert found["speedup"]["0.2"] == round(2 / (0.8 / 3 + 0.2), 3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"devices": ("a101", "a100")}, "expected a device"),
        ({"devices": ("v100", "a100")}, "expected a dtype"),
        ({"devices": ("sn40l",)}, "a100 among the devices"),
        ({"levels": ()}, "one of levels or more"),
        ({"levels": (1.0,)}, "levels between 0 and 1"),
    ],
)
def test_a_wrong_recipe_is_refused(change: dict[str, tuple[object, ...]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Recipe(**change)  # type: ignore[arg-type]


def test_a_width_without_whole_heads_is_refused() -> None:
    with pytest.raises(ValueError, match="multiple of a head"):
        gpt(100, 2, 64)
