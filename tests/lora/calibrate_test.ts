import assert from "node:assert/strict";
import { openModel } from "../../lib/formats/mod.ts";
import { calibrate } from "../../lib/lora/calibrate.ts";
import { unitUpper } from "../../lib/lora/cholesky.ts";
import type { Matrix } from "../../lib/lora/decompose.ts";
import type { Calibration } from "../../lib/lora/input_moments.ts";
import { buildModel } from "../../lib/model/load.ts";
import { logits } from "../../lib/model/model.ts";
import { QuantizedTensor } from "../../lib/quant/mod.ts";
import { gpuTest, randoms } from "../gpu_helper.ts";
import { warmDevice } from "../model/tiny.ts";
import { BASE, NF4 } from "./adapt_helper.ts";

await warmDevice();

const TOKENS = Array.from({ length: 96 }, (_, i) => (i * i * 7 + 3 * i) % 61);
const BATCH: Calibration = {
  ...{ batch: 8, time: 12, ids: Uint32Array.from(TOKENS) },
  positions: Uint32Array.from(TOKENS, (_, i) => i % 12),
  segments: new Uint32Array(TOKENS.length).fill(1),
};

Deno.test("F is upper triangular with ones, and F D Fᵀ is C and the damping", () => {
  const n = 13, x = randoms(40 * n, 3);
  const c: Matrix = { rows: n, columns: n, data: new Float64Array(n * n) };
  for (let i = 0; i < n; i++) {
    for (let j = 0; j < n; j++) {
      for (let t = 0; t < 40; t++) c.data[i * n + j]! += x[t * n + i]! * x[t * n + j]!;
    }
  }
  const mean = Array.from({ length: n }, (_, i) => c.data[i * n + i]!).reduce((a, b) => a + b) / n;
  const f = unitUpper(c, 0.01);
  const damped = (i: number, j: number) => c.data[i * n + j]! / mean + (i === j ? 0.01 : 0);
  // D from the last row up: the diagonal of F D Fᵀ
  const d = new Float64Array(n);
  for (let i = n - 1; i >= 0; i--) {
    d[i] = damped(i, i);
    for (let k = i + 1; k < n; k++) d[i]! -= f[i * n + k]! ** 2 * d[k]!;
  }
  for (let i = 0; i < n; i++) {
    for (let j = 0; j < n; j++) {
      let sum = 0;
      for (let k = 0; k < n; k++) sum += f[i * n + k]! * d[k]! * f[j * n + k]!;
      assert.ok(Math.abs(sum - damped(i, j)) < 1e-12 * n, `${i}, ${j}: ${sum}`);
      if (j <= i) assert.equal(f[i * n + j], i === j ? 1 : 0);
    }
  }
  // one direction, with a rounding that makes the matrix indefinite by more than the damping; and no input at all
  const one = { rows: 3, columns: 3, data: Float64Array.of(1, 1.01, 0, 1.01, 1, 0, 0, 0, 1e-9) };
  for (const m of [one, { ...one, data: new Float64Array(9) }]) {
    assert.ok(unitUpper(m, 1e-4).every(Number.isFinite));
  }
});

gpuTest(
  "a calibrated base is nearer to the exact one than the nearest codes are, with their scales",
  async () => {
    const files = openModel(BASE);
    const build = async (quantized: boolean) =>
      await buildModel(files.config, files.source, { path: BASE, ...(quantized ? NF4 : {}) });
    const exact = await build(false);
    const want = await logits(exact, TOKENS);
    exact.dispose();
    const model = await build(true);
    const distance = async () => Math.hypot(...(await logits(model, TOKENS)).map((v, i) => v - want[i]!));
    const linears = [...model.linears.values()].map(({ weight }) => weight as QuantizedTensor);
    const read = () => Promise.all(linears.map(async (q) => [await q.absmax.data(), await q.packed.data()]));
    const [nearest, before] = [await distance(), await read()];
    const seen: number[] = [];
    const { layers, left } = await calibrate(model, files.source, [BATCH], {
      onProgress: (n) => seen.push(n),
    });
    const after = await read();
    const calibrated = await distance();
    assert.equal(layers, 12, "down_proj has 44 columns");
    assert.deepEqual(seen, Array.from({ length: 12 }, (_, i) => i + 1));
    assert.deepEqual(after.map(([absmax]) => absmax), before.map(([absmax]) => absmax), "scales stay");
    assert.notDeepEqual(after, before);
    assert.ok(left > 0 && left < 0.6, `${left} of the outputs' error is left`);
    assert.ok(
      calibrated < 0.8 * nearest,
      `logits err by ${calibrated}, with the nearest codes by ${nearest}`,
    );
    await assert.rejects(calibrate(model, files.source, []), /No tokens/);
    model.dispose();
    const dense = await build(false);
    await assert.rejects(calibrate(dense, files.source, [BATCH]), /No layer is in 4 bits/);
    dense.dispose();
    files.source.close();
  },
);
