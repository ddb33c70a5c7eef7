// Sums along rows or columns of x: [rows, columns], in a fixed order.
// row_sum: y[row] = sum over columns (times scale); one workgroup of 64 a row.
// column_sum: y[c] = sum over rows; one invocation a column, rows walked in order.
struct Params {
  rows: u32,
  columns: u32,
  row: u32,     // invocations in one grid row
  scale: f32,
  add: u32,     // 1: add to y
}
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read_write> y: array<f32>;

var<workgroup> part: array<f32, 64>;

@compute @workgroup_size(64)
fn row_sum(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  let r = group.y * (p.row / 64u) + group.x;
  if (r >= p.rows) { return; }
  var sum = 0.0;
  for (var c = lane; c < p.columns; c += 64u) { sum += x[r * p.columns + c]; }
  part[lane] = sum;
  for (var step = 32u; step > 0u; step /= 2u) {
    workgroupBarrier();
    if (lane < step) { part[lane] += part[lane + step]; }
  }
  if (lane == 0u) { y[r] = select(0.0, y[r], p.add == 1u) + part[0] * p.scale; }
}

@compute @workgroup_size(64)
fn column_sum(@builtin(global_invocation_id) id: vec3<u32>) {
  let c = id.y * p.row + id.x;
  if (c >= p.columns) { return; }
  var sum = 0.0;
  for (var r = 0u; r < p.rows; r++) { sum += x[r * p.columns + c]; }
  y[c] = select(0.0, y[c], p.add == 1u) + sum * p.scale;
}

// y[row, :] = x[row] * scale, the gradient of row_sum
@compute @workgroup_size(64)
fn spread(@builtin(global_invocation_id) id: vec3<u32>) {
  let i = id.y * p.row + id.x;
  if (i < p.rows * p.columns) { y[i] = x[i / p.columns] * p.scale; }
}
