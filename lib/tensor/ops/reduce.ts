/**
 * Sums and means in a fixed order, so that the same input gives the same bits.
 * @module
 */
import { type BufferRange, defineKernel, gpu } from "../../gpu/mod.ts";
import source from "../../../wgsl/reduce.wgsl" with { type: "text" };
import { checkRounds, grid1d, mostRounds, rowRanges } from "../grid.ts";
import { record } from "../tape.ts";
import { empty, shapeError, type Tensor } from "../tensor.ts";

const kernel = defineKernel("reduce", source);

/** Launches an entry over `[rows, columns]`; sums over what an invocation cannot walk at once are added up in parts. */
function run(entry: string, x: Tensor, y: Tensor, rows: number, columns: number, scale: number): void {
  const launch = (x: BufferRange, rows: number, columns: number, add: boolean) => {
    const workgroups = entry === "row_sum"
      ? rows
      : Math.ceil((entry === "spread" ? rows * columns : columns) / 64);
    const { groups, row } = grid1d(workgroups, 64);
    gpu().kernels.launch(kernel, {
      entry,
      params: { rows, columns, row, scale, add: Number(add) },
      bind: { x, y: y.range },
      groups,
    });
  };
  if (entry === "column_sum") {
    for (const [from, to] of rowRanges(rows, [4 * columns], mostRounds())) {
      launch(x.rowRange(from, to), to - from, columns, from > 0);
    }
  } else if (entry === "row_sum" && rows === 1) {
    for (const [from, to] of rowRanges(columns, [4], 64 * mostRounds())) {
      launch(
        { buffer: x.buffer, offset: x.offset + 4 * from, bytes: 4 * (to - from) },
        1,
        to - from,
        from > 0,
      );
    }
  } else {
    if (entry === "row_sum") checkRounds("A sum", columns / 64);
    launch(x.range, rows, columns, false);
  }
}

/** Sum over the last axis, times `scale`: `[..., C]` to `[..., 1]`. */
export function rowSum(x: Tensor, scale = 1): Tensor {
  const y = empty([...x.shape.slice(0, -1), 1]);
  run("row_sum", x, y, x.rows, x.columns, scale);
  return record("rowSum", y, [x], (dy) => {
    const dx = empty(x.shape);
    run("spread", dy, dx, x.rows, x.columns, scale);
    return [dx];
  });
}

/** Sum over all axes but the last: `[..., C]` to `[C]`. */
export function columnSum(x: Tensor): Tensor {
  const y = empty([x.columns]);
  run("column_sum", x, y, x.rows, x.columns, 1);
  return y;
}

/** Sum of all elements, times `scale`, as `[1]`. */
export function sum(x: Tensor, scale = 1): Tensor {
  const flat = (t: Tensor) => t.view([1, t.size]);
  const rows = x.size >= 4096 && x.columns < x.size ? rowSumOnly(x.view([x.rows, x.columns])) : x;
  const y = empty([1]);
  run("row_sum", flat(rows), y, 1, rows.size, scale);
  return record("sum", y, [x], (dy) => {
    const dx = empty(x.shape);
    run("spread", dy, dx, 1, x.size, scale);
    return [dx];
  });
}

function rowSumOnly(x: Tensor): Tensor {
  const y = empty([x.rows]);
  run("row_sum", x, y, x.rows, x.columns, 1);
  return y;
}

/** Mean of all elements as `[1]`. */
export const mean = (x: Tensor): Tensor => sum(x, 1 / x.size);

/** Sums a gradient down to the shape of a broadcast operand. */
export function sumTo(dy: Tensor, shape: readonly number[]): Tensor {
  const size = shape.reduce((a, b) => a * b, 1);
  if (size === dy.size) return dy.view(shape);
  if (size === 1) return sum(dy).view(shape);
  const columns = shape.slice(shape.findIndex((d) => d !== 1));
  if (`${dy.shape.slice(-columns.length)}` === `${columns}`) {
    return columnSum(dy.view([dy.size / size, size])).view(shape);
  }
  if (shape.length === dy.shape.length) return rowSumOnly(dy.view([size, dy.size / size])).view(shape);
  throw shapeError("sumTo", `[${dy.shape}] to [${shape}]`);
}
