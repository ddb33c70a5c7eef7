/**
 * A transformer block for one token at a time in few launches: for llvmpipe and weights of 4 bits.
 * @module
 */
import { gpu } from "../gpu/mod.ts";
import { QuantizedStack, QuantizedTensor, type StackedWeight, stackFits } from "../quant/mod.ts";
import { splitColumns } from "../tensor/ops/columns.ts";
import { HELD_BYTES } from "../tensor/ops/matmul_texture.ts";
import { gated } from "../tensor/ops/pointwise.ts";
import { TokenCache, tokenCacheFits } from "../tensor/ops/token_cache.ts";
import type { Tensor } from "../tensor/tensor.ts";
import type { Block, Norm } from "./block.ts";
import type { ModelConfig } from "./config.ts";
import type { LinearLayer } from "./linear.ts";
import type { Model } from "./model.ts";
import { mlpWidths } from "./parameters.ts";

/** A block's weights and its cache in textures, for as long as the weights stand still; dispose it. */
export interface TokenBlock {
  /**
   * As `blockForward`, for the one token at a position. Not recorded.
   *
   * @param table cosines and sines, where the model has them
   */
  forward(x: Tensor, position: number, table: Tensor | undefined): Tensor;
  /** Bytes of its weights' textures. */
  readonly bytes: number;
  dispose(): void;
}

/** Keys and values of a layer so far, `[capacity, kvHeads * headDim]` each. */
interface Cache {
  k: Tensor;
  v: Tensor;
}

/** {@link TokenBlock}s of a model's first blocks, as many as suit and may be held (512 MiB of textures). */
export function tokenBlocks(model: Model, caches: readonly Cache[]): TokenBlock[] {
  const made: TokenBlock[] = [];
  let bytes = 0;
  for (const [i, block] of model.blocks.entries()) {
    const next = tokenBlock(model.config, block, i, caches[i]!);
    if (!next) break;
    made.push(next);
    bytes += next.bytes;
    if (bytes + next.bytes > Math.min(HELD_BYTES, gpu().pool.room() / 4)) break;
  }
  return made;
}

function tokenBlock(
  c: ModelConfig,
  block: Block,
  i: number,
  { k, v }: Cache,
): TokenBlock | undefined {
  const [mlp] = block.mlp, { window, scale, rope } = c.layers[i]!;
  const heads = {
    ...{ heads: c.num_attention_heads, kvHeads: c.num_key_value_heads, headDim: c.head_dim },
    ...{ window, scale },
  };
  if (block.router || !c.family.gated || block.qNorm || block.kNorm) return undefined;
  if (!isRms(c, block.inputNorm) || !isRms(c, block.postNorm)) return undefined;
  if (!tokenCacheFits(heads, k.rows, c.rotary_dim)) return undefined;
  const inKernel = mlp!.in.length === 2 && (c.hidden_act === "silu" || c.hidden_act === "swish");
  const parts: { layers: readonly LinearLayer[]; norm?: Tensor; gated?: boolean }[] = [
    { layers: block.qkv, norm: block.inputNorm.weight },
    { layers: [block.o] },
    { layers: mlp!.in, norm: block.postNorm.weight, gated: inKernel },
    { layers: [mlp!.out] },
  ];
  const chosen = parts.map(({ layers, ...options }) => ({ weights: layers.map(stackedWeight), options }));
  const suit = chosen.every(({ weights, options: { gated = false } }) =>
    weights.every((w) => w !== undefined) && stackFits(weights as StackedWeight[], gated)
  );
  if (!suit) return undefined;
  const stacks = chosen.map(({ weights, options }) =>
    new QuantizedStack(weights as StackedWeight[], options)
  );
  const [qkv, o, into, out] = stacks as [QuantizedStack, QuantizedStack, QuantizedStack, QuantizedStack];
  const norm = { eps: c.norm_eps, plus: c.family.norm === "rmsPlusOne" ? 1 : 0 };
  const cache = new TokenCache(k, v);
  return {
    forward(x, position, table) {
      const a = cache.attend(qkv.apply(x, { norm }), position, rope ? table : undefined, heads);
      const h = o.apply(a, { add: x });
      if (inKernel) return out.apply(into.apply(h, { norm }), { add: h });
      const [gate, up] = splitColumns(into.apply(h, { norm }), mlpWidths(c)) as [Tensor, Tensor];
      return out.apply(gated(c.hidden_act, gate, up), { add: h });
    },
    bytes: stacks.reduce((n, stack) => n + stack.bytes, 0),
    dispose: () => [...stacks, cache].forEach((held) => held.dispose()),
  };
}

function isRms(c: ModelConfig, { weight, bias }: Norm): boolean {
  return c.family.norm !== "layer" && !bias && weight.dtype === "f32";
}

/** A layer as a stack takes it: in 4 bits, without a bias, its adapter no more than a product through a low rank. */
function stackedWeight({ weight, bias, adapter, low }: LinearLayer): StackedWeight | undefined {
  if (!(weight instanceof QuantizedTensor) || bias || (adapter && !low)) return undefined;
  return { weight, low: adapter && low!() };
}
