/**
 * What the tuner measures on this adapter: each configuration of each kernel it tunes, in ms and GFLOP/s.
 *
 *     deno run -A bench/tune.ts [--seconds=18] [--f16]
 *
 * `--f16` lets tiles with operands in 16 bits take part. `--all` also tries, on a software adapter, the kernels that
 * only GPUs choose among, with no limit of time: what they cost there says nothing of a GPU. Nothing is kept.
 * @module
 */
import { gpu, openGpu, tuneDevice, type Tuning } from "../lib/gpu/mod.ts";
import { matmulTunables } from "../lib/tensor/ops/matmul_tuning.ts";
import { tunables } from "../lib/tuning.ts";
import { VERSION } from "../lib/version.ts";
import { option, row } from "./report.ts";

const flag = (name: string) => Deno.args.includes(`--${name}`);

/** A row for each configuration, the chosen one in bold. */
function table({ kernels }: Tuning): string {
  const rows = kernels.flatMap(({ name, flops, chosen, measured }) =>
    measured.map(({ candidate, ms, problem }) => {
      const shown = candidate === chosen ? `**${candidate}**` : candidate;
      return ms === undefined
        ? row(name, shown, problem!, "")
        : row(name, shown, ms.toFixed(ms < 10 ? 3 : 1), (flops / ms / 1e6).toFixed(1));
    })
  );
  return [row("kernel", "configuration", "ms", "GFLOP/s"), row("---", "---", "---:", "---:"), ...rows].join(
    "\n",
  );
}

await openGpu();
const all = flag("all");
const tuning = await tuneDevice(
  gpu(),
  all ? matmulTunables({ f16: flag("f16") }) : tunables({ f16: flag("f16") }),
  { version: VERSION, seconds: all ? Infinity : Number(option("seconds", "18")) },
);
console.log(`${gpu().name}\n\n${table(tuning)}\n`);
console.log(`${tuning.kernels.length} kernels tuned in ${tuning.seconds.toFixed(1)} s`);
if (tuning.left.length > 0) console.log(`no time was left for ${tuning.left.join(", ")}`);
Deno.exit(0); // the device keeps the process alive
