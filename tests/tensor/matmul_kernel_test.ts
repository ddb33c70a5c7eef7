import assert from "node:assert/strict";
import { adapterKind, openGpu, rehearse } from "../../lib/gpu/mod.ts";
import { empty, type Tensor, tensor } from "../../lib/tensor/tensor.ts";
import { matmulInto, type MatmulKernel, type MatmulLayout } from "../../lib/tensor/ops/matmul_kernel.ts";
import { deviceHas, isTile, type TileKernel, TILES } from "../../lib/tensor/ops/matmul_tile.ts";
import { vectorLanes } from "../../lib/tensor/ops/matmul_texture.ts";

/** Deterministic numbers in [-1, 1). */
function numbers(n: number, seed: number): Float32Array<ArrayBuffer> {
  let s = seed >>> 0 || 1;
  return Float32Array.from({ length: n }, () => {
    s = (Math.imul(s, 1664525) + 1013904223) >>> 0;
    return s / 2 ** 31 - 1;
  });
}

interface Case {
  layout: MatmulLayout;
  M: number;
  N: number;
  K: number;
  alpha?: number;
  accumulate?: boolean;
  dtype?: "f32" | "f16" | "bf16";
  kernel?: MatmulKernel;
  /** Operands are views into larger buffers. */
  shifted?: boolean;
  /** What the device gets in place of x. */
  upload?: (x: Float32Array<ArrayBuffer>) => Float32Array<ArrayBuffer>;
}

/** Rounds to f16 or bf16 (to nearest even for f16, cut for bf16) and returns bits and values. */
function stored(values: Float32Array<ArrayBuffer>, dtype: "f16" | "bf16") {
  if (dtype === "f16") {
    const half = new Float16Array(values);
    return { bits: new Uint16Array(half.buffer), values: new Float32Array(half) };
  }
  const bits = Uint16Array.from(new Uint32Array(values.buffer), (b) => b >>> 16);
  return { bits, values: new Float32Array(Uint32Array.from(bits, (b) => b << 16).buffer) };
}

/** Asserts the product's error bound at every element, and returns the product. */
async function run(c: Case): Promise<Float32Array> {
  const { layout, M, N, K, alpha = 1, accumulate = false, dtype = "f32", shifted = false } = c;
  const x = numbers(M * K, 1), y0 = numbers(M * N, 3);
  let w = numbers(N * K, 2);
  const [bits, values] = dtype === "f32" ? [w, w] : Object.values(stored(w, dtype));
  w = values as Float32Array<ArrayBuffer>;
  const made: Tensor[] = [];
  const put = (
    data: Float32Array<ArrayBuffer> | Uint16Array<ArrayBuffer>,
    rows: number,
    columns: number,
    type: "f32" | "f16" | "bf16",
  ) => {
    // a view starts 256 bytes into a buffer whose other elements are NaN, so that reading past the edge shows
    const pad = shifted ? 256 / data.BYTES_PER_ELEMENT : 0;
    const whole = data instanceof Float32Array
      ? new Float32Array(data.length + 2 * pad).fill(NaN)
      : new Uint16Array(data.length + 2 * pad).fill(0xffff);
    whole.set(data, pad);
    const t = tensor(whole, [whole.length], type);
    made.push(t);
    const Type = t.constructor as new (...args: unknown[]) => Tensor;
    return new Type([rows, columns], type, t.buffer, t.offset + pad * data.BYTES_PER_ELEMENT);
  };
  const sent = c.upload?.(x) ?? x;
  const tx = layout === "tn" ? put(sent, K, M, "f32") : put(sent, M, K, "f32");
  const tw = layout === "nt" ? put(bits as typeof w, N, K, dtype) : put(bits as typeof w, K, N, dtype);
  const ty = put(y0, M, N, "f32");
  matmulInto({ layout, x: tx, w: tw, y: ty, alpha, accumulate, ...(c.kernel ? { kernel: c.kernel } : {}) });
  const got = await ty.data();
  for (const t of made) t.dispose();
  for (let m = 0; m < M; m++) {
    for (let n = 0; n < N; n++) {
      let sum = 0, size = 0;
      for (let k = 0; k < K; k++) {
        const a = x[layout === "tn" ? k * M + m : m * K + k]!;
        const b = w[layout === "nt" ? n * K + k : k * N + n]!;
        sum += a * b;
        size += Math.abs(a * b);
      }
      const want = alpha * sum + (accumulate ? y0[m * N + n]! : 0);
      // Higham, "Accuracy and Stability" (3.5): |error| <= gamma_K sum |x||w| in any order, gamma_K ~ K 2^-24;
      // two more roundings for alpha and the sum with y; operands in f16 are off by 2^-11 of themselves, or by half of
      // the least subnormal, 2^-25
      const half = c.kernel && c.kernel in TILES && "f16" in TILES[c.kernel as TileKernel];
      const rounded = half ? Math.abs(alpha) * (size * (2 ** -10 + 2 ** -22) + K * 2 ** -24) : 0;
      const bound = rounded +
        2 ** -24 * ((K + 2) * Math.abs(alpha) * size + 2 * Math.abs(want) + (accumulate ? 1 : 0));
      const error = Math.abs(got[m * N + n]! - want);
      assert.ok(
        error <= bound,
        `${JSON.stringify(c)} at [${m}, ${n}]: ${got[m * N + n]} for ${want}, bound ${bound}`,
      );
    }
  }
  return got as Float32Array;
}

