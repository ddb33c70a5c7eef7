// Global L2 norm of all gradients, the clip factor and the bias corrections, without leaving the device.
//   norm = sqrt(sum (grad_scale g)^2);  clip = min(1, max_norm / (norm + 1e-6));  1 - beta^t = -expm1(t log beta)
// sum_squares: grads: [n] of one page; partials[first + group] = that workgroup's sum. Grid: x workgroups of 64, each its own run of
//   `run` vec4, taken by lanes in turn. finish: one workgroup adds all partials in order and writes metrics (layout: optimizer.ts).
struct Params {
  n: u32,           // sum_squares: vec4 in the range; finish: partials
  run: u32,         // vec4 a workgroup
  first: u32,       // first partial of this range
  row: u32,         // workgroups in one grid row
  grad_scale: f32,
  max_norm: f32,    // 0: no clipping
  step: f32,        // steps asked for, this one included
  log_beta1: f32,   // 0: no bias correction
  log_beta2: f32,
}
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> grads: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read_write> partials: array<f32>;
@group(0) @binding(3) var<storage, read_write> metrics: array<f32>;

var<workgroup> part: array<f32, 64>;

fn add_up(lane: u32, value: f32) {
  part[lane] = value;
  for (var step = 32u; step > 0u; step /= 2u) {
    workgroupBarrier();
    if (lane < step) { part[lane] += part[lane + step]; }
  }
}

@compute @workgroup_size(64)
fn sum_squares(@builtin(workgroup_id) id: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  let group = id.y * p.row + id.x;
  let end = min((group + 1u) * p.run, p.n);
  var sum = vec4(0.0);
  for (var i = group * p.run + lane; i < end; i += 64u) {
    let g = grads[i] * p.grad_scale;
    sum += g * g;
  }
  add_up(lane, (sum.x + sum.y) + (sum.z + sum.w));
  if (lane == 0u && group * p.run < p.n) { partials[p.first + group] = part[0]; }
}

// 1 - exp(x) for x <= 0 without cancellation: the series where x is small
fn one_minus_exp(x: f32) -> f32 {
  if (x < -0.5) { return 1.0 - exp(x); }
  return -x * (1.0 + x / 2.0 * (1.0 + x / 3.0 * (1.0 + x / 4.0 * (1.0 + x / 5.0 * (1.0 + x / 6.0 * (1.0 + x / 7.0 *
    (1.0 + x / 8.0)))))));
}

@compute @workgroup_size(64)
fn finish(@builtin(local_invocation_index) lane: u32) {
  var sum = 0.0;
  for (var i = lane; i < p.n; i += 64u) { sum += partials[i]; }
  add_up(lane, sum);
  if (lane != 0u) { return; }
  let norm = sqrt(part[0]);
  // by its bits: a driver may fold norm != norm to false
  let finite = (bitcast<u32>(norm) & 0x7f800000u) != 0x7f800000u;
  metrics[0] = norm;
  metrics[1] = select(1.0, min(1.0, p.max_norm / (norm + 1e-6)), p.max_norm > 0.0 && finite);
  metrics[2] += select(1.0, 0.0, finite);
  metrics[3] = select(0.0, 1.0, finite);
  // a skipped step does not count towards the bias correction
  let t = p.step - metrics[2];
  metrics[4] = select(1.0, one_minus_exp(t * p.log_beta1), p.log_beta1 < 0.0);
  metrics[5] = select(1.0, sqrt(one_minus_exp(t * p.log_beta2)), p.log_beta2 < 0.0);
  metrics[6] = t;
}
