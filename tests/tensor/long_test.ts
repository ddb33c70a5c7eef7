/**
 * What is longer than a loop of llvmpipe may be, or larger than what goes through a texture at once: sums of ones and
 * the like, whose results are known without an oracle.
 */
import assert from "node:assert/strict";
import { gpu } from "../../lib/gpu/mod.ts";
import { matmulQuantized, quantize } from "../../lib/quant/mod.ts";
import { checkRounds, mostRounds, rowLanes } from "../../lib/tensor/grid.ts";
import { attention, type AttentionTiling } from "../../lib/tensor/ops/attention.ts";
import { linearCrossEntropy } from "../../lib/tensor/ops/cross_entropy.ts";
import { matmulInto } from "../../lib/tensor/ops/matmul_kernel.ts";
import { columnSum, mean } from "../../lib/tensor/ops/reduce.ts";
import { softmax } from "../../lib/tensor/ops/softmax.ts";
import { differentiate } from "../../lib/tensor/tape.ts";
import { empty, scope, type Tensor, tensor, zeros } from "../../lib/tensor/tensor.ts";
import { assertClose, EPS, gpuTest, refused } from "../gpu_helper.ts";
import { warmDevice } from "../model/tiny.ts";

await warmDevice();

const filled = (shape: number[], value: number) =>
  tensor(new Float32Array(shape.reduce((a, b) => a * b, 1)).fill(value), shape);

gpuTest("rounds: rows are shared by as many as it takes, and what none can do is refused", () => {
  const { name } = gpu();
  const as = (other: string, work: () => void) => {
    Object.assign(gpu(), { name: other });
    try {
      work();
    } finally {
      Object.assign(gpu(), { name });
    }
  };
  as("llvmpipe (LLVM 15.0.6, 256 bits)", () => {
    assert.deepEqual([1, 480_000, 480_001, 3_840_001].map(rowLanes), [8, 8, 64, 256]);
    refused(
      () => rowLanes(256 * mostRounds() + 1),
      "tensor/rounds",
      /60001 rounds.*leaves a loop.*max_length/s,
    );
  });
  as("SwiftShader", () => assert.equal(rowLanes(1e9), 8));
  as("a GPU, by its name", () => {
    assert.equal(rowLanes(1e9), 64);
    checkRounds("anything", 1e9);
  });
});

/** What is computed in a scope of its own, read back. */
async function read(compute: () => Tensor[]): Promise<Float32Array[]> {
  const made = scope(compute), data = [];
  for (const t of made) data.push(await t.data());
  made.forEach((t) => t.dispose());
  return data;
}

gpuTest("sums of more elements than a loop takes", async () => {
  const [average, columns, long] = await read(() => [
    mean(filled([5_000_000], 1)),
    columnSum(filled([70_000, 2], 1)),
    softmax(filled([1, 200_000], 3)),
  ]);
  assertClose(average!, [1], 30 * EPS, "mean");
  assert.deepEqual([...columns!], [70_000, 70_000]);
  // 8 or 64 lanes add up to 25,000 terms each
  assertClose(long!, new Float32Array(200_000).fill(1 / 200_000), 25_000 * EPS / 200_000, "softmax");
});

gpuTest("a vocabulary that takes more rounds than a loop has: loss and gradients", async () => {
  const V = 176_000, C = 4;
  const [stats, dw] = await read(() => {
    const x = filled([2, C], 0.5), w = zeros([V, C]);
    x.requiresGrad = w.requiresGrad = true;
    const { output, gradients } = differentiate(
      () => linearCrossEntropy(x, w, Int32Array.of(7, -100)).stats,
      undefined,
      [w],
    );
    return [output, gradients[0]!];
  });
  // equal logits: the loss is ln V, the gradient of w is (1 / V - [v = label]) x
  assertClose([stats![0]!], [Math.log(V)], 1e-5, "loss");
  const label = (i: number) => Math.floor(i / C) === 7 ? 1 : 0;
  assertClose(dw!, Float32Array.from({ length: V * C }, (_, i) => 0.5 * (1 / V - label(i))), 1e-6, "dw");
});

