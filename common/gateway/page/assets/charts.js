// The charts: SVG drawn by hand, one line per model, for the last hour.

const HOUR_S = 3600;
const SHORTEST_S = 120;
const HEIGHT = 180;
const EDGE = { left: 46, right: 10, top: 8, bottom: 20 };
const GIB = 2 ** 30;

// What is drawn: the history's series, with what its values are multiplied by to get the unit.
const CHARTS = [
  { title: "Requests per minute", lines: [{ series: "requests", perMinute: true }] },
  { title: "Tokens per second", lines: [{ series: "tokens_per_s" }] },
  {
    title: "Latency (ms)",
    note: "solid: half of the requests were faster (p50); dashed: 95 % (p95)",
    lines: [{ series: "latency_p50_ms" }, { series: "latency_p95_ms", dashed: true }],
  },
  { title: "Memory (GiB)", lines: [{ series: "memory_bytes", scale: 1 / GIB }] },
];

const history = { at: [], every: 5, models: new Map() };
const charts = [];

function takePoints(told) {
  const fresh = (told && told.times) || [];
  if (!fresh.length) return false;
  const known = history.at.length;
  history.every = told.every_s || history.every;
  history.at.push(...fresh);
  for (const [name, series] of Object.entries(told.models)) {
    if (!history.models.has(name)) history.models.set(name, {});
    const own = history.models.get(name);
    for (const [title, values] of Object.entries(series)) {
      own[title] = own[title] || [];
      while (own[title].length < known) own[title].push(null);
      own[title].push(...values);
    }
  }
  const oldest = history.at[history.at.length - 1] - HOUR_S;
  const gone = history.at.findIndex((at) => at >= oldest);
  if (gone > 0) {
    history.at.splice(0, gone);
    for (const own of history.models.values()) for (const values of Object.values(own)) values.splice(0, gone);
  }
  return true;
}

function lastPointAt() {
  return history.at.length ? history.at[history.at.length - 1] : 0;
}

function valueAt(own, line, index) {
  const value = own[line.series] ? own[line.series][index] : null;
  if (value === null || value === undefined) return null;
  if (line.perMinute) return lastMinute(own[line.series], index);
  return value * (line.scale || 1);
}

// What came in the minute before a point; of a shorter history as many as a whole minute would have had.
function lastMinute(values, index) {
  let sum = 0;
  let first = index;
  for (; first >= 0 && history.at[first] > history.at[index] - 60; first -= 1) sum += values[first] || 0;
  const covered = first >= 0 ? 60 : history.at[index] - history.at[0] + history.every;
  return (sum * 60) / Math.max(covered, 1);
}

// The step of an axis: 1, 2 or 5 times a power of ten, about four of them up to the highest value.
function niceStep(highest) {
  const rough = highest / 4;
  const power = 10 ** Math.floor(Math.log10(rough));
  const factor = [1, 2, 5, 10].find((one) => one * power >= rough);
  return factor * power;
}

function short(value) {
  if (value === null) return "–";
  const size = Math.abs(value);
  if (size >= 10000) return `${(value / 1000).toFixed(size < 100000 ? 1 : 0)}k`;
  if (size >= 100 || Number.isInteger(value)) return value.toFixed(0);
  return value.toFixed(size >= 10 ? 1 : 2);
}

function clock(at, withSeconds = false) {
  const options = { hour: "2-digit", minute: "2-digit", hourCycle: "h23" };
  if (withSeconds) options.second = "2-digit";
  return new Date(at * 1000).toLocaleTimeString("en", options);
}

function buildCharts() {
  for (const spec of CHARTS) {
    const plot = svg("svg", { class: "plot", role: "img", tabindex: "0" });
    const legend = el("ul", { class: "legend" });
    const figure = el("figure", { class: "card chart" }, el("h3", {}, spec.title), plot, legend);
    if (spec.note) figure.append(el("p", { class: "quiet" }, spec.note));
    const chart = { spec, plot, legend, cursor: null };
    charts.push(chart);
    $("charts").append(figure);
    plot.addEventListener("pointermove", (event) => moveCursor(chart, event.offsetX));
    plot.addEventListener("pointerleave", () => setCursor(chart, null));
    plot.addEventListener("blur", () => setCursor(chart, null));
    plot.addEventListener("keydown", (event) => stepCursor(chart, event));
    new ResizeObserver(() => drawChart(chart)).observe(plot);
  }
}

function setCursor(chart, index) {
  chart.cursor = index;
  drawChart(chart);
}

function moveCursor(chart, x) {
  const { from, until, width } = span(chart);
  const at = from + ((x - EDGE.left) / (width - EDGE.left - EDGE.right)) * (until - from);
  let best = null;
  history.at.forEach((one, index) => {
    if (best === null || Math.abs(one - at) < Math.abs(history.at[best] - at)) best = index;
  });
  setCursor(chart, best);
}

