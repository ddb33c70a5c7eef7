/**
 * Charts as SVG pictures, for viewers that run no scripts: GitHub, nbviewer, a live chart between two steps.
 * @module
 */
import { type Chart, type HeatChart, rangeOf, type Trace, type XyChart } from "./chart.ts";
import { colour, COLOURS } from "./colours.ts";
import { escapeHtml } from "./html.ts";

// inside a page its own colour of text, alone what the system asks for
const INK = (otherwise: string) =>
  `fill:var(--jp-ui-font-color1,var(--vscode-editor-foreground,${otherwise}))`;
const STYLE = `.nb-t{${INK("#57606a")};font:12px system-ui,"Segoe UI",Helvetica,Arial,sans-serif}` +
  `.nb-h{font-size:15px;font-weight:600}.nb-g{stroke:#8b949e;stroke-opacity:.3}.nb-a{stroke:#8b949e}` +
  `@media(prefers-color-scheme:dark){.nb-t{${INK("#b1bac4")}}}`;
/** More points than this are thinned out: no screen shows them. */
const MOST_POINTS = 400;

interface Box {
  left: number;
  top: number;
  width: number;
  height: number;
}

/** The first chart large, the others in a row below it. */
export function svgOf(charts: readonly Chart[], width = 720): string {
  const [main, ...rest] = charts;
  const below = rest.length ? 170 : 0;
  const height = (main!.kind === "heat" ? heatHeight(main!, width) : rest.length ? 300 : 360) + below;
  const small = width / Math.max(1, rest.length);
  const parts = [
    drawn(main!, { left: 0, top: 0, width, height: height - below }),
    ...rest.map((chart, i) =>
      drawn(chart, { left: i * small, top: height - below, width: small, height: below })
    ),
  ];
  const { title } = main!;
  return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width} ${height}" width="${width}" ` +
    `height="${height}" role="img"><title>${escapeHtml(title)}</title>` +
    `<desc>${escapeHtml(charts.map((c) => c.alt).join(" "))}</desc><style>${STYLE}</style>${
      parts.join("")
    }</svg>`;
}

function drawn(chart: Chart, box: Box): string {
  const plot: Box = {
    left: box.left + 64,
    top: box.top + (chart.kind === "xy" && named(chart) ? 54 : 36),
    width: box.width - 64 - (chart.kind === "heat" ? 84 : 20),
    height: 0,
  };
  plot.height = box.top + box.height - plot.top - (chart.x ? 44 : 28);
  const title = text(chart.title, plot.left, box.top + 20, box.width > 400 ? "nb-t nb-h" : "nb-t");
  const x = text(chart.x, plot.left + plot.width / 2, box.top + box.height - 8, "nb-t", "middle");
  const [tx, ty] = [box.left + 14, plot.top + plot.height / 2];
  const y = text(chart.y, tx, ty, "nb-t", "middle", ` transform="rotate(-90 ${at(tx)} ${at(ty)})"`);
  return title + x + y + (chart.kind === "heat" ? heat(chart, plot) : series(chart, plot));
}

/** One axis: where a value lies, and its round numbers. */
interface Scale {
  at(v: number): number;
  ticks: { v: number; label: string }[];
}

function scaleOf(low: number, high: number, from: number, to: number, log: boolean): Scale {
  if (log) {
    const [a, b] = [Math.log10(low), Math.log10(high === low ? low * 10 : high)];
    const steps = b - a > 4 ? [1] : b - a > 1.2 ? [1, 3] : [1, 2, 3, 5, 7];
    const ticks = [];
    for (let e = Math.floor(a); e <= Math.ceil(b); e++) {
      for (const s of steps) {
        const v = s * 10 ** e;
        if (v >= low * 0.999 && v <= high * 1.001) ticks.push({ v, label: String(Number(v.toPrecision(2))) });
      }
    }
    return { at: (v) => from + (Math.log10(v) - a) / (b - a) * (to - from), ticks };
  }
  const span = high - low || 1;
  const power = 10 ** Math.floor(Math.log10(span / 5));
  const step = power * [1, 2, 5, 10].find((m) => m * power >= span / 5 * 0.999)!;
  const digits = Math.max(0, -Math.floor(Math.log10(step) + 1e-9));
  const ticks = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + step * 1e-6; i++) {
    const v = i * step;
    ticks.push({ v, label: Math.abs(v) >= 1e4 ? `${+(v / 1000).toFixed(1)}k` : (v || 0).toFixed(digits) });
  }
  return { at: (v) => from + (v - low) / span * (to - from), ticks };
}

