// Softmax cross-entropy of each row of logits, and its gradient in place of the logits.
//   loss = log(sum_v exp(z_v)) - z_label;   dz_v = (exp(z_v) / sum - [v = label]) * scale
// logits: [rows, vocabulary]; labels: [rows]; stats: [rows, 2] of (loss, 1 if the label is the argmax).
// Grid: one workgroup of 64 a row. The maximum is subtracted, so no exponent overflows.
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

var<workgroup> part: array<f32, 64>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  let row = group.x;
  let base = row * p.vocabulary;
  var top = -3.4e38;
  for (var v = lane; v < p.vocabulary; v += 64u) { top = max(top, logits[base + v]); }
  part[lane] = top;
  for (var step = 32u; step > 0u; step /= 2u) {
    workgroupBarrier();
    if (lane < step) { part[lane] = max(part[lane], part[lane + step]); }
  }
  workgroupBarrier();
  top = part[0];
  workgroupBarrier();
  var sum = 0.0;
  for (var v = lane; v < p.vocabulary; v += 64u) { sum += exp(logits[base + v] - top); }
  part[lane] = sum;
  for (var step = 32u; step > 0u; step /= 2u) {
    workgroupBarrier();
    if (lane < step) { part[lane] += part[lane + step]; }
  }
  workgroupBarrier();
  sum = part[0];
  let label = labels[p.first + row];
  let z = logits[base + label];
  if (lane == 0u) {
    stats[(p.first + row) * 2u] = log(sum) + top - z;
    stats[(p.first + row) * 2u + 1u] = select(0.0, 1.0, z == top);
  }
  if (p.write == 0u) { return; }
  storageBarrier();
  workgroupBarrier();
  let factor = p.scale / sum;
  for (var v = lane; v < p.vocabulary; v += 64u) {
    let g = exp(logits[base + v] - top) * factor;
    logits[base + v] = select(g, g - p.scale, v == label);
  }
}
