import assert from "node:assert/strict";
import { openGpu } from "../../lib/gpu/mod.ts";
import { dropoutOnly } from "../../lib/tensor/ops/dropout.ts";
import {
  matmulInto,
  type MatmulKernel,
  type MatmulLayout,
  type MatmulOptions,
} from "../../lib/tensor/ops/matmul_kernel.ts";
import { numbers } from "../../lib/tensor/ops/matmul_tuning.ts";
import { empty, type Tensor, tensor } from "../../lib/tensor/tensor.ts";

interface Case {
  layout: MatmulLayout;
  M: number;
  N: number;
  K: number;
  accumulate?: boolean;
  kernel?: MatmulKernel;
  /** Dropout of an operand. */
  operand?: "x" | "w";
  /** A product of this rank beside. */
  rank?: number;
  /** With dropout of that product. */
  masked?: boolean;
}

const RATE = 0.3, SEED = 7, LOW = 0.5;

/** Numbers times a mask of dropout, drawn by the kernel that tests/tensor/operations_test.ts holds to its formula. */
async function masked(values: Float32Array<ArrayBuffer>, shape: number[], seed: number) {
  using t = tensor(values, shape);
  using y = dropoutOnly(t, RATE, seed);
  return await y.data();
}

/** Elements of `[M, N]`, each with the sum of its terms' sizes; rows in steps, so that large cases take no minute. */
function* sums(c: Case, x: Float32Array, w: Float32Array, K: number) {
  const { layout, M, N } = c, step = M > 200 ? 61 : 1;
  for (let m = 0; m < M; m += step) {
    for (let n = 0; n < N; n++) {
      let sum = 0, size = 0;
      for (let k = 0; k < K; k++) {
        const term = x[layout === "tn" ? k * M + m : m * K + k]! *
          w[layout === "nt" ? n * K + k : k * N + n]!;
        sum += term;
        size += Math.abs(term);
      }
      yield { at: m * N + n, sum, size };
    }
  }
}

/** The largest error over its bound; `seed` draws the mask that is expected, `factor` is the low rank's. */
async function error(c: Case, { seed = SEED, factor = LOW } = {}): Promise<number> {
  const { layout, M, N, K, accumulate = false, operand, rank, kernel } = c;
  const xs = numbers(M * K, 1), ws = numbers(N * K, 2), ys = numbers(M * N, 3);
  const xShape = layout === "tn" ? [K, M] : [M, K], wShape = layout === "nt" ? [N, K] : [K, N];
  const made: Tensor[] = [];
  const put = (values: Float32Array<ArrayBuffer>, shape: number[]) =>
    made[made.push(tensor(values, shape)) - 1]!;
  const y = put(ys, [M, N]);
  const options: MatmulOptions = { layout, x: put(xs, xShape), w: put(ws, wShape), y, accumulate };
  if (kernel) options.kernel = kernel;
  if (operand) options.drop = { operand, rate: RATE, seed: SEED };
  const hs = numbers(M * (rank ?? 0), 4), us = numbers(N * (rank ?? 0), 5);
  if (rank) {
    options.low = { x: put(hs, [M, rank]), w: put(us, layout === "nt" ? [N, rank] : [rank, N]), alpha: LOW };
    if (c.masked) options.low.drop = { rate: RATE, seed: SEED };
  }
  matmulInto(options);
  const got = await y.data();
  for (const t of made) t.dispose();

  const x = operand === "x" ? await masked(xs, xShape, seed) : xs;
  const w = operand === "w" ? await masked(ws, wShape, seed) : ws;
  const mask = c.masked ? await masked(new Float32Array(M * N).fill(1), [M, N], seed) : undefined;
  const low = new Map<number, { sum: number; size: number }>();
  if (rank) { for (const { at, sum, size } of sums(c, hs, us, rank)) low.set(at, { sum, size }); }
  let most = 0;
  for (const { at, sum, size } of sums(c, x, w, K)) {
    const more = low.get(at) ?? { sum: 0, size: 0 };
    const share = factor * (mask?.[at] ?? 1), before = accumulate ? ys[at]! : 0;
    const want = sum + share * more.sum + before;
    // as in matmul_kernel_test.ts: K and R terms in any order, a rounding each of factor, mask and the two sums
    const terms = K + (rank ?? 0) + 4;
    const bound = 2 ** -24 * (terms * (size + share * more.size) + Math.abs(want) + Math.abs(before));
    const off = Math.abs(got[at]! - want);
    most = Math.max(most, Number.isNaN(off) ? Infinity : off / bound);
  }
  return most;
}

