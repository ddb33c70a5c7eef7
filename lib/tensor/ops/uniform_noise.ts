/**
 * Uniform noise, drawn again from its seed rather than stored.
 * @module
 */
import { defineKernel, gpu } from "../../gpu/mod.ts";
import source from "../../../wgsl/uniform_noise.wgsl" with { type: "text" };
import pcg from "../../../wgsl/shared/pcg.wgsl" with { type: "text" };
import { grid1d } from "../grid.ts";
import { record } from "../tape.ts";
import { empty, type Tensor } from "../tensor.ts";

const kernel = defineKernel("uniform_noise", source, pcg);

/**
 * `x + magnitude * u` with u uniform in [-1, 1) for every element; the gradient passes as it is. The same seed draws
 * the same noise.
 *
 * @param seed 32 bits, different for every step
 */
export function uniformNoise(x: Tensor, magnitude: number, seed: number): Tensor {
  const y = empty(x.shape);
  const n = Math.ceil(x.size / 4); // buffers end on a multiple of 256 bytes, so the last vec4 may be read whole
  const { groups, row } = grid1d(Math.ceil(n / 64), 64);
  gpu().kernels.launch(kernel, {
    entry: "main",
    params: { n, row, seed: seed >>> 0, magnitude },
    bind: { x: { ...x.range, bytes: 16 * n }, y: { ...y.range, bytes: 16 * n } },
    groups,
  });
  return record("uniformNoise", y, [x], (dy) => [dy.view(x.shape)]);
}
