// Inverted dropout: y = x * keep / (1 - rate), keep drawn from a hash of (seed, element), so the backward and a
// recomputed forward draw the same mask without storing it. Hash: PCG (Jarzynski and Olano 2020).
struct Params {
  n: u32,          // vec4s, the last one padded
  row: u32,        // invocations in one grid row
  seed: u32,
  threshold: u32,  // rate * 2^32
  scale: f32,      // 1 / (1 - rate)
}
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read_write> y: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read> base: array<vec4<f32>>;

fn pcg(v: vec4<u32>) -> vec4<u32> {
  let state = v * 747796405u + vec4(2891336453u);
  let word = ((state >> ((state >> vec4(28u)) + vec4(4u))) ^ state) * 277803737u;
  return (word >> vec4(22u)) ^ word;
}

fn dropped(i: u32, v: vec4<f32>) -> vec4<f32> {
  let element = vec4(4u * i) + vec4(0u, 1u, 2u, 3u);
  let draw = pcg(element ^ pcg(vec4(p.seed)));
  return select(v * p.scale, vec4(0.0), draw < vec4(p.threshold));
}

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
  let i = id.y * p.row + id.x;
  if (i < p.n) { y[i] = dropped(i, x[i]); }
}

// in place
@compute @workgroup_size(64)
fn in_place(@builtin(global_invocation_id) id: vec3<u32>) {
  let i = id.y * p.row + id.x;
  if (i < p.n) { y[i] = dropped(i, y[i]); }
}

// y = base + dropped x
@compute @workgroup_size(64)
fn add(@builtin(global_invocation_id) id: vec3<u32>) {
  let i = id.y * p.row + id.x;
  if (i < p.n) { y[i] = base[i] + dropped(i, x[i]); }
}
