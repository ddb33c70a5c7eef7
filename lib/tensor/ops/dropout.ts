/**
 * Dropout with a mask that is drawn again rather than stored.
 * @module
 */
import { defineKernel, gpu } from "../../gpu/mod.ts";
import source from "../../../wgsl/dropout.wgsl" with { type: "text" };
import pcg from "../../../wgsl/shared/pcg.wgsl" with { type: "text" };
import { grid1d } from "../grid.ts";
import { record } from "../tape.ts";
import { empty, type Tensor } from "../tensor.ts";

const kernel = defineKernel("dropout", source, pcg);

/**
 * `x * keep / (1 - rate)` (Srivastava et al. 2014, inverted form). The same seed draws the same mask.
 *
 * @param rate in [0, 1)
 * @param seed 32 bits, different for every layer and step
 */
export function dropout(x: Tensor, rate: number, seed: number): Tensor {
  return record("dropout", dropoutOnly(x, rate, seed), [x], (dy) => [dropoutOnly(dy, rate, seed)]);
}

/** {@link dropout} without recording: also its own gradient. With `base`, of x's shape: `base + dropout(x)`. */
export function dropoutOnly(x: Tensor, rate: number, seed: number, base?: Tensor): Tensor {
  const y = empty(x.shape);
  launch(base ? "add" : "main", y, rate, seed, base ? { x, base } : { x });
  return y;
}

/** {@link dropoutOnly} that overwrites `y`. */
export function dropoutInto(y: Tensor, rate: number, seed: number): void {
  launch("in_place", y, rate, seed, {});
}

/** A mask of dropout: the same numbers draw the same one. */
export interface Drop {
  /** In [0, 1). */
  rate: number;
  /** 32 bits, different for every layer and step. */
  seed: number;
}

/** Parameters of a kernel that draws the mask. */
export function dropoutParams({ rate, seed }: Drop): { seed: number; threshold: number; scale: number } {
  const threshold = Math.min(0xffffffff, Math.round(rate * 2 ** 32));
  return { seed: seed >>> 0, threshold, scale: 1 / (1 - rate) };
}

function launch(
  entry: "main" | "add" | "in_place",
  y: Tensor,
  rate: number,
  seed: number,
  read: Record<string, Tensor>,
): void {
  const n = Math.ceil(y.size / 4); // buffers end on a multiple of 256 bytes, so the last vec4 may be read whole
  const { groups, row } = grid1d(Math.ceil(n / 64), 64);
  gpu().kernels.launch(kernel, {
    entry,
    params: { n, row, ...dropoutParams({ rate, seed }) },
    bind: Object.fromEntries(
      Object.entries({ ...read, y }).map(([name, t]) => [name, { ...t.range, bytes: 16 * n }]),
    ),
    groups,
  });
}
