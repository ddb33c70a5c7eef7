/**
 * A checkpoint that bitsandbytes quantized, seen like any other: its weights under their own shapes.
 * @module
 */
import { decodeAbsmax } from "../quant/oracle.ts";
import { quantizedNames, type QuantState, readQuantForm, readQuantState } from "./bnb.ts";
import { elementCount, type TensorInfo, type TensorSource } from "./source.ts";

/**
 * The source with every 4-bit weight as a tensor of the weight's shape, type `NF4` or `FP4`: `readF32` decodes, as
 * `code * absmax` in f32, `readBytes` gives the codes, `readQuantState` both for use as they are. A source without such
 * weights comes back unchanged.
 *
 * @throws NibbleError `formats/quant-state` for a weight whose state is malformed
 */
export function quantizedSource(source: TensorSource): TensorSource {
  const names = quantizedNames(source);
  if (names.length === 0) return source;
  const tensors = new Map<string, TensorInfo>(source.tensors);
  for (const name of names) {
    const form = readQuantForm(source, name);
    const bytes = source.tensors.get(name)?.bytes ?? 0;
    const dtype = form.quantType.toUpperCase();
    tensors.set(name, { name, dtype, shape: form.shape, bytes, quantized: form });
  }
  // a weight is read in pieces, one after the other
  let last: { name: string; state: QuantState; absmax: Float32Array } | undefined;
  const open = (name: string) => {
    if (last?.name !== name) {
      const state = readQuantState(source, name);
      last = { name, state, absmax: decodeAbsmax(state) };
    }
    return last;
  };
  return {
    path: source.path,
    tensors,
    readBytes: (name, start, end) => source.readBytes(name, start, end),
    readPlain: (name, into, start) =>
      tensors.get(name)?.quantized ? undefined : source.readPlain?.(name, into, start),
    readQuantState: (name) => readQuantState(source, name),
    close: () => source.close(),
    readF32(name, start = 0, end) {
      if (!tensors.get(name)?.quantized) return source.readF32(name, start, end);
      const { state: { packed, quantMap, blocksize, shape }, absmax } = open(name);
      return Float32Array.from({ length: (end ?? elementCount(shape)) - start }, (_, k) => {
        const i = start + k, byte = packed[i >> 1]!;
        return quantMap[i & 1 ? byte & 15 : byte >> 4]! * absmax[Math.floor(i / blocksize)]!;
      });
    },
  };
}
