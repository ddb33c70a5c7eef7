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

/** Tokens to look at; those of segment 0 are padding. */
export type Calibration = Parameters<typeof modelInput>[0];

/** Whatever belongs to a layer whose inputs are measured. */
interface Reading {
  readonly layer: LinearLayer;
}

/** `xᵀ x` of a layer's inputs, the blocks on its diagonal of at most {@link WIDEST} columns, on the device. */
export type Moments = readonly Tensor[];

/** Wider inputs are taken as independent groups of this many: then the sums fit the smallest binding there is. */
const WIDEST = 4096;

/**
 * Runs the batches through the model block by block and yields `xᵀ x` over all tokens but padding, with the layers that
 * share the input; the sums are gone when the next are asked for. Each block computes with the weights of the files while it is looked at, and only then, so that the
 * inputs are those of the exact model and one block of it is held.
 */
export async function* inputMoments<T extends Reading>(
  model: Model,
  source: TensorSource,
  layers: readonly T[],
  batches: readonly Calibration[],
  widest = WIDEST,
): AsyncGenerator<[T[], Moments]> {
  const wanted = new Map<LinearLayer, T>(layers.map((own) => [own.layer, own]));
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
      const found: Measured<T>[] = [];
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
        for (const { same, blocks } of found) yield [same, blocks];
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
interface Measured<T> {
  same: T[];
  blocks: Tensor[];
}

/** Adds a layer's input to its sums; within one batch, layers that read the same tensor have the same sums. */
function watcher<T extends Reading>(
  found: Measured<T>[],
  wanted: ReadonlyMap<LinearLayer, T>,
  mask: Tensor | undefined,
  widest: number,
): (layer: LinearLayer, x: Tensor) => void {
  const seen = new Map<Tensor, Measured<T>>();
  return (layer, x) => {
    const reading = wanted.get(layer);
    if (!reading) return;
    let own = found.find(({ same }) => same.includes(reading));
    if (!own) {
      own = seen.get(x);
      if (own) own.same.push(reading);
      else {
        own = {
          same: [reading],
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
