// h[i] = alpha * sum over k of a[i, k] * x[k] for one row x: the way into the low rank of a token's adapters, on processors
// that run WGSL in vector lanes (llvmpipe). NORM: x goes through an RMSNorm first.
// x: [K], in vec4; a: [parts * rank, K], the parts' matrices one over the other, and norm: [K], both four f32 a texel, texel
// i at (i % 2048, i / 2048). h: [parts * rank].
// Grid: one workgroup is one subgroup, ROWS rows of a; lane l takes the quads l, l + LANES ... of x.
struct Params {
  quads: u32,   // of a row
  rows: u32,
  rank: u32,    // rows of a part
  eps: f32,     // of the norm
  plus: f32,    // added to the norm's weight
  alpha0: f32, alpha1: f32, alpha2: f32,
}
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(2) var a: texture_storage_2d<rgba32float, read>;
@group(0) @binding(3) var<storage, read_write> h: array<f32>;
@group(0) @binding(4) var norm: texture_storage_2d<rgba32float, read>;

const NORM: bool = false;
const LANES: u32 = 8u;
const ROWS: u32 = 4u;

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  let first = group.x * ROWS;
  var squares = vec4<f32>();
  var acc: array<vec4<f32>, ROWS>;
  for (var c = lane; c < p.quads; c += LANES) {
    var v = x[c];
    if (NORM) {
      squares += v * v;
      v *= textureLoad(norm, texel(c)) + vec4(p.plus);
    }
    for (var r = 0u; r < ROWS; r++) { // @unroll
      acc[r] += v * textureLoad(a, texel(min(first + r, p.rows - 1u) * p.quads + c));
    }
  }
  var factor = 1.0;
  if (NORM) {
    factor = 1.0 / sqrt(subgroupAdd(dot(squares, vec4(1.0))) / f32(4u * p.quads) + p.eps);
  }
  for (var r = 0u; r < ROWS; r++) { // @unroll
    let sum = subgroupAdd(dot(acc[r], vec4(1.0)));
    let part = (first + r) / p.rank;
    let alpha = select(select(p.alpha2, p.alpha1, part == 1u), p.alpha0, part == 0u);
    if (lane == 0u && first + r < p.rows) { h[first + r] = alpha * factor * sum; }
  }
}