/** Tiles for GPUs that take a low rank along. */
const TILED = ["tile32", "tile64x16", "quad32", "quad64"] as const;

const CASES: Case[] = [
  // x of few columns of y, w of few rows: what an adapter's A and its gradient are
  { layout: "nt", M: 200, N: 16, K: 96, operand: "x" },
  { layout: "nt", M: 129, N: 64, K: 100, operand: "x" },
  { layout: "nn", M: 90, N: 8, K: 128, operand: "x" },
  { layout: "tn", M: 16, N: 96, K: 77, operand: "w", accumulate: true },
  { layout: "tn", M: 64, N: 300, K: 50, operand: "w" },
  // the operand that no kernel masks, and numbers of columns that fill no texels
  { layout: "nt", M: 200, N: 16, K: 96, operand: "w" },
  { layout: "tn", M: 16, N: 96, K: 77, operand: "x" },
  { layout: "nt", M: 40, N: 10, K: 93, operand: "x" },
  { layout: "nt", M: 70, N: 96, K: 64, rank: 16 },
  { layout: "nt", M: 70, N: 96, K: 64, rank: 16, accumulate: true },
  { layout: "nn", M: 70, N: 96, K: 64, rank: 4, masked: true },
  { layout: "nn", M: 33, N: 172, K: 60, rank: 64, masked: true },
  { layout: "nn", M: 70, N: 96, K: 64, rank: 6, masked: true },
  { layout: "nt", M: 37, N: 93, K: 61, rank: 5 },
  { layout: "nt", M: 70, N: 96, K: 64, rank: 16, masked: true, operand: "x", kernel: "strided" },
  ...TILED.flatMap((kernel): Case[] => [
    { layout: "nt", M: 70, N: 92, K: 68, rank: 20, kernel },
    { layout: "nn", M: 70, N: 92, K: 68, rank: 16, masked: true, kernel },
  ]),
  { layout: "nn", M: 37, N: 93, K: 61, rank: 5, masked: true, kernel: "tile32" },
  // operands of more than 16 MiB, which llvmpipe takes in ranges: masks go on where the range before ended
  { layout: "nt", M: 1900, N: 16, K: 2304, operand: "x" },
  { layout: "tn", M: 16, N: 2304, K: 1900, operand: "w" },
  { layout: "nn", M: 1900, N: 68, K: 2304, rank: 8, masked: true },
];

for (const c of CASES) {
  Deno.test(`matmul with dropout and a low rank: ${JSON.stringify(c)}`, async () => {
    await openGpu();
    const most = await error(c);
    assert.ok(most <= 1, `${most} times what rounding may do`);
    if (c.operand || c.masked) {
      assert.ok(
        await error(c, { seed: SEED + 1 }) > 1,
        "the same comparison fails where another mask is expected",
      );
    }
    if (c.rank) assert.ok(await error(c, { factor: 2 * LOW }) > 1, "and where another factor is");
  });
}

Deno.test("matmul: the tiles take a low rank along in the launch of the product itself", async () => {
  const { stream } = await openGpu();
  for (const kernel of TILED) {
    const before = stream.counters().dispatches;
    await error({ layout: "nn", M: 70, N: 92, K: 68, rank: 16, masked: true, kernel });
    // one more draws the mask of the oracle
    assert.equal(stream.counters().dispatches - before, 2, kernel);
  }
});

Deno.test("matmul: a low rank that does not fit is refused", async () => {
  await openGpu();
  const [x, w, y, h, u] = [[4, 8], [12, 8], [4, 12], [4, 2], [12, 3]].map((shape) => empty(shape)) as [
    Tensor,
    Tensor,
    Tensor,
    Tensor,
    Tensor,
  ];
  const low = { x: h, w: u, alpha: 1 };
  assert.throws(() => matmulInto({ layout: "nt", x, w, y, low }), /low rank: x \[4,2\] and w \[12,3\]/);
  for (const t of [x, w, y, h, u]) t.dispose();
});
