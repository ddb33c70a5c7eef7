import assert from "node:assert/strict";
import { join } from "@std/path";
import { openSafetensors, openShardedSafetensors } from "../../lib/formats/safetensors.ts";
import {
  type WritableTensor,
  writeSafetensors,
  writeShardedSafetensors,
} from "../../lib/formats/safetensors_write.ts";
import { fromBase64, golden, temporaryFolder, throwsCode } from "./support.ts";

const entry = (dtype: string, shape: number[], begin: number, end: number) => ({
  dtype,
  shape,
  data_offsets: [begin, end],
});

Deno.test("what is written is laid out as the reference library lays it out", () => {
  using folder = temporaryFolder();
  const reference = fromBase64(golden<{ safetensors: string }>("small_files.json").safetensors);
  const length = Number(new DataView(reference.buffer).getBigUint64(0, true));
  const header = JSON.parse(new TextDecoder().decode(reference.subarray(8, 8 + length)));
  const writable = Object.entries(header).filter(([name, e]) =>
    name !== "__metadata__" && (e as { dtype: string }).dtype !== "F64"
  );
  const tensors = writable.map(([name, e]) => {
    const { dtype, shape, data_offsets: [from, to] } = e as ReturnType<typeof entry>;
    const data = reference.slice(8 + length + from!, 8 + length + to!);
    return { name, dtype, shape, data } as WritableTensor;
  });
  const path = join(folder.path, "b.safetensors");
  writeSafetensors(path, tensors.reverse());
  const ours = Deno.readFileSync(path);
  const ourLength = Number(new DataView(ours.buffer).getBigUint64(0, true));
  assert.equal(ourLength % 8, 0);
  const ourHeader = JSON.parse(new TextDecoder().decode(ours.subarray(8, 8 + ourLength)));
  const order = (h: Record<string, { data_offsets?: number[] }>) =>
    Object.entries(h).filter(([name]) => name !== "__metadata__" && name !== "scalar")
      .sort(([, a], [, b]) =>
        a.data_offsets![0]! - b.data_offsets![0]! || a.data_offsets![1]! - b.data_offsets![1]!
      )
      .map(([name]) => name);
  assert.deepEqual(order(ourHeader), order(header));
  assert.deepEqual(ourHeader.__metadata__, { format: "pt" });
});

Deno.test("writing: wrong sizes, wrong widths and equal names are refused, and leave nothing behind", () => {
  using folder = temporaryFolder();
  const path = folder.file("x.safetensors", "the old file");
  const write = (...tensors: WritableTensor[]) => () => writeSafetensors(path, tensors);
  const w = { name: "w", dtype: "F32", shape: [2] } as const;
  throwsCode(write({ ...w, data: new Float32Array(3) }), "formats/size-mismatch", path, '"w"', "12 bytes");
  throwsCode(write({ ...w, data: new Float64Array(1) }), "formats/size-mismatch", "elements of 8 bytes");
  throwsCode(
    write({ ...w, data: [new Uint8Array(4), new Uint8Array(3)] }),
    "formats/size-mismatch",
    "7 bytes",
  );
  const fine = { ...w, data: new Float32Array(2) };
  throwsCode(write(fine, fine), "formats/duplicate-tensor", '"w"');
  throwsCode(write({ ...fine, name: "__metadata__" }), "formats/duplicate-tensor");
  throwsCode(
    write({
      ...w,
      data: () => {
        throw new Error("the source failed");
      },
    }),
    "formats/cannot-write",
    "the source failed",
  );
  assert.equal(Deno.readTextFileSync(path), "the old file");
  assert.deepEqual([...Deno.readDirSync(folder.path)].map((e) => e.name), ["x.safetensors"]);
  throwsCode(() => writeSafetensors(join(folder.path, "none/x"), [fine]), "formats/cannot-write", "none/x");
});

Deno.test("names that mean something to JavaScript are names like others", () => {
  using folder = temporaryFolder();
  const path = join(folder.path, "w.safetensors");
  const names = ["__proto__", "constructor", "toString", "0"];
  writeSafetensors(
    path,
    names.map((name) => ({ name, dtype: "U8", shape: [1], data: new Uint8Array([name.length]) })),
  );
  const source = openSafetensors(path);
  assert.deepEqual(names.map((name) => source.readF32(name)[0]), names.map((name) => name.length));
  source.close();
});

const three = (): WritableTensor[] =>
  ["c", "a", "b"].map((name, i) => ({ name, dtype: "F32", shape: [10], data: new Float32Array(10).fill(i) }));

Deno.test("shards: written with an index, read as one, and replaced as one", () => {
  using folder = temporaryFolder();
  const names = writeShardedSafetensors(folder.path, three(), { maxShardBytes: 80 });
  assert.deepEqual(names, ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]);
  const indexPath = join(folder.path, "model.safetensors.index.json");
  assert.deepEqual(JSON.parse(Deno.readTextFileSync(indexPath)), {
    metadata: { total_size: 120 },
    weight_map: { a: names[0], b: names[1], c: names[0] },
  });
  const source = openShardedSafetensors(indexPath);
  assert.equal(source.path, folder.path);
  assert.deepEqual([...source.tensors.keys()].sort(), ["a", "b", "c"]);
  assert.deepEqual(["c", "a", "b"].map((n) => source.readF32(n)[9]), [0, 1, 2]);
  source.close();

  folder.file("model-notes.txt", "keep");
  assert.deepEqual(writeShardedSafetensors(folder.path, three()), ["model.safetensors"]);
  const left = [...Deno.readDirSync(folder.path)].map((e) => e.name).sort();
  assert.deepEqual(left, ["model-notes.txt", "model.safetensors"]);
  throwsCode(
    () => writeShardedSafetensors(folder.path, [...three(), ...three()], { maxShardBytes: 80 }),
    "formats/duplicate-tensor",
  );
});

Deno.test("shards: a tensor above the limit gets a file of its own", () => {
  using folder = temporaryFolder();
  assert.equal(writeShardedSafetensors(folder.path, three(), { maxShardBytes: 10 }).length, 3);
});
