/**
 * Matrix products at the shapes of SmolLM2-135M: GFLOP/s of the naive kernel and of the chosen one.
 * Run with `deno run -A bench/matmul.ts [rows...]`.
 * @module
 */
import { gpu, openGpu } from "../lib/gpu/mod.ts";
import { empty, Tensor, tensor } from "../lib/tensor/tensor.ts";
import { matmulInto, type MatmulKernel, type MatmulLayout } from "../lib/tensor/ops/matmul_kernel.ts";
import { emptyFence } from "./interleave.ts";

type Shape = [name: string, layout: MatmulLayout, M: number, N: number, K: number];

/** Milliseconds of one product: the fastest of three submits, a fence's own time taken off. */
async function time(work: () => void, idle: number, flops: number): Promise<number> {
  work(); // compile
  await gpu().stream.fence();
  let t = performance.now();
  work();
  await gpu().stream.fence();
  const once = Math.max(0.02, performance.now() - t - idle);
  const repeats = flops < 3e6 ? 200 : Math.max(2, Math.min(200, Math.floor(150 / once)));
  let best = Infinity;
  for (let round = 0; round < 3; round++) {
    t = performance.now();
    for (let i = 0; i < repeats; i++) work();
    await gpu().stream.fence();
    best = Math.min(best, (performance.now() - t - idle) / repeats);
  }
  return best;
}

function shapes(rows: number): Shape[] {
  const out: Shape[] = [];
  for (const [N, K] of [[576, 576], [192, 576], [1536, 576], [576, 1536], [49152, 576]] as const) {
    if (N > 2 ** 14 && rows > 128) continue;
    out.push(["forward", "nt", rows, N, K]);
    if (rows < 32 || N > 2 ** 14) continue;
    out.push(["backward dx", "nn", rows, K, N], ["backward dw", "tn", N, K, rows]);
  }
  if (rows < 32) return out;
  for (const K of [576, 1536]) {
    out.push(["LoRA x a^T", "nt", rows, 16, K], ["LoRA h b^T", "nt", rows, K, 16]);
    out.push(["LoRA da", "tn", 16, K, rows], ["LoRA db", "tn", K, 16, rows], [
      "LoRA dy b",
      "nn",
      rows,
      16,
      K,
    ]);
  }
  return out;
}

await openGpu();
const rows = Deno.args.length > 0 ? Deno.args.map(Number) : [1, 8, 128, 256, 512];
console.log(gpu().name);
const idle = await emptyFence();
const numbers = (n: number) => Float32Array.from({ length: n }, (_, i) => Math.sin(i));
console.log(
  `${"product".padEnd(12)}      ${"M".padStart(6)}${"N".padStart(7)}${"K".padStart(6)}${"naive".padStart(9)}${
    "chosen".padStart(9)
  }   GFLOP/s`,
);
for (const [name, layout, M, N, K] of rows.flatMap(shapes)) {
  const x = tensor(numbers(M * K), layout === "tn" ? [K, M] : [M, K]);
  const w = tensor(numbers(N * K), layout === "nt" ? [N, K] : [K, N]);
  const y = empty([M, N]);
  const rate = async (kernel?: MatmulKernel) => {
    const options = kernel ? { layout, x, w, y, kernel } : { layout, x, w, y };
    const ms = await time(() => matmulInto(options), idle, 2 * M * N * K);
    return (2 * M * N * K / ms / 1e6).toFixed(1).padStart(9);
  };
  const naive = M * N * K < 1e8 ? await rate("strided") : "-".padStart(9);
  console.log(
    `${name.padEnd(12)} ${layout}   ${`${M}`.padStart(6)}${`${N}`.padStart(7)}${
      `${K}`.padStart(6)
    }${naive}${await rate()}`,
  );
  for (const t of [x, w, y] as Tensor[]) t.dispose();
}
