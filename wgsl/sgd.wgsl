// Gradient descent over a flat page, in the order of torch.optim.SGD:
//   g = grad_scale clip grad + weight_decay w;  plain: w -= lr g
//   momentum: m = g at first, then momentum m + (1 - dampening) g;  w -= lr (m, or with nesterov g + momentum m)
// w, grads, m: [n] vec4; metrics: see optimizer.ts. Nothing is written in a step whose norm is not finite.
// Grid: one invocation a vec4, x folded into y.
struct Params {
  n: u32,
  row: u32,           // invocations in one grid row
  grad_scale: f32,
  lr: f32,
  weight_decay: f32,
  momentum: f32,
  dampening: f32,
  nesterov: u32,
}
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> metrics: array<f32>;
@group(0) @binding(2) var<storage, read> grads: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read_write> w: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read_write> m: array<vec4<f32>>;

@compute @workgroup_size(64)
fn plain(@builtin(global_invocation_id) id: vec3<u32>) {
  let i = id.y * p.row + id.x;
  if (i >= p.n || metrics[3] == 0.0) { return; }
  w[i] -= p.lr * (grads[i] * p.grad_scale * metrics[1] + p.weight_decay * w[i]);
}

@compute @workgroup_size(64)
fn momentum(@builtin(global_invocation_id) id: vec3<u32>) {
  let i = id.y * p.row + id.x;
  if (i >= p.n || metrics[3] == 0.0) { return; }
  let g = grads[i] * p.grad_scale * metrics[1] + p.weight_decay * w[i];
  let next = select(p.momentum * m[i] + (1.0 - p.dampening) * g, g, metrics[6] == 1.0);
  m[i] = next;
  w[i] -= p.lr * select(next, g + p.momentum * next, p.nesterov == 1u);
}
