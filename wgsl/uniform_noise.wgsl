// y = x + magnitude * u, u uniform in [-1, 1): NEFTune's noise (Jain et al. 2023, arXiv 2310.05914, algorithm 1).
// Drawn from a hash of (seed, element), so a resumed run draws the same. Hash: PCG (Jarzynski and Olano 2020).
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

fn pcg(v: vec4<u32>) -> vec4<u32> {
  let state = v * 747796405u + vec4(2891336453u);
  let word = ((state >> ((state >> vec4(28u)) + vec4(4u))) ^ state) * 277803737u;
  return (word >> vec4(22u)) ^ word;
}

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
  let i = id.y * p.row + id.x;
  if (i >= p.n) { return; }
  let draw = pcg((vec4(4u * i) + vec4(0u, 1u, 2u, 3u)) ^ pcg(vec4(p.seed)));
  // 24 bits, which f32 holds exactly
  let u = vec4<f32>(draw >> vec4(8u)) * exp2(-23.0) - 1.0;
  y[i] = x[i] + p.magnitude * u;
}
