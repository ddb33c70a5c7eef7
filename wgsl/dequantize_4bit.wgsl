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
const NESTED: bool = false;
const WORDS: u32 = 1u;
// NF4's values by code
const C0: f32 = -1.0;
const C1: f32 = -0.6961928009986877;
const C2: f32 = -0.5250730514526367;
const C3: f32 = -0.39491748809814453;
const C4: f32 = -0.28444138169288635;
const C5: f32 = -0.18477343022823334;
const C6: f32 = -0.09105003625154495;
const C7: f32 = 0.0;
const C8: f32 = 0.07958029955625534;
const C9: f32 = 0.16093020141124725;
const C10: f32 = 0.24611230194568634;
const C11: f32 = 0.33791524171829224;
const C12: f32 = 0.44070982933044434;
const C13: f32 = 0.5626170039176941;
const C14: f32 = 0.7229568362236023;
const C15: f32 = 1.0;

// selects on each bit stay in registers: on llvmpipe 5 to 10 times faster than a table, const or in a buffer
fn decode(code: u32) -> f32 {
  let b0 = (code & 1u) != 0u;
  let b1 = (code & 2u) != 0u;
  let b2 = (code & 4u) != 0u;
  let q0 = select(select(C0, C1, b0), select(C2, C3, b0), b1);
  let q1 = select(select(C4, C5, b0), select(C6, C7, b0), b1);
  let q2 = select(select(C8, C9, b0), select(C10, C11, b0), b1);
  let q3 = select(select(C12, C13, b0), select(C14, C15, b0), b1);
  return select(select(q0, q1, b2), select(q2, q3, b2), (code & 8u) != 0u);
}

fn scale_of(element: u32) -> f32 {
  let block = element / BLOCK;
  if (NESTED) {
    let q = (absmax[block / 4u - p.first_scale] >> (8u * (block % 4u))) & 255u;
    return map[q] * scales[1u + block / 256u] + scales[0];
  }
  return bitcast<f32>(absmax[block - p.first_scale]);
}

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
