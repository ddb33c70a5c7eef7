import assert from "node:assert/strict";
import { adapterKind, openGpu } from "../../lib/gpu/mod.ts";
import { scope, tensor } from "../../lib/tensor/tensor.ts";
import { bf16ToF32, f16ToF32 } from "../../lib/formats/mod.ts";
import { CODE_BOOKS, dynamicMap, mapThresholds, thresholdTree } from "../../lib/quant/code_books.ts";
import {
  createQuantized,
  dequantize,
  dequantizeOracle,
  dequantizeRows,
  finishQuantized,
  fromQuantState,
  quantize,
  quantizeOracle,
  quantizeRows,
  rowQuantum,
  toQuantState,
} from "../../lib/quant/mod.ts";
import { goldenWeights, normals } from "./helpers.ts";

await openGpu();

/** Largest |a - b| over |b|, with the scale of the whole as the floor. */
function relativeError(a: Float32Array, b: Float32Array): number {
  const top = b.reduce((m, v) => Math.max(m, Math.abs(v)), 0);
  return a.reduce(
    (worst, v, i) => Math.max(worst, Math.abs(v - b[i]!) / Math.max(Math.abs(b[i]!), 1e-3 * top)),
    0,
  );
}

/** Numbers that sit on, just below and just above every threshold, for awkward values of absmax. */
function nearThresholds(blocksize: number): Float32Array<ArrayBuffer> {
  const out: number[] = [];
  const next = (v: number, ulps: number) => {
    const view = new DataView(new ArrayBuffer(4));
    view.setFloat32(0, v);
    view.setInt32(0, view.getInt32(0) + ulps);
    return view.getFloat32(0);
  };
  const scales = normals(60, 5).map((v) => Math.abs(v) + 1e-3);
  for (const book of Object.values(CODE_BOOKS)) {
    for (const absmax of [1, 3, 1 / 3, 0.7, 1e-20, 1e20, 2 ** -110, 1.9999998807907104, ...scales]) {
      const near = [...book.thresholds].flatMap((t) => {
        return [t, -t].flatMap((s) => [-2, -1, 0, 1, 2].map((u) => next(Math.fround(s * absmax), u)));
      });
      for (let i = 0; i < near.length; i += blocksize - 1) {
        const block = [absmax, ...near.slice(i, i + blocksize - 1)];
        out.push(...block, ...Array(blocksize - block.length).fill(0));
      }
    }
  }
  return Float32Array.from(out);
}

Deno.test("the kernels' built-in numbers are NF4's", async () => {
  const text = async (name: string) =>
    await Deno.readTextFile(new URL(`../../wgsl/${name}.wgsl`, import.meta.url));
  const numbers = (source: string, letter: string) =>
    [...source.matchAll(new RegExp(`^const ${letter}\\d+: f32 = ([^;]+);`, "gm"))].map((m) =>
      Math.fround(Number(m[1]))
    );
  assert.deepEqual(numbers(await text("shared/nf4_thresholds"), "T"), [...CODE_BOOKS.nf4.thresholds]);
  assert.deepEqual(numbers(await text("shared/nf4"), "C"), [...CODE_BOOKS.nf4.values]);
});

Deno.test("codes and scales equal the oracle's byte for byte, all types and block sizes", async () => {
  for (const quantType of ["nf4", "fp4", "int4"] as const) {
    for (const blocksize of [32, 64, 256, 4096]) {
      for (const x of [normals(16384 + 7, blocksize), nearThresholds(blocksize), goldenWeights()]) {
        using t = tensor(x, [x.length]);
        using q = quantize(t, { quantType, blocksize, doubleQuant: false });
        const state = await toQuantState(q);
        const oracle = quantizeOracle(x, [x.length], { quantType, blocksize });
        assert.deepEqual(state.absmax, oracle.absmax);
        const flips = state.packed.reduce((n, b, i) => n + Number(b !== oracle.packed[i]), 0);
        assert.equal(flips, 0, `${quantType}/${blocksize}: ${flips} bytes of ${x.length / 2} differ`);
        assert.equal(state.packed.length, oracle.packed.length);
        using y = dequantize(q);
        // FP4's code 8 is -0, which kernels may read as 0
        assert.deepEqual((await y.data()).map((v) => v + 0), dequantizeOracle(oracle).map((v) => v + 0));
      }
    }
  }
});

