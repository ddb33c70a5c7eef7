// The load-balancing loss of a mixture of experts (Fedus et al. 2021, arXiv 2101.03961, equations 4 to 6), as Transformers has it:
//   loss = E * sum_e F_e P_e,  F_e = how many of the N rows of all layers took expert e among their k, over N;
//   P_e = mean over those rows of p_e, p = softmax of a row's router logits.  Rows of padding (segment 0) do not count.
//   dx_c = dy_c + weight * E / N * p_c (F_c - sum_e p_e F_e)
// x, dy, dx: [rows, experts]; sums: [layers, 2 * experts + 1] of (rows that took e ..., sum of p_e ..., rows); stats[0] takes the loss.
// count: a workgroup an expert; backward: an invocation a row; value: one invocation.
struct Params {
  rows: u32,
  experts: u32,
  k: u32,
  layer: u32,
  layers: u32,
  row: u32,     // invocations in one grid row
  weight: f32,
}
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read> segments: array<u32>;
@group(0) @binding(3) var<storage, read_write> sums: array<f32>;
@group(0) @binding(4) var<storage, read> dy: array<f32>;
@group(0) @binding(5) var<storage, read_write> dx: array<f32>;
@group(0) @binding(6) var<storage, read_write> stats: array<f32>;

const LANES: u32 = 64u;
var<workgroup> part: array<vec3<f32>, LANES>;

fn top_of(base: u32) -> f32 {
  var top = x[base];
  for (var c = 1u; c < p.experts; c++) { top = max(top, x[base + c]); }
  return top;
}

fn total_of(base: u32, top: f32) -> f32 {
  var total = 0.0;
  for (var c = 0u; c < p.experts; c++) { total += exp(x[base + c] - top); }
  return total;
}

@compute @workgroup_size(LANES)
fn count(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  let e = group.x;
  var sum = vec3(0.0); // taken, probability, rows
  for (var i = lane; i < p.rows; i += LANES) {
    if (segments[i] == 0u) { continue; }
    let base = i * p.experts;
    let v = x[base + e];
    var larger = 0u;
    for (var j = 0u; j < p.experts; j++) {
      let w = x[base + j];
      if (w > v || (w == v && j < e)) { larger++; }
    }
    let top = top_of(base);
    sum += vec3(select(0.0, 1.0, larger < p.k), exp(v - top) / total_of(base, top), 1.0);
  }
  part[lane] = sum;
  workgroupBarrier();
  if (lane == 0u) {
    for (var t = 1u; t < LANES; t++) { sum += part[t]; }
    let at = p.layer * (2u * p.experts + 1u);
    sums[at + e] = sum.x;
    sums[at + p.experts + e] = sum.y;
    if (e == 0u) { sums[at + 2u * p.experts] = sum.z; }
  }
}

// one of the sums, over all layers
fn over_layers(which: u32) -> f32 {
  var sum = 0.0;
  for (var l = 0u; l < p.layers; l++) { sum += sums[l * (2u * p.experts + 1u) + which]; }
  return sum;
}

@compute @workgroup_size(64)
fn backward(@builtin(global_invocation_id) id: vec3<u32>) {
  let i = id.y * p.row + id.x;
  if (i >= p.rows) { return; }
  let base = i * p.experts;
  let n = over_layers(2u * p.experts);
  let factor = select(p.weight * f32(p.experts) / (n * n), 0.0, segments[i] == 0u);
  let top = top_of(base);
  let total = total_of(base, top);
  var mean = 0.0;
  for (var c = 0u; c < p.experts; c++) { mean += exp(x[base + c] - top) / total * over_layers(c); }
  for (var c = 0u; c < p.experts; c++) {
    dx[base + c] = dy[base + c] + factor * exp(x[base + c] - top) / total * (over_layers(c) - mean);
  }
}

@compute @workgroup_size(1)
fn value() {
  let n = over_layers(2u * p.experts);
  var sum = 0.0;
  for (var c = 0u; c < p.experts; c++) { sum += over_layers(c) / n * (over_layers(p.experts + c) / n); }
  stats[0] += p.weight * f32(p.experts) * sum;
}
