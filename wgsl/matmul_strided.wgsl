// y = alpha * A B (+ y), any layout through strides: A[m, k] = x[x0 + m xm + k xk], B[k, n] = w[n wn + k wk].
// x, w: f32 matrices, row-major (w also f16 or bf16, two to a word); y: [M, ldy], columns y0 .. y0 + N.
// Grid: x over N / 4 / 8, y over M / 4 / 8. One invocation: a 4 x 4 tile of y. For odd sizes.
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
@group(0) @binding(2) var<storage, read> w: array<W>;  // shared/weight.wgsl
@group(0) @binding(3) var<storage, read_write> y: array<f32>;

@compute @workgroup_size(8, 8)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
  let m0 = id.y * 4u;
  let n0 = id.x * 4u;
  if (m0 >= p.M || n0 >= p.N) { return; }
  var acc: array<f32, 16>;
  for (var k = 0u; k < p.K; k++) {
    var a: array<f32, 4>;
    var b: array<f32, 4>;
    // rows and columns beyond the edge repeat the last one; they are not stored
    for (var i = 0u; i < 4u; i++) { // @unroll
      a[i] = x[p.x0 + min(m0 + i, p.M - 1u) * p.xm + k * p.xk];
      b[i] = load_w(min(n0 + i, p.N - 1u) * p.wn + k * p.wk);
    }
    for (var i = 0u; i < 4u; i++) { // @unroll
      for (var j = 0u; j < 4u; j++) { // @unroll
        acc[4u * i + j] = fma(a[i], b[j], acc[4u * i + j]);
      }
    }
  }
  for (var i = 0u; i < 4u; i++) { // @unroll
    for (var j = 0u; j < 4u; j++) { // @unroll
      if (m0 + i < p.M && n0 + j < p.N) {
        let at = (m0 + i) * p.ldy + p.y0 + n0 + j;
        var v = p.alpha * acc[4u * i + j];
        if (p.accumulate == 1u) { v += y[at]; }
        y[at] = v;
      }
    }
  }
}
