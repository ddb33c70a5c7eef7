// Softmax cross-entropy of each row of logits, and its gradient in place of the logits.
//   loss = log(sum_v exp(z_v)) - z_label;   dz_v = (exp(z_v) / sum - [v = label]) * scale
// logits: [rows, vocabulary]; labels: [rows]; stats: [rows, 2] of (loss, 1 if the label is the argmax).
// Grid: one workgroup of LANES a row. The maximum is subtracted, so no exponent overflows.
struct Params {
  rows: u32,
  vocabulary: u32,
  first: u32,   // row of labels and stats that row 0 of logits stands for
  write: u32,   // 1: replace the logits by their gradient
  scale: f32,
}
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read_write> logits: array<f32>;
@group(0) @binding(2) var<storage, read> labels: array<u32>;
@group(0) @binding(3) var<storage, read_write> stats: array<f32>;

// 64 for GPUs; 8 where lanes are a processor's vector and a barrier is expensive
const LANES: u32 = 64u;
var<workgroup> tops: array<f32, LANES>;
var<workgroup> sums: array<f32, LANES>;

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  let row = group.x;
  let base = row * p.vocabulary;
  var top = -3.4e38;
  for (var v = lane; v < p.vocabulary; v += LANES) { top = max(top, logits[base + v]); }
  tops[lane] = top;
  workgroupBarrier();
  for (var i = 0u; i < LANES; i++) { top = max(top, tops[i]); }
  var sum = 0.0;
  for (var v = lane; v < p.vocabulary; v += LANES) { sum += exp(logits[base + v] - top); }
  sums[lane] = sum;
  workgroupBarrier();
  sum = 0.0;
  for (var i = 0u; i < LANES; i++) { sum += sums[i]; }
  let label = labels[p.first + row];
  let z = logits[base + label];
  if (lane == 0u) {
    stats[(p.first + row) * 2u] = log(sum) + top - z;
    stats[(p.first + row) * 2u + 1u] = select(0.0, 1.0, z == top);
  }
  if (p.write == 0u) { return; }
  storageBarrier(); // every lane has read z before it is replaced
  let factor = p.scale / sum;
  for (var v = lane; v < p.vocabulary; v += LANES) {
    let g = exp(logits[base + v] - top) * factor;
    logits[base + v] = select(g, g - p.scale, v == label);
  }
}
