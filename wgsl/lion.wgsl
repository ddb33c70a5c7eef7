// Lion over a flat page (Chen et al. 2023, algorithm 2), in the order of bitsandbytes:
//   g = grad_scale clip grad;  w -= lr decay w;  w -= lr sign(beta1 m + (1 - beta1) g);  m = beta2 m + (1 - beta2) g
// w, grads, m: [n] vec4; metrics: see optimizer.ts. Nothing is written in a step whose norm is not finite.
// Grid: one invocation a vec4, x folded into y.
struct Params {
  n: u32,
  row: u32,           // invocations in one grid row
  grad_scale: f32,
  lr: f32,
  keep: f32,          // 1 - lr * weight_decay
  beta1: f32,
  one_minus_beta1: f32,
  beta2: f32,
  one_minus_beta2: f32,
}
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> metrics: array<f32>;
@group(0) @binding(2) var<storage, read> grads: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read_write> w: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read_write> m: array<vec4<f32>>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
  let i = id.y * p.row + id.x;
  if (i >= p.n || metrics[3] == 0.0) { return; }
  let g = grads[i] * p.grad_scale * metrics[1];
  w[i] = w[i] * p.keep - p.lr * sign(p.beta1 * m[i] + p.one_minus_beta1 * g);
  m[i] = p.beta2 * m[i] + p.one_minus_beta2 * g;
}
