/**
 * Products with a 4-bit weight: decoded inside the product, or range by range into a scratch that a dense product reads.
 * @module
 */
import { adapterKind, type Gpu, gpu } from "../gpu/mod.ts";
import { dropoutInto } from "../tensor/ops/dropout.ts";
import { type LowRank, matmulInto } from "../tensor/ops/matmul_kernel.ts";
import { vectorLanes } from "../tensor/ops/matmul_texture.ts";
import { empty, scope, shapeError, type Tensor } from "../tensor/tensor.ts";
import { dequantizeRows } from "./dequantize.ts";
import {
  fitsQuadRows,
  fitsVectorLanes,
  type FusedKernel,
  fusedTakesLow,
  multiplyFused,
} from "./matmul_fused.ts";
import type { QuantizedTensor } from "./quantized_tensor.ts";

/** Operands of {@link matmulQuantized}. */
export interface QuantizedMatmul {
  /** `nt` is `x wᵀ`, `nn` is `x w`. */
  layout: "nt" | "nn";
  /** f32, `[M, in]`; in `nn` `[M, out]`. */
  x: Tensor;
  /** The weight, `[out, in]`. */
  q: QuantizedTensor;
  /** f32, `[M, out]`; in `nn` `[M, in]`. */
  y: Tensor;
  /** Factor of the product; default 1. */
  alpha?: number;
  /** `y +=` instead of `y =`. */
  accumulate?: boolean;
  /** Added to the product: an adapter's; without `accumulate` only. */
  low?: LowRank;
  /** Overrides the choice, for measurements and tests. */
  kernel?: QuantizedKernel;
}

/** The ways, see {@link chooseQuantized}. */
export type QuantizedKernel = FusedKernel | "scratch";

/** Elements of weight decoded at a time: 16 MiB of f32, which is also what a texture takes. */
const SCRATCH = 4 * 2 ** 20;

/** Most rows of x for which a GPU decodes inside the product. */
const GPU_ROWS = 256;

/**
 * `y = alpha x wᵀ (+ y)` or `y = alpha x w (+ y)` with the weight in 4 bits: the second is the gradient of the first's
 * input, from the same codes (Dettmers et al. 2023, arXiv 2305.14314, section 3). Sums are in f32, in a fixed order; a
 * weight's number is `value[code] * absmax`, rounded to f32, whichever way is taken.
 *
 * @throws NibbleError `tensor/shape` when the operands do not fit each other
 * @example
 * ```ts
 * import { openGpu } from "../gpu/mod.ts";
 * import { empty, tensor } from "../tensor/tensor.ts";
 * import { matmulQuantized } from "./matmul.ts";
 * import { quantize } from "./quantize.ts";
 * await openGpu();
 * using w = tensor(Array.from({ length: 128 }, (_, i) => i < 64 ? 1 : -2), [2, 64]);
 * using q = quantize(w, { doubleQuant: false });
 * using x = tensor(new Array(64).fill(1), [1, 64]), y = empty([1, 2]);
 * matmulQuantized({ layout: "nt", x, q, y });
 * if (`${await y.data()}` !== "64,-128") throw new Error("64 times 1, 64 times -2");
 * ```
 */
export function matmulQuantized(options: QuantizedMatmul): void {
  const { layout, x, q, y } = options;
  const [from, to] = layout === "nt" ? [q.columns, q.rows] : [q.rows, q.columns];
  const wrong = x.columns !== from || y.columns !== to || y.rows !== x.rows;
  if (wrong || options.low && options.accumulate || x.dtype !== "f32" || y.dtype !== "f32") {
    const shown = `x ${x.dtype} [${x.shape}], w [${q.shape}] and y ${y.dtype} [${y.shape}] do not fit`;
    throw shapeError(`quantized matmul ${layout}`, shown);
  }
  if (y.size === 0) return;
  const kernel = options.kernel ?? tunedQuantized(options, gpu()) ?? chooseQuantized(options, gpu());
  if (kernel === "scratch") return throughScratch(options);
  const { low, ...rest } = options;
  if (!low || fusedTakesLow(kernel, low.x.columns)) return multiplyFused(options, kernel);
  // the dropout is of the low-rank product alone, so that comes first
  matmulInto({ layout, x: low.x, w: low.w, y, alpha: low.alpha });
  if (low.drop) dropoutInto(y, low.drop.rate, low.drop.seed);
  multiplyFused({ ...rest, accumulate: true }, kernel);
}

/** Classes of products that one choice of the tuner holds for, by rows of x: up to 16, up to 256, and more. */
export type QuantizedClass = "few" | "some" | "many";

/** The class of a product with so many rows of x. */
export function quantizedClass(rows: number): QuantizedClass {
  return rows <= 16 ? "few" : rows <= GPU_ROWS ? "some" : "many";
}

