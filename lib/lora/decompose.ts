/**
 * The largest singular triplets of a matrix, and an orthonormal basis of its first columns: on the processor, in
 * double precision, for initialisations that decompose the base.
 *
 * (Of the npm libraries, ml-matrix computes whole decompositions only and can loop without end on some matrices,
 * mljs/matrix issue 70; a Krylov space finds the few triplets that are needed in a fraction of the work.)
 * @module
 */
import { normal } from "../model/random_source.ts";

/** A row-major matrix; the decompositions read f32 and work in f64. */
export interface Matrix {
  rows: number;
  columns: number;
  data: Float32Array | Float64Array;
}

/** `U diag(s) Vᵀ`, s falling: u `[rows, r]`, v `[columns, r]`. */
export interface Triplets {
  u: Float64Array;
  s: Float64Array;
  v: Float64Array;
}

/** Options of {@link topSingular}. */
export interface TopSingularOptions {
  seed: number;
  /** Power iterations of a random start without more (Halko et al. 2011, arXiv 0909.4061, algorithm 5.1). */
  niter?: number | undefined;
}

/** Largest allowed `‖W v − s u‖` over the largest singular value: what a decomposition in f32 errs by. */
const TOLERANCE = 1e-6;

/**
 * The `r` largest singular triplets of a matrix.
 *
 * By default to convergence: a block Krylov space of W Wᵀ grows from a random start until the triplets' residuals
 * vanish in f32, at the latest when it is the whole space (Musco and Musco 2015, arXiv 1504.05477).
 *
 * @throws RangeError when the matrix has fewer than `r` rows or columns
 * @example
 * ```ts
 * import { topSingular } from "./decompose.ts";
 * const w = { rows: 2, columns: 3, data: Float32Array.of(3, 0, 0, 0, 4, 0) };
 * const { s } = topSingular(w, 1, { seed: 0 });
 * if (Math.abs(s[0]! - 4) > 1e-9) throw new Error("4 is the largest");
 * ```
 */
export function topSingular(w: Matrix, r: number, options: TopSingularOptions): Triplets {
  const { rows, columns } = w;
  if (r > Math.min(rows, columns)) throw new RangeError(`rank ${r} of a matrix [${rows}, ${columns}]`);
  const most = Math.min(rows, columns);
  const start = Float64Array.from({ length: columns * r }, (_, i) => normal(options.seed, i));
  let block = orthonormal(times(w, start, r), rows, r);
  if (options.niter !== undefined) {
    for (let i = 0; i < options.niter; i++) {
      const down = orthonormal(transposedTimes(w, block, r), columns, r);
      block = orthonormal(times(w, down, r), rows, r);
    }
    return ritz(w, block, r, r);
  }
  let basis = block, width = r, next = Math.min(most, 4 * r);
  while (true) {
    while (width < next) {
      const more = Math.min(r, most - width);
      const grown = times(w, transposedTimes(w, take(basis, rows, width, width - r, r), r), r);
      basis = append(basis, rows, width, take(grown, rows, r, 0, more), more, options.seed + width);
      width += more;
    }
    const found = ritz(w, basis, width, r);
    if (width === most || residual(w, found, r) <= TOLERANCE * found.s[0]!) return found;
    next = Math.min(most, Math.ceil(1.5 * width));
  }
}

/** An orthonormal basis `[rows, r]` of the first r columns: `Q[:, :r]` of `W = Q R`, up to signs. */
export function leadingBasis(w: Matrix, r: number): Float64Array {
  const { rows, columns } = w;
  if (r > Math.min(rows, columns)) throw new RangeError(`rank ${r} of a matrix [${rows}, ${columns}]`);
  return orthonormal(take(Float64Array.from(w.data), rows, columns, 0, r), rows, r);
}

/** Options of {@link topEigen}. */
export interface TopEigenOptions {
  seed: number;
  /** Products with M. Each brings what is not of the largest eigenvectors down by a factor of their eigenvalues. */
  products: number;
  /** Vectors iterated, at least r: the more, the nearer the r largest come in as many products. */
  width: number;
}

/**
 * The `r` largest eigenpairs of a symmetric M without negative ones, of which only products are needed: subspace
 * iteration from a random start (Halko et al. 2011, arXiv 0909.4061, algorithm 5.1 with M for W).
 *
 * @param apply `M Q`, Q `[n, width]`; may be rounded to f32
 * @returns u `[n, r]` orthonormal, values falling
 */
