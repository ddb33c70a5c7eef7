/**
 * A training run that a notebook watches: one figure that grows, and a Stop button that keeps what was learned.
 * @module
 */
import type { EvalLog, TrainLog } from "../train/loop.ts";
import { lossCurveSvg } from "../train/loss_curve.ts";
import type { Reporter } from "../train/progress.ts";
import type { TrainOptions } from "../train/run.ts";
import { jupyter, mendKernel, stopSignal } from "./kernel.ts";
import type { Figure } from "./plotly.ts";
import { show } from "./show.ts";

/** Options of {@link liveTraining}. */
export interface LiveOptions {
  /** Title of the figure; default "Loss". */
  title?: string;
  /** Milliseconds between updates at least; default 500. */
  interval?: number;
  /** Print the run's notes (adapter, plan, evaluation); default false: the figure alone. */
  notes?: boolean;
}

/** Hands to `train` what it needs: pass it as its options. */
export interface LiveTraining extends TrainOptions {
  onLog: (log: TrainLog | EvalLog) => void;
  reporter: Reporter;
  /** Aborted by the notebook's Stop button. */
  signal: AbortSignal;
  /** Draws the last state; await it at the end of the cell. */
  finish(): Promise<void>;
  /** The figure as it stands. */
  figure(): Figure;
}

/**
 * Options for `train` that draw the loss as it falls, in one display that is replaced.
 *
 * @example
 * ```ts
 * import { liveTraining } from "./live.ts";
 * const live = liveTraining({ title: "A run" });
 * // const result = await train(recipe, live);
 * live.onLog({ step: 0, epoch: 0, eval_loss: 3.5, eval_mean_token_accuracy: 0.3, eval_num_tokens: 9, eval_runtime: 1 });
 * await live.finish();
 * ```
 */
export function liveTraining(options: LiveOptions = {}): LiveTraining {
  mendKernel();
  const { title = "Loss", interval = 500, notes = false } = options;
  const display_id = `loss-${crypto.randomUUID()}`;
  const train: { step: number; loss: number }[] = [], evals: typeof train = [];
  let drawing: Promise<void> = Promise.resolve();
  let last = -Infinity, drawn = false;

  const figure = (): Figure => ({
    data: [
      { type: "scatter", mode: "lines", name: "training", ...points(train) },
      { type: "scatter", mode: "lines+markers", name: "held out", line: { dash: "dash" }, ...points(evals) },
    ],
    layout: {
      title: { text: title },
      xaxis: { title: { text: "step" } },
      yaxis: { title: { text: "loss (nats per token)" } },
    },
  });
  const draw = async () => {
    const svg = lossCurveSvg({ train, eval: evals, title });
    await show(figure(), { display_id, update: drawn, svg });
    drawn = true;
  };
  const note = (text: string) => notes && console.log(text);
  return {
    signal: stopSignal(),
    figure,
    reporter: { note, step: () => {}, log: () => {}, done: () => {} },
    onLog(log) {
      if ("eval_loss" in log) evals.push({ step: log.step, loss: log.eval_loss });
      else train.push({ step: log.step, loss: log.loss });
      if (!jupyter() || performance.now() - last < interval) return;
      last = performance.now();
      drawing = drawing.then(draw);
    },
    async finish() {
      await drawing;
      await draw();
    },
  };
}

function points(list: readonly { step: number; loss: number }[]): { x: number[]; y: number[] } {
  return { x: list.map((p) => p.step), y: list.map((p) => p.loss) };
}
