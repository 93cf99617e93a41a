"""The report: what it refuses, what it says, and (with a browser at hand) how it stands on a page."""

from __future__ import annotations

import copy
import html
import json
import os
import re
import shlex
import struct
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from sample_results import DECODE, sample_cases, sample_results
from tokenizers import Tokenizer, models, pre_tokenizers

from nas.cli import parse
from nas.deploy.report import ResultsError, View, load, print_report, render, validate
from nas.deploy.report.units import Metric, number, si
from nas.deploy.report.verdict import key_figures, verdict
from nas.model import Supernet, extract, save_gpt
from search_spaces import Architecture, Family, LayerConfig, SearchSpace

VOID = {"meta", "br", "input", "img", "link", "hr", "path", "circle", "rect"}


class Page(HTMLParser):
    """An independent reading of the page: tag balance, resources, ids, links, and the text a person sees."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.stack: list[str] = []
        self.errors: list[str] = []
        self.resources: list[str] = []
        self.ids: list[str] = []
        self.anchors: list[str] = []
        self.labels: list[str] = []
        self.scripts: list[str] = []
        self.text: list[str] = []
        self.feed(page)
        self.close()
        self.errors += [f"open at the end: {tag}" for tag in self.stack]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        fields = {name: value or "" for name, value in attrs}
        if tag not in VOID:
            self.stack.append(tag)
        if tag == "script":
            self.scripts.append("")
        self.resources += [
            fields[n] for n in ("src", "srcset", "data", "poster", "action") if n in fields
        ]
        if "id" in fields:
            self.ids.append(fields["id"])
        if tag == "a":
            self.anchors.append(fields["href"])
        elif "href" in fields:
            self.resources.append(fields["href"])
        self.labels += [fields[n] for n in ("aria-label", "alt") if n in fields]

    def handle_endtag(self, tag: str) -> None:
        if tag in VOID:
            return
        if not self.stack or self.stack.pop() != tag:
            self.errors.append(f"</{tag}> at {self.getpos()}")

    def handle_data(self, data: str) -> None:
        if self.stack and self.stack[-1] == "script":
            self.scripts[-1] += data
        elif not self.stack or self.stack[-1] not in ("style", "title"):
            self.text.append(data)

    @property
    def seen(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.text).replace("\N{NO-BREAK SPACE}", " "))


CASES = sample_cases()


@pytest.mark.parametrize("name", CASES)
def test_page_is_valid_and_alone(name: str, tmp_path: Path) -> None:
    results = copy.deepcopy(CASES[name])
    paths = render(results, tmp_path)
    assert results == CASES[name]  # the caller's dict is left as it was
    page = Page(paths.html.read_text(encoding="utf-8"))
    assert page.errors == []
    assert [r for r in page.resources if not r.startswith("data:image/png;base64,")] == []
    assert len(page.ids) == len(set(page.ids))
    assert {a.removeprefix("#") for a in page.anchors} <= set(page.ids)
    assert all(a.startswith("#") for a in page.anchors)
    data = json.loads(next(s for s in page.scripts if s.startswith('{"metrics"')))
    assert len(data["winners"]) == len(results["winners"])
    assert len(data["trials"]) == len(results.get("trials", []))
    for number_, winner in enumerate(results["winners"], 1):
        assert f"winner-{number_}" in page.ids
        assert f"#winner-{number_}" in page.anchors
        for part in (layer["ffn_sparsity"] for layer in winner["architecture"]["layers"]):
            assert part in page.seen
    assert struct.unpack(">II", paths.png.read_bytes()[16:24]) == (1600, 960)


def test_content_security_policy_forbids_every_load(tmp_path: Path) -> None:
    page = render(sample_results(), tmp_path).html.read_text(encoding="utf-8")
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', page)
    assert policy
    assert "default-src 'none'" in policy[1]
    assert not re.search(r"https?:|\*", policy[1])


def test_every_figure_of_a_winner_is_on_the_page(tmp_path: Path) -> None:
    results = sample_results(3, 6)
    seen = Page(render(results, tmp_path).html.read_text(encoding="utf-8")).seen
    for winner in results["winners"]:
        if not winner["measured"]:
            continue
        assert f"{winner['measured']['perplexity']:.2f}" in seen
        assert f"{winner['measured']['weight_bytes'] / 1e6:.2f} MB" in seen
        assert f"{winner['speedup']:.2f}× as fast" in seen
        assert f"{winner['perplexity_ratio']:.2f}× dense" in seen
        assert winner["label"] in seen
    assert "Kendall τ" in seen
    assert "0.930" in seen
    assert results["command"] in seen
    assert results["provenance"]["supernet"]["sha256"] in seen
    assert str(tmp_path.resolve() / "winners") in seen


def test_failed_and_unmeasured_are_told_apart_from_verified(tmp_path: Path) -> None:
    results = sample_results(3, 6)
    page = render(results, tmp_path).html.read_text(encoding="utf-8")
    rows = dict(re.findall(r'<a href="#(winner-\d)">.*?</th>(.*?)</tr>', page, flags=re.DOTALL))
    failed, unmeasured, verified = rows["winner-6"], rows["winner-5"], rows["winner-1"]
    assert "state failed" in failed
    assert "Decode latency (batch 1, context 128): measured" in failed
    assert "state verified" not in failed + unmeasured
    assert unmeasured.count("≈") == 3  # three objectives, all predictions
    assert "≈" not in verified + failed
    assert 'class="card unmeasured"' in page


def test_all_inputs_are_escaped(tmp_path: Path) -> None:
    evil = "<script>alert(1)</script></script><img src=x onerror=alert(1)>\"'&%{x}"
    results = sample_results(3, 4)
    # Everything that is text and not an architecture, pattern or objective; keys of free dictionaries as well.
    results["command"] = results["baseline"]["path"] = evil
    results["provenance"] = dict.fromkeys(results["provenance"], evil) | {evil: {"x": [evil]}}
    results["baseline"]["paths"] = {evil: 1.0, "compiled": evil}
    results["surrogate"][evil] = {"kendall_tau": 0.5}
    for winner in results["winners"]:
        winner["label"] = winner["sample"] = winner["folder"] = evil
        for check in winner["checks"]:
            check["name"] = check["unit"] = evil
    name = f"energy_j[{evil}]"
    results["objectives"].append({"name": name, "unit": evil, "direction": "minimize"})
    results["baseline"]["measured"][name] = 1.0
    page = render(results, tmp_path).html.read_text(encoding="utf-8")
    read = Page(page)
    assert read.errors == []
    assert len(read.scripts) == 3  # data, plotly, charts
    assert [r for r in read.resources if not r.startswith("data:image")] == []
    assert "<img src=x" not in page
    assert read.seen.count("<script>alert(1)</script>") > 10
    data = json.loads(next(s for s in read.scripts if s.startswith('{"metrics"')))
    assert data["metrics"][-1]["name"] == name


def spoil(change: Callable[[dict[str, Any]], Any]) -> dict[str, Any]:
    results = sample_results(3, 3)
    change(results)
    return results


def drop_ffn_width(results: dict[str, Any]) -> None:
    for layer in results["trials"][0]["architecture"]["layers"]:
        layer |= {"ffn": True, "ffn_ratio": 0.0}


@pytest.mark.parametrize(
    ("results", "message"),
    [
        ([], "expected results to be the results of `nas search`.*list"),
        ({"loss": 1.0}, "expected results to be the results of `nas search`"),
        (spoil(lambda r: r.update(schema=2)), "expected schema 1.*got 2.*newer"),
        (spoil(lambda r: r.update(schema="1")), "expected schema 1.*got '1'"),
        (spoil(lambda r: r.update(schema=0)), "expected schema 1.*got 0.*too old"),
        (spoil(lambda r: r.pop("winners")), "winners"),
        (spoil(lambda r: r.pop("baseline")), "baseline"),
        (spoil(lambda r: r.update(objectives=[])), "at least one objective"),
        (spoil(lambda r: r["objectives"].append(r["objectives"][0])), "each objective once"),
        (spoil(lambda r: r.update(trials={})), "list at trials"),
        (spoil(lambda r: r["winners"][1]["measured"].update(perplexity="12")), r"winners\[1\].measured.perplexity.*str '12'"),
        (spoil(lambda r: r["winners"][1]["measured"].update(perplexity=float("nan"))), r"finite number at winners\[1\]"),
        (spoil(lambda r: r["winners"][0]["predicted"][DECODE].pop("low")), r"winners\[0\].predicted.*low"),
        (spoil(lambda r: r["winners"][0].update(verified=1)), r"bool at winners\[0\].verified"),
        (spoil(lambda r: r["hypervolume_trace"].append(None)), r"a number at hypervolume_trace\[60\]"),
        (spoil(lambda r: r["random_search"]["front"].append(3)), r"an object at random_search.front\[9\]"),
        (spoil(drop_ffn_width), r"a valid architecture at trials\[0\].architecture.*ffn_ratio above 0"),
    ],
)  # fmt: skip
def test_foreign_or_damaged_results_are_refused(
    results: object, message: str, tmp_path: Path
) -> None:
    with pytest.raises(ResultsError, match=message):
        render(results, tmp_path / "out")  # type: ignore[arg-type]
    assert not (tmp_path / "out").exists()


def test_files_are_read_and_refused(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    with pytest.raises(FileNotFoundError, match="nas search --out"):
        load(tmp_path)
    results = sample_results(2, 2)
    path.write_text(json.dumps(results))
    assert load(tmp_path) == load(path) == results
    assert render(path, tmp_path).html.stat().st_size > 4_000_000  # plotly.js is inside
    for content in (b'{"schema": 1, ', b"\xff\xfe\x00", b""):
        path.write_bytes(content)
        with pytest.raises(ResultsError, match="expected JSON in .*results.json"):
            load(path)
    path.write_text(
        json.dumps(results).replace('"hypervolume": 0', '"hypervolume": NaN, "x": 0', 1)
    )
    with pytest.raises(ResultsError, match="finite number at hypervolume"):
        load(path)


def test_old_report_stands_when_rendering_fails(tmp_path: Path) -> None:
    paths = render(sample_results(2, 2), tmp_path)
    before = paths.html.read_bytes(), paths.png.read_bytes()
    with pytest.raises(ResultsError):
        render(
            spoil(lambda r: r["winners"][0]["measured"].update(perplexity=float("inf"))), tmp_path
        )
    assert (paths.html.read_bytes(), paths.png.read_bytes()) == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["front.png", "report.html"]


def test_fastest_and_smallest_are_those_of_brute_force() -> None:
    results = sample_results(3, 30, 120)
    view = View(validate(results))
    allowed = [
        (i, w)
        for i, w in enumerate(results["winners"], 1)
        if w["verified"] and w["perplexity_ratio"] <= 1.15
    ]
    assert view.fastest
    assert view.smallest
    assert view.fastest.number == max(allowed, key=lambda pair: pair[1]["speedup"])[0]
    assert view.smallest.number == min(allowed, key=lambda pair: pair[1]["size_ratio"])[0]
    assert f"winner {view.fastest.number} is {view.fastest.speedup:.2f}×" in verdict(view)


def test_ratios_are_worked_out_when_the_results_lack_them() -> None:
    results = sample_results(3, 4)
    given = View(validate(copy.deepcopy(results))).winners[0]
    for winner in results["winners"]:
        for name in ("speedup", "perplexity_ratio", "size_ratio"):
            winner.pop(name, None)
    found = View(validate(results)).winners[0]
    assert (found.speedup, found.perplexity_ratio, found.size_ratio) == pytest.approx(
        (given.speedup, given.perplexity_ratio, given.size_ratio), rel=1e-12
    )


def test_verdict_never_claims_what_was_not_verified() -> None:
    results = sample_results(3, 6)
    for winner in results["winners"]:
        winner["verified"] = False
    assert "No claim can be made yet: of 6 winners, none passed" in verdict(View(validate(results)))
    assert key_figures(View(results))[0][1] == "–"
    for winner in results["winners"]:
        winner |= {
            "measured": {},
            "checks": [],
            "verified": True,
        }  # a claim of verification without a measurement
    assert "none has been measured" in verdict(View(validate(results)))
    assert View(results).verified == []
    results = sample_results(3, 2)
    for winner in results["winners"]:
        winner["perplexity_ratio"] = 1.1501
    assert "the closest has 1.15×" in verdict(View(validate(results)))
    assert "without a winner" in verdict(View(validate(sample_results(3, 0))))


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("width", [40, 80, 140])
def test_terminal_tables_keep_values_whole(name: str, width: int) -> None:
    view = View(validate(CASES[name]))
    console = Console(width=width, record=True, file=open(os.devnull, "w"), color_system=None)  # noqa: SIM115
    print_report(view, console)
    text = console.export_text()
    assert max(len(line.rstrip()) for line in text.splitlines()) <= width
    flat = " ".join(text.split()).replace("\N{NO-BREAK SPACE}", " ")
    for winner in view.winners:
        assert winner.name in flat
        for metric in view.table_metrics:
            if metric.name in winner.measured:
                assert (
                    metric.format(winner.measured[metric.name]).replace("\N{NO-BREAK SPACE}", " ")
                    in flat
                )
        if winner.status == "failed":
            assert f"{winner.name} failed" in flat
    assert " ".join(verdict(view).replace("\N{NO-BREAK SPACE}", " ").split()) in flat


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0"), (9.999, "10.0"), (0.0501, "0.0501"), (123.4, "123"), (999.6, "1000"), (1e-9, "1.00e-09"), (1e30, "1.00e+30")],
)  # fmt: skip
def test_numbers_have_three_digits(value: float, text: str) -> None:
    assert number(value) == text
    assert float(number(value)) == pytest.approx(value, rel=5e-3)


def test_units_are_spelled() -> None:
    plain = lambda text: text.replace("\N{NO-BREAK SPACE}", " ")  # noqa: E731
    assert plain(si(23_400_000, "B")) == "23.4 MB"
    assert plain(si(999, "B")) == "999 B"
    latency = Metric("prefill_ms[batch=8,context=512]", "ms")
    assert latency.axis == "Prefill latency (batch 8, context 512), ms"
    assert [plain(latency.format(v)) for v in (0.0123, 1.5, 2500.0)] == [
        "12.3 µs",
        "1.50 ms",
        "2.50 s",
    ]
    assert latency.format(None) == "–"


def test_front_png_shows_every_kind_of_point(tmp_path: Path) -> None:
    """Each kind has its own color; counted in the pixels by another reader than the one that wrote them."""
    image = pytest.importorskip("PIL.Image")
    paths = render(sample_results(3), tmp_path)
    with image.open(paths.png) as picture:
        assert picture.size == (1600, 960)
        pixels = np.asarray(picture.convert("RGB")).reshape(-1, 3)
    colors, counts = np.unique(pixels, axis=0, return_counts=True)
    found = {tuple(map(int, c)): int(n) for c, n in zip(colors, counts, strict=True)}
    for kind, color in {
        "winner": (10, 92, 173),
        "failed": (179, 38, 30),
        "random": (168, 85, 0),
        "ink": (23, 32, 43),
    }.items():
        assert found.get(color, 0) > 50, kind


def test_python_of_the_page_loads_a_real_winner(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    family = Family(vocab_size=64, context_length=128, head_dim=16)
    layer = LayerConfig(2, 2.0)
    space = SearchSpace("two", family, (32,), (1, 2), (1, 2), (1.0, 2.0))
    architecture = Architecture(32, (layer, layer))
    torch.manual_seed(0)
    model = extract(Supernet(space), architecture)
    folder = tmp_path / "winners" / architecture.key
    save_gpt(model, folder / "model.json")
    letters = {chr(32 + i): i for i in range(63)} | {"?": 63}
    tokenizer = Tokenizer(models.WordLevel({**letters}, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer.save(str(folder / "tokenizer.json"))
    results = sample_results(3, 1)
    results["winners"][0]["architecture"] = architecture.to_json()
    page = render(results, tmp_path).html.read_text(encoding="utf-8")
    code = re.search(r"<h3>Python</h3><pre[^>]*>(.*?)</pre>", page, flags=re.DOTALL)
    assert code
    exec(compile(html.unescape(code[1]), "report.html", "exec"), {})
    assert len(capsys.readouterr().out) > 1


def test_shell_of_the_page_is_understood_by_the_command_line(tmp_path: Path) -> None:
    page = render(sample_results(3, 2), tmp_path / "with space").html.read_text(encoding="utf-8")
    code = re.search(r"<h3>Shell</h3><pre[^>]*>(.*?)</pre>", page, flags=re.DOTALL)
    assert code
    lines = [shlex.split(line, comments=True) for line in html.unescape(code[1]).splitlines()]
    commands = [line for line in lines if line]
    assert [c[:2] for c in commands] == [
        ["nas", "verify"],
        ["nas", "materialize"],
        ["nas", "report"],
    ]
    for command in commands:
        parsed = parse(command[1:])
        assert parsed.run == (tmp_path / "with space").resolve()
