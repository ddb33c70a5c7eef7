/**
 * Figures in one line: lines, bars, histograms, heat maps. Each is a Plotly figure where scripts run, a picture where
 * none do, and says in words what it shows.
 * @module
 */
import { Tensor } from "../tensor/tensor.ts";
import {
  barChart,
  type BarOptions,
  type Chart,
  heatChart,
  type HeatOptions,
  histogramChart,
  type HistogramOptions,
  lineChart,
  type LineOptions,
  type Values,
} from "./chart.ts";
import { chartBundle, type Figure } from "./figure.ts";
import { show, showBundle, type ShowOptions } from "./show.ts";

/**
 * Lines over a common axis.
 *
 * @param series by name: numbers, or `{ x, y }`
 * @example
 * ```ts
 * import { line } from "./charts.ts";
 * await line({ training: [3.2, 2.9, 2.7] }, { title: "Loss", x: "step", y: "nats", at: [10, 20, 30] });
 * ```
 */
export async function line(series: Record<string, Values>, options: LineOptions): Promise<void> {
  await showChart(lineChart(series, options));
}

/** Bars by name; several series stand side by side. */
export async function bars(series: Record<string, ArrayLike<number>>, options: BarOptions): Promise<void> {
  await showChart(barChart(series, options));
}

/** How often numbers occur; several samples lie over each other. */
export async function histogram(
  samples: Record<string, ArrayLike<number>>,
  options: HistogramOptions,
): Promise<void> {
  await showChart(histogramChart(samples, options));
}

/**
 * A matrix as colours.
 *
 * @param matrix rows of numbers, or a tensor, whose first axes are then one
 */
export async function heatmap(
  matrix: Tensor | readonly ArrayLike<number>[],
  options: HeatOptions,
): Promise<void> {
  await showChart(heatChart(matrix instanceof Tensor ? await rowsOf(matrix) : matrix, options));
}

/** Any Plotly figure: `plot([{ y: [3, 1, 2] }], { title: { text: "Loss" } })`. */
export function plot(
  data: Figure["data"],
  layout: Figure["layout"] = {},
  options: ShowOptions = {},
): Promise<void> {
  return show({ data, layout }, options);
}

/** A tensor's rows on the host. */
export async function rowsOf(t: Tensor): Promise<Float32Array[]> {
  const data = await t.data();
  return Array.from({ length: t.rows }, (_, i) => data.subarray(i * t.columns, (i + 1) * t.columns));
}

async function showChart(chart: Chart): Promise<void> {
  await showBundle(chartBundle([chart]));
}
