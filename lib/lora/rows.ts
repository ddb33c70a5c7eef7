/**
 * A frozen weight in f32, some rows at a time, however it is stored.
 * @module
 */
import { dequantizeRows, QuantizedTensor } from "../quant/mod.ts";
import { toF32 } from "../tensor/ops/storage.ts";
import { empty, scope, type Tensor } from "../tensor/tensor.ts";

/** Elements decoded at a time: 16 MiB of f32. */
const PIECE = 4 * 2 ** 20;

/** Row ranges of pieces: each begins on a packed word and, in any float type, on a multiple of 256 bytes. */
export function* rowPieces(rows: number, columns: number): Generator<[from: number, to: number]> {
  const step = Math.max(128, Math.floor(PIECE / columns / 128) * 128);
  for (let from = 0; from < rows; from += step) yield [from, Math.min(rows, from + step)];
}

/**
 * Rows `[from, to)` in f32, `[to - from, in]`: decoded, or a view where the weight is f32 already, which is not to be
 * written to.
 */
export function rowsOf(weight: Tensor | QuantizedTensor, from: number, to: number): Tensor {
  const { rows, columns } = weight;
  if (weight instanceof QuantizedTensor) {
    const w = empty([to - from, columns], "f32", "scratch");
    dequantizeRows(weight, from, to, w);
    return w;
  }
  const part = from === 0 && to === rows ? weight.view([rows, columns]) : weight.slice(from, to);
  return weight.dtype === "f32" ? part : toF32(part);
}

/** Calls `use` with the rows of every piece; the tensor is gone after each call. */
export function forRows(
  weight: Tensor | QuantizedTensor,
  use: (w: Tensor, from: number, to: number) => void,
): void {
  for (const [from, to] of rowPieces(weight.rows, weight.columns)) {
    scope(() => use(rowsOf(weight, from, to), from, to));
  }
}
