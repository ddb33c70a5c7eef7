import assert from "node:assert/strict";
import { gpu, openGpu } from "../../lib/gpu/mod.ts";
import { vectorLanes } from "../../lib/tensor/ops/matmul_texture.ts";
import { rmsNorm } from "../../lib/tensor/ops/rms_norm.ts";
import { differentiate } from "../../lib/tensor/tape.ts";
import { scope, tensor } from "../../lib/tensor/tensor.ts";
import { asOnGpu, EPS, gpuTest, randoms } from "../gpu_helper.ts";

// operands of 2^18 bytes and more, and columns that are no multiple of eight texels
const rows = 130, columns = 516, eps = 1e-5, plus = 1;

/**
 * The definition in f64 and how far f32 may stray: r by half the error of a sum of C squares, (C / 2 + 4) eps, a product
 * of three terms with r by (C / 2 + 8) eps; the mean in dx, which r^2 scales, by (2 C + 16) eps of its absolute terms.
 */
function oracle(x: Float32Array, w: Float32Array, dy: Float32Array) {
  const y = new Float64Array(x.length), dx = new Float64Array(x.length);
  const bound = { y: new Float64Array(x.length), dx: new Float64Array(x.length) };
  const near = (columns / 2 + 8) * EPS, far = (2 * columns + 16) * EPS;
  for (let base = 0; base < x.length; base += columns) {
    const over = (f: (i: number, c: number) => number) => {
      let sum = 0;
      for (let c = 0; c < columns; c++) sum += f(base + c, c);
      return sum / columns;
    };
    const r = 1 / Math.sqrt(over((i) => x[i]! ** 2) + eps);
    const mean = r * r * over((i, c) => dy[i]! * (w[c]! + plus) * x[i]!);
    const size = r * r * over((i, c) => Math.abs(dy[i]! * (w[c]! + plus) * x[i]!));
    for (let c = 0; c < columns; c++) {
      const i = base + c, g = dy[i]! * (w[c]! + plus);
      y[i] = x[i]! * r * (w[c]! + plus);
      dx[i] = r * (g - x[i]! * mean);
      bound.y[i] = near * Math.abs(y[i]!);
      bound.dx[i] = r * (near * Math.abs(g) + far * Math.abs(x[i]!) * size);
    }
  }
  return { y, dx, bound };
}

async function compare(): Promise<void> {
  const data = [randoms(rows * columns, 1), randoms(columns, 2), randoms(rows * columns, 3)] as const;
  const want = oracle(...data);
  const { output, gradients } = scope(() => {
    const x = tensor(data[0], [rows, columns]), w = tensor(data[1], [columns]);
    x.requiresGrad = true;
    return differentiate(() => rmsNorm(x, w, eps, plus), tensor(data[2], [rows, columns]), [x]);
  });
  const got = { y: await output.data(), dx: await gradients[0]!.data() };
  output.dispose();
  gradients[0]!.dispose();
  for (const name of ["y", "dx"] as const) {
    got[name].forEach((v, i) => {
      const error = Math.abs(v - want[name][i]!);
      assert.ok(error <= want.bound[name][i]!, `${name}[${i}]: error ${error}, bound ${want.bound[name][i]}`);
    });
  }
}

gpuTest("rmsNorm: many rows, as computed here and as on a GPU", async () => {
  await compare();
  await asOnGpu(compare);
});

gpuTest("rmsNorm: kernels that are broken in one place do not pass", async () => {
  const { kernels } = await openGpu(), { launch } = kernels;
  const broken = vectorLanes(gpu()) > 0
    ? [["c < p.columns", "c + 1u < p.columns"], ["- textureLoad(x, at) * mean", "- mean"]]
    : [["c < p.columns", "c + 1u < p.columns"], ["- x[base + c] * mean", "- mean"]];
  for (const [right, wrong] of broken as [string, string][]) {
    kernels.launch = (k, options) => {
      assert.ok(k.source.includes(right), `${k.name} no longer has the text that this test changes`);
      launch({ ...k, name: `${k.name} ${wrong}`, source: k.source.replaceAll(right, wrong) }, options);
    };
    try {
      await assert.rejects(compare(), /bound/, wrong);
    } finally {
      kernels.launch = launch;
    }
  }
});
