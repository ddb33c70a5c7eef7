/**
 * A training step: dispatches, submits, readbacks, bytes and bind groups made, seconds, and time by kernel.
 *
 *     deno run -A bench/step.ts [--recipe=recipes/smollm2-135m/sft/config_qlora.yaml] [--steps=5] [--key=value ...]
 *
 * The steps are those of the recipe's run, without its evaluations; the last table is one more of them with every
 * launch timed, where the adapter has timestamps.
 * @module
 */
import { gpu, mib } from "../lib/gpu/mod.ts";
import { profile } from "../lib/gpu/profile.ts";
import { readRecipe } from "../lib/recipe/mod.ts";
import { setUpModel } from "../lib/train/model_setup.ts";
import { totalCounts } from "../lib/train/objective.ts";
import { openRunDevice, prepareRun } from "../lib/train/prepare_run.ts";
import { differentiate } from "../lib/tensor/tape.ts";
import { scope } from "../lib/tensor/tensor.ts";
import { option, row } from "./report.ts";

const path = option("recipe", "recipes/smollm2-135m/sft/config_qlora.yaml");
const steps = Number(option("steps", "5"));
const overrides = Deno.args.filter((arg) => !/^--(recipe|steps)=/.test(arg));

const { settings: s } = readRecipe(path, overrides);
await openRunDevice(s);
const run = await prepareRun(s);
const { model, pages, optimizer } = await setUpModel(s, run.files, run.maxPositions);
run.files.source.close();

/** What the loop of a run does in a step, without log and evaluation. */
async function step(i: number): Promise<number> {
  const window = run.order.window(i);
  const totals = totalCounts(window.map((batch) => run.objective.counts(batch)));
  pages.zeroGrad();
  for (const batch of window) {
    const pass = { totals, checkpointing: s.gradient_checkpointing, dropoutSeed: i + 1 };
    scope(() => void differentiate(() => run.objective.loss(model, batch, pass), undefined));
  }
  await optimizer.step({ lr: s.learning_rate, step: i + 1, gradScale: 1 / totals[run.objective.unit]! });
  gpu().stream.flush();
  gpu().pool.age(16);
  return window.reduce((n, batch) => n + batch.realTokens, 0);
}

/** Everything that is counted, so far. */
function counted() {
  const { created, liveBytes, idleBytes } = gpu().pool.report();
  return {
    ...gpu().stream.counters(),
    created,
    liveBytes,
    idleBytes,
    bindGroups: gpu().kernels.bindGroups(),
  };
}

await gpu().stream.fence();
console.log(`${gpu().name}: ${path}\n`);
console.log(
  "| step | dispatches | submits | readbacks | buffers made | bind groups made | live | idle | seconds | tokens/s |",
);
console.log("| ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |");
for (let i = 0; i < steps; i++) {
  const before = counted(), started = performance.now();
  const tokens = await step(i);
  const after = counted();
  await gpu().stream.fence();
  const seconds = (performance.now() - started) / 1000;
  const made = (["dispatches", "submits", "readbacks", "created", "bindGroups"] as const)
    .map((key) => after[key] - before[key]);
  const bytes = [after.liveBytes, after.idleBytes].map(mib);
  console.log(row(i + 1, ...made, ...bytes, seconds.toFixed(2), (tokens / seconds).toFixed(1)));
}

if (gpu().features.timestamps) {
  const times = await profile(gpu(), () => step(steps).then(() => {}));
  const total = times.reduce((sum, { milliseconds }) => sum + milliseconds, 0);
  const share = (ms: number) => `${(100 * ms / total).toFixed(1)} %`;
  const products = times.filter(({ label }) => /^(matmul|gemv)/.test(label))
    .reduce((sum, { milliseconds }) => sum + milliseconds, 0);
  console.log("\n| kernel | launches | ms | share |\n| --- | ---: | ---: | ---: |");
  for (const { label, launches, milliseconds } of times.slice(0, 12)) {
    console.log(row(label, launches, milliseconds.toFixed(0), share(milliseconds)));
  }
  console.log(row("**matrix products together**", "", products.toFixed(0), share(products)));
}
Deno.exit(0); // the device keeps the process alive
