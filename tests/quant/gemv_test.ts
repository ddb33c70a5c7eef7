import assert from "node:assert/strict";
import { openGpu } from "../../lib/gpu/mod.ts";
import { tensor } from "../../lib/tensor/tensor.ts";
import { vectorLanes } from "../../lib/tensor/ops/matmul_texture.ts";
import { gemvTiling } from "../../lib/quant/gemv.ts";
import type { GemvTiling } from "../../lib/tensor/ops/gemv.ts";
import { dequantizeOracle, gemvQuantized, quantize, toQuantState } from "../../lib/quant/mod.ts";
import { normals } from "./helpers.ts";

/** y = x W^T in double precision, with the sum of magnitudes that bounds the rounding error. */
function product(x: Float32Array, w: Float32Array, m: number, n: number, k: number) {
  const y = new Float64Array(m * n), magnitude = new Float64Array(m * n);
  for (let i = 0; i < m; i++) {
    for (let j = 0; j < n; j++) {
      for (let c = 0; c < k; c++) {
        const term = x[i * k + c]! * w[j * k + c]!;
        y[i * n + j]! += term;
        magnitude[i * n + j]! += Math.abs(term);
      }
    }
  }
  return { y, magnitude };
}

Deno.test("vectors times 4-bit weights equal the dequantized product, for every lane count, shape and type", async () => {
  for (const maxBinding of [undefined, 8192]) {
    const gpu = await openGpu(maxBinding ? { maxBinding } : {});
    const cases = [[150, 128, 1], [33, 576, 2], [70, 96, 3], [65, 40, 4], [1, 8, 1], [64, 2048, 1]] as const;
    for (const [n, k, m] of cases) {
      for (const [quantType, doubleQuant] of [["nf4", true], ["fp4", false], ["int4", true]] as const) {
        using t = tensor(normals(n * k, n), [n, k]);
        using q = quantize(t, { quantType, doubleQuant });
        const xs = normals(m * k, k);
        using x = tensor(xs, [m, k]);
        const expected = product(xs, dequantizeOracle(await toQuantState(q)), m, n, k);
        const tilings: (GemvTiling | "texture")[] = [
          { lanes: 1, rows: 8, size: 8 },
          { lanes: 16, rows: 2, size: 64 },
          { lanes: 64, rows: 3, size: 64 },
        ];
        // the adapter's own choice, and on llvmpipe also its other kernel
        const own = gemvTiling(q);
        if (vectorLanes(gpu) > 0) assert.equal(own === "texture", k % 32 === 0 && n * k >= 2 ** 14);
        if (own === "texture" || vectorLanes(gpu) > 0 && k % 32 === 0) tilings.push("texture");
        for (const tiling of tilings) {
          using y = gemvQuantized(x, q, tiling);
          assert.deepEqual(y.shape, [m, n]);
          (await y.data()).forEach((v, i) => {
            // k roundings at most, and 4 more for the scale (Higham 2002, section 3.1)
            const bound = (k + 4) * 2 ** -24 * expected.magnitude[i]!;
            assert.ok(
              Math.abs(v - expected.y[i]!) <= bound,
              `${quantType} [${n},${k}] m ${m} ${JSON.stringify(tiling)} at ${i}`,
            );
          });
        }
      }
    }
    gpu.close();
  }
});

Deno.test("shapes that do not fit are refused", async () => {
  await openGpu();
  using t = tensor(normals(320), [32, 10]);
  using q = quantize(t);
  using x = tensor(normals(10), [1, 10]);
  assert.throws(() => gemvQuantized(x, q), /gemvQuantized/);
});
