/**
 * Products with an NF4 weight against the dense f32 product of the same shape: x wᵀ, and dy w of its backward pass.
 *
 *     deno run -A bench/nf4.ts [--rows=1,32,512] [--models=SmolLM2,Llama,Mistral] [--rounds=5] [--budget=100]
 *         [--kernels=scratch,texture,tile32]
 *
 * A ratio of 1.10 says: a tenth more time than dense. All are timed in turns; ratios and times are medians. Shapes of
 * more than `--budget` GFLOP are left out. Beside what is chosen stand the ways of `--kernels` (`QuantizedKernel`) that
 * take the weight; one row has kernels of its own. A few rows run as in generation, which on llvmpipe keeps the textures
 * of weights from token to token, and takes the weights that share an input in one launch.
 * @module
 */
import { gpu, openGpu } from "../lib/gpu/mod.ts";
import { baseBackward, baseForward } from "../lib/model/linear.ts";
import {
  GEMV_MAX_ROWS,
  matmulQuantized,
  quantize,
  type QuantizedKernel,
  QuantizedStack,
  stackFits,
} from "../lib/quant/mod.ts";
import { quantizedFits } from "../lib/quant/matmul.ts";
import { empty, scope, tensor } from "../lib/tensor/tensor.ts";
import { matmulInto } from "../lib/tensor/ops/matmul_kernel.ts";
import { holdTextures } from "../lib/tensor/ops/matmul_texture.ts";
import { interleave } from "./interleave.ts";
import { option, row } from "./report.ts";
import { LAYERS, type LayerShape, numbers } from "./shapes.ts";

const rows = option("rows", "1,32,512").split(",").map(Number);
const models = option("models", "SmolLM2,Llama,Mistral").split(",");
const rounds = Number(option("rounds", "5")), budget = Number(option("budget", "100"));
const kernels = option("kernels", "").split(",").filter((name) => name) as QuantizedKernel[];

await openGpu();
console.log(`${gpu().name}\n`);
const header = ["model", "weight", "shape", "rows", "pass", "dense ms", "NF4 ms", "NF4 / dense"];
console.log(row(...header, ...kernels));
console.log(
  row("---", "---", "---", "---:", "---", ...Array.from({ length: 3 + kernels.length }, () => "---:")),
);
for (const [model, layers] of Object.entries(LAYERS)) {
  if (!models.some((name) => model.startsWith(name))) continue;
  for (const [name, n, k] of layers) {
    using w = tensor(numbers(n * k, 1), [n, k], "f32", "base");
    using q = quantize(w);
    for (const m of rows) {
      if (2e-9 * m * n * k > budget) continue;
      using _held = m <= GEMV_MAX_ROWS ? holdTextures() : undefined;
      using x = tensor(numbers(m * k, 2), [m, k]);
      using dy = tensor(numbers(m * n, 3), [m, n]);
      using y = empty([m, n]);
      using dx = empty([m, k]);
      const passes = [
        { pass: "x wᵀ", layout: "nt", x, y, chosen: () => scope(() => void baseForward(q, x)) },
        { pass: "dy w", layout: "nn", x: dy, y: dx, chosen: () => scope(() => void baseBackward(q, dy)) },
      ] as const;
      for (const { pass, chosen, ...operands } of m > 1 ? passes : passes.slice(0, 1)) {
        const fitting = kernels.filter((name) => m > 1 && quantizedFits(name, operands.layout, q, gpu()));
        const [a, b, ...others] = await interleave([
          () => matmulInto({ ...operands, w }),
          chosen,
          ...fitting.map((kernel) => () => matmulQuantized({ ...operands, q, kernel })),
        ], rounds);
        const [was, is] = [a!, b!].map(({ ms }) => ms.toFixed(ms < 10 ? 2 : 0));
        const beside = kernels.map((name) => others[fitting.indexOf(name)]?.ratio.toFixed(2) ?? "");
        console.log(row(model, name, `${n} x ${k}`, m, pass, was!, is!, b!.ratio.toFixed(2), ...beside));
      }
    }
  }
  if (rows.includes(1)) await stacks(model, layers);
}

/** One row through the weights that share an input: dense ones one after the other, 4-bit ones in one launch. */
async function stacks(model: string, [q, kv, up]: readonly LayerShape[]): Promise<void> {
  using held = new DisposableStack();
  held.use(holdTextures());
  for (const [name, layers] of [["q, k, v", [q!, kv!, kv!]], ["gate, up", [up!, up!]]] as const) {
    const [k] = layers.map((layer) => layer[2]) as [number];
    const dense = layers.map(([, n], i) => held.use(tensor(numbers(n * k, i + 1), [n, k], "f32", "base")));
    const x = held.use(tensor(numbers(k, 9), [1, k]));
    const out = layers.map(([, n]) => held.use(empty([1, n])));
    const weights = dense.map((w) => ({ weight: held.use(quantize(w)), low: undefined }));
    if (!stackFits(weights, false)) continue;
    const stack = new QuantizedStack(weights);
    const [a, b] = await interleave([
      () => dense.forEach((w, i) => matmulInto({ layout: "nt", x, w, y: out[i]! })),
      () => scope(() => void stack.apply(x)),
    ], rounds);
    stack.dispose();
    const shape = `${layers.map(([, n]) => n).join(" + ")} x ${k}`;
    console.log(
      row(
        model,
        `${name} at once`,
        shape,
        1,
        "x wᵀ",
        a!.ms.toFixed(2),
        b!.ms.toFixed(2),
        b!.ratio.toFixed(2),
      ),
    );
  }
}
Deno.exit(0); // the device keeps the process alive
