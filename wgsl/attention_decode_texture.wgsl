// attention_decode.wgsl on processors that run WGSL in vector lanes (llvmpipe): q and the cache come through textures, whose
// loads are gathered for all lanes at once, and no lane waits for another before the end.
// q, k, v, o: as there, four f32 a texel, texel i at (i % 2048, i / 2048).
// Grid: x heads, y query rows. A workgroup is one subgroup; lane l takes the keys begin + l, begin + l + LANES ..., with a
// softmax of its own (Milakov and Gimelshein 2018, arXiv 1805.02867), and the lanes' are joined at the end.
struct Params {
  start: u32,     // position of query row 0
  heads: u32,
  kv_heads: u32,
  window: u32,    // keys visible at most; 0xffffffff for all
  scale: f32,
}
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var q: texture_storage_2d<rgba32float, read>;
@group(0) @binding(2) var k: texture_storage_2d<rgba32float, read>;
@group(0) @binding(3) var v: texture_storage_2d<rgba32float, read>;
@group(0) @binding(4) var<storage, read_write> o: array<vec4<f32>>;

const HEAD_DIM: u32 = 64u;
const VECS: u32 = HEAD_DIM / 4u;
const LANES: u32 = 8u;
const HIDDEN = -1e30;

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  let end = p.start + group.y + 1u;
  let begin = select(0u, end - p.window, end > p.window);
  let q0 = (group.y * p.heads + group.x) * VECS;
  let stride = p.kv_heads * VECS;
  let kv0 = (group.x * p.kv_heads / p.heads) * VECS;
  var a: array<vec4<f32>, VECS>;
  var acc: array<vec4<f32>, VECS>;
  for (var c = 0u; c < VECS; c++) { // @unroll
    a[c] = textureLoad(q, texel(q0 + c));
  }
  var top = HIDDEN;
  var total = 0.0;
  for (var j = begin + lane; j < end; j += LANES) {
    let at = kv0 + j * stride;
    var sum = vec4(0.0);
    for (var c = 0u; c < VECS; c++) { // @unroll
      sum = fma(a[c], textureLoad(k, texel(at + c)), sum);
    }
    let s = (sum.x + sum.y + sum.z + sum.w) * p.scale;
    let higher = max(top, s);
    let shrink = exp(top - higher);
    let e = exp(s - higher);
    top = higher;
    total = fma(total, shrink, e);
    for (var c = 0u; c < VECS; c++) { // @unroll
      acc[c] = fma(vec4(e), textureLoad(v, texel(at + c)), acc[c] * shrink);
    }
  }
  // a lane without keys has nothing in acc and total
  let part = exp(top - subgroupMax(top));
  let inverse = 1.0 / subgroupAdd(total * part);
  for (var c = 0u; c < VECS; c++) { // @unroll
    let sum = subgroupAdd(acc[c] * part);
    if (lane == c % LANES) { o[q0 + c] = sum * inverse; }
  }
}
