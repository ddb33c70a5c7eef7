// A token's query, key and value, as one row of a joint projection, into textures for attention_decode_texture.wgsl: query
// and key rotated as rope.wgsl does it, key and value in their places in the cache.
// qkv: [heads + 2 kv_heads, HEAD_DIM]; table: [positions, rotary / 2] of (cos, sin), two a vec4; q: [heads, HEAD_DIM],
// k, v: [capacity, kv_heads, HEAD_DIM], four f32 a texel, texel i at (i % 2048, i / 2048). rotary is a multiple of 8.
// Grid: one invocation a texel.
struct Params {
  position: u32,
  heads: u32,
  kv_heads: u32,
  rotary: u32,    // rotated elements of a head; 0 for none
}
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> qkv: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> table: array<vec4<f32>>;
@group(0) @binding(3) var q: texture_storage_2d<rgba32float, write>;
@group(0) @binding(4) var k: texture_storage_2d<rgba32float, write>;
@group(0) @binding(5) var v: texture_storage_2d<rgba32float, write>;

const HEAD_DIM: u32 = 64u;
const VECS: u32 = HEAD_DIM / 4u;

fn rotated(i: u32) -> vec4<f32> {
  let half = p.rotary / 8u;
  let at = i % VECS;
  let own = qkv[i];
  if (at >= 2u * half) { return own; }
  let first = at < half;
  let other = qkv[select(i - half, i + half, first)];
  let angles = 2u * (p.position * half + at % half);
  let a = table[angles];
  let b = table[angles + 1u];
  let sines = vec4(a.yw, b.yw);
  return own * vec4(a.xz, b.xz) + other * select(sines, -sines, first);
}

@compute @workgroup_size(32)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
  let i = id.x;
  let keys = p.heads * VECS;
  let row = p.kv_heads * VECS;
  if (i < keys) {
    textureStore(q, texel(i), rotated(i));
  } else if (i < keys + row) {
    textureStore(k, texel(p.position * row + i - keys), rotated(i));
  } else if (i < keys + 2u * row) {
    textureStore(v, texel(p.position * row + i - keys - row), qkv[i]);
  }
}
