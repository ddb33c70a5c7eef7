// Adagrad over a flat page (Duchi, Hazan and Singer 2011), in the order of torch.optim.Adagrad:
//   g = grad_scale clip grad + weight_decay w;  v += g^2;  w -= lr / (1 + (t - 1) lr_decay) g / (sqrt(v) + eps)
// w, grads, v: [n] vec4; metrics: see optimizer.ts. Nothing is written in a step whose norm is not finite.
// Grid: one invocation a vec4, x folded into y.
struct Params {
  n: u32,
  row: u32,           // invocations in one grid row
  grad_scale: f32,
  lr: f32,
  weight_decay: f32,
  lr_decay: f32,
  eps: f32,
}
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> metrics: array<f32>;
@group(0) @binding(2) var<storage, read> grads: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read_write> w: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read_write> v: array<vec4<f32>>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
  let i = id.y * p.row + id.x;
  if (i >= p.n || metrics[3] == 0.0) { return; }
  let g = grads[i] * p.grad_scale * metrics[1] + p.weight_decay * w[i];
  let sum = v[i] + g * g;
  v[i] = sum;
  let step = p.lr / (1.0 + (metrics[6] - 1.0) * p.lr_decay);
  w[i] -= step * (g / (sqrt(sum) + p.eps));
}
