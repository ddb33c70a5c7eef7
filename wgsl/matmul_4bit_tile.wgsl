// y = alpha * A B (+ y) with a 4-bit w, for GPUs: a workgroup computes a TM x TN tile of y from panels of A and B in
// workgroup memory, and w is decoded as its panel is filled: it is read in its 4 bits and written nowhere.
// A[m, k] = x[m, k]; B[k, n] = w[n, k] (W_ALONG_K) or w[k, n]. Rows of x, w and y begin on whole quads.
// words, absmax, scales, map: as in dequantize_4bit.wgsl; four codes in a row share a scale.
// Grid: x over N / TN, y over M / TM. One invocation: RM x RN elements of y, in quads SY and SX quads apart.
struct Params {
  M: u32, N: u32, K: u32,
  x0: u32, ldx: u32,  // first quad of x and quads of a row
  w0: u32, ldw: u32,  // number of w's first row here in the whole tensor, and elements of a row
  y0: u32, ldy: u32,  // first column and row length of y, in quads
  first_word: u32,    // number of words[0] in the whole tensor
  first_scale: u32,   // number of the scale (NESTED: of the group of four) that absmax[0] is
  alpha: f32,
  accumulate: u32,    // 1: add to y
}
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> words: array<u32>;
@group(0) @binding(2) var<storage, read> absmax: array<u32>;
@group(0) @binding(3) var<storage, read> scales: array<f32>;
@group(0) @binding(4) var<storage, read> map: array<f32>;
@group(0) @binding(5) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(6) var<storage, read_write> y: array<vec4<f32>>;

const BLOCK: u32 = 64u;
const NESTED: bool = false;
const W_ALONG_K: bool = true; // neighbours in memory: along K, or along N
const SX: u32 = 8u;           // the workgroup is SX x SY
const SY: u32 = 8u;
const RM: u32 = 4u;           // multiples of 4
const RN: u32 = 4u;
const DEPTH: u32 = 16u;
const TM: u32 = RM * SY;
const TN: u32 = RN * SX;
const SIZE: u32 = SX * SY;
const QM: u32 = RM / 4u;
const QN: u32 = RN / 4u;
const SUMS: u32 = RM * QN;
const A_BLOCKS: u32 = TM * DEPTH / 16u;  // of 4 x 4 elements
const B_BLOCKS: u32 = TN * DEPTH / 16u;
const A_LOADS: u32 = (A_BLOCKS + SIZE - 1u) / SIZE;
const B_LOADS: u32 = (B_BLOCKS + SIZE - 1u) / SIZE;
const A_ROW: u32 = TM / 4u + 1u;         // one quad more, against bank conflicts
const B_ROW: u32 = TN / 4u + 1u;
const A_PANEL: u32 = DEPTH * A_ROW;
const B_PANEL: u32 = DEPTH * B_ROW;
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

var<workgroup> a: array<vec4<f32>, A_PANEL>;
var<workgroup> b: array<vec4<f32>, B_PANEL>;
var<workgroup> book: array<f32, 16>; // 16 values lie in 16 banks; on SwiftShader a tenth faster than selects

fn value(code: u32) -> f32 {
  let b0 = (code & 1u) != 0u;
  let b1 = (code & 2u) != 0u;
  let b2 = (code & 4u) != 0u;
  let q0 = select(select(C0, C1, b0), select(C2, C3, b0), b1);
  let q1 = select(select(C4, C5, b0), select(C6, C7, b0), b1);
  let q2 = select(select(C8, C9, b0), select(C10, C11, b0), b1);
  let q3 = select(select(C12, C13, b0), select(C14, C15, b0), b1);
  return select(select(q0, q1, b2), select(q2, q3, b2), (code & 8u) != 0u);
}

fn decode(code: u32) -> f32 { return book[code & 15u]; }

fn scale_of(element: u32) -> f32 {
  let block = element / BLOCK;
  if (NESTED) {
    let q = (absmax[block / 4u - p.first_scale] >> (8u * (block % 4u))) & 255u;
    return map[q] * scales[1u + block / 256u] + scales[0];
  }
  return bitcast<f32>(absmax[block - p.first_scale]);
}

// w[row, column .. column + 3]
fn load_w(row: u32, column: u32) -> vec4<f32> {
  let i = (p.w0 + row) * p.ldw + column;
  let v = words[i / 8u - p.first_word] >> (4u * (i & 4u));
  return scale_of(i) * vec4<f32>(decode(v >> 4u), decode(v), decode(v >> 12u), decode(v >> 8u));
}

