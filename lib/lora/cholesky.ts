/**
 * The triangular factor that GPTQ's rule runs on, on the processor in double precision.
 * @module
 */
import type { Matrix } from "./decompose.ts";

/**
 * Upper triangular F with ones on its diagonal, `C + damping = F D Fᵀ` with a diagonal D: Cholesky's factor from the
 * last row up, its columns divided by its diagonal.
 *
 * @param damping of C's mean diagonal. Where C's own rounding outweighs it a pivot falls below it, which none can
 *   otherwise, and ten times as much is added.
 */
export function unitUpper({ rows: n, data }: Matrix, damping: number): Float64Array {
  let trace = 0;
  for (let i = 0; i < n; i++) trace += data[i * n + i]!;
  const scale = trace > 0 ? n / trace : 0;
  const turned = new Float64Array(n * n);
  for (let i = 0; i < n * n; i++) turned[n * n - 1 - i] = data[i]! * scale;
  for (let added = damping;; added *= 10) {
    const l = cholesky(turned, n, added);
    if (!l) continue;
    const f = new Float64Array(n * n);
    for (let i = 0; i < n; i++) {
      for (let j = i; j < n; j++) {
        const column = (n - 1 - j) * n + n - 1 - j;
        f[i * n + j] = l[(n - 1 - i) * n + n - 1 - j]! / l[column]!;
      }
    }
    return f;
  }
}

/** Lower triangular L with `L Lᵀ = C + damping`; undefined where a pivot is less than half the damping. */
function cholesky(c: Float64Array, n: number, damping: number): Float64Array | undefined {
  const l = new Float64Array(n * n);
  for (let i = 0; i < n; i++) {
    const own = l.subarray(i * n, i * n + n);
    for (let j = 0; j <= i; j++) {
      const other = l.subarray(j * n, j * n + n);
      let s0 = 0, s1 = 0, s2 = 0, s3 = 0, k = 0; // four sums: one would wait for itself
      for (; k + 4 <= j; k += 4) {
        s0 += own[k]! * other[k]!;
        s1 += own[k + 1]! * other[k + 1]!;
        s2 += own[k + 2]! * other[k + 2]!;
        s3 += own[k + 3]! * other[k + 3]!;
      }
      for (; k < j; k++) s0 += own[k]! * other[k]!;
      const sum = c[i * n + j]! + (i === j ? damping : 0) - (s0 + s1 + s2 + s3);
      if (i === j && !(sum > damping / 2)) return undefined;
      own[j] = i === j ? Math.sqrt(sum) : sum / other[j]!;
    }
  }
  return l;
}
