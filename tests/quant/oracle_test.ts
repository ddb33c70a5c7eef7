import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { CODE_BOOKS, codeBook, dynamicMap, type QuantType } from "../../lib/quant/code_books.ts";
import { dequantize8bit, dequantizeOracle, quantize8bit, quantizeOracle } from "../../lib/quant/oracle.ts";
import { goldenWeights } from "./helpers.ts";

// Golden values: bitsandbytes' CPU backend, 0.50.2.dev0, run once.
const sha = (data: Uint8Array | Float32Array) =>
  createHash("sha256").update(new Uint8Array(data.buffer, data.byteOffset, data.byteLength)).digest("hex");

Deno.test("dynamic maps are bitsandbytes' bit for bit", () => {
  assert.equal(sha(dynamicMap(true)).slice(0, 32), "e732639a65f497b4ad684bb166a44677");
  assert.equal(sha(dynamicMap(false)).slice(0, 32), "305f002cc11278fb769d13b25b9fd0c7");
});

Deno.test("NF4 borders are the f32 midpoints", () => {
  const published = [
    -0.8480964004993439,
    -0.6106329262256622,
    -0.4599952697753906,
    -0.33967943489551544,
    -0.23460740596055984,
    -0.13791173323988914,
    -0.045525018125772476,
    0.03979014977812767,
    0.1202552504837513,
    0.2035212516784668,
    0.2920137718319893,
    0.3893125355243683,
    0.5016634166240692,
    0.6427869200706482,
    0.8614784181118011,
  ];
  assert.deepEqual([...CODE_BOOKS.nf4.thresholds], published.map(Math.fround));
});

Deno.test("every code book's values encode to themselves", () => {
  for (const book of Object.values(CODE_BOOKS)) {
    const x = Float32Array.from(book.values).map((v) => v < -1 ? -1 : v);
    const y = dequantizeOracle(quantizeOracle(x, [16], { quantType: book.quantType }));
    assert.deepEqual([...y].map(Math.abs), [...x].map(Math.abs), book.quantType);
    assert.ok(y.every((v, i) => v * x[i]! >= 0));
  }
});

Deno.test("golden vector 1: a ramp in one block", () => {
  const x = Float32Array.from({ length: 64 }, (_, i) => (i - 32) / 10);
  const golden: Record<string, number[]> = {
    nf4: [
      0,
      0,
      1,
      17,
      17,
      17,
      18,
      34,
      34,
      51,
      51,
      68,
      69,
      85,
      102,
      103,
      119,
      136,
      153,
      154,
      170,
      187,
      188,
      204,
      205,
      221,
      222,
      238,
      238,
      238,
      255,
      255,
    ],
    fp4: [
      187,
      187,
      187,
      170,
      170,
      170,
      170,
      221,
      221,
      220,
      204,
      207,
      255,
      238,
      238,
      153,
      1,
      22,
      102,
      103,
      119,
      68,
      68,
      85,
      85,
      82,
      34,
      34,
      34,
      35,
      51,
      51,
    ],
  };
  for (const [quantType, bytes] of Object.entries(golden)) {
    const state = quantizeOracle(x, [64], { quantType });
    assert.deepEqual([...state.packed], bytes, quantType);
    assert.equal(state.absmax[0], Math.fround(3.2));
  }
});

Deno.test("golden vector 2: 19,200 numbers, NF4 and FP4, single and double", () => {
  const golden = {
    nf4: [
      "79dfe6d71daae664d1c3bb651052b012",
      "a3b7feddd6b449428c50250ae424d84c",
      "2c4a6c0b2ab04d2b44636b28a8821264",
    ],
    fp4: [
      "becc4a28ec86b27920231e5236ddeab4",
      "3e9a52dd700410342493a3065c3bad23",
      "f13f0e6efcd759a8e1a190f7593590b9",
    ],
  };
  const w = goldenWeights();
  assert.equal(sha(w).slice(0, 16), "7e49f99f181c00df");
  for (const quantType of ["nf4", "fp4"] as const satisfies QuantType[]) {
    const [packed, plain, double] = golden[quantType];
    const single = quantizeOracle(w, [150, 128], { quantType });
    assert.equal(sha(single.packed).slice(0, 32), packed);
    assert.equal(sha(single.absmax).slice(0, 16), "778971dd8ea0d24c");
    assert.equal(sha(dequantizeOracle(single)).slice(0, 32), plain);
    const nested = quantizeOracle(w, [150, 128], { quantType, doubleQuant: true });
    assert.equal(sha(nested.absmax).slice(0, 32), "74e89a34bd4a75a97db41a670e65e29a");
    assert.deepEqual([...nested.nested!.absmax], [0.4803629517555237, 0.4803629517555237]);
    assert.equal(nested.nested!.offset, 0.3008870482444763);
    assert.equal(sha(dequantizeOracle(nested)).slice(0, 32), double);
  }
});

Deno.test("golden vector 3: 8-bit blockwise, signed and unsigned", () => {
  const x = goldenWeights().slice(0, 2048);
  const absmax = [.78125, .7734375, .78125, .78125, .390625, .7734375, .78125, .765625];
  const golden = [
    [x, true, "7eaecfc07d48cb221a278de9a534904f", "d234d7ce5902c1a648f878f07f2ce26e"],
    [x.map(Math.abs), false, "c1277b3b23edafe7deeab1e05e540550", "61bf064077a822564b1f2188f21b457d"],
  ] as const;
  for (const [input, signed, codes, values] of golden) {
    const map = dynamicMap(signed);
    const q = quantize8bit(input, map, 256);
    assert.deepEqual([...q.absmax], absmax);
    assert.equal(sha(q.codes).slice(0, 32), codes);
    assert.equal(sha(dequantize8bit(q.codes, q.absmax, map, 256)).slice(0, 32), values);
  }
});

Deno.test("odd counts, partial blocks and zeros", () => {
  const x = Float32Array.from({ length: 131 }, (_, i) => i < 64 ? 0 : Math.sin(i));
  const state = quantizeOracle(x, [131]);
  assert.equal(state.packed.length, 66);
  assert.equal(state.absmax.length, 3);
  assert.deepEqual([...state.packed.slice(0, 32)], Array(32).fill(0x77));
  assert.equal(state.packed[65]! & 15, 7);
  assert.ok(dequantizeOracle(state).slice(0, 64).every((v) => v === 0));
});

Deno.test("an unknown 4-bit type is named in the error", () => {
  assert.throws(() => codeBook("nf5"), /quant\/type|nf5/);
});
