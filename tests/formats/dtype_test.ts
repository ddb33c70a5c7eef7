import assert from "node:assert/strict";
import fc from "fast-check";
import {
  bf16ToF32,
  bytesOf,
  decodeToF32,
  DTYPE_BYTES,
  f16ToF32,
  f32ToBf16,
  f32ToF16,
  isPlain,
  isStoredDtype,
  nonFinite,
  type StoredDtype,
} from "../../lib/formats/dtype.ts";

/** Every 16-bit pattern. */
const ALL = Uint16Array.from({ length: 65536 }, (_, i) => i);

Deno.test("f16: every pattern decodes to what IEEE 754 says and comes back", () => {
  const values = f16ToF32(ALL);
  for (let bits = 0; bits < 65536; bits++) {
    const sign = bits & 0x8000 ? -1 : 1;
    const exponent = (bits >> 10) & 31;
    const mantissa = bits & 1023;
    let expected = sign * (1 + mantissa / 1024) * 2 ** (exponent - 15);
    if (exponent === 0) expected = sign * mantissa * 2 ** -24;
    if (exponent === 31) expected = mantissa ? NaN : sign * Infinity;
    assert.ok(Object.is(values[bits], expected), `0x${bits.toString(16)}: ${values[bits]} for ${expected}`);
  }
  const back = f32ToF16(values);
  for (let bits = 0; bits < 65536; bits++) {
    if (!Number.isNaN(values[bits])) assert.equal(back[bits], bits);
  }
});

Deno.test("bf16: every pattern comes back, NaN stays NaN", () => {
  const values = bf16ToF32(ALL);
  const back = f32ToBf16(values);
  for (let bits = 0; bits < 65536; bits++) {
    if (Number.isNaN(values[bits])) assert.ok((back[bits]! & 0x7fff) > 0x7f80, `0x${bits.toString(16)}`);
    else assert.equal(back[bits], bits);
  }
});

/** Nearest of the two neighbours among `values` (ascending), ties to the even pattern: the definition, slowly. */
function nearestEven(x: number, patterns: Uint16Array, decode: (p: Uint16Array) => Float32Array): number {
  const values = decode(patterns);
  let [low, high] = [0, patterns.length - 1];
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (values[middle]! <= x) low = middle;
    else high = middle;
  }
  const [below, above] = [x - values[low]!, values[high]! - x];
  if (below !== above) return below < above ? patterns[low]! : patterns[high]!;
  return patterns[low]! % 2 === 0 ? patterns[low]! : patterns[high]!;
}

Deno.test("f16 and bf16 round to the nearest, ties to even", () => {
  // Positive finite patterns are ascending values.
  const cases = [
    {
      encode: f32ToF16,
      decode: (p: Uint16Array) => f16ToF32(p),
      finite: ALL.subarray(0, 0x7c00),
      most: 65504,
    },
    {
      encode: f32ToBf16,
      decode: (p: Uint16Array) => bf16ToF32(p),
      finite: ALL.subarray(0, 0x7f80),
      most: 3e38,
    },
  ];
  for (const { encode, decode, finite, most } of cases) {
    fc.assert(
      fc.property(fc.float({ min: 0, max: Math.fround(most), noNaN: true }), (x) => {
        assert.equal(encode(new Float32Array([x]))[0], nearestEven(x, finite, decode));
        assert.equal(encode(new Float32Array([-x]))[0]! & 0x7fff, nearestEven(x, finite, decode));
      }),
      { numRuns: 300 },
    );
    // Exact middles of neighbours.
    for (const i of [1, 2, 1023, 1024, 15000, 15001]) {
      const [a, b] = decode(new Uint16Array([i, i + 1]));
      const middle = (a! + b!) / 2;
      assert.equal(encode(new Float32Array([middle]))[0], i % 2 === 0 ? i : i + 1);
    }
  }
});

