/**
 * The training loop: learning rate, evaluation, saving, forward and backward, step, log. Nothing is read back from
 * the device but one small buffer a logging interval.
 * @module
 */
import type { Batch } from "../data/mod.ts";
import { NibbleError } from "../errors.ts";
import { gpu } from "../gpu/mod.ts";
import { forward, type Model, modelInput } from "../model/model.ts";
import { METRICS, type Optimizer, type ParameterPages } from "../optim/mod.ts";
import { linearCrossEntropy } from "../tensor/ops/cross_entropy.ts";
import { addInto, mul } from "../tensor/ops/pointwise.ts";
import { differentiate, noGrad } from "../tensor/tape.ts";
import { keep, scope, type Tensor, tensor, zeros } from "../tensor/tensor.ts";

/** What one logging interval reports; keys as Trainer logs them. */
export interface TrainLog {
  step: number;
  epoch: number;
  /** Mean over the interval's steps of the loss per trained token. */
  loss: number;
  /** Global norm before clipping, of the interval's last step. */
  grad_norm: number;
  /** Used in that step. */
  learning_rate: number;
  mean_token_accuracy: number;
  /** Tokens seen since the run began, padding excluded. */
  num_tokens: number;
  /** Tokens a second over the interval, padding excluded. */
  tokens_per_second: number;
  /** Steps that the device skipped because a gradient was not finite, since the run began. */
  skipped_steps: number;
}

/** Loss over the evaluation rows. */
export interface EvalLog {
  step: number;
  epoch: number;
  eval_loss: number;
  eval_mean_token_accuracy: number;
  /** Tokens that the loss counted. */
  eval_num_tokens: number;
  eval_runtime: number;
}

/** Where a run stands: all that resuming needs beside the tensors. */
export interface LoopState {
  /** Optimizer steps done. */
  step: number;
  numTokens: number;
  /** Loss and accuracy summed since the last log, and over how many steps. */
  pending: { loss: number; correct: number; steps: number; trained: number };
}

/** Everything the loop needs. */
export interface LoopOptions {
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
  checkpointing: boolean;
  /** Whether to log, evaluate or save after `step` steps. */
  logAt: (step: number) => boolean;
  evalAt: (step: number) => boolean;
  saveAt: (step: number) => boolean;
  evalBatches: readonly Batch[];
  state: LoopState;
  signal: AbortSignal | undefined;
  onLog: (log: TrainLog) => void;
  onEval: (log: EvalLog) => void | Promise<void>;
  onSave: (state: LoopState, log: EvalLog | undefined) => Promise<void>;
  /** Called after the first step whose learning rate is not 0, when every adapter must have moved. */
  afterMove?: () => Promise<void>;
}

/** Steps whose gradient was not finite before the run gives up. */
const MOST_SKIPPED = 10;

/**
 * Runs the loop from `state.step` to `maxSteps`, or until the signal, which lets the step in progress end and saves.
 *
 * @returns the state at the end and whether it was stopped
 */
