/**
 * Parameters of the base that an adapter trains whole: `modules_to_save` and `bias`.
 * @module
 */
import { NibbleError } from "../errors.ts";
import { gpu } from "../gpu/mod.ts";
import type { Model } from "../model/model.ts";
import { type ParameterPlace, parameterPlace } from "../model/replace.ts";
import { toF32 } from "../tensor/ops/storage.ts";
import { noGrad } from "../tensor/tape.ts";
import { scope, Tensor } from "../tensor/tensor.ts";
import type { TrainableSpec } from "./targets.ts";

/** A trained copy and what it stands in for. */
export interface WholeParameter {
  readonly place: ParameterPlace;
  readonly trained: Tensor;
  readonly base: Tensor;
}

/**
 * Copies the base's values into the trained tensors. Nothing is put in its place yet.
 *
 * @throws NibbleError `lora/quantized` for a weight in 4 bits
 */
export function trainWhole(
  model: Model,
  specs: readonly TrainableSpec[],
  parameters: ReadonlyMap<string, Tensor>,
): Map<string, WholeParameter> {
  const whole = new Map<string, WholeParameter>();
  for (const { name } of specs) {
    if (/\.lora_(A\.weight|B\.weight|magnitude_vector)$/.test(name)) continue;
    const place = parameterPlace(model, name)!;
    const base = place.get()!;
    if (!(base instanceof Tensor)) {
      throw new NibbleError("lora/quantized", `'${name}' is in 4 bits and cannot be trained whole`, {
        where: "lora_modules_to_save",
        remedy: "Name only embed_tokens, lm_head and norms there, or set load_in_4bit: false.",
      });
    }
    const trained = parameters.get(name)!;
    noGrad(() =>
      scope(() => {
        const values = base.dtype === "f32" ? base : toF32(base);
        gpu().stream.copy(values.buffer, values.offset, trained.buffer, trained.offset, values.bytes);
      })
    );
    whole.set(name, { place, trained, base });
  }
  return whole;
}
