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
import { readConfig } from "../lib/model/config.ts";
import { KNOWN_CONFIGS } from "../lib/model/known_configs.ts";
import { parameterShapes, storedShape } from "../lib/model/parameters.ts";
import { f32ToBf16 } from "../lib/formats/mod.ts";
import { normal } from "../lib/model/random_source.ts";
import { anonymousBytes, watchHost } from "./memory_run.ts";
import { option } from "./report.ts";

/** Bytes of a shard, as Transformers cuts them. */
const SHARD_BYTES = 5e9;

const layers = Number(option("layers", "32"));
const config = { ...KNOWN_CONFIGS["mistralai/Mistral-7B-v0.1"]!, num_hidden_layers: layers };
const folder = Deno.makeTempDirSync({ prefix: "nibble_checkpoint_" });
let bytes = 0;
try {
  const shards = writeCheckpoint(folder);
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
    `${gpu().name}: ${layers} layers, ${(bytes / 1e9).toFixed(2)} GB of bf16 in ${shards} shards, ${
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

/** Writes config, shards and their index; every tensor repeats the same two million normal numbers. */
function writeCheckpoint(to: string): number {
  const some = new Uint8Array(
    f32ToBf16(Float32Array.from({ length: 2 ** 21 }, (_, i) => 0.02 * normal(7, i))).buffer,
  );
  const shards: { name: string; shape: readonly number[]; size: number }[][] = [[]];
  let inShard = 0;
  for (const spec of parameterShapes(readConfig(config, folder))) {
    const shape = storedShape(spec), size = 2 * shape.reduce((a, b) => a * b, 1);
    if (inShard + size > SHARD_BYTES) {
      shards.push([]);
      inShard = 0;
    }
    shards.at(-1)!.push({ name: spec.name, shape, size });
    inShard += size;
  }
  const map: Record<string, string> = {};
  shards.forEach((tensors, i) => {
    const number = (n: number) => String(n).padStart(5, "0");
    const file = `model-${number(i + 1)}-of-${number(shards.length)}.safetensors`;
    const header: Record<string, unknown> = {};
    let at = 0;
    for (const { name, shape, size } of tensors) {
      header[name] = { dtype: "BF16", shape, data_offsets: [at, at += size] };
      map[name] = file;
    }
    const text = new TextEncoder().encode(JSON.stringify(header));
    const head = new Uint8Array(8 + Math.ceil(text.length / 8) * 8).fill(32);
    new DataView(head.buffer).setBigUint64(0, BigInt(head.length - 8), true);
    head.set(text, 8);
    using out = Deno.openSync(`${to}/${file}`, { create: true, write: true });
    writeAll(out, head);
    for (const { size } of tensors) {
      for (let left = size; left > 0; left -= some.length) writeAll(out, some.subarray(0, left));
    }
    bytes += at;
  });
  Deno.writeTextFileSync(`${to}/config.json`, JSON.stringify(config));
  Deno.writeTextFileSync(
    `${to}/model.safetensors.index.json`,
    JSON.stringify({ metadata: { total_size: bytes }, weight_map: map }),
  );
  return shards.length;
}

function writeAll(file: Deno.FsFile, data: Uint8Array): void {
  for (let done = 0; done < data.length;) done += file.writeSync(data.subarray(done));
}
