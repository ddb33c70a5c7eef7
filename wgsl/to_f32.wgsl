// y[i] = x[i] for 16-bit x, two elements a word, the first in the low half. bf16 is the upper half of an f32.
// x: [ceil(n / 2)] words; y: [n]. Grid: one invocation a word.
struct Params {
  n: u32,    // elements
  row: u32,  // invocations in one grid row
}
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<u32>;
@group(0) @binding(2) var<storage, read_write> y: array<f32>;

const W_KIND: u32 = 1u;  // 1 f16, 2 bf16

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
  let i = 2u * (id.y * p.row + id.x);
  if (i >= p.n) { return; }
  let word = x[i / 2u];
  var both = unpack2x16float(word);
  if (W_KIND == 2u) { both = vec2<f32>(bitcast<f32>(word << 16u), bitcast<f32>(word & 0xffff0000u)); }
  y[i] = both.x;
  if (i + 1u < p.n) { y[i + 1u] = both.y; }
}
