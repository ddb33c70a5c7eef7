// y[m, n] = sum over k of x[m, k] * w[n, k] for a few rows of x, the 4-bit weight decoded in registers.
// words, absmax, scales, map: as in dequantize_4bit.wgsl, K a multiple of 8. x: [M, K], y: [M, N], all f32.
// Grid: LANES invocations share ROWS rows of w and add up in a fixed order; ROWS * SIZE / LANES rows a workgroup.
// The scale is applied once a group of GROUP words that share a block, after their sum. Rows past the end repeat
// the last one and are not stored. Selects decode: on llvmpipe they cost next to nothing, a table 5 times the rest.
struct Params {
  k: u32,           // columns of w and x
  n: u32,           // rows of w
  begin: u32,       // first row of w in this launch
  end: u32,         // and the row after the last
  first_word: u32,  // number of words[0] in the whole tensor
  first_scale: u32, // number of the scale (NESTED: of the group of four) that absmax[0] is
  row: u32,         // workgroups in one grid row
}
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> words: array<u32>;
@group(0) @binding(2) var<storage, read> absmax: array<u32>;
@group(0) @binding(3) var<storage, read> scales: array<f32>;
@group(0) @binding(4) var<storage, read> map: array<f32>;
@group(0) @binding(5) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(6) var<storage, read_write> y: array<f32>;

const BLOCK: u32 = 64u;
const SIZE: u32 = 64u;
const M: u32 = 1u;
const LANES: u32 = 1u;
const ROWS: u32 = 1u;
const MR: u32 = M * ROWS;
const GROUP: u32 = 8u;

var<workgroup> part: array<f32, SIZE>;

fn scale_of(word: u32) -> f32 { return block_scale(word / (BLOCK / 8u), p.first_scale); }

@compute @workgroup_size(SIZE)
fn gemv(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) i: u32) {
  let n = p.begin + ((group.y * p.row + group.x) * (SIZE / LANES) + i / LANES) * ROWS;
  let width = p.k / 8u;
  var sum = array<f32, MR>();
  for (var c = (i % LANES) * GROUP; c < width; c += LANES * GROUP) {
    var inner = array<f32, MR>(); // naga zeroes a bare declaration once, not each round
    for (var g = 0u; g < GROUP; g++) {
      var even: array<vec4<f32>, ROWS>;
      var odd: array<vec4<f32>, ROWS>;
      for (var r = 0u; r < ROWS; r++) { // @unroll
        let w = words[min(n + r, p.end - 1u) * width + c + g - p.first_word];
        even[r] = vec4<f32>(decode(w >> 4u), decode(w), decode(w >> 12u), decode(w >> 8u));
        odd[r] = vec4<f32>(decode(w >> 20u), decode(w >> 16u), decode(w >> 28u), decode(w >> 24u));
      }
      for (var m = 0u; m < M; m++) { // @unroll
        let j = (m * width + c + g) * 2u;
        let xe = x[j];
        let xo = x[j + 1u];
        for (var r = 0u; r < ROWS; r++) { // @unroll
          inner[m * ROWS + r] += dot(even[r], xe) + dot(odd[r], xo);
        }
      }
    }
    for (var r = 0u; r < ROWS; r++) { // @unroll
      let s = scale_of(min(n + r, p.end - 1u) * width + c);
      for (var m = 0u; m < M; m++) { // @unroll
        sum[m * ROWS + r] += s * inner[m * ROWS + r];
      }
    }
  }
  for (var m = 0u; m < M; m++) { // @unroll
    for (var r = 0u; r < ROWS; r++) { // @unroll
      if (LANES == 1u) {
        if (n + r < p.end) { y[m * p.n + n + r] = sum[m * ROWS + r]; }
      } else {
        part[i] = sum[m * ROWS + r];
        workgroupBarrier();
        for (var step = LANES / 2u; step > 0u; step /= 2u) {
          if (i % LANES < step) { part[i] += part[i + step]; }
          workgroupBarrier();
        }
        if (i % LANES == 0u && n + r < p.end) { y[m * p.n + n + r] = part[i]; }
        workgroupBarrier();
      }
    }
  }
}