Deno.test("16-bit numbers give the bytes of the same numbers in f32, every normal one", async () => {
  for (const dtype of ["f16", "bf16"] as const) {
    const decode = dtype === "f16" ? f16ToF32 : bf16ToF32;
    // beyond 2^126 a scale has no normal inverse, and f32's subnormals count as zero
    const bits = Uint16Array.from({ length: 65536 }, (_, i) => i).filter((b) => {
      const size = Math.abs(decode(Uint16Array.of(b))[0]!);
      return size === 0 || (size >= 2 ** -126 && size < 2 ** 126);
    });
    for (const shuffled of [false, true]) {
      // each pattern once among those of its own size, and once among any
      const order = !shuffled ? bits : bits.toSorted((a, b) => (a * 40503) % 65536 - (b * 40503) % 65536);
      for (const blocksize of [64, 4096]) {
        // whole blocks, and a part of one at the end
        const whole = order.length - order.length % 4096;
        for (const n of [whole, whole - 9]) {
          const part = order.slice(0, n);
          using half = tensor(part, [n], dtype);
          using q = quantize(half, { blocksize, doubleQuant: false });
          const got = await toQuantState(q), want = quantizeOracle(decode(part), [n], { blocksize });
          assert.deepEqual(got.absmax, want.absmax, `${dtype}: scales`);
          assert.deepEqual(got.packed, want.packed, `${dtype}: codes`);
        }
      }
    }
  }
});

Deno.test("double quantization: same bytes as the oracle given the same offset", async () => {
  for (const n of [19200, 70000 + 3, 256 * 64]) {
    const x = n === 19200 ? goldenWeights() : normals(n, 9);
    using t = tensor(x, [n]);
    using q = quantize(t);
    const state = await toQuantState(q);
    // the mean is a sum in another order: at most (number of additions) half-ulps of the sum away
    const exact = quantizeOracle(x, [n], { doubleQuant: true });
    assert.ok(Math.abs(state.nested!.offset / exact.nested!.offset - 1) <= Math.ceil(n / 64) * 2 ** -24);
    const oracle = quantizeOracle(x, [n], { doubleQuant: true, offset: state.nested!.offset });
    assert.deepEqual(state.absmax, oracle.absmax);
    assert.deepEqual(state.nested!.absmax, oracle.nested!.absmax);
    assert.deepEqual(state.packed, oracle.packed);
    using y = dequantize(q);
    // absmax = map * scale + offset, fused or not, then times the value: three roundings of numbers below 2 absmax
    assert.ok(relativeError(await y.data(), dequantizeOracle(oracle)) < 1e-6);
  }
});

Deno.test("the borders' search tree counts the borders below a number", () => {
  const thresholds = mapThresholds(dynamicMap(true)), tree = thresholdTree(thresholds);
  const search = (v: number) => {
    let q = 0;
    for (const first of [0, 1, 5, 21]) {
      const node = tree.subarray(4 * (first + q), 4 * (first + q) + 3);
      q = 4 * q + node.filter((t) => v > t).length;
    }
    return q;
  };
  for (const t of thresholds) {
    for (const v of [t, t - 1e-7, t + 1e-7, -1, 0, 1]) {
      assert.equal(search(v), thresholds.filter((other) => v > other).length, `${v}`);
    }
  }
});

Deno.test("golden weights double-quantize to bitsandbytes' values", async () => {
  using t = tensor(goldenWeights(), [150, 128]);
  using q = quantize(t);
  using y = dequantize(q);
  const first = [-0.78125, -0.41021332144737244, -0.14435423910617828, 0.1922752410173416];
  assert.ok(relativeError((await y.data()).slice(0, 4), Float32Array.from(first)) < 1e-6);
});

