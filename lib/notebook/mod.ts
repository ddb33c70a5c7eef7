/**
 * For notebooks: figures without a network, a live training run, exercises that say what is the matter, and a kernel
 * that loses no output. Works under `deno run` too, where it prints text.
 *
 * @example
 * ```ts
 * import { check, line, show } from "./mod.ts";
 * await show([{ bits: 32, bytes: 4096 }, { bits: 4, bytes: 512 }]);
 * await line({ training: [3, 2, 1.5] }, { title: "Loss", x: "step" });
 * await check("bits", 4, { expected: 4, mistakes: [[8, "Two codes share a byte."]] });
 * ```
 * @module
 */
import { mendKernel } from "./kernel.ts";

export type {
  BarOptions,
  ChartOptions,
  HeatOptions,
  HistogramOptions,
  LineOptions,
  Values,
} from "./chart.ts";
export { bars, heatmap, histogram, line, plot, rowsOf } from "./charts.ts";
export { type Answer, check, type CheckOptions, type Mistake } from "./exercise.ts";
export type { Figure } from "./figure.ts";
export { type LiveOptions, trainLive } from "./live.ts";
export { stopSignal } from "./kernel.ts";
export { show, type ShowOptions } from "./show.ts";
export { secondsOf } from "./timing.ts";
export { showTokens, type TokenView } from "./tokens.ts";

// the first cell imports this: from there on no output is lost and Stop does not end the kernel
mendKernel();
