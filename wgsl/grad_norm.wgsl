// Global L2 norm of gradients over flat pages, in two passes of fixed order, and what follows from it.
// partial: out[first + group] = sum of g^2 over the group's 4,096 elements (64 lanes, each its strided share).
// finish: norm = scale * sqrt(sum of partials); metrics = (norm, clip, skipped steps, 1 if this step is taken).
//   clip = min(1, max_norm / (norm + 1e-6)), as torch.nn.utils.clip_grad_norm_; max_norm 0 never clips.
struct Params {
  n: u32,         // elements of g; in finish: number of partials
  first: u32,     // where this page's partials begin
  row: u32,       // workgroups in one grid row
  scale: f32,     // 1 / trained tokens of the window
  max_norm: f32,
}
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> g: array<f32>;
@group(0) @binding(2) var<storage, read_write> partials: array<f32>;
@group(0) @binding(3) var<storage, read_write> metrics: array<f32>;

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
fn partial(@builtin(workgroup_id) id: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  let group = id.y * p.row + id.x;
  let from = group * 4096u + lane;
  let end = min(p.n, group * 4096u + 4096u);
  var sum = 0.0;
  for (var i = from; i < end; i += 64u) { sum += g[i] * g[i]; }
  let all = total(lane, sum);
  if (lane == 0u && group * 4096u < p.n) { partials[p.first + group] = all; }
}

// NaN is told by its bits: drivers may fold x != x
fn finite(x: f32) -> bool { return (bitcast<u32>(x) & 0x7f800000u) != 0x7f800000u; }

@compute @workgroup_size(64)
fn finish(@builtin(local_invocation_index) lane: u32) {
  var sum = 0.0;
  for (var i = lane; i < p.n; i += 64u) { sum += partials[i]; }
  let norm = p.scale * sqrt(total(lane, sum));
  if (lane > 0u) { return; }
  let good = finite(norm);
  metrics[0] = norm;
  metrics[1] = select(1.0, min(1.0, p.max_norm / (norm + 1e-6)), p.max_norm > 0.0);
  metrics[2] += select(1.0, 0.0, good);
  metrics[3] = select(0.0, 1.0, good);
}