/**
 * The way that was found fastest on this adapter for products of that class (`lib/tuning.ts`), where there is one and it
 * takes this weight; undefined leaves the choice to {@link chooseQuantized}.
 */
export function tunedQuantized(
  { layout, x, q }: QuantizedOperands,
  target: Pick<Gpu, "choices" | "name" | "features">,
): QuantizedKernel | undefined {
  const chosen = target.choices.get(`matmul_4bit.${layout}.${quantizedClass(x.rows)}`);
  return chosen !== undefined && quantizedFits(chosen as QuantizedKernel, layout, q, target)
    ? chosen as QuantizedKernel
    : undefined;
}

/** Whether a way takes a weight on an adapter. */
export function quantizedFits(
  kernel: QuantizedKernel,
  layout: QuantizedMatmul["layout"],
  q: QuantizedTensor,
  target: Pick<Gpu, "name" | "features">,
): boolean {
  if (kernel === "scratch") return true;
  return kernel === "texture" ? fitsVectorLanes(layout, q, vectorLanes(target)) : fitsQuadRows(q);
}

/** What a choice goes by. */
export type QuantizedOperands = Pick<QuantizedMatmul, "layout" | "q"> & { x: Pick<Tensor, "rows"> };

/**
 * How a product is computed where nothing was measured, by rows of x, shape and adapter alone, so that the same run takes
 * the same kernels. Up to 4 rows of `x wᵀ` are `gemvQuantized`'s.
 *
 * | way | where | a weight is decoded |
 * | --- | --- | --- |
 * | `texture` | llvmpipe in vectors of 8 lanes, up to 64 rows in `x wᵀ`, 128 in `x w` | for each 32 rows |
 * | `tile16x64` | SwiftShader and GPUs, up to 16 rows | once |
 * | `tile64` | SwiftShader; GPUs up to 256 rows, where such tiles make 64 workgroups | for each 64 rows |
 * | `tile32` | GPUs up to 256 rows, where they do not | for each 32 rows |
 * | `scratch` | what is left, and weights whose rows are no whole quads | once, written out as f32 and read again |
 *
 * Llvmpipe and SwiftShader were measured (`bench/README.md`). GPUs were not, for want of one: that decoding inside pays
 * for few rows and not for many is what others found. Bitsandbytes decodes inside for 2 to 64 rows, on a GB10 up to
 * 256, where it was faster in every case measured (its pull requests 1949 and 2030 of 2026); beyond, it dequantizes and
 * multiplies, as Unsloth does in training. There the dense product runs on tensor cores, which WebGPU does not reach. By
 * count: a tile of 64 rows spends about a tenth of its arithmetic on decoding whatever the rows, and a scratch costs 8
 * bytes of memory traffic a weight: at 450 GB/s and 3 TFLOP/s a tenth of the product at 270 rows, less beyond.
 */
export function chooseQuantized(
  { layout, x, q }: QuantizedOperands,
  target: Pick<Gpu, "name" | "features">,
): QuantizedKernel {
  const rows = x.rows, columns = layout === "nt" ? q.rows : q.columns;
  if (quantizedFits("texture", layout, q, target)) {
    return rows > (layout === "nt" ? 64 : 128) ? "scratch" : "texture";
  }
  const kind = adapterKind(target);
  if (kind === "llvmpipe" || !fitsQuadRows(q)) return "scratch";
  if (rows <= 16) return "tile16x64";
  if (kind === "swiftshader") return "tile64";
  if (rows > GPU_ROWS) return "scratch";
  // the larger tile where it makes 64 workgroups
  return Math.ceil(rows / 64) * Math.ceil(columns / 64) >= 64 ? "tile64" : "tile32";
}

/** Decodes the weight range by range into one bounded scratch, never all of it at once, and multiplies. */
function throughScratch({ layout, x, q, y, alpha = 1, accumulate = false, low }: QuantizedMatmul): void {
  const { rows, columns } = q;
  const step = q.size <= SCRATCH ? rows : Math.max(64, Math.floor(SCRATCH / columns / 64) * 64);
  for (let from = 0; from < rows; from += step) {
    scope(() => {
      const to = Math.min(rows, from + step);
      const w = empty([to - from, columns], "f32", "scratch");
      dequantizeRows(q, from, to, w);
      const more = accumulate || layout === "nn" && from > 0;
      const own = layout === "nt"
        ? low && { ...low, w: low.w.slice(from, to) }
        : from === 0
        ? low
        : undefined;
      matmulInto({ layout, x, w, y, alpha, accumulate: more, firstRow: from, ...(own && { low: own }) });
    });
  }
}
