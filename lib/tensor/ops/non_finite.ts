/**
 * Infinities and NaN, found on the device.
 * @module
 */
import { defineKernel, gpu } from "../../gpu/mod.ts";
import source from "../../../wgsl/non_finite.wgsl" with { type: "text" };
import { grid1d, rowRanges } from "../grid.ts";
import { BYTES, shapeError, type Tensor } from "../tensor.ts";

const kernel = defineKernel("non_finite", source);

/** What {@link markNonFinite} sets in a flag. */
export const INFINITE = 1, NAN = 2;

/**
 * Sets {@link INFINITE} and {@link NAN} in `flags[slot]` as `x` holds such numbers; other bits stay. Not recorded, no
 * readback: many tensors share one `flags`, which is read once.
 *
 * @param x f32
 * @param flags u32, zeros at first
 */
export function markNonFinite(x: Tensor, flags: Tensor, slot: number): void {
  if (x.dtype !== "f32" || flags.dtype !== "u32" || slot >= flags.size) {
    throw shapeError(
      "markNonFinite",
      `${x.dtype} [${x.shape}] into ${flags.dtype} [${flags.shape}], place ${slot}`,
    );
  }
  for (const [from, to] of rowRanges(x.size, [BYTES.f32])) {
    const { groups, row } = grid1d(Math.ceil((to - from) / 64), 64);
    gpu().kernels.launch(kernel, {
      params: { n: to - from, row, slot },
      bind: {
        x: { buffer: x.buffer, offset: x.offset + 4 * from, bytes: 4 * (to - from) },
        flags: flags.range,
      },
      groups,
    });
  }
}
