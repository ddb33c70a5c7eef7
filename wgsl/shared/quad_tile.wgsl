// What the tiles on quads share: a workgroup computes a TM x TN tile of y = alpha * (A B + beta L U) (+ y) from panels in
// workgroup memory. The kernel's file declares Params, y, low_x and low_w, and what fills the panels: load_a and load_b;
// `prepare` runs before them. L U (LOW), of a low rank R, comes first: L[m, r] = low_x[m, r], and U lies as B does.
// Grid: x over N / TN, y over M / TM. One invocation: RM x RN elements of y, in quads SY and SX quads apart.
alias S = f32;                // elements of the panels: f16 takes half the room, and rounds operands to 11 bits
const X_ALONG_K: bool = true; // neighbours in memory: along K, or along M (N for w)
const W_ALONG_K: bool = true;
const LOW: bool = false;
const DROP_LOW: bool = false;
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

// block i of a panel, as (row or column of the tile, k)
fn place(i: u32, edge: u32, along_k: bool) -> vec2<u32> {
  if (along_k) { return 4u * vec2<u32>(i / (DEPTH / 4u), i % (DEPTH / 4u)); }
  return 4u * vec2<u32>(i % (edge / 4u), i / (edge / 4u));
}

// L[m .. m + 3, r .. r + 3] and U[r .. r + 3, n .. n + 3], a column an r
fn load_l(m: u32, r: u32) -> mat4x4<f32> {
  let row = p.R / 4u;
  let at = min(r, p.R - 4u) / 4u;
  let m1 = p.M - 1u;
  return transpose(mat4x4<f32>(low_x[at + min(m, m1) * row], low_x[at + min(m + 1u, m1) * row],
    low_x[at + min(m + 2u, m1) * row], low_x[at + min(m + 3u, m1) * row]));
}

fn load_u(n: u32, r: u32) -> mat4x4<f32> {
  let row = p.low_ldw;
  if (W_ALONG_K) {
    let at = min(r, p.R - 4u) / 4u;
    let n1 = p.N - 1u;
    return transpose(mat4x4<f32>(low_w[at + min(n, n1) * row], low_w[at + min(n + 1u, n1) * row],
      low_w[at + min(n + 2u, n1) * row], low_w[at + min(n + 3u, n1) * row]));
  }
  let at = min(n, p.N - 4u) / 4u + min(r, p.R - 4u) * row;
  return mat4x4<f32>(low_w[at], low_w[at + row], low_w[at + 2u * row], low_w[at + 3u * row]);
}

// what L U gives of y[m, n .. n + 3]
fn low_part(m: u32, n: u32, sum: vec4<f32>) -> vec4<f32> {
  if (DROP_LOW) {
    let first = p.mask0 + 4u * (m * p.ldy + p.y0) + n;
    return drop_out(p.beta * sum, first, p.seed, p.threshold, p.scale);
  }
  return p.beta * sum;
}

@compute @workgroup_size(SX, SY)
fn main(
  @builtin(workgroup_id) group: vec3<u32>,
  @builtin(local_invocation_id) id: vec3<u32>,
  @builtin(local_invocation_index) index: u32,
) {
  let m0 = group.y * TM;
  let n0 = group.x * TN;
  prepare(index);
  let other = (index + SIZE / 2u) % SIZE; // where one load of each panel does not busy all, half each
  var acc: array<vec4<f32>, RM * QN>;
  var u: array<vec4<f32>, QM>;
  var v: array<vec4<f32>, QN>;
  let deep = select(0u, (p.R + DEPTH - 1u) / DEPTH * DEPTH, LOW);
  for (var step = 0u; step < deep + p.K; step += DEPTH) {
    let low = step < deep;
    let k0 = select(step - deep, step, low);
    let k1 = select(p.K, p.R, low);
    if (LOW && step == deep) {
      for (var i = 0u; i < RM; i++) { // @unroll
        for (var j = 0u; j < QN; j++) { // @unroll
          acc[i * QN + j] = low_part(
            m0 + 4u * (id.y + SY * (i / 4u)) + i % 4u, n0 + 4u * (id.x + SX * j), acc[i * QN + j]);
        }
      }
    }
    for (var l = 0u; l < A_LOADS; l++) { // @unroll
      if (index + l * SIZE < A_BLOCKS) {
        let at = place(index + l * SIZE, TM, X_ALONG_K);
        var block: mat4x4<f32>;
        if (LOW && low) { block = load_l(m0 + at.x, k0 + at.y); } else { block = load_a(m0 + at.x, k0 + at.y); }
        for (var c = 0u; c < 4u; c++) { // @unroll
          a[(at.y + c) * A_ROW + at.x / 4u] =
            vec4<S>(select(vec4<f32>(), block[c], k0 + at.y + c < k1));
        }
      }
    }
    for (var l = 0u; l < B_LOADS; l++) { // @unroll
      if (other + l * SIZE < B_BLOCKS) {
        let at = place(other + l * SIZE, TN, W_ALONG_K);
        var block: mat4x4<f32>;
        if (LOW && low) { block = load_u(n0 + at.x, k0 + at.y); } else { block = load_b(n0 + at.x, k0 + at.y); }
        for (var c = 0u; c < 4u; c++) { // @unroll
          b[(at.y + c) * B_ROW + at.x / 4u] =
            vec4<S>(select(vec4<f32>(), block[c], k0 + at.y + c < k1));
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
