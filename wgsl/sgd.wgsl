// Plain gradient descent and RMSprop over a flat page, in the order of torch.optim.SGD and torch.optim.RMSprop:
//   g = grad_scale clip grad + weight_decay w;  sgd: w -= lr g
//   rmsprop: v = alpha v + (1 - alpha) g^2;  w -= lr g / (sqrt(v) + eps)
// w, grads, v: [n] vec4; metrics: see optimizer.ts. Nothing is written in a step whose norm is not finite.
// Grid: one invocation a vec4, x folded into y.
struct Params {
  n: u32,
  row: u32,           // invocations in one grid row
  grad_scale: f32,
  lr: f32,
  weight_decay: f32,
  alpha: f32,
  one_minus_alpha: f32,
  eps: f32,
}
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> metrics: array<f32>;
@group(0) @binding(2) var<storage, read> grads: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read_write> w: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read_write> v: array<vec4<f32>>;

@compute @workgroup_size(64)
fn sgd(@builtin(global_invocation_id) id: vec3<u32>) {
  let i = id.y * p.row + id.x;
  if (i >= p.n || metrics[3] == 0.0) { return; }
  w[i] -= p.lr * (grads[i] * p.grad_scale * metrics[1] + p.weight_decay * w[i]);
}

@compute @workgroup_size(64)
fn rmsprop(@builtin(global_invocation_id) id: vec3<u32>) {
  let i = id.y * p.row + id.x;
  if (i >= p.n || metrics[3] == 0.0) { return; }
  let g = grads[i] * p.grad_scale * metrics[1] + p.weight_decay * w[i];
  let second = p.alpha * v[i] + p.one_minus_alpha * g * g;
  v[i] = second;
  w[i] -= p.lr * (g / (sqrt(second) + p.eps));
}
