/**
 * What the tuner measures on this adapter: each configuration of each kernel it tunes, in ms and GFLOP/s.
 *
 *     deno run -A bench/tune.ts [--seconds=18] [--f16]
 *
 * `--f16` lets tiles with operands in 16 bits take part. Nothing is kept.
 * @module
 */
import { gpu, openGpu, tuneDevice } from "../lib/gpu/mod.ts";
import { tunables } from "../lib/tuning.ts";
import { VERSION } from "../lib/version.ts";
import { option, row } from "./report.ts";

await openGpu();
const { kernels, left, seconds } = await tuneDevice(
  gpu(),
  tunables({ f16: Deno.args.includes("--f16") }),
  { version: VERSION, seconds: Number(option("seconds", "18")) },
);
console.log(`${gpu().name}\n`);
console.log(row("kernel", "configuration", "ms", "GFLOP/s"));
console.log(row("---", "---", "---:", "---:"));
for (const { name, flops, chosen, measured } of kernels) {
  for (const { candidate, ms, problem } of measured) {
    const shown = candidate === chosen ? `**${candidate}**` : candidate;
    const figures = ms === undefined
      ? [problem ?? "no time", ""]
      : [ms.toFixed(ms < 10 ? 3 : 1), (flops / ms / 1e6).toFixed(1)];
    console.log(row(name, shown, ...figures));
  }
}
console.log(`\n${kernels.length} kernels measured in ${seconds.toFixed(1)} s`);
if (left.length > 0) console.log(`no time was left for ${left.join(", ")}`);
Deno.exit(0); // the device keeps the process alive
