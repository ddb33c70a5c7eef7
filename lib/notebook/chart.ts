/**
 * What a chart shows, apart from how it is drawn: the same description becomes a Plotly figure, an SVG picture and a
 * sentence for those who cannot see it.
 * @module
 */
import { NibbleError } from "../errors.ts";

/** How a series is drawn. */
export type TraceStyle = "line" | "dashed" | "points" | "bars" | "bins";

/** One series. */
export interface Trace {
  name: string;
  /** Numbers, or names of categories. */
  x: readonly (number | string)[];
  y: readonly number[];
  style: TraceStyle;
}

/** What every chart has. */
export interface Labels {
  title: string;
  /** Title of the horizontal axis. */
  x: string;
  /** Title of the vertical axis. */
  y: string;
  /** What someone who cannot see the picture should know; made from the numbers where it is not given. */
  alt: string;
}

/** Series over two axes. */
export interface XyChart extends Labels {
  kind: "xy";
  traces: readonly Trace[];
  logX: boolean;
  logY: boolean;
}

/** Numbers as colours. */
export interface HeatChart extends Labels {
  kind: "heat";
  values: readonly (readonly number[])[];
  /** Names of rows, top to bottom, and of columns; empty: numbers from 0. */
  rows: readonly string[];
  columns: readonly string[];
  /** Colours from blue over white to red, white at 0, instead of dark to bright. */
  diverging: boolean;
  /** Numbers of the first and the last colour. */
  range: readonly [number, number];
}

/** A chart of any kind. */
export type Chart = XyChart | HeatChart;

/** A series as a learner writes it: numbers alone, or with their places. */
export type Values = ArrayLike<number> | { x: ArrayLike<number> | readonly string[]; y: ArrayLike<number> };

/** Options of every chart. */
export interface ChartOptions {
  /** Above the figure, and its name for those who cannot see it. */
  title: string;
  /** Title of the x axis. */
  x?: string;
  /** Title of the y axis. */
  y?: string;
  /** Text in place of the figure; default a description made from the numbers. */
  alt?: string;
}

/** Options of {@link lineChart}. */
export interface LineOptions extends ChartOptions {
  /** Places of all series that are numbers alone; default 0, 1, 2 ... */
  at?: ArrayLike<number> | readonly string[];
  /** Axes with equal steps for equal factors. */
  log?: "x" | "y" | "xy";
  /** Names of series drawn as points. */
  points?: readonly string[];
  /** Names of series drawn dashed. */
  dashed?: readonly string[];
}

/** Lines over a common axis. */
export function lineChart(series: Record<string, Values>, options: LineOptions): XyChart {
  const { at, points = [], dashed = [] } = options;
  const traces = Object.entries(series).map(([name, values]) => {
    const style = points.includes(name) ? "points" : dashed.includes(name) ? "dashed" : "line";
    return traceOf(name, values, at, style);
  });
  return xy(traces, options, "Line chart", options.log);
}

/** Options of {@link barChart}. */
export interface BarOptions extends ChartOptions {
  /** Names of the bars. */
  at?: readonly (string | number)[];
  /** Height with equal steps for equal factors. */
  log?: "y";
}

/** Bars, side by side where there are several series. */
export function barChart(series: Record<string, ArrayLike<number>>, options: BarOptions): XyChart {
  const at = options.at?.map(String);
  const traces = Object.entries(series).map(([name, y]) => traceOf(name, y, at, "bars"));
  return xy(traces, options, "Bar chart", options.log);
}

/** Options of {@link histogramChart}. */
export interface HistogramOptions extends ChartOptions {
  /** Number of bins; default 60. */
  bins?: number;
  /** Numbers at both ends; default the smallest and the largest. */
  range?: readonly [number, number];
}

/** How often numbers occur, counted here, so that the figure holds counts and not every number. */
export function histogramChart(
  samples: Record<string, ArrayLike<number>>,
  options: HistogramOptions,
): XyChart {
  const { bins = 60 } = options;
  const [low, high] = options.range ?? rangeOf(Object.values(samples));
  const width = (high - low) / bins || 1;
  const x = Array.from({ length: bins }, (_, i) => rounded(low + (i + 0.5) * width));
  const traces = Object.entries(samples).map(([name, values]): Trace => {
    const y = new Array<number>(bins).fill(0);
    for (let i = 0; i < values.length; i++) {
      const v = values[i]!;
      if (v >= low && v <= high) y[Math.min(bins - 1, Math.floor((v - low) / width))]!++;
    }
    return { name, x, y, style: "bins" };
  });
  return xy(traces, { y: "count", ...options }, "Histogram");
}

