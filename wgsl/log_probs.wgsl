// Log-probability of each row's label under softmax, and its gradient in place of the logits.
//   lp = z_label - log(sum_v exp(z_v));   dlp/dz_v = [v = label] - exp(z_v) / sum
// logits: [rows, columns]; labels, sequence: [all rows]; stats: [all rows, 2] of (lp, mean of the row's logits);
// y, d: [sequences, 2], of which d's first column counts.
// rows: one workgroup of LANES a row. totals: y[s] = sums of stats over rows starts[s] .. starts[s + 1], one
// workgroup of 64 a sequence, in a fixed order. scale_rows: x[row] *= d[sequence[row]], one invocation an element.
// The maximum is subtracted, so no exponent overflows.
struct Params {
  rows: u32,        // of the bound part
  columns: u32,     // vocabulary; scale_rows: columns of x
  first: u32,       // row of labels, sequence and stats that row 0 of the part stands for
  row: u32,         // scale_rows: invocations in one grid row
}
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read_write> logits: array<f32>;
@group(0) @binding(2) var<storage, read> labels: array<u32>;
@group(0) @binding(3) var<storage, read_write> stats: array<f32>;
@group(0) @binding(4) var<storage, read> starts: array<u32>;
@group(0) @binding(5) var<storage, read_write> y: array<f32>;
@group(0) @binding(6) var<storage, read_write> x: array<f32>;
@group(0) @binding(7) var<storage, read> sequence: array<u32>;
@group(0) @binding(8) var<storage, read> d: array<f32>;

// 64 for GPUs; 8 where lanes are a processor's vector and a barrier is expensive
const LANES: u32 = 64u;
const GRADIENT: u32 = 0u; // 1: replace the logits by the gradient
var<workgroup> tops: array<f32, LANES>;
var<workgroup> sums: array<vec2<f32>, LANES>;

@compute @workgroup_size(LANES)
fn rows(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  let row = group.x;
  let base = row * p.columns;
  var top = -3.4e38;
  for (var v = lane; v < p.columns; v += LANES) { top = max(top, logits[base + v]); }
  tops[lane] = top;
  workgroupBarrier();
  for (var i = 0u; i < LANES; i++) { top = max(top, tops[i]); }
  var sum = vec2(0.0); // of exponentials, of logits
  for (var v = lane; v < p.columns; v += LANES) {
    let z = logits[base + v];
    sum += vec2(exp(z - top), z);
  }
  sums[lane] = sum;
  workgroupBarrier();
  sum = vec2(0.0);
  for (var i = 0u; i < LANES; i++) { sum += sums[i]; }
  let label = labels[p.first + row];
  let z = logits[base + label];
  if (lane == 0u) {
    stats[(p.first + row) * 2u] = z - top - log(sum.x);
    stats[(p.first + row) * 2u + 1u] = sum.y / f32(p.columns);
  }
  if (GRADIENT == 0u) { return; }
  storageBarrier(); // every lane has read z before it is replaced
  for (var v = lane; v < p.columns; v += LANES) {
    let g = -exp(logits[base + v] - top) / sum.x;
    logits[base + v] = select(g, g + 1.0, v == label);
  }
}

var<workgroup> part: array<vec2<f32>, 64>;

@compute @workgroup_size(64)
fn totals(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  let s = group.x;
  var sum = vec2(0.0);
  for (var r = starts[s] + lane; r < starts[s + 1u]; r += 64u) { sum += vec2(stats[2u * r], stats[2u * r + 1u]); }
  part[lane] = sum;
  for (var step = 32u; step > 0u; step /= 2u) {
    workgroupBarrier();
    if (lane < step) { part[lane] += part[lane + step]; }
  }
  if (lane == 0u) {
    y[2u * s] = part[0].x;
    y[2u * s + 1u] = part[0].y;
  }
}

@compute @workgroup_size(64)
fn scale_rows(@builtin(global_invocation_id) id: vec3<u32>) {
  let i = id.y * p.row + id.x;
  if (i < p.rows * p.columns) { x[i] *= d[2u * sequence[p.first + i / p.columns]]; }
}
