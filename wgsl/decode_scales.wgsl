// y[i] = map[byte i of absmax] * scales[1 + i / 256] + scales[0]: the scales of a double-quantized weight in f32.
// absmax: four codes a word, of which the first here is that of scale `first`; map: [256]; scales: the offset, then one
// scale for each 256 codes. y: [4 words]. Grid: one invocation a word.
struct Params {
  words: u32,
  row: u32,    // invocations in one grid row
  first: u32,  // a multiple of 4
}
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> absmax: array<u32>;
@group(0) @binding(2) var<storage, read> scales: array<f32>;
@group(0) @binding(3) var<storage, read> map: array<f32>;
@group(0) @binding(4) var<storage, read_write> y: array<vec4<f32>>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
  let i = id.y * p.row + id.x;
  if (i >= p.words) { return; }
  let q = (vec4(absmax[i]) >> vec4(0u, 8u, 16u, 24u)) & vec4(255u);
  // four codes never lie on both sides of a multiple of 256
  y[i] = vec4(map[q.x], map[q.y], map[q.z], map[q.w]) * scales[1u + (p.first + 4u * i) / 256u] + vec4(scales[0]);
}
