// Inverted dropout: y = x * keep / (1 - rate), keep drawn from a hash of (seed, element), so the backward and a
// recomputed forward draw the same mask without storing it. Hash: PCG (Jarzynski and Olano 2020).
struct Params {
  n: u32,
  row: u32,        // invocations in one grid row
  seed: u32,
  threshold: u32,  // rate * 2^32
  scale: f32,      // 1 / (1 - rate)
}
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read_write> y: array<f32>;

fn pcg(v: u32) -> u32 {
  let state = v * 747796405u + 2891336453u;
  let word = ((state >> ((state >> 28u) + 4u)) ^ state) * 277803737u;
  return (word >> 22u) ^ word;
}

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
  let i = id.y * p.row + id.x;
  if (i >= p.n) { return; }
  y[i] = select(x[i] * p.scale, 0.0, pcg(i ^ pcg(p.seed)) < p.threshold);
}
