// RMSprop over a flat page (Hinton 2012, lecture 6e), in the order of torch.optim.RMSprop:
//   g = grad_scale clip grad + weight_decay w;  v = alpha v + (1 - alpha) g^2
//   centered: a += (1 - alpha)(g - a), and v - a^2 stands for v below
//   w -= lr g / (sqrt(v) + eps);  momentum: m = momentum m + g / (sqrt(v) + eps);  w -= lr m
// w, grads, v, a, m: [n] vec4; metrics: see optimizer.ts. Nothing is written in a step whose norm is not finite.
// Grid: one invocation a vec4, x folded into y. One entry point for each set of state that is kept.
struct Params {
  n: u32,
  row: u32,           // invocations in one grid row
  grad_scale: f32,
  lr: f32,
  weight_decay: f32,
  alpha: f32,
  one_minus_alpha: f32,
  eps: f32,
  momentum: f32,
}
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> metrics: array<f32>;
@group(0) @binding(2) var<storage, read> grads: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read_write> w: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read_write> v: array<vec4<f32>>;
@group(0) @binding(5) var<storage, read_write> a: array<vec4<f32>>;
@group(0) @binding(6) var<storage, read_write> m: array<vec4<f32>>;

fn gradient(i: u32) -> vec4<f32> {
  return grads[i] * p.grad_scale * metrics[1] + p.weight_decay * w[i];
}

fn second(i: u32, g: vec4<f32>) -> vec4<f32> {
  let next = p.alpha * v[i] + p.one_minus_alpha * g * g;
  v[i] = next;
  return next;
}

fn variance(i: u32, g: vec4<f32>) -> vec4<f32> {
  let mean = a[i] + p.one_minus_alpha * (g - a[i]);
  a[i] = mean;
  return second(i, g) - mean * mean;
}

fn with_momentum(i: u32, step: vec4<f32>) {
  let next = p.momentum * m[i] + step;
  m[i] = next;
  w[i] -= p.lr * next;
}

@compute @workgroup_size(64)
fn plain(@builtin(global_invocation_id) id: vec3<u32>) {
  let i = id.y * p.row + id.x;
  if (i >= p.n || metrics[3] == 0.0) { return; }
  let g = gradient(i);
  w[i] -= p.lr * (g / (sqrt(second(i, g)) + p.eps));
}

@compute @workgroup_size(64)
fn momentum(@builtin(global_invocation_id) id: vec3<u32>) {
  let i = id.y * p.row + id.x;
  if (i >= p.n || metrics[3] == 0.0) { return; }
  let g = gradient(i);
  with_momentum(i, g / (sqrt(second(i, g)) + p.eps));
}

@compute @workgroup_size(64)
fn centered(@builtin(global_invocation_id) id: vec3<u32>) {
  let i = id.y * p.row + id.x;
  if (i >= p.n || metrics[3] == 0.0) { return; }
  let g = gradient(i);
  w[i] -= p.lr * (g / (sqrt(variance(i, g)) + p.eps));
}

@compute @workgroup_size(64)
fn centered_momentum(@builtin(global_invocation_id) id: vec3<u32>) {
  let i = id.y * p.row + id.x;
  if (i >= p.n || metrics[3] == 0.0) { return; }
  let g = gradient(i);
  with_momentum(i, g / (sqrt(variance(i, g)) + p.eps));
}
