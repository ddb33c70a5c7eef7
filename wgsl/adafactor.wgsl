// Adafactor (Shazeer and Stern 2018, algorithms 4 and 5 without the relative step), in the order of Transformers' Adafactor:
//   b = 1 - t^decay_rate;  for a matrix [R, C] only the mean squares of its rows r and columns c are kept:
//   r = b r + (1 - b) mean_C(g^2 + eps);  c = b c + (1 - b) mean_R(g^2 + eps);  u = g / sqrt(r / mean(r)) / sqrt(c)
//   for a vector v = b v + (1 - b)(g^2 + eps);  u = g / sqrt(v);  then w = (1 - lr decay) w - lr u / max(1, rms(u) / clip)
// grads, w: [R, C] or [C]; partials: sums of u^2, after mean(r) in its first place; metrics: see optimizer.ts.
// A matrix larger than a binding comes in ranges of rows: columns adds to c what each range holds.
// Grids: rows: a workgroup a row; columns: an invocation a column; row_mean: one workgroup; squares, vector_squares: a
// workgroup a run of elements; apply, vector_apply: an invocation an element.
struct Params {
  rows: u32,          // of this range; 1 for a vector
  columns: u32,
  row: u32,           // workgroups (rows, squares) or invocations in one grid row
  run: u32,           // elements a workgroup sums in squares
  first: u32,         // columns: 1 in the first range; squares: its first partial; apply: number of partials
  size: f32,          // columns: rows of the whole matrix; apply: elements of it
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
@group(0) @binding(7) var<storage, read_write> partials: array<f32>;

const LANES: u32 = 64u;
var<workgroup> part: array<f32, LANES>;

fn add_up(lane: u32, value: f32) {
  part[lane] = value;
  for (var step = LANES / 2u; step > 0u; step /= 2u) {
    workgroupBarrier();
    if (lane < step) { part[lane] += part[lane + step]; }
  }
}

fn gradient(i: u32) -> f32 { return grads[i] * p.grad_scale * metrics[1]; }

fn square(i: u32) -> f32 {
  let g = gradient(i);
  return g * g + p.eps;
}

// 1 - b
fn rest() -> f32 { return select(pow(metrics[6], p.decay_rate), 1.0, metrics[6] == 1.0); }

fn update(i: u32) -> f32 {
  return gradient(i) * (inverseSqrt(r[i / p.columns] / partials[0]) * inverseSqrt(c[i % p.columns]));
}

fn vector_update(i: u32) -> f32 { return gradient(i) * inverseSqrt(v[i]); }

fn change(i: u32, u: f32) {
  var sum = 0.0;
  for (var k = 1u; k <= p.first; k++) { sum += partials[k]; }
  w[i] = w[i] * p.keep - p.lr * (u / max(1.0, sqrt(sum / p.size) / p.clip));
}

@compute @workgroup_size(LANES)
fn rows(@builtin(workgroup_id) id: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  let i = id.y * p.row + id.x;
  if (i >= p.rows || metrics[3] == 0.0) { return; }
  var sum = 0.0;
  for (var j = lane; j < p.columns; j += LANES) { sum += square(i * p.columns + j); }
  add_up(lane, sum);
  if (lane == 0u) { r[i] += rest() * (part[0] / f32(p.columns) - r[i]); }
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
  let kept = select(c[j], c[j] - rest() * c[j], p.first == 1u);
  c[j] = kept + rest() * (sum / p.size);
}

@compute @workgroup_size(LANES)
fn row_mean(@builtin(local_invocation_index) lane: u32) {
  var sum = 0.0;
  for (var i = lane; i < p.rows; i += LANES) { sum += r[i]; }
  add_up(lane, sum);
  if (lane == 0u) { partials[0] = part[0] / f32(p.rows); }
}

@compute @workgroup_size(LANES)
fn squares(@builtin(workgroup_id) id: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  let group = id.y * p.row + id.x;
  let end = min((group + 1u) * p.run, p.rows * p.columns);
  if (group * p.run >= end || metrics[3] == 0.0) { return; }
  var sum = 0.0;
  for (var i = group * p.run + lane; i < end; i += LANES) {
    let u = update(i);
    sum += u * u;
  }
  add_up(lane, sum);
  if (lane == 0u) { partials[p.first + group] = part[0]; }
}

@compute @workgroup_size(64)
fn apply(@builtin(global_invocation_id) id: vec3<u32>) {
  let i = id.y * p.row + id.x;
  if (i >= p.rows * p.columns || metrics[3] == 0.0) { return; }
  change(i, update(i));
}

@compute @workgroup_size(LANES)
fn vector_squares(@builtin(workgroup_id) id: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  let group = id.y * p.row + id.x;
  let end = min((group + 1u) * p.run, p.columns);
  if (group * p.run >= end || metrics[3] == 0.0) { return; }
  var sum = 0.0;
  for (var i = group * p.run + lane; i < end; i += LANES) {
    v[i] += rest() * (square(i) - v[i]);
    let u = vector_update(i);
    sum += u * u;
  }
  add_up(lane, sum);
  if (lane == 0u) { partials[p.first + group] = part[0]; }
}

@compute @workgroup_size(64)
fn vector_apply(@builtin(global_invocation_id) id: vec3<u32>) {
  let i = id.y * p.row + id.x;
  if (i >= p.columns || metrics[3] == 0.0) { return; }
  change(i, vector_update(i));
}
