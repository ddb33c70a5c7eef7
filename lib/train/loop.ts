/**
 * The training loop: learning rate, evaluation, saving, forward and backward, step, log. Nothing is read back from
 * the device but one small buffer a logging interval.
 * @module
 */
import type { Batch } from "../data/mod.ts";
import { NibbleError } from "../errors.ts";
import { gpu } from "../gpu/mod.ts";
import type { Model } from "../model/model.ts";
import { METRICS, type Optimizer, type ParameterPages } from "../optim/mod.ts";
import { keep, type Tensor, zeros } from "../tensor/tensor.ts";
import { nextTurn } from "../turn.ts";
import { type EvalLog, evaluate, unlessStopped } from "./evaluate.ts";
import { passOf, trainBatch } from "./micro_batch.ts";
import { findNonFinite } from "./non_finite.ts";
import { addCounts, meansOf, type Objective, PER_STEP, totalCounts } from "./objective.ts";

/** What one logging interval reports; keys as Trainer and TRL log them. */
export interface TrainLog {
  /** Optimizer steps done. */
  step: number;
  /** Passes over the data done, with their fraction. */
  epoch: number;
  /** Mean over the interval's steps of the loss: per trained token, or per pair. */
  loss: number;
  /** Global norm before clipping, of the interval's last step. */
  grad_norm: number;
  /** Used in that step. */
  learning_rate: number;
  /** Tokens seen since the run began, padding excluded. */
  num_tokens: number;
  /** Tokens a second over the interval, padding excluded. */
  tokens_per_second: number;
  /** Steps that the device skipped because a gradient was not finite, since the run began. */
  skipped_steps: number;
  /** The objective's own: `mean_token_accuracy`, `rewards/margins`, ... */
  [metric: string]: number;
}

/** Where a run stands: all that resuming needs beside the tensors. */
export interface LoopState {
  /** Optimizer steps done. */
  step: number;
  numTokens: number;
  /** The objective's sums and counts since the last log. */
  pending: { sums: number[]; counts: Record<string, number> };
}

/** The state of a run that has not begun. */
export function newLoopState(): LoopState {
  return { step: 0, numTokens: 0, pending: { sums: [], counts: {} } };
}

/** Everything the loop needs. */
export interface LoopOptions {
  objective: Objective;
  model: Model;
  optimizer: Optimizer;
  pages: ParameterPages;
  /** Optimizer steps in all. */
  maxSteps: number;
  /** Optimizer steps of one epoch, for the `epoch` in logs. */
  stepsPerEpoch: number;
  /** Micro-batches of a step (0-based): `gradient_accumulation_steps` of them, fewer at an epoch's end. */
  window: (step: number) => Batch[];
  learningRate: (step: number) => number;
  /** Base of the dropout seeds; undefined without dropout. */
  dropoutSeed: number | undefined;
  /** NEFTune's `alpha` and the base of its seeds; undefined without noise. */
  noise?: { alpha: number; seed: number } | undefined;
  checkpointing: boolean;
  /** Whether to end the run at the first step that is not finite, and say where that began; a readback each step. */
  stopAtNonFinite?: boolean;
  /** Whether to log, evaluate or save after `step` steps. */
  logAt: (step: number) => boolean;
  evalAt: (step: number) => boolean;
  saveAt: (step: number) => boolean;
  evalBatches: readonly Batch[];
  state: LoopState;
  signal: AbortSignal | undefined;
  onLog: (log: TrainLog) => void;
  onEval: (log: EvalLog) => void | Promise<void>;
  /** Makes what is told of an evaluation's batches. */
  evalProgress?: () => (done: number, total: number) => void;
  onSave: (state: LoopState) => Promise<void>;
  /** Called after the first step whose learning rate is not 0, when every adapter must have moved. */
  afterMove?: () => Promise<void>;
}

// training comes back to the same shapes, and logs every few steps
const IDLE_STEPS = 16;
/** Steps whose gradient was not finite before the run gives up, and at its end, one after the other. */
const MOST_SKIPPED = 10, MOST_AT_END = 2;

/**
 * Runs the loop from `state.step` to `maxSteps`, or until the signal, which lets the step in progress end and saves.
 *
 * @returns the state at the end and whether it was stopped
 */
