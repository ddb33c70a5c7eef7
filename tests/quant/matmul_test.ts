import assert from "node:assert/strict";
import { gpu, openGpu } from "../../lib/gpu/mod.ts";
import {
  chooseQuantized,
  dequantizeOracle,
  matmulQuantized,
  quantize,
  type QuantizedKernel,
  type QuantizedTensor,
  type QuantizeOptions,
  toQuantState,
} from "../../lib/quant/mod.ts";
import { quantizedFits, tunedQuantized } from "../../lib/quant/matmul.ts";
import { empty, tensor } from "../../lib/tensor/tensor.ts";
import { vectorLanes } from "../../lib/tensor/ops/matmul_texture.ts";
import { EPS, gpuTest, randoms, refused } from "../gpu_helper.ts";
import { warmDevice } from "../model/tiny.ts";

await warmDevice();

const KERNELS: readonly QuantizedKernel[] = ["scratch", "tile16x64", "tile32", "tile64", "texture"];
const LAYOUTS = ["nt", "nn"] as const;

interface Case extends QuantizeOptions {
  layout: "nt" | "nn";
  /** `[out, in]` of the weight. */
  shape: readonly [number, number];
  rows: number;
  alpha?: number;
  accumulate?: boolean;
  /** Changes the weight behind the oracle's back. */
  spoil?: (q: QuantizedTensor) => Promise<void>;
}

/** What is wrong with a way's result, or undefined; every way that takes the weight, or the one asked for. */
async function off(c: Case, kernels = KERNELS): Promise<string | undefined> {
  const { layout, shape: [n, k], rows, alpha = 1, accumulate = false } = c;
  const [wide, across] = layout === "nt" ? [k, n] : [n, k];
  const xs = randoms(rows * wide, 1), before = randoms(rows * across, 2);
  using weight = tensor(randoms(n * k, 3), [n, k]);
  using q = quantize(weight, c);
  const w = dequantizeOracle(await toQuantState(q));
  await c.spoil?.(q);
  using x = tensor(xs, [rows, wide]);
  const want = new Float64Array(rows * across), bound = new Float64Array(rows * across);
  for (let m = 0; m < rows; m++) {
    for (let j = 0; j < across; j++) {
      let sum = 0, size = 0;
      for (let i = 0; i < wide; i++) {
        const term = xs[m * wide + i]! * w[layout === "nt" ? j * k + i : i * k + j]!;
        sum += term;
        size += Math.abs(term);
      }
      const at = m * across + j;
      want[at] = alpha * sum + (accumulate ? before[at]! : 0);
      // the sum rounds once a term in any order (Higham 2002, eq. 3.5), a weight 4 times where its scale is nested too;
      // two roundings more for alpha and y
      bound[at] = EPS *
        ((wide + 6) * Math.abs(alpha) * size + 2 * Math.abs(want[at]!) + (accumulate ? 1 : 0));
    }
  }
  for (const kernel of kernels) {
    if (!quantizedFits(kernel, layout, q, gpu())) continue;
    using y = tensor(before, [rows, across]);
    matmulQuantized({ layout, x, q, y, kernel, ...(c.accumulate ? { accumulate } : {}), alpha });
    const got = await y.data();
    for (let i = 0; i < got.length; i++) {
      if (!(Math.abs(got[i]! - want[i]!) <= bound[i]!)) {
        return `${kernel} ${JSON.stringify(c)} at ${i}: ${got[i]} for ${want[i]}, bound ${bound[i]}`;
      }
    }
  }
  return undefined;
}

// rows and columns that fill no tile, and those that fill it; the widest row has two blocks of 64 words
const SHAPES = [[64, 64, 8], [96, 128, 33], [100, 72, 5], [52, 36, 17], [8, 192, 70], [136, 320, 13], [
  4,
  4,
  1,
], [
  264,
  1088,
  3,
]] as const;

