"""The report in a real browser: headless Chromium lays every page out, and a script inside measures what a person would see."""

from __future__ import annotations

import copy
import html
import json
import re
import shutil
import subprocess
from typing import Any

import pytest
from sample_results import sample_cases

from nas.deploy.report import View, render

CASES = sample_cases()
LOOKED_AT = ("3 objectives", "30 winners", "no winner", "huge numbers", "gpt-m")
WIDTHS = (1280, 400)
MEASURE = r"""
const GROUPS = [
  "header.top > *, main > section", ".card", ".figures > div", ".controls > *", "#legend li", ".front > *", ".pair > *",
  "section > h2, section > p, section > div, section > ul, section > details", ".card > *", ".samples > *",
  "dl.facts > div > *", ".layers > *",
];
function look(frame) {
  const page = frame.contentDocument, root = page.documentElement, view = frame.contentWindow;
  for (const details of page.querySelectorAll("details")) details.open = true;
  const cut = [], overlaps = [];
  const name = (e) => e.tagName + "." + e.className + " " + e.textContent.slice(0, 40);
  for (const e of page.querySelectorAll("body *")) {
    if (e.closest("svg, .scroll > *, .skip, script, style, noscript")) continue;
    const r = e.getBoundingClientRect(), x = view.getComputedStyle(e).overflowX;
    if (r.width && (r.left < -0.5 || r.right > root.clientWidth + 0.5)) cut.push("beyond the window: " + name(e));
    const mayScroll = e.matches("pre, select, .scroll, .chart *");
    if (x !== "visible" && !mayScroll && e.scrollWidth > e.clientWidth + 1) cut.push("too narrow: " + name(e));
  }
  for (const chart of page.querySelectorAll(".chart")) {
    const c = chart.getBoundingClientRect();
    for (const text of chart.querySelectorAll("svg text")) {
      const r = text.getBoundingClientRect(), isMark = text.closest(".scatterlayer");
      const isOut = r.left < c.left - 1 || r.right > c.right + 1 || r.top < c.top - 1 || r.bottom > c.bottom + 1;
      if (!isMark && isOut) cut.push("chart " + chart.id + ": " + text.textContent);
    }
  }
  for (const query of GROUPS) {
    const boxes = [...page.querySelectorAll(query)].map((e) => e.getBoundingClientRect()).filter((r) => r.width);
    boxes.forEach((a, i) => boxes.slice(i + 1).forEach((b) => {
      const x = Math.min(a.right, b.right) - Math.max(a.left, b.left);
      const y = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top);
      if (x > 1 && y > 1) overlaps.push(query);
    }));
  }
  const title = () => page.querySelector("#front .xtitle").textContent;
  const points = () => page.querySelectorAll("#front .scatterlayer .trace path.point").length;
  const all = points(), first = title(), button = page.querySelector("#legend button[data-group=baseline]");
  button.click();
  const without = points();
  button.click();
  const select = page.getElementById("axis-x");
  select.value = String(select.options.length - 1);
  select.dispatchEvent(new view.Event("change"));
  return {
    width: root.clientWidth, scroll_width: root.scrollWidth, cut: cut, overlaps: overlaps, points: all,
    points_without_baseline: without, drawn: root.dataset.charts || "", titles: [first, title()],
    detail: page.querySelector("#detail h3").textContent,
  };
}
addEventListener("load", () => setTimeout(() => {
  const found = [...document.querySelectorAll("iframe")].map((frame) => {
    try { return look(frame); } catch (error) { return { error: String(error) }; }
  });
  document.getElementById("out").textContent = JSON.stringify(found);
}, 1000));
"""


@pytest.fixture(scope="module")
def browsed(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, int], dict[str, Any]]:
    """Each page in frames of 1280 and 400 CSS pixels (a window is never as narrow as a telephone), measured in one visit."""
    names = ("chromium", "chromium-browser", "google-chrome", "chrome")
    browser = next(filter(None, map(shutil.which, names)), None)
    if browser is None:
        pytest.skip(
            "no chromium found: the report was NOT looked at in a browser (apt-get install chromium)"
        )
    folder = tmp_path_factory.mktemp("browser")
    frames = []
    for name in LOOKED_AT:
        results = copy.deepcopy(CASES[name])
        results["provenance"]["corpus"] = (
            "/data/" + "a-very-long-folder-name/" * 12 + "text.parquet"
        )
        results["provenance"]["device"] = "x" * 120
        page = render(results, folder / name.replace(" ", "-")).html.as_uri()
        frames += [
            f'<iframe style="border:0;width:{w}px;height:900px" src="{page}"></iframe>'
            for w in WIDTHS
        ]
    (folder / "frames.html").write_text(
        f'<!doctype html>{"".join(frames)}<pre id="out"></pre><script>{MEASURE}</script>'
    )
    command = [
        *(
            browser,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--no-first-run",
        ),
        *(
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--hide-scrollbars",
        ),
        *(
            "--allow-file-access-from-files",
            "--enable-logging=stderr",
            "--virtual-time-budget=60000",
            "--dump-dom",
        ),
        *(
            f"--user-data-dir={folder / 'profile'}",
            "--window-size=1400,900",
            (folder / "frames.html").as_uri(),
        ),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
    # a script error, or anything that the content security policy had to stop
    assert "CONSOLE" not in done.stderr, [x for x in done.stderr.splitlines() if "CONSOLE" in x]
    found = re.search(r'<pre id="out">(.+?)</pre>', done.stdout, flags=re.DOTALL)
    assert found, done.stdout[:2000]
    keys = [(name, width) for name in LOOKED_AT for width in WIDTHS]
    return dict(zip(keys, json.loads(html.unescape(found[1])), strict=True))


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", LOOKED_AT)
def test_nothing_overlaps_or_is_cut(
    name: str, width: int, browsed: dict[tuple[str, int], dict[str, Any]]
) -> None:
    found = browsed[name, width]
    assert "error" not in found, found
    assert (found["width"], found["drawn"]) == (width, "drawn")
    assert found["scroll_width"] <= width
    assert found["cut"] == []
    assert found["overlaps"] == []


@pytest.mark.parametrize("name", LOOKED_AT)
def test_charts_answer(name: str, browsed: dict[tuple[str, int], dict[str, Any]]) -> None:
    found, view = browsed[name, 1280], View(CASES[name])
    assert found["points_without_baseline"] == found["points"] - 1
    assert found["titles"][0].removesuffix(" (log)") == view.metrics[1].axis
    assert found["titles"][1].removesuffix(" (log)") == view.metrics[-1].axis
    assert found["detail"].startswith("winner" if view.winners else "dense baseline")
    if view.fastest:
        assert found["detail"] == view.fastest.name