function series(chart: XyChart, plot: Box): string {
  const { traces, logX, logY } = chart;
  const names = traces.flatMap((t) => t.x).filter((v) => typeof v === "string");
  const categories = [...new Set(names)];
  const place = (v: number | string) => typeof v === "string" ? categories.indexOf(v) : v;
  const filled = traces.some((t) => t.style === "bars" || t.style === "bins");
  let [x0, x1] = rangeOf(traces.map((t) => t.x.map(place).filter((v) => !logX || v > 0)));
  let [y0, y1] = rangeOf(traces.map((t) => t.y.filter((v) => !logY || v > 0)));
  if (filled) [x0, x1] = [x0 - halfBar(traces), x1 + halfBar(traces)];
  if (x0 === x1) [x0, x1] = [x0 - 0.5, x1 + 0.5];
  if (!logY) {
    const room = (y1 - y0 || Math.abs(y1) || 1) * 0.06;
    [y0, y1] = [filled && y0 >= 0 ? 0 : y0 - room, y1 + room];
  } else if (filled) y0 /= 2;
  const xs = scaleOf(x0, x1, plot.left, plot.left + plot.width, logX);
  const ys = scaleOf(y0, y1, plot.top + plot.height, plot.top, logY);
  const bottom = plot.top + plot.height;
  const grid = ys.ticks.map(({ v, label }) =>
    `<path class="nb-g" d="M${at(plot.left)} ${at(ys.at(v))}h${at(plot.width)}"/>` +
    text(label, plot.left - 6, ys.at(v) + 4, "nb-t", "end")
  ).join("");
  const every = Math.ceil(categories.length / (plot.width / 44));
  const marks = categories.length
    ? categories.map((label, v) => ({ v, label })).filter(({ v }) => v % every === 0)
    : plot.width < 300
    ? [xs.ticks[0]!, xs.ticks.at(-1)!].filter(Boolean)
    : xs.ticks;
  const below = marks.map(({ v, label }) => text(label, xs.at(v), bottom + 16, "nb-t", "middle")).join("");
  const axis = `<path class="nb-a" d="M${at(plot.left)} ${at(bottom)}h${at(plot.width)}"/>`;
  const zero = ys.at(logY ? y0 : Math.min(Math.max(0, y0), y1));
  const shapes = traces.map((t, i) => shape(t, i, traces, (v) => xs.at(place(v)), ys.at, zero)).join("");
  return grid + below + axis + shapes + (named(chart) ? legend(chart, plot) : "");
}

/** Half the distance of neighbouring bars. */
function halfBar(traces: readonly Trace[]): number {
  const x = traces[0]?.x ?? [];
  return typeof x[0] === "number" && typeof x[1] === "number" ? (x[1] - x[0]) / 2 : 0.5;
}

function shape(
  trace: Trace,
  index: number,
  all: readonly Trace[],
  x: (v: number | string) => number,
  y: (v: number) => number,
  zero: number,
): string {
  const paint = COLOURS[index % COLOURS.length]!;
  const points = trace.x.map((v, i) => [x(v), y(trace.y[i]!)] as const).filter((p) =>
    p.every(Number.isFinite)
  );
  if (trace.style === "points") {
    return points.map(([a, b]) => `<circle cx="${at(a)}" cy="${at(b)}" r="4" fill="${paint}"/>`).join("");
  }
  if (trace.style === "bars" || trace.style === "bins") {
    const slot = points.length > 1 ? Math.abs(points[1]![0] - points[0]![0]) : 60;
    const side = trace.style === "bars" && all.length > 1;
    const wide = trace.style === "bins" ? slot : slot * 0.8 / (side ? all.length : 1);
    const shift = side ? (index - (all.length - 1) / 2) * wide : 0;
    const d = points.map(([a, b]) =>
      `M${at(a + shift - wide / 2)} ${at(Math.min(b, zero))}h${at(wide)}v${at(Math.abs(zero - b))}h${
        at(-wide)
      }z`
    ).join("");
    return `<path d="${d}" fill="${paint}" fill-opacity="${
      trace.style === "bins" && all.length > 1 ? 0.55 : 0.9
    }"/>`;
  }
  const thin = Math.ceil(points.length / MOST_POINTS);
  const kept = points.filter((_, i) => i % thin === 0 || i === points.length - 1);
  const d = kept.map(([a, b], i) => `${i ? "L" : "M"}${at(a)} ${at(b)}`).join("");
  const dash = trace.style === "dashed" ? ` stroke-dasharray="6 4"` : "";
  const dots = kept.length <= 12
    ? kept.map(([a, b]) => `<circle cx="${at(a)}" cy="${at(b)}" r="3" fill="${paint}"/>`).join("")
    : "";
  return `<path d="${d}" fill="none" stroke="${paint}" stroke-width="2"${dash} stroke-linejoin="round"/>${dots}`;
}

