/**
 * Optimizers under Transformers' names. State, norm, clip factor and the check for NaN stay on the device.
 * @module
 */
import { NibbleError } from "../errors.ts";
import { defineKernel, gpu } from "../gpu/mod.ts";
import normSource from "../../wgsl/grad_norm.wgsl" with { type: "text" };
import updateSource from "../../wgsl/optimizer.wgsl" with { type: "text" };
import { grid1d } from "../tensor/grid.ts";
import { keep, type Tensor, zeros } from "../tensor/tensor.ts";
import type { Page, ParameterPages } from "./pages.ts";

const norm = defineKernel("grad_norm", normSource);
const update = defineKernel("optimizer", updateSource);

/** Settings, under Transformers' names. */
export interface OptimizerOptions {
  optim: string;
  adam_beta1?: number;
  adam_beta2?: number;
  adam_epsilon?: number;
  weight_decay?: number;
  /** Global norm that gradients are scaled down to; 0: never. */
  max_grad_norm?: number;
  learning_rate?: number;
}

/** What differs from step to step. */
export interface StepOptions {
  lr: number;
  /** 1 for the first step: bias correction counts from there. */
  step: number;
  /** Factor on the gradients: 1 / trained tokens of the window. */
  gradScale: number;
}

/** An optimizer over parameter pages. */
export interface Optimizer {
  /** f32 `[4]`: norm before clipping, clip factor, steps skipped so far, 1 if the last step was taken. */
  readonly metrics: Tensor;
  zeroGrad(): void;
  /** Enqueues one step; reads nothing back. */
  step(options: StepOptions): void;
  /** State by name, for checkpoints: `exp_avg.0`, `exp_avg_sq.0`, ... a page each, and `metrics`. */
  stateTensors(): Map<string, Tensor>;
  dispose(): void;
}

/** Transformers' name to kernel entry and the states it keeps. */
const KINDS: Record<string, { entry: "adamw" | "sgd" | "rmsprop"; states: ("m" | "v")[]; eps?: number }> = {
  adamw_torch: { entry: "adamw", states: ["m", "v"] },
  adamw_torch_fused: { entry: "adamw", states: ["m", "v"] },
  adamw_hf: { entry: "adamw", states: ["m", "v"] },
  sgd: { entry: "sgd", states: [] },
  // Trainer passes the learning rate alone: torch's alpha 0.99 and eps 1e-8
  rmsprop: { entry: "rmsprop", states: ["v"], eps: 1e-8 },
};

const STATE_NAMES = { m: "exp_avg", v: "exp_avg_sq" } as const;
const GROUP = 4096;

/**
 * An optimizer over pages.
 *
 * @throws NibbleError `optim/unknown` with the list of supported names
 */
export function createOptimizer(pages: ParameterPages, options: OptimizerOptions): Optimizer {
  const kind = KINDS[options.optim];
  if (!kind) {
    throw new NibbleError("optim/unknown", `The optimizer '${options.optim}' is not supported`, {
      where: "optim",
      remedy: `Supported: ${Object.keys(KINDS).join(", ")}.`,
    });
  }
  const {
    adam_beta1: beta1 = 0.9,
    adam_beta2: beta2 = 0.999,
    adam_epsilon: epsilon = 1e-8,
    weight_decay = 0,
    max_grad_norm = 1,
  } = options;
  const states = pages.pages.map(({ value }) =>
    Object.fromEntries(kind.states.map((s) => [s, keep(zeros([value.size], "f32", "optimizer"))]))
  );
  const counts = pages.pages.map(({ value }) => Math.ceil(value.size / GROUP));
  const total = counts.reduce((a, b) => a + b, 0);
  const partials = keep(zeros([total], "f32", "optimizer"));
  const metrics = keep(zeros([4], "f32", "optimizer"));

  function measure(scale: number): void {
    let first = 0;
    pages.pages.forEach(({ grad }, i) => {
      const { groups } = grid1d(counts[i]!, 64);
      gpu().kernels.launch(norm, {
        entry: "partial",
        params: { n: grad.size, first, row: groups[0], scale, max_norm: max_grad_norm },
        bind: { g: grad.range, partials: partials.range },
        groups,
      });
      first += counts[i]!;
    });
    gpu().kernels.launch(norm, {
      entry: "finish",
      params: { n: total, first: 0, row: 1, scale, max_norm: max_grad_norm },
      bind: { partials: partials.range, metrics: metrics.range },
      groups: [1],
    });
  }

  function apply(page: Page, state: Record<string, Tensor>, { lr, step, gradScale }: StepOptions): void {
    const { groups, row } = grid1d(Math.ceil(page.value.size / 64), 64);
    gpu().kernels.launch(update, {
      entry: kind!.entry,
      params: {
        n: page.value.size,
        row,
        scale: gradScale,
        lr,
        decay: page.decay ? weight_decay : 0,
        beta1,
        beta2,
        eps: kind!.eps ?? epsilon,
        c1: 1 - beta1 ** step,
        root_c2: Math.sqrt(1 - beta2 ** step),
      },
      bind: {
        metrics: metrics.range,
        g: page.grad.range,
        x: page.value.range,
        ...Object.fromEntries(Object.entries(state).map(([name, t]) => [name, t.range])),
      },
      groups,
    });
  }

  return {
    metrics,
    zeroGrad: () => pages.zeroGrad(),
    step(options) {
      measure(options.gradScale);
      pages.pages.forEach((page, i) => apply(page, states[i]!, options));
    },
    stateTensors() {
      const out = new Map<string, Tensor>([["optimizer.metrics", metrics]]);
      states.forEach((state, i) => {
        for (const [name, t] of Object.entries(state)) out.set(`${STATE_NAMES[name as "m" | "v"]}.${i}`, t);
      });
      return out;
    },
    dispose() {
      for (const state of states) for (const t of Object.values(state)) t.dispose();
      partials.dispose();
      metrics.dispose();
    },
  };
}
