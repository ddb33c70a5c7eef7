/**
 * A training run that a notebook watches: one chart that grows in place, and a Stop button that keeps what was learned.
 * @module
 */
import { train } from "../api.ts";
import type { RecipeLike } from "../api.ts";
import { type Recipe, recipeOf } from "../recipe/mod.ts";
import type { EvalLog } from "../train/evaluate.ts";
import type { TrainLog } from "../train/loop.ts";
import { createReporter, type Progress, progressLine, type Reporter } from "../train/progress.ts";
import { resumeFolder } from "../train/resume.ts";
import type { TrainOptions, TrainResult } from "../train/run.ts";
import { type LogEntry, readTrainerState } from "../train/state.ts";
import { type Chart, lineChart } from "./chart.ts";
import { chartBundle } from "./figure.ts";
import { escapeHtml } from "./html.ts";
import { jupyter, mendKernel, type MimeBundle, showsTimings, stopSignal } from "./kernel.ts";
import { showBundle } from "./show.ts";
import { svgOf } from "./svg.ts";

/** Options of {@link trainLive}. */
export interface LiveOptions {
  /** Title of the chart; default "Loss". */
  title?: string;
  /** Further figures of the log to draw below it, such as `rewards/margins`. */
  metrics?: readonly string[];
  /** Milliseconds between updates at least; default 500. */
  interval?: number;
}

/**
 * Trains, and draws loss, learning rate, speed and device memory while it does, in one display that is replaced. The
 * notebook's Stop ends the run after the step in progress and saves; running the cell again goes on from there.
 *
 * @param recipe from `readRecipe`, or an object with a recipe's keys
 * @throws NibbleError as `train`
 * @example
 * ```ts ignore
 * import { trainLive } from "./live.ts";
 * const result = await trainLive(recipe, { title: "QLoRA on 448 short poems" });
 * ```
 */
export async function trainLive(recipe: RecipeLike, options: LiveOptions = {}): Promise<TrainResult> {
  const read = "provenance" in recipe ? recipe as Recipe : recipeOf(recipe as Record<string, unknown>);
  const from = resumeFolder(read.settings);
  const live = liveTraining(options, from ? readTrainerState(from).log_history : []);
  try {
    const result = await train(read, live);
    live.say(
      result.stopped
        ? `Stopped after step ${result.steps} of ${result.maxSteps} and saved in ${result.output_dir}. ` +
          "Run the cell again to go on."
        : "",
    );
    return result;
  } finally {
    await live.finish();
  }
}

/** Hands to `train` what it needs, and draws what comes back. */
export interface LiveTraining extends TrainOptions {
  onLog: (log: TrainLog | EvalLog) => void;
  reporter: Reporter;
  /** Aborted by the notebook's Stop button. */
  signal: AbortSignal;
  /** Sets the line below the chart. */
  say(text: string): void;
  /** Draws the last state; await it at the end of the cell. */
  finish(): Promise<void>;
  /** The charts as they stand: loss first. */
  charts(): Chart[];
}

interface Point {
  x: number;
  y: number;
}

/** @param before log of the run that is gone on with */
export function liveTraining(options: LiveOptions = {}, before: readonly LogEntry[] = []): LiveTraining {
  mendKernel();
  const { title = "Loss", interval = 500, metrics = [] } = options;
  const shown = ["learning_rate", ...(showsTimings() ? ["tokens_per_second"] : []), ...metrics];
  const lines = new Map<string, Point[]>(
    ["loss", "eval_loss", "device MiB", ...shown].map((name) => [name, []]),
  );
  const note = (log: Record<string, unknown>) => {
    for (const [name, points] of lines) {
      if (typeof log[name] === "number") points.push({ x: log.step as number, y: log[name] });
    }
  };
  before.forEach(note);
  const display_id = `training-${crypto.randomUUID()}`;
  let progress: Progress | undefined, status = "", drawn = false;
  let last = -Infinity, drawing: Promise<void> | undefined;

  const charts = (): Chart[] => {
    const series = (name: string) => {
      const points = lines.get(name)!;
      return { x: points.map((p) => p.x), y: points.map((p) => p.y) };
    };
    const held = lines.get("eval_loss")!.length ? { "held out": series("eval_loss") } : {};
    const losses = { training: series("loss"), ...held };
    const main = lineChart(losses, { title, x: "step", y: "loss (nats)", dashed: ["held out"] });
    const small = [...shown, "device MiB"].map((name) =>
      lineChart({ [name]: series(name) }, { title: name.replaceAll("_", " "), x: "step" })
    );
    return lines.get("loss")!.length ? [main, ...small] : [main];
  };
  const draw = async (bundle: MimeBundle) => {
    await showBundle(bundle, { display_id, update: drawn });
    drawn = true;
  };
  const soon = () => {
    if (!jupyter() || drawing || performance.now() - last < interval) return;
    last = performance.now();
    drawing = draw(liveBundle(charts(), progress, status)).then(() => drawing = undefined);
  };
  const own: Reporter = {
    note(text) {
      status = text.split("\n")[0]!;
      soon();
    },
    step() {},
    log(now) {
      progress = now;
      status = "";
      // in tenths: a few KiB more or less would fill the axis and look like a leak
      const MiB = (now.deviceBytes ?? NaN) / 2 ** 20;
      if (!Number.isNaN(MiB)) note({ step: now.step, "device MiB": Number(MiB.toFixed(1)) });
      soon();
    },
    done() {},
  };
  return {
    signal: stopSignal(),
    reporter: jupyter() ? own : createReporter(),
    charts,
    onLog: (log) => note(log),
    say: (text) => status = text,
    async finish() {
      await drawing;
      const bundle = chartBundle(charts());
      const text = `<p role="status">${escapeHtml(status)}</p>`;
      await draw(status ? { ...bundle, "text/html": bundle["text/html"] + text } : bundle);
      if (status && !jupyter()) console.log(status);
    },
  };
}

/** While it runs: a bar, a line of figures and a picture, which need no script and are replaced without flicker. */
function liveBundle(charts: readonly Chart[], progress: Progress | undefined, status: string): MimeBundle {
  const line = progress ? progressLine(progress) : status;
  const bar = progress ? `<progress value="${progress.step}" max="${progress.maxSteps}"></progress> ` : "";
  return {
    "text/html": `<div role="status">${bar}<code>${escapeHtml(line)}</code></div>${svgOf(charts)}`,
    "text/plain": line,
  };
}
