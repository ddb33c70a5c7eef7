import assert from "node:assert/strict";
import { applyLinear, type LinearLayer } from "../../lib/model/linear.ts";
import { dequantize, quantize } from "../../lib/quant/mod.ts";
import { differentiate } from "../../lib/tensor/tape.ts";
import { scope, type Tensor, tensor } from "../../lib/tensor/tensor.ts";
import { assertClose, EPS, gpuTest, randoms } from "../gpu_helper.ts";
import { warmDevice } from "./tiny.ts";

await warmDevice();

const N = 93, K = 64;
const CONTEXT = { dropoutSeed: undefined };

/** y and the gradients of a layer whose bias trains, and the same by hand. */
async function compare(make: (w: Tensor) => { weight: LinearLayer["weight"]; dense: Tensor }, rows: number) {
  const xs = randoms(rows * K, 1), bs = randoms(N, 2), dys = randoms(rows * N, 3);
  const made = scope(() => {
    const { weight, dense } = make(tensor(randoms(N * K, 4), [N, K]));
    const bias = tensor(bs, [N]), x = tensor(xs, [rows, K]);
    bias.requiresGrad = x.requiresGrad = true;
    const layer: LinearLayer = { module: "m", shape: [N, K], weight, bias, adapter: undefined };
    const { output, gradients } = differentiate(
      () => applyLinear(layer, x, CONTEXT),
      tensor(dys, [rows, N]),
      [x, bias],
    );
    if (!("grad" in weight)) weight.dispose();
    return { output, dx: gradients[0]!, db: gradients[1]!, dense };
  });
  const w = await made.dense.data();
  const y = Array.from({ length: rows * N }, (_, at) => {
    let sum = bs[at % N]!;
    for (let k = 0; k < K; k++) sum += xs[Math.floor(at / N) * K + k]! * w[at % N * K + k]!;
    return sum;
  });
  const dx = Array.from({ length: rows * K }, (_, at) => {
    let sum = 0;
    for (let n = 0; n < N; n++) sum += dys[Math.floor(at / K) * N + n]! * w[n * K + at % K]!;
    return sum;
  });
  const db = Array.from({ length: N }, (_, n) => dys.reduce((a, v, i) => i % N === n ? a + v : a, 0));
  // at most N = 93 products of numbers below 1 in a sum: N roundings of a sum of at most N (Higham 2002, eq. 3.5)
  const tolerance = N * N * EPS / 2;
  assertClose(await made.output.data(), y, tolerance, "y");
  assertClose(await made.dx.data(), dx, tolerance, "dx");
  assertClose(await made.db.data(), db, tolerance, "db");
  const off = y.map((v, i) => i === 5 ? v + 1e-3 : v);
  const output = await made.output.data();
  assert.throws(() => assertClose(output, off, tolerance, "control"), /control\[5\]/);
  for (const t of Object.values(made)) t.dispose();
}

for (const rows of [1, 13]) {
  gpuTest(`a dense linear layer with a bias that trains, ${rows} rows`, async () => {
    await compare((w) => ({ weight: w, dense: w }), rows);
  });
  gpuTest(`a quantized linear layer with a bias that trains, ${rows} rows`, async () => {
    await compare((w) => {
      const weight = quantize(w);
      return { weight, dense: dequantize(weight) };
    }, rows);
  });
}
