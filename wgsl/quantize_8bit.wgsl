// Blockwise 8-bit quantization with a map of 256 values: q = nearest entry to (x - offset) / scale of the block.
// x: [n] f32, scales: [1 + ceil(n / 256)] f32 (the offset first, then one scale a block), words: four codes each,
// the first in the low byte, thresholds: [255] f32, the midpoints of the map.
// Grid: one invocation a block of 256.
struct Params {
  n: u32,    // elements of x
  row: u32,  // invocations in one grid row
}
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read_write> words: array<u32>;
@group(0) @binding(3) var<storage, read_write> scales: array<f32>;
@group(0) @binding(4) var<storage, read> thresholds: array<f32>;

// count of thresholds strictly below v
fn encode(v: f32) -> u32 {
  var q = 0u;
  for (var step = 128u; step > 0u; step /= 2u) {
    if (v > thresholds[q + step - 1u]) { q += step; }
  }
  return q;
}

@compute @workgroup_size(64)
fn quantize(@builtin(global_invocation_id) id: vec3<u32>) {
  let block = id.y * p.row + id.x;
  let begin = block * 256u;
  if (begin >= p.n) { return; }
  let end = min(p.n, begin + 256u);
  let offset = scales[0];
  var largest = 0u;
  for (var i = begin; i < end; i++) { largest = max(largest, bitcast<u32>(x[i] - offset) & 0x7fffffffu); }
  if (largest < 0x800000u) { largest = 0u; }
  scales[1u + block] = bitcast<f32>(largest);
  let inverse = reciprocal(largest);
  for (var i = begin; i < end; i += 4u) {
    var word = 0u;
    for (var k = 0u; k < 4u; k++) { // @unroll
      if (i + k < end) { word |= encode((x[i + k] - offset) * inverse) << (8u * k); }
    }
    words[i / 4u] = word;
  }
}
