import assert from "node:assert/strict";
import { bf16ToF32, f16ToF32, f32ToBf16, f32ToF16 } from "../../lib/formats/mod.ts";
import { gpu } from "../../lib/gpu/mod.ts";
import { launchGemv } from "../../lib/tensor/ops/gemv.ts";
import {
  chooseMatmul,
  matmulInto,
  type MatmulKernel,
  type Piece,
} from "../../lib/tensor/ops/matmul_kernel.ts";
import { gemvQuantized, quantize } from "../../lib/quant/mod.ts";
import { product } from "../../lib/tensor/ops/linear.ts";
import { holdTextures, vectorLanes } from "../../lib/tensor/ops/matmul_texture.ts";
import { scope, type Tensor, tensor } from "../../lib/tensor/tensor.ts";
import { warmDevice } from "../model/tiny.ts";
import { gpuTest, randoms } from "../gpu_helper.ts";

await warmDevice();

const TYPES = ["f32", "f16", "bf16"] as const;
type Type = typeof TYPES[number];

/** Numbers as a type holds them. */
function stored(n: number, seed: number, type: Type) {
  const data = randoms(n, seed);
  if (type === "f32") return { data, values: data };
  const bits = type === "f16" ? f32ToF16(data) : f32ToBf16(data);
  return { data: bits, values: type === "f16" ? f16ToF32(bits) : bf16ToF32(bits) };
}

interface Case {
  M: number;
  N: number;
  K: number;
  type: Type;
  alpha?: number;
  accumulate?: boolean;
  /** Columns of the sums that the comparison counts; fewer than K for the control. */
  counted?: number;
}

/** Runs a product and returns the first element that is off by more than rounding explains. */
async function off(c: Case, launch: (x: Tensor, w: Tensor, y: Tensor) => void): Promise<string | undefined> {
  const { M, N, K, type, alpha = 1, accumulate = false, counted = K } = c;
  const xs = randoms(M * K, 1), ys = randoms(M * N, 3), { data, values } = stored(N * K, 2, type);
  const y = scope(() => {
    const y = tensor(ys, [M, N]);
    launch(tensor(xs, [M, K]), tensor(data, [N, K], type), y);
    return y;
  });
  const got = await y.data();
  y.dispose();
  for (let at = 0; at < M * N; at++) {
    const m = Math.floor(at / N), n = at % N;
    let sum = 0, size = 0;
    for (let k = 0; k < counted; k++) {
      const term = xs[m * K + k]! * values[n * K + k]!;
      sum += term;
      size += Math.abs(term);
    }
    const want = alpha * sum + (accumulate ? ys[at]! : 0);
    // |error| <= gamma_K sum |x||w| in any order (Higham 2002, eq. 3.5), and two roundings for alpha and the sum with y
    const bound = 2 ** -24 * ((K + 2) * Math.abs(alpha) * size + 2 * Math.abs(want) + 1);
    if (!(Math.abs(got[at]! - want) <= bound)) {
      return `${JSON.stringify(c)} at [${m}, ${n}]: ${got[at]} for ${want}, bound ${bound}`;
    }
  }
  return undefined;
}

const SHAPES = [[1, 1, 8], [1, 93, 64], [2, 172, 24], [3, 33, 576], [4, 70, 40], [1, 7, 2048]] as const;

