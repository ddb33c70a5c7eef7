// y[m, n] = alpha * sum over k of x[m, k] w[n, k] (+ y): a few rows of x times a matrix, each element of w read once.
// x: [M, K] f32; w: [N, K] in quads of 16 bytes, which hold four f32, or eight f16 or bf16; y: [M, ldy] from column y0.
// Grid: LANES invocations share ROWS rows of w and add up in a fixed order; ROWS * SIZE / LANES rows a workgroup.
// Rows past the end repeat the last one and are not stored.
struct Params {
  quads: u32,       // of a row of w
  n: u32,           // rows of w
  row: u32,         // workgroups in one grid row
  y0: u32, ldy: u32,
  alpha: f32,
  accumulate: u32,  // 1: add to y
}
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> w: array<vec4<u32>>;
@group(0) @binding(3) var<storage, read_write> y: array<f32>;

const W_KIND: u32 = 0u;  // 0 f32, 1 f16, 2 bf16
const SIZE: u32 = 64u;
const M: u32 = 1u;
const LANES: u32 = 16u;
const ROWS: u32 = 4u;
const MR: u32 = M * ROWS;

var<workgroup> part: array<f32, SIZE>;

fn unpack(v: vec2<u32>) -> vec4<f32> {
  if (W_KIND == 1u) { return vec4<f32>(unpack2x16float(v.x), unpack2x16float(v.y)); }
  return bitcast<vec4<f32>>(vec4<u32>(v.x << 16u, v.x & 0xffff0000u, v.y << 16u, v.y & 0xffff0000u));
}

@compute @workgroup_size(SIZE)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) i: u32) {
  let n = ((group.y * p.row + group.x) * (SIZE / LANES) + i / LANES) * ROWS;
  var sum: array<f32, MR>;
  var at: array<u32, ROWS>;
  for (var r = 0u; r < ROWS; r++) { // @unroll
    at[r] = min(n + r, p.n - 1u) * p.quads;
  }
  for (var c = i % LANES; c < p.quads; c += LANES) {
    var q: array<vec4<u32>, ROWS>;
    for (var r = 0u; r < ROWS; r++) { // @unroll
      q[r] = w[at[r] + c];
    }
    for (var m = 0u; m < M; m++) { // @unroll
      if (W_KIND == 0u) {
        let u = x[m * p.quads + c];
        for (var r = 0u; r < ROWS; r++) { // @unroll
          sum[m * ROWS + r] += dot(bitcast<vec4<f32>>(q[r]), u);
        }
      } else {
        let u = x[2u * (m * p.quads + c)];
        let v = x[2u * (m * p.quads + c) + 1u];
        for (var r = 0u; r < ROWS; r++) { // @unroll
          sum[m * ROWS + r] += dot(unpack(q[r].xy), u) + dot(unpack(q[r].zw), v);
        }
      }
    }
  }
  for (var m = 0u; m < M; m++) { // @unroll
    for (var r = 0u; r < ROWS; r++) { // @unroll
      var total = sum[m * ROWS + r];
      if (LANES > 1u) {
        part[i] = total;
        for (var step = LANES / 2u; step > 0u; step /= 2u) {
          workgroupBarrier();
          if (i % LANES < step) { part[i] += part[i + step]; }
        }
        total = part[i];
        workgroupBarrier();
      }
      if (i % LANES == 0u && n + r < p.n) {
        let to = m * p.ldy + p.y0 + n + r;
        var v = p.alpha * total;
        if (p.accumulate == 1u) { v += y[to]; }
        y[to] = v;
      }
    }
  }
}
