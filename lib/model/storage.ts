/**
 * How a frozen dense weight is held on the device: in f32, or in the 16 bits that the recipe's `torch_dtype` names.
 * @module
 */
import { NibbleError } from "../errors.ts";
import { f32ToBf16, f32ToF16 } from "../formats/mod.ts";
import type { DType, HostArray } from "../tensor/tensor.ts";

/** `torch_dtype` as recipes and Transformers write it; `auto`: as the file stores each weight. */
export type TorchDtype = "auto" | "bfloat16" | "float16" | "float32";

const TYPES: Record<string, DType> = { bfloat16: "bf16", BF16: "bf16", float16: "f16", F16: "f16" };

/**
 * The element type for a frozen parameter. Vectors (norms, biases) stay f32: they are small, and sums follow them.
 *
 * @param stored the type in the file
 */
export function frozenType(
  shape: readonly number[],
  stored: string,
  torchDtype: TorchDtype | undefined,
): DType {
  if (shape.length < 2 || torchDtype === undefined) return "f32";
  return TYPES[torchDtype === "auto" ? stored : torchDtype] ?? "f32";
}

/**
 * Numbers as the device stores them, rounded to nearest even.
 *
 * @throws NibbleError `model/f16-range` for a number that f16 cannot hold
 */
export function encodeAs(
  dtype: DType,
  values: Float32Array<ArrayBuffer>,
  name: string,
  where: string,
): HostArray {
  if (dtype === "bf16") return f32ToBf16(values);
  if (dtype !== "f16") return values;
  const bits = f32ToF16(values);
  const beyond = bits.findIndex((b) => (b & 0x7c00) === 0x7c00);
  if (beyond >= 0) {
    throw new NibbleError("model/f16-range", `'${name}' holds ${values[beyond]}, more than float16's 65504`, {
      where,
      remedy: "Set torch_dtype: bfloat16.",
    });
  }
  return bits;
}
