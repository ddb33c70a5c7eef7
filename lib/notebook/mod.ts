/**
 * For notebooks: rich display, figures without a network, a live loss curve, and a kernel that loses no output.
 * Works under `deno run` too, where it prints text.
 *
 * @example
 * ```ts
 * import { plot, show } from "./mod.ts";
 * await show([{ bits: 32, bytes: 4096 }, { bits: 4, bytes: 512 }]);
 * await plot([{ y: [3, 2, 1.5] }], { title: { text: "Loss" } });
 * ```
 * @module
 */
import { mendKernel } from "./kernel.ts";

export { type LiveOptions, type LiveTraining, liveTraining } from "./live.ts";
export type { Figure } from "./plotly.ts";
export { plot, show, type ShowOptions } from "./show.ts";

// the first cell imports this: from there on no output is lost and Stop does not end the kernel
mendKernel();
