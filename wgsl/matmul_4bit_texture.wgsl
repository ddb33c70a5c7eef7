// y = alpha * A B (+ y) with a 4-bit w, on processors that run WGSL in vectors of 8 lanes (llvmpipe): matmul_texture.wgsl
// with w's codes in a texture, decoded as they are loaded. A[m, k] = x[m, k], B[k, n] = w[n, k] (W_ROWS) or w[k, n].
// x: four f32 a texel; w: codes as in dequantize_4bit.wgsl, 8 a texel; texel i lies at (i % 2048, i / 2048).
// absmax, scales, map: as in dequantize_4bit.wgsl. Lanes hand each other x, the code book and scales by shuffles.
// Grid: x over N / 64, y over M / TM. One workgroup: one subgroup; one lane: TM rows of two blocks of 4 columns of y,
// 8 blocks apart (W_ROWS) or neighbours. Else rows of w are whole runs of 64 that share a scale, and K is a multiple of 8.
struct Params {
  M: u32, N: u32, K: u32,
  x0: u32, ldx: u32,  // first texel of x and texels of a row
  w0: u32, ldw: u32,  // number of w's first row here in the whole tensor, and texels of a row
  y0: u32, ldy: u32,  // first element of y and elements of a row
  first: u32,         // number of texel 0 of w in the whole tensor
  first_scale: u32,   // number of the scale (NESTED: of the group of four) that absmax[0] is
  alpha: f32,
}
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var x: texture_storage_2d<rgba32float, read>;
@group(0) @binding(2) var w: texture_storage_2d<r32uint, read>;
@group(0) @binding(3) var<storage, read> absmax: array<u32>;
@group(0) @binding(4) var<storage, read> scales: array<f32>;
@group(0) @binding(5) var<storage, read> map: array<f32>;
@group(0) @binding(6) var<storage, read_write> y: array<vec4<f32>>;
@group(0) @binding(7) var before: texture_2d<f32>;  // y as it was, where ACCUMULATE

const BLOCK: u32 = 64u;
const W_ROWS: bool = true;
const ACCUMULATE: bool = false;
const TM: u32 = 32u;            // a multiple of LANES
const LANES: u32 = 8u;
const XR: u32 = TM / LANES;     // texels of x that a lane loads
const GROUP: u32 = 8u;          // texels of w that share a block and a row (W_ROWS)
const ACC: u32 = 2u * TM;

// book: this lane's two entries of the code book, lane and lane + 8
fn value(code: u32, book: vec2<f32>) -> f32 {
  let at = (code >> 28u) & 7u;
  return select(subgroupShuffle(book.x, at), subgroupShuffle(book.y, at), bitcast<i32>(code) < 0);
}

// the four codes in the lower half of a word
fn four(v: u32, book: vec2<f32>) -> vec4<f32> {
  return vec4<f32>(value(v << 24u, book), value(v << 28u, book), value(v << 16u, book), value(v << 20u, book));
}

// of texel i of the whole tensor
fn scale_of(i: u32) -> f32 { return block_scale(i / (BLOCK / 8u), p.first_scale); }

fn multiply(a: vec4<f32>, b: mat4x4<f32>, sum: vec4<f32>) -> vec4<f32> {
  return fma(vec4(a.w), b[3], fma(vec4(a.z), b[2], fma(vec4(a.y), b[1], fma(vec4(a.x), b[0], sum))));
}

fn store(m: u32, n: u32, sum: vec4<f32>) {
  if (m < p.M && 4u * n < p.N) {
    let at = (p.y0 + m * p.ldy) / 4u + n;
    var v = p.alpha * sum;
    if (ACCUMULATE) { v += textureLoad(before, texel(at), 0); }
    y[at] = v;
  }
}

