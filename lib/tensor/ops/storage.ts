/**
 * Frozen weights in 16 bits: stored two to a word, decoded by the kernels that load them, computed with in f32.
 * @module
 */
import { defineKernel, gpu } from "../../gpu/mod.ts";
import source from "../../../wgsl/to_f32.wgsl" with { type: "text" };
import { grid1d, rowRanges } from "../grid.ts";
import { BYTES, type DType, empty, shapeError, type Tensor } from "../tensor.ts";

const kernel = defineKernel("to_f32", source);

/** `W_KIND` of the kernels that decode weights as they load them. */
export type StorageKind = 0 | 1 | 2;

const KINDS: Partial<Record<DType, StorageKind>> = { f32: 0, f16: 1, bf16: 2 };

/**
 * The number by which kernels tell element types of weights apart.
 *
 * @throws NibbleError `tensor/shape` for integers
 */
export function storageKind(op: string, w: { dtype: DType; shape?: readonly number[] }): StorageKind {
  const kind = KINDS[w.dtype];
  if (kind === undefined) {
    throw shapeError(op, `w [${w.shape ?? ""}] is ${w.dtype}, not a floating-point type`);
  }
  return kind;
}

/** A f32 copy of a tensor of any floating-point type, exact; not recorded. Accounted as scratch. */
export function toF32(x: Tensor): Tensor {
  const kind = storageKind("toF32", x);
  const y = empty(x.shape, "f32", "scratch");
  if (kind === 0) {
    gpu().stream.copy(x.buffer, x.offset, y.buffer, y.offset, x.bytes);
    return y;
  }
  for (const [from, to] of rowRanges(x.size, [BYTES.f32])) {
    const { groups, row } = grid1d(Math.ceil((to - from) / 128), 64);
    gpu().kernels.launch(kernel, {
      consts: { W_KIND: kind },
      params: { n: to - from, row },
      bind: {
        x: { buffer: x.buffer, offset: x.offset + 2 * from, bytes: 2 * (to - from) },
        y: { buffer: y.buffer, offset: y.offset + 4 * from, bytes: 4 * (to - from) },
      },
      groups,
    });
  }
  return y;
}
