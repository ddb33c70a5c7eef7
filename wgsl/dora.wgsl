// DoRA's scale of each output row (Liu et al. 2024, arXiv 2402.09353, eq. 5 and section 4.3): g = m / |W + s B A|.
//   |W_o + s (BA)_o|^2 = |W_o|^2 + sum over k of B_ok (2 s (A W^T)_ko + s^2 (B A A^T)_ok)
// so that no row of W + s B A is formed: w2 = |W_o|^2 is known, aw = A W^T and bg = B (A A^T) are thin products.
// w2, m, norm, g: [rows]; b, bg: [rows, r]; aw: [r, rows]. One invocation a row.
struct Params {
  rows: u32,
  r: u32,
  row: u32, // invocations in one grid row
  s: f32,   // the adapter's scaling
}
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> w2: array<f32>;
@group(0) @binding(2) var<storage, read> b: array<f32>;
@group(0) @binding(3) var<storage, read> aw: array<f32>;
@group(0) @binding(4) var<storage, read> bg: array<f32>;
@group(0) @binding(5) var<storage, read> m: array<f32>;
@group(0) @binding(6) var<storage, read_write> norm: array<f32>;
@group(0) @binding(7) var<storage, read_write> g: array<f32>;

@compute @workgroup_size(64)
fn norms(@builtin(global_invocation_id) id: vec3<u32>) {
  let o = id.y * p.row + id.x;
  if (o >= p.rows) { return; }
  var change = 0.0;
  for (var k = 0u; k < p.r; k++) {
    change += b[o * p.r + k] * (2.0 * aw[k * p.rows + o] + p.s * bg[o * p.r + k]);
  }
  // a row of zeros has no direction: its magnitude is 0 too, and 0 / tiny is 0 rather than NaN
  norm[o] = sqrt(max(w2[o] + p.s * change, 1e-30));
}

// y = m / norm, for the scale g and for its gradient
@compute @workgroup_size(64)
fn divide(@builtin(global_invocation_id) id: vec3<u32>) {
  let o = id.y * p.row + id.x;
  if (o < p.rows) { g[o] = m[o] / norm[o]; }
}
