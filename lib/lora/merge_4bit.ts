/**
 * A model in 4 bits as a Hugging Face folder that bitsandbytes loads.
 * @module
 */
import { NibbleError } from "../errors.ts";
import {
  type MergedAdapter,
  type QuantState,
  quantStateTensors,
  type StreamedTensor,
  streamShardedSafetensors,
} from "../formats/mod.ts";
import type { Model } from "../model/model.ts";
import { storedShape } from "../model/parameters.ts";
import { QuantizedTensor, toQuantState } from "../quant/mod.ts";
import type { Adapter } from "./lora.ts";
import { DTYPE_NAMES, mergedParameters, mergedValues, writeConfig } from "./merge.ts";

/** Options of {@link writeQuantizedModel}. */
export interface WriteQuantizedOptions {
  /** Type of what is not in 4 bits, and to which bitsandbytes decodes what is; default `BF16`. */
  dtype?: "F32" | "F16" | "BF16";
  maxShardBytes?: number;
  merged?: MergedAdapter;
}

/**
 * Writes a model whose linear layers are quantized, with `quantization_config` for Transformers. Codes and scales are
 * the device's own; only parameters that the adapter trained whole are taken from it.
 */
export async function writeQuantizedModel(
  model: Model,
  adapter: Adapter | undefined,
  folder: string,
  options: WriteQuantizedOptions = {},
): Promise<string[]> {
  const { dtype = "BF16", maxShardBytes, merged } = options;
  const tensors: StreamedTensor[] = [];
  const skipped = new Set(["lm_head"]);
  let sample: QuantizedTensor | undefined;
  for (const spec of mergedParameters(model, adapter)) {
    const module = spec.name.replace(/\.weight$/, "");
    const weight = model.linears.get(module)?.weight;
    if (weight instanceof QuantizedTensor) {
      sample = weight;
      tensors.push(...await quantizedTensors(spec.name, () => stateOf(weight, dtype)));
    } else {
      if (spec.linear) skipped.add(module);
      tensors.push({
        name: spec.name,
        dtype,
        shape: storedShape(spec),
        data: () => mergedValues(model, adapter, spec),
      });
    }
  }
  const files = await streamShardedSafetensors(folder, tensors, maxShardBytes ? { maxShardBytes } : {});
  writeConfig(model, adapter, folder, {
    dtype,
    merged,
    ...(sample ? { quantization: quantizationConfig(sample, [...skipped], dtype) } : {}),
  });
  return files;
}

/** Names and sizes now (the length of a state's text depends on its numbers), values when their turn comes. */
async function quantizedTensors(name: string, read: () => Promise<QuantState>): Promise<StreamedTensor[]> {
  const outline = quantStateTensors(name, await read());
  let state: Promise<QuantState> | undefined;
  return outline.map(({ name: part, dtype, shape }, i) => ({
    name: part,
    dtype,
    shape,
    data: async function* () {
      state ??= read();
      const data = quantStateTensors(name, (await state)!)[i]!.data as ArrayBufferView;
      if (i === outline.length - 1) state = undefined; // the last of its parts
      yield data;
    },
  }));
}

async function stateOf(weight: QuantizedTensor, dtype: keyof typeof DTYPE_NAMES): Promise<QuantState> {
  const state = await toQuantState(weight);
  const { quantType } = state;
  if (quantType !== "int4") return { ...state, quantType, dtype: DTYPE_NAMES[dtype] };
  throw new NibbleError("lora/int4", "bitsandbytes has no int4: such a model cannot be written", {
    where: weight.name ?? `[${weight.shape}]`,
    remedy: "Quantize to nf4 or fp4, or write 16 bits.",
  });
}

function quantizationConfig(
  { quantType, nested }: QuantizedTensor,
  skipped: string[],
  dtype: "F32" | "F16" | "BF16",
): Record<string, unknown> {
  return {
    quant_method: "bitsandbytes",
    load_in_4bit: true,
    load_in_8bit: false,
    bnb_4bit_quant_type: quantType,
    bnb_4bit_use_double_quant: nested !== undefined,
    bnb_4bit_compute_dtype: DTYPE_NAMES[dtype],
    bnb_4bit_quant_storage: "uint8",
    llm_int8_skip_modules: skipped,
  };
}
