import assert from "node:assert/strict";
import { leadingBasis, type Matrix, topEigen, topSingular, type Triplets } from "../../lib/lora/decompose.ts";
import { assertClose, randoms } from "../gpu_helper.ts";

/** What the fewest bits of a double leave after sums of a few hundred products. */
const EPS64 = 1e-12;

const random = (rows: number, columns: number, seed: number): Matrix => ({
  rows,
  columns,
  data: randoms(rows * columns, seed),
});

/** `xᵀ x` of the columns, `[n, n]`. */
function gram(x: Float64Array, rows: number, n: number): Float64Array {
  return Float64Array.from({ length: n * n }, (_, k) => {
    let sum = 0;
    for (let i = 0; i < rows; i++) sum += x[i * n + Math.floor(k / n)]! * x[i * n + k % n]!;
    return sum;
  });
}

const identity = (n: number) =>
  Float64Array.from({ length: n * n }, (_, k) => Math.floor(k / n) === k % n ? 1 : 0);

function checkTriplets(w: Matrix, r: number, { u, s, v }: Triplets, tolerance: number): void {
  assertClose(gram(u, w.rows, r), identity(r), EPS64, "u is orthonormal");
  assertClose(gram(v, w.columns, r), identity(r), EPS64, "v is orthonormal");
  assert.ok(s.every((x, i) => i === 0 || x <= s[i - 1]! + EPS64), "s falls");
  for (let k = 0; k < r; k++) {
    for (let i = 0; i < w.rows; i++) {
      let sum = 0;
      for (let j = 0; j < w.columns; j++) sum += w.data[i * w.columns + j]! * v[j * r + k]!;
      assert.ok(Math.abs(sum - s[k]! * u[i * r + k]!) <= tolerance * s[0]!, `W v = s u, triplet ${k}`);
    }
  }
}

/** Largest singular values by the power method on WᵀW with deflation: slow, and nothing like the code under test. */
function naiveSingular(w: Matrix, count: number): number[] {
  const { rows, columns } = w;
  const c = Float64Array.from({ length: columns * columns }, (_, k) => {
    let sum = 0;
    for (let i = 0; i < rows; i++) {
      sum += w.data[i * columns + Math.floor(k / columns)]! * w.data[i * columns + k % columns]!;
    }
    return sum;
  });
  return Array.from({ length: count }, (_, n) => {
    let x = Float64Array.from(randoms(columns, 5 + n)), value = 0;
    for (let step = 0; step < 20000; step++) {
      const y = Float64Array.from({ length: columns }, (_, i) => {
        let sum = 0;
        for (let j = 0; j < columns; j++) sum += c[i * columns + j]! * x[j]!;
        return sum;
      });
      const next = Math.hypot(...y);
      x = y.map((a) => a / (next || 1));
      if (Math.abs(next - value) <= 1e-15 * next) break;
      value = next;
    }
    for (let i = 0; i < columns; i++) {
      for (let j = 0; j < columns; j++) c[i * columns + j]! -= value * x[i]! * x[j]!;
    }
    return Math.sqrt(value);
  });
}

for (
  const [rows, columns, r] of [[1, 1, 1], [7, 3, 3], [3, 7, 2], [17, 23, 5], [93, 172, 4], [
    172,
    93,
    16,
  ]] as const
) {
  Deno.test(`the ${r} largest singular triplets of [${rows}, ${columns}]`, () => {
    const w = random(rows, columns, 3);
    const found = topSingular(w, r, { seed: 1 });
    checkTriplets(w, r, found, 1e-6);
    assertClose(found.s, naiveSingular(w, r), 1e-6 * found.s[0]!, "singular values");
    assert.deepEqual(topSingular(w, r, { seed: 1 }), found, "the same seed");
  });
}

