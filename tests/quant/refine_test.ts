import assert from "node:assert/strict";
import {
  decodeAbsmax,
  dequantize,
  quantize,
  type QuantizedTensor,
  refine,
  roundAhead,
  toQuantState,
} from "../../lib/quant/mod.ts";
import { sub } from "../../lib/tensor/ops/pointwise.ts";
import { scope, tensor } from "../../lib/tensor/tensor.ts";
import { openGpu } from "../../lib/gpu/mod.ts";
import { sharedMap } from "../../lib/quant/quantized_tensor.ts";
import { gpuTest, refused } from "../gpu_helper.ts";
import { normals } from "./helpers.ts";

await openGpu();
sharedMap(); // made once a device

/** Weights, and the moments of inputs of which each goes together with the one before it. */
function problem(rows: number, columns: number, tokens = 3 * columns) {
  const x = normals(tokens * columns, 7);
  for (let i = 1; i < x.length; i++) if (i % columns) x[i] = 0.7 * x[i - 1]! + 0.5 * x[i]!;
  const c = new Float32Array(columns * columns);
  for (let i = 0; i < columns; i++) {
    for (let j = 0; j < columns; j++) {
      let sum = 0;
      for (let t = 0; t < tokens; t++) sum += x[t * columns + i]! * x[t * columns + j]!;
      c[i * columns + j] = sum;
    }
  }
  return { w: normals(rows * columns, 3), c };
}

/** `(W − Q) C`, row by row, and `tr (W − Q) C (W − Q)ᵀ`. */
function slopes(w: Float32Array, q: Float32Array, c: Float32Array, columns: number) {
  const g = new Float64Array(w.length);
  let error = 0;
  for (let i = 0; i < w.length; i++) {
    const row = i - i % columns;
    for (let k = 0; k < columns; k++) g[i]! += (w[row + k]! - q[row + k]!) * c[k * columns + i % columns]!;
    error += g[i]! * (w[i]! - q[i]!);
  }
  return { g, error };
}

/** Refines columns `[first, first + width)` on the device; q's numbers after it. */
async function refined(
  q: QuantizedTensor,
  w: Float32Array<ArrayBuffer>,
  c: Float32Array<ArrayBuffer>,
  sweeps: number,
) {
  const [rows, columns] = q.shape as [number, number];
  scope(() => {
    const error = sub(tensor(w, [rows, columns]), dequantize(q));
    refine(q, 0, error, tensor(c, [columns, columns]), sweeps);
  });
  using now = dequantize(q);
  return await now.data();
}

for (
  const [rows, columns, blocksize, doubleQuant] of [[70, 136, 64, true], [5, 64, 32, false], [
    9,
    24,
    64,
    true,
  ]] as const
) {
  for (const quantType of ["nf4", "fp4"] as const) {
    gpuTest(
      `codes of [${rows}, ${columns}] in ${quantType}, ${blocksize}: no other code of one weight errs less`,
      async () => {
        const { w, c } = problem(rows, columns);
        using weight = tensor(w, [rows, columns]);
        using q = quantize(weight, { quantType, blocksize, doubleQuant });
        const scales = await q.absmax.data();
        using first = dequantize(q);
        const nearest = await first.data();
        const before = slopes(w, nearest, c, columns).error;
        const once = slopes(w, await refined(q, w, c, 1), c, columns).error;
        const values = await refined(q, w, c, 20);
        const { g, error } = slopes(w, values, c, columns);
        assert.ok(once < 0.8 * before, `one sweep leaves ${once} of ${before}`);
        assert.ok(error <= once, `more sweeps leave ${error} of ${once}`);
        assert.deepEqual(await q.absmax.data(), scales, "scales stay");
        // the error over one code is a parabola: q[j] + g[j] / C[j, j] is its least, and every other code lies farther
        const absmax = decodeAbsmax(await toQuantState(q));
        for (let i = 0; i < w.length; i++) {
          const s = absmax[Math.floor(i / blocksize)]!;
          const least = values[i]! + g[i]! / c[(i % columns) * (columns + 1)]!;
          const nearestCode = Math.min(...Array.from(q.codeBook.values, (v) => Math.abs(v * s - least)));
          // f32: the slope is a sum over the columns, each rounded to 2^-24 of the largest
          assert.ok(Math.abs(values[i]! - least) <= nearestCode + columns * 2 ** -22 * s, `weight ${i}`);
        }
      },
    );
  }
}

gpuTest(
  "inputs that are independent ask for the nearest codes; a column without input keeps its codes",
  async () => {
    const rows = 8, columns = 64, { w } = problem(rows, columns);
    using weight = tensor(w, [rows, columns]);
    using q = quantize(weight, { doubleQuant: false });
    using first = dequantize(q);
    const nearest = await first.data();
    const c = new Float32Array(columns * columns);
    for (let i = 1; i < columns; i++) c[i * columns + i] = i;
    assert.deepEqual(await refined(q, w, c, 2), nearest);
  },
);

gpuTest("what cannot be chosen by columns is refused", () => {
  using weight = tensor(normals(8 * 12), [8, 12]);
  using q = quantize(weight);
  using e = tensor(new Float32Array(96), [8, 12]);
  using c = tensor(new Float32Array(144), [12, 12]);
  refused(() => refine(q, 0, e, c, 1), "quant/refine", /cannot be chosen/);
  refused(() => refine(q, 4, e, c, 1), "tensor/shape", /refine/);
});

gpuTest("rounding ahead takes the codes that the recursion takes, one column after the other", async () => {
  const rows = 70, columns = 136, { w } = problem(rows, columns);
  // any unit upper triangle will do; that of C is tested where it is made
  const f = normals(columns * columns, 9).map((v, i) => {
    const row = Math.floor(i / columns), column = i % columns;
    return column < row ? 0 : column === row ? 1 : 0.5 * v / (column - row);
  });
  using weight = tensor(w, [rows, columns]);
  using q = quantize(weight);
  scope(() => roundAhead(q, 0, sub(weight, dequantize(q)), tensor(f, [columns, columns])));
  using now = dequantize(q);
  const got = await now.data(), absmax = decodeAbsmax(await toQuantState(q));
  let near = 0;
  for (let row = 0; row < rows; row++) {
    const errors: number[] = []; // w − q of the columns so far, of the codes that the device took
    for (let j = 0; j < columns; j++) {
      const i = row * columns + j, s = absmax[Math.floor(i / 64)]!;
      let asked = w[i]!;
      for (let k = 0; k < j; k++) asked += errors[k]! * f[k * columns + j]!;
      const away = Array.from(q.codeBook.values, (v) => Math.abs(v * s - asked)).sort((a, b) => a - b);
      // f32: sums of up to 136 products; within that of a border either code is right
      const rounding = columns * 2 ** -22 * s;
      assert.ok(Math.abs(got[i]! - asked) <= away[0]! + rounding, `row ${row}, column ${j}`);
      if (away[1]! - away[0]! < rounding) near++;
      errors.push(w[i]! - got[i]!);
    }
  }
  assert.ok(near < 10, `${near} of ${w.length} lie near a border, where anything passes`);
});