// The arrow keys go from point to point.
function stepCursor(chart, event) {
  const last = history.at.length - 1;
  const now = chart.cursor === null ? last + 1 : chart.cursor;
  const next = { ArrowLeft: now - 1, ArrowRight: now + 1, Home: 0, End: last }[event.key];
  if (next === undefined || last < 0) return;
  event.preventDefault();
  setCursor(chart, Math.min(last, Math.max(0, next)));
}

function span(chart) {
  const until = lastPointAt();
  const first = history.at.length ? history.at[0] : until;
  return { from: Math.min(first, until - SHORTEST_S), until, width: Math.max(chart.plot.clientWidth, 200) };
}

function drawChart(chart) {
  const { spec, plot } = chart;
  const { from, until, width } = span(chart);
  const series = [...history.models].flatMap(([name, own], color) =>
    spec.lines.map((line) => ({ name, line, color: color % 8, values: history.at.map((_, i) => valueAt(own, line, i)) })),
  );
  const highest = Math.max(0, ...series.flatMap((one) => one.values.map((value) => value || 0)));
  const step = niceStep(highest || 1);
  const top = Math.max(step, Math.ceil((highest || 1) / step) * step);
  const x = (at) => EDGE.left + ((at - from) / (until - from || 1)) * (width - EDGE.left - EDGE.right);
  const y = (value) => HEIGHT - EDGE.bottom - (value / top) * (HEIGHT - EDGE.top - EDGE.bottom);
  plot.setAttribute("viewBox", `0 0 ${width} ${HEIGHT}`);
  const parts = [];
  for (let value = 0; value <= top + step / 2; value += step) {
    parts.push(svg("line", { class: "grid", x1: EDGE.left, x2: width - EDGE.right, y1: y(value), y2: y(value) }));
    parts.push(svg("text", { x: EDGE.left - 6, y: y(value) + 4, "text-anchor": "end" }, short(Number(value.toPrecision(6)))));
  }
  if (history.at.length) parts.push(...timeLabels(from, until, x));
  for (const one of series) parts.push(...drawLine(one, x, y));
  if (chart.cursor !== null && chart.cursor < history.at.length) {
    const at = x(history.at[chart.cursor]);
    parts.push(svg("line", { class: "cursor", x1: at, x2: at, y1: EDGE.top, y2: HEIGHT - EDGE.bottom }));
  }
  plot.replaceChildren(...parts);
  drawLegend(chart, series);
}

function timeLabels(from, until, x) {
  const steps = [60, 300, 600, 900];
  const step = steps.find((one) => (until - from) / one <= 6) || 900;
  const labels = [];
  for (let at = Math.ceil(from / step) * step; at <= until; at += step) {
    labels.push(svg("text", { x: x(at), y: HEIGHT - 5, "text-anchor": "middle" }, clock(at)));
  }
  return labels;
}

// A line with gaps where there is no value; a value between two gaps is a dot.
function drawLine(one, x, y) {
  const color = `s${one.color}`;
  const parts = [];
  let path = "";
  one.values.forEach((value, i) => {
    if (value === null) return;
    const begins = i === 0 || one.values[i - 1] === null;
    const ends = i === one.values.length - 1 || one.values[i + 1] === null;
    const [px, py] = [x(history.at[i]).toFixed(1), y(value).toFixed(1)];
    if (begins && ends) parts.push(svg("circle", { class: `dot ${color}`, cx: px, cy: py, r: 2 }));
    else path += `${begins ? "M" : "L"}${px} ${py}`;
  });
  if (path) parts.push(svg("path", { class: `series ${color}${one.line.dashed ? " dashed" : ""}`, d: path }));
  return parts;
}

function drawLegend(chart, series) {
  const last = history.at.length - 1;
  const index = chart.cursor !== null ? Math.min(chart.cursor, last) : last;
  const texts = new Map();
  for (const one of series) {
    const value = index >= 0 ? one.values[index] : null;
    texts.set(one.name, [...(texts.get(one.name) || []), short(value)]);
  }
  const entries = [...texts].map(([name, values]) => `${name} ${values.join(" / ")}`);
  const when = index >= 0 ? ` at ${clock(history.at[index], true)}` : "";
  chart.plot.setAttribute("aria-label", `${chart.spec.title}${when}: ${entries.join(", ") || "no data yet"}`);
  chart.legend.replaceChildren(
    ...[...texts].map(([name, values], color) =>
      el(
        "li",
        { class: `s${color % 8}` },
        el("span", { class: "swatch" }),
        el("span", { class: "name" }, name),
        el("span", { class: "value" }, values.join(" / ")),
      ),
    ),
  );
  if (chart.cursor !== null && index >= 0) {
    chart.legend.append(el("li", { class: "value quiet" }, clock(history.at[index], true)));
  }
}

function showCharts(told) {
  if (takePoints(told)) for (const chart of charts) drawChart(chart);
}
