/**
 * Attention on llvmpipe, whose storage buffers are read lane by lane: queries, keys and values go through textures.
 * @module
 */
import { type BufferRange, defineKernel, gpu, type Kernel, type LaunchOptions } from "../../gpu/mod.ts";
import source from "../../../wgsl/attention_texture.wgsl" with { type: "text" };
import texel from "../../../wgsl/shared/texel.wgsl" with { type: "text" };
import paramsSource from "../../../wgsl/shared/attention_params.wgsl" with { type: "text" };
import decodeSource from "../../../wgsl/attention_decode_texture.wgsl" with { type: "text" };
import { launchThroughTextures, TEXTURE_BYTES, vectorLanes } from "./matmul_texture.ts";

const kernel = defineKernel("attention_texture", source, paramsSource, texel);
/** A few query rows over a cache, all through textures. */
export const decodeKernel = defineKernel("attention_decode_texture", decodeSource, texel);

/** What goes through textures. */
const OPERANDS = ["q", "k", "v", "dy"];

/** Entries of the kernel. */
const ENTRIES = ["forward", "backward_q", "backward_kv"];

/**
 * Rows of a lane and of a step. More of both share loads and sums' upkeep among more products, until the unrolled loop
 * no longer fits a processor's first cache: of head sizes 32, 64 and 128 these were the fastest, or within 5 % of it.
 * Against the kernels on buffers, T = 128, batch 4: 9 heads of 64 on 3, forward 3.5 times as fast, dQ 2.8, dK/dV 3.6;
 * 4 heads of 256 on 1, 7, 4 and 20 times.
 */
function attentionTile(entry: string, headDim: number): { ROW_BLOCKS: number; STEP: number } {
  const [rows, step] = headDim <= 32
    ? (entry === "forward" ? [4, 4] : [4, 2])
    : headDim <= 64
    ? (entry === "forward" ? [4, 2] : entry === "backward_q" ? [3, 2] : [2, 2])
    : headDim <= 128
    ? (entry === "forward" ? [2, 2] : [2, 1])
    : [1, 1];
  return { ROW_BLOCKS: rows!, STEP: step! };
}

/**
 * A launch of an entry of `attention.wgsl` through textures, with the rows that it takes in a `step`, or undefined where
 * it must go through buffers.
 *
 * @param widest bytes of the largest operand of one batch element
 */
export function attentionTexture(entry: string, headDim: number, widest: number) {
  const lanes = vectorLanes(gpu());
  if (lanes === 0 || !ENTRIES.includes(entry) || widest > TEXTURE_BYTES - 256) return undefined;
  const tile = attentionTile(entry, headDim);
  const run = (
    consts: { HEAD_DIM: number; SEGMENTED: boolean },
    params: Record<"batch" | "time" | "heads" | "kv_heads", number>,
    ranges: Record<string, BufferRange>,
  ): void => {
    const { batch, time, heads, kv_heads: kvHeads } = params;
    const rows = entry === "backward_kv" ? time : time * heads / kvHeads;
    launch(kernel, ranges, {
      entry,
      consts: { ...consts, ...tile, LANES: lanes },
      params,
      groups: [Math.ceil(rows / (lanes * tile.ROW_BLOCKS)), kvHeads * batch],
    });
  };
  return Object.assign(run, { step: tile.STEP });
}

/** Launches a kernel whose operands are copied into textures. */
function launch(of: Kernel, ranges: Record<string, BufferRange>, options: Omit<LaunchOptions, "bind">): void {
  const read = Object.fromEntries(Object.entries(ranges).filter(([name]) => OPERANDS.includes(name)));
  launchThroughTextures(of, read, { ...options, bind: ranges });
}

/** Largest head for which a lane of {@link decodeKernel} keeps a query and its sum in registers. */
export const MAX_DECODE_HEAD = 128;

/** Launches `attention_decode.wgsl` through textures; false where it must go through buffers. */
export function decodeTexture(
  headDim: number,
  params: Record<string, number>,
  ranges: Record<"q" | "k" | "v" | "o", BufferRange>,
  groups: readonly [number, number],
): boolean {
  const lanes = vectorLanes(gpu());
  if (lanes === 0 || headDim > MAX_DECODE_HEAD || ranges.k.bytes! > TEXTURE_BYTES) return false;
  launch(decodeKernel, ranges, { consts: { HEAD_DIM: headDim, LANES: lanes }, params, groups });
  return true;
}
