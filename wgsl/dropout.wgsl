// Inverted dropout: y = x * keep / (1 - rate), keep drawn as in shared/pcg.wgsl.
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

fn dropped(i: u32, v: vec4<f32>) -> vec4<f32> {
  return drop_out(v, 4u * i, p.seed, p.threshold, p.scale);
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
