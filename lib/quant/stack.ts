/**
 * Weights that one row of activations goes through together, in one launch: for generation on llvmpipe, where a launch
 * costs as much as a small product. They lie in textures, one over the other.
 * @module
 */
import { type BufferRange, defineKernel, gpu, type GpuTexture } from "../gpu/mod.ts";
import downSource from "../../wgsl/low_rank_down.wgsl" with { type: "text" };
import texel from "../../wgsl/shared/texel.wgsl" with { type: "text" };
import { vectorLanes } from "../tensor/ops/matmul_texture.ts";
import { empty, type Tensor } from "../tensor/tensor.ts";
import { decodedScales, groupRows, launchRows, orderedTextures, throughTexture } from "./gemv_texture.ts";
import { type QuantizedTensor, span } from "./quantized_tensor.ts";

const down = defineKernel("low_rank_down", downSource, texel);

/** Rows of A that a workgroup takes. */
const DOWN_ROWS = 4;

/** An adapter's `alpha (x aᵀ) bᵀ`: `a` f32 `[r, in]`, `b` f32 `[out, r]`. */
export interface LowRankWeights {
  a: Tensor;
  b: Tensor;
  alpha: number;
}

/** One weight of a stack. */
export interface StackedWeight {
  weight: QuantizedTensor;
  low: LowRankWeights | undefined;
}

/** What goes along with a stack's product. */
export interface StackOptions {
  /** RMSNorm of x before: epsilon, and what is added to the norm's weight. */
  norm?: { eps: number; plus: number } | undefined;
  /** Added to the result. */
  add?: Tensor | undefined;
}

/** Whether these weights can be a {@link QuantizedStack}; `gated`: both halves are to be one result. */
export function stackFits(weights: readonly StackedWeight[], gated: boolean): boolean {
  if (vectorLanes(gpu()) === 0 || weights.length > 3) return false;
  const [{ weight: first }] = weights as [StackedWeight];
  const ranks = new Set(weights.flatMap(({ low }) => low ? [low.a.rows] : []));
  if (sumOf(weights.map(({ weight }) => weight.packed.bytes)) > gpu().maxBinding) return false;
  const fits = ({ weight: q, low }: StackedWeight) =>
    q.columns === first.columns && q.codeBook === first.codeBook && q.blocksize === first.blocksize &&
    q.columns % 32 === 0 && q.size % q.blocksize === 0 && (!low || low.a.rows % 4 === 0) &&
    (ranks.size === 0 || gated || q.rows % groupRows() === 0 || weights.length === 1);
  return ranks.size <= 1 && weights.every(fits) &&
    (!gated || (weights.length === 2 && weights[1]!.weight.rows === first.rows));
}