export async function runLoop(o: LoopOptions): Promise<{ state: LoopState; stopped: boolean }> {
  const state: LoopState = structuredClone(o.state);
  const sums = keep(zeros([1, 2], "f32", "scratch")); // loss per trained token, summed over steps; correct tokens
  sums.write(Float32Array.of(state.pending.loss, state.pending.correct));
  let since = performance.now(), sinceTokens = 0;
  let fenceEvery = 1, sinceFence = 0, fencedAt = since;
  let stopped = false, moved = false;
  let lastEval: EvalLog | undefined;
  try {
    while (state.step < o.maxSteps) {
      const lr = o.learningRate(state.step);
      const window = o.window(state.step);
      const trained = window.reduce((n, b) => n + b.trainedTokens, 0);
      if (trained === 0) {
        throw new NibbleError("train/no-labels", `Step ${state.step + 1} has no token to learn`, {
          where: "every label of its rows is masked",
          remedy: "Check assistant_only_loss and max_length against the data.",
        });
      }
      o.pages.zeroGrad();
      window.forEach((batch, micro) => trainBatch(o, batch, trained, state.step * 1009 + micro, sums));
      o.optimizer.step({ lr, step: state.step + 1, gradScale: 1 / trained });
      gpu().stream.flush();
      state.step++;
      state.pending.steps++;
      state.pending.trained += trained;
      const tokens = window.reduce((n, b) => n + b.realTokens, 0);
      state.numTokens += tokens;
      sinceTokens += tokens;
      if (lr > 0 && !moved) {
        moved = true;
        await o.afterMove?.();
      }

      if (o.logAt(state.step) || state.step === o.maxSteps) {
        const { loss, correct, norm, skipped } = await readMetrics(o.optimizer, sums);
        const seconds = (performance.now() - since) / 1000;
        o.onLog({
          step: state.step,
          epoch: state.step / o.stepsPerEpoch,
          loss: loss / state.pending.steps,
          grad_norm: norm,
          learning_rate: lr,
          mean_token_accuracy: correct / state.pending.trained,
          num_tokens: state.numTokens,
          tokens_per_second: sinceTokens / seconds,
          skipped_steps: skipped,
        });
        if (skipped > MOST_SKIPPED) {
          throw new NibbleError(
            "train/diverged",
            `${skipped} steps were skipped: their gradients were not finite`,
            {
              where: `step ${state.step}`,
              remedy: "Lower learning_rate, or set max_grad_norm; the last checkpoint is intact.",
            },
          );
        }
        sums.write(new Float32Array(2));
        state.pending = { loss: 0, correct: 0, steps: 0, trained: 0 };
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
      await new Promise((resolve) => setTimeout(resolve, 0)); // signals arrive here
      stopped = state.step < o.maxSteps && (o.signal?.aborted ?? false); // after the last step there is nothing to stop
      const pause = performance.now();
      if (!stopped && o.evalAt(state.step)) {
        lastEval = await evaluate(o.model, o.evalBatches, state.step, state.step / o.stepsPerEpoch);
        await o.onEval(lastEval);
      }
      if (stopped || o.saveAt(state.step)) {
        if (state.pending.steps > 0) {
          const { loss, correct } = await readMetrics(o.optimizer, sums);
          Object.assign(state.pending, { loss, correct });
        }
        await o.onSave(structuredClone(state), lastEval?.step === state.step ? lastEval : undefined);
      }
      since += performance.now() - pause; // evaluation and saving do not count as training speed
      if (stopped) break;
    }
  } finally {
    sums.dispose();
  }
  return { state, stopped };
}

/** Forward and backward of one micro-batch; its gradients are sums over tokens, scaled in the optimizer. */
function trainBatch(o: LoopOptions, batch: Batch, trained: number, seed: number, sums: Tensor): void {
  scope(() => {
    const input = modelInput(batch);
    const dropoutSeed = o.dropoutSeed === undefined
      ? undefined
      : (o.dropoutSeed ^ Math.imul(seed, 0x9e3779b1)) >>> 0;
    const { output } = differentiate(() => {
      const hidden = forward(o.model, input, { checkpointing: o.checkpointing, dropoutSeed });
      return linearCrossEntropy(hidden, o.model.head, batch.labels).stats;
    }, undefined);
    addInto(sums, mul(output, tensor([1 / trained, 1], [1, 2]))); // loss per trained token; correct tokens
  });
}

async function readMetrics(optimizer: Optimizer, sums: Tensor) {
  const [a, b] = await gpu().stream.read([
    { buffer: sums.buffer, offset: sums.offset, bytes: 8 },
    { buffer: optimizer.metrics.buffer, offset: optimizer.metrics.offset, bytes: optimizer.metrics.bytes },
  ]);
  const [loss, correct] = new Float32Array(a!);
  const metrics = new Float32Array(b!);
  return { loss: loss!, correct: correct!, norm: metrics[METRICS.norm]!, skipped: metrics[METRICS.skipped]! };
}

/**
 * Mean loss per trained token over all batches, with the adapter as it is and without dropout. One readback.
 *
 * @throws NibbleError `train/nan-eval` when the loss is not finite
 */
export async function evaluate(
  model: Model,
  batches: readonly Batch[],
  step = 0,
  epoch = 0,
): Promise<EvalLog> {
  const started = performance.now();
  const total = keep(zeros([1, 2], "f32", "scratch"));
  let tokens = 0;
  for (const batch of batches) {
    if (batch.trainedTokens === 0) continue;
    tokens += batch.trainedTokens;
    noGrad(() =>
      scope(() => {
        const hidden = forward(model, modelInput(batch));
        addInto(total, linearCrossEntropy(hidden, model.head, batch.labels).stats);
      })
    );
    await gpu().stream.fence();
  }
  const [loss, correct] = await total.data();
  total.dispose();
  if (tokens === 0) {
    throw new NibbleError("train/empty-eval", "The evaluation rows have no token that the loss counts");
  }
  if (!Number.isFinite(loss)) {
    throw new NibbleError("train/nan-eval", `The evaluation loss is ${loss}`, { where: `step ${step}` });
  }
  return {
    step,
    epoch,
    eval_loss: loss! / tokens,
    eval_mean_token_accuracy: correct! / tokens,
    eval_num_tokens: tokens,
    eval_runtime: (performance.now() - started) / 1000,
  };
}
