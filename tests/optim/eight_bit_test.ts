import assert from "node:assert/strict";
import { gpu } from "../../lib/gpu/mod.ts";
import { createOptimizer, createParameterPages, type ParameterSpec } from "../../lib/optim/mod.ts";
import { dynamicMap, mapThresholds, quantize8bit } from "../../lib/quant/mod.ts";
import { asOnGpu, gpuTest, randoms } from "../gpu_helper.ts";
import { stateOf, threeSteps } from "./reference_helper.ts";

/** With both rates 0 the moments are the gradient and its square, so their codes are those of plain quantization. */
async function encoded(g: Float32Array<ArrayBuffer>) {
  const pages = createParameterPages([{ name: "w", shape: [g.length], decay: false }], "adapter");
  const optimizer = createOptimizer(pages, {
    optim: "adamw_8bit",
    adam_beta1: 0,
    adam_beta2: 0,
    max_grad_norm: 0,
  });
  pages.tensors.get("w")!.grad!.write(g);
  await optimizer.step({ lr: 1e-3, step: 1, gradScale: 1 });
  const state = await stateOf({ optimizer });
  const w = await pages.tensors.get("w")!.data();
  optimizer.dispose();
  pages.dispose();
  return {
    ...{
      w,
      first: state.get("state1.0")!.subarray(0, g.length),
      second: state.get("state2.0")!.subarray(0, g.length),
    },
    absmax: new Float32Array(state.get("absmax1.0")!.buffer),
  };
}

/** The f32 numbers next below and above, and the number itself. */
function around(x: number): number[] {
  const bits = new Uint32Array(Float32Array.of(x).buffer)[0]!;
  return [-1, 0, 1].map((k) => new Float32Array(Uint32Array.of(bits + k).buffer)[0]!);
}

gpuTest(
  "8-bit state: numbers on, just below and just above every border of both maps get the oracle's codes",
  async () => {
    const signed = dynamicMap(true), unsigned = dynamicMap(false);
    const borders = [...mapThresholds(signed)].flatMap(around);
    const roots = [...mapThresholds(unsigned)].flatMap((t) => around(Math.sqrt(t)));
    const values = [...signed].flatMap((v) => v === 0 ? [0] : around(v)), noise = [...randoms(2000, 5)];
    const all = [...borders, ...roots, ...values.filter((v) => Math.abs(v) <= 1), ...noise];
    // every block begins with 1, so that its scale is 1 and nothing is rounded before it is encoded
    const g = Float32Array.from(
      { length: Math.ceil(all.length / 255) * 256 },
      (_, i) => i % 256 === 0 ? 1 : all[Math.floor(i / 256) * 255 + i % 256 - 1] ?? 0,
    );
    const got = await encoded(g);
    assert.deepEqual(got.first, quantize8bit(g, signed, 256).codes);
    assert.deepEqual(got.second, quantize8bit(g.map((x) => x * x), unsigned, 256).codes);
    assert.ok(new Set(got.first).size === 256 && new Set(got.second).size === 256, "every code occurs");
    const moved = got.first.map((code, i) => i % 2 ? code : Math.max(0, code - 1)); // what the comparison must notice
    assert.notDeepEqual(moved, quantize8bit(g, signed, 256).codes);
  },
);

gpuTest("8-bit state: blocks of zeros, of subnormal numbers, and a last block of one element", async () => {
  const g = new Float32Array(4097);
  g.fill(1e-42, 256, 512); // subnormal: they count as zero on every device
  g.fill(3e-20, 512, 768); // the squares are subnormal, the numbers are not
  g[4096] = -2;
  const { first, second, absmax, w } = await encoded(g);
  assert.ok(first.subarray(0, 512).every((c) => c === 0) && second.subarray(0, 768).every((c) => c === 0));
  assert.deepEqual([...absmax.subarray(0, 3), absmax[16]], [0, 0, Math.fround(3e-20), 2]);
  assert.ok(first.subarray(512, 768).every((c) => c === 255));
  assert.deepEqual([first[4096], second[4096]], [0, 255], "-1 is nearest to the signed map's first value");
  assert.ok(w.every(Number.isFinite) && w[4096]! > 0 && w[0] === 0);
});

gpuTest(
  "8-bit state: small parameters and embeddings keep 32 bits, and no block spans two parameters",
  async () => {
    const specs: ParameterSpec[] = [
      { name: "a", shape: [4097], decay: true },
      { name: "b", shape: [4096], decay: true },
      { name: "below", shape: [4095], decay: true },
      { name: "embed", shape: [8, 1024], decay: true, optim_bits: 32 },
    ];
    const run = async (own: ParameterSpec[]) => {
      const pages = createParameterPages(own, "adapter");
      const optimizer = createOptimizer(pages, { optim: "adamw_8bit", max_grad_norm: 0 });
      for (let step = 1; step <= 3; step++) {
        own.forEach((s) =>
          pages.tensors.get(s.name)!.grad!.write(
            randoms(pages.tensors.get(s.name)!.size, step + 10 * specs.indexOf(s)),
          )
        );
        await optimizer.step({ lr: 1e-2, step, gradScale: 1 });
      }
      const values = await Promise.all(own.map((s) => pages.tensors.get(s.name)!.data()));
      const names = [...(await stateOf({ optimizer })).keys()];
      const starts = pages.pages.flatMap((p) => p.quantizable ? p.parameters.map((q) => q.start % 256) : []);
      optimizer.dispose();
      pages.dispose();
      return { values, names, starts };
    };
    const together = await run(specs);
    assert.deepEqual(together.names.filter((n) => n !== "metrics"), [
      ...["state1.0", "absmax1.0", "state2.0", "absmax2.0", "exp_avg.1", "exp_avg_sq.1"],
    ]);
    assert.deepEqual(together.starts, [0, 0]);
    for (let i = 0; i < specs.length; i++) {
      assert.deepEqual((await run([specs[i]!])).values[0], together.values[i], `${specs[i]!.name} alone`);
    }
  },
);

for (const optim of ["adamw_bnb_8bit", "lion_8bit"]) {
  gpuTest(`8-bit state: the workgroups of a GPU give ${optim} the bits of a processor's`, async () => {
    const here = await threeSteps(optim), compiled = gpu().kernels.compiled();
    const there = await asOnGpu(() => threeSteps(optim));
    assert.ok(gpu().kernels.compiled() > compiled, "another kernel ran");
    assert.deepEqual(there, here);
  });
}
