/**
 * A cache of keys and values in textures, for one token at a time on llvmpipe: nothing is copied between launches, which
 * there costs as much as a launch.
 * @module
 */
import { defineKernel, gpu, type GpuTexture } from "../../gpu/mod.ts";
import source from "../../../wgsl/token_cache.wgsl" with { type: "text" };
import texel from "../../../wgsl/shared/texel.wgsl" with { type: "text" };
import { empty, type Tensor } from "../tensor.ts";
import { type AttentionHeads, headParams } from "./attention.ts";
import { decodeKernel, MAX_DECODE_HEAD } from "./attention_texture.ts";
import { TEXTURE_BYTES, textureFor, toTexture, vectorLanes } from "./matmul_texture.ts";

const kernel = defineKernel("token_cache", source, texel);

/** Whether a {@link TokenCache} can be made of these, on this device; `rotary`: rotated elements of a head. */
export function tokenCacheFits(
  { kvHeads, headDim }: AttentionHeads,
  positions: number,
  rotary: number,
): boolean {
  return vectorLanes(gpu()) > 0 && headDim % 4 === 0 && headDim <= MAX_DECODE_HEAD && rotary % 8 === 0 &&
    4 * positions * kvHeads * headDim <= TEXTURE_BYTES;
}

/** Keys and values of a layer. Dispose it. */
export class TokenCache {
  readonly #k: GpuTexture;
  readonly #v: GpuTexture;

  /** @param k,v caches in buffers, `[capacity, kvHeads * headDim]`, whose contents it begins with */
  constructor(k: Tensor, v: Tensor) {
    this.#k = toTexture(k.range, "rgba32float");
    this.#v = toTexture(v.range, "rgba32float");
  }

  /**
   * Attention of a token over all before it and itself. Not recorded.
   *
   * @param qkv its query, key and value side by side, not rotated yet
   * @param table from `ropeTable`, or undefined to rotate nothing
   * @returns `[1, heads * headDim]`
   */
  attend(qkv: Tensor, position: number, table: Tensor | undefined, options: AttentionHeads): Tensor {
    const { heads, kvHeads, headDim } = options;
    const { pool, kernels } = gpu();
    const o = empty([1, heads * headDim]);
    const q = textureFor(o.size / 4, "rgba32float");
    const textures = { q, k: this.#k, v: this.#v };
    kernels.launch(kernel, {
      consts: { HEAD_DIM: headDim },
      params: { position, heads, kv_heads: kvHeads, rotary: table ? 2 * table.shape[1]! : 0 },
      bind: { qkv: qkv.range, table: (table ?? qkv).range, ...textures },
      groups: [Math.ceil(qkv.size / 4 / 32)],
    });
    kernels.launch(decodeKernel, {
      consts: { HEAD_DIM: headDim, LANES: vectorLanes(gpu()) },
      params: { start: position, ...headParams(options) },
      bind: { ...textures, o: o.range },
      groups: [heads],
    });
    pool.release(q);
    return o;
  }

  /** Gives the textures back. */
  dispose(): void {
    gpu().pool.release(this.#k);
    gpu().pool.release(this.#v);
  }
}