export async function topEigen(
  n: number,
  r: number,
  apply: (q: Float64Array, width: number) => Promise<ArrayLike<number>>,
  { seed, products, width }: TopEigenOptions,
): Promise<{ u: Float64Array; values: Float64Array }> {
  let q = orthonormal(Float64Array.from({ length: n * width }, (_, i) => normal(seed, i)), n, width);
  for (let i = 1; i < products; i++) q = orthonormal(Float64Array.from(await apply(q, width)), n, width);
  const image = Float64Array.from(await apply(q, width));
  const core = transposedTimes({ rows: n, columns: width, data: q }, image, width);
  for (let i = 0; i < width; i++) { // symmetric but for rounding
    for (let j = 0; j < i; j++) {
      core[i * width + j] = core[j * width + i] = (core[i * width + j]! + core[j * width + i]!) / 2;
    }
  }
  const { s, v } = jacobi(core, width);
  const order = largest(s, r);
  return {
    u: times({ rows: n, columns: width, data: q }, chosen(v, width, order), r),
    values: Float64Array.from(order, (o) => s[o]!),
  };
}

/** `W X`, X `[columns, n]`. */
function times(w: Matrix, x: Float64Array, n: number): Float64Array {
  const { rows, columns, data } = w;
  const y = new Float64Array(rows * n);
  for (let i = 0; i < rows; i++) {
    addRows(y.subarray(i * n, (i + 1) * n), data.subarray(i * columns, (i + 1) * columns), x, n);
  }
  return y;
}

/**
 * `out += f X` of a row f and a matrix X of rows of n numbers, four rows at a time: out is read and written a quarter
 * as often, which is what the time goes into.
 */
function addRows(out: Float64Array, f: Matrix["data"], x: Float64Array, n: number): void {
  let j = 0;
  for (; j + 4 <= f.length; j += 4) {
    const f0 = f[j]!, f1 = f[j + 1]!, f2 = f[j + 2]!, f3 = f[j + 3]!;
    const r0 = j * n, r1 = r0 + n, r2 = r1 + n, r3 = r2 + n;
    for (let k = 0; k < out.length; k++) {
      out[k]! += f0 * x[r0 + k]! + f1 * x[r1 + k]! + (f2 * x[r2 + k]! + f3 * x[r3 + k]!);
    }
  }
  for (; j < f.length; j++) {
    for (let k = 0; k < out.length; k++) out[k]! += f[j]! * x[j * n + k]!;
  }
}

/** `Wᵀ X`, X `[rows, n]`; also the inner products of the columns of two matrices. */
export function transposedTimes(w: Matrix, x: Float64Array, n: number): Float64Array {
  const { rows, columns, data } = w;
  const y = new Float64Array(columns * n), f = new Float64Array(rows);
  for (let j = 0; j < columns; j++) {
    for (let i = 0; i < rows; i++) f[i] = data[i * columns + j]!;
    addRows(y.subarray(j * n, (j + 1) * n), f, x, n);
  }
  return y;
}

/** Columns `[from, from + n)` of a matrix `[rows, columns]`. */
function take(x: Float64Array, rows: number, columns: number, from: number, n: number): Float64Array {
  const y = new Float64Array(rows * n);
  for (let i = 0; i < rows; i++) y.set(x.subarray(i * columns + from, i * columns + from + n), i * n);
  return y;
}

/** An orthonormal basis `[rows, n]` of the columns of x. */
function orthonormal(x: Float64Array, rows: number, n: number): Float64Array {
  return append(new Float64Array(0), rows, 0, x, n, 1);
}

/**
 * A basis with n more columns, made orthonormal (Gram and Schmidt, each column twice). A column that adds nothing
 * gives way to a random one.
 */
function append(
  basis: Float64Array,
  rows: number,
  width: number,
  x: Float64Array,
  n: number,
  seed: number,
): Float64Array {
  // columns lie side by side in memory here
  const all = Array.from({ length: width + n }, (_, c) => {
    const [from, columns, at] = c < width ? [basis, width, c] : [x, n, c - width];
    return Float64Array.from({ length: rows }, (_, i) => from[i * columns + at]!);
  });
  for (let c = width; c < width + n; c++) {
    const column = all[c]!;
    let before = norm(column);
    for (let attempt = 0; attempt < 4; attempt++) {
      for (let p = 0; p < c; p++) subtract(column, all[p]!);
      const after = norm(column);
      if (attempt > 0 && after > 0.5 * before) break;
      if (!(after > 1e-12 * before)) column.forEach((_, i) => column[i] = normal(seed + 31 * c, i));
      before = norm(column);
    }
    const length = norm(column);
    for (let i = 0; i < rows; i++) column[i]! /= length;
  }
  const out = new Float64Array(rows * (width + n));
  all.forEach((column, c) => column.forEach((v, i) => out[i * (width + n) + c] = v));
  return out;
}