const SHAPES: [number, number, number][] = [
  [1, 1, 1],
  [1, 7, 5],
  [5, 1, 3],
  [8, 16, 64],
  [13, 17, 19],
  [32, 32, 32],
  [33, 65, 36],
  [93, 172, 40],
  [128, 16, 96],
  [16, 100, 128],
  [2, 96, 576],
  [1, 576, 64],
  [50, 96, 12],
  [64, 128, 93],
];

for (const layout of ["nt", "nn", "tn"] as const) {
  Deno.test(`matmul ${layout}: every shape against a double sum`, async () => {
    await openGpu();
    for (const [M, N, K] of SHAPES) await run({ layout, M, N, K });
  });
  Deno.test(`matmul ${layout}: alpha, accumulate and views`, async () => {
    await openGpu();
    for (const [M, N, K] of [[13, 17, 19], [40, 96, 32], [1, 64, 64], [52, 100, 45]] as const) {
      await run({ layout, M, N, K, alpha: -0.75, accumulate: true, shifted: true });
      await run({ layout, M, N, K, alpha: 2, shifted: true });
    }
  });
  Deno.test(`matmul ${layout}: operands larger than a binding`, async () => {
    const gpu = await openGpu({ maxBinding: 128 * 64 * 4 });
    for (const [M, N, K] of [[300, 64, 64], [40, 300, 64], [40, 61, 300], [300, 37, 53]] as const) {
      if (layout === "nt" ? K > 64 : N > 64) continue; // one row would not fit
      await run({ layout, M, N, K, accumulate: true });
    }
    gpu.close();
  });
}

/** Kernels beside `strided`, and the layouts and sizes that each takes: any, or rows in whole quads. */
const KERNELS: [MatmulKernel, MatmulLayout[], "any" | "quads"][] = [
  ...(Object.keys(TILES) as TileKernel[]).map((name): typeof KERNELS[number] => {
    const { kernel } = TILES[name];
    return [
      name,
      kernel === "subgroup" ? ["nt", "nn"] : ["nt", "nn", "tn"],
      kernel === "tile" ? "any" : "quads",
    ];
  }),
  ...(["texture8x1", "texture8x2", "texture16x1", "texture16x2", "texture32x1", "texture32x2"] as const)
    .map((name): typeof KERNELS[number] => [name, ["nt", "nn", "tn"], "quads"]),
];

