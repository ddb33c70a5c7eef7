// Softmax over the last axis: y_c = exp(x_c - max) / sum_k exp(x_k - max).  Backward: dx = y * (dy - sum_k dy_k y_k).
// x, y, dy, dx: [rows, columns]. Grid: one workgroup of LANES a row. The maximum is subtracted, so no exponent overflows.
struct Params {
  rows: u32,
  columns: u32,
  row: u32,     // workgroups in one grid row
}
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read_write> y: array<f32>;
@group(0) @binding(3) var<storage, read> dy: array<f32>;
@group(0) @binding(4) var<storage, read_write> dx: array<f32>;

// 64 for GPUs; 8 where lanes are a processor's vector and a barrier is expensive
const LANES: u32 = 64u;
var<workgroup> tops: array<f32, LANES>;
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
  let i = group.y * p.row + group.x;
  if (i >= p.rows) { return; }
  let base = i * p.columns;
  var top = -3.4e38;
  for (var c = lane; c < p.columns; c += LANES) { top = max(top, x[base + c]); }
  tops[lane] = top;
  workgroupBarrier();
  for (var i = 0u; i < LANES; i++) { top = max(top, tops[i]); }
  var sum = 0.0;
  for (var c = lane; c < p.columns; c += LANES) {
    let e = exp(x[base + c] - top);
    sum += e;
    y[base + c] = e;
  }
  let share = 1.0 / total(lane, sum);
  for (var c = lane; c < p.columns; c += LANES) { y[base + c] *= share; }
}

@compute @workgroup_size(LANES)
fn backward(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  let i = group.y * p.row + group.x;
  if (i >= p.rows) { return; }
  let base = i * p.columns;
  var sum = 0.0;
  for (var c = lane; c < p.columns; c += LANES) { sum += dy[base + c] * y[base + c]; }
  let mean = total(lane, sum);
  for (var c = lane; c < p.columns; c += LANES) { dx[base + c] = y[base + c] * (dy[base + c] - mean); }
}
