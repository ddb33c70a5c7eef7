// y = alpha * (A B + beta L U) (+ y) for GPUs: a workgroup computes a TM x TN tile of y from panels of A and B, DEPTH deep,
// that it copies to workgroup memory, so that an element of A is read from the buffer TN times less, one of B TM times less.
// A[m, k] = x[x0 + m xm + k xk], B[k, n] = w[n wn + k wk]: f32 matrices (w also f16 or bf16, two to a word).
// L U (LOW) is of a low rank R and comes first: L[m, r] = low_x[m R + r], U[r, n] = low_w[n un + r ur], in f32.
// Grid: x over N / TN, y over M / TM. One invocation: RM x RN elements of y, SY and SX apart. Any size.
struct Params {
  M: u32, N: u32, K: u32,
  x0: u32, xm: u32, xk: u32,  // first element and strides of x
  wn: u32, wk: u32,           // strides of w
  y0: u32, ldy: u32,          // first column and row length of y
  alpha: f32,
  accumulate: u32,            // 1: add to y
  R: u32, un: u32, ur: u32,   // the low rank, strides of low_w
  beta: f32,
  seed: u32, threshold: u32, scale: f32, mask0: u32,  // dropout of L U (shared/pcg.wgsl); element mask0 is y[0, 0]
}
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read> w: array<W>;  // shared/weight.wgsl
@group(0) @binding(3) var<storage, read_write> y: array<f32>;
@group(0) @binding(4) var<storage, read> low_x: array<f32>;  // where LOW
@group(0) @binding(5) var<storage, read> low_w: array<f32>;

const X_ALONG_K: bool = true; // neighbours in memory: along K, or along M (N for w)
const W_ALONG_K: bool = true;
const LOW: bool = false;
const DROP_LOW: bool = false;
const SX: u32 = 16u;          // the workgroup is SX x SY
const SY: u32 = 16u;
const RM: u32 = 4u;
const RN: u32 = 4u;
const DEPTH: u32 = 16u;
const TM: u32 = RM * SY;
const TN: u32 = RN * SX;
const SIZE: u32 = SX * SY;
const A_LOADS: u32 = TM * DEPTH / SIZE;
const B_LOADS: u32 = TN * DEPTH / SIZE;
const A_ROW: u32 = TM + 1u;   // one more, against bank conflicts
const B_ROW: u32 = TN + 1u;

var<workgroup> a: array<f32, DEPTH * A_ROW>;
var<workgroup> b: array<f32, DEPTH * B_ROW>;

// A[m, k] or L[m, k]; selects, not branches: reads past the edge repeat the last element and count as 0
fn load_a(m: u32, k: u32, low: bool) -> f32 {
  let row = min(m, p.M - 1u);
  if (LOW && low) { return select(0.0, low_x[row * p.R + min(k, p.R - 1u)], k < p.R); }
  return select(0.0, x[p.x0 + row * p.xm + min(k, p.K - 1u) * p.xk], k < p.K);
}

fn load_b(n: u32, k: u32, low: bool) -> f32 {
  let column = min(n, p.N - 1u);
  if (LOW && low) { return select(0.0, low_w[column * p.un + min(k, p.R - 1u) * p.ur], k < p.R); }
  return select(0.0, load_w(column * p.wn + min(k, p.K - 1u) * p.wk), k < p.K);
}

// what L U gives of y[m, n]
fn low_part(m: u32, n: u32, sum: f32) -> f32 {
  if (DROP_LOW) {
    return drop_out(vec4(p.beta * sum), p.mask0 + m * p.ldy + p.y0 + n, p.seed, p.threshold, p.scale).x;
  }
  return p.beta * sum;
}

// the i-th element of a panel, as (row or column of the tile, k)
fn place(i: u32, edge: u32, along_k: bool) -> vec2<u32> {
  if (along_k) { return vec2<u32>(i / DEPTH, i % DEPTH); }
  return vec2<u32>(i % edge, i / edge);
}

@compute @workgroup_size(SX, SY)
fn main(
  @builtin(workgroup_id) group: vec3<u32>,
  @builtin(local_invocation_id) id: vec3<u32>,
  @builtin(local_invocation_index) index: u32,
) {
  let m0 = group.y * TM;
  let n0 = group.x * TN;
  var acc: array<f32, RM * RN>;
  var u: array<f32, RM>;
  var v: array<f32, RN>;
  let deep = select(0u, (p.R + DEPTH - 1u) / DEPTH * DEPTH, LOW);
  for (var step = 0u; step < deep + p.K; step += DEPTH) {
    let low = step < deep;
    let k0 = select(step - deep, step, low);
    if (LOW && step == deep) {
      for (var i = 0u; i < RM; i++) { // @unroll
        for (var j = 0u; j < RN; j++) { // @unroll
          acc[RN * i + j] = low_part(m0 + id.y + SY * i, n0 + id.x + SX * j, acc[RN * i + j]);
        }
      }
    }
    for (var l = 0u; l < A_LOADS; l++) { // @unroll
      let i = place(index + l * SIZE, TM, X_ALONG_K);
      a[i.y * A_ROW + i.x] = load_a(m0 + i.x, k0 + i.y, low);
    }
    for (var l = 0u; l < B_LOADS; l++) { // @unroll
      let j = place(index + l * SIZE, TN, W_ALONG_K);
      b[j.y * B_ROW + j.x] = load_b(n0 + j.x, k0 + j.y, low);
    }
    workgroupBarrier();
    for (var k = 0u; k < DEPTH; k++) { // @unroll
      for (var i = 0u; i < RM; i++) { // @unroll
        u[i] = a[k * A_ROW + id.y + SY * i];
      }
      for (var j = 0u; j < RN; j++) { // @unroll
        v[j] = b[k * B_ROW + id.x + SX * j];
      }
      for (var i = 0u; i < RM; i++) { // @unroll
        for (var j = 0u; j < RN; j++) { // @unroll
          acc[RN * i + j] = fma(u[i], v[j], acc[RN * i + j]);
        }
      }
    }
    workgroupBarrier();
  }
  for (var i = 0u; i < RM; i++) { // @unroll
    for (var j = 0u; j < RN; j++) { // @unroll
      let m = m0 + id.y + SY * i;
      let n = n0 + id.x + SX * j;
      if (m < p.M && n < p.N) {
        let at = m * p.ldy + p.y0 + n;
        var sum = p.alpha * acc[RN * i + j];
        if (p.accumulate == 1u) { sum += y[at]; }
        y[at] = sum;
      }
    }
  }
}
