// AdamW over a flat page (Loshchilov and Hutter 2019, algorithm 2, in the order of torch.optim.AdamW):
//   g = grad_scale clip grad;  w -= lr decay w;  m += (1 - beta1)(g - m);  v = beta2 v + (1 - beta2) g^2
//   w -= lr / (1 - beta1^t) m / (sqrt(v) / sqrt(1 - beta2^t) + eps)
// w, grads, m, v: [n] vec4; metrics: see optimizer.ts. Nothing is written in a step whose norm is not finite.
// Grid: one invocation a vec4, x folded into y.
struct Params {
  n: u32,
  row: u32,           // invocations in one grid row
  grad_scale: f32,
  lr: f32,
  keep: f32,          // 1 - lr * weight_decay
  one_minus_beta1: f32,
  beta2: f32,
  one_minus_beta2: f32,
  eps: f32,
}
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> metrics: array<f32>;
@group(0) @binding(2) var<storage, read> grads: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read_write> w: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read_write> m: array<vec4<f32>>;
@group(0) @binding(5) var<storage, read_write> v: array<vec4<f32>>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
  let i = id.y * p.row + id.x;
  if (i >= p.n || metrics[3] == 0.0) { return; }
  let g = grads[i] * p.grad_scale * metrics[1];
  let first = m[i] + p.one_minus_beta1 * (g - m[i]);
  let second = p.beta2 * v[i] + p.one_minus_beta2 * g * g;
  m[i] = first;
  v[i] = second;
  let step = p.lr / metrics[4];
  w[i] = w[i] * p.keep - step * (first / (sqrt(second) / metrics[5] + p.eps));
}
