/**
 * Merging an adapter into its base, written as a plain Hugging Face model.
 * @module
 */
import { join } from "@std/path";
import { writeSafetensors, writeWhole } from "../formats/mod.ts";
import type { Model } from "../model/model.ts";
import { parameterShapes, type ParameterSpec, storedShape, toStored } from "../model/parameters.ts";
import { dequantizeRows, QuantizedTensor } from "../quant/mod.ts";
import { productInto } from "../tensor/ops/linear.ts";
import { toF32 } from "../tensor/ops/storage.ts";
import { noGrad } from "../tensor/tape.ts";
import { empty, keep, scope, type Tensor } from "../tensor/tensor.ts";
import type { Adapter } from "./lora.ts";

/** Options of {@link writeModel}. */
export interface WriteModelOptions {
  /** Stored type; default `BF16`. */
  dtype?: "F32" | "F16" | "BF16";
  /** Bytes of one shard at most; default 512 MiB. */
  maxShardBytes?: number;
}

/**
 * Writes the model with the adapter merged in: `dequantize(W) + s B A`, the very function that was trained. (The
 * original 16-bit W would differ by the quantization error; re-quantizing would round small updates away.)
 * Shards are written one by one, so the host holds one shard.
 *
 * @param adapter undefined writes the base alone, as after full fine-tuning
 */
export async function writeModel(
  model: Model,
  adapter: Adapter | undefined,
  folder: string,
  options: WriteModelOptions = {},
): Promise<void> {
  const { dtype = "BF16", maxShardBytes = 512 * 2 ** 20 } = options;
  const width = dtype === "F32" ? 4 : 2;
  const shards: ParameterSpec[][] = [[]];
  let filled = 0, total = 0;
  for (const spec of parameterShapes(model.config)) {
    const bytes = width * spec.shape.reduce((a, b) => a * b, 1);
    if (filled > 0 && filled + bytes > maxShardBytes) {
      shards.push([]);
      filled = 0;
    }
    shards.at(-1)!.push(spec);
    filled += bytes;
    total += bytes;
  }
  Deno.mkdirSync(folder, { recursive: true });
  const weightMap: Record<string, string> = {};
  for (const [i, shard] of shards.entries()) {
    const number = (n: number) => String(n).padStart(5, "0");
    const file = shards.length === 1
      ? "model.safetensors"
      : `model-${number(i + 1)}-of-${number(shards.length)}.safetensors`;
    const tensors = [];
    for (const spec of shard) {
      const { name } = spec;
      const t = parameter(model, adapter, name);
      tensors.push({ name, dtype, shape: storedShape(spec), data: toStored(spec, await t.data()) });
      t.dispose();
      weightMap[name] = file;
    }
    writeSafetensors(join(folder, file), tensors);
  }
  const json = (name: string, value: unknown) =>
    writeWhole(
      join(folder, name),
      (put) => put(new TextEncoder().encode(JSON.stringify(value, null, 2) + "\n")),
    );
  if (shards.length > 1) {
    json("model.safetensors.index.json", { metadata: { total_size: total }, weight_map: weightMap });
  }
  const { quantization_config: _, ...config } = model.rawConfig;
  json("config.json", {
    ...config,
    torch_dtype: { F32: "float32", F16: "float16", BF16: "bfloat16" }[dtype],
  });
}

/** One parameter of the merged model, as a tensor that the caller disposes. */
function parameter(model: Model, adapter: Adapter | undefined, name: string): Tensor {
  const module = name.replace(/\.weight$/, "");
  return noGrad(() =>
    keep(scope(() => {
      const layer = model.linears.get(module);
      const dense = layer ? layer.weight : model.parameters.get(name)!;
      const lora = adapter?.layers.get(module);
      let w: Tensor;
      if (dense instanceof QuantizedTensor) {
        w = empty(dense.shape, "f32", "scratch");
        dequantizeRows(dense, 0, dense.shape[0]!, w);
      } else {
        w = lora ? toF32(dense) : dense.view(dense.shape);
      }
      if (lora) productInto("nn", lora.b, lora.a, w, lora.scaling);
      return w;
    }))
  );
}
