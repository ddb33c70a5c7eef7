/**
 * `await show(x)`: anything, in the best form that the notebook has for it.
 * @module
 */
import { figureBundle, isFigure } from "./figure.ts";
import { isTable, tableBundle } from "./html.ts";
import { display, jupyter, mendKernel, type MimeBundle } from "./kernel.ts";
import { loadPlotly } from "./plotly.ts";
import { DISPLAY } from "./present.ts";

/** Options of {@link show}. */
export interface ShowOptions {
  /** Name of the display, to replace it later. */
  display_id?: string;
  /** Replace the display of that name. */
  update?: boolean;
}

/**
 * Shows a Plotly figure, one of nibble's own things, rows of a table, HTML or SVG text, or any value. Outside a
 * notebook it prints the plain text.
 *
 * @example
 * ```ts
 * import { show } from "./show.ts";
 * await show([{ step: 1, loss: 3.2 }, { step: 2, loss: 2.9 }]); // a table
 * ```
 */
export async function show(x: unknown, options: ShowOptions = {}): Promise<void> {
  await showBundle(await bundleOf(x), options);
}

/** Shows something in forms made already. */
export async function showBundle(bundle: MimeBundle, options: ShowOptions = {}): Promise<void> {
  mendKernel();
  const kernel = jupyter();
  if (!kernel) return console.log(bundle["text/plain"]);
  if ("application/vnd.plotly.v1+json" in bundle) await loadPlotly();
  await display(kernel, bundle, options);
}

/** The forms of a value. */
export async function bundleOf(x: unknown): Promise<MimeBundle> {
  if (isFigure(x)) return figureBundle(x);
  if (isTable(x)) return tableBundle(x);
  if (typeof x === "string") {
    if (/^\s*<svg[\s/>]/.test(x)) return { "image/svg+xml": x, "text/plain": "[picture]" };
    return { "text/plain": x };
  }
  const own = (x as Record<symbol, unknown> | null)?.[DISPLAY];
  if (typeof own === "function") return await own.call(x) as MimeBundle;
  return { "text/plain": Deno.inspect(x, { colors: false, depth: 4 }) };
}