Deno.test("equal singular values, a low rank, zeros", () => {
  const rows = 30, columns = 20;
  const w = new Float32Array(rows * columns);
  for (const [i, v] of [5, 5, 5, 2].entries()) w[(3 * i + 1) * columns + 4 * i] = v;
  const found = topSingular({ rows, columns, data: w }, 4, { seed: 7 });
  checkTriplets({ rows, columns, data: w }, 4, found, 1e-6);
  assertClose(found.s, [5, 5, 5, 2], EPS64, "with multiplicity");
  const beyond = topSingular({ rows, columns, data: w }, 6, { seed: 7 });
  assertClose(beyond.s, [5, 5, 5, 2, 0, 0], EPS64, "beyond the rank");
  assertClose(gram(beyond.u, rows, 6), identity(6), EPS64, "u still is orthonormal");
  const zero = topSingular({ rows: 3, columns: 4, data: new Float32Array(12) }, 2, { seed: 1 });
  assert.ok(zero.s.every((s) => s === 0) && zero.u.every(Number.isFinite) && zero.v.every(Number.isFinite));
});

Deno.test("a number of power iterations: better with more of them, and less than the best", () => {
  const w = random(60, 40, 9);
  const [best] = topSingular(w, 3, { seed: 1 }).s;
  const values = [0, 1, 4, 16].map((niter) => topSingular(w, 3, { seed: 1, niter }).s[0]!);
  values.forEach((v, i) => assert.ok(v <= best! + EPS64 && (i === 0 || v > values[i - 1]!), `${values}`));
  assert.ok(values[0]! < 0.95 * best!, "a random start alone is not enough");
});

Deno.test("the largest eigenpairs from products alone: nearer with more of them", async () => {
  const n = 60, half = random(n, 40, 9), r = 4;
  const m = new Float64Array(n * n); // W Wᵀ
  for (let i = 0; i < n; i++) {
    for (let j = 0; j < n; j++) {
      for (let k = 0; k < 40; k++) m[i * n + j]! += half.data[i * 40 + k]! * half.data[j * 40 + k]!;
    }
  }
  const apply = (q: Float64Array, width: number) => {
    const y = new Float64Array(n * width);
    for (let i = 0; i < n; i++) {
      for (let j = 0; j < n; j++) {
        for (let k = 0; k < width; k++) y[i * width + k]! += m[i * n + j]! * q[j * width + k]!;
      }
    }
    return Promise.resolve(y);
  };
  const want = Float64Array.from(naiveSingular(half, r), (s) => s * s);
  const { u, values } = await topEigen(n, r, apply, { seed: 1, width: 12, products: 40 });
  assertClose(values, want, 1e-6 * want[0]!, "eigenvalues");
  assertClose(gram(u, n, r), identity(r), EPS64, "u is orthonormal");
  const image = await apply(u, r);
  assertClose(image, u.map((v, i) => v * values[i % r]!), 1e-5 * want[0]!, "M u = u values");
  let before = 0;
  for (const products of [1, 3, 9]) {
    const { values: [found] } = await topEigen(n, r, apply, { seed: 1, width: 12, products });
    assert.ok(found! > before && found! <= want[0]! * (1 + EPS64), `${products} products: ${found}`);
    before = found!;
  }
});

Deno.test("the basis of the first columns spans them; what does not fit is refused", () => {
  const w = random(23, 17, 4), r = 5;
  const q = leadingBasis(w, r);
  assertClose(gram(q, 23, r), identity(r), EPS64, "orthonormal");
  for (let c = 0; c < r; c++) {
    const column = Float64Array.from({ length: 23 }, (_, i) => w.data[i * 17 + c]!);
    for (let k = 0; k < r; k++) {
      const dot = column.reduce((sum, v, i) => sum + v * q[i * r + k]!, 0);
      column.forEach((_, i) => column[i]! -= dot * q[i * r + k]!);
    }
    assert.ok(Math.hypot(...column) < EPS64, `column ${c} lies in the span`);
  }
  assert.throws(() => topSingular(random(3, 9, 1), 4, { seed: 0 }), RangeError);
  assert.throws(() => leadingBasis(random(9, 3, 1), 4), RangeError);
});
