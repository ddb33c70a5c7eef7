// y[m, n] = sum over k of x[m, k] * w[n, k] for a few rows of x and a 4-bit weight, on processors that run WGSL in vector
// lanes (llvmpipe): the codes come through a texture, whose loads are gathered for all lanes at once. Along with it, for one
// row: an RMSNorm of x before (NORM), and after it a low rank (RANK), the gated unit silu(gate) * up of a weight that is
// gate over up (GATED), a sum with `before` (ADD). In generation a launch costs more than many products.
// x, before: f32; w: codes as in dequantize_4bit.wgsl, 32 a texel; texel i lies at (i % 2048, i / 2048). scales: one f32 a
// block, four a texel. y: [M, N]. K is a multiple of 32, so a texel of w lies in one block. norm: [K], four a texel.
// low_x: [parts, RANK], a part for a part of w's rows; low_w: [rows of w, RANK], four a texel.
// Grid: one workgroup is one subgroup, a lane ROWS rows of w, LANES apart. Lanes hand each other x by shuffles, and the
// code book too where a shuffle is one instruction (SHUFFLE: 8 lanes). Rows past the end are not stored.
struct Params {
  texels: u32,      // of a row of w
  n: u32,           // columns of y
  begin: u32,       // first of them in this launch
  end: u32,         // and the one after the last
  first: u32,       // number of texel 0 of w in the whole tensor
  first_scale: u32, // number of the block whose scale comes first
  eps: f32,         // of the norm
  plus: f32,        // added to the norm's weight
  part1: u32,       // rows of w where parts 1 and 2 begin, multiples of LANES * ROWS
  part2: u32,
}
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(2) var w: texture_storage_2d<rgba32uint, read>;
@group(0) @binding(3) var scales: texture_storage_2d<rgba32float, read>;
@group(0) @binding(4) var<storage, read_write> y: array<f32>;
@group(0) @binding(5) var norm: texture_storage_2d<rgba32float, read>;
@group(0) @binding(6) var<storage, read> before: array<f32>;
@group(0) @binding(7) var<storage, read> low_x: array<vec4<f32>>;
@group(0) @binding(8) var low_w: texture_storage_2d<rgba32float, read>;

const ORDERED: bool = false; // w and scales lie as stack_order.wgsl puts them
const NORM: bool = false;
const GATED: bool = false;
const ADD: bool = false;
const RANK: u32 = 0u;       // a multiple of 4
const RANK_QUADS: u32 = RANK / 4u;
const BLOCK: u32 = 64u;
const SHUFFLE: bool = false;
const LANES: u32 = 8u;
const M: u32 = 1u;
const ROWS: u32 = 4u;
const OUT: u32 = 4u;        // columns of y a lane: ROWS, or with GATED half of them
const GROUP: u32 = 2u;      // texels that share a block and a row, at most two: their sums stay in registers
const MR: u32 = M * ROWS;
const FETCHES: u32 = (8u + LANES - 1u) / LANES;  // loads of x by all lanes for 32 elements
const MF: u32 = M * FETCHES;

// book: this lane's two entries of the code book, lane and lane + 8
fn value(code: u32, book: vec2<f32>) -> f32 {
  if (SHUFFLE) {
    let at = code & 7u;
    return select(subgroupShuffle(book.x, at), subgroupShuffle(book.y, at), (code & 8u) != 0u);
  }
  return decode(code);
}

fn scale_of(i: u32) -> f32 {
  let block = i / (BLOCK / 32u) - p.first_scale;
  let s = textureLoad(scales, texel(block / 4u));
  let odd = (block & 1u) != 0u;
  return select(select(s.x, s.y, odd), select(s.z, s.w, odd), (block & 2u) != 0u);
}