function norm(x: Float64Array): number {
  let sum = 0;
  for (let i = 0; i < x.length; i++) sum += x[i]! * x[i]!;
  return Math.sqrt(sum);
}

/** Takes the part of x along the unit vector q away. */
function subtract(x: Float64Array, q: Float64Array): void {
  let dot = 0;
  for (let i = 0; i < x.length; i++) dot += x[i]! * q[i]!;
  for (let i = 0; i < x.length; i++) x[i]! -= dot * q[i]!;
}

/** The largest triplets within the span of an orthonormal basis Q: with `Wᵀ Q = E R` and `R = V S Pᵀ`, `E V` and `Q P`. */
function ritz(w: Matrix, basis: Float64Array, width: number, r: number): Triplets {
  const { rows, columns } = w;
  const core = transposedTimes(w, basis, width); // (columns, width)
  const right = orthonormal(core, columns, width);
  const small = transposedTimes({ rows: columns, columns: width, data: right }, core, width);
  const { u: v, s, v: p } = jacobi(small, width);
  const order = largest(s, r);
  return {
    u: times({ rows, columns: width, data: basis }, chosen(p, width, order), r),
    s: Float64Array.from(order, (o) => s[o]!),
    v: times({ rows: columns, columns: width, data: right }, chosen(v, width, order), r),
  };
}

/** Where the r largest are, falling. */
function largest(s: Float64Array, r: number): number[] {
  return Array.from(s.keys()).sort((a, b) => s[b]! - s[a]!).slice(0, r);
}

/** Columns of a square matrix. */
function chosen(x: Float64Array, width: number, columns: readonly number[]): Float64Array {
  const r = columns.length;
  return Float64Array.from({ length: width * r }, (_, i) => x[Math.floor(i / r) * width + columns[i % r]!]!);
}

/** `X = U diag(s) Vᵀ` of a square matrix by rotating pairs of columns until all are orthogonal (Hestenes 1958). */
function jacobi(x: Float64Array, n: number): { u: Float64Array; s: Float64Array; v: Float64Array } {
  const xs = Array.from({ length: n }, (_, c) => Float64Array.from({ length: n }, (_, i) => x[i * n + c]!));
  const vs = Array.from({ length: n }, (_, c) => Float64Array.from({ length: n }, (_, i) => i === c ? 1 : 0));
  const dot = (p: Float64Array, q: Float64Array) => {
    let sum = 0;
    for (let i = 0; i < p.length; i++) sum += p[i]! * q[i]!;
    return sum;
  };
  for (let sweep = 0, turned = true; turned && sweep < 60; sweep++) {
    turned = false;
    for (let p = 0; p < n - 1; p++) {
      for (let q = p + 1; q < n; q++) {
        const a = dot(xs[p]!, xs[p]!), b = dot(xs[q]!, xs[q]!), c = dot(xs[p]!, xs[q]!);
        if (Math.abs(c) <= 1e-14 * Math.sqrt(a * b)) continue;
        turned = true;
        const zeta = (b - a) / (2 * c);
        const t = Math.sign(zeta || 1) / (Math.abs(zeta) + Math.sqrt(1 + zeta * zeta));
        const cos = 1 / Math.sqrt(1 + t * t);
        for (const [m, k] of [[xs[p]!, xs[q]!], [vs[p]!, vs[q]!]] as const) rotate(m, k, cos, cos * t);
      }
    }
  }
  const s = Float64Array.from(xs, norm);
  const flat = (columns: Float64Array[], scale: (c: number) => number) => {
    const out = new Float64Array(n * n);
    columns.forEach((m, c) => m.forEach((value, i) => out[i * n + c] = value * scale(c)));
    return out;
  };
  return { u: flat(xs, (c) => s[c]! > 0 ? 1 / s[c]! : 0), s, v: flat(vs, () => 1) };
}

function rotate(p: Float64Array, q: Float64Array, cos: number, sin: number): void {
  for (let i = 0; i < p.length; i++) {
    const a = p[i]!, b = q[i]!;
    p[i] = cos * a - sin * b;
    q[i] = sin * a + cos * b;
  }
}

/** Largest `‖W v − s u‖` of the triplets; the other residual is zero by construction. */
function residual(w: Matrix, { u, s, v }: Triplets, r: number): number {
  const image = times(w, v, r);
  let worst = 0;
  for (let c = 0; c < r; c++) {
    let sum = 0;
    for (let i = 0; i < w.rows; i++) sum += (image[i * r + c]! - s[c]! * u[i * r + c]!) ** 2;
    worst = Math.max(worst, Math.sqrt(sum));
  }
  return worst;
}
