// Rotary position embedding (Su et al. 2021, arXiv 2104.09864), rotate-half form as in Hugging Face's files:
//   y[j] = x[j] cos - x[j + D/2] sin,  y[j + D/2] = x[j + D/2] cos + x[j] sin,  angle of (position, j).
// x, y: [rows, heads * head_dim]; positions: [rows]; table: [positions, D/2, 2] of (cos, sin).
// Grid: one invocation a pair. The backward is the same rotation with the other sign.
struct Params {
  pairs: u32,     // rows * heads * rotary / 2
  row: u32,       // invocations in one grid row
  heads: u32,
  head_dim: u32,
  rotary: u32,    // rotated part of head_dim
  sign: f32,      // 1 forward, -1 backward
}
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read> positions: array<u32>;
@group(0) @binding(3) var<storage, read> table: array<vec2<f32>>;
@group(0) @binding(4) var<storage, read_write> y: array<f32>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
  let i = id.y * p.row + id.x;
  if (i >= p.pairs) { return; }
  let half = p.rotary / 2u;
  let j = i % half;
  let head = i / half;
  let at = head * p.head_dim + j;
  let angle = table[positions[head / p.heads] * half + j];
  let s = p.sign * angle.y;
  let u = x[at];
  let v = x[at + half];
  y[at] = u * angle.x - v * s;
  y[at + half] = v * angle.x + u * s;
}
