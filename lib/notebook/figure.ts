/**
 * Figures in every form that a notebook may ask for: Plotly's own, HTML that needs no network, a picture, a sentence.
 * @module
 */
import { type Chart, type HeatChart, rounded, type XyChart } from "./chart.ts";
import { colorscale, COLOURS } from "./colours.ts";
import { escapeHtml } from "./html.ts";
import type { MimeBundle } from "./kernel.ts";
import { svgOf } from "./svg.ts";

/** A figure as plotly.js takes it (https://plotly.com/javascript/reference). */
export interface Figure {
  /** Its traces. */
  data: Record<string, unknown>[];
  /** Titles, axes, margins. */
  layout?: Record<string, unknown>;
}

/** Whether something is a figure. */
export function isFigure(x: unknown): x is Figure {
  return typeof x === "object" && x !== null && "data" in x && Array.isArray(x.data) &&
    x.data.every((trace) => typeof trace === "object" && trace !== null && !Array.isArray(trace)) &&
    Object.keys(x).every((key) => ["data", "layout", "frames", "config"].includes(key));
}

/** Grey that can be read on white and on black: the form without a script cannot know the page's theme. */
const INK = "#7d8590", GRID = "rgba(128,128,128,0.25)";

/** Layout of every figure; a figure's own keys win. */
const LAYOUT = {
  height: 400,
  margin: { t: 56, r: 24, b: 64, l: 64 },
  colorway: COLOURS,
  font: { color: INK },
  paper_bgcolor: "rgba(0,0,0,0)",
  plot_bgcolor: "rgba(0,0,0,0)",
  hoverlabel: { namelength: -1 },
};

/** Charts as one Plotly figure: the first large, the others in a row below it. */
export function figureOf(charts: readonly Chart[]): Figure {
  const data: Figure["data"] = [];
  const layout: Record<string, unknown> = {};
  const below = charts.length - 1;
  charts.forEach((chart, i) => {
    const key = i === 0 ? "" : String(i + 1);
    const from = (i - 1) / below, wide = 1 / below - 0.08;
    const domains = below === 0
      ? {}
      : i === 0
      ? { x: { domain: [0, 1] }, y: { domain: [0.42, 1] } }
      : { x: { domain: [from, from + wide].map(rounded) }, y: { domain: [0, 0.22] } };
    const [x, y] = axesOf(chart);
    layout[`xaxis${key}`] = { ...x, ...domains.x, anchor: `y${key}` };
    layout[`yaxis${key}`] = { ...y, ...domains.y, anchor: `x${key}` };
    const on = { xaxis: `x${key}`, yaxis: `y${key}` };
    for (const trace of chart.kind === "heat" ? [heatTrace(chart)] : xyTraces(chart, i > 0)) {
      data.push(i === 0 ? trace : { ...trace, ...on });
    }
  });
  const main = charts[0]!;
  if (below) {
    const place = { x: 0, y: 1, yshift: 18, xanchor: "left", showarrow: false };
    layout.annotations = charts.slice(1).map(({ title }, i) => ({
      ...place,
      text: title,
      xref: `x${i + 2} domain`,
      yref: `y${i + 2} domain`,
    }));
  }
  layout.title = { text: main.title, x: 0.02, xanchor: "left" };
  if (below) layout.height = 520;
  if (main.kind === "xy") {
    layout.showlegend = main.traces.length > 1;
    if (main.traces.some((t) => t.style === "bins")) Object.assign(layout, { barmode: "overlay", bargap: 0 });
  }
  layout.meta = { alt: charts.map((c) => c.alt).join(" ") };
  return { data, layout };
}

function axesOf(chart: Chart): [Record<string, unknown>, Record<string, unknown>] {
  const common = { gridcolor: GRID, zerolinecolor: GRID, automargin: true, exponentformat: "power" };
  const axis = (text: string, log: boolean) => ({
    ...common,
    title: { text },
    ...(log ? { type: "log" } : {}),
  });
  if (chart.kind === "heat") {
    return [axis(chart.x, false), { ...axis(chart.y, false), autorange: "reversed" }];
  }
  // names such as "64" are categories, not numbers
  const categories = chart.traces.some((t) => t.x.some((v) => typeof v === "string"))
    ? { type: "category" }
    : {};
  return [{ ...axis(chart.x, chart.logX), ...categories }, axis(chart.y, chart.logY)];
}

