// w[i] = value of code i * absmax of its block; with NESTED, absmax = map[q] * scale + offset is decoded here too.
// words: eight codes each, element 2k in the high nibble of byte k. absmax: f32 a block, or with NESTED one byte.
// scales: [1 + ceil(blocks / 256)], the offset first. map: [256]. y: [n] f32.
// Grid: one invocation WORDS words; a word lies in one block, since blocks are multiples of 32 elements.
struct Params {
  n: u32,           // elements of y
  row: u32,         // invocations in one grid row
  first_word: u32,  // the word of y[0] in words
  start: u32,       // number of y[0] in the whole tensor, a multiple of 8
  first_scale: u32, // number of the scale (NESTED: of the group of four) that absmax[0] is
}
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> words: array<u32>;
@group(0) @binding(2) var<storage, read> absmax: array<u32>;
@group(0) @binding(3) var<storage, read> scales: array<f32>;
@group(0) @binding(4) var<storage, read> map: array<f32>;
@group(0) @binding(5) var<storage, read_write> y: array<f32>;
@group(0) @binding(6) var<storage, read_write> y4: array<vec4<f32>>;

const BLOCK: u32 = 64u;
const WORDS: u32 = 1u;

fn scale_of(element: u32) -> f32 { return block_scale(element / BLOCK, p.first_scale); }

// n a multiple of 8; one invocation WORDS words, which lie in one block when start is a multiple of 8 WORDS
@compute @workgroup_size(64)
fn whole_words(@builtin(global_invocation_id) id: vec3<u32>) {
  let i = (id.y * p.row + id.x) * WORDS;
  if (i >= p.n / 8u) { return; }
  let s = scale_of(p.start + 8u * i);
  for (var k = 0u; k < WORDS; k++) { // @unroll
    let w = words[p.first_word + i + k];
    y4[2u * (i + k)] = s * vec4<f32>(decode(w >> 4u), decode(w), decode(w >> 12u), decode(w >> 8u));
    y4[2u * (i + k) + 1u] = s * vec4<f32>(decode(w >> 20u), decode(w >> 16u), decode(w >> 28u), decode(w >> 24u));
  }
}

// any n
@compute @workgroup_size(64)
fn any_count(@builtin(global_invocation_id) id: vec3<u32>) {
  let i = id.y * p.row + id.x;
  if (8u * i >= p.n) { return; }
  let w = words[p.first_word + i];
  let s = scale_of(p.start + 8u * i);
  for (var k = 0u; k < 8u; k++) { // @unroll
    if (8u * i + k < p.n) { y[8u * i + k] = s * decode(w >> (4u * (k ^ 1u))); }
  }
}
