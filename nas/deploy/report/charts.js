// Draws the report's charts from the JSON in #data. Colors come from the page's CSS variables, so both color schemes work.
(function () {
  "use strict";
  const data = JSON.parse(document.getElementById("data").textContent);
  const $ = (id) => document.getElementById(id);
  const color = (name) => getComputedStyle(document.documentElement).getPropertyValue("--" + name).trim();
  const isNarrow = () => document.documentElement.clientWidth < 640;
  const config = { responsive: true, displaylogo: false, displayModeBar: false };
  const isCrowded = data.winners.length > 15;  // then the numbers are left to pointing at a winner
  const isTouch = window.matchMedia("(pointer: coarse)").matches;

  function layout(extra) {
    const axis = {
      gridcolor: color("line"), linecolor: color("axis"), zeroline: false, showline: true, ticks: "outside",
      tickcolor: color("axis"), automargin: true, nticks: isNarrow() ? 5 : 8,
    };
    const merge = (own) => Object.assign({}, axis, own);
    const merged = Object.assign({
      font: { family: getComputedStyle(document.body).fontFamily, size: 12, color: color("ink") },
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", showlegend: false, hovermode: "closest",
      dragmode: isTouch ? false : "zoom", margin: { l: 56, r: 18, t: 14, b: 48 },
      hoverlabel: { bgcolor: color("bg"), bordercolor: color("axis"), font: { color: color("ink"), size: 12 }, align: "left" },
    }, extra);
    merged.xaxis = merge(extra.xaxis);
    merged.yaxis = merge(extra.yaxis);
    return merged;
  }

  // --- the front -------------------------------------------------------------------------------------------------
  const hidden = new Set();

  function frontTraces(x, y) {
    const pair = (values) => values && values[x] != null && values[y] != null;
    const traces = [];
    function add(group, points, at, style) {
      const shown = points.filter((p) => pair(at(p)));
      traces.push(Object.assign({
        type: "scatter", mode: "markers", meta: group, visible: !hidden.has(group),
        x: shown.map((p) => at(p)[x]), y: shown.map((p) => at(p)[y]), customdata: shown,
        hovertemplate: shown.map((p) => hover(p, x, y)),
      }, style));
    }
    const line = (width, c) => ({ width: width, color: c });
    add("trials", data.trials, (p) => p.values, { marker: { size: 6, color: color("trial"), opacity: 0.7 } });
    add("random", data.random, (p) => p.values,
      { marker: { size: 9, symbol: "diamond-open", color: color("random"), line: line(1.8, color("random")) } });
    const claims = data.winners.filter((w) => pair(w.predicted));
    const join = { x: [], y: [] };
    for (const w of claims) {
      if (!pair(w.measured)) continue;
      join.x.push(w.predicted[x][0], w.measured[x], null);
      join.y.push(w.predicted[y][0], w.measured[y], null);
    }
    traces.push({
      type: "scatter", mode: "lines", meta: "predicted", visible: !hidden.has("predicted") && !hidden.has("measured"),
      x: join.x, y: join.y, hoverinfo: "skip", line: { width: 1.2, dash: "dot", color: color("winner") },
    });
    const addClaims = (points, style) => {
      const error = (i) => ({
        type: "data", symmetric: false, thickness: 1.1, width: 3, color: color("winner"),
        array: points.map((w) => w.predicted[i][2] - w.predicted[i][0]),
        arrayminus: points.map((w) => w.predicted[i][0] - w.predicted[i][1]),
      });
      add("predicted", points, (w) => w.predicted.map((p) => p && p[0]), Object.assign({ error_x: error(x), error_y: error(y) }, style));
    };
    const hollow = (size) => ({ size: size, color: color("bg"), line: line(1.4, color("winner")) });
    const unmeasured = claims.filter((w) => w.status === "unmeasured");
    addClaims(claims.filter((w) => w.status !== "unmeasured"), { marker: hollow(8) });
    addClaims(unmeasured, {
      mode: isCrowded ? "markers" : "markers+text", text: unmeasured.map((w) => String(w.number)), textposition: "middle center",
      textfont: { size: 10, color: color("winner") }, cliponaxis: false, marker: hollow(isCrowded ? 10 : 17),
    });
    const numbered = (ink) => ({ mode: isCrowded ? "markers" : "markers+text", textposition: "middle center", textfont: { size: 10, color: ink }, cliponaxis: false });
    const withText = (group, status, symbol, c, ink) => {
      const points = data.winners.filter((w) => w.status === status && pair(w.measured));
      add(group, points, (w) => w.measured, Object.assign(numbered(ink), {
        text: points.map((w) => String(w.number)),
        marker: { size: isCrowded ? 10 : 17, symbol: symbol, color: c, line: line(1, color("bg")) },
      }));
    };
    add("baseline", [data.baseline], (p) => p.values,
      { marker: { size: 15, symbol: "star", color: color("baseline"), line: line(1, color("bg")) } });
    withText("measured", "verified", "circle", color("winner"), color("bg"));
    withText("failed", "failed", "square", color("bad"), color("bg"));
    return traces;
  }

  function hover(point, x, y) {
    const rows = (x === y ? [x] : [x, y]).map((i) => {
      const row = point.rows[i];
      const parts = [];
      if (row[1] !== null) parts.push("predicted " + row[1]);
      if (row[2] !== null) parts.push("measured " + row[2]);
      return [row[0]].concat(parts).map(escape).join("<br>  ");
    });
    return "<b>" + escape(point.title) + "</b><br>" + rows.join("<br>") + "<extra></extra>";
  }

  function escape(text) {  // Plotly reads a little HTML and %{...} in templates: neither may come from the data
    return text.replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;").replace(/%/g, "&#37;");
  }

  function span(traces, key, isLog) {  // the range of what matters: winners, random search's front, baseline
    let low = Infinity, high = -Infinity;
    for (const trace of traces) {
      if (trace.meta === "trials" || trace.mode === "lines") continue;
      const error = trace["error_" + key];
      trace[key].forEach((v, i) => {
        low = Math.min(low, v - (error ? error.arrayminus[i] : 0));
        high = Math.max(high, v + (error ? error.array[i] : 0));
      });
    }
    if (!(low < high)) return undefined;
    if (isLog) {
      if (!(low > 0)) return undefined;
      [low, high] = [Math.log10(low), Math.log10(high)];
    }
    const pad = 0.07 * (high - low);
    return [low - pad, high + pad];
  }

  function logTicks(range) {  // 1, 2, 5 where there is room for them, else the powers of ten
    const decades = range ? range[1] - range[0] : 0;
    if (decades > 0.7 && decades < (isNarrow() ? 2 : 3)) return "D2";
    return decades > 1 && decades < 8 ? 1 : undefined;
  }

  function axisText(metric, isLog) {
    const scale = isLog ? " (log)" : "";
    if (!isNarrow() || !metric.workload) return escape(metric.axis + scale);
    return escape(metric.title + scale) + "<br>" + escape(metric.workload);  // one line would not fit
  }

  function drawFront() {
    const x = +$("axis-x").value, y = +$("axis-y").value;
    const logX = $("log-x").checked, logY = $("log-y").checked;
    const traces = frontTraces(x, y);
    const axis = (i, isLog, range) => ({
      dtick: isLog ? logTicks(range) : undefined,
      title: { text: axisText(data.metrics[i], isLog), standoff: 10 }, type: isLog ? "log" : "linear",
      tickformat: data.metrics[i].tickformat || (isLog ? "~g" : ""), ticksuffix: data.metrics[i].suffix, range: range, autorange: range === undefined,
      exponentformat: "SI",
    });
    const close = !$("show-all").checked && data.winners.length > 0;
    const rangeX = close ? span(traces, "x", logX) : undefined, rangeY = close ? span(traces, "y", logY) : undefined;
    const inside = (v, r, isLog) => !r || ((isLog ? Math.log10(v) : v) >= r[0] && (isLog ? Math.log10(v) : v) <= r[1]);
    const out = traces[0].x.filter((v, i) => !inside(v, rangeX, logX) || !inside(traces[0].y[i], rangeY, logY)).length;
    $("outside").textContent = out === 0 ? "" : out + " of " + traces[0].x.length + " trials lie outside this view.";
    const figure = layout({ height: isNarrow() ? 380 : 500, xaxis: axis(x, logX, rangeX), yaxis: axis(y, logY, rangeY) });
    window.Plotly.react("front", traces, figure, config);
  }

  function fill(parent, tag, texts) {
    for (const text of texts) parent.appendChild(document.createElement(tag)).textContent = text;
  }

  function showDetail(point) {
    const box = $("detail");
    box.replaceChildren();
    const heading = box.appendChild(document.createElement("h3"));
    heading.textContent = point.title;
    const table = box.appendChild(document.createElement("table"));
    const head = table.appendChild(document.createElement("thead")).appendChild(document.createElement("tr"));
    fill(head, "th", ["", "predicted", "measured"]);
    const body = table.appendChild(document.createElement("tbody"));
    for (const row of point.rows) {
      const line = body.appendChild(document.createElement("tr"));
      fill(line, "th", [row[0]]);
      fill(line, "td", row.slice(1).map((text) => text === null ? "\u2013" : text));
      line.children[1].className = "claim";
    }
    const list = box.appendChild(document.createElement("ul"));
    fill(list, "li", point.architecture);
  }

  // --- hypervolume, predicted against measured ----------------------------------------------------------------------
  function drawHypervolume() {
    const hv = data.hypervolume;
    if (!hv || !$("hypervolume")) return;
    const steps = (values) => values.map((_, i) => i + 1);
    const traces = [];
    if (hv.random.length) {
      const x = steps(hv.random);
      traces.push({ x: x.concat(x.slice().reverse()), y: hv.high.concat(hv.low.slice().reverse()), fill: "toself", fillcolor: color("random"), opacity: 0.18, line: { width: 0 }, mode: "lines", hoverinfo: "skip" });
      traces.push({ x: x, y: hv.random, mode: "lines", name: "random search", line: { color: color("random"), dash: "dash", width: 2 } });
    }
    if (hv.search.length) {
      traces.push({ x: steps(hv.search), y: hv.search, mode: "lines", name: hv.sampler, line: { color: color("winner"), width: 2.5, shape: "hv" } });
    }
    for (const trace of traces) if (trace.name) trace.hovertemplate = "trial %{x}: %{y:.3f}<extra></extra>";
    window.Plotly.react("hypervolume", traces, layout({
      height: 340, xaxis: { title: { text: "Trials", standoff: 10 }, rangemode: "tozero" },
      yaxis: { title: { text: "Hypervolume", standoff: 10 }, rangemode: "tozero" },
    }), config);
  }

  function drawCalibration() {
    if (!$("calibration")) return;
    const i = +$("claim").value, metric = data.metrics[i];
    const points = data.winners.filter((w) => w.predicted[i] && w.measured[i] != null);
    const inside = (w) => w.measured[i] >= w.predicted[i][1] && w.measured[i] <= w.predicted[i][2];
    const values = points.flatMap((w) => w.predicted[i].concat(w.measured[i]));
    const low = Math.min(...values), high = Math.max(...values), pad = 0.08 * (high - low || Math.abs(high) || 1);
    const isLog = low > 0 && high > 8 * low;
    const range = isLog ? [Math.log10(low) - 0.06, Math.log10(high) + 0.06] : [low - pad, high + pad];
    const ends = isLog ? range.map((v) => 10 ** v) : range;
    const traces = [{ x: ends, y: ends, mode: "lines", hoverinfo: "skip", line: { color: color("axis"), dash: "dash", width: 1.3 } }];
    for (const [keep, symbol, c] of [[inside, "circle", color("winner")], [(w) => !inside(w), "square", color("bad")]]) {
      const own = points.filter(keep);
      traces.push({
        x: own.map((w) => w.measured[i]), y: own.map((w) => w.predicted[i][0]), mode: isCrowded ? "markers" : "markers+text",
        text: own.map((w) => String(w.number)), textposition: "middle center", textfont: { size: 10, color: color("bg") },
        marker: { size: isCrowded ? 9 : 16, symbol: symbol, color: c }, customdata: own,
        error_y: { type: "data", symmetric: false, color: c, thickness: 1.3, width: 4,
          array: own.map((w) => w.predicted[i][2] - w.predicted[i][0]), arrayminus: own.map((w) => w.predicted[i][0] - w.predicted[i][1]) },
        hovertemplate: own.map((w) => hover(w, i, i)),
      });
    }
    const hits = points.filter(inside).length;
    $("coverage").textContent = points.length === 0 ? "No winner has both a prediction and a measurement of this."
      : hits + " of " + points.length + " measured values lie in the predicted interval.";
    const axis = (text) => ({
      title: { text: text + (isLog ? " (log)" : ""), standoff: 10 }, range: range, type: isLog ? "log" : "linear",
      dtick: isLog ? logTicks(range) : undefined, tickformat: metric.tickformat || (isLog ? "~g" : ""), ticksuffix: metric.suffix, exponentformat: "SI" });
    const unit = metric.axis.includes(", ms") ? ", ms" : "";
    window.Plotly.react("calibration", traces, layout({ height: 340, xaxis: axis("Measured" + unit), yaxis: axis("Predicted" + unit) }), config);
  }

  function draw() { drawFront(); drawHypervolume(); drawCalibration(); }

  for (const key of ["x", "y"]) {
    const reset = () => { $("log-" + key).checked = data.metrics[+$("axis-" + key).value].log; };
    $("axis-" + key).addEventListener("change", reset);  // before the listener that draws
    reset();
  }
  draw();
  showDetail(data.winners.find((w) => w.number === data.first) || data.baseline);
  for (const event of ["plotly_hover", "plotly_click"]) {
    for (const id of ["front", "calibration"]) {
      if ($(id)) $(id).on(event, (e) => { if (e.points[0].customdata) showDetail(e.points[0].customdata); });
    }
  }
  for (const id of ["axis-x", "axis-y", "log-x", "log-y", "show-all"]) $(id).addEventListener("change", drawFront);
  if ($("claim")) $("claim").addEventListener("change", drawCalibration);
  for (const button of document.querySelectorAll("#legend button")) {
    button.addEventListener("click", () => {
      const group = button.dataset.group, isShown = hidden.has(group);
      if (isShown) hidden.delete(group); else hidden.add(group);
      button.setAttribute("aria-pressed", String(isShown));
      drawFront();
    });
  }
  window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
  let width = document.documentElement.clientWidth;
  window.addEventListener("resize", () => {  // heights and tick counts differ on narrow screens
    const now = document.documentElement.clientWidth;
    if ((now < 640) !== (width < 640)) draw();
    width = now;
  });
  document.documentElement.dataset.charts = "drawn";
})();
