/**
 * Infinities and NaN, found on the device.
 * @module
 */
import { defineKernel, gpu } from "../../gpu/mod.ts";
import source from "../../../wgsl/non_finite.wgsl" with { type: "text" };
import { grid1d, rowRanges } from "../grid.ts";
import { BYTES, keep, shapeError, type Tensor, zeros } from "../tensor.ts";

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

/** Looks at tensors as they are made, and says in the end which of them were not finite. */
export interface Lookout {
  /** A tensor beyond the number of them that there is room for is not looked at. */
  look(name: string, t: Tensor): void;
  /** In the order in which they were looked at. One readback, and the end of looking. */
  found(): Promise<{ name: string; what: "NaN" | "infinite" }[]>;
  /** For who will not ask; twice is harmless. */
  dispose(): void;
}

/** @param most tensors to be looked at */
export function createLookout(most: number): Lookout {
  const flags = keep(zeros([most], "u32", "scratch"));
  const names: string[] = [];
  return {
    look(name, t) {
      if (names.length < most) markNonFinite(t, flags, names.push(name) - 1);
    },
    async found() {
      const bits = await flags.data();
      flags.dispose();
      return names.flatMap((name, i) => bits[i] ? [{ name, what: bits[i]! & NAN ? "NaN" : "infinite" }] : []);
    },
    dispose: () => flags.dispose(),
  };
}
