/**
 * Matrix products in f32, from the naive kernel to the one that nibble takes: GFLOP/s at the shapes of three models.
 *
 *     deno run -A bench/matmul.ts [--models=SmolLM2,Llama,Mistral] [--rows=32,512,2048] [--products=base,adapter]
 *                                 [--rounds=3] [--patience=1] [--budget=300]
 *
 * `base` are x Wᵀ and dy W of every linear layer, `adapter` the products of rank 16 around the
 * one with the most weights. `strided` takes 4 x 4 elements of y an invocation straight from the buffers, `tile32` and
 * `tile64` copy panels to workgroup memory first, `chosen` is what a run takes on this adapter, all that it has to
 * prepare included. All are timed in turns; rates are of medians. A step of the ladder that would take more than `--patience` seconds a
 * product, by its rate so far, is left out (-), and so are products of more than `--budget` GFLOP.
 * @module
 */
import { gpu, openGpu } from "../lib/gpu/mod.ts";
import { empty, tensor } from "../lib/tensor/tensor.ts";
import { matmulInto, type MatmulKernel } from "../lib/tensor/ops/matmul_kernel.ts";
import { interleave } from "./interleave.ts";
import { option, row } from "./report.ts";
import { gflop, modelProducts, modelsNamed, numbers, operands, type Product } from "./shapes.ts";

const LADDER: readonly MatmulKernel[] = ["strided", "tile32", "tile64"];

const models = option("models", "SmolLM2,Llama,Mistral").split(",");
const rows = option("rows", "32,512,2048").split(",").map(Number);
const kinds = option("products", "base,adapter").split(",");
const rounds = Number(option("rounds", "3"));
const patience = Number(option("patience", "1")), budget = Number(option("budget", "300"));

/** Least GFLOP/s of a step of the ladder so far, at shapes of some size; before there is one, a guess. */
const slowest = new Map<MatmulKernel, number>(), GUESS = 5;

/** Rates of the ladder and of the kernel chosen, in this order; undefined where one was left out. */
async function rates(product: Product): Promise<(number | undefined)[]> {
  const { layout, M, N, K } = product, work = gflop(product);
  const shapes = operands(product);
  using x = tensor(numbers(M * K, 1), shapes.x);
  using w = tensor(numbers(N * K, 2), shapes.w);
  using y = empty([M, N]);
  const steps = LADDER.filter((kernel) => work / (slowest.get(kernel) ?? GUESS) <= patience);
  const works = [
    () => matmulInto({ layout, x, w, y }),
    ...steps.map((kernel) => () => matmulInto({ layout, x, w, y, kernel })),
  ];
  const [chosen, ...others] = (await interleave(works, rounds)).map(({ ms }) => 1e3 * work / ms);
  for (const [i, kernel] of steps.entries()) {
    if (work > 0.1) slowest.set(kernel, Math.min(slowest.get(kernel) ?? Infinity, others[i]!));
  }
  return [...LADDER.map((kernel) => others[steps.indexOf(kernel)]), chosen];
}

await openGpu();
console.log(`${gpu().name}, GFLOP/s\n`);
console.log(row("model", "product", "M", "N", "K", ...LADDER, "chosen"));
console.log(row("---", "---", "---:", "---:", "---:", ...LADDER.map(() => "---:"), "---:"));
for (const model of modelsNamed(models)) {
  for (const product of rows.flatMap((rows) => modelProducts(model, rows, kinds))) {
    if (gflop(product) > budget) continue;
    const found = (await rates(product)).map((rate) => rate?.toFixed(1) ?? "-");
    console.log(row(model, product.name, product.M, product.N, product.K, ...found));
  }
}
Deno.exit(0); // the device keeps the process alive
