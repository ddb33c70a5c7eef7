// LayerNorm (Ba et al. 2016, arXiv 1607.06450): y = xhat * w + b, xhat = (x - mean) * r, r = 1 / sqrt(mean((x - mean)^2) + eps).
// x, y, dy, dx: [rows, columns]; w, b: [columns]; stats: [rows, 2] of (mean, r), saved for the backward.
// forward, backward_x: one workgroup of LANES a row; V is vec4 where columns are a multiple of four. backward_w: one
// invocation a column and a slice of the rows, in order; the caller sums the slices.
//   dx = r * (g - mean(g) - xhat * mean(g * xhat)), g = dy * w      dw = sum over rows of dy * xhat      db = sum of dy
struct Params {
  rows: u32,
  columns: u32, // in V
  length: f32,  // elements of a row
  row: u32,     // workgroups in one grid row
  slice: u32,   // rows of one slice in backward_w
  eps: f32,
}
alias V = f32;
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<V>;
@group(0) @binding(2) var<storage, read> w: array<V>;
@group(0) @binding(3) var<storage, read> b: array<V>;
@group(0) @binding(4) var<storage, read_write> y: array<V>;
@group(0) @binding(5) var<storage, read_write> stats: array<vec2<f32>>;
@group(0) @binding(6) var<storage, read> dy: array<V>;
@group(0) @binding(7) var<storage, read_write> dx: array<V>;
@group(0) @binding(8) var<storage, read_write> dw: array<V>;
@group(0) @binding(9) var<storage, read_write> db: array<V>;

const BIAS: bool = true; // false: b is bound and not read
// 64 for GPUs; 8 where lanes are a processor's vector and a barrier is expensive
const LANES: u32 = 64u;
// 1 when V is a vec4: then all of its four elements count
const REST: f32 = 0.0;
fn fold(v: V) -> f32 { return dot(vec4<f32>(v), vec4<f32>(1.0, REST, REST, REST)); }
const PARTS: u32 = 2u * LANES;
var<workgroup> part: array<f32, PARTS>; // of two sums, so that the second need not wait for readers of the first

// every lane adds all parts in the same order: one barrier instead of a tree of them
fn total(first: u32, lane: u32, value: f32) -> f32 {
  part[first + lane] = value;
  workgroupBarrier();
  var sum = 0.0;
  for (var i = first; i < first + LANES; i++) { sum += part[i]; }
  return sum;
}

@compute @workgroup_size(LANES)
fn forward(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  let i = min(group.y * p.row + group.x, p.rows - 1u);
  let base = i * p.columns;
  var sum = 0.0;
  for (var c = lane; c < p.columns; c += LANES) { sum += fold(x[base + c]); }
  let mean = total(0u, lane, sum) / p.length;
  // around the mean, not E[x^2] - E[x]^2, which cancels where the mean is large
  sum = 0.0;
  for (var c = lane; c < p.columns; c += LANES) {
    let d = x[base + c] - mean;
    sum += fold(d * d);
  }
  let r = 1.0 / sqrt(total(LANES, lane, sum) / p.length + p.eps);
  for (var c = lane; c < p.columns; c += LANES) {
    var v = (x[base + c] - mean) * r * w[c];
    if (BIAS) { v += b[c]; }
    y[base + c] = v;
  }
  if (lane == 0u) { stats[i] = vec2<f32>(mean, r); }
}

@compute @workgroup_size(LANES)
fn backward_x(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  let i = min(group.y * p.row + group.x, p.rows - 1u);
  let base = i * p.columns;
  let mean = stats[i].x;
  let r = stats[i].y;
  var sum = 0.0;
  var along = 0.0;
  for (var c = lane; c < p.columns; c += LANES) {
    let g = dy[base + c] * w[c];
    sum += fold(g);
    along += fold(g * (x[base + c] - mean));
  }
  let level = total(0u, lane, sum) / p.length;
  let tilt = total(LANES, lane, along) / p.length * r * r;
  for (var c = lane; c < p.columns; c += LANES) {
    dx[base + c] = r * (dy[base + c] * w[c] - level - (x[base + c] - mean) * tilt);
  }
}

@compute @workgroup_size(64)
fn backward_w(@builtin(global_invocation_id) id: vec3<u32>) {
  let c = id.x;
  if (c >= p.columns) { return; }
  var sum_w = V(0.0);
  var sum_b = V(0.0);
  for (var i = id.y * p.slice; i < min(p.rows, (id.y + 1u) * p.slice); i++) {
    let d = dy[i * p.columns + c];
    sum_w += d * (x[i * p.columns + c] - stats[i].x) * stats[i].y;
    sum_b += d;
  }
  dw[id.y * p.columns + c] = sum_w;
  db[id.y * p.columns + c] = sum_b;
}
