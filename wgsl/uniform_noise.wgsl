// y = x + magnitude * u, u uniform in [-1, 1): NEFTune's noise (Jain et al. 2023, arXiv 2310.05914, algorithm 1).
// Drawn as in shared/pcg.wgsl.
// x, y: [n vec4s]. Grid: x over n / 64, folded into y. One invocation: four elements.
struct Params {
  n: u32,          // vec4s, the last one padded
  row: u32,        // invocations in one grid row
  seed: u32,
  magnitude: f32,
}
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read_write> y: array<vec4<f32>>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
  let i = id.y * p.row + id.x;
  if (i >= p.n) { return; }
  // 24 bits, which f32 holds exactly
  let u = vec4<f32>(draw(4u * i, p.seed) >> vec4(8u)) * exp2(-23.0) - 1.0;
  y[i] = x[i] + p.magnitude * u;
}
