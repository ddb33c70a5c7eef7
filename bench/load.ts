/**
 * Loading a checkpoint in bf16 as NF4 with double quantization, beside reading its file alone.
 *
 *     deno run -A bench/load.ts [--layers=8] [--rounds=3] [--torch_dtype=bfloat16] [--chunk=4]
 *
 * Two checkpoints are written to a folder first and removed after: SmolLM2-1.7B's shapes with `--layers` layers, and
 * SmolLM2-135M itself. Reading takes pieces of `--chunk` MiB into one array. Both come from the file cache and, where
 * `dd` can drop the file from it, from the disk; loading ends when the device is idle. MB are 10^6 bytes of the
 * file. Medians; the ratio is of the medians, and each round reads and loads in turn.
 * @module
 */
import { join } from "@std/path";
import { loadModel } from "../lib/api.ts";
import { openModel, writeSafetensors } from "../lib/formats/mod.ts";
import { gpu, openGpu } from "../lib/gpu/mod.ts";
import { fetchModel } from "../lib/hub/mod.ts";
import { readConfig } from "../lib/model/config.ts";
import { KNOWN_CONFIGS } from "../lib/model/known_configs.ts";
import { parameterShapes } from "../lib/model/parameters.ts";
import type { TorchDtype } from "../lib/model/storage.ts";
import { writeCheckpoint } from "./checkpoint.ts";
import { median } from "./interleave.ts";
import { option, row } from "./report.ts";

const rounds = Number(option("rounds", "3"));
const chunk = new Uint8Array(Number(option("chunk", "4")) * 2 ** 20);
const torch_dtype = option("torch_dtype", "bfloat16") as TorchDtype;
const layers = Number(option("layers", "8"));

/** SmolLM2-135M in bf16, from whatever the cache or the Hub has of it. */
async function writeSmollm2(to: string): Promise<string[]> {
  const { config, source } = openModel(await fetchModel("HuggingFaceTB/SmolLM2-135M-Instruct"));
  const path = join(to, "model.safetensors");
  writeSafetensors(
    path,
    parameterShapes(readConfig(config, to)).map(({ name, shape }) => ({
      ...{ name, dtype: "BF16", shape },
      data: () => source.readF32(name),
    })),
  );
  source.close();
  Deno.writeTextFileSync(join(to, "config.json"), JSON.stringify(config));
  return [path];
}

/** Takes a file out of the system's cache; false where that cannot be done. */
function dropFromCache(path: string): boolean {
  try {
    const args = [`if=${path}`, "iflag=nocache", "count=0"];
    return new Deno.Command("dd", { args, stderr: "null" }).outputSync().success;
  } catch {
    return false;
  }
}

/** Seconds to read files from beginning to end. */
function read(paths: readonly string[]): number {
  const started = performance.now();
  for (const path of paths) {
    using file = Deno.openSync(path);
    while (file.readSync(chunk) !== null);
  }
  return (performance.now() - started) / 1000;
}

/** Seconds to load a model. */
async function load(folder: string): Promise<number> {
  const started = performance.now();
  const model = await loadModel(folder, { quantization: "nf4", torch_dtype, maxPositions: 1024 });
  await gpu().stream.fence();
  const seconds = (performance.now() - started) / 1000;
  model.dispose();
  return seconds;
}

const folder = Deno.makeTempDirSync({ prefix: "nibble_load_" });
try {
  const big = join(folder, "big"), small = join(folder, "small");
  [big, small].forEach((to) => Deno.mkdirSync(to));
  const config = { ...KNOWN_CONFIGS["HuggingFaceTB/SmolLM2-1.7B"]!, num_hidden_layers: layers };
  const models: [string, string, string[]][] = [
    [`SmolLM2-1.7B's shapes, ${layers} layers`, big, writeCheckpoint(big, config).shards],
    ["SmolLM2-135M", small, await writeSmollm2(small)],
  ];
  await openGpu();
  console.log(`${gpu().name}; what is not quantized: ${torch_dtype}\n`);
  console.log(row("checkpoint", "MB", "from", "reading MB/s", "loading MB/s", "loading / reading"));
  console.log(row("---", "---:", "---", "---:", "---:", "---:"));
  for (const [name, path, files] of models) {
    const bytes = files.reduce((n, file) => n + Deno.statSync(file).size, 0);
    await load(path); // compiles
    for (const from of ["file cache", "disk"]) {
      const drop = () => from === "file cache" || files.every(dropFromCache);
      if (!drop()) continue;
      if (from === "file cache") read(files);
      const times = { read: [] as number[], load: [] as number[] };
      for (let i = 0; i < rounds; i++) {
        drop();
        times.read.push(read(files));
        drop();
        times.load.push(await load(path));
      }
      const [reading, loading] = [times.read, times.load].map((t) => bytes / 1e6 / median(t)) as [
        number,
        number,
      ];
      console.log(
        row(
          ...[name, (bytes / 1e6).toFixed(0), from],
          ...[reading.toFixed(0), loading.toFixed(0), (loading / reading).toFixed(2)],
        ),
      );
    }
  }
} finally {
  Deno.removeSync(folder, { recursive: true });
}
Deno.exit(0); // the device keeps the process alive