gpuTest(
  "textures of base weights are held while that is asked for, give the same products, and go",
  async () => {
    const x = tensor(randoms(576, 1), [1, 576]);
    const base = tensor(randoms(128 * 576, 2), [128, 576], "f32", "base");
    const changing = tensor(randoms(128 * 576, 2), [128, 576], "f32", "adapter");
    const q = quantize(base);
    const live = () => gpu().pool.report().liveBytes;
    const products = async () => {
      const y = scope(() => ({
        dense: product("nt", x, base),
        other: product("nt", x, changing),
        nf4: gemvQuantized(x, q),
      }));
      const read = await Promise.all(Object.values(y).map((t) => t.data()));
      Object.values(y).forEach((t) => t.dispose());
      return read;
    };
    const plain = await products(), before = live();
    {
      using _outer = holdTextures();
      assert.deepEqual(await products(), plain, "made to be held");
      const held = live();
      // 128 rows of 576: in f32 18432 texels, in 4 bits 2304, and 288 of scales; heights are powers of two
      const bytes = 2048 * 16 * (16 + 2 + 1);
      assert.equal(held - before, vectorLanes(gpu()) > 0 ? bytes : 0);
      {
        using _inner = holdTextures();
        assert.deepEqual(await products(), plain, "held");
      }
      assert.equal(live(), held, "the outer holder is still there");
      changing.write(new Float32Array(128 * 576));
      const [dense, other, nf4] = await products();
      assert.deepEqual([dense, nf4], [plain[0], plain[2]]);
      assert.ok(other!.every((v) => v === 0), "what may change is read anew");
    }
    assert.equal(live(), before);
    for (const t of [x, base, changing, q]) t.dispose();
  },
);

gpuTest("gemv: every element type, row count and way to share out the rows", async () => {
  const tilings = [[1, 8, 8], [16, 4, 64], [64, 3, 64], [4, 1, 64]] as const;
  for (const [s, [M, N, K]] of SHAPES.entries()) {
    for (const [i, type] of TYPES.entries()) {
      const [lanes, rows, size] = tilings[(s + i) % 4]!;
      for (const sums of [{}, { alpha: -0.75, accumulate: true }]) {
        const { alpha = 1, accumulate = false } = sums as Partial<Case>;
        const problem = await off({ M, N, K, type, ...sums }, (x, w, y) =>
          launchGemv({
            ...{ layout: "nt", M, N, K, x: x.range, w: w.range, y: y.range },
            ...{ x0: 0, y0: 0, ldx: K, ldw: K, ldy: N, wKind: i as Piece["wKind"], alpha, accumulate },
            ...{ drop: undefined, low: undefined },
          }, { lanes, rows, size }));
        assert.equal(problem, undefined);
      }
    }
  }
});

gpuTest("gemv and gemv_texture are what matmul takes for few rows, up to any size", async () => {
  const lanes = vectorLanes(gpu());
  const chosen = (M: number, N: number, K: number, wKind: 0 | 1) =>
    chooseMatmul({ layout: "nt", M, N, K, wKind, x0: 0, y0: 0, ldx: K, ldw: K, ldy: N } as Piece, lanes);
  assert.equal(chosen(1, 576, 576, 0), lanes > 0 ? "gemv_texture" : "gemv");
  assert.equal(chosen(4, 16, 576, 1), "gemv", "too small for a copy");
  assert.ok(!chosen(5, 576, 576, 0).startsWith("gemv"), "five rows are many");
  assert.ok(!chosen(1, 64, 20, 1).startsWith("gemv"), "rows of 40 bytes do not begin on quads");
  const kernels: MatmulKernel[] = lanes > 0 ? ["gemv", "gemv_texture"] : ["gemv"];
  for (const kernel of kernels) {
    for (const type of TYPES) {
      for (const [M, N, K] of [[3, 92, 64], [1, 172, 40]] as const) {
        for (const sums of [{}, { alpha: 0.5, accumulate: true }]) {
          const problem = await off(
            { M, N, K, type, ...sums },
            (x, w, y) => matmulInto({ layout: "nt", x, w, y, kernel, ...sums }),
          );
          assert.equal(problem, undefined, kernel);
        }
      }
    }
  }
});

gpuTest("few rows times a matrix larger than a binding, columns put in their places", async () => {
  for (const type of TYPES) {
    for (const [M, N, K] of [[1, 700, 64], [3, 900, 32]] as const) {
      const problem = await off({ M, N, K, type }, (x, w, y) => matmulInto({ layout: "nt", x, w, y }));
      assert.equal(problem, undefined);
    }
  }
}, { maxBinding: 128 * 64 * 4 });

gpuTest("gemv: the check catches a column that is left out", async () => {
  const c = { M: 2, N: 33, K: 64, type: "f32", counted: 63 } as const;
  assert.match(
    await off(c, (x, w, y) => matmulInto({ layout: "nt", x, w, y, kernel: "gemv" })) ?? "",
    /at \[0, 0\]/,
  );
});
