import assert from "node:assert/strict";
import fc from "fast-check";
import { bytesOf } from "../../lib/formats/dtype.ts";
import { openGguf } from "../../lib/formats/gguf.ts";
import {
  buildGguf,
  type BuiltTensor,
  EMBEDDING,
  type Kv,
  llamaMetadata,
  temporaryFolder,
  throwsCode,
} from "./support.ts";

Deno.test("malformed files: each fault is named, before anything is allocated for it", () => {
  using folder = temporaryFolder();
  const open = (bytes: Uint8Array) => () => openGguf(folder.file("bad.gguf", bytes));
  const good = llamaMetadata();
  const w = (t: Partial<BuiltTensor>): Record<string, BuiltTensor> => ({
    ...EMBEDDING,
    "blk.0.attn_v.weight": { shape: [2, 32], ...t },
  });
  const huge = [0, 0, 0, 0, 0, 1, 0, 0]; // 2^40
  const cases: [bytes: Uint8Array, code: string, ...words: string[]][] = [
    [new Uint8Array(10), "gguf-truncated", "10 bytes"],
    [buildGguf(good, EMBEDDING, { magic: 0x12345678 }), "gguf-magic", "0x12345678"],
    [buildGguf(good, EMBEDDING, { version: 1 }), "gguf-version", "version 1"],
    [buildGguf(good, EMBEDDING, { version: 0x03000000 }), "gguf-version", "big-endian"],
    [buildGguf(good, EMBEDDING, { tensorCount: 2 ** 40 }), "gguf-count", "the tensor count"],
    [buildGguf(good, EMBEDDING, { kvCount: 2 ** 50 }), "gguf-count", "the metadata count"],
    [buildGguf({ a: { raw: [8, huge] } }), "gguf-count", 'key "a"'],
    [buildGguf({ a: { raw: [9, [6, 0, 0, 0, ...huge]] } }), "gguf-count", 'key "a"'],
    [buildGguf({ a: { raw: [9, [8, 0, 0, 0, ...huge]] } }), "gguf-count", 'key "a"'],
    [buildGguf({ a: { raw: [10, [255, 255, 255, 255, 255, 255, 255, 255]] } }), "gguf-architecture"],
    [buildGguf({ a: { raw: [13, []] } }), "gguf-value-type", "13", 'key "a"'],
    [buildGguf({ a: { raw: [9, [99, 0, 0, 0, ...huge]] } }), "gguf-value-type", "99"],
    [
      buildGguf({
        a: {
          raw: [
            9,
            [9, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0].concat(
              ...Array(5).fill([9, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0]),
            ),
          ],
        },
      }),
      "gguf-value-type",
      "too deeply",
    ],
    [buildGguf([["a", true], ["a", true]]), "gguf-duplicate-key", '"a"'],
    [buildGguf(good, [["x.weight", { shape: [1] }], ["x.weight", { shape: [1] }]]), "gguf-duplicate-tensor"],
    [buildGguf({ "general.alignment": { u32: 24 } }), "gguf-alignment", "24"],
    [buildGguf(good, w({ shape: [1, 1, 1, 1, 32] })), "gguf-shape", "5 dimensions"],
    [buildGguf(good, w({ shape: [2 ** 40, 2 ** 40], data: new Uint8Array(4) })), "gguf-shape", "too large"],
    [buildGguf(good, w({ shape: [2, 48], type: "Q8_0" })), "gguf-shape", "48", "Q8_0", "attn_v"],
    [buildGguf(good, w({ shape: [2, 2 ** 20], data: new Uint8Array(4) })), "gguf-truncated", "attn_v"],
    [buildGguf(good, w({ typeId: 16 })), "gguf-type", "type 16", "attn_v", "Q4_K"],
    [buildGguf(good, w({ offset: 1025 })), "gguf-offset", "1025"],
    [buildGguf(good, w({ offset: 32 })), "gguf-overlap", "attn_v"],
    [buildGguf({ "general.architecture": "bert" }), "gguf-architecture", "bert", "llama"],
    [buildGguf({ "general.architecture": { u32: 3 } }), "gguf-metadata", "general.architecture"],
    [buildGguf(llamaMetadata({ "general.type": "adapter" }), EMBEDDING), "gguf-kind", "adapter"],
    [buildGguf(llamaMetadata({ "split.count": { u32: 3 } }), EMBEDDING), "gguf-split"],
    [buildGguf(good), "gguf-kind", "token_embd"],
    [buildGguf({ "general.architecture": "llama" }, EMBEDDING), "gguf-metadata", "head_count"],
    [
      buildGguf(llamaMetadata({ "llama.attention.head_count": { i32s: [4, 8] } }), EMBEDDING),
      "gguf-metadata",
      "head_count",
    ],
    [buildGguf(llamaMetadata({ "llama.attention.head_count": { u32: 0 } }), EMBEDDING), "gguf-metadata"],
    [
      buildGguf(llamaMetadata({ "llama.expert_count": { u32: 8 } }), EMBEDDING),
      "gguf-architecture",
      "experts",
    ],
    [buildGguf(good, { ...EMBEDDING, "blk.0.attn_q.weight": { shape: [6, 32] } }), "gguf-shape", "4 heads"],
  ];
  for (const [bytes, code, ...words] of cases) {
    throwsCode(open(bytes), `formats/${code}`, "bad.gguf", ...words);
  }
});

