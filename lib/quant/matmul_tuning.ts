/**
 * What the tuner tries for products with a 4-bit weight: decoding inside the product, or into a scratch.
 * @module
 */
import { adapterKind, type Gpu, type Probe, type Tunable } from "../gpu/mod.ts";
import { vectorLanes } from "../tensor/ops/matmul_texture.ts";
import { numbers } from "../tensor/ops/matmul_tuning.ts";
import { empty, tensor } from "../tensor/tensor.ts";
import { fitsVectorLanes } from "./matmul_fused.ts";
import { matmulQuantized, type QuantizedClass, type QuantizedKernel } from "./matmul.ts";
import { quantize } from "./quantize.ts";

/** Kernels for GPUs by class, beside the scratch, which comes first: it takes any shape. */
const ON_GPU: Readonly<Record<QuantizedClass, readonly QuantizedKernel[]>> = {
  few: ["tile16x64", "tile32"],
  some: ["tile32", "tile64"],
  many: ["tile64"],
};

/** Rows of a class's work, and the weight, `[out, in]`. */
const ROWS: Readonly<Record<QuantizedClass, number>> = { few: 16, some: 128, many: 512 };
const WEIGHTS = { gpu: [2048, 2048], software: [768, 576] } as const;

/** The products as the tuner takes them: training's first. */
export function quantizedTunables(): Tunable[] {
  return (["many", "some", "few"] as const).flatMap((rows) =>
    (["nt", "nn"] as const).map((layout): Tunable => ({
      name: `matmul_4bit.${layout}.${rows}`,
      candidates: (device) => ["scratch", ...candidatesFor(device, rows)],
      probe: (device) => probe(device, layout, rows),
    }))
  );
}

function shapeFor(device: Gpu): readonly [number, number] {
  return WEIGHTS[adapterKind(device) === "gpu" ? "gpu" : "software"];
}

function candidatesFor(device: Gpu, rows: QuantizedClass): readonly QuantizedKernel[] {
  const lanes = vectorLanes(device), [n, k] = shapeFor(device);
  const inTexture = fitsVectorLanes("nn", { rows: n, columns: k, blocksize: 64 }, lanes);
  return inTexture ? ["texture"] : lanes > 0 ? [] : ON_GPU[rows];
}

function probe(device: Gpu, layout: "nt" | "nn", rows: QuantizedClass): Probe {
  const M = ROWS[rows], [n, k] = shapeFor(device);
  const w = tensor(numbers(n * k, 1), [n, k]), q = quantize(w);
  w.dispose();
  const [from, to] = layout === "nt" ? [k, n] : [n, k];
  const x = tensor(numbers(M * from, 2), [M, from]), y = empty([M, to]);
  return {
    run: (kernel) => matmulQuantized({ layout, x, q, y, kernel: kernel as QuantizedKernel }),
    result: y.range,
    // products of numbers below 1 whose sizes add up to a quarter of their count or little more; each of two sums rounds
    // as often as it has terms
    tolerance: () => from * from / 2 * 2 ** -24,
    flops: 2 * M * n * k,
    dispose() {
      q.dispose();
      x.dispose();
      y.dispose();
    },
  };
}
