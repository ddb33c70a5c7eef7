/**
 * `deno task doctor`: what this machine's adapter can do, each kernel against its formula, and advice. Exit status 1
 * when there is no adapter or a kernel is wrong.
 * @module
 */
import { adviceFor, checkTable, describeDevice, runChecks } from "../lib/doctor/mod.ts";
import { NibbleError } from "../lib/errors.ts";
import { gpu, openGpu } from "../lib/gpu/mod.ts";
import { describeKnown, useKnownTuning } from "../lib/tuning.ts";

if (Deno.args.includes("--help") || Deno.args.includes("-h")) {
  console.log(
    "Usage: deno task doctor\n\nShows the WebGPU adapter and checks every kernel on it, in a few seconds.",
  );
  Deno.exit(0);
}
try {
  await openGpu();
} catch (error) {
  if (!(error instanceof NibbleError)) throw error;
  console.error(`error: ${error.message}`);
  Deno.exit(1);
}
console.log(describeDevice(gpu()));
// what is checked is what training takes
console.log(describeKnown(useKnownTuning()));
const started = performance.now();
const results = await runChecks();
console.log(`\n${checkTable(results)}`);
const failed = results.filter((r) => !r.ok).length;
const seconds = ((performance.now() - started) / 1000).toFixed(1);
console.log(`\n${results.length - failed} of ${results.length} kernels are right (${seconds} s)\n`);
for (const sentence of adviceFor(gpu(), results)) console.log(sentence);
// the GPU device keeps the process alive
Deno.exit(failed > 0 ? 1 : 0);
