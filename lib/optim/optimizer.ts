/**
 * Optimizers whose norm, clipping and update stay on the device: a step has no readback, unless state is paged.
 * @module
 */
import { defineKernel, gpu } from "../gpu/mod.ts";
import normSource from "../../wgsl/grad_norm.wgsl" with { type: "text" };
import { grid1d, rowRanges } from "../tensor/grid.ts";
import { keep, type Tensor, zeros } from "../tensor/tensor.ts";
import { createAdafactor } from "./adafactor.ts";
import { findOptimizer, type OptimArgs, type OptimizerName, readOptimArgs } from "./catalog.ts";
import { createElementwise } from "./elementwise.ts";
import type { ParameterPage, ParameterPages } from "./pages.ts";
import type { PagingOptions, SavedState } from "./state.ts";

const gradNorm = defineKernel("grad_norm", normSource);

/** Transformers' keys and their defaults. */
export interface OptimizerSettings {
  /** Default `adamw_torch`. */
  optim?: string;
  /** Default 0.9. */
  adam_beta1?: number;
  /** Default 0.999. */
  adam_beta2?: number;
  /** Default 1e-8. */
  adam_epsilon?: number;
  /** Default 0. AdamW, Lion, Adafactor: decoupled; sgd, rmsprop, adagrad: added to the gradient, as in PyTorch. */
  weight_decay?: number;
  /** Largest global L2 norm; default 1; 0 or less turns clipping off. */
  max_grad_norm?: number;
  /** Further arguments as `name=value,name=value`, see {@link readOptimArgs}. */
  optim_args?: string | null;
  /** Of `paged_*`: what stays on the device. By default all large state lives on the host. */
  paging?: PagingOptions;
}

/** Numbers of one step. */
export interface StepOptions {
  /** Learning rate of this step. */
  lr: number;
  /** 1 for the first step. */
  step: number;
  /** Factor on every gradient: 1 / trained tokens of the window. */
  gradScale: number;
}

/** Where each number lies in {@link Optimizer.metrics}. */
export const METRICS = {
  /** Global L2 norm after `gradScale`, before the clip: Transformers' `grad_norm`. */
  norm: 0,
  /** Factor that the clip applied; 1 when it did nothing. */
  clip: 1,
  /** Steps skipped so far because the norm was NaN or infinite. */
  skipped: 2,
  /** 1 when the last step was applied, 0 when skipped. */
  applied: 3,
  /** `1 - beta1^t` of the last step, t = steps applied. */
  correction1: 4,
  /** `sqrt(1 - beta2^t)` */
  correction2: 5,
  /** Steps applied so far, t. */
  steps: 6,
} as const;

/** An optimizer over parameter pages. */
export interface Optimizer {
  /** Its name, aliases resolved. */
  readonly name: OptimizerName;
  /** `[8]` f32 on the device, laid out by {@link METRICS}; valid after a step, in the stream's order. */
  readonly metrics: Tensor;
  /** Bytes of state in host memory: more than 0 only where it is paged. */
  readonly hostBytes: number;
  /**
   * Updates all pages. The commands are encoded before it returns, unless state is paged: then await it before the
   * next one. Gradients are left as they are: clear them with `pages.zeroGrad()`.
   */
  step(options: StepOptions): Promise<void>;
  /**
   * All that resuming needs, with PyTorch's or bitsandbytes' names before the page's number: `exp_avg.0`,
   * `absmax1.2`, and `metrics`. Whether state is paged makes no difference.
   */
  saveState(): Promise<SavedState[]>;
  /**
   * Restores what {@link saveState} gave.
   *
   * @param read bytes of the array of that name
   * @throws NibbleError `optim/state` where an array has another size
   */
  loadState(read: (name: string) => Uint8Array<ArrayBuffer>): void;
  /** Gives the state's buffers back. */
  dispose(): void;
}

/** One family of rules at work on the pages. */
export interface Updater extends Pick<Optimizer, "hostBytes" | "dispose"> {
  update(options: StepOptions): Promise<void>;
  save: Optimizer["saveState"];
  load: Optimizer["loadState"];
}

/** What an {@link Updater} is made from. */
export interface UpdaterOptions {
  bits: 32 | 8;
  args: OptimArgs;
  settings: OptimizerSettings;
  paging: PagingOptions | undefined;
  metrics: Tensor;
}

const MAX_PARTIALS = 1024;

