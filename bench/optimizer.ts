/**
 * A step of every optimizer: milliseconds, as a ratio to adamw_torch, and bytes of state a parameter.
 * Run with `deno run -A bench/optimizer.ts [millions of parameters] [MiB of a slot ...]`.
 * @module
 */
import { gpu, openGpu } from "../lib/gpu/mod.ts";
import {
  createOptimizer,
  createParameterPages,
  OPTIMIZERS,
  type OptimizerSettings,
} from "../lib/optim/mod.ts";

const ROUNDS = 7;

await openGpu();
const [millions = 8, ...slots] = Deno.args.map(Number);
const columns = 512, rows = Math.round(millions * 1e6 / columns), size = rows * columns;
const kinds = OPTIMIZERS.flatMap((optim): [string, OptimizerSettings][] => {
  if (!optim.startsWith("paged") || slots.length === 0) return [[optim, { optim }]];
  return slots.map((mib) => [`${optim}, ${mib} MiB`, { optim, paging: { slotBytes: mib * 2 ** 20 } }]);
});
const pages = createParameterPages([{ name: "w", shape: [rows, columns], decay: true }], "adapter");
pages.tensors.get("w")!.grad!.write(Float32Array.from({ length: size }, (_, i) => Math.sin(i)));
const stateBytes = () => gpu().pool.report().live.optimizer;
const made = kinds.map(([name, settings]) => {
  const before = stateBytes();
  const optimizer = createOptimizer(pages, { ...settings, weight_decay: 0.01 });
  return { name, optimizer, device: stateBytes() - before, times: [] as number[] };
});
// round by round, so that a busy machine slows all of them alike; the first round compiles and is not counted
for (let step = 1; step <= ROUNDS + 1; step++) {
  for (const { optimizer, times } of made) {
    await gpu().stream.fence();
    const started = performance.now();
    await optimizer.step({ lr: 1e-6, step, gradScale: 1 });
    await gpu().stream.fence();
    if (step > 1) times.push(performance.now() - started);
  }
}
const median = (times: number[]) => times.toSorted((a, b) => a - b)[times.length >> 1]!;
const unit = median(made[0]!.times);
console.log(
  `${gpu().name}: ${(size / 1e6).toFixed(1)} M parameters, median of ${ROUNDS} steps, one fence in each`,
);
console.log(`${"optim".padEnd(28)}      ms   ratio   device     host   bytes of state a parameter`);
for (const { name, optimizer, device, times } of made) {
  const ms = median(times), bytes = (n: number) => (n / size).toFixed(3).padStart(9);
  console.log(
    `${name.padEnd(28)}${ms.toFixed(1).padStart(8)}${(ms / unit).toFixed(2).padStart(8)}${bytes(device)}${
      bytes(optimizer.hostBytes)
    }`,
  );
}