Deno.test("4.127 bits a number with double quantization, 4.5 without", () => {
  using t = tensor(normals(1 << 20), [1024, 1024]);
  using q = quantize(t);
  // 4 + 8/64 + 32/(64 * 256), and the offset
  assert.equal(q.bytes * 8, 2 ** 20 * (4 + 8 / 64 + 32 / (64 * 256)) + 32);
  using plain = quantize(t, { doubleQuant: false });
  assert.equal(plain.bytes * 8, 2 ** 20 * 4.5);
});

Deno.test("mean errors on normal numbers lie within 7 sigma of bitsandbytes' table", async () => {
  const table: Record<number, [number, number, number, number, number, number, number, number]> = {
    32: [.067746, .000069, .189726, .000304, .088925, .000091, .242443, .000330],
    64: [.072798, .000074, .203339, .000340, .096543, .000111, .260125, .000379],
    128: [.076831, .000091, .215237, .000391, .102969, .000134, .275817, .000433],
    256: [.080337, .000102, .226105, .000398, .108684, .000182, .289831, .000497],
    512: [.083547, .000143, .236079, .000544, .114115, .000234, .302881, .000583],
    1024: [.086610, .000187, .245370, .000600, .119333, .000320, .315000, .000757],
    2048: [.089592, .000251, .254163, .000747, .124556, .000455, .326607, .000955],
    4096: [.092547, .000360, .262473, .000999, .129536, .000612, .337169, .001239],
  };
  const x = normals(1 << 20, 3);
  using t = tensor(x, [1024, 1024]);
  for (const [blocksize, row] of Object.entries(table)) {
    for (const quantType of ["nf4", "fp4"] as const) {
      const at = quantType === "nf4" ? 0 : 4;
      using q = quantize(t, { quantType, blocksize: Number(blocksize), doubleQuant: false });
      using d = dequantize(q);
      const y = await d.data();
      let absolute = 0, relative = 0;
      y.forEach((v, i) => {
        const e = Math.abs(v - x[i]!);
        absolute += e / x.length;
        relative += e / (Math.abs(x[i]!) + 1e-8) / x.length;
      });
      for (
        const [found, mean, sigma] of [[absolute, row[at]!, row[at + 1]!], [
          relative,
          row[at + 2]!,
          row[at + 3]!,
        ]]
      ) {
        assert.ok(Math.abs(found! - mean!) < 7 * sigma!, `${quantType}/${blocksize}: ${found} for ${mean}`);
      }
    }
  }
});

Deno.test("row by row gives the bytes of the whole, and never a dense copy", async () => {
  const gpu = await openGpu();
  for (const [rows, columns] of [[96, 576], [70, 100], [33, 7]] as const) {
    const x = normals(rows * columns, rows);
    using t = tensor(x, [rows, columns]);
    using whole = quantize(t);
    using q = createQuantized([rows, columns]);
    const unit = rowQuantum(q);
    gpu.pool.resetPeak();
    const before = gpu.pool.report().peakBytes;
    for (let r = 0; r < rows; r += unit) {
      const values = x.slice(r * columns, Math.min(rows, r + unit) * columns);
      quantizeRows(q, r, { dtype: "f32", values });
    }
    finishQuantized(q);
    finishQuantized(q);
    const chunk = Math.ceil(unit * columns * 4 / 256) * 256;
    // on llvmpipe the chunk goes through a texture of whole rows, 2048 texels of 16 bytes; then the scales and the borders
    const texture = 2 ** Math.ceil(Math.log2(Math.max(chunk, 32768)));
    const most = adapterKind(gpu) === "llvmpipe" ? Math.max(chunk + texture, 2 * 32768) : chunk;
    assert.ok(gpu.pool.report().peakBytes - before <= most + q.blocks * 4 + 2048);
    assert.deepEqual(await toQuantState(q), await toQuantState(whole));
  }
});

