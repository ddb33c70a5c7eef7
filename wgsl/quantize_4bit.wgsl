// Blockwise 4-bit quantization: absmax = max |x| of a block, code = rank of x * (1 / absmax) among the thresholds.
// x: [n] f32, or two 16-bit numbers a word; words: eight codes each (element 2k in the high nibble of byte k);
// absmax: one f32 a block.
// Grid: one invocation a block of BLOCK elements. Everything here is exact or rounded once.
struct Params {
  n: u32,           // elements of x
  row: u32,         // invocations in one grid row
  first_word: u32,  // where this chunk's codes begin in words
  first_block: u32, // where its scales begin in absmax
}
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<u32>;
@group(0) @binding(2) var<storage, read_write> words: array<u32>;
@group(0) @binding(3) var<storage, read_write> absmax: array<f32>;

const BLOCK: u32 = 64u;
const X_KIND: u32 = 0u;  // 0 f32, 1 f16, 2 bf16

// element i as the bits of an f32. f16 in integers too: what unpack2x16float makes of subnormals is left open.
fn bits_of(i: u32) -> u32 {
  if (X_KIND == 0u) { return x[i]; }
  let h = (x[i / 2u] >> (16u * (i & 1u))) & 0xffffu;
  if (X_KIND == 2u) { return h << 16u; }
  let magnitude = h & 0x7fffu;
  let normal = (magnitude << 13u) + select(0x38000000u, 0x70000000u, magnitude >= 0x7c00u);
  return ((h & 0x8000u) << 16u) | select(normal, bitcast<u32>(f32(magnitude) * 0x1p-24f), magnitude < 0x400u);
}

fn above(v: f32, t: f32) -> u32 { return select(0u, 1u, v > t); }

fn encode(v: f32) -> u32 {
  if (MAGNITUDE) {
    let a = abs(v);
    let r = above(a, T0) + above(a, T1) + above(a, T2) + above(a, T3) + above(a, T4) + above(a, T5) + above(a, T6);
    return ((CODES >> (4u * r)) & 15u) | select(0u, 8u, v < 0.0);
  }
  let r = above(v, T0) + above(v, T1) + above(v, T2) + above(v, T3) + above(v, T4) + above(v, T5) + above(v, T6)
    + above(v, T7) + above(v, T8) + above(v, T9) + above(v, T10) + above(v, T11) + above(v, T12) + above(v, T13)
    + above(v, T14);
  return r;
}

@compute @workgroup_size(64)
fn quantize(@builtin(global_invocation_id) id: vec3<u32>) {
  let block = id.y * p.row + id.x;
  let begin = block * BLOCK;
  if (begin >= p.n) { return; }
  let end = min(p.n, begin + BLOCK);
  // as integers, the bits of |x| order like the numbers, and NaN comes out on top
  var largest = 0u;
  for (var i = begin; i < end; i++) { largest = max(largest, bits_of(i) & 0x7fffffffu); }
  if (largest < 0x800000u) { largest = 0u; } // subnormal: counts as zero everywhere
  absmax[p.first_block + block] = bitcast<f32>(largest);
  let inverse = reciprocal(largest);
  for (var i = begin; i < end; i += 8u) {
    var word = 0u;
    for (var k = 0u; k < 8u; k++) { // @unroll
      var v = 0.0;
      if (i + k < end) { v = bitcast<f32>(bits_of(i + k)) * inverse; }
      word |= encode(v) << ((k ^ 1u) * 4u);
    }
    words[p.first_word + i / 8u] = word;
  }
}
