// y = alpha * A B (+ y) as in matmul_quad.wgsl, with A past workgroup memory: eight neighbouring invocations, which lie
// in one subgroup, hold a row of A each and hand its elements round by shuffles; B is a panel in workgroup memory.
// A[m, k] = x[m, k]; B[k, n] = w[n, k] (W_ALONG_K) or w[k, n]. For rows that begin on whole quads in all operands.
// Grid: x over N / 64, y over M / 64. One invocation: 8 rows of y that its octet shares, two quads of columns.
struct Params {
  M: u32, N: u32, K: u32,
  x0: u32, ldx: u32, ldw: u32,  // first quad of x, quads of a row of x and w
  y0: u32, ldy: u32,            // first column and row length of y, in quads
  alpha: f32,
  accumulate: u32,              // 1: add to y
}
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> w: array<W>;  // shared/weight_quad.wgsl
@group(0) @binding(3) var<storage, read_write> y: array<vec4<f32>>;

const W_ALONG_K: bool = true;
const DEPTH: u32 = 16u;       // 64 blocks of 4 x 4 elements in a panel: one an invocation
const QUADS: u32 = DEPTH / 4u;
const B_ROW: u32 = 17u;       // one quad more, against bank conflicts

var<workgroup> b: array<vec4<f32>, DEPTH * B_ROW>;

// B[k .. k + 3, n .. n + 3], a column a k; past the edge elements repeat
fn load_b(n: u32, k: u32) -> mat4x4<f32> {
  if (W_ALONG_K) {
    let at = min(k, p.K - 4u) / 4u;
    let n1 = p.N - 1u;
    return transpose(mat4x4<f32>(
      load_w(at + min(n, n1) * p.ldw), load_w(at + min(n + 1u, n1) * p.ldw),
      load_w(at + min(n + 2u, n1) * p.ldw), load_w(at + min(n + 3u, n1) * p.ldw)));
  }
  let i = min(n, p.N - 4u) / 4u + min(k, p.K - 4u) * p.ldw;
  return mat4x4<f32>(load_w(i), load_w(i + p.ldw), load_w(i + 2u * p.ldw), load_w(i + 3u * p.ldw));
}

@compute @workgroup_size(64)
fn main(
  @builtin(workgroup_id) group: vec3<u32>,
  @builtin(local_invocation_index) index: u32,
  @builtin(subgroup_invocation_id) invocation: u32,
) {
  let lane = index % 8u;
  let octet = invocation - invocation % 8u;
  let m0 = group.y * 64u + index - lane;
  let n0 = group.x * 64u;
  let row = p.x0 + min(m0 + lane, p.M - 1u) * p.ldx;
  let block = 4u * select(vec2<u32>(index % 16u, index / 16u), vec2<u32>(index / QUADS, index % QUADS), W_ALONG_K);
  var own: array<vec4<f32>, QUADS>;
  var acc: array<vec4<f32>, 16>;
  for (var k0 = 0u; k0 < p.K; k0 += DEPTH) {
    // past the edge both are 0
    for (var q = 0u; q < QUADS; q++) { // @unroll
      let k = k0 + 4u * q;
      own[q] = select(vec4<f32>(), x[row + min(k, p.K - 4u) / 4u], k < p.K);
    }
    let panel = load_b(n0 + block.x, k0 + block.y);
    for (var c = 0u; c < 4u; c++) { // @unroll
      b[(block.y + c) * B_ROW + block.x / 4u] = select(vec4<f32>(), panel[c], k0 + block.y < p.K);
    }
    workgroupBarrier();
    for (var k = 0u; k < DEPTH; k++) { // @unroll
      let v0 = b[k * B_ROW + lane];
      let v1 = b[k * B_ROW + lane + 8u];
      for (var i = 0u; i < 8u; i++) { // @unroll
        let u = vec4<f32>(subgroupShuffle(own[k / 4u][k % 4u], octet + i));
        acc[2u * i] = fma(u, v0, acc[2u * i]);
        acc[2u * i + 1u] = fma(u, v1, acc[2u * i + 1u]);
      }
    }
    workgroupBarrier();
  }
  for (var i = 0u; i < 8u; i++) { // @unroll
    for (var j = 0u; j < 2u; j++) { // @unroll
      let m = m0 + i;
      let n = n0 + 4u * (lane + 8u * j);
      if (m < p.M && n < p.N) {
        let at = m * p.ldy + p.y0 + n / 4u;
        var sum = p.alpha * acc[2u * i + j];
        if (p.accumulate == 1u) { sum += y[at]; }
        y[at] = sum;
      }
    }
  }
}