Deno.test("rows that cut a block are refused with the right multiple", () => {
  using q = createQuantized([64, 100]);
  assert.equal(rowQuantum(q), 16);
  const zeros = (n: number) => ({ dtype: "f32", values: new Float32Array(n) }) as const;
  assert.throws(() => quantizeRows(q, 0, zeros(300)), /multiples of 16 rows/);
  assert.throws(() => quantizeRows(q, 60, zeros(500)), /tensor\/shape|quantizeRows/);
});

Deno.test("ranges of rows decode to the same numbers, in tensors wider than a binding too", async () => {
  const x = normals(300 * 576 + 300 * 24, 4);
  for (const doubleQuant of [true, false]) {
    for (const columns of [576, 600, 100]) {
      const size = 300 * columns;
      const expected = dequantizeOracle(quantizeOracle(x.slice(0, size), [300, columns]));
      const small = await openGpu({ maxBinding: 4096 });
      const t = tensor(x.slice(0, size), [300, columns]);
      const q = quantize(t, { doubleQuant: false });
      const nested = doubleQuant ? quantize(t) : q;
      const whole = await scope(() => dequantize(q)).data();
      assert.deepEqual(whole, expected);
      const all = doubleQuant ? await scope(() => dequantize(nested)).data() : whole;
      const into = tensor(new Float32Array(80 * columns), [80, columns]);
      for (const [from, to] of [[0, 64], [64, 128], [8, 9], [224, 300]] as const) {
        dequantizeRows(nested, from, to, into);
        const got = (await into.data()).slice(0, (to - from) * columns);
        assert.deepEqual(got, all.slice(from * columns, to * columns), `${columns} rows ${from}-${to}`);
      }
      if (columns % 8) assert.throws(() => dequantizeRows(q, 1, 2, into), /multiple of 8 rows/);
      small.close();
    }
  }
  await openGpu();
});

Deno.test("plain state goes there and back unchanged, with foreign code books and odd counts", async () => {
  await openGpu();
  const x = normals(5 * 131, 8);
  const plain = quantizeOracle(x, [5, 131], { quantType: "fp4", blocksize: 32 });
  const nested = quantizeOracle(x, [5, 131], { doubleQuant: true });
  const odd = {
    ...nested,
    quantMap: CODE_BOOKS.nf4.values.map((v) => v * 0.5),
    nested: { ...nested.nested!, quantMap: Float32Array.from({ length: 256 }, (_, i) => i / 255 - 0.5) },
  };
  for (const state of [plain, nested, odd]) {
    using q = fromQuantState(state, "model.layers.0.mlp.up_proj.weight");
    assert.deepEqual(await toQuantState(q), state);
    using y = dequantize(q);
    assert.ok(relativeError(await y.data(), dequantizeOracle(state)) < 1e-6);
  }
  assert.throws(
    () => fromQuantState({ ...plain, packed: plain.packed.slice(1) }, "w"),
    /327 packed bytes where 328/,
  );
});

Deno.test("zeros, subnormals and NaN: zero stays zero, NaN stays loud", async () => {
  const x = new Float32Array(192);
  x.fill(1e-42, 64, 128);
  x[130] = NaN;
  using t = tensor(x, [192]);
  using q = quantize(t, { doubleQuant: false });
  const state = await toQuantState(q);
  assert.deepEqual([...state.packed.slice(0, 64)], Array(64).fill(0x77));
  using y = dequantize(q);
  const out = await y.data();
  assert.ok(out.slice(0, 128).every((v) => v === 0));
  assert.ok(Number.isNaN(out[131]));
});

Deno.test("disposing gives back every byte", async () => {
  const gpu = await openGpu();
  using t = tensor(normals(4096), [64, 64]);
  quantize(t).dispose(); // makes the shared map
  const before = gpu.pool.report().live.base;
  const q = quantize(t);
  assert.ok(gpu.pool.report().live.base > before);
  q.dispose();
  assert.equal(gpu.pool.report().live.base, before);
});
