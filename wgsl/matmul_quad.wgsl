// y = alpha * A B (+ y) as in matmul_tile.wgsl, four elements at a time: 16 bytes a load from the buffers and from
// workgroup memory, whose panels lie along M and N. For rows that begin on whole quads in all operands.
// A[m, k] = x[m, k] (X_ALONG_K) or x[k, m]; B[k, n] = w[n, k] (W_ALONG_K) or w[k, n].
// Grid: x over N / TN, y over M / TM. One invocation: RM x RN elements of y, in quads SY and SX quads apart.
struct Params {
  M: u32, N: u32, K: u32,
  x0: u32, ldx: u32, ldw: u32,  // first quad of x, quads of a row of x and w
  y0: u32, ldy: u32,            // first column and row length of y, in quads
  alpha: f32,
  accumulate: u32,              // 1: add to y
}
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> w: array<W>;
@group(0) @binding(3) var<storage, read_write> y: array<vec4<f32>>;

alias W = vec4<u32>;          // vec2<u32> where w is stored in 16 bits
alias S = f32;                // elements of the panels: f16 takes half the room, and rounds operands to 11 bits
const W_KIND: u32 = 0u;       // 0 f32, 1 f16, 2 bf16
const HIGH: u32 = 2u;         // 0 where w is stored in 16 bits
const X_ALONG_K: bool = true;
const W_ALONG_K: bool = true;
const SX: u32 = 8u;           // the workgroup is SX x SY
const SY: u32 = 8u;
const RM: u32 = 8u;           // multiples of 4
const RN: u32 = 8u;
const DEPTH: u32 = 16u;
const TM: u32 = RM * SY;
const TN: u32 = RN * SX;
const SIZE: u32 = SX * SY;
const QM: u32 = RM / 4u;
const QN: u32 = RN / 4u;
const A_BLOCKS: u32 = TM * DEPTH / 16u;  // of 4 x 4 elements
const B_BLOCKS: u32 = TN * DEPTH / 16u;
const A_LOADS: u32 = (A_BLOCKS + SIZE - 1u) / SIZE;
const B_LOADS: u32 = (B_BLOCKS + SIZE - 1u) / SIZE;
const A_ROW: u32 = TM / 4u + 1u;         // one quad more, against bank conflicts
const B_ROW: u32 = TN / 4u + 1u;

var<workgroup> a: array<vec4<S>, DEPTH * A_ROW>;
var<workgroup> b: array<vec4<S>, DEPTH * B_ROW>;

fn load_w(i: u32) -> vec4<f32> {
  let v = w[i];
  if (W_KIND == 0u) { return bitcast<vec4<f32>>(vec4<u32>(v.xy, v[HIGH], v[HIGH + 1u])); }
  if (W_KIND == 1u) { return vec4<f32>(unpack2x16float(v.x), unpack2x16float(v.y)); }
  return bitcast<vec4<f32>>(vec4<u32>(v.x << 16u, v.x & 0xffff0000u, v.y << 16u, v.y & 0xffff0000u));
}

// block i of a panel, as (row or column of the tile, k)
fn place(i: u32, edge: u32, along_k: bool) -> vec2<u32> {
  if (along_k) { return 4u * vec2<u32>(i / (DEPTH / 4u), i % (DEPTH / 4u)); }
  return 4u * vec2<u32>(i % (edge / 4u), i / (edge / 4u));
}

// A[m .. m + 3, k .. k + 3], a column a k; past the edge elements repeat
fn load_a(m: u32, k: u32) -> mat4x4<f32> {
  if (X_ALONG_K) {
    let at = p.x0 + min(k, p.K - 4u) / 4u;
    let m1 = p.M - 1u;
    return transpose(mat4x4<f32>(
      x[at + min(m, m1) * p.ldx], x[at + min(m + 1u, m1) * p.ldx],
      x[at + min(m + 2u, m1) * p.ldx], x[at + min(m + 3u, m1) * p.ldx]));
  }
  let at = p.x0 + min(m, p.M - 4u) / 4u;
  let k1 = p.K - 1u;
  return mat4x4<f32>(
    x[at + min(k, k1) * p.ldx], x[at + min(k + 1u, k1) * p.ldx],
    x[at + min(k + 2u, k1) * p.ldx], x[at + min(k + 3u, k1) * p.ldx]);
}

// B[k .. k + 3, n .. n + 3], a column a k
fn load_b(n: u32, k: u32) -> mat4x4<f32> {
  if (W_ALONG_K) {
    let at = min(k, p.K - 4u) / 4u;
    let n1 = p.N - 1u;
    return transpose(mat4x4<f32>(
      load_w(at + min(n, n1) * p.ldw), load_w(at + min(n + 1u, n1) * p.ldw),
      load_w(at + min(n + 2u, n1) * p.ldw), load_w(at + min(n + 3u, n1) * p.ldw)));
  }
  let at = min(n, p.N - 4u) / 4u;
  let k1 = p.K - 1u;
  return mat4x4<f32>(
    load_w(at + min(k, k1) * p.ldw), load_w(at + min(k + 1u, k1) * p.ldw),
    load_w(at + min(k + 2u, k1) * p.ldw), load_w(at + min(k + 3u, k1) * p.ldw));
}

@compute @workgroup_size(SX, SY)
fn main(
  @builtin(workgroup_id) group: vec3<u32>,
  @builtin(local_invocation_id) id: vec3<u32>,
  @builtin(local_invocation_index) index: u32,
) {
  let m0 = group.y * TM;
  let n0 = group.x * TN;
  let other = (index + SIZE / 2u) % SIZE; // where one load of each panel does not busy all, half each
  var acc: array<vec4<f32>, RM * QN>;
  var u: array<vec4<f32>, QM>;
  var v: array<vec4<f32>, QN>;
  for (var k0 = 0u; k0 < p.K; k0 += DEPTH) {
    for (var l = 0u; l < A_LOADS; l++) { // @unroll
      if (index + l * SIZE < A_BLOCKS) {
        let at = place(index + l * SIZE, TM, X_ALONG_K);
        let block = load_a(m0 + at.x, k0 + at.y);
        for (var c = 0u; c < 4u; c++) { // @unroll
          a[(at.y + c) * A_ROW + at.x / 4u] =
            vec4<S>(select(vec4<f32>(), block[c], k0 + at.y + c < p.K));
        }
      }
    }
    for (var l = 0u; l < B_LOADS; l++) { // @unroll
      if (other + l * SIZE < B_BLOCKS) {
        let at = place(other + l * SIZE, TN, W_ALONG_K);
        let block = load_b(n0 + at.x, k0 + at.y);
        for (var c = 0u; c < 4u; c++) { // @unroll
          b[(at.y + c) * B_ROW + at.x / 4u] =
            vec4<S>(select(vec4<f32>(), block[c], k0 + at.y + c < p.K));
        }
      }
    }
    workgroupBarrier();
    for (var k = 0u; k < DEPTH; k++) { // @unroll
      for (var i = 0u; i < QM; i++) { // @unroll
        u[i] = vec4<f32>(a[k * A_ROW + id.y + SY * i]);
      }
      for (var j = 0u; j < QN; j++) { // @unroll
        v[j] = vec4<f32>(b[k * B_ROW + id.x + SX * j]);
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