function xyTraces(chart: XyChart, small: boolean): Figure["data"] {
  return chart.traces.map(({ name, x, y, style }, i) => {
    const color = COLOURS[i % COLOURS.length];
    const trace = { name, x, y, ...(small ? { showlegend: false } : {}) };
    if (style === "bars") return { ...trace, type: "bar", marker: { color } };
    if (style === "bins") {
      return {
        ...trace,
        type: "bar",
        marker: { color, line: { width: 0 } },
        opacity: chart.traces.length > 1 ? 0.6 : 1,
      };
    }
    if (style === "points") return { ...trace, type: "scatter", mode: "markers", marker: { color, size: 9 } };
    const line = { color, ...(style === "dashed" ? { dash: "dash" } : {}) };
    return { ...trace, type: "scatter", mode: y.length <= 12 ? "lines+markers" : "lines", line };
  });
}

function heatTrace({ values, rows, columns, diverging, range }: HeatChart): Record<string, unknown> {
  return {
    type: "heatmap",
    z: values,
    ...(rows.length ? { y: rows } : {}),
    ...(columns.length ? { x: columns } : {}),
    zmin: range[0],
    zmax: range[1],
    colorscale: colorscale(diverging),
  };
}

/** Charts in every form. */
export function chartBundle(charts: readonly Chart[]): MimeBundle {
  return figureBundle(figureOf(charts), svgOf(charts));
}

/**
 * A figure in every form: for notebooks that draw Plotly themselves, for those that run HTML, as a picture where
 * there is one, and as text. The HTML takes the page's colours, light or dark.
 *
 * @param svg a picture of the same, for viewers that run no scripts
 */
export function figureBundle({ data, layout = {} }: Figure, svg?: string): MimeBundle {
  const figure = { data, layout: { ...LAYOUT, ...layout } };
  const id = `plot-${crypto.randomUUID()}`;
  const text = figureText(figure);
  const json = JSON.stringify(figure).replaceAll("<", "\\u003c");
  const draw = `(async () => {
  const place = document.getElementById(${JSON.stringify(id)}), figure = ${json};
  for (let i = 0; !window.nibblePlotly && i < 200; i++) await new Promise((k) => setTimeout(k, 50));
  await window.nibblePlotly;
  if (!window.Plotly) return void (place.textContent = "Plotly is not in this page: run the notebook's cells.");
  const [r, g, b] = (getComputedStyle(document.body).backgroundColor.match(/[\\d.]+/g) ?? [255, 255, 255]).map(Number);
  const theme = document.body.dataset?.jpThemeLight;
  const dark = theme ? theme === "false" : 0.3 * r + 0.6 * g + 0.1 * b < 100;
  figure.layout.font = { ...figure.layout.font, color: dark ? "#d0d7de" : "#24292f" };
  figure.layout.modebar = { bgcolor: "rgba(0,0,0,0)", color: "${INK}", activecolor: "${COLOURS[5]}" };
  Plotly.newPlot(place, figure.data, figure.layout, { responsive: true, displaylogo: false });
})();`;
  const label = `role="img" aria-label="${escapeHtml(text)}"`;
  return {
    "application/vnd.plotly.v1+json": figure,
    "text/html":
      `<div id="${id}" ${label} style="min-height:${figure.layout.height}px"></div><script>${draw}</script>`,
    ...(svg ? { "image/svg+xml": svg } : {}),
    "text/plain": text,
  };
}

/** `[figure "Loss": Line chart. ...]` */
export function figureText({ data, layout = {} }: Figure): string {
  const title = layout.title as { text?: string } | string | undefined;
  const name = typeof title === "string" ? title : title?.text;
  const points = data.reduce((n, trace) => n + (Array.isArray(trace.y) ? trace.y.length : 0), 0);
  const alt = (layout.meta as { alt?: string } | undefined)?.alt ?? `${data.length} traces, ${points} points`;
  return `[figure${name ? ` "${name}"` : ""}: ${alt}]`;
}
