/**
 * `await show(x)`: anything, in the best form that the notebook has for it.
 * @module
 */
import { QuantizedTensor } from "../quant/mod.ts";
import { Tensor } from "../tensor/tensor.ts";
import { display, jupyter, mendKernel, type MimeBundle } from "./kernel.ts";
import { type Figure, figureBundle, isFigure, loadPlotly } from "./plotly.ts";

/** Options of {@link show}. */
export interface ShowOptions {
  /** Name of the display, to replace it later. */
  display_id?: string;
  /** Replace the display of that name. */
  update?: boolean;
  /** Picture of a figure for viewers that run no scripts. */
  svg?: string;
}

/**
 * Shows a Plotly figure, a tensor with its first numbers, rows of a table, HTML or SVG text, or any value. Outside a
 * notebook it prints the plain text.
 *
 * @example
 * ```ts
 * import { show } from "./show.ts";
 * await show([{ step: 1, loss: 3.2 }, { step: 2, loss: 2.9 }]); // a table
 * ```
 */
export async function show(x: unknown, options: ShowOptions = {}): Promise<void> {
  mendKernel();
  const bundle = await bundleOf(x, options.svg);
  const kernel = jupyter();
  if (!kernel) return console.log(bundle["text/plain"]);
  if (isFigure(x)) await loadPlotly();
  const { svg: _, ...how } = options;
  await display(kernel, bundle, how);
}

/** Shows a figure: `plot([{ y: [3, 1, 2] }], { title: { text: "Loss" } })`. */
export function plot(
  data: Figure["data"],
  layout: Figure["layout"] = {},
  options: ShowOptions = {},
): Promise<void> {
  return show({ data, layout }, options);
}

/** The forms of a value. */
export async function bundleOf(x: unknown, svg?: string): Promise<MimeBundle> {
  if (isFigure(x)) return figureBundle(x, svg);
  if (x instanceof Tensor) return textBundle(await tensorText(x));
  if (x instanceof QuantizedTensor) {
    const bits = (8 * x.bytes / x.size).toFixed(3);
    const scales = x.nested ? "double-quantized" : "f32";
    return textBundle(
      `QuantizedTensor ${x.quantType} [${
        x.shape.join(", ")
      }], blocks of ${x.blocksize}, ${scales} scales, ${bits} bits each`,
    );
  }
  if (isTable(x)) return tableBundle(x);
  if (typeof x === "string") {
    if (/^\s*<svg[\s/>]/.test(x)) return { "image/svg+xml": x, "text/plain": "[picture]" };
    return textBundle(x);
  }
  const own = (x as Record<symbol, unknown> | null)?.[Symbol.for("Jupyter.display")];
  if (typeof own === "function") return await own.call(x) as MimeBundle;
  return textBundle(Deno.inspect(x, { colors: false, depth: 4 }));
}

const textBundle = (text: string): MimeBundle => ({ "text/plain": text });

/** Shape, type and the first numbers: at most 8 x 8 of them. */
async function tensorText(t: Tensor): Promise<string> {
  const rows = Math.min(8, t.rows), columns = Math.min(8, t.columns);
  const data = await t.data();
  const lines = Array.from({ length: rows }, (_, i) => {
    const row = data.subarray(i * t.columns, i * t.columns + columns);
    return Array.from(row, (v) => number(v).padStart(9)).join(" ") + (columns < t.columns ? " ..." : "");
  });
  return [`Tensor ${t.dtype} [${t.shape.join(", ")}]`, ...lines, ...(rows < t.rows ? ["..."] : [])].join(
    "\n",
  );
}

type Table = Record<string, unknown>[];

/** Whether it is a list of flat objects, which all have the first one's keys. */
function isTable(x: unknown): x is Table {
  if (!Array.isArray(x) || x.length === 0) return false;
  return x.every((row) =>
    typeof row === "object" && row !== null && Object.getPrototypeOf(row) === Object.prototype &&
    `${Object.keys(row)}` === `${Object.keys(x[0])}`
  );
}

function tableBundle(rows: Table): MimeBundle {
  const keys = Object.keys(rows[0]!);
  const cells = rows.map((row) => keys.map((key) => cell(row[key])));
  const width = keys.map((key, k) => Math.max(key.length, ...cells.map((row) => oneLine(row[k]!).length)));
  const line = (row: string[]) => row.map((text, k) => oneLine(text).padEnd(width[k]!)).join("  ").trimEnd();
  const html = (tag: string, row: string[]) =>
    `<tr>${
      row.map((t) => `<${tag} style="text-align:left;white-space:pre-wrap">${escapeHtml(t)}</${tag}>`).join(
        "",
      )
    }</tr>`;
  return {
    "text/html": `<table>${html("th", keys)}${cells.map((row) => html("td", row)).join("")}</table>`,
    "text/plain": [keys, ...cells].map(line).join("\n"),
  };
}

function cell(value: unknown): string {
  return typeof value === "number" ? number(value) : typeof value === "string" ? value : Deno.inspect(value);
}

const oneLine = (text: string): string => text.replaceAll("\n", " / ");

const number = (v: number): string => Number.isInteger(v) ? String(v) : v.toPrecision(4);

/** Text for HTML. */
export function escapeHtml(text: string): string {
  const names: Record<string, string> = {
    "&": "&amp;",
    "<": "&lt;",
    ">": "&gt;",
    '"': "&quot;",
    "'": "&#39;",
  };
  return text.replace(/[&<>"']/g, (c) => names[c]!);
}