Deno.test("f16: overflow becomes infinite, half a step above 65504 is the border", () => {
  assert.deepEqual([...f32ToF16(new Float32Array([65519, 65520, -1e9, Infinity]))], [
    0x7bff,
    0x7c00,
    0xfc00,
    0x7c00,
  ]);
});

Deno.test("8-bit floats: landmarks of both kinds", () => {
  const decode = (dtype: StoredDtype, ...bytes: number[]) => {
    const out = new Float32Array(bytes.length);
    decodeToF32(dtype, new Uint8Array(bytes), out);
    return [...out];
  };
  // FP8 formats for deep learning (Micikevicius et al. 2022), table 1: largest, smallest normal, smallest subnormal.
  assert.deepEqual(decode("F8_E4M3", 0x7e, 0xfe, 0x08, 0x01, 0x38, 0x00), [
    448,
    -448,
    2 ** -6,
    2 ** -9,
    1,
    0,
  ]);
  assert.ok(decode("F8_E4M3", 0x7f, 0xff).every(Number.isNaN));
  assert.deepEqual(decode("F8_E5M2", 0x7b, 0x04, 0x01, 0x3c, 0x7c), [57344, 2 ** -14, 2 ** -16, 1, Infinity]);
});

Deno.test("NaN and infinities are found wherever they stand, and nothing else is", () => {
  for (const [dtype, decode] of [["F16", f16ToF32], ["BF16", bf16ToF32]] as const) {
    for (const bits of ALL) {
      const finite = Number.isFinite(decode(Uint16Array.of(bits))[0]);
      for (const place of [0, 1, 4]) { // either half of a word, and the last of an odd count
        const numbers = new Uint16Array(5).fill(dtype === "F16" ? 0xfbff : 0xff7f);
        numbers[place] = bits;
        const found = nonFinite(dtype, bytesOf(numbers));
        if (found !== (finite ? -1 : place)) {
          assert.fail(`${dtype} 0x${bits.toString(16)} at ${place}: ${found}`);
        }
      }
    }
  }
  for (const v of [NaN, -NaN, Infinity, -Infinity]) {
    assert.equal(nonFinite("F32", bytesOf(Float32Array.of(0, -3.4e38, v, NaN))), 2);
  }
  assert.equal(nonFinite("F32", bytesOf(Float32Array.of(3.4028234663852886e38, -1e-45, 0))), -1);
  assert.equal(nonFinite("BF16", new Uint8Array()), -1);
  assert.ok(isPlain("BF16") && !isPlain("F64") && !isPlain("toString"));
});

Deno.test("integers, booleans and f64 decode by their own view", () => {
  const cases: [StoredDtype, ArrayBufferView, number[]][] = [
    ["I8", new Int8Array([-128, 127]), [-128, 127]],
    ["U8", new Uint8Array([0, 255]), [0, 255]],
    ["BOOL", new Uint8Array([0, 1]), [0, 1]],
    ["I16", new Int16Array([-32768, 5]), [-32768, 5]],
    ["U16", new Uint16Array([65535, 5]), [65535, 5]],
    ["I32", new Int32Array([-(2 ** 31), 7]), [-(2 ** 31), 7]],
    ["U32", new Uint32Array([2 ** 31, 7]), [2 ** 31, 7]],
    ["I64", new BigInt64Array([-5n, 1n << 40n]), [-5, 2 ** 40]],
    ["U64", new BigUint64Array([5n, 1n << 63n]), [5, 2 ** 63]],
    ["F64", new Float64Array([0.1, -2]), [Math.fround(0.1), -2]],
    ["F32", new Float32Array([0.1, -2]), [Math.fround(0.1), -2]],
  ];
  for (const [dtype, view, expected] of cases) {
    const out = new Float32Array(2);
    decodeToF32(dtype, bytesOf(view), out);
    assert.deepEqual([...out], expected, dtype);
    assert.equal(view.byteLength, 2 * DTYPE_BYTES[dtype]);
  }
  assert.ok(isStoredDtype("BF16") && !isStoredDtype("toString") && !isStoredDtype("Q4_0"));
});
