/**
 * The host's memory while a 7B checkpoint in shards is loaded in 4 bits: written to a folder first (14.5 GB of bf16),
 * removed after. Run with `deno run -A bench/host_memory.ts [--layers=N]`; fewer layers have the same shapes.
 *
 * Anonymous memory is counted, which leaves the file cache out. On a software adapter the device's memory is the
 * host's, so what the pool held at most is taken off.
 * @module
 */
import { loadModel } from "../lib/api.ts";
import { gpu, mib, openGpu } from "../lib/gpu/mod.ts";
import { KNOWN_CONFIGS } from "../lib/model/known_configs.ts";
import { writeCheckpoint } from "./checkpoint.ts";
import { anonymousBytes, watchHost } from "./memory_run.ts";
import { option } from "./report.ts";

const layers = Number(option("layers", "32"));
const config = { ...KNOWN_CONFIGS["mistralai/Mistral-7B-v0.1"]!, num_hidden_layers: layers };
const folder = Deno.makeTempDirSync({ prefix: "nibble_checkpoint_" });
try {
  const { shards, bytes } = writeCheckpoint(folder, config);
  await openGpu();
  gpu().pool.resetPeak();
  const before = anonymousBytes();
  const host = watchHost();
  const started = performance.now();
  const model = await loadModel(folder, {
    ...{ quantization: "nf4", torch_dtype: "bfloat16", maxPositions: 1024 },
  });
  await gpu().stream.fence();
  const seconds = (performance.now() - started) / 1000;
  const after = anonymousBytes();
  const most = host.stop(), { heldPeakBytes } = gpu().pool.report();
  const over = most - before - heldPeakBytes;
  console.log([
    `${gpu().name}: ${layers} layers, ${(bytes / 1e9).toFixed(2)} GB of bf16 in ${shards.length} shards, ${
      seconds.toFixed(0)
    } s\n`,
    "| anonymous bytes | |",
    "| --- | ---: |",
    `| before loading | ${mib(before)} |`,
    `| most while loading | ${mib(most)} |`,
    `| when it is loaded | ${mib(after)} |`,
    `| of them the device's, where it is a software adapter | ${mib(heldPeakBytes)} |`,
    `| **loading's own** | ${mib(over)} |`,
  ].join("\n"));
  model.dispose();
  if (over > 1e9) throw new Error("more than 1 GB");
} finally {
  Deno.removeSync(folder, { recursive: true });
}
Deno.exit(0); // the device keeps the process alive
