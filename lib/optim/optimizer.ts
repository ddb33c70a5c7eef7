/**
 * Optimizers whose norm, clipping and update stay on the device: a step has no readback.
 * @module
 */
import { NibbleError } from "../errors.ts";
import { defineKernel, gpu } from "../gpu/mod.ts";
import adamwSource from "../../wgsl/adamw.wgsl" with { type: "text" };
import normSource from "../../wgsl/grad_norm.wgsl" with { type: "text" };
import sgdSource from "../../wgsl/sgd.wgsl" with { type: "text" };
import { grid1d, rowRanges } from "../tensor/grid.ts";
import { keep, type Tensor, zeros } from "../tensor/tensor.ts";
import type { ParameterPage, ParameterPages } from "./pages.ts";

const adamw = defineKernel("adamw", adamwSource);
const gradNorm = defineKernel("grad_norm", normSource);
const sgd = defineKernel("sgd", sgdSource);

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
  /** Default 0. AdamW: decoupled; sgd and rmsprop: added to the gradient, as in PyTorch. */
  weight_decay?: number;
  /** Largest global L2 norm; default 1; 0 or less turns clipping off. */
  max_grad_norm?: number;
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
} as const;

/** An optimizer over parameter pages. */
export interface Optimizer {
  /** The implementation's name, aliases resolved. */
  readonly name: string;
  /** `[8]` f32 on the device, laid out by {@link METRICS}; valid after a step, in the stream's order. */
  readonly metrics: Tensor;
  /** Encodes one update of all pages. Gradients are left as they are: clear them with `pages.zeroGrad()`. */
  step(options: StepOptions): void;
  /** State to save and to fill on resume: `exp_avg.<page>`, `exp_avg_sq.<page>` (or `square_avg.<page>`), `metrics`. */
  stateTensors(): Map<string, Tensor>;
  dispose(): void;
}

interface Rule {
  /** State pages that it keeps, by name. */
  state: readonly string[];
  biasCorrected: boolean;
}

const RULES: Record<string, Rule> = {
  adamw_torch: { state: ["exp_avg", "exp_avg_sq"], biasCorrected: true },
  sgd: { state: [], biasCorrected: false },
  rmsprop: { state: ["square_avg"], biasCorrected: false },
};
/** The fused form of PyTorch computes the same numbers. */
const ALIASES: Record<string, string> = { adamw_torch_fused: "adamw_torch" };

/** Names that {@link createOptimizer} takes. */
export const OPTIMIZERS: readonly string[] = [...Object.keys(RULES), ...Object.keys(ALIASES)];

// PyTorch's defaults, which Transformers leaves alone
const RMSPROP_ALPHA = 0.99, RMSPROP_EPSILON = 1e-8;
const MAX_PARTIALS = 1024;

/**
 * Makes the optimizer that Transformers calls `optim`, with zero state.
 *
 * A step whose gradient norm is NaN or infinite changes neither parameters nor state, adds one to `skipped`, and does
 * not count towards the bias correction (as under PyTorch's gradient scaler).
 *
 * @throws NibbleError `optim/unknown` for another name
 * @example
 * ```ts
 * import { openGpu } from "../gpu/mod.ts";
 * import { createParameterPages } from "./pages.ts";
 * import { createOptimizer, METRICS } from "./optimizer.ts";
 * await openGpu();
 * const pages = createParameterPages([{ name: "w", shape: [2], decay: true }], "adapter");
 * const optimizer = createOptimizer(pages, { optim: "adamw_torch", max_grad_norm: 1 });
 * pages.tensors.get("w")!.grad!.write(Float32Array.of(3, 4));
 * optimizer.step({ lr: 0.1, step: 1, gradScale: 1 });
 * const metrics = await optimizer.metrics.data();
 * if (Math.abs(metrics[METRICS.norm]! - 5) > 1e-6) throw new Error("the norm of (3, 4) is 5");
 * ```
 */
