/**
 * Adafactor: of a matrix only the mean squares of rows and columns are kept.
 * @module
 */
import { type BufferRange, defineKernel, gpu } from "../gpu/mod.ts";
import source from "../../wgsl/adafactor.wgsl" with { type: "text" };
import { grid1d, mostRounds, rowLanes, rowRanges } from "../tensor/grid.ts";
import { keep, type Tensor, zeros } from "../tensor/tensor.ts";
import type { Updater, UpdaterOptions } from "./optimizer.ts";
import type { ParameterPages, PlacedParameter } from "./pages.ts";
import { createState, type StateField, type StatePage } from "./state.ts";

const kernel = defineKernel("adafactor", source);

// Trainer passes scale_parameter=False and relative_step=False; the rest are Transformers' defaults
const EPS = 1e-30, CLIP = 1, DECAY_RATE = -0.8;

const field = (name: string, bind: string, per = 1): StateField => ({ name, bind, dtype: "F32", per });

/** A parameter as the kernel sees it: a matrix, or a vector as its only row. */
function asMatrix({ shape }: PlacedParameter): { rows: number; columns: number; factored: boolean } {
  const size = shape.reduce((a, b) => a * b, 1), factored = shape.length >= 2;
  const columns = factored ? shape.at(-1)! : size;
  return { rows: size / columns, columns, factored };
}

/** Makes Adafactor's updater, with zero state. */
export function createAdafactor(
  parameters: ParameterPages,
  { settings, metrics }: Pick<UpdaterOptions, "settings" | "metrics">,
): Updater {
  const all = parameters.pages.flatMap((page) => page.parameters.map((p) => ({ page, p, ...asMatrix(p) })));
  const state = createState(all.map(({ p, rows, columns, factored }): StatePage => {
    const fields = factored
      ? [field("exp_avg_sq_row", "r", columns), field("exp_avg_sq_col", "c", rows)]
      : [field("exp_avg_sq", "v")];
    return { label: p.name, size: rows * columns, fields, granule: rows * columns };
  }));
  const mostRows = all.reduce((n, { rows }) => Math.max(n, rows), 0);
  const sums = keep(zeros([2 + mostRows], "f32", "optimizer"));
  const LANES = rowLanes(2 * all.reduce((n, { rows, columns }) => Math.max(n, rows, columns), 0));

  return {
    hostBytes: 0,
    update: ({ lr, gradScale }) =>
      state.each(({ page: index, bind }) => {
        const { page, p, rows, columns, factored } = all[index]!;
        const fixed = {
          ...{ columns, grad_scale: gradScale, decay_rate: DECAY_RATE, eps: EPS, clip: CLIP, lr },
          keep: 1 - lr * (page.decay ? settings.weight_decay ?? 0 : 0),
        };
        /** Over rows `[from, to)`: `count` invocations in workgroups of `lanes`, or `count` workgroups. */
        const launch = (
          entry: string,
          names: string[],
          [from, to]: readonly [number, number],
          size: number,
          count = to - from,
          lanes = 1,
        ) => {
          const elements = (t: Tensor) => part(t.range, p.start + from * columns, (to - from) * columns);
          const known: Record<string, BufferRange> = {
            ...{ metrics: metrics.range, sums: sums.range, ...bind },
            ...(bind.r ? { r: part(bind.r, from, to - from) } : {}),
            ...{ grads: elements(page.grad), w: elements(page.value) },
          };
          const { groups, row } = grid1d(Math.ceil(count / lanes), lanes);
          gpu().kernels.launch(kernel, {
            entry,
            consts: { LANES },
            params: { ...fixed, rows: to - from, start: from, size, row },
            bind: Object.fromEntries(names.map((name) => [name, known[name]!])),
            groups,
          });
        };
        const whole = [0, rows] as const, size = rows * columns;
        if (!factored) {
          launch("vector_squares", ["metrics", "grads", "v", "sums"], whole, size);
          launch("divisor", ["sums"], whole, size);
          launch("vector_apply", ["metrics", "grads", "w", "v", "sums"], whole, size);
          return;
        }
        // a column is walked in 64s, so by one round in 64 more
        const ranges = [...rowRanges(rows, [4 * columns], mostRounds() * 64 / 65)];
        for (const range of ranges) launch("rows", ["metrics", "grads", "r"], range, columns);
        for (const range of ranges) launch("columns", ["metrics", "grads", "c"], range, rows, columns, 64);
        launch("mean", ["r", "sums"], whole, rows, 1);
        for (const range of ranges) launch("squares", ["metrics", "grads", "r", "c", "sums"], range, size);
        launch("divisor", ["sums"], whole, size, 1);
        for (const range of ranges) launch("apply", ["metrics", "grads", "w", "r", "c", "sums"], range, size);
      }),
    save: () => state.save(),
    load: (read) => state.load(read),
    dispose() {
      state.dispose();
      sums.dispose();
    },
  };
}

/** Elements of an f32 array, from `start` on. */
function part({ buffer, offset = 0 }: BufferRange, start: number, elements: number): BufferRange {
  return { buffer, offset: offset + 4 * start, bytes: 4 * elements };
}