export async function runLoop(o: LoopOptions): Promise<{ state: LoopState; stopped: boolean }> {
  const state: LoopState = structuredClone(o.state);
  const { objective } = o;
  const sums = keep(zeros([1, objective.metrics.length], "f32", "scratch"));
  if (state.pending.sums.length === objective.metrics.length) {
    sums.write(Float32Array.from(state.pending.sums));
  }
  let since = performance.now(), sinceTokens = 0;
  let skippedBefore = 0, loggedAt = state.step, inRow = 0;
  let fenceEvery = 1, sinceFence = 0, fencedAt = since;
  let stopped = false, moved = false;
  try {
    while (state.step < o.maxSteps) {
      const lr = o.learningRate(state.step);
      const window = o.window(state.step);
      const counted = window.map((batch) => objective.counts(batch));
      const counts = totalCounts(counted);
      const units = counts[objective.unit] ?? 0;
      if (units === 0) {
        throw new NibbleError("train/no-labels", `Step ${state.step + 1} has no token to learn`, {
          where: "every label of its rows is masked",
          remedy: "Check assistant_only_loss and max_length against the data.",
        });
      }
      const passes = window.flatMap((batch, micro) =>
        counted[micro]![objective.unit] // nothing to learn here, but elsewhere in the window
          ? [{ batch, pass: passOf(o, batch, counts, state.step * 1009 + micro) }]
          : []
      );
      const search = () =>
        // the step as it was, since one that is not finite changes nothing
        findNonFinite(
          passes.map(({ batch, pass }) => (watch) => objective.loss(o.model, batch, { ...pass, watch })),
          o.pages,
        );
      o.pages.zeroGrad();
      for (const { batch, pass } of passes) trainBatch(o, batch, pass, sums);
      await o.optimizer.step({ lr, step: state.step + 1, gradScale: 1 / units });
      gpu().stream.flush();
      gpu().pool.age(IDLE_STEPS);
      state.step++;
      addCounts(state.pending.counts, { ...counts, [PER_STEP]: 1 });
      const tokens = window.reduce((n, b) => n + b.realTokens, 0);
      state.numTokens += tokens;
      sinceTokens += tokens;
      if (o.stopAtNonFinite) {
        const { values, norm } = await readMetrics(o.optimizer, sums);
        if (!Number.isFinite(norm) || !Number.isFinite(values[0])) {
          throw diverged(state.step, [await search()]);
        }
      }
      if (lr > 0 && !moved) {
        moved = true;
        await o.afterMove?.();
      }

      if (o.logAt(state.step) || state.step === o.maxSteps) {
        const { values, norm, skipped } = await readMetrics(o.optimizer, sums);
        const { loss, ...figures } = meansOf(objective, values, state.pending.counts);
        const seconds = (performance.now() - since) / 1000;
        o.onLog({
          step: state.step,
          epoch: state.step / o.stepsPerEpoch,
          loss: loss!,
          grad_norm: norm,
          learning_rate: lr,
          ...figures,
          num_tokens: state.numTokens,
          tokens_per_second: sinceTokens / seconds,
          skipped_steps: skipped,
        });
        const steps = state.step - loggedAt;
        inRow = skipped - skippedBefore === steps ? inRow + steps : 0;
        [skippedBefore, loggedAt] = [skipped, state.step];
        if (skipped > MOST_SKIPPED || (state.step === o.maxSteps && inRow > MOST_AT_END)) {
          const what = `${skipped} steps were skipped: their gradients were not finite`;
          throw diverged(state.step, [{ what }, ...Number.isFinite(norm) ? [] : [await search()]]);
        }
        sums.write(new Float32Array(sums.size));
        state.pending = newLoopState().pending;
        since = fencedAt = performance.now();
        sinceTokens = sinceFence = 0;
      } else if (++sinceFence >= fenceEvery) {
        // let at most half a second of work pile up, so that Ctrl-C and timers are served
        await gpu().stream.fence();
        const each = (performance.now() - fencedAt) / sinceFence;
        fenceEvery = Math.max(1, Math.floor(500 / each));
        fencedAt = performance.now();
        sinceFence = 0;
      }
      await nextTurn();
      stopped = state.step < o.maxSteps && (o.signal?.aborted ?? false); // after the last step there is nothing to stop
      const pause = performance.now();
      if (!stopped && o.evalAt(state.step)) {
        const log = await evaluate(objective, o.model, o.evalBatches, {
          ...{ step: state.step, epoch: state.step / o.stepsPerEpoch },
          ...{ signal: o.signal, onProgress: o.evalProgress?.() },
        }).catch(unlessStopped);
        if (log) await o.onEval(log);
        else stopped = state.step < o.maxSteps;
      }
      if (stopped || o.saveAt(state.step)) {
        if (state.pending.counts[PER_STEP]) {
          state.pending.sums = [...(await readMetrics(o.optimizer, sums)).values];
        }
        await o.onSave(structuredClone(state));
      }
      since += performance.now() - pause; // evaluation and saving do not count as training speed
      if (stopped) break;
    }
  } finally {
    sums.dispose();
  }
  return { state, stopped };
}

function diverged(step: number, found: readonly { what: string; where?: string }[]): NibbleError {
  const places = found.flatMap(({ where }) => where ?? []);
  return new NibbleError("train/diverged", found.map(({ what }) => what).join(". "), {
    where: [`step ${step}`, ...places].join(", "),
    remedy: "Lower learning_rate, or set max_grad_norm; the last checkpoint is intact.",
  });
}

async function readMetrics(optimizer: Optimizer, sums: Tensor) {
  const [a, b] = await gpu().stream.read([
    { buffer: sums.buffer, offset: sums.offset, bytes: sums.bytes },
    { buffer: optimizer.metrics.buffer, offset: optimizer.metrics.offset, bytes: optimizer.metrics.bytes },
  ]);
  const metrics = new Float32Array(b!);
  return { values: new Float32Array(a!), norm: metrics[METRICS.norm]!, skipped: metrics[METRICS.skipped]! };
}