Deno.test("a GGUF file cut anywhere is refused when it is opened", () => {
  using folder = temporaryFolder();
  const whole = buildGguf(llamaMetadata({ "tokenizer.ggml.tokens": { strings: ["a", "b"] } }), EMBEDDING);
  openGguf(folder.file("whole.gguf", whole)).close();
  for (let cut = 0; cut < whole.length; cut += 7) {
    assert.throws(
      () => openGguf(folder.file("cut.gguf", whole.slice(0, cut))),
      (e: Error & { code?: string }) => /^formats\/gguf-(truncated|count)$/.test(e.code ?? ""),
      `cut at ${cut}`,
    );
  }
});

Deno.test("random damage of a header never does worse than an error", () => {
  using folder = temporaryFolder();
  const whole = buildGguf(llamaMetadata({ "tokenizer.ggml.tokens": { strings: ["a", "b"] } }), EMBEDDING);
  const header = whole.length - 8 * 32 * 4;
  fc.assert(
    fc.property(fc.nat(header - 1), fc.nat(255), (at, value) => {
      const damaged = whole.slice();
      damaged[at] = value;
      try {
        openGguf(folder.file("d.gguf", damaged)).close();
      } catch (e) {
        assert.equal((e as Error).name, "NibbleError", String((e as Error).stack));
      }
    }),
    { numRuns: 300 },
  );
});

Deno.test("version 2, all value types, and a byte-order mark in a string", () => {
  using folder = temporaryFolder();
  const eight = (view: ArrayBufferView) => [...bytesOf(view)];
  const values: Record<string, Kv> = {
    u8: { raw: [0, [200]] },
    i8: { raw: [1, [200]] },
    u16: { raw: [2, [1, 128]] },
    i16: { raw: [3, [1, 128]] },
    i32: { raw: [5, [255, 255, 255, 255]] },
    u64: { raw: [10, eight(new BigUint64Array([1n << 60n]))] },
    i64: { raw: [11, eight(new BigInt64Array([-3n]))] },
    f64: { raw: [12, eight(new Float64Array([0.1]))] },
    bom: "\ufeffx",
    nested: { raw: [9, [9, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 1, 0]] },
    floats: { f32s: [0.5, 2] },
  };
  const file = buildGguf({ ...llamaMetadata(), ...values }, EMBEDDING, { version: 2 });
  const source = openGguf(folder.file("v2.gguf", file));
  const got = Object.fromEntries(Object.keys(values).map((key) => [key, source.metadata.get(key)]));
  assert.deepEqual(got, {
    u8: 200,
    i8: -56,
    u16: 32769,
    i16: -32767,
    i32: -1,
    u64: 1n << 60n,
    i64: -3,
    f64: 0.1,
    bom: "\ufeffx",
    nested: [[true, false]],
    floats: new Float32Array([0.5, 2]),
  });
  source.close();
});
