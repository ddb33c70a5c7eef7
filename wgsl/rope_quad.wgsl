// rope.wgsl, four pairs at a time, for processors that run WGSL in vector lanes: there each access to a buffer costs, so
// an invocation serves all heads with the angles that it has read.
// x, y: [rows, heads * head_dim]; positions: [rows]; table: [positions, D/2, 2] of (cos, sin).
// Grid: one invocation four neighbouring pairs of a row. The loop tests at its end: a lane's mask stops no work.
struct Params {
  quads: u32,     // rows * rotary / 8
  row: u32,       // invocations in one grid row
  heads: u32,
  head_dim: u32,  // a multiple of 4
  rotary: u32,    // rotated part of head_dim, a multiple of 8
  sign: f32,      // 1 forward, -1 backward
}
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> positions: array<u32>;
@group(0) @binding(3) var<storage, read> table: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read_write> y: array<vec4<f32>>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
  let i = id.y * p.row + id.x;
  if (i >= p.quads) { return; }
  let half = p.rotary / 8u;
  let row = i / half;
  let j = i % half;
  let angles = 2u * (positions[row] * half + j);
  let a = table[angles];
  let b = table[angles + 1u];
  let c = vec4(a.x, a.z, b.x, b.z);
  let s = p.sign * vec4(a.y, a.w, b.y, b.w);
  let step = p.head_dim / 4u;
  var at = row * p.heads * step + j;
  let end = at + p.heads * step;
  loop {
    let u = x[at];
    let v = x[at + half];
    y[at] = u * c - v * s;
    y[at + half] = v * c + u * s;
    continuing {
      at += step;
      break if at >= end;
    }
  }
}
