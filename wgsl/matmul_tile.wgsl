// y = alpha * A B (+ y) for GPUs: a workgroup computes a TM x TN tile of y from panels of A and B, DEPTH deep, that it
// copies to workgroup memory, so that an element of A is read from the buffer TN times less, one of B TM times less.
// A[m, k] = x[x0 + m xm + k xk], B[k, n] = w[n wn + k wk]: f32 matrices (w also f16 or bf16, two to a word).
// Grid: x over N / TN, y over M / TM. One invocation: RM x RN elements of y, SY and SX apart. Any size.
struct Params {
  M: u32, N: u32, K: u32,
  x0: u32, xm: u32, xk: u32,  // first element and strides of x
  wn: u32, wk: u32,           // strides of w
  y0: u32, ldy: u32,          // first column and row length of y
  alpha: f32,
  accumulate: u32,            // 1: add to y
}
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read> w: array<W>;
@group(0) @binding(3) var<storage, read_write> y: array<f32>;

alias W = f32;                // u32 where w is stored in 16 bits
const W_KIND: u32 = 0u;       // 0 f32, 1 f16, 2 bf16
const X_ALONG_K: bool = true; // neighbours in memory: along K, or along M (N for w)
const W_ALONG_K: bool = true;
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

fn load_w(i: u32) -> f32 {
  if (W_KIND == 0u) { return f32(w[i]); }
  let word = u32(w[i / 2u]);
  if (W_KIND == 1u) { let both = unpack2x16float(word); return select(both.x, both.y, (i & 1u) == 1u); }
  return bitcast<f32>(select(word << 16u, word & 0xffff0000u, (i & 1u) == 1u));
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
  for (var k0 = 0u; k0 < p.K; k0 += DEPTH) {
    // selects, not branches: reads past the edge repeat the last element and count as 0
    for (var l = 0u; l < A_LOADS; l++) { // @unroll
      let i = place(index + l * SIZE, TM, X_ALONG_K);
      let at = min(m0 + i.x, p.M - 1u) * p.xm + min(k0 + i.y, p.K - 1u) * p.xk;
      a[i.y * A_ROW + i.x] = select(0.0, x[p.x0 + at], k0 + i.y < p.K);
    }
    for (var l = 0u; l < B_LOADS; l++) { // @unroll
      let j = place(index + l * SIZE, TN, W_ALONG_K);
      let at = min(n0 + j.x, p.N - 1u) * p.wn + min(k0 + j.y, p.K - 1u) * p.wk;
      b[j.y * B_ROW + j.x] = select(0.0, load_w(at), k0 + j.y < p.K);
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
