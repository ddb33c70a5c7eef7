import assert from "node:assert/strict";
import fc from "fast-check";
import { join } from "@std/path";
import { bf16ToF32, f16ToF32, f32ToBf16, f32ToF16 } from "../../lib/formats/dtype.ts";
import { openSafetensors, openShardedSafetensors } from "../../lib/formats/safetensors.ts";
import {
  type WritableTensor,
  writeSafetensors,
  writeShardedSafetensors,
} from "../../lib/formats/safetensors_write.ts";
import { fromBase64, golden, sharedFile, skippable, temporaryFolder, throwsCode } from "./support.ts";

Deno.test("a file of the reference library reads", async () => {
  using folder = temporaryFolder();
  const file = fromBase64(golden<{ safetensors: string }>("small_files.json").safetensors);
  const source = openSafetensors(folder.file("a.safetensors", file));
  assert.deepEqual(source.metadata, { format: "pt" });
  assert.deepEqual([...source.readF32("w.f32")], [0, 0.25, 0.5, 0.75, 1, 1.25]);
  assert.deepEqual([...source.readF32("w.f16")], [1.5, -2.25, 65504, 2 ** -24]);
  assert.deepEqual([...source.readF32("ids.i64")], [-1, 2 ** 40]);
  assert.deepEqual([...source.readBytes("codes.u8", 1, 4)], [1, 2, 3]);
  assert.deepEqual([...source.readF32("scalar")], [2.5]);
  assert.equal(source.readF32("empty").length, 0);
  const into = new Uint8Array(4);
  await source.readPlain!("w.f16", into, 2);
  assert.deepEqual([...f16ToF32(new Uint16Array(into.buffer))], [-2.25, 65504]);
  assert.ok(source.readPlain!("w.f32", new Uint8Array(), 0), "an empty array asks");
  assert.ok(!source.readPlain!("ids.i64", into, 0), "integers are decoded");
  assert.throws(() => source.readPlain!("w.f16", into, 6), /of a tensor of 8/);
  assert.deepEqual(source.tensors.get("w.f32"), { name: "w.f32", dtype: "F32", shape: [2, 3], bytes: 24 });
  source.close();
  source.close(); // twice is harmless
});

const tensorArbitrary = fc.record({
  dtype: fc.constantFrom("F32", "F16", "BF16", "U8", "I32", "I64"),
  shape: fc.array(fc.integer({ min: 0, max: 5 }), { maxLength: 3 }),
  seed: fc.integer(),
});

Deno.test("any set of tensors comes back, whole and in ranges", () => {
  const width = { F32: 4, F16: 2, BF16: 2, U8: 1, I32: 4, I64: 8 };
  using folder = temporaryFolder();
  const path = join(folder.path, "x.safetensors");
  fc.assert(
    fc.property(fc.dictionary(fc.string(), tensorArbitrary, { maxKeys: 6 }), (spec) => {
      const tensors = Object.entries(spec).filter(([name]) => name !== "__metadata__").map(([name, t]) => {
        const dtype = t.dtype as keyof typeof width;
        const bytes = t.shape.reduce((n, d) => n * d, 1) * width[dtype];
        const data = Uint8Array.from({ length: bytes }, (_, i) => (i * 37 + t.seed) & 0xff);
        return { name, dtype, shape: t.shape, data };
      });
      writeSafetensors(path, tensors, { note: "∀" });
      const source = openSafetensors(path);
      try {
        assert.equal(source.metadata["note"], "∀");
        assert.equal(source.tensors.size, tensors.length);
        for (const t of tensors) {
          assert.deepEqual(source.tensors.get(t.name)?.shape, t.shape);
          assert.deepEqual(source.readBytes(t.name), t.data);
          const all = source.readF32(t.name);
          const middle = all.length >> 1;
          assert.deepEqual(source.readF32(t.name, middle), all.slice(middle));
          assert.deepEqual(source.readF32(t.name, 0, middle), all.slice(0, middle));
        }
      } finally {
        source.close();
      }
    }),
    { numRuns: 100 },
  );
});

