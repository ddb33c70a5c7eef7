/**
 * Rules that change each parameter by its own gradient and state alone: AdamW, Lion, SGD, RMSprop, Adagrad.
 * @module
 */
import { adapterKind, defineKernel, gpu, type Kernel, type Specialization } from "../gpu/mod.ts";
import adagradSource from "../../wgsl/adagrad.wgsl" with { type: "text" };
import adamwSource from "../../wgsl/adamw.wgsl" with { type: "text" };
import lionSource from "../../wgsl/lion.wgsl" with { type: "text" };
import narrowSource from "../../wgsl/optimizer_8bit.wgsl" with { type: "text" };
import rmspropSource from "../../wgsl/rmsprop.wgsl" with { type: "text" };
import sgdSource from "../../wgsl/sgd.wgsl" with { type: "text" };
import { dynamicMap, mapThresholds } from "../quant/mod.ts";
import { grid1d } from "../tensor/grid.ts";
import { keep, type Tensor, tensor } from "../tensor/tensor.ts";
import type { OptimArgs, RuleName } from "./catalog.ts";
import type { ParameterPage, ParameterPages } from "./pages.ts";
import type { Updater, UpdaterOptions } from "./optimizer.ts";
import { createState, type StateField } from "./state.ts";

/** Rules of this kind. */
export type ElementRule = Exclude<RuleName, "adafactor">;

/** A kernel that updates a range of a page, and the state that it keeps. */
interface Form {
  kernel: Kernel;
  entry?: string;
  fields: StateField[];
  /** Chunks begin at multiples of this many elements. */
  granule: number;
}

const adamw = defineKernel("adamw", adamwSource);
const lion = defineKernel("lion", lionSource);
const sgd = defineKernel("sgd", sgdSource);
const rmsprop = defineKernel("rmsprop", rmspropSource);
const adagrad = defineKernel("adagrad", adagradSource);
const narrow = defineKernel("optimizer_8bit", narrowSource);

const BLOCK = 256;

const f32 = (name: string, bind: string): StateField => ({ name, bind, dtype: "F32", per: 1 });
const wide = (kernel: Kernel, fields: StateField[], entry = "main"): Form => ({
  kernel,
  entry,
  fields,
  granule: 64,
});

/** State in 32 bits, under PyTorch's names. */
const WIDE: Readonly<Record<ElementRule, (args: OptimArgs) => Form>> = {
  adamw: () => wide(adamw, [f32("exp_avg", "m"), f32("exp_avg_sq", "v")]),
  lion: () => wide(lion, [f32("exp_avg", "m")]),
  sgd: ({ momentum }) =>
    momentum ? wide(sgd, [f32("momentum_buffer", "m")], "momentum") : wide(sgd, [], "plain"),
  rmsprop({ momentum, centered }) {
    const fields = [f32("square_avg", "v")];
    if (centered) fields.push(f32("grad_avg", "a"));
    if (momentum) fields.push(f32("momentum_buffer", "m"));
    return wide(
      rmsprop,
      fields,
      [centered && "centered", momentum && "momentum"].filter(Boolean).join("_") || "plain",
    );
  },
  adagrad: () => wide(adagrad, [f32("sum", "v")]),
};

const codes = (name: string, bind: string): StateField => ({ name, bind, dtype: "U8", per: 1 });
const scales = (name: string, bind: string): StateField => ({ name, bind, dtype: "F32", per: BLOCK });
const FIRST = [codes("state1", "m_codes"), scales("absmax1", "m_absmax")];
const SECOND = [codes("state2", "v_codes"), scales("absmax2", "v_absmax")];

/** State in 8 bits, under bitsandbytes' names. */
const NARROW: Readonly<Partial<Record<ElementRule, Form>>> = {
  adamw: { kernel: narrow, entry: "adamw", fields: [...FIRST, ...SECOND], granule: BLOCK },
  lion: { kernel: narrow, entry: "lion", fields: FIRST, granule: BLOCK },
};

/** Makes the updater of an elementwise rule, with zero state. */
export function createElementwise(
  rule: ElementRule,
  parameters: ParameterPages,
  { bits, args, settings, paging, metrics }: UpdaterOptions,
): Updater {
  const { pages } = parameters;
  const formOf = (page: ParameterPage): Form =>
    (bits === 8 && page.quantizable ? NARROW[rule] : undefined) ?? WIDE[rule](args);
  const forms = pages.map(formOf);
  const state = createState(
    pages.map((page, i) => ({ ...forms[i]!, label: `${i}`, size: page.value.size })),
    paging,
  );
  const maps = forms.some((form) => form.kernel === narrow) ? codeMaps() : undefined;
  // a software adapter's lanes are one vector of the processor, and barriers between vectors cost it dearly
  const consts: Specialization = { consts: { LANES: adapterKind(gpu()) === "gpu" ? 64 : 8 } };
  const { adam_beta1: beta1 = 0.9, adam_beta2: beta2 = 0.999, adam_epsilon: eps = 1e-8 } = settings;
  const numbers = {
    ...{ beta1, beta2, one_minus_beta1: 1 - beta1, one_minus_beta2: 1 - beta2, eps },
    ...Object.fromEntries(Object.entries(args).map(([key, value]) => [key, Number(value)])),
    one_minus_alpha: 1 - Number(args.alpha ?? 0),
  };

  return {
    hostBytes: state.hostBytes,
    update: ({ lr, gradScale }) =>
      state.each(({ page, from, to, bind }) => {
        const { value, grad, decay } = pages[page]!, { kernel, entry } = forms[page]!;
        const weight_decay = decay ? settings.weight_decay ?? 0 : 0;
        // a workgroup takes 64 vec4 or a block of 8-bit state: 256 elements either way
        const { groups, row } = grid1d(Math.ceil((to - from) / BLOCK), 64);
        const grid = { n: (to - from) / 4, row, blocks: (to - from) / BLOCK, block_row: groups[0] };
        const range = (t: Tensor) => ({
          buffer: t.buffer,
          offset: t.offset + 4 * from,
          bytes: 4 * (to - from),
        });
        gpu().kernels.launch(kernel, {
          ...(entry ? { entry } : {}),
          ...(kernel === narrow ? consts : {}),
          params: {
            ...numbers,
            ...grid,
            grad_scale: gradScale,
            lr,
            weight_decay,
            keep: 1 - lr * weight_decay,
          },
          bind: {
            ...{ metrics: metrics.range, grads: range(grad), w: range(value), ...bind },
            ...(kernel === narrow ? { maps: maps!.range } : {}),
          },
          groups,
        });
      }),
    save: () => state.save(),
    load: (read) => state.load(read),
    dispose() {
      state.dispose();
      maps?.dispose();
    },
  };
}

/** Places of a map among the kernel's: 256 values, 257 borders, rounded up. */
const MAP_PLACES = 520;

/** The signed map and its borders, then the unsigned one and its own; nothing lies below the first or above the last. */
function codeMaps(): Tensor {
  const all = new Float32Array(2 * MAP_PLACES);
  [true, false].forEach((signed, i) => {
    const map = dynamicMap(signed);
    all.set(map, MAP_PLACES * i);
    all.set([-Infinity, ...mapThresholds(map), Infinity], MAP_PLACES * i + 256);
  });
  return keep(tensor(all, [all.length], "f32", "optimizer"));
}