@compute @workgroup_size(LANES)
fn nt(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  let m0 = group.y * TM;
  let n = group.x * LANES * 2u + lane;
  let book = vec2<f32>(decode(lane), decode(lane + 8u));
  var acc: array<vec4<f32>, ACC>;
  var a: array<vec4<f32>, XR>;
  var b: array<mat4x4<f32>, 2>;
  var at: array<u32, 8>;
  var s: array<f32, 8>;
  var q: array<u32, 8>;
  for (var r = 0u; r < 8u; r++) { // @unroll
    at[r] = (p.w0 + min(4u * (n + r / 4u * LANES) + r % 4u, p.N - 1u)) * p.ldw;
  }
  for (var c = 0u; c < p.ldw; c += GROUP) {
    for (var r = 0u; r < 8u; r++) { // @unroll
      s[r] = scale_of(at[r] + c);
    }
    for (var k = c; k < c + GROUP; k++) {
      for (var r = 0u; r < 8u; r++) { // @unroll
        q[r] = textureLoad(w, texel(at[r] + k - p.first)).x;
      }
      for (var h = 0u; h < 2u; h++) { // @unroll
        for (var j = 0u; j < 2u; j++) { // @unroll
          b[j] = transpose(mat4x4<f32>(
            s[4u * j] * four(q[4u * j] >> (16u * h), book), s[4u * j + 1u] * four(q[4u * j + 1u] >> (16u * h), book),
            s[4u * j + 2u] * four(q[4u * j + 2u] >> (16u * h), book), s[4u * j + 3u] * four(q[4u * j + 3u] >> (16u * h), book)));
        }
        for (var i = 0u; i < XR; i++) { // @unroll
          a[i] = textureLoad(x, texel(p.x0 + (m0 + i * LANES + lane) * p.ldx + 2u * k + h));
        }
        for (var i = 0u; i < XR; i++) { // @unroll
          for (var l = 0u; l < LANES; l++) { // @unroll
            let u = subgroupShuffle(a[i], l);
            acc[2u * (i * LANES + l)] = multiply(u, b[0], acc[2u * (i * LANES + l)]);
            acc[2u * (i * LANES + l) + 1u] = multiply(u, b[1], acc[2u * (i * LANES + l) + 1u]);
          }
        }
      }
    }
  }
  for (var i = 0u; i < TM; i++) { // @unroll
    store(m0 + i, n, acc[2u * i]);
    store(m0 + i, n + LANES, acc[2u * i + 1u]);
  }
}

@compute @workgroup_size(LANES)
fn nn(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  let m0 = group.y * TM;
  let n = group.x * LANES + lane;
  let book = vec2<f32>(decode(lane), decode(lane + 8u));
  var acc: array<vec4<f32>, ACC>;
  var a: array<vec4<f32>, XR>;
  var b: array<mat4x4<f32>, 2>;
  for (var c = 0u; c < p.K; c += 8u) {
    let s = scale_of((p.w0 + c + lane) * p.ldw + group.x * LANES);
    for (var h = 0u; h < 2u; h++) { // @unroll
      for (var r = 0u; r < 4u; r++) { // @unroll
        let q = textureLoad(w, texel((p.w0 + c + 4u * h + r) * p.ldw + n - p.first)).x;
        let t = subgroupShuffle(s, 4u * h + r);
        b[0][r] = four(q, t * book);
        b[1][r] = four(q >> 16u, t * book);
      }
      for (var i = 0u; i < XR; i++) { // @unroll
        a[i] = textureLoad(x, texel(p.x0 + (m0 + i * LANES + lane) * p.ldx + c / 4u + h));
      }
      for (var i = 0u; i < XR; i++) { // @unroll
        for (var l = 0u; l < LANES; l++) { // @unroll
          let u = subgroupShuffle(a[i], l);
          acc[2u * (i * LANES + l)] = multiply(u, b[0], acc[2u * (i * LANES + l)]);
          acc[2u * (i * LANES + l) + 1u] = multiply(u, b[1], acc[2u * (i * LANES + l) + 1u]);
        }
      }
    }
  }
  for (var i = 0u; i < TM; i++) { // @unroll
    store(m0 + i, 2u * n, acc[2u * i]);
    store(m0 + i, 2u * n + 1u, acc[2u * i + 1u]);
  }
}
