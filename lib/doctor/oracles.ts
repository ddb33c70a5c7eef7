/**
 * The formulas that kernels are checked against: in double precision, one loop after the other, as in a textbook.
 * @module
 */

/** A matrix, row-major. */
export type Numbers = ArrayLike<number>;

/** `x w^T` (`nt`), `x w` (`nn`) or `x^T w` (`tn`), `[M, N]`. */
export function matmul(
  layout: "nt" | "nn" | "tn",
  x: Numbers,
  w: Numbers,
  M: number,
  N: number,
  K: number,
): number[] {
  return Array.from({ length: M * N }, (_, at) => {
    const m = Math.floor(at / N), n = at % N;
    let sum = 0;
    for (let k = 0; k < K; k++) {
      sum += x[layout === "tn" ? k * M + m : m * K + k]! * w[layout === "nt" ? n * K + k : k * N + n]!;
    }
    return sum;
  });
}

/** Root-mean-square norm over rows of `columns`, times `w`. */
export function rmsNorm(x: Numbers, w: Numbers, columns: number, eps: number): number[] {
  return Array.from(x, (v, i) => {
    const from = i - i % columns;
    let sum = 0;
    for (let c = 0; c < columns; c++) sum += x[from + c]! ** 2;
    return v / Math.sqrt(sum / columns + eps) * w[i % columns]!;
  });
}

/** Layer norm over rows of `columns`, times `w` plus `b`. */
export function layerNorm(x: Numbers, w: Numbers, b: Numbers, columns: number, eps: number): number[] {
  return Array.from(x, (v, i) => {
    const row = Array.from({ length: columns }, (_, c) => x[i - i % columns + c]!);
    const mean = row.reduce((a, u) => a + u, 0) / columns;
    const variance = row.reduce((a, u) => a + (u - mean) ** 2, 0) / columns;
    return (v - mean) / Math.sqrt(variance + eps) * w[i % columns]! + b[i % columns]!;
  });
}

/** Softmax over rows of `columns`. */
export function softmax(x: Numbers, columns: number): number[] {
  return Array.from(x, (v, i) => {
    const from = i - i % columns;
    let total = 0;
    for (let c = 0; c < columns; c++) total += Math.exp(x[from + c]!);
    return Math.exp(v) / total;
  });
}

/** The normal distribution function by its series, for |x| of a few units. */
export function normalCdf(x: number): number {
  let sum = 0, term = x;
  for (let k = 1; k < 60; k++) {
    sum += term;
    term *= x * x / (2 * k + 1);
  }
  return 0.5 + Math.exp(-x * x / 2) / Math.sqrt(2 * Math.PI) * sum;
}

/** Rotary embedding, halves paired (Llama's layout): element j turns with element j + dim / 2. */
export function rope(x: Numbers, positions: Numbers, heads: number, dim: number, theta: number): number[] {
  return Array.from(x, (v, i) => {
    const p = positions[Math.floor(i / (heads * dim))]!, j = i % dim, half = dim / 2;
    // frequency and angle are rounded to f32, as models were trained
    const angle = Math.fround(p * Math.fround(1 / theta ** (2 * (j % half) / dim)));
    return v * Math.cos(angle) + (j < half ? -x[i + half]! : x[i - half]!) * Math.sin(angle);
  });
}

/** One problem of attention: one sequence of `time` positions. */
export interface AttentionProblem {
  q: Numbers;
  k: Numbers;
  v: Numbers;
  segments: Numbers;
  time: number;
  heads: number;
  kvHeads: number;
  dim: number;
}

/** Causal attention within documents; and, given `dy`, the gradients of q, k and v. */
export function attention(p: AttentionProblem, dy?: Numbers) {
  const { q, k, v, segments, time, heads, kvHeads, dim } = p;
  const y = new Array<number>(q.length).fill(0), dq = [...y];
  const dk = new Array<number>(k.length).fill(0), dv = [...dk];
  const scale = dim ** -0.5;
  for (let h = 0; h < heads; h++) {
    const g = Math.floor(h / (heads / kvHeads));
    for (let i = 0; i < time; i++) {
      const at = (i * heads + h) * dim, of = (j: number) => (j * kvHeads + g) * dim;
      const seen = Array.from({ length: i + 1 }, (_, j) => j).filter((j) => segments[j] === segments[i]);
      const score = seen.map((j) => scale * dot(q, at, k, of(j), dim));
      const most = Math.max(...score);
      const total = score.reduce((a, s) => a + Math.exp(s - most), 0);
      const weight = score.map((s) => Math.exp(s - most) / total);
      seen.forEach((j, n) => {
        for (let d = 0; d < dim; d++) y[at + d]! += weight[n]! * v[of(j) + d]!;
      });
      if (!dy) continue;
      const dw = seen.map((j) => dot(dy, at, v, of(j), dim));
      const mean = dw.reduce((a, w, n) => a + w * weight[n]!, 0);
      seen.forEach((j, n) => {
        const ds = scale * weight[n]! * (dw[n]! - mean);
        for (let d = 0; d < dim; d++) {
          dq[at + d]! += ds * k[of(j) + d]!;
          dk[of(j) + d]! += ds * q[at + d]!;
          dv[of(j) + d]! += weight[n]! * dy[at + d]!;
        }
      });
    }
  }
  return { y, dq, dk, dv };
}

function dot(a: Numbers, at: number, b: Numbers, bt: number, n: number): number {
  let sum = 0;
  for (let i = 0; i < n; i++) sum += a[at + i]! * b[bt + i]!;
  return sum;
}

/** Sum of `-log softmax(x w^T)[label]` over rows whose label is not -100, and the gradient of x. */
export function crossEntropy(x: Numbers, w: Numbers, labels: Numbers, C: number, V: number) {
  let loss = 0;
  const dx = new Array<number>(x.length).fill(0);
  for (let row = 0; row < labels.length; row++) {
    const label = labels[row]!;
    if (label === -100) continue;
    const logits = Array.from({ length: V }, (_, n) => dot(x, row * C, w, n * C, C));
    const most = Math.max(...logits);
    const total = logits.reduce((a, z) => a + Math.exp(z - most), 0);
    loss += Math.log(total) + most - logits[label]!;
    logits.forEach((z, n) => {
      const d = Math.exp(z - most) / total - (n === label ? 1 : 0);
      for (let c = 0; c < C; c++) dx[row * C + c]! += d * w[n * C + c]!;
    });
  }
  return { loss, dx };
}

/** AdamW's first step from zero state (Loshchilov and Hutter 2019): there the moments' ratio is the gradient's sign. */
export function adamwFirstStep(w: Numbers, g: Numbers, lr: number, decay: number, eps: number): number[] {
  return Array.from(w, (v, i) => v * (1 - lr * decay) - lr * g[i]! / (Math.abs(g[i]!) + eps));
}
