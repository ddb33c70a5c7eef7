// quantize_4bit.wgsl on processors that run WGSL in vector lanes (llvmpipe): x comes through a texture, whose loads are
// gathered for all lanes at once, and eight numbers are coded together. The same bytes come out.
// x: [n] f32, f16 or bf16, 16 bytes a texel, texel i at (i % 2048, i / 2048); words, absmax: as there. n is a multiple
// of BLOCK. Grid: one invocation a block.
struct Params {
  n: u32,           // elements of x
  row: u32,         // invocations in one grid row
  first_word: u32,  // where this chunk's codes begin in words
  first_block: u32, // where its scales begin in absmax
}
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var x: texture_storage_2d<rgba32uint, read>;
@group(0) @binding(2) var<storage, read_write> words: array<u32>;
@group(0) @binding(3) var<storage, read_write> absmax: array<f32>;

const BLOCK: u32 = 64u;
const X_KIND: u32 = 2u;    // 0 f32, 1 f16, 2 bf16
const EIGHTS: u32 = BLOCK / 8u;
const HELD: u32 = 8u;      // eights that are kept between the two looks at them, the rest is read again

// Eight elements, those of even and of odd number apart.
struct Eight { even: vec4<f32>, odd: vec4<f32> }

fn load16(i: u32) -> vec4<u32> { return textureLoad(x, texel(i)); }

// f16 as f32, in integers: what unpack2x16float makes of subnormals is left open
fn half(h: vec4<u32>) -> vec4<f32> {
  let magnitude = h & vec4(0x7fffu);
  let normal = (magnitude << vec4(13u)) + select(vec4(0x38000000u), vec4(0x70000000u), magnitude >= vec4(0x7c00u));
  let small = bitcast<vec4<u32>>(vec4<f32>(magnitude) * 0x1p-24f);
  return bitcast<vec4<f32>>(((h & vec4(0x8000u)) << vec4(16u)) | select(normal, small, magnitude < vec4(0x400u)));
}

fn load(i: u32) -> Eight {
  if (X_KIND == 0u) {
    let a = bitcast<vec4<f32>>(load16(2u * i));
    let b = bitcast<vec4<f32>>(load16(2u * i + 1u));
    return Eight(vec4(a.xz, b.xz), vec4(a.yw, b.yw));
  }
  let t = load16(i);
  if (X_KIND == 1u) { return Eight(half(t & vec4(0xffffu)), half(t >> vec4(16u))); }
  return Eight(bitcast<vec4<f32>>(t << vec4(16u)), bitcast<vec4<f32>>(t & vec4(0xffff0000u)));
}

// as integers, the bits of |x| order like the numbers, and NaN comes out on top
fn magnitude(v: vec4<f32>) -> vec4<u32> { return bitcast<vec4<u32>>(v) & vec4(0x7fffffffu); }

fn above(v: vec4<f32>, t: f32) -> vec4<u32> { return select(vec4(0u), vec4(1u), v > vec4(t)); }

fn either(a: f32, b: f32, c: vec4<bool>) -> vec4<f32> { return select(vec4(a), vec4(b), c); }

fn encode(v: vec4<f32>) -> vec4<u32> {
  if (MAGNITUDE) {
    let a = abs(v);
    let r = above(a, T0) + above(a, T1) + above(a, T2) + above(a, T3) + above(a, T4) + above(a, T5) + above(a, T6);
    return ((vec4(CODES) >> (4u * r)) & vec4(15u)) | select(vec4(0u), vec4(8u), v < vec4(0.0));
  }
  // the thresholds rise: their rank by halving
  let b3 = v > vec4(T7);
  let b2 = v > either(T3, T11, b3);
  let b1 = v > select(either(T1, T5, b2), either(T9, T13, b2), b3);
  let b0 = v > select(
    select(either(T0, T2, b1), either(T4, T6, b1), b2), select(either(T8, T10, b1), either(T12, T14, b1), b2), b3);
  return select(vec4(0u), vec4(8u), b3) | select(vec4(0u), vec4(4u), b2)
    | select(vec4(0u), vec4(2u), b1) | select(vec4(0u), vec4(1u), b0);
}

fn word(v: Eight, inverse: f32) -> u32 {
  let bytes = (encode(v.even * inverse) << vec4(4u)) | encode(v.odd * inverse);
  return bytes.x | (bytes.y << 8u) | (bytes.z << 16u) | (bytes.w << 24u);
}

@compute @workgroup_size(64)
fn quantize(@builtin(global_invocation_id) id: vec3<u32>) {
  let block = id.y * p.row + id.x;
  if (block * BLOCK >= p.n) { return; }
  let begin = block * EIGHTS;
  var top = vec4<u32>();
  var held: array<Eight, HELD>;
  for (var i = 0u; i < HELD; i++) { // @unroll
    held[i] = load(begin + i);
    top = max(top, max(magnitude(held[i].even), magnitude(held[i].odd)));
  }
  for (var i = HELD; i < EIGHTS; i++) {
    let v = load(begin + i);
    top = max(top, max(magnitude(v.even), magnitude(v.odd)));
  }
  var largest = max(max(top.x, top.y), max(top.z, top.w));
  if (largest < 0x800000u) { largest = 0u; } // subnormal: counts as zero everywhere
  absmax[p.first_block + block] = bitcast<f32>(largest);
  let inverse = reciprocal(largest);
  for (var i = 0u; i < HELD; i++) { // @unroll
    words[p.first_word + begin + i] = word(held[i], inverse);
  }
  for (var i = HELD; i < EIGHTS; i++) {
    words[p.first_word + begin + i] = word(load(begin + i), inverse);
  }
}
