// y = alpha * (A B + beta L U) (+ y) as in matmul_tile.wgsl, four elements at a time: 16 bytes a load from the buffers and from
// workgroup memory, whose panels lie along M and N. For rows that begin on whole quads in all operands.
// A[m, k] = x[m, k] (X_ALONG_K) or x[k, m]; B[k, n] = w[n, k] (W_ALONG_K) or w[k, n]. L[m, r] = low_x[m, r], U lies as B.
// Grid: x over N / TN, y over M / TM. One invocation: RM x RN elements of y, in quads SY and SX quads apart.
struct Params {
  M: u32, N: u32, K: u32,
  x0: u32, ldx: u32, ldw: u32,  // first quad of x, quads of a row of x and w
  y0: u32, ldy: u32,            // first column and row length of y, in quads
  alpha: f32,
  accumulate: u32,              // 1: add to y
  R: u32, low_ldw: u32,  // the low rank, quads of a row of low_w
  beta: f32,
  seed: u32, threshold: u32, scale: f32, mask0: u32,  // dropout of L U (shared/pcg.wgsl); element mask0 is y[0, 0]
}
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> w: array<W>;  // shared/weight_quad.wgsl
@group(0) @binding(3) var<storage, read_write> y: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read> low_x: array<vec4<f32>>;  // where LOW
@group(0) @binding(5) var<storage, read> low_w: array<vec4<f32>>;

// A[m .. m + 3, k .. k + 3], a column a k; past the edge elements repeat
fn load_a(m: u32, k: u32) -> mat4x4<f32> {
  if (X_ALONG_K) {
    let at = p.x0 + min(k, p.K - 4u) / 4u;
    let m1 = p.M - 1u;
    return transpose(mat4x4<f32>(
      x[at + min(m, m1) * p.ldx], x[at + min(m + 1u, m1) * p.ldx],
      x[at + min(m + 2u, m1) * p.ldx], x[at + min(m + 3u, m1) * p.ldx]));
  }
  let at = p.x0 + min(m, p.M - 4u) / 4u;
  let k1 = p.K - 1u;
  return mat4x4<f32>(
    x[at + min(k, k1) * p.ldx], x[at + min(k + 1u, k1) * p.ldx],
    x[at + min(k + 2u, k1) * p.ldx], x[at + min(k + 3u, k1) * p.ldx]);
}

// B[k .. k + 3, n .. n + 3], a column a k
fn load_b(n: u32, k: u32) -> mat4x4<f32> {
  if (W_ALONG_K) {
    let at = min(k, p.K - 4u) / 4u;
    let n1 = p.N - 1u;
    return transpose(mat4x4<f32>(
      load_w(at + min(n, n1) * p.ldw), load_w(at + min(n + 1u, n1) * p.ldw),
      load_w(at + min(n + 2u, n1) * p.ldw), load_w(at + min(n + 3u, n1) * p.ldw)));
  }
  let at = min(n, p.N - 4u) / 4u;
  let k1 = p.K - 1u;
  return mat4x4<f32>(
    load_w(at + min(k, k1) * p.ldw), load_w(at + min(k + 1u, k1) * p.ldw),
    load_w(at + min(k + 2u, k1) * p.ldw), load_w(at + min(k + 3u, k1) * p.ldw));
}

fn prepare(index: u32) {}
