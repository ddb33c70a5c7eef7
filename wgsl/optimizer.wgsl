// One optimizer step over a flat page of parameters x with gradients g. The clip factor and the decision to skip a
// step with a non-finite gradient stand in metrics, on the device.
// adamw: decoupled decay (Loshchilov and Hutter 2017, 1711.05101), PyTorch's order:
//   x *= 1 - lr decay;  m = b1 m + (1-b1) g;  v = b2 v + (1-b2) g^2;  x -= lr/c1 m / (sqrt(v)/sqrt(c2) + eps)
// sgd: x -= lr (g + decay x).   rmsprop: v = 0.99 v + 0.01 g^2;  x -= lr g / (sqrt(v) + eps)
struct Params {
  n: u32,
  row: u32,       // invocations in one grid row
  scale: f32,     // 1 / trained tokens of the window
  lr: f32,
  decay: f32,
  beta1: f32,
  beta2: f32,
  eps: f32,
  c1: f32,        // 1 - beta1^t
  root_c2: f32,   // sqrt(1 - beta2^t)
}
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> metrics: array<f32>;
@group(0) @binding(2) var<storage, read> g: array<f32>;
@group(0) @binding(3) var<storage, read_write> x: array<f32>;
@group(0) @binding(4) var<storage, read_write> m: array<f32>;
@group(0) @binding(5) var<storage, read_write> v: array<f32>;

@compute @workgroup_size(64)
fn adamw(@builtin(global_invocation_id) id: vec3<u32>) {
  let i = id.y * p.row + id.x;
  if (i >= p.n || metrics[3] == 0.0) { return; }
  let d = g[i] * p.scale * metrics[1];
  let first = p.beta1 * m[i] + (1.0 - p.beta1) * d;
  let second = p.beta2 * v[i] + (1.0 - p.beta2) * d * d;
  m[i] = first;
  v[i] = second;
  x[i] = x[i] * (1.0 - p.lr * p.decay) - p.lr / p.c1 * first / (sqrt(second) / p.root_c2 + p.eps);
}

@compute @workgroup_size(64)
fn sgd(@builtin(global_invocation_id) id: vec3<u32>) {
  let i = id.y * p.row + id.x;
  if (i >= p.n || metrics[3] == 0.0) { return; }
  x[i] -= p.lr * (g[i] * p.scale * metrics[1] + p.decay * x[i]);
}

@compute @workgroup_size(64)
fn rmsprop(@builtin(global_invocation_id) id: vec3<u32>) {
  let i = id.y * p.row + id.x;
  if (i >= p.n || metrics[3] == 0.0) { return; }
  let d = g[i] * p.scale * metrics[1] + p.decay * x[i];
  let second = 0.99 * v[i] + 0.01 * d * d;
  v[i] = second;
  x[i] -= p.lr * d / (sqrt(second) + p.eps);
}