// what the low rank adds to a row of w's product
fn low_rank(row: u32, part: u32) -> f32 {
  var sum = 0.0;
  for (var t = 0u; t < RANK_QUADS; t++) {
    sum += dot(low_x[part * RANK_QUADS + t], textureLoad(low_w, texel(row * RANK_QUADS + t)));
  }
  return sum;
}

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  let n = p.begin + group.x * LANES * OUT + lane;
  let book = vec2<f32>(decode(lane), decode(lane + 8u));
  var row: array<u32, ROWS>;
  var at: array<u32, ROWS>;
  for (var r = 0u; r < ROWS; r++) { // @unroll
    row[r] = min(n + (r % OUT) * LANES, p.end - 1u) + (r / OUT) * p.n;
    at[r] = row[r] * p.texels;
  }
  let first = group.x * p.texels * ROWS;
  var squares = vec4<f32>();
  var sum: array<f32, MR>;
  // where a loop ends at a number of Params, lavapipe may compile the kernel anew for each launch
  let end = min(p.texels, arrayLength(&x));
  for (var c = 0u; c < end; c += GROUP) {
    var inner = array<f32, MR>(); // naga zeroes a bare declaration once, not each round
    for (var g = 0u; g < GROUP; g++) { // @unroll
      var a: array<vec4<f32>, MF>;
      var q: array<vec4<u32>, ROWS>;
      for (var r = 0u; r < ROWS; r++) { // @unroll
        q[r] = textureLoad(w, texel(select(at[r] + c + g - p.first, (first + (c + g) * ROWS + r) * LANES + lane, ORDERED)));
      }
      for (var m = 0u; m < M; m++) { // @unroll
        for (var f = 0u; f < FETCHES; f++) { // @unroll
          a[m * FETCHES + f] = x[(m * p.texels + c + g) * 8u + f * LANES + lane % 8u];
        }
      }
      if (NORM) {
        for (var f = 0u; f < FETCHES; f++) { // @unroll
          squares += a[f] * a[f];
          a[f] *= textureLoad(norm, texel((c + g) * 8u + f * LANES + lane % 8u)) + vec4(p.plus);
        }
      }
      for (var j = 0u; j < 4u; j++) { // @unroll
        for (var r = 0u; r < ROWS; r++) { // @unroll
          let v = q[r][j];
          let even = vec4<f32>(value(v >> 4u, book), value(v, book), value(v >> 12u, book), value(v >> 8u, book));
          let odd = vec4<f32>(value(v >> 20u, book), value(v >> 16u, book), value(v >> 28u, book), value(v >> 24u, book));
          for (var m = 0u; m < M; m++) { // @unroll
            let u = subgroupShuffle(a[m * FETCHES + 2u * j / LANES], 2u * j % LANES);
            let z = subgroupShuffle(a[m * FETCHES + (2u * j + 1u) / LANES], (2u * j + 1u) % LANES);
            inner[m * ROWS + r] += dot(even, u) + dot(odd, z);
          }
        }
      }
    }
    var four: vec4<f32>;
    if (ORDERED) { four = textureLoad(scales, texel((group.x * p.texels + c) / GROUP * LANES + lane)); }
    for (var r = 0u; r < ROWS; r++) { // @unroll
      var s = four[r];
      if (!ORDERED) { s = scale_of(at[r] + c); }
      for (var m = 0u; m < M; m++) { // @unroll
        sum[m * ROWS + r] += s * inner[m * ROWS + r];
      }
    }
  }
  if (NORM) {
    // lanes from the ninth on read again what the first eight did
    let total = subgroupAdd(select(0.0, dot(squares, vec4(1.0)), lane < 8u));
    let factor = 1.0 / sqrt(total / f32(32u * p.texels) + p.eps);
    for (var r = 0u; r < ROWS; r++) { // @unroll
      sum[r] *= factor;
    }
  }
  if (RANK > 0u) {
    let begin = group.x * LANES * OUT;
    let part = select(0u, 1u, begin >= p.part1) + select(0u, 1u, begin >= p.part2);
    for (var r = 0u; r < ROWS; r++) { // @unroll
      sum[r] += low_rank(row[r], part + r / OUT);
    }
  }
  if (GATED) {
    for (var r = 0u; r < OUT; r++) { // @unroll
      sum[r] = sum[r] / (1.0 + exp(-sum[r])) * sum[r + ROWS - OUT];
    }
  }
  for (var m = 0u; m < M; m++) { // @unroll
    for (var r = 0u; r < OUT; r++) { // @unroll
      let i = m * p.n + n + r * LANES;
      if (n + r * LANES < p.end) {
        if (ADD) { y[i] = before[i] + sum[m * ROWS + r]; } else { y[i] = sum[m * ROWS + r]; }
      }
    }
  }
}
