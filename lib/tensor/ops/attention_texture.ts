/**
 * Attention on llvmpipe, whose storage buffers are read lane by lane: queries, keys and values go through textures.
 * @module
 */
import { type BufferRange, defineKernel, gpu, type GpuTexture } from "../../gpu/mod.ts";
import source from "../../../wgsl/attention_texture.wgsl" with { type: "text" };
import { TEXTURE_BYTES, toTexture, vectorLanes } from "./matmul_texture.ts";

const kernel = defineKernel("attention_texture", source);

/** Largest head for which the kernel's loops stay of a size that a processor runs well. */
const MAX_HEAD = 128;

export const TILE: Record<string, (h: number) => { ROW_BLOCKS: number; STEP: number }> = {
  forward: () => ({ ROW_BLOCKS: 2, STEP: 4 }),
  backward_q: () => ({ ROW_BLOCKS: 2, STEP: 4 }),
  backward_kv: () => ({ ROW_BLOCKS: 2, STEP: 4 }),
};

/**
 * A launch of an entry of `attention.wgsl` through textures, or undefined where it must go through buffers.
 *
 * @param widest bytes of the largest operand of one batch element
 */
export function attentionTexture(entry: string, headDim: number, widest: number) {
  const lanes = vectorLanes(gpu());
  if (lanes === 0 || !TILE[entry] || headDim > MAX_HEAD || widest > TEXTURE_BYTES - 256) return undefined;
  const tile = TILE[entry](headDim);
  return (
    consts: { HEAD_DIM: number; SEGMENTED: boolean },
    params: Record<"batch" | "time" | "heads" | "kv_heads", number>,
    ranges: Record<string, BufferRange>,
  ): void => {
    const { kernels, pool } = gpu();
    const textures: Record<string, GpuTexture> = {};
    for (const name of ["q", "k", "v", "dy"]) {
      if (ranges[name]) textures[name] = toTexture(ranges[name], "rgba32float");
    }
    const { batch, time, heads, kv_heads: kvHeads } = params;
    const rows = entry === "backward_kv" ? time : time * heads / kvHeads;
    kernels.launch(kernel, {
      entry,
      consts: { ...consts, ...tile, LANES: lanes },
      params,
      bind: { ...ranges, ...textures },
      groups: [Math.ceil(rows / (lanes * tile.ROW_BLOCKS)), kvHeads * batch],
    });
    for (const texture of Object.values(textures)) pool.release(texture);
  };
}