for (const layout of LAYOUTS) {
  gpuTest(`4-bit product ${layout}: every shape and way against a double sum`, async () => {
    for (const [n, k, rows] of SHAPES) {
      assert.equal(await off({ layout, shape: [n, k], rows }), undefined);
    }
    assert.equal(await off({ layout, shape: [93, 41], rows: 6 }), undefined, "only through a scratch");
  });
  gpuTest(`4-bit product ${layout}: every type, block and way of scales`, async () => {
    // blocks that begin within rows: 192 is no multiple of most of them
    const c = { layout, shape: [72, 192], rows: 9 } as const,
      kernels = ["scratch", "tile32", "texture"] as const;
    for (const [i, blocksize] of [32, 64, 128, 256, 512, 1024, 2048, 4096].entries()) {
      assert.equal(await off({ ...c, blocksize, doubleQuant: i % 2 === 0 }, kernels), undefined);
    }
    for (const quantType of ["nf4", "fp4", "int4"] as const) {
      const nested = quantType === "nf4" || quantType === "int4";
      assert.equal(await off({ ...c, quantType, doubleQuant: nested }, kernels), undefined);
    }
  });
  gpuTest(`4-bit product ${layout}: alpha and accumulate`, async () => {
    for (const [n, k, rows] of [[96, 128, 33], [40, 64, 7]] as const) {
      assert.equal(await off({ layout, shape: [n, k], rows, alpha: -0.75, accumulate: true }), undefined);
      assert.equal(await off({ layout, shape: [n, k], rows, alpha: 2 }), undefined);
    }
  });
  Deno.test(`4-bit product ${layout}: operands larger than a binding`, async () => {
    // 128 rows of the weight a range, and 128 of x
    const small = await openGpu({ maxBinding: 128 * 64 });
    const c = { layout, shape: [264, 128], accumulate: true, alpha: 0.5 } as const;
    const kernels = ["scratch", "tile32", "texture"] as const;
    assert.equal(await off({ ...c, rows: 5, doubleQuant: false }, kernels), undefined);
    assert.equal(await off({ ...c, rows: 150, doubleQuant: true }, kernels), undefined);
    small.close();
    await warmDevice();
  });
  gpuTest(
    `4-bit product ${layout}: with a product of a low rank, and its dropout, as through a scratch`,
    async () => {
      const rows = 33, R = 4, [wide, across] = layout === "nt" ? [128, 96] : [96, 128];
      using q = weightOf(96, 128);
      using x = tensor(randoms(rows * wide, 1), [rows, wide]);
      using lowX = tensor(randoms(rows * R, 2), [rows, R]);
      using lowW = tensor(randoms(across * R, 3), layout === "nt" ? [across, R] : [R, across]);
      for (const drop of layout === "nt" ? [undefined] : [undefined, { rate: 0.5, seed: 7 }]) {
        const low = { x: lowX, w: lowW, alpha: 0.5, drop };
        const through = async (kernel: QuantizedKernel, more = {}) => {
          using y = empty([rows, across]);
          matmulQuantized({ layout, x, q, y, kernel, ...more });
          return await y.data();
        };
        const want = await through("scratch", { low }), bare = await through("scratch");
        // the scratch's own: the bare product and the low rank by hand
        const [xs, ws] = [await lowX.data(), await lowW.data()];
        let dropped = 0;
        want.forEach((v, at) => {
          const m = Math.floor(at / across), n = at % across;
          let sum = 0;
          for (let r = 0; r < R; r++) {
            sum += 0.5 * xs[m * R + r]! * ws[layout === "nt" ? n * R + r : r * across + n]!;
          }
          if (Math.abs(sum) <= 1e-3) return; // too small to tell
          const isDropped = drop !== undefined && Math.abs(v - bare[at]!) < 1e-4;
          dropped += Number(isDropped);
          if (!isDropped) {
            assert.ok(Math.abs(v - bare[at]! - (drop ? 2 : 1) * sum) <= 1e-4, `scratch at ${at}`);
          }
        });
        const share = dropped / want.length;
        assert.ok(drop ? share > 0.4 && share < 0.6 : share === 0, `${share} dropped`);
        for (const kernel of KERNELS) {
          if (!quantizedFits(kernel, layout, q, gpu())) {
            continue;
          }
          const got = await through(kernel, { low });
          // as many roundings of terms below 1, in two orders
          const bound = 2 * (wide + 8) * wide * EPS;
          got.forEach((v, at) =>
            assert.ok(Math.abs(v - want[at]!) <= bound, `${kernel} at ${at}: ${v} for ${want[at]}`)
          );
        }
      }
    },
  );
  gpuTest(`4-bit product ${layout}: a weight larger than the scratch`, async () => {
    assert.equal(
      await off({ layout, shape: [2112, 2048], rows: 2, accumulate: true }, ["scratch"]),
      undefined,
    );
    assert.equal(await off({ layout, shape: [2112, 2048], rows: 2, alpha: 0.5 }, ["scratch"]), undefined);
  });
  gpuTest(`4-bit product ${layout}: the check catches scales that are one block off`, async () => {
    for (const doubleQuant of [true, false]) {
      const c = { layout, shape: [64, 128], rows: 9, doubleQuant } as const;
      for (const kernel of KERNELS) {
        if (kernel === "texture" && vectorLanes(gpu()) !== 8) continue;
        const problem = await off({ ...c, spoil: shiftScales }, [kernel]);
        assert.match(problem ?? "", new RegExp(`^${kernel} .* at \\d+:`));
      }
    }
  });
}

