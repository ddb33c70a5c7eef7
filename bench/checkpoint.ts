/**
 * Checkpoints on disk for benchmarks of loading: any shapes in bf16, without weights that mean something.
 * @module
 */
import { f32ToBf16 } from "../lib/formats/mod.ts";
import { readConfig } from "../lib/model/config.ts";
import { parameterShapes, storedShape } from "../lib/model/parameters.ts";
import { normal } from "../lib/model/random_source.ts";

/** Bytes of a shard, as Transformers cuts them. */
const SHARD_BYTES = 5e9;

/** What {@link writeCheckpoint} wrote. */
export interface Written {
  /** Paths of the shards. */
  shards: string[];
  /** Bytes of all tensors. */
  bytes: number;
}

/** Writes config, shards and their index to a folder; every tensor repeats the same two million normal numbers. */
export function writeCheckpoint(to: string, config: Record<string, unknown>): Written {
  const some = new Uint8Array(
    f32ToBf16(Float32Array.from({ length: 2 ** 21 }, (_, i) => 0.02 * normal(7, i))).buffer,
  );
  const shards: { name: string; shape: readonly number[]; size: number }[][] = [[]];
  const paths: string[] = [];
  let inShard = 0, bytes = 0;
  for (const spec of parameterShapes(readConfig(config, to))) {
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
    paths.push(`${to}/${file}`);
    using out = Deno.openSync(paths.at(-1)!, { create: true, write: true });
    writeAll(out, head);
    for (const { size } of tensors) {
      for (let left = size; left > 0; left -= some.length) writeAll(out, some.subarray(0, left));
    }
    out.syncSync(); // what is not on the disk yet cannot leave the file cache
    bytes += at;
  });
  Deno.writeTextFileSync(`${to}/config.json`, JSON.stringify(config));
  Deno.writeTextFileSync(
    `${to}/model.safetensors.index.json`,
    JSON.stringify({ metadata: { total_size: bytes }, weight_map: map }),
  );
  return { shards: paths, bytes };
}

function writeAll(file: Deno.FsFile, data: Uint8Array): void {
  for (let done = 0; done < data.length;) done += file.writeSync(data.subarray(done));
}
