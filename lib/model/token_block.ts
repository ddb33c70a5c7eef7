/**
 * A transformer block for one token at a time in few launches: for llvmpipe and weights of 4 bits.
 * @module
 */
import { gpu } from "../gpu/mod.ts";
import { QuantizedStack, QuantizedTensor, type StackedWeight, stackFits } from "../quant/mod.ts";
import { splitColumns } from "../tensor/ops/columns.ts";
import { HELD_BYTES } from "../tensor/ops/matmul_texture.ts";
import { gated } from "../tensor/ops/pointwise.ts";
import { rope } from "../tensor/ops/rope.ts";
import type { Tensor } from "../tensor/tensor.ts";
import { type Block, headNorm, type Norm, type Pass } from "./block.ts";
import type { ModelConfig } from "./config.ts";
import type { LinearLayer } from "./linear.ts";
import { mlpWidths, qkvWidths } from "./parameters.ts";

/** The block's weights in textures, for as long as they stand still; dispose it. */
export interface TokenBlock {
  /** As `blockForward`, for one row. Not recorded. */
  forward(c: ModelConfig, i: number, x: Tensor, pass: Pass): Tensor;
  /** Bytes of its textures. */
  readonly bytes: number;
  dispose(): void;
}

/** Elements whose places in a tensor are those of a tensor of their own. */
const ALIGNED = 64;

/** {@link tokenBlock} of the first blocks, as many as may be held (512 MiB of textures). */
export function tokenBlocks(c: ModelConfig, blocks: readonly Block[]): TokenBlock[] {
  const made: TokenBlock[] = [];
  let bytes = 0;
  for (const block of blocks) {
    const next = tokenBlock(c, block);
    if (!next) break;
    made.push(next);
    bytes += next.bytes;
    if (bytes + next.bytes > Math.min(HELD_BYTES, gpu().pool.room() / 4)) break;
  }
  return made;
}

/** A block's {@link TokenBlock}, or undefined where it, its adapters or the device do not suit. */
export function tokenBlock(c: ModelConfig, block: Block): TokenBlock | undefined {
  const [mlp] = block.mlp;
  if (block.router || !c.family.gated) return undefined;
  if (!isRms(c, block.inputNorm) || !isRms(c, block.postNorm)) return undefined;
  const inKernel = mlp!.in.length === 2 && (c.hidden_act === "silu" || c.hidden_act === "swish");
  const weights = [block.qkv, [block.o], mlp!.in, [mlp!.out]].map((layers) => layers.map(stackedWeight));
  const suits = (layers: typeof weights[0], i: number): layers is StackedWeight[] =>
    layers.every((w) => w !== undefined) && stackFits(layers as StackedWeight[], i === 2 && inKernel);
  if (!weights.every(suits)) return undefined;
  const norms = [block.inputNorm.weight, undefined, block.postNorm.weight, undefined];
  const stacks = weights.map((layers, i) => new QuantizedStack(layers, norms[i]));
  const [qkv, o, into, out] = stacks as [QuantizedStack, QuantizedStack, QuantizedStack, QuantizedStack];
  const norm = { eps: c.norm_eps, plus: c.family.norm === "rmsPlusOne" ? 1 : 0 };
  return {
    forward(c, i, x, pass) {
      const [q, k, v] = rotated(c, block, i, qkv.apply(x, { norm }), pass);
      const h = o.apply(pass.attend(i, q, k, v), { add: x });
      if (inKernel) return out.apply(into.apply(h, { norm, gated: true }), { add: h });
      const [gate, up] = parts(into.apply(h, { norm }), mlpWidths(c)) as [Tensor, Tensor];
      return out.apply(gated(c.hidden_act, gate, up), { add: h });
    },
    bytes: stacks.reduce((n, stack) => n + stack.bytes, 0),
    dispose: () => stacks.forEach((stack) => stack.dispose()),
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

/** Query, key and value of one row, ready for attention. */
function rotated(c: ModelConfig, block: Block, i: number, all: Tensor, pass: Pass): [Tensor, Tensor, Tensor] {
  const { num_attention_heads: heads, num_key_value_heads: kvHeads, head_dim: headDim } = c;
  const { positions } = pass;
  const table = c.layers[i]!.rope ? pass.table : undefined;
  const [queries, keys, values] = qkvWidths(c) as [number, number, number];
  if (!block.qNorm && !block.kNorm && table) { // heads of keys turn as those of queries do
    const [both, v] = parts(all, [queries + keys, values]) as [Tensor, Tensor];
    const [q, k] = parts(rope(both, positions, table, heads + kvHeads, headDim), [queries, keys]);
    return [q!, k!, v];
  }
  let [q, k, v] = parts(all, [queries, keys, values]) as [Tensor, Tensor, Tensor];
  if (block.qNorm) q = headNorm(c, q, block.qNorm);
  if (block.kNorm) k = headNorm(c, k, block.kNorm);
  if (!table) return [q, k, v];
  return [rope(q, positions, table, heads, headDim), rope(k, positions, table, kvHeads, headDim), v];
}

/** Parts of one row; where they may begin anywhere, without a copy. */
function parts(row: Tensor, widths: readonly number[]): Tensor[] {
  if (!widths.every((width) => width % ALIGNED === 0)) return splitColumns(row, widths);
  const units = row.view([row.size / ALIGNED, ALIGNED]);
  let from = 0;
  return widths.map((width) => {
    const begin = from / ALIGNED;
    from += width;
    return units.slice(begin, from / ALIGNED).view([1, width]);
  });
}
