/**
 * What scripts of several topics do with nibble: a tiny model of any family as a folder, and logits of a folder.
 * @module
 */
import { loadModel, type LoadModelOptions } from "../../lib/api.ts";
import { writeSafetensors } from "../../lib/formats/mod.ts";
import { openGpu } from "../../lib/gpu/mod.ts";
import { writeModel } from "../../lib/lora/merge.ts";
import { readConfig } from "../../lib/model/config.ts";
import { buildModel } from "../../lib/model/load.ts";
import { applyHead, forward, type Model, modelInput } from "../../lib/model/model.ts";
import { randomSource } from "../../lib/model/random_source.ts";
import { scope } from "../../lib/tensor/tensor.ts";

/** Tokens that every comparison of logits goes through; both sides know them. */
export const IDS = [1, 17, 5, 60, 33, 2, 41, 8, 8, 25, 3, 52];

/** A model with fresh weights in F32, from its config.json. */
export async function writeRandomModel(config: Record<string, unknown>, folder: string): Promise<void> {
  await openGpu();
  const model = await buildModel(config, randomSource(readConfig(config, folder), 7));
  await writeModel(model, undefined, folder, { dtype: "F32" });
  model.dispose();
}

/** `[T, V]` of {@link IDS}. */
export async function logitsOf(model: Model): Promise<Float32Array> {
  const length = IDS.length;
  const input = {
    ids: Uint32Array.from(IDS),
    positions: Uint32Array.from(IDS.keys()),
    segments: new Uint32Array(length).fill(1),
    batch: 1,
    time: length,
  };
  const logits = scope(() => applyHead(model, forward(model, modelInput(input))));
  const values = await logits.data();
  logits.dispose();
  return values;
}

/** Loads a folder, writes its logits as `logits.safetensors` in it, and says what loading did. */
export async function writeLogits(folder: string, options: LoadModelOptions = {}): Promise<Model["summary"]> {
  const model = await loadModel(folder, options);
  const data = await logitsOf(model);
  const shape = [IDS.length, model.config.vocab_size];
  writeSafetensors(`${folder}/logits.safetensors`, [{ name: "logits", dtype: "F32", shape, data }]);
  model.dispose();
  return model.summary;
}

/** The largest absolute difference, and the largest magnitude of what is wanted. */
export function compare(got: ArrayLike<number>, want: ArrayLike<number>): { apart: number; size: number } {
  let apart = got.length === want.length ? 0 : Infinity, size = 0;
  for (let i = 0; i < want.length; i++) {
    apart = Math.max(apart, Math.abs(got[i]! - want[i]!));
    size = Math.max(size, Math.abs(want[i]!));
  }
  return { apart, size };
}
