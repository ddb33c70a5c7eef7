// forward and backward_x of rms_norm.wgsl on processors that run WGSL in vector lanes (llvmpipe): what is read comes through
// textures, four elements a texel, texel i at (i % 2048, i / 2048). Columns are a multiple of four.
// Grid: one workgroup, which is one subgroup, a row.
struct Params {
  rows: u32,
  columns: u32, // in texels
  length: f32,  // elements of a row
  row: u32,     // workgroups in one grid row
  eps: f32,
  plus: f32,    // 1 where w is stored as its distance from 1, else 0
}
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var x: texture_storage_2d<rgba32float, read>;
@group(0) @binding(2) var w: texture_storage_2d<rgba32float, read>;
@group(0) @binding(3) var<storage, read_write> y: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read_write> r: array<f32>;
@group(0) @binding(5) var dy: texture_storage_2d<rgba32float, read>;
@group(0) @binding(6) var<storage, read_write> dx: array<vec4<f32>>;

const LANES: u32 = 8u;

fn weight(c: u32) -> vec4<f32> { return textureLoad(w, texel(c)) + p.plus; }

@compute @workgroup_size(LANES)
fn forward(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  let i = min(group.y * p.row + group.x, p.rows - 1u);
  let base = i * p.columns;
  var sum = 0.0;
  for (var c = lane; c < p.columns; c += LANES) {
    let v = textureLoad(x, texel(base + c));
    sum += dot(v, v);
  }
  let scale = 1.0 / sqrt(subgroupAdd(sum) / p.length + p.eps);
  for (var c = lane; c < p.columns; c += LANES) {
    y[base + c] = textureLoad(x, texel(base + c)) * scale * weight(c);
  }
  if (lane == 0u) { r[i] = scale; }
}

@compute @workgroup_size(LANES)
fn backward_x(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  let i = min(group.y * p.row + group.x, p.rows - 1u);
  let base = i * p.columns;
  var sum = 0.0;
  for (var c = lane; c < p.columns; c += LANES) {
    let at = texel(base + c);
    sum += dot(textureLoad(dy, at) * weight(c), textureLoad(x, at));
  }
  let scale = r[i];
  let mean = subgroupAdd(sum) / p.length * scale * scale;
  for (var c = lane; c < p.columns; c += LANES) {
    let at = texel(base + c);
    dx[base + c] = scale * (textureLoad(dy, at) * weight(c) - textureLoad(x, at) * mean);
  }
}
