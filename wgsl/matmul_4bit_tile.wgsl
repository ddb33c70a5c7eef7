// y = alpha * (A B + beta L U) (+ y) with a 4-bit w, for GPUs: a workgroup computes a TM x TN tile of y from panels of A and B in
// workgroup memory, and w is decoded as its panel is filled: it is read in its 4 bits and written nowhere.
// A[m, k] = x[m, k]; B[k, n] = w[n, k] (W_ALONG_K) or w[k, n]. Rows of x, w and y begin on whole quads.
// L U (LOW), of a low rank R, comes first: L[m, r] = low_x[m, r], U lies as B, in f32.
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
  R: u32, low_ldw: u32,  // the low rank, quads of a row of low_w
  beta: f32,
  seed: u32, threshold: u32, scale: f32, mask0: u32,  // dropout of L U (shared/pcg.wgsl); element mask0 is y[0, 0]
}
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> words: array<u32>;
@group(0) @binding(2) var<storage, read> absmax: array<u32>;
@group(0) @binding(3) var<storage, read> scales: array<f32>;
@group(0) @binding(4) var<storage, read> map: array<f32>;
@group(0) @binding(5) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(6) var<storage, read_write> y: array<vec4<f32>>;
@group(0) @binding(7) var<storage, read> low_x: array<vec4<f32>>;  // where LOW
@group(0) @binding(8) var<storage, read> low_w: array<vec4<f32>>;

const BLOCK: u32 = 64u;

var<workgroup> book: array<f32, 16>; // 16 values lie in 16 banks; on SwiftShader a tenth faster than selects

fn look_up(code: u32) -> f32 { return book[code & 15u]; }

fn scale_of(element: u32) -> f32 { return block_scale(element / BLOCK, p.first_scale); }

// w[row, column .. column + 3]
fn load_w(row: u32, column: u32) -> vec4<f32> {
  let i = (p.w0 + row) * p.ldw + column;
  let v = words[i / 8u - p.first_word] >> (4u * (i & 4u));
  return scale_of(i) * vec4<f32>(look_up(v >> 4u), look_up(v), look_up(v >> 12u), look_up(v >> 8u));
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

fn prepare(index: u32) {
  if (index < 16u) { book[index] = decode(index); }
  workgroupBarrier();
}
