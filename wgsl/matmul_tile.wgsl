// y = alpha * A B (+ y) for GPUs: a workgroup computes a (4 SIDE)^2 tile of y from panels of A and B, DEPTH deep, that it
// copies to workgroup memory, so that each element is read from the buffers 4 SIDE times less.
// A[m, k] = x[x0 + m xm + k xk], B[k, n] = w[n wn + k wk]: f32 matrices (w also f16 or bf16, two to a word).
// Grid: x over N / (4 SIDE), y over M / (4 SIDE). One invocation: 4 x 4 elements of y, SIDE apart. Any size.
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
const SIDE: u32 = 16u;        // the workgroup is SIDE x SIDE
const X_ALONG_K: bool = true; // neighbours in memory: along K, or along M (N for w)
const W_ALONG_K: bool = true;
const DEPTH: u32 = 16u;
const TILE: u32 = 4u * SIDE;
const SIZE: u32 = SIDE * SIDE;
const LOADS: u32 = TILE * DEPTH / SIZE;
const ROW: u32 = TILE + 1u;   // one more, against bank conflicts
const PANEL: u32 = DEPTH * ROW;

var<workgroup> a: array<f32, PANEL>;
var<workgroup> b: array<f32, PANEL>;

fn load_w(i: u32) -> f32 {
  if (W_KIND == 0u) { return f32(w[i]); }
  let word = u32(w[i / 2u]);
  if (W_KIND == 1u) { let both = unpack2x16float(word); return select(both.x, both.y, (i & 1u) == 1u); }
  return bitcast<f32>(select(word << 16u, word & 0xffff0000u, (i & 1u) == 1u));
}

// the i-th element of a panel, as (row or column of the tile, k)
fn place(i: u32, along_k: bool) -> vec2<u32> {
  if (along_k) { return vec2<u32>(i / DEPTH, i % DEPTH); }
  return vec2<u32>(i % TILE, i / TILE);
}

@compute @workgroup_size(SIDE, SIDE)
fn main(
  @builtin(workgroup_id) group: vec3<u32>,
  @builtin(local_invocation_id) id: vec3<u32>,
  @builtin(local_invocation_index) index: u32,
) {
  let m0 = group.y * TILE;
  let n0 = group.x * TILE;
  var acc: array<f32, 16>;
  var u: array<f32, 4>;
  var v: array<f32, 4>;
  for (var k0 = 0u; k0 < p.K; k0 += DEPTH) {
    for (var l = 0u; l < LOADS; l++) { // @unroll
      let i = place(index + l * SIZE, X_ALONG_K);
      let j = place(index + l * SIZE, W_ALONG_K);
      // selects, not branches: reads past the edge repeat the last element and count as 0
      let x_at = min(m0 + i.x, p.M - 1u) * p.xm + min(k0 + i.y, p.K - 1u) * p.xk;
      let w_at = min(n0 + j.x, p.N - 1u) * p.wn + min(k0 + j.y, p.K - 1u) * p.wk;
      a[i.y * ROW + i.x] = select(0.0, x[p.x0 + x_at], k0 + i.y < p.K);
      b[j.y * ROW + j.x] = select(0.0, load_w(w_at), k0 + j.y < p.K);
    }
    workgroupBarrier();
    for (var k = 0u; k < DEPTH; k++) { // @unroll
      for (var i = 0u; i < 4u; i++) { // @unroll
        u[i] = a[k * ROW + id.y + SIDE * i];
        v[i] = b[k * ROW + id.x + SIDE * i];
      }
      for (var i = 0u; i < 4u; i++) { // @unroll
        for (var j = 0u; j < 4u; j++) { // @unroll
          acc[4u * i + j] = fma(u[i], v[j], acc[4u * i + j]);
        }
      }
    }
    workgroupBarrier();
  }
  for (var i = 0u; i < 4u; i++) { // @unroll
    for (var j = 0u; j < 4u; j++) { // @unroll
      let m = m0 + id.y + SIDE * i;
      let n = n0 + id.x + SIDE * j;
      if (m < p.M && n < p.N) {
        let at = m * p.ldy + p.y0 + n;
        var sum = p.alpha * acc[4u * i + j];
        if (p.accumulate == 1u) { sum += y[at]; }
        y[at] = sum;
      }
    }
  }
}
