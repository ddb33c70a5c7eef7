// quantize_8bit.wgsl on processors that run WGSL in vector lanes (llvmpipe): x and the thresholds come through textures,
// whose loads are gathered for all lanes at once. The same bytes come out.
// x: [n] f32, four a texel; tree: the 255 thresholds as a search tree of 85 nodes, three a texel: node 0, then the four
// below it, then 16, then 64; texel i lies at (i % 2048, i / 2048). words, scales: as there.
// Grid: one invocation a block of 256.
struct Params {
  n: u32,    // elements of x
  row: u32,  // invocations in one grid row
}
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var x: texture_storage_2d<rgba32float, read>;
@group(0) @binding(2) var<storage, read_write> words: array<u32>;
@group(0) @binding(3) var<storage, read_write> scales: array<f32>;
@group(0) @binding(4) var tree: texture_storage_2d<rgba32float, read>;

fn four(i: u32) -> vec4<f32> { return textureLoad(x, texel(i)); }

// which of a node's four subtrees v belongs to: the count of its thresholds strictly below v
fn turn(v: f32, node: u32) -> u32 {
  let t = textureLoad(tree, vec2<u32>(node, 0u));
  return select(0u, 1u, v > t.x) + select(0u, 1u, v > t.y) + select(0u, 1u, v > t.z);
}

fn encode(v: f32) -> u32 {
  var q = turn(v, 0u);
  q = 4u * q + turn(v, 1u + q);
  q = 4u * q + turn(v, 5u + q);
  return 4u * q + turn(v, 21u + q);
}

@compute @workgroup_size(64)
fn quantize(@builtin(global_invocation_id) id: vec3<u32>) {
  let block = id.y * p.row + id.x;
  let begin = block * 256u;
  if (begin >= p.n) { return; }
  let end = min(p.n, begin + 256u);
  let offset = scales[0];
  var largest = 0u;
  for (var i = begin; i < end; i += 4u) {
    let size = bitcast<vec4<u32>>(four(i / 4u) - vec4(offset)) & vec4(0x7fffffffu);
    for (var k = 0u; k < 4u; k++) { // @unroll
      if (i + k < end) { largest = max(largest, size[k]); }
    }
  }
  if (largest < 0x800000u) { largest = 0u; }
  scales[1u + block] = bitcast<f32>(largest);
  let inverse = reciprocal(largest);
  for (var i = begin; i < end; i += 4u) {
    let v = (four(i / 4u) - vec4(offset)) * inverse;
    var word = 0u;
    for (var k = 0u; k < 4u; k++) { // @unroll
      if (i + k < end) { word |= encode(v[k]) << (8u * k); }
    }
    words[i / 4u] = word;
  }
}
