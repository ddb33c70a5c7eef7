// RMSNorm (Zhang and Sennrich 2019, arXiv 1910.07467): y = x * r * (w + plus), r = 1 / sqrt(mean(x^2) + eps).
// x, y, dy, dx: [rows, columns]; w: [columns]; r: [rows], saved for the backward.
// forward, backward_x: one workgroup of LANES a row, one barrier; V is vec4 where columns are a multiple of four. backward_w: one invocation a column and a slice
// of the rows, in order; the caller sums the slices.
//   dx = r * (dy * (w + plus) - x * r^2 * mean(dy * (w + plus) * x))      dw = sum over rows of dy * x * r
struct Params {
  rows: u32,
  columns: u32, // in V
  length: f32,  // elements of a row
  row: u32,     // workgroups in one grid row
  slice: u32,   // rows of one slice in backward_w
  eps: f32,
  plus: f32,    // 1 where w is stored as its distance from 1, else 0
}
alias V = f32;
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<V>;
@group(0) @binding(2) var<storage, read> w: array<V>;
@group(0) @binding(3) var<storage, read_write> y: array<V>;
@group(0) @binding(4) var<storage, read_write> r: array<f32>;
@group(0) @binding(5) var<storage, read> dy: array<V>;
@group(0) @binding(6) var<storage, read_write> dx: array<V>;
@group(0) @binding(7) var<storage, read_write> dw: array<V>;

// 64 for GPUs; 8 where lanes are a processor's vector and a barrier is expensive
const LANES: u32 = 64u;
// 1 when V is a vec4: then all of its four elements count
const REST: f32 = 0.0;
fn fold(v: V) -> f32 { return dot(vec4<f32>(v), vec4<f32>(1.0, REST, REST, REST)); }
var<workgroup> part: array<f32, LANES>;

// every lane adds all parts in the same order: one barrier instead of a tree of them
fn total(lane: u32, value: f32) -> f32 {
  part[lane] = value;
  workgroupBarrier();
  var sum = 0.0;
  for (var i = 0u; i < LANES; i++) { sum += part[i]; }
  return sum;
}

@compute @workgroup_size(LANES)
fn forward(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  let i = min(group.y * p.row + group.x, p.rows - 1u);
  let base = i * p.columns;
  var sum = 0.0;
  for (var c = lane; c < p.columns; c += LANES) {
    let v = x[base + c];
    sum += fold(v * v);
  }
  let scale = 1.0 / sqrt(total(lane, sum) / p.length + p.eps);
  for (var c = lane; c < p.columns; c += LANES) { y[base + c] = x[base + c] * scale * (w[c] + p.plus); }
  if (lane == 0u) { r[i] = scale; }
}

@compute @workgroup_size(LANES)
fn backward_x(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  let i = min(group.y * p.row + group.x, p.rows - 1u);
  let base = i * p.columns;
  var sum = 0.0;
  for (var c = lane; c < p.columns; c += LANES) { sum += fold(dy[base + c] * (w[c] + p.plus) * x[base + c]); }
  let scale = r[i];
  let mean = total(lane, sum) / p.length * scale * scale;
  for (var c = lane; c < p.columns; c += LANES) {
    dx[base + c] = scale * (dy[base + c] * (w[c] + p.plus) - x[base + c] * mean);
  }
}

@compute @workgroup_size(64)
fn backward_w(@builtin(global_invocation_id) id: vec3<u32>) {
  let c = id.x;
  if (c >= p.columns) { return; }
  var sum = V(0.0);
  for (var i = id.y * p.slice; i < min(p.rows, (id.y + 1u) * p.slice); i++) {
    sum += dy[i * p.columns + c] * x[i * p.columns + c] * r[i];
  }
  dw[id.y * p.columns + c] = sum;
}
