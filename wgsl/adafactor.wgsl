// Adafactor (Shazeer and Stern 2018, algorithms 4 and 5 without the relative step), in the order of Transformers' Adafactor:
//   b = 1 - t^decay_rate;  for a matrix [R, C] only the mean squares of its rows r and columns c are kept:
//   r = b r + (1 - b) mean_C(g^2 + eps);  c = b c + (1 - b) mean_R(g^2 + eps);  u = g / sqrt(r / mean(r)) / sqrt(c)
//   for a vector v = b v + (1 - b)(g^2 + eps);  u = g / sqrt(v);  then w = (1 - lr decay) w - lr u / max(1, rms(u) / clip)
// grads, w: [R, C] or [C]; sums: mean(r), max(1, rms(u) / clip), then a sum of u^2 for each row; metrics: see optimizer.ts.
// A matrix larger than a binding comes in ranges of rows: columns adds to c what each range holds.
// Grids: a workgroup a row for rows, squares and apply, the vector's forms included; columns: an invocation a column; mean and
// divisor: one workgroup.
struct Params {
  rows: u32,          // of this range; mean, divisor: of the whole matrix; 1 for a vector
  columns: u32,
  row: u32,           // workgroups, or for columns invocations, in one grid row
  start: u32,         // first row of this range
  size: f32,          // rows, divisor: elements that a mean is over; columns: rows of the whole matrix
  grad_scale: f32,
  decay_rate: f32,
  eps: f32,
  clip: f32,
  lr: f32,
  keep: f32,          // 1 - lr * weight_decay
}
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> metrics: array<f32>;
@group(0) @binding(2) var<storage, read> grads: array<f32>;
@group(0) @binding(3) var<storage, read_write> w: array<f32>;
@group(0) @binding(4) var<storage, read_write> r: array<f32>;
@group(0) @binding(5) var<storage, read_write> c: array<f32>;
@group(0) @binding(6) var<storage, read_write> v: array<f32>;
@group(0) @binding(7) var<storage, read_write> sums: array<f32>;

const LANES: u32 = 64u;
var<workgroup> part: array<f32, LANES>;

fn add_up(lane: u32, value: f32) -> f32 {
  part[lane] = value;
  for (var step = LANES / 2u; step > 0u; step /= 2u) {
    workgroupBarrier();
    if (lane < step) { part[lane] += part[lane + step]; }
  }
  return part[0];
}

fn gradient(i: u32) -> f32 { return grads[i] * p.grad_scale * metrics[1]; }

fn square(i: u32) -> f32 {
  let g = gradient(i);
  return g * g + p.eps;
}

// 1 - b
fn rest() -> f32 { return select(pow(metrics[6], p.decay_rate), 1.0, metrics[6] == 1.0); }

@compute @workgroup_size(LANES)
fn rows(@builtin(workgroup_id) id: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  let i = id.y * p.row + id.x;
  if (i >= p.rows || metrics[3] == 0.0) { return; }
  var sum = 0.0;
  for (var j = lane; j < p.columns; j += LANES) { sum += square(i * p.columns + j); }
  let total = add_up(lane, sum);
  if (lane == 0u) { r[i] += rest() * (total / p.size - r[i]); }
}

@compute @workgroup_size(64)
fn columns(@builtin(global_invocation_id) id: vec3<u32>) {
  let j = id.y * p.row + id.x;
  if (j >= p.columns || metrics[3] == 0.0) { return; }
  var sum = 0.0;
  for (var top = 0u; top < p.rows; top += 64u) { // in two levels, so that long columns keep their digits
    var some = 0.0;
    for (var i = top; i < min(top + 64u, p.rows); i++) { some += square(i * p.columns + j); }
    sum += some;
  }
  let part_of_new = rest();
  let kept = select(c[j], c[j] - part_of_new * c[j], p.start == 0u);
  c[j] = kept + part_of_new * (sum / p.size);
}

@compute @workgroup_size(LANES)
fn mean(@builtin(local_invocation_index) lane: u32) {
  var sum = 0.0;
  for (var i = lane; i < p.rows; i += LANES) { sum += r[i]; }
  let total = add_up(lane, sum);
  if (lane == 0u) { sums[0] = total / f32(p.rows); }
}

@compute @workgroup_size(LANES)
fn squares(@builtin(workgroup_id) id: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  let i = id.y * p.row + id.x;
  if (i >= p.rows || metrics[3] == 0.0) { return; }
  let by_row = inverseSqrt(r[i] / sums[0]);
  var sum = 0.0;
  for (var j = lane; j < p.columns; j += LANES) {
    let u = gradient(i * p.columns + j) * (by_row * inverseSqrt(c[j]));
    sum += u * u;
  }
  let total = add_up(lane, sum);
  if (lane == 0u) { sums[2u + p.start + i] = total; }
}

@compute @workgroup_size(LANES)
fn vector_squares(@builtin(local_invocation_index) lane: u32) {
  if (metrics[3] == 0.0) { return; }
  var sum = 0.0;
  for (var j = lane; j < p.columns; j += LANES) {
    v[j] += rest() * (square(j) - v[j]);
    let u = gradient(j) * inverseSqrt(v[j]);
    sum += u * u;
  }
  let total = add_up(lane, sum);
  if (lane == 0u) { sums[2] = total; }
}

@compute @workgroup_size(LANES)
fn divisor(@builtin(local_invocation_index) lane: u32) {
  var sum = 0.0;
  for (var i = lane; i < p.rows; i += LANES) { sum += sums[2u + i]; }
  let total = add_up(lane, sum);
  if (lane == 0u) { sums[1] = max(1.0, sqrt(total / p.size) / p.clip); }
}

@compute @workgroup_size(LANES)
fn apply(@builtin(workgroup_id) id: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  let i = id.y * p.row + id.x;
  if (i >= p.rows || metrics[3] == 0.0) { return; }
  let by_row = inverseSqrt(r[i] / sums[0]);
  for (var j = lane; j < p.columns; j += LANES) {
    let k = i * p.columns + j;
    w[k] = w[k] * p.keep - p.lr * (gradient(k) * (by_row * inverseSqrt(c[j])) / sums[1]);
  }
}

@compute @workgroup_size(LANES)
fn vector_apply(@builtin(local_invocation_index) lane: u32) {
  if (metrics[3] == 0.0) { return; }
  for (var j = lane; j < p.columns; j += LANES) {
    w[j] = w[j] * p.keep - p.lr * (gradient(j) * inverseSqrt(v[j]) / sums[1]);
  }
}
