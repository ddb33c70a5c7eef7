/**
 * Blocks of columns, for products whose weight is walked in row ranges.
 * @module
 */
import { defineKernel, gpu } from "../../gpu/mod.ts";
import source from "../../../wgsl/columns.wgsl" with { type: "text" };
import { grid1d } from "../grid.ts";
import { empty, type Tensor } from "../tensor.ts";

const kernel = defineKernel("columns", source);

function run(entry: "take" | "put", part: Tensor, whole: Tensor, first: number): void {
  const { rows, columns: width } = part;
  const { groups, row } = grid1d(Math.ceil(rows * width / 64), 64);
  const [from, to] = entry === "take" ? [whole, part] : [part, whole];
  gpu().kernels.launch(kernel, {
    entry,
    params: { rows, width, columns: whole.columns, first, row },
    bind: { source: from.range, target_: to.range },
    groups,
  });
}

/** `whole[:, first : first + width]` as a tensor of its own; not recorded. */
export function takeColumns(whole: Tensor, first: number, width: number): Tensor {
  const part = empty([whole.rows, width]);
  run("take", part, whole, first);
  return part;
}

/** `whole[:, first : first + part.columns] = part`; not recorded. */
export function putColumns(whole: Tensor, first: number, part: Tensor): void {
  run("put", part, whole, first);
}