for (const [kernel, layouts, sizes] of KERNELS) {
  Deno.test(`matmul ${kernel}: against a double sum, whatever this adapter would choose`, async () => {
    const gpu = await openGpu();
    const lanes = vectorLanes(gpu);
    if (!isTile(kernel) && lanes !== 8 || isTile(kernel) && !deviceHas(gpu, kernel)) return;
    // which takes most of a minute to compile the largest of them
    const slow = adapterKind(gpu) === "swiftshader";
    const exact = !isTile(kernel) || !("f16" in TILES[kernel]);
    for (const layout of slow ? layouts.slice(0, 1) : layouts) {
      // rows in whole quads, past a tile's edges by one of them, then any size where the kernel takes it
      const edges = { layout, M: layout === "tn" ? 68 : 67, N: 132, K: layout === "tn" ? 37 : 36 };
      const got = await run({ ...edges, kernel });
      // the sum in the order of K, so that a choice among kernels changes no bit
      if (exact) {
        assert.deepEqual(got, await run({ ...edges, kernel: "strided" }), `${kernel} ${layout}: bits`);
      }
      await run({ layout, M: 132, N: 68, K: 20, kernel, alpha: 0.5, accumulate: true, shifted: true });
      await run({ layout, M: 4, N: 4, K: 4, kernel });
      if (sizes === "quads") continue;
      await run({ layout, M: 33, N: 65, K: 36, kernel, alpha: 0.5, accumulate: true, shifted: true });
      await run({ layout, M: 7, N: 70, K: 17, kernel });
    }
    if (slow) return;
    const [M, N, K] = sizes === "any" ? [9, 13, 19] : [9, 12, 20];
    await run({ layout: "nt", M, N, K, kernel, dtype: "bf16" });
    await run({ layout: "nn", M, N, K, kernel, dtype: "f16" });
  });
}

Deno.test("matmul strided: any size in any layout", async () => {
  await openGpu();
  for (const layout of ["nt", "nn", "tn"] as const) {
    await run({
      layout,
      M: 33,
      N: 65,
      K: 36,
      kernel: "strided",
      alpha: 0.5,
      accumulate: true,
      shifted: true,
    });
    await run({ layout, M: 7, N: 70, K: 17, kernel: "strided" });
  }
  await run({ layout: "nt", M: 9, N: 13, K: 19, kernel: "strided", dtype: "bf16" });
  await run({ layout: "nn", M: 9, N: 13, K: 19, kernel: "strided", dtype: "f16" });
});

Deno.test("matmul: a tile that is broken in one place does not pass", async () => {
  const gpu = await openGpu();
  const { kernels } = gpu, { launch } = kernels;
  const broken: [TileKernel, string, string][] = [
    ["quad32", "u[i / 4u][i % 4u]", "u[i / 4u][(i + 1u) % 4u]"], // rows of a quad in another order
    ["quad32", "k0 + at.y + c < k1", "k0 + at.y + c <= k1"], // what lies past the end counts
    ["subgroup64", "octet + i", "octet + (i ^ 1u)"], // rows of neighbours exchanged
    ["tile64x16", "id.y + SY * i];", "id.y + SX * i];"], // the other edge's stride
  ];
  for (const [kernel, right, wrong] of broken) {
    if (!deviceHas(gpu, kernel)) continue;
    kernels.launch = (k, options) => {
      assert.ok(k.source.includes(right), `${k.name} no longer has the text that this test changes`);
      launch({ ...k, name: `${k.name} ${wrong}`, source: k.source.replaceAll(right, wrong) }, options);
    };
    try {
      const c: Case = { layout: kernel === "quad32" ? "tn" : "nt", M: 68, N: 68, K: 36, kernel };
      await assert.rejects(run(kernel === "quad32" ? { ...c, K: 37 } : c), /bound/, `${kernel}: ${wrong}`);
    } finally {
      kernels.launch = launch;
    }
  }
});

Deno.test("matmul in f16: operands of 8 bits instead of 11 do not pass", async () => {
  const gpu = await openGpu();
  if (!gpu.features.f16) return;
  const cut = (data: Float32Array<ArrayBuffer>) =>
    new Float32Array(Uint32Array.from(new Uint32Array(data.buffer), (b) => b & 0xffff0000).buffer);
  const c: Case = { layout: "nt", M: 64, N: 64, K: 4, kernel: "half64" };
  await run(c);
  await assert.rejects(run({ ...c, upload: cut }), /bound/);
});

Deno.test("matmul: w in 16 bits", async () => {
  await openGpu();
  for (const layout of ["nt", "nn"] as const) {
    for (const dtype of ["f16", "bf16"] as const) {
      for (const [M, N, K] of [[13, 17, 19], [40, 96, 64], [1, 50, 64]] as const) {
        await run({ layout, M, N, K, dtype });
      }
      await run({ layout, M: 20, N: 64, K: 32, dtype, shifted: true });
    }
  }
});

