/**
 * Table look-up by token id, and gathering of rows.
 * @module
 */
import { NibbleError } from "../../errors.ts";
import { defineKernel, gpu } from "../../gpu/mod.ts";
import source from "../../../wgsl/embedding.wgsl" with { type: "text" };
import weight from "../../../wgsl/shared/weight.wgsl" with { type: "text" };
import { grid1d, rowRanges } from "../grid.ts";
import { record } from "../tape.ts";
import { BYTES, empty, emptyRows, indices, type Tensor, tensor, zeros } from "../tensor.ts";
import { storageKind } from "./storage.ts";

const kernel = defineKernel("embedding", source, weight);

/**
 * `y[i] = w[ids[i]]`. The table may be larger than one binding.
 *
 * @param ids token ids, on the host: the backward sorts them there, so that sums run in a fixed order
 * @param w `[vocabulary, C]`, f32, or frozen in f16 or bf16
 * @returns `[ids.length, C]`
 * @throws NibbleError `tensor/token-id` for an id outside the vocabulary
 */
export function embedding(ids: Uint32Array, w: Tensor): Tensor {
  const bad = ids.findIndex((id) => id >= w.rows);
  if (bad >= 0) {
    throw new NibbleError(
      "tensor/token-id",
      `Token id ${ids[bad]} at ${bad} is outside the vocabulary of ${w.rows}`,
      {
        remedy: "Use the tokenizer that belongs to the model.",
      },
    );
  }
  return record("embedding", lookUpRows(tensor(ids, [ids.length]), w), [w], (dy) => {
    const dw = w.grad ?? zeros(w.shape);
    const { distinct, starts, order } = groupRows(ids);
    const bind = {
      ids: indices(distinct, ids.length).range,
      starts: indices(starts, ids.length + 1).range,
      order: tensor(order, [order.length]).range,
      dy: dy.range,
    };
    lookUp("backward", distinct.length, dw, (range) => ({ ...bind, dw: range }));
    return [dw === w.grad ? undefined : dw];
  });
}

/**
 * {@link embedding} by ids that are on the device, where nothing checks them. Not recorded.
 *
 * @param ids u32
 */
export function lookUpRows(ids: Tensor, w: Tensor): Tensor {
  const y = empty([ids.size, w.columns]);
  lookUp("forward", ids.size, w, (range) => ({ ids: ids.range, w: range, y: y.range }));
  return y;
}

type Bind = Record<string, Tensor["range"]>;

function lookUp(entry: string, rows: number, table: Tensor, bind: (range: Tensor["range"]) => Bind): void {
  const { groups, row } = grid1d(Math.ceil(rows * table.columns / 64), 64);
  const kind = storageKind("embedding", table);
  for (const [first, last] of rowRanges(table.rows, [BYTES[table.dtype] * table.columns])) {
    gpu().kernels.launch(kernel, {
      entry,
      consts: { W_KIND: kind },
      types: { W: kind === 0 ? "f32" : "u32" },
      params: { rows, columns: table.columns, row, first, last },
      bind: bind(table.rowRange(first, last)),
      groups,
    });
  }
}

/** Distinct ids in ascending order, and for each the rows that hold it, in ascending order. */
function groupRows(ids: Uint32Array) {
  const order = Uint32Array.from(ids.keys()).sort((a, b) => ids[a]! - ids[b]! || a - b);
  const distinct: number[] = [], starts: number[] = [];
  order.forEach((row, i) => {
    if (ids[row] !== distinct.at(-1) || i === 0) {
      distinct.push(ids[row]!);
      starts.push(i);
    }
  });
  starts.push(ids.length);
  return { distinct: Uint32Array.from(distinct), starts: Uint32Array.from(starts), order };
}

/** Rows `index` of `x`, which must be distinct: `[index.length, C]`. */
export function gatherRows(x: Tensor, index: Uint32Array<ArrayBuffer>): Tensor {
  const { columns } = x;
  const onDevice = indices(index, x.rows);
  const y = emptyRows(index.length, columns, x.rows);
  const { groups, row } = grid1d(Math.ceil(index.length * columns / 64), 64);
  const params = { rows: index.length, columns, row, first: 0, last: x.rows };
  const source = x.view([x.rows, columns]);
  gpu().kernels.launch(kernel, {
    entry: "forward",
    params,
    bind: { ids: onDevice.range, w: source.range, y: y.range },
    groups,
  });
  source.dispose();
  return record("gatherRows", y, [x], (dy) => {
    const dx = zeros(x.shape);
    gpu().kernels.launch(kernel, {
      entry: "scatter",
      params,
      bind: { ids: onDevice.range, dy: dy.range, y: dx.range },
      groups,
    });
    return [dx];
  });
}