/** Whether a legend is needed. */
const named = (chart: XyChart): boolean => chart.traces.length > 1;

function legend({ traces }: XyChart, plot: Box): string {
  let left = plot.left;
  return traces.map(({ name, style }, i) => {
    const paint = COLOURS[i % COLOURS.length]!;
    const dash = style === "dashed" ? ` stroke-dasharray="5 3"` : "";
    const key = `<path d="M${at(left)} ${plot.top - 14}h18" stroke="${paint}" stroke-width="${
      style === "line" || style === "dashed" ? 2.5 : 9
    }"${dash}/>`;
    const label = text(name, left + 24, plot.top - 10, "nb-t");
    left += 40 + 6.6 * name.length;
    return key + label;
  }).join("");
}

function heatHeight({ values }: HeatChart, width: number): number {
  const cell = (width - 148) / values[0]!.length;
  return Math.round(Math.min(560, Math.max(110, cell * values.length + 80)));
}

/** Levels of colour: one path each keeps the picture small. */
const LEVELS = 24;
const levelOf = (share: number): number =>
  Math.min(LEVELS - 1, Math.floor(Math.min(1, Math.max(0, share)) * LEVELS));

function heat(chart: HeatChart, plot: Box): string {
  const { values, rows, columns, range: [low, high] } = chart;
  const w = plot.width / values[0]!.length, h = plot.height / values.length;
  const paths = new Map<number, string>();
  values.forEach((row, i) => {
    const levels = row.map((v) => Number.isFinite(v) ? levelOf((v - low) / (high - low || 1)) : -1);
    for (let j = 0, end = 0; j < row.length; j = end) {
      while (end < row.length && levels[end] === levels[j]) end++; // neighbours of one colour are one shape
      if (levels[j]! < 0) continue;
      const wide = at((end - j) * w);
      const d = `M${at(plot.left + j * w)} ${at(plot.top + i * h)}h${wide}v${at(h)}h-${wide}z`;
      paths.set(levels[j]!, (paths.get(levels[j]!) ?? "") + d);
    }
  });
  const paint = (level: number) => colour((level + 0.5) / LEVELS, chart.diverging);
  // a hair of stroke in the same colour closes the seams between neighbours
  const cells = [...paths].map(([level, d]) =>
    `<path d="${d}" fill="${paint(level)}" stroke="${paint(level)}" stroke-width=".4"/>`
  );
  const name = (list: readonly string[], i: number) => list[i] ?? String(i);
  const some = (n: number, room: number) => [...Array(n).keys()].filter((i) => i % Math.ceil(n / room) === 0);
  const side = some(values.length, plot.height / 14).map((i) =>
    text(name(rows, i), plot.left - 5, plot.top + (i + 0.5) * h + 4, "nb-t", "end")
  );
  const below = some(values[0]!.length, plot.width / (columns.length ? 52 : 30)).map((j) =>
    text(name(columns, j), plot.left + (j + 0.5) * w, plot.top + plot.height + 14, "nb-t", "middle")
  );
  const step = plot.height / LEVELS, bar = plot.left + plot.width + 12;
  const scale = [...Array(LEVELS).keys()].map((l) =>
    `<path d="M${at(bar)} ${at(plot.top + plot.height - (l + 1) * step)}h14v${at(step + 0.3)}h-14z" fill="${
      paint(l)
    }"/>`
  );
  const ends = text(String(+high.toPrecision(3)), bar + 18, plot.top + 10, "nb-t") +
    text(String(+low.toPrecision(3)), bar + 18, plot.top + plot.height, "nb-t");
  return [...cells, ...side, ...below, ...scale, ends].join("");
}

function text(label: string, x: number, y: number, style: string, anchor = "start", more = ""): string {
  if (!label) return "";
  const side = anchor === "start" ? "" : ` text-anchor="${anchor}"`;
  return `<text class="${style}" x="${at(x)}" y="${at(y)}"${side}${more}>${escapeHtml(label)}</text>`;
}

const at = (v: number): string => String(Math.round(v * 10) / 10);