export function createOptimizer(parameters: ParameterPages, settings: OptimizerSettings = {}): Optimizer {
  const wanted = settings.optim ?? "adamw_torch";
  const name = Object.hasOwn(ALIASES, wanted) ? ALIASES[wanted]! : wanted;
  if (!Object.hasOwn(RULES, name)) {
    throw new NibbleError("optim/unknown", `Unknown optimizer '${wanted}'`, {
      where: "optim",
      remedy: `Use one of: ${OPTIMIZERS.join(", ")}.`,
    });
  }
  const rule = RULES[name]!;
  const { pages } = parameters;
  const beta1 = settings.adam_beta1 ?? 0.9, beta2 = settings.adam_beta2 ?? 0.999;
  const decay = settings.weight_decay ?? 0;
  const metrics = keep(zeros([8], "f32", "optimizer"));
  const state = pages.map((page) => rule.state.map(() => keep(zeros(page.value.shape, "f32", "optimizer"))));
  const norm = planNorm(pages);
  const partials = keep(zeros([Math.max(1, norm.count)], "f32", "optimizer"));

  function measure({ step, gradScale }: StepOptions): void {
    const rest = {
      grad_scale: gradScale,
      max_norm: Math.max(0, settings.max_grad_norm ?? 1),
      step,
      log_beta1: rule.biasCorrected ? logBeta(beta1) : 0,
      log_beta2: rule.biasCorrected ? logBeta(beta2) : 0,
    };
    for (const { page, from, to, first, run } of norm.ranges) {
      const workgroups = Math.ceil((to - from) / 4 / run);
      const { groups } = grid1d(workgroups, 64);
      gpu().kernels.launch(gradNorm, {
        entry: "sum_squares",
        params: { n: (to - from) / 4, run, first, row: groups[0], ...rest },
        bind: { grads: flat(page.grad, from, to), partials: partials.range },
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

  function update(page: ParameterPage, own: readonly Tensor[], { lr, gradScale }: StepOptions): void {
    const weight_decay = page.decay ? decay : 0;
    for (const [from, to] of rowRanges(page.value.size, [4])) {
      const n = (to - from) / 4;
      const { groups, row } = grid1d(Math.ceil(n / 64), 64);
      const bind = {
        metrics: metrics.range,
        grads: flat(page.grad, from, to),
        w: flat(page.value, from, to),
      };
      const common = { n, row, grad_scale: gradScale, lr };
      if (name === "adamw_torch") {
        gpu().kernels.launch(adamw, {
          params: {
            ...common,
            keep: 1 - lr * weight_decay,
            one_minus_beta1: 1 - beta1,
            beta2,
            one_minus_beta2: 1 - beta2,
            eps: settings.adam_epsilon ?? 1e-8,
          },
          bind: { ...bind, m: flat(own[0]!, from, to), v: flat(own[1]!, from, to) },
          groups,
        });
      } else {
        gpu().kernels.launch(sgd, {
          entry: name,
          params: {
            ...common,
            weight_decay,
            alpha: RMSPROP_ALPHA,
            one_minus_alpha: 1 - RMSPROP_ALPHA,
            eps: RMSPROP_EPSILON,
          },
          bind: own.length > 0 ? { ...bind, v: flat(own[0]!, from, to) } : bind,
          groups,
        });
      }
    }
  }

  return {
    name,
    metrics,
    step(options) {
      measure(options);
      pages.forEach((page, i) => update(page, state[i]!, options));
    },
    stateTensors() {
      const all = new Map<string, Tensor>();
      state.forEach((own, i) => own.forEach((t, k) => all.set(`${rule.state[k]}.${i}`, t)));
      all.set("metrics", metrics);
      return all;
    },
    dispose() {
      for (const t of [metrics, partials, ...state.flat()]) t.dispose();
    },
  };
}

/** Natural logarithm of a decay rate; a rate of 0 is far enough below for `1 - 0^t = 1`. */
function logBeta(beta: number): number {
  return beta > 0 ? Math.log(beta) : -1e4;
}

function flat(
  t: Tensor,
  from: number,
  to: number,
): { buffer: Tensor["buffer"]; offset: number; bytes: number } {
  return { buffer: t.buffer, offset: t.offset + 4 * from, bytes: 4 * (to - from) };
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