Deno.test("matmul: shapes that do not fit are refused", async () => {
  await openGpu();
  const x = empty([2, 3]), w = empty([4, 5]), y = empty([2, 4]);
  assert.throws(() => matmulInto({ layout: "nt", x, w, y }), /x \[2,3\], w \[4,5\]/);
  for (const t of [x, w, y]) t.dispose();
});

Deno.test("matmul: the textures of llvmpipe are the pool's, and a rehearsal counts them", async () => {
  const gpu = await openGpu();
  const work = () => {
    for (
      const [layout, M, dtype] of [["nt", 64, "f32"], ["nn", 64, "bf16"], ["tn", 96, "f32"], [
        "nt",
        1,
        "f16",
      ]] as const
    ) {
      const [x, w, y] = [
        empty(layout === "tn" ? [64, M] : [M, 64]),
        empty(layout === "nt" ? [1024, 64] : [64, 1024], dtype),
        empty([M, 1024]),
      ];
      matmulInto({ layout, x, w, y, accumulate: layout === "tn" });
      for (const t of [x, w, y]) t.dispose();
    }
  };
  const before = gpu.pool.report().live.scratch;
  gpu.pool.resetPeak();
  const base = gpu.pool.report();
  work();
  const after = gpu.pool.report();
  assert.equal(after.live.scratch, before, "all given back");
  const held = after.atPeak.scratch - before;
  // x and w of the widest product: [64, 1024] and y, each in rows of 2,048 texels, their number a power of two
  if (vectorLanes(gpu) > 0) assert.ok(held >= 3 * 2048 * 16, `${held} bytes of textures`);
  else assert.equal(held, 0);
  const { memory } = await rehearse(gpu, Infinity, work);
  assert.equal(memory.peakBytes, after.peakBytes - base.liveBytes);
  assert.equal(memory.atPeak.scratch, held);
  gpu.pool.trim();
  assert.equal(gpu.pool.report().idleBytes, 0);
  work(); // bind groups of destroyed textures are forgotten
  await gpu.stream.fence();
  gpu.check();
});

Deno.test("a part of a weight's rows has its columns in y, or in x", async () => {
  await openGpu();
  const M = 6, N = 40, K = 64, part = [16, 28] as const;
  const x = numbers(M * K, 1), w = numbers(N * K, 2), dy = numbers(M * N, 3);
  using some = tensor(w.slice(part[0] * K, part[1] * K), [part[1] - part[0], K]);
  using tx = tensor(x, [M, K]);
  using tdy = tensor(dy, [M, N]);
  for (const kernel of [undefined, "strided", "tile32"] as const) {
    using y = tensor(new Float32Array(M * N).fill(7), [M, N]);
    using dx = empty([M, K]);
    const shared = { w: some, firstRow: part[0], ...(kernel ? { kernel } : {}) };
    matmulInto({ ...shared, layout: "nt", x: tx, y });
    matmulInto({ ...shared, layout: "nn", x: tdy, y: dx });
    const [gotY, gotDx] = [await y.data(), await dx.data()];
    for (let m = 0; m < M; m++) {
      for (let n = 0; n < N; n++) {
        const inside = n >= part[0] && n < part[1];
        let want = inside ? 0 : 7;
        for (let k = 0; inside && k < K; k++) want += x[m * K + k]! * w[n * K + k]!;
        // numbers below 1, K roundings of a sum below K (Higham 3.5)
        assert.ok(Math.abs(gotY[m * N + n]! - want) <= K * K * 2 ** -24, `y[${m}, ${n}] by ${kernel}`);
      }
      for (let k = 0; k < K; k++) {
        let want = 0;
        for (let n = part[0]; n < part[1]; n++) want += dy[m * N + n]! * w[n * K + k]!;
        assert.ok(Math.abs(gotDx[m * K + k]! - want) <= K * K * 2 ** -24, `dx[${m}, ${k}] by ${kernel}`);
      }
    }
  }
  using y = empty([M, N]);
  const wrong = { x: tx, w: some, y, firstRow: 30 };
  assert.throws(() => matmulInto({ ...wrong, layout: "nt" }), /matmul nt.* do not fit from row 30 on/);
  assert.throws(() => matmulInto({ ...wrong, layout: "tn" }), /matmul tn.* do not fit/);
});