/** Options of {@link heatChart}. */
export interface HeatOptions extends ChartOptions {
  /** Names of the rows, from above. */
  rows?: readonly string[];
  /** Names of the columns. */
  columns?: readonly string[];
  /** Colours for numbers on both sides of 0: blue below, white, red above. */
  diverging?: boolean;
  /** Numbers at the ends of the colours; default those of the matrix. */
  range?: readonly [number, number];
}

/** A matrix as colours. */
export function heatChart(matrix: readonly ArrayLike<number>[], options: HeatOptions): HeatChart {
  const values = matrix.map((row) => Array.from(row, rounded));
  if (values.length === 0 || values.some((row) => row.length !== values[0]!.length || row.length === 0)) {
    throw new NibbleError("notebook/matrix", "A heat map needs rows of one length", {
      where: `${values.length} rows of ${[...new Set(values.map((row) => row.length))].join(", ")} numbers`,
    });
  }
  const { title, x = "", y = "", rows = [], columns = [], diverging = false } = options;
  const [low, high] = options.range ?? rangeOf(values);
  const most = Math.max(Math.abs(low), Math.abs(high)) || 1;
  const range: [number, number] = diverging && !options.range ? [-most, most] : [low, high];
  const alt = options.alt ??
    `Heat map of ${values.length} x ${values[0]!.length} numbers from ${brief(low)} to ${brief(high)}.`;
  return { kind: "heat", title, x, y, alt, values, rows, columns, diverging, range };
}

function traceOf(name: string, values: Values, at: LineOptions["at"], style: TraceStyle): Trace {
  const [xs, ys] = "y" in values ? [values.x, values.y] : [at, values];
  const y = Array.from(ys, rounded);
  const x = xs
    ? Array.from(xs as ArrayLike<number | string>, (v) => typeof v === "number" ? rounded(v) : v)
    : y.map((_, i) => i);
  if (x.length === y.length) return { name, x, y, style };
  throw new NibbleError("notebook/series", `'${name}' has ${y.length} values at ${x.length} places`, {
    remedy: "Give as many places (`at`, or `x`) as values.",
  });
}

function xy(
  traces: Trace[],
  options: ChartOptions,
  what: string,
  log: "" | "x" | "y" | "xy" = "",
): XyChart {
  const { title, x = "", y = "" } = options;
  const alt = options.alt ?? `${what}. ${traces.map((t) => describe(t, x)).join(" ")}`;
  return { kind: "xy", title, x, y, alt, traces, logX: log.includes("x"), logY: log.includes("y") };
}

function describe({ name, x, y, style }: Trace, axis: string): string {
  const finite = y.filter(Number.isFinite);
  if (finite.length === 0) return `${name}: nothing.`;
  const [low, high] = rangeOf([finite]);
  if (style === "bars" || style === "bins") {
    return `${name}: ${y.length} bars from ${brief(low)} to ${brief(high)}, the highest at ${
      x[y.indexOf(high)]
    }.`;
  }
  const over = `over ${axis || "x"} ${x[0]} to ${x.at(-1)}`;
  return `${name}: from ${brief(finite[0]!)} to ${brief(finite.at(-1)!)} ${over}, between ${brief(low)} and ${
    brief(high)
  }.`;
}

/** Smallest and largest finite number. */
export function rangeOf(lists: readonly ArrayLike<number>[]): [number, number] {
  let low = Infinity, high = -Infinity;
  for (const list of lists) {
    for (let i = 0; i < list.length; i++) {
      const v = list[i]!;
      if (v < low && v > -Infinity) low = v;
      if (v > high && v < Infinity) high = v;
    }
  }
  return low <= high ? [low, high] : [0, 1];
}

/** Five figures: more are not seen, and make files large. */
export const rounded = (v: number): number => Number.isFinite(v) ? Number(v.toPrecision(5)) : v;

/** A number as people say it. */
export function brief(v: number): string {
  if (Number.isInteger(v) && Math.abs(v) < 1e6) return String(v);
  return Math.abs(v) < 1e-3 ? v.toExponential(1) : String(Number(v.toPrecision(3)));
}
