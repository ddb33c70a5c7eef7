/**
 * Blocks of columns, for products whose weight is walked in row ranges.
 * @module
 */
import { defineKernel, gpu } from "../../gpu/mod.ts";
import source from "../../../wgsl/columns.wgsl" with { type: "text" };
import { grid1d, rowRanges } from "../grid.ts";
import { record } from "../tape.ts";
import { empty, shapeError, type Tensor, zeros } from "../tensor.ts";

const kernel = defineKernel("columns", source);

function run(entry: "take" | "put", part: Tensor, whole: Tensor, first: number): void {
  const { columns: width } = part;
  const [source, target] = entry === "take" ? [whole, part] : [part, whole];
  for (const [from, to] of rowRanges(part.rows, [4 * width, 4 * whole.columns])) {
    const { groups, row } = grid1d(Math.ceil((to - from) * width / 64), 64);
    gpu().kernels.launch(kernel, {
      entry,
      params: { rows: to - from, width, columns: whole.columns, first, row },
      bind: { source: source.rowRange(from, to), target_: target.rowRange(from, to) },
      groups,
    });
  }
}

/** `whole[:, first : first + width]` as a tensor of its own; not recorded. */
export function takeColumns(whole: Tensor, first: number, width: number): Tensor {
  const part = empty([whole.rows, width]);
  run("take", part, whole, first);
  return part;
}

/** `whole[:, first : first + part.columns] = part`; not recorded. */
function putColumns(whole: Tensor, first: number, part: Tensor): void {
  run("put", part, whole, first);
}

/**
 * Cuts `x` into blocks of columns, such as the query, key and value of a fused projection.
 *
 * @param x `[rows, sum of widths]`; nothing else may use it, for its gradient is gathered in one tensor: the first
 *   part whose gradient arrives makes it, the others write into it
 * @returns one `[rows, width]` for each width
 * @throws NibbleError `tensor/shape` when the widths do not add up
 */
export function splitColumns(x: Tensor, widths: readonly number[]): Tensor[] {
  const sum = widths.reduce((a, b) => a + b, 0);
  if (sum !== x.columns) throw shapeError("splitColumns", `[${x.shape}] into ${widths.join(" + ")}`);
  let dx: Tensor | undefined;
  let first = 0;
  return widths.map((width) => {
    const at = first;
    first += width;
    return record("splitColumns", takeColumns(x, at, width), [x], (dy) => {
      const begun = dx;
      putColumns(dx ??= zeros(x.shape), at, dy);
      return [begun ? undefined : dx];
    });
  });
}