/** Weights of one input in textures. Their buffers must stand still while it is in use; dispose it. */
export class QuantizedStack {
  readonly #q: QuantizedTensor;
  readonly #gated: boolean;
  readonly #rows: readonly number[];
  readonly #alphas: readonly number[];
  readonly #rank: number;
  readonly #textures: {
    w: GpuTexture;
    scales: GpuTexture;
    norm?: GpuTexture;
    a?: GpuTexture;
    b?: GpuTexture;
  };

  /**
   * @param norm weight of the RMSNorm before it, f32 `[in]`
   * @param gated the result is `silu(first) * second` of two weights of one shape instead of both
   */
  constructor(
    weights: readonly StackedWeight[],
    { norm, gated = false }: { norm?: Tensor; gated?: boolean } = {},
  ) {
    const [{ weight: q }] = weights as [StackedWeight];
    this.#q = q;
    this.#gated = gated;
    this.#rows = weights.map(({ weight }) => weight.rows);
    this.#alphas = weights.map(({ low }) => low?.alpha ?? 0);
    this.#rank = weights.find(({ low }) => low)?.low?.a.rows ?? 0;
    const parts = weights.map(({ weight }) => scalesOf(weight));
    const words = joined(weights.map(({ weight }) => weight.packed.range));
    const scales = joined(parts.map(({ range }) => range));
    const low = (of: "a" | "b") =>
      stacked(
        weights.map(({ weight, low }) =>
          low?.[of].range ?? 4 * this.#rank * (of === "a" ? weight.columns : weight.rows)
        ),
      );
    this.#textures = {
      ...orderedTextures(q, words, scales, this.#columns, gated),
      ...(norm && { norm: stacked([norm.range]) }),
      ...(this.#rank > 0 && { a: low("a"), b: low("b") }),
    };
    [words, scales, ...parts.map(({ own }) => own)].forEach((t) => t?.dispose());
  }

  /** Columns of the result. */
  get #columns(): number {
    return sumOf(this.#rows) / (this.#gated ? 2 : 1);
  }

  /**
   * All products of one row, side by side. Not recorded.
   *
   * @param x f32 `[1, in]`
   * @returns f32 `[1, sum of out]`, or where it is gated `[1, out]`
   */
  apply(x: Tensor, { norm, add }: StackOptions = {}): Tensor {
    const { w, scales, norm: weight, a, b } = this.#textures;
    const n = this.#columns, rank = this.#rank, gated = this.#gated;
    const y = empty([1, n]);
    const normed = norm && { ...norm, weight: weight! };
    const h = rank > 0 ? this.#lowRank(x, a!, normed) : undefined;
    const starts = gated ? [] : this.#rows.slice(0, -1).map((_, i) => sumOf(this.#rows.slice(0, i + 1)));
    launchRows({
      ...{ q: this.#q, x, w, scales, y, n, norm: normed, gated, add, ordered: true },
      low: h && { x: h, w: b!, rank, starts },
    });
    h?.dispose();
    return y;
  }

  /** `alpha x aᵀ` of all weights. */
  #lowRank(x: Tensor, a: GpuTexture, norm: { weight: GpuTexture; eps: number; plus: number } | undefined) {
    const rank = this.#rank, rows = rank * this.#rows.length, [alpha0, alpha1 = 0, alpha2 = 0] = this.#alphas;
    const h = empty([rows]);
    gpu().kernels.launch(down, {
      consts: { NORM: norm !== undefined, LANES: vectorLanes(gpu()), ROWS: DOWN_ROWS },
      params: {
        ...{ quads: x.columns / 4, rows, rank, eps: norm?.eps ?? 0, plus: norm?.plus ?? 0 },
        ...{ alpha0: alpha0!, alpha1, alpha2 },
      },
      bind: { x: x.range, a, h: h.range, norm: norm?.weight ?? a },
      groups: [Math.ceil(rows / DOWN_ROWS)],
    });
    return h;
  }

  /** Bytes of its textures. */
  get bytes(): number {
    return sumOf(Object.values(this.#textures).map((t) => t.size));
  }

  /** Gives the textures back. */
  dispose(): void {
    for (const texture of Object.values(this.#textures)) gpu().pool.release(texture);
  }
}

const sumOf = (numbers: readonly number[]) => numbers.reduce((a, b) => a + b, 0);

/** A weight's scales in f32. */
function scalesOf(q: QuantizedTensor): { range: BufferRange; own?: Tensor } {
  if (!q.nested) return { range: { ...q.absmax.range, bytes: 4 * q.blocks } };
  const own = decodedScales(q, span(q.absmax, 0, Math.ceil(q.blocks / 4) * 4));
  return { range: { ...own.range, bytes: 4 * q.blocks }, own };
}

/** Several ranges one after the other; a number stands for so many bytes of zeros. */
function joined(parts: readonly (BufferRange | number)[]): Tensor {
  const sizes = parts.map((part) => typeof part === "number" ? part : part.bytes!);
  const all = empty([sumOf(sizes) / 4], "f32", "scratch");
  let at = all.offset;
  for (const [i, part] of parts.entries()) {
    const size = sizes[i]!;
    if (typeof part === "number") gpu().stream.clear(all.buffer, at, size);
    else gpu().stream.copy(part.buffer, part.offset ?? 0, all.buffer, at, size);
    at += size;
  }
  return all;
}

/** {@link joined} numbers in a texture. */
function stacked(parts: readonly (BufferRange | number)[]): GpuTexture {
  return throughTexture(joined(parts));
}
