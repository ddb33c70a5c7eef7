/**
 * What the linear layers of a model read: `xᵀ x` of their inputs over some tokens.
 * @module
 */
import type { TensorSource } from "../formats/mod.ts";
import { gpu } from "../gpu/mod.ts";
import { type Block, blockForward } from "../model/block.ts";
import { baseLinear, type LinearLayer } from "../model/linear.ts";
import { embed, forwardPass, type Model, modelInput } from "../model/model.ts";
import { encodeAs, frozenType } from "../model/storage.ts";
import { QuantizedTensor } from "../quant/mod.ts";
import { takeColumns } from "../tensor/ops/columns.ts";
import { productInto } from "../tensor/ops/linear.ts";
import { mul } from "../tensor/ops/pointwise.ts";
import { noGrad } from "../tensor/tape.ts";
import { keep, scope, type Tensor, tensor, zeros } from "../tensor/tensor.ts";
import type { Matrix } from "./decompose.ts";
import type { LoraLayer } from "./lora.ts";

/** Tokens to look at; those of segment 0 are padding. */
export type Calibration = Parameters<typeof modelInput>[0];

/** `xᵀ x` of a layer's inputs, the blocks on its diagonal of at most {@link WIDEST} columns. */
export type Moments = readonly Matrix[];

/** Wider inputs are taken as independent groups of this many: the factor's cost grows with the cube. */
const WIDEST = 2048;

/**
 * Runs the batches through the model block by block and yields `xᵀ x` over all tokens but padding, with the layers that
 * share the input. Each block computes with the weights of the files while it is looked at, and only then, so that the
 * inputs are those of the exact model and one block of it is held.
 */
export async function* inputMoments(
  model: Model,
  source: TensorSource,
  layers: readonly LoraLayer[],
  batches: readonly Calibration[],
  widest = WIDEST,
): AsyncGenerator<[LoraLayer[], Moments]> {
  const wanted = new Map(layers.map((lora) => [lora.layer, lora]));
  const last = model.blocks.findLastIndex((block) => linearsOf(block).some((l) => wanted.has(l)));
  const running = batches.map((batch) =>
    noGrad(() =>
      scope(() => {
        const input = modelInput(batch);
        const real = Float32Array.from(batch.segments, (s) => s > 0 ? 1 : 0);
        const mask = real.includes(0) ? tensor(real, [real.length, 1]) : undefined;
        const hidden = embed(model, input.ids, input.positionIds);
        for (const t of [input.positions, input.segments, hidden, ...(mask ? [mask] : [])]) keep(t);
        return { input, mask, hidden };
      })
    )
  );
  try {
    for (const [i, block] of model.blocks.slice(0, last + 1).entries()) {
      const found: Measured[] = [];
      try {
        withExactWeights(linearsOf(block), source, () => {
          for (const run of running) {
            const watch = watcher(found, wanted, run.mask, widest);
            for (const layer of linearsOf(block)) {
              layer.adapter = (x) => (watch(layer, x), baseLinear(layer, x));
            }
            const before = run.hidden;
            run.hidden = keep(
              noGrad(() =>
                scope(() => blockForward(model.config, block, i, before, forwardPass(model, run.input)))
              ),
            );
            before.dispose();
            gpu().stream.flush();
          }
        });
        for (const { same, blocks } of found) {
          const moments: Matrix[] = [];
          for (const t of blocks) moments.push({ rows: t.rows, columns: t.columns, data: await t.data() });
          yield [same, moments];
        }
      } finally {
        for (const t of found.flatMap(({ blocks }) => blocks)) t.dispose();
      }
    }
  } finally {
    for (const { input, mask, hidden } of running) {
      for (const t of [input.positions, input.segments, hidden, mask]) t?.dispose();
    }
  }
}

/** Layers that read one input, and the sums over it. */
interface Measured {
  same: LoraLayer[];
  blocks: Tensor[];
}

/** Adds a layer's input to its sums; within one batch, layers that read the same tensor have the same sums. */
function watcher(
  found: Measured[],
  wanted: ReadonlyMap<LinearLayer, LoraLayer>,
  mask: Tensor | undefined,
  widest: number,
): (layer: LinearLayer, x: Tensor) => void {
  const seen = new Map<Tensor, Measured>();
  return (layer, x) => {
    const lora = wanted.get(layer);
    if (!lora) return;
    let own = found.find(({ same }) => same.includes(lora));
    if (!own) {
      own = seen.get(x);
      if (own) own.same.push(lora);
      else {
        own = {
          same: [lora],
          blocks: groupsOf(x.columns, widest).map((n) => keep(zeros([n, n], "f32", "scratch"))),
        };
        found.push(own);
      }
    }
    if (seen.has(x)) return;
    seen.set(x, own);
    scope(() => {
      let column = 0;
      for (const block of own.blocks) {
        const part = own.blocks.length === 1 ? x : takeColumns(x, column, block.columns);
        productInto("tn", part, mask ? mul(part, mask) : part, block);
        column += block.columns;
      }
    });
  };
}

/** Runs `work` with these layers' weights as the files have them; weights and adapters are then what they were. */
function withExactWeights(layers: readonly LinearLayer[], source: TensorSource, work: () => void): void {
  const before = layers.map(({ weight, adapter }) => ({ weight, adapter }));
  try {
    for (const layer of layers) {
      if (!(layer.weight instanceof QuantizedTensor)) continue;
      const name = `${layer.module}.weight`;
      const dtype = frozenType(layer.shape, source.tensors.get(name)!.dtype, "auto");
      const values = encodeAs(
        dtype,
        source.readF32(name) as Float32Array<ArrayBuffer>,
        name,
        "init_lora_weights",
      );
      layer.weight = keep(tensor(values, layer.shape, dtype, "scratch"));
    }
    work();
  } finally {
    layers.forEach((layer, i) => {
      const { weight, adapter } = before[i]!;
      if (layer.weight !== weight) (layer.weight as Tensor).dispose();
      layer.weight = weight;
      layer.adapter = adapter;
    });
  }
}

function linearsOf({ qkv, o, mlp, router }: Block): LinearLayer[] {
  return [...qkv, o, ...mlp.flatMap((f) => [...f.in, f.out]), ...(router ? [router] : [])];
}

/** Widths of groups no wider than `widest`, as equal as multiples of four are. */
function groupsOf(columns: number, widest: number): number[] {
  const count = Math.ceil(columns / widest);
  const width = Math.ceil(columns / count / 4) * 4;
  return Array.from({ length: count }, (_, i) => Math.min(width, columns - i * width));
}