/** Gives each block the scale of the one before. */
async function shiftScales(q: QuantizedTensor): Promise<void> {
  const { buffer, offset, bytes } = q.absmax;
  const [read] = await gpu().stream.read([{ buffer, offset, bytes }]);
  const scales = q.nested ? new Uint8Array(read!) : new Uint32Array(read!);
  scales.copyWithin(1, 0);
  q.absmax.write(new Uint32Array(read!));
}

function weightOf(rows: number, columns: number): QuantizedTensor {
  using w = tensor(randoms(rows * columns, 1), [rows, columns]);
  return quantize(w);
}

const CASES = { few: 16, some: 256, many: 257 } as const;

gpuTest("the rule goes by rows, shape and adapter, and a measured choice before it where it fits", () => {
  using even = weightOf(64, 2048);
  using odd = weightOf(93, 41);
  const features = { ...gpu().features, subgroups: true };
  const llvmpipe = { name: "llvmpipe (LLVM 15.0.6, 256 bits)", features };
  const card = { name: "Some GPU", features };
  const rule = (layout: "nt" | "nn", rows: number, target: typeof card, q = even) =>
    chooseQuantized({ layout, q, x: { rows } }, target);
  assert.deepEqual(Object.values(CASES).map((rows) => rule("nt", rows, card)), [
    "tile16x64",
    "tile32",
    "scratch",
  ]);
  assert.equal(rule("nn", 256, card), "tile64", "32 tiles across, 4 down");
  assert.equal(rule("nt", 16, card, odd), "scratch", "rows that begin within quads");
  for (const [layout, most] of [["nt", 64], ["nn", 128]] as const) {
    const ways = [8, most, most + 1].map((rows) => rule(layout, rows, llvmpipe));
    assert.deepEqual(ways, ["texture", "texture", "scratch"]);
  }
  assert.equal(rule("nn", 8, llvmpipe, odd), "scratch");
  assert.equal(rule("nt", 8, { ...card, name: "llvmpipe (LLVM 15.0.6, 128 bits)" }), "scratch");
  const shader = { ...card, name: "SwiftShader Device (Subzero)" };
  assert.deepEqual([16, 17, 512].map((rows) => rule("nt", rows, shader)), ["tile16x64", "tile64", "tile64"]);
  const choices = new Map([["matmul_4bit.nt.many", "tile64"], ["matmul_4bit.nt.few", "texture"]]);
  const tuned = (rows: number, q: QuantizedTensor, target = card) =>
    tunedQuantized({ layout: "nt", q, x: { rows } }, { ...target, choices });
  assert.equal(tuned(300, even), "tile64");
  assert.equal(tuned(300, odd), undefined, "the rule decides for what does not fit");
  assert.equal(tuned(20, even), undefined, "nothing was measured");
  assert.deepEqual([tuned(8, even), tuned(8, even, llvmpipe)], [undefined, "texture"]);
});

gpuTest("shapes that do not fit are refused", () => {
  using q = weightOf(64, 32);
  using x = empty([3, 64]);
  using y = empty([3, 32]);
  refused(() => matmulQuantized({ layout: "nt", x, q, y }), "tensor/shape", /matmul nt: x f32 \[3,64\]/);
  refused(() => matmulQuantized({ layout: "nn", x: y, q, y: x }), "tensor/shape", /matmul nn/);
  refused(() => matmulQuantized({ layout: "nn", x, q, y: x }), "tensor/shape", /do not fit/);
});