// A[m .. m + 3, k .. k + 3], a column a k; past the edge elements repeat
fn load_a(m: u32, k: u32) -> mat4x4<f32> {
  let at = p.x0 + min(k, p.K - 4u) / 4u;
  let last = p.M - 1u;
  return transpose(mat4x4<f32>(
    x[at + min(m, last) * p.ldx], x[at + min(m + 1u, last) * p.ldx],
    x[at + min(m + 2u, last) * p.ldx], x[at + min(m + 3u, last) * p.ldx]));
}

// B[k .. k + 3, n .. n + 3], a column a k
fn load_b(n: u32, k: u32) -> mat4x4<f32> {
  let n4 = min(n, p.N - 4u);
  let k4 = min(k, p.K - 4u);
  if (W_ALONG_K) {
    return transpose(mat4x4<f32>(load_w(n4, k4), load_w(n4 + 1u, k4), load_w(n4 + 2u, k4), load_w(n4 + 3u, k4)));
  }
  return mat4x4<f32>(load_w(k4, n4), load_w(k4 + 1u, n4), load_w(k4 + 2u, n4), load_w(k4 + 3u, n4));
}

// block i of a panel, as (row or column of the tile, k)
fn place(i: u32, edge: u32, along_k: bool) -> vec2<u32> {
  if (along_k) { return 4u * vec2<u32>(i / (DEPTH / 4u), i % (DEPTH / 4u)); }
  return 4u * vec2<u32>(i % (edge / 4u), i / (edge / 4u));
}

@compute @workgroup_size(SX, SY)
fn main(
  @builtin(workgroup_id) group: vec3<u32>,
  @builtin(local_invocation_id) id: vec3<u32>,
  @builtin(local_invocation_index) index: u32,
) {
  let m0 = group.y * TM;
  let n0 = group.x * TN;
  var acc: array<vec4<f32>, SUMS>;
  var u: array<vec4<f32>, QM>;
  var v: array<vec4<f32>, QN>;
  if (index < 16u) { book[index] = value(index); }
  workgroupBarrier();
  for (var k0 = 0u; k0 < p.K; k0 += DEPTH) {
    for (var l = 0u; l < A_LOADS; l++) { // @unroll
      if (index + l * SIZE < A_BLOCKS) {
        let at = place(index + l * SIZE, TM, true);
        let block = load_a(m0 + at.x, k0 + at.y);
        for (var c = 0u; c < 4u; c++) { // @unroll
          a[(at.y + c) * A_ROW + at.x / 4u] = select(vec4<f32>(), block[c], k0 + at.y < p.K);
        }
      }
    }
    for (var l = 0u; l < B_LOADS; l++) { // @unroll
      if (index + l * SIZE < B_BLOCKS) {
        let at = place(index + l * SIZE, TN, W_ALONG_K);
        let block = load_b(n0 + at.x, k0 + at.y);
        for (var c = 0u; c < 4u; c++) { // @unroll
          b[(at.y + c) * B_ROW + at.x / 4u] = select(vec4<f32>(), block[c], k0 + at.y < p.K);
        }
      }
    }
    workgroupBarrier();
    for (var k = 0u; k < DEPTH; k++) { // @unroll
      for (var i = 0u; i < QM; i++) { // @unroll
        u[i] = a[k * A_ROW + id.y + SY * i];
      }
      for (var j = 0u; j < QN; j++) { // @unroll
        v[j] = b[k * B_ROW + id.x + SX * j];
      }
      for (var i = 0u; i < RM; i++) { // @unroll
        for (var j = 0u; j < QN; j++) { // @unroll
          acc[i * QN + j] = fma(vec4<f32>(u[i / 4u][i % 4u]), v[j], acc[i * QN + j]);
        }
      }
    }
    workgroupBarrier();
  }
  for (var i = 0u; i < RM; i++) { // @unroll
    for (var j = 0u; j < QN; j++) { // @unroll
      let m = m0 + 4u * (id.y + SY * (i / 4u)) + i % 4u;
      let n = n0 + 4u * (id.x + SX * j);
      if (m < p.M && n < p.N) {
        let at = m * p.ldy + p.y0 + n / 4u;
        var sum = p.alpha * acc[i * QN + j];
        if (p.accumulate == 1u) { sum += y[at]; }
        y[at] = sum;
      }
    }
  }
}