const BUFFERS: AttentionTiling = { ROWS: 1, ROW_LANES: 8, HEAD_LANES: 1, STEP: 1 };
for (const tiling of [undefined, BUFFERS]) {
  const how = tiling ? "on buffers" : "as the adapter has it";
  gpuTest(`attention: dK and dV of more query heads and rows than a loop takes, ${how}`, async () => {
    const heads = 240, headDim = 4, time = 600;
    const [dk, dv] = await read(() => {
      const q = zeros([time, heads * headDim]), k = zeros([time, headDim]), v = zeros([time, headDim]);
      for (const t of [q, k, v]) t.requiresGrad = true;
      const segments = tensor(new Uint32Array(time).fill(1), [time]);
      return differentiate(
        () => attention({ q, k, v, segments, batch: 1, time, heads, kvHeads: 1, headDim, tiling }),
        filled([time, heads * headDim], 1),
        [k, v],
      ).gradients as Tensor[];
    });
    // all see all before them alike: position j gets 1 / (i + 1) of each i at or after it, from each head
    const want = new Float32Array(time * headDim);
    for (let j = time - 1, sum = 0; j >= 0; j--) {
      sum += 1 / (j + 1);
      want.fill(heads * sum, j * headDim, (j + 1) * headDim);
    }
    assertClose(dv!, want, heads * time * EPS * 7, "dv: 144,000 terms, 7 together from a head");
    assertClose(dk!, new Float32Array(want.length), heads * time * EPS, "dk");
  });
}

gpuTest(
  "products: a depth beyond a loop's rounds, and operands cut where rows are no whole texels",
  async () => {
    const [deep, wide, y] = await read(() => {
      const deep = empty([1, 9]), wide = empty([1, 1025]), y = filled([4099, 1100], 1);
      matmulInto({ layout: "nn", x: filled([1, 70_000], 1), w: filled([70_000, 9], 1), y: deep });
      matmulInto({ layout: "nn", x: filled([1, 5001], 1), w: filled([5001, 1025], 1), y: wide }); // w: over 16 MiB
      const x = tensor(Float32Array.from({ length: 2 * 4099 }, (_, i) => i % 4099), [2, 4099]);
      matmulInto({ layout: "tn", x, w: filled([2, 1100], 1), y, accumulate: true }); // y, which is read: over 16 MiB
      return [deep, wide, y];
    });
    assert.deepEqual([[...new Set(deep!)], [...new Set(wide!)]], [[70_000], [5001]]);
    const wrong = y!.findIndex((value, i) => value !== 1 + 2 * Math.floor(i / 1100));
    assert.equal(wrong, -1, `y[${Math.floor(wrong / 1100)}, ${wrong % 1100}] is ${y![wrong]}`);
  },
);

for (const rank of [1, 6, 8]) {
  gpuTest(`a weight that is decoded in parts takes an adapter of rank ${rank} along`, async () => {
    const [out, into, rows] = [2112, 2048, 65] as const; // over 2^22 numbers, and more rows than are decoded inside
    using whole = filled([out, into], 1), q = quantize(whole, { doubleQuant: false });
    const [y] = await read(() => {
      const y = empty([rows, out]);
      const b = tensor(Float32Array.from({ length: out * rank }, (_, i) => Math.floor(i / rank)), [
        out,
        rank,
      ]);
      const low = { x: filled([rows, rank], 1), w: b, alpha: 0.5 };
      matmulQuantized({ layout: "nt", x: filled([rows, into], 1), q, y, low });
      return [y];
    });
    // whole numbers below 2^24: exact
    const wrong = y!.findIndex((value, i) => value !== into + 0.5 * rank * (i % out));
    assert.equal(wrong, -1, `y[${Math.floor(wrong / out)}, ${wrong % out}] is ${y![wrong]}`);
  });
}
