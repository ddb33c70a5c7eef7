/**
 * The loss over the steps as text, for the terminal.
 * @module
 */
import { defaultSmoothing, inOrder, type LossCurve, type LossPoint, rangeOf, smooth } from "./loss_points.ts";

/**
 * The curve as text, printed at the end of a run: `•` training (smoothed), `o` evaluation.
 *
 * @param size characters of the plot itself, without its labels
 *
 * @example
 * ```ts
 * import { lossCurveText } from "./loss_text.ts";
 * const train = [4, 3, 2].map((loss, i) => ({ step: i + 1, loss }));
 * const text = lossCurveText({ train, eval: [], title: "tiny" }, { width: 20, height: 5 });
 * if (text.split("\n")[1] !== "4.000 ┤•") throw new Error(text);
 * ```
 */
export function lossCurveText(curve: LossCurve, size: { width?: number; height?: number } = {}): string {
  const { width = 60, height = 10 } = size;
  const train = inOrder(curve.train);
  const evals = inOrder(curve.eval);
  const all = [...train, ...evals];
  if (all.length === 0) return `${curve.title}: no loss was logged`;
  const [x0, x1] = rangeOf(all.map((p) => p.step));
  const [y0, y1] = rangeOf(all.map((p) => p.loss));
  const rows = Array.from({ length: height }, () => new Array<string>(width).fill(" "));
  const mark = (p: LossPoint, sign: string) => {
    const column = x1 > x0 ? Math.round((p.step - x0) / (x1 - x0) * (width - 1)) : 0;
    const row = y1 > y0 ? Math.round((y1 - p.loss) / (y1 - y0) * (height - 1)) : Math.floor(height / 2);
    rows[row][column] = sign;
  };
  for (const p of smooth(train, curve.smoothing ?? defaultSmoothing(train.length))) mark(p, "•");
  for (const p of evals) mark(p, "o"); // last: there are few, and a point of both should show as one
  const labels = rows.map((_, i) => (y1 - (y1 - y0) * i / Math.max(1, height - 1)).toFixed(3));
  const room = Math.max(...labels.map((l) => l.length));
  const lines = rows.map((row, i) => {
    const shown = i === 0 || i === height - 1 || i === Math.floor(height / 2);
    return `${(shown ? labels[i] : "").padStart(room)} ${shown ? "┤" : "│"}${row.join("").trimEnd()}`;
  });
  const foot = `${x0}${String(x1).padStart(Math.max(1, width - String(x0).length))}`;
  const key = [train.length ? "• train" : "", evals.length ? "o eval" : ""].filter(Boolean).join("   ");
  return [
    `${curve.title}   ${key}`,
    ...lines,
    `${" ".repeat(room)} └${"─".repeat(width)}`,
    `${" ".repeat(room + 2)}${foot}`,
  ].join("\n");
}

/**
 * A curve in one line of eight heights, the highest value a full block.
 *
 * @example
 * ```ts
 * import { sparkline } from "./loss_text.ts";
 * if (sparkline([8, 7, 6, 5, 4, 3, 2, 1]) !== "█▇▆▅▄▃▂▁") throw new Error("a falling line");
 * ```
 */
export function sparkline(values: readonly number[], width = 40): string {
  const finite = values.filter(Number.isFinite);
  const columns = Math.min(width, finite.length);
  const means = Array.from({ length: columns }, (_, i) => {
    const part = finite.slice(
      Math.floor(i * finite.length / columns),
      Math.floor((i + 1) * finite.length / columns),
    );
    return part.reduce((a, b) => a + b, 0) / part.length;
  });
  const [low, high] = rangeOf(means);
  return means.map((v) => "▁▂▃▄▅▆▇█"[high > low ? Math.round((v - low) / (high - low) * 7) : 3]).join("");
}
