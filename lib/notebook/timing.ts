/**
 * How long the device takes for something.
 * @module
 */
import { gpu } from "../gpu/mod.ts";

/** Seconds that a round of work should take at least, so that the clock is fine enough. */
const ROUND = 0.05;

/**
 * Seconds of `work` on the device: the fastest of five rounds, each of as many repetitions as are needed for the clock.
 * What waiting itself costs (10 ms in Deno) is taken off.
 *
 * @param work launches kernels; the tensors that it makes should be made outside, or in a `scope`
 * @example
 * ```ts
 * import { openGpu } from "../gpu/mod.ts";
 * import { scope, tensor } from "../tensor/tensor.ts";
 * import { square } from "../tensor/ops/mod.ts";
 * import { secondsOf } from "./timing.ts";
 * await openGpu();
 * const x = tensor(new Float32Array(4096), [4096]);
 * const seconds = await secondsOf(() => scope(() => void square(x)));
 * if (!(seconds > 0)) throw new Error("it takes time");
 * ```
 */
export async function secondsOf(work: () => void, rounds = 5): Promise<number> {
  const { stream } = gpu();
  const round = async (repeats: number) => {
    const from = performance.now();
    for (let i = 0; i < repeats; i++) work();
    await stream.fence();
    return (performance.now() - from) / 1000;
  };
  await round(1); // compiles
  let idle = Infinity;
  for (let i = 0; i < 3; i++) idle = Math.min(idle, await round(0));
  const once = Math.max(1e-5, await round(1) - idle);
  const repeats = Math.min(1000, Math.max(1, Math.ceil(ROUND / once)));
  let best = Infinity;
  for (let i = 0; i < rounds; i++) best = Math.min(best, (await round(repeats) - idle) / repeats);
  return Math.max(best, 1e-9);
}
