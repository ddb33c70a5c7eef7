/**
 * Weight files: bytes in, named tensors out, piece by piece. Safetensors (single and sharded), GGUF, PEFT adapters
 * and bitsandbytes' 4-bit states. Knows nothing of the GPU or of training.
 *
 * @example
 * ```ts
 * import { openSafetensors, writeSafetensors } from "./mod.ts";
 * const path = await Deno.makeTempFile({ suffix: ".safetensors" });
 * writeSafetensors(path, [{ name: "w", dtype: "F32", shape: [2, 3], data: new Float32Array(6).fill(1) }]);
 * const source = openSafetensors(path);
 * if (source.tensors.get("w")?.shape.join() !== "2,3") throw new Error("shape");
 * if (source.readF32("w", 3, 6).join() !== "1,1,1") throw new Error("second row");
 * source.close();
 * await Deno.remove(path);
 * ```
 * @module
 */
export {
  type NestedState,
  QUANT_STORAGE,
  type QuantDtype,
  type QuantForm,
  quantizedNames,
  type QuantState,
  quantStateTensors,
  type QuantStorage,
  readQuantForm,
  readQuantState,
} from "./bnb.ts";
export { quantizedSource } from "./bnb_source.ts";
export { contentHash, contentHashOf, type ContentHashOptions } from "./content_hash.ts";
export {
  bf16ToF32,
  bytesOf,
  DTYPE_BYTES,
  f16ToF32,
  f32ToBf16,
  f32ToF16,
  isPlain,
  isStoredDtype,
  nonFinite,
  type PlainDtype,
  type StoredDtype,
} from "./dtype.ts";
export {
  isFile,
  isObject,
  isSamePlace,
  makeOutputFolder,
  readTextIfThere,
  refuseOverwriting,
  writeText,
} from "./file.ts";
export { type GgufSource, openGguf } from "./gguf.ts";
export type { GgufMetadata } from "./gguf_config.ts";
export { writeGgufAdapter, type WriteGgufAdapterOptions } from "./gguf_adapter.ts";
export { type GgufModelFacts, writeGgufModel, type WriteGgufOptions } from "./gguf_export.ts";
export type { GgufArray, GgufValue } from "./gguf_header.ts";
export { type ModelFiles, openModel, openModelSides } from "./model_files.ts";
export {
  type Adapter,
  adapterHash,
  adapterKey,
  type AdapterPart,
  type AdapterTensor,
  parseAdapterKey,
  readAdapter,
  writeAdapter,
} from "./peft.ts";
export {
  type AdapterConfig,
  adapterConfig,
  type AdapterProvenance,
  formatAdapterConfig,
  type InitLoraWeights,
  MERGED_ADAPTERS,
  type MergedAdapter,
  parseAdapterConfig,
} from "./peft_config.ts";
export { openSafetensors, openShardedSafetensors, type SafetensorsSource } from "./safetensors.ts";
export {
  type ShardOptions,
  type StreamedTensor,
  streamShardedSafetensors,
  type TensorData,
  type WritableDtype,
  type WritableTensor,
  writeSafetensors,
  writeShardedSafetensors,
} from "./safetensors_write.ts";
export { elementCount, type TensorInfo, type TensorSource } from "./source.ts";
