/**
 * Adafactor: of a matrix only the mean squares of rows and columns are kept.
 * @module
 */
import { type BufferRange, defineKernel, gpu } from "../gpu/mod.ts";
import source from "../../wgsl/adafactor.wgsl" with { type: "text" };
import { grid1d, rowLanes, rowRanges } from "../tensor/grid.ts";
import { keep, type Tensor, zeros } from "../tensor/tensor.ts";
import type { Updater, UpdaterOptions } from "./optimizer.ts";
import type { ParameterPage, ParameterPages, PlacedParameter } from "./pages.ts";
import { createState, type StateField, type StatePage } from "./state.ts";

const kernel = defineKernel("adafactor", source);

// Trainer passes scale_parameter=False and relative_step=False; the rest are Transformers' defaults
const EPS = 1e-30, CLIP = 1, DECAY_RATE = -0.8;
/** Workgroups that sum an update's squares. */
const MAX_PARTIALS = 64;

const field = (name: string, bind: string, per = 1): StateField => ({ name, bind, dtype: "F32", per });

/** A parameter as the kernel sees it: a matrix, or a vector as rows of one column. */
function asRows({ shape }: PlacedParameter): { rows: number; columns: number; factored: boolean } {
  const size = shape.reduce((a, b) => a * b, 1);
  const columns = shape.length >= 2 ? shape.at(-1)! : 1;
  return { rows: size / columns, columns, factored: shape.length >= 2 };
}

/** Makes Adafactor's updater, with zero state. */
export function createAdafactor(
  parameters: ParameterPages,
  { settings, metrics }: Pick<UpdaterOptions, "settings" | "metrics">,
): Updater {
  const all = parameters.pages.flatMap((page) => page.parameters.map((p) => ({ page, p, ...asRows(p) })));
  const state = createState(all.map(({ p, rows, columns, factored }): StatePage => {
    const fields = factored
      ? [field("exp_avg_sq_row", "r", columns), field("exp_avg_sq_col", "c", rows)]
      : [field("exp_avg_sq", "v")];
    return { label: p.name, size: rows * columns, fields, granule: rows * columns };
  }));
  const widest = Math.max(...all.map(({ rows, columns }) => [...rowRanges(rows, [4 * columns])].length));
  const partials = keep(zeros([1 + MAX_PARTIALS * widest], "f32", "optimizer"));
  const LANES = rowLanes();

  return {
    hostBytes: 0,
    update: ({ lr, gradScale }) =>
      state.each(({ page: index, bind }) => {
        const { page, p, rows, columns, factored } = all[index]!;
        const fixed = {
          ...{ grad_scale: gradScale, decay_rate: DECAY_RATE, eps: EPS, clip: CLIP, lr },
          keep: 1 - lr * (page.decay ? settings.weight_decay ?? 0 : 0),
        };
        const launch = (
          entry: string,
          names: string[],
          count: number,
          params: Record<string, number>,
          [from, to]: readonly [number, number] = [0, rows],
          lanes = LANES,
        ) => {
          const own = (t: Tensor) => part(page, p, t, from * columns, to * columns);
          const byRow = bind[factored ? "r" : "v"]!;
          const kept = { ...byRow, offset: byRow.offset! + 4 * from, bytes: 4 * (to - from) };
          const known: Record<string, BufferRange> = {
            ...{
              metrics: metrics.range,
              grads: own(page.grad),
              w: own(page.value),
              partials: partials.range,
            },
            ...(factored ? { r: kept, c: bind.c! } : { v: kept }),
          };
          const { groups, row } = grid1d(Math.ceil(count / lanes), lanes);
          gpu().kernels.launch(kernel, {
            entry,
            consts: { LANES },
            params: {
              ...{ rows: factored ? to - from : 1, columns: factored ? columns : to - from },
              ...{ run: 0, first: 0, size: 0, ...fixed, ...params },
              row,
            },
            bind: Object.fromEntries(names.map((name) => [name, known[name]!])),
            groups,
          });
        };
        const ranges = [...rowRanges(rows, [4 * columns])];
        if (factored) {
          for (const range of ranges) {
            launch("rows", ["metrics", "grads", "r"], range[1] - range[0], {}, range, 1);
          }
          ranges.forEach((range, i) => {
            launch(
              "columns",
              ["metrics", "grads", "c"],
              columns,
              { first: i === 0 ? 1 : 0, size: rows },
              range,
              64,
            );
          });
          launch("row_mean", ["r", "partials"], 1, {}, [0, rows], 1);
        }
        const kept = factored ? ["r", "c"] : ["v"], prefix = factored ? "" : "vector_";
        let count = 0;
        for (const range of ranges) {
          const elements = (range[1] - range[0]) * columns;
          const run = Math.max(1024, Math.ceil(elements / MAX_PARTIALS));
          const groups = Math.ceil(elements / run);
          const names = ["metrics", "grads", "partials", ...kept];
          launch(`${prefix}squares`, names, groups, { run, first: 1 + count }, range, 1);
          count += groups;
        }
        for (const range of ranges) {
          const elements = (range[1] - range[0]) * columns;
          const names = ["metrics", "grads", "w", "partials", ...kept];
          launch(`${prefix}apply`, names, elements, { first: count, size: rows * columns }, range, 64);
        }
      }),
    save: () => state.save(),
    load: (read) => state.load(read),
    dispose() {
      state.dispose();
      partials.dispose();
    },
  };
}

/** Elements `[from, to)` of a parameter within a page's tensor. */
function part(page: ParameterPage, p: PlacedParameter, t: Tensor, from: number, to: number) {
  return { buffer: t.buffer, offset: t.offset + 4 * (p.start + from), bytes: 4 * (to - from) };
}
