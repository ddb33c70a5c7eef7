// RMSNorm (Zhang and Sennrich 2019, arXiv 1910.07467): y = x * r * w, r = 1 / sqrt(mean(x^2) + eps).
// x, y, dy, dx: [rows, columns]; w: [columns]; r: [rows], saved for the backward.
// forward, backward_x: one workgroup of 64 a row. backward_w: one invocation a column, rows in order.
//   dx = r * (dy * w - x * r^2 * mean(dy * w * x))      dw = sum over rows of dy * x * r
struct Params {
  rows: u32,
  columns: u32,
  row: u32,  // invocations in one grid row
  eps: f32,
}
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read> w: array<f32>;
@group(0) @binding(3) var<storage, read_write> y: array<f32>;
@group(0) @binding(4) var<storage, read_write> r: array<f32>;
@group(0) @binding(5) var<storage, read> dy: array<f32>;
@group(0) @binding(6) var<storage, read_write> dx: array<f32>;
@group(0) @binding(7) var<storage, read_write> dw: array<f32>;

var<workgroup> part: array<f32, 64>;

fn total(lane: u32, value: f32) -> f32 {
  part[lane] = value;
  for (var step = 32u; step > 0u; step /= 2u) {
    workgroupBarrier();
    if (lane < step) { part[lane] += part[lane + step]; }
  }
  workgroupBarrier();
  return part[0];
}

@compute @workgroup_size(64)
fn forward(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  let i = min(group.y * (p.row / 64u) + group.x, p.rows - 1u);
  let base = i * p.columns;
  var sum = 0.0;
  for (var c = lane; c < p.columns; c += 64u) { sum += x[base + c] * x[base + c]; }
  let scale = 1.0 / sqrt(total(lane, sum) / f32(p.columns) + p.eps);
  for (var c = lane; c < p.columns; c += 64u) { y[base + c] = x[base + c] * scale * w[c]; }
  if (lane == 0u) { r[i] = scale; }
}

@compute @workgroup_size(64)
fn backward_x(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  let i = min(group.y * (p.row / 64u) + group.x, p.rows - 1u);
  let base = i * p.columns;
  var sum = 0.0;
  for (var c = lane; c < p.columns; c += 64u) { sum += dy[base + c] * w[c] * x[base + c]; }
  let scale = r[i];
  let mean = total(lane, sum) / f32(p.columns) * scale * scale;
  for (var c = lane; c < p.columns; c += 64u) { dx[base + c] = scale * (dy[base + c] * w[c] - x[base + c] * mean); }
}

@compute @workgroup_size(64)
fn backward_w(@builtin(global_invocation_id) id: vec3<u32>) {
  let c = id.x;
  if (c >= p.columns) { return; }
  var sum = 0.0;
  for (var i = 0u; i < p.rows; i++) { sum += dy[i * p.columns + c] * x[i * p.columns + c] * r[i]; }
  dw[c] += sum;
}