Deno.test("a tensor longer than the reading piece decodes without seams", () => {
  using folder = temporaryFolder();
  const n = 5 * 1024 * 1024 + 3; // 10 MiB as bf16: three pieces
  const values = new Float32Array(n);
  for (let i = 0; i < n; i++) values[i] = (i * 7919) % 65537 - 32768;
  const path = join(folder.path, "long.safetensors");
  writeSafetensors(path, [
    { name: "b", dtype: "BF16", shape: [n], data: values },
    { name: "h", dtype: "F16", shape: [n], data: () => [values.subarray(0, 1000), values.subarray(1000)] },
  ]);
  const source = openSafetensors(path);
  assert.deepEqual(source.readF32("b"), bf16ToF32(f32ToBf16(values)));
  assert.deepEqual(source.readF32("h", 2_000_001), f16ToF32(f32ToF16(values)).slice(2_000_001));
  source.close();
});

Deno.test("a file that shrinks after it was opened is an error, not zeros", () => {
  using folder = temporaryFolder();
  const path = join(folder.path, "w.safetensors");
  writeSafetensors(path, [{ name: "w", dtype: "F32", shape: [1000], data: new Float32Array(1000) }]);
  const source = openSafetensors(path);
  Deno.truncateSync(path, 500);
  throwsCode(() => source.readF32("w"), "formats/truncated", path);
  source.close();
});

Deno.test("unknown tensors and ranges outside are errors", () => {
  using folder = temporaryFolder();
  const path = join(folder.path, "w.safetensors");
  const name = "model.layers.0.self_attn.q_proj.weight";
  writeSafetensors(path, [{ name, dtype: "F32", shape: [2, 2], data: new Float32Array(4) }]);
  const source = openSafetensors(path);
  throwsCode(() => source.readF32("layers.0.self_attn.q_proj.weight"), "formats/missing-tensor", path, name);
  throwsCode(() => source.readF32("nothing"), "formats/missing-tensor");
  throwsCode(() => source.readF32(name, 0, 5), "formats/range", "[0, 5)", name);
  throwsCode(() => source.readF32(name, 3, 2), "formats/range");
  throwsCode(() => source.readF32(name, -1), "formats/range");
  throwsCode(() => source.readF32(name, 0.5), "formats/range");
  throwsCode(() => source.readBytes(name, 0, 17), "formats/range");
  source.close();
});

const three = (): WritableTensor[] =>
  ["c", "a", "b"].map((name, i) => ({ name, dtype: "F32", shape: [10], data: new Float32Array(10).fill(i) }));

Deno.test("shards: faults of the index are named", () => {
  using folder = temporaryFolder();
  writeShardedSafetensors(folder.path, three(), { maxShardBytes: 80 });
  const index = join(folder.path, "model.safetensors.index.json");
  const good = JSON.parse(Deno.readTextFileSync(index));
  const refuse = (content: unknown, code: string, ...words: string[]) => {
    Deno.writeTextFileSync(index, typeof content === "string" ? content : JSON.stringify(content));
    throwsCode(() => openShardedSafetensors(index), `formats/${code}`, ...words);
  };
  refuse("{", "bad-json", "index.json");
  refuse([], "bad-json");
  refuse({}, "bad-index", "weight_map");
  refuse({ weight_map: { a: 1 } }, "bad-index");
  refuse({ weight_map: { a: "../model-00001-of-00002.safetensors" } }, "bad-index", "plain file name");
  refuse({ weight_map: { a: "model-00003-of-00002.safetensors" } }, "missing-shard", "model-00003", '"a"');
  refuse(
    { weight_map: { ...good.weight_map, z: "model-00001-of-00002.safetensors" } },
    "missing-tensor",
    '"z"',
  );
  Deno.writeFileSync(join(folder.path, "model-00002-of-00002.safetensors"), new Uint8Array(20));
  refuse(good, "safetensors-header-json", "model-00002");
  Deno.removeSync(index);
  throwsCode(() => openShardedSafetensors(index), "formats/missing-file");
});

const stories = sharedFile("models/stories260k/model.safetensors");
Deno.test({
  ...skippable("a real model opens and its values are plausible", stories.missing, "../shared"),
  fn() {
    const source = openSafetensors(stories.path);
    assert.deepEqual(source.tensors.get("model.embed_tokens.weight")?.shape, [512, 64]);
    const parameters = [...source.tensors.values()].reduce((n, t) => n + t.bytes / 4, 0);
    assert.equal(parameters, 260_032);
    const w = source.readF32("model.layers.0.self_attn.q_proj.weight");
    const second = source.readF32("model.layers.0.self_attn.q_proj.weight", 64, 128);
    assert.deepEqual(second, w.slice(64, 128));
    assert.ok(w.every((x) => Math.abs(x) < 10));
    source.close();
  },
});
