import assert from "node:assert/strict";
import { GGML_TYPES, ggmlType } from "../../lib/formats/gguf_blocks.ts";
import { floats, fromBase64, golden } from "./support.ts";

interface Golden {
  types: Record<string, { id: number; bytes: string; values: string; quantized_from?: string }>;
}

const { types } = golden<Golden>("ggml_blocks.json");

for (const [name, block] of Object.entries(types)) {
  Deno.test(`${name}: blocks decode to the reference's values, bit for bit`, () => {
    const type = ggmlType(name);
    assert.ok(type);
    assert.equal(type.id, block.id);
    const bytes = fromBase64(block.bytes);
    const expected = floats(block.values);
    assert.equal(bytes.length / type.bytes * type.values, expected.length);
    const out = new Float32Array(expected.length);
    type.decode(bytes, out);
    assert.deepEqual(out, expected);
  });
}

Deno.test("quantized normal numbers come back within a step of the type", () => {
  // Half a step of the block's range: 2·amax/16 for 4 bits and so on; one step allows for the f16 scale.
  const steps: Record<string, number> = { Q4_0: 16, Q4_1: 15, Q5_0: 32, Q5_1: 31, Q8_0: 254 };
  for (const [name, levels] of Object.entries(steps)) {
    const from = floats(types[name]!.quantized_from!);
    const out = new Float32Array(from.length);
    ggmlType(name)!.decode(fromBase64(types[name]!.bytes), out);
    for (let b = 0; b < from.length; b += 32) {
      const block = from.subarray(b, b + 32);
      const range = 2 * Math.max(...block.map(Math.abs));
      block.forEach((x, i) =>
        assert.ok(Math.abs(out[b + i]! - x) <= range / levels, `${name}: ${out[b + i]} for ${x}`)
      );
    }
  }
});

Deno.test("every type of the table has a golden block, except the plain numbers", () => {
  const plain = ["F32", "F64", "I8", "I16", "I32", "I64"];
  const names = [...GGML_TYPES.values()].map((t) => t.name).filter((n) => !plain.includes(n));
  assert.deepEqual(names.sort(), Object.keys(types).sort());
  assert.equal(ggmlType("Q9_9"), undefined);
});