/**
 * Makes the optimizer that Transformers calls `optim`, with zero state.
 *
 * A step whose gradient norm is NaN or infinite changes neither parameters nor state, adds one to `skipped`, and does
 * not count towards the bias correction (as under PyTorch's gradient scaler).
 *
 * With 8 bits, parameters of at least 4,096 elements keep their state as bitsandbytes does: blocks of 256, dynamic
 * maps, the nearest code. Two of bitsandbytes' backends differ from it and from each other: on CUDA weight decay comes
 * after the update, and a code that lost its number's sign is moved by one; on the CPU codes are looked up in 65,536
 * places, which loses numbers below 1.5e-5 of a block's largest.
 *
 * @throws NibbleError `optim/unknown` for another name, `optim/args`
 * @example
 * ```ts
 * import { openGpu } from "../gpu/mod.ts";
 * import { createParameterPages } from "./pages.ts";
 * import { createOptimizer, METRICS } from "./optimizer.ts";
 * await openGpu();
 * const pages = createParameterPages([{ name: "w", shape: [2], decay: true }], "adapter");
 * const optimizer = createOptimizer(pages, { optim: "adamw_torch", max_grad_norm: 1 });
 * pages.tensors.get("w")!.grad!.write(Float32Array.of(3, 4));
 * await optimizer.step({ lr: 0.1, step: 1, gradScale: 1 });
 * const metrics = await optimizer.metrics.data();
 * if (Math.abs(metrics[METRICS.norm]! - 5) > 1e-6) throw new Error("the norm of (3, 4) is 5");
 * ```
 */
export function createOptimizer(parameters: ParameterPages, settings: OptimizerSettings = {}): Optimizer {
  const { name, rule, bits, paged } = findOptimizer(settings.optim ?? "adamw_torch");
  const args = readOptimArgs(name, settings.optim_args);
  const { pages } = parameters;
  const beta1 = settings.adam_beta1 ?? 0.9, beta2 = settings.adam_beta2 ?? 0.999;
  const metrics = keep(zeros([8], "f32", "optimizer"));
  const norm = planNorm(pages);
  const partials = keep(zeros([Math.max(1, norm.count)], "f32", "optimizer"));
  const options = { bits, args, settings, metrics, paging: paged ? settings.paging ?? {} : undefined };
  const updater = rule === "adafactor"
    ? createAdafactor(parameters, options)
    : createElementwise(rule, parameters, options);

  function measure({ step, gradScale }: StepOptions): void {
    const rest = {
      grad_scale: gradScale,
      max_norm: Math.max(0, settings.max_grad_norm ?? 1),
      step,
      log_beta1: rule === "adamw" ? logBeta(beta1) : 0,
      log_beta2: rule === "adamw" ? logBeta(beta2) : 0,
    };
    for (const { page, from, to, first, run } of norm.ranges) {
      const workgroups = Math.ceil((to - from) / 4 / run);
      const { groups } = grid1d(workgroups, 64);
      const grads = { buffer: page.grad.buffer, offset: page.grad.offset + 4 * from, bytes: 4 * (to - from) };
      gpu().kernels.launch(gradNorm, {
        entry: "sum_squares",
        params: { n: (to - from) / 4, run, first, row: groups[0], ...rest },
        bind: { grads, partials: partials.range },
        groups,
      });
    }
    gpu().kernels.launch(gradNorm, {
      entry: "finish",
      params: { n: norm.count, run: 0, first: 0, row: 1, ...rest },
      bind: { partials: partials.range, metrics: metrics.range },
      groups: [1],
    });
  }

  return {
    name,
    metrics,
    hostBytes: updater.hostBytes,
    step(options) {
      measure(options);
      return updater.update(options);
    },
    async saveState() {
      const data = [new Uint8Array((await metrics.data()).buffer)];
      return [...await updater.save(), { name: "metrics", dtype: "F32", shape: metrics.shape, data }];
    },
    loadState(read) {
      updater.load(read);
      metrics.write(new Float32Array(read("metrics").slice().buffer));
    },
    dispose() {
      updater.dispose();
      metrics.dispose();
      partials.dispose();
    },
  };
}

/** Natural logarithm of a decay rate; a rate of 0 is far enough below for `1 - 0^t = 1`. */
function logBeta(beta: number): number {
  return beta > 0 ? Math.log(beta) : -1e4;
}

/** Cuts all gradients into runs of whole workgroups: about 1,024 partial sums in all, in page order. */
function planNorm(pages: readonly ParameterPage[]) {
  const total = pages.reduce((a, page) => a + page.grad.size / 4, 0);
  const run = Math.max(1024, Math.ceil(total / MAX_PARTIALS / 64) * 64);
  let count = 0;
  const ranges = pages.flatMap((page) =>
    [...rowRanges(page.grad.size, [4])].map(([from, to]) => {
      const first = count;
      count += Math.ceil((to - from) / 4 / run);
      return { page, from, to, first, run };
    })
  );
  return { ranges, count };
}
