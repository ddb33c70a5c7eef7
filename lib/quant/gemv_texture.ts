/**
 * The kernel of `gemv.ts` for llvmpipe, which reads codes and scales from textures.
 * @module
 */
import { type BufferRange, defineKernel, gpu, type GpuTexture, type LaunchOptions } from "../gpu/mod.ts";
import scalesSource from "../../wgsl/decode_scales.wgsl" with { type: "text" };
import source from "../../wgsl/gemv_4bit_texture.wgsl" with { type: "text" };
import nf4 from "../../wgsl/shared/nf4.wgsl" with { type: "text" };
import texel from "../../wgsl/shared/texel.wgsl" with { type: "text" };
import orderSource from "../../wgsl/stack_order.wgsl" with { type: "text" };
import { grid1d } from "../tensor/grid.ts";
import { heldTexture, textureFor, toTexture, vectorLanes } from "../tensor/ops/matmul_texture.ts";
import { empty, type Tensor } from "../tensor/tensor.ts";
import type { Part } from "./gemv.ts";
import {
  absmaxOf,
  groupOf,
  type QuantizedTensor,
  scaleBindings,
  span,
  valueConstants,
} from "./quantized_tensor.ts";

const kernel = defineKernel("gemv_4bit_texture", source, nf4, texel);
const orderKernel = defineKernel("stack_order", orderSource, texel);
const scalesKernel = defineKernel("decode_scales", scalesSource);

/** What one launch reads and writes, and does beside the product; see the kernel's file. */
export interface TextureLaunch {
  /** Any of the weights, for its code book and blocks. */
  q: QuantizedTensor;
  x: Tensor;
  w: GpuTexture;
  scales: GpuTexture;
  y: Tensor;
  /** Columns of y, and which of them, by default all. */
  n: number;
  begin?: number;
  end?: number;
  /** Numbers of the textures' first texel and first block in the whole tensor. */
  first?: number;
  firstScale?: number;
  /** The textures are from {@link orderedTextures}. */
  ordered?: boolean;
  norm?: { weight: GpuTexture; eps: number; plus: number } | undefined;
  gated?: boolean;
  add?: Tensor | undefined;
  /** `starts`: rows of w where the second part and the third begin. */
  low?: { x: Tensor; w: GpuTexture; rank: number; starts: readonly number[] } | undefined;
}

/** Rows of w that a lane takes. */
const rowsOfLane = (lanes: number) => lanes === 8 ? 4 : 2;

/** Rows of w that a workgroup takes. */
export function groupRows(): number {
  const lanes = vectorLanes(gpu());
  return lanes * rowsOfLane(lanes);
}

/** How a launch shares out the rows; `out`: columns of y that a lane computes. */
function tilingOf(q: QuantizedTensor, gated: boolean) {
  const lanes = vectorLanes(gpu()), rows = rowsOfLane(lanes);
  return { lanes, rows, out: gated ? rows / 2 : rows, group: groupOf(q, 32, [2, 1]) };
}

/**
 * Textures of codes and scales in the order in which the kernel reads them for `n` columns of y, 0.85 to 0.95 of the time
 * of those in their own order.
 *
 * @param words codes, row after row
 * @param scales f32, block after block
 */
export function orderedTextures(
  q: QuantizedTensor,
  words: Tensor,
  scales: Tensor,
  n: number,
  gated: boolean,
): { w: GpuTexture; scales: GpuTexture } {
  const { lanes, rows, out, group } = tilingOf(q, gated), texels = q.columns / 32;
  const codes = Math.ceil(n / (lanes * out)) * texels * lanes * rows;
  const order = (entry: string, count: number, bind: LaunchOptions["bind"]) => {
    const { groups, row } = grid1d(Math.ceil(count / 64), 64);
    gpu().kernels.launch(orderKernel, {
      entry,
      consts: { LANES: lanes, ROWS: rows, OUT: out, GROUP: group, BLOCK: q.blocksize },
      params: { texels, n, count, row },
      bind,
      groups,
    });
  };
  const w = textureFor(codes, "rgba32uint"), ordered = textureFor(codes / rows / group, "rgba32float");
  order("order_codes", codes, { words: words.range, codes: w });
  order("order_scales", codes / rows / group, { scales: scales.range, ordered });
  return { w, scales: ordered };
}

/** Launches the kernel. */
export function launchRows(options: TextureLaunch): void {
  const { q, x, w, scales, y, n, begin = 0, end = n, first = 0, firstScale = 0 } = options;
  const { norm, gated = false, add, low, ordered = false } = options;
  const { lanes, rows, out, group } = tilingOf(q, gated);
  const [part1 = 2 ** 32 - 1, part2 = 2 ** 32 - 1] = low?.starts ?? [];
  gpu().kernels.launch(kernel, {
    consts: {
      ...valueConstants(q.codeBook),
      ...{ BLOCK: q.blocksize, GROUP: group, ORDERED: ordered },
      ...{ M: x.rows, LANES: lanes, ROWS: rows, OUT: out, SHUFFLE: lanes === 8 },
      ...{ NORM: norm !== undefined, GATED: gated, ADD: add !== undefined, RANK: low?.rank ?? 0 },
    },
    params: {
      ...{ texels: q.columns / 32, n, begin, end, first, first_scale: firstScale },
      ...{ eps: norm?.eps ?? 0, plus: norm?.plus ?? 0, part1, part2 },
    },
    // all are bound in any case, and read where the constants say so
    bind: {
      ...{ x: x.range, w, scales, y: y.range, norm: norm?.weight ?? scales },
      ...{ before: (add ?? x).range, low_x: (low?.x ?? x).range, low_w: low?.w ?? scales },
    },
    groups: [Math.ceil((end - begin) / (lanes * out))],
  });
}

/** Launches a part of a product, with textures that are held where that was asked for. */
export function launchTexture({ x, q, y, begin, end }: Part): void {
  const words = span(q.packed, begin * q.columns / 2, end * q.columns / 2),
    absmax = absmaxOf({ q, begin, end });
  const first = words.first / 4, firstScale = (q.nested ? 4 : 1) * absmax.first;
  heldTexture(
    words.range,
    "rgba32uint",
    (w) =>
      heldTexture(
        absmax.range as Required<BufferRange>,
        "rgba32float",
        (scales) => launchRows({ q, x, w, scales, y, n: q.rows, begin, end, first, firstScale }),
        q.nested ? () => throughTexture(decodedScales(q, absmax)) : undefined,
      ),
  );
}

/** A tensor's numbers in a texture; the tensor is gone. */
export function throughTexture(t: Tensor): GpuTexture {
  const texture = toTexture(t.range, "rgba32float");
  t.dispose();
  return texture;
}

/**
 * The f32 scales that stand as codes in a range of `q.absmax`, decoded once for all tokens: in the kernel, four loads from
 * storage buffers a block were a third of its time.
 */
export function decodedScales(q: QuantizedTensor, { range, first }: ReturnType<typeof span>): Tensor {
  const words = range.bytes! / 4, y = empty([words, 4], "f32", "scratch");
  const { groups, row } = grid1d(Math.ceil(words / 64), 64);
  gpu().kernels.launch(scalesKernel, {
    params: { words, row, first: 4 * first },
    bind: { absmax: range, ...scaleBindings(q), y: y.range },
    groups,
  });
  return y;
}
