// y = alpha (A B + beta L U) (+ y) for processors that run WGSL in vector lanes (llvmpipe): operands are copied into
// textures, whose loads are gathered for all lanes at once (storage buffers are read lane by lane, ten times slower), and
// the lanes of a subgroup hand each other their elements of A by shuffles.
// Texel i of a matrix holds its elements 4i .. 4i + 3 and lies at (i % 2048, i / 2048). L U is of a low rank R.
// Entry `rows`: A[m, k] = x[m, k], entry `columns`: A[m, k] = x[k, m]. B[k, n] = w[n, k] (W_ROWS) or w[k, n]; L and U,
// in `rows` only, lie as A and B do. Dropout, drawn as in shared/pcg.wgsl, may fall on B or on L U.
// Grid: x over M / TM, y over N / (4 LANES NB): workgroups that follow each other read the same columns of B from the cache.
// One workgroup: one subgroup; one lane: TM rows of NB times 4 columns of y, LANES times 4 columns apart.
struct Params {
  M: u32, N: u32, K: u32,
  x0: u32, ldx: u32, w0: u32, ldw: u32,  // first texel and texels of a row
  y0: u32, ldy: u32,            // first element of y and elements of a row
  alpha: f32, beta: f32,
  R: u32, low_ldw: u32,         // the low rank, texels of a row of low_w
  seed: u32, threshold: u32, scale: f32, mask0: u32,  // dropout; what is masked first is element 4 mask0
}
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var x: texture_storage_2d<rgba32float, read>;
@group(0) @binding(2) var w: W;
@group(0) @binding(3) var<storage, read_write> y: array<vec4<f32>>;
@group(0) @binding(4) var before: texture_2d<f32>;  // y as it was, where ACCUMULATE
@group(0) @binding(5) var low_x: texture_storage_2d<rgba32float, read>;   // where LOW
@group(0) @binding(6) var low_w: texture_storage_2d<rgba32float, read>;

alias W = texture_storage_2d<rgba32float, read>;  // of w's format: rgba16uint where it is bf16
const BF16: bool = false;
const W_ROWS: bool = true;
const ACCUMULATE: bool = false;
const TURNED: bool = false;     // y[n, m] is stored instead of y[m, n]
const LOW: bool = false;
const DROP_B: bool = false;
const DROP_LOW: bool = false;
const LANES: u32 = 8u;
const TM: u32 = 32u;            // a multiple of LANES, and in `columns` also 4 LANES or less
const XR: u32 = TM / LANES;     // texels of x that a lane loads in `rows`
const NB: u32 = 1u;             // blocks of 4 columns a lane
const XL: u32 = TM / 4u;        // lanes that load x in `columns`

fn dropped(i: u32, v: vec4<f32>) -> vec4<f32> {
  return drop_out(v, 4u * (p.mask0 + i), p.seed, p.threshold, p.scale);
}

fn load_w(i: u32) -> vec4<f32> {
  let v = textureLoad(w, texel(i));
  if (BF16) { return bitcast<vec4<f32>>(vec4<u32>(v) << vec4<u32>(16u)); }
  if (DROP_B) { return dropped(i, vec4<f32>(v)); }
  return vec4<f32>(v);
}

// B[4k .. 4k + 3, 4n .. 4n + 3], a column a row of B
fn load_b(k: u32, n: u32) -> mat4x4<f32> {
  if (W_ROWS) {
    let i = p.w0 + 4u * n * p.ldw + k;
    return transpose(mat4x4<f32>(load_w(i), load_w(i + p.ldw), load_w(i + 2u * p.ldw), load_w(i + 3u * p.ldw)));
  }
  let i = p.w0 + 4u * k * p.ldw + n;
  return mat4x4<f32>(load_w(i), load_w(i + p.ldw), load_w(i + 2u * p.ldw), load_w(i + 3u * p.ldw));
}

fn low(i: u32) -> vec4<f32> { return textureLoad(low_w, texel(i)); }

// the same of U
fn load_u(k: u32, n: u32) -> mat4x4<f32> {
  let ld = p.low_ldw;
  if (W_ROWS) {
    let i = 4u * n * ld + k;
    return transpose(mat4x4<f32>(low(i), low(i + ld), low(i + 2u * ld), low(i + 3u * ld)));
  }
  let i = 4u * k * ld + n;
  return mat4x4<f32>(low(i), low(i + ld), low(i + 2u * ld), low(i + 3u * ld));
}

fn multiply(a: vec4<f32>, b: mat4x4<f32>, sum: vec4<f32>) -> vec4<f32> {
  return fma(vec4(a.w), b[3], fma(vec4(a.z), b[2], fma(vec4(a.y), b[1], fma(vec4(a.x), b[0], sum))));
}

fn store(at: u32, sum: vec4<f32>) {
  var v = p.alpha * sum;
  if (ACCUMULATE) { v += textureLoad(before, texel(at), 0); }
  y[at] = v;
}

// rows m .. m + 3 and columns 4n .. 4n + 3 of A B, of which a row is a column of `sums`
fn store_block(m: u32, n: u32, sums: mat4x4<f32>) {
  if (TURNED) {
    let turned = transpose(sums);
    for (var c = 0u; c < 4u; c++) { // @unroll
      if (m < p.M && 4u * n + c < p.N) { store((p.y0 + (4u * n + c) * p.ldy + m) / 4u, turned[c]); }
    }
  } else {
    for (var r = 0u; r < 4u; r++) { // @unroll
      if (m + r < p.M && 4u * n < p.N) { store((p.y0 + (m + r) * p.ldy) / 4u + n, sums[r]); }
    }
  }
}

@compute @workgroup_size(LANES)
fn rows(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  let m0 = group.x * TM;
  let n = group.y * LANES * NB + lane;
  var acc: array<vec4<f32>, TM * NB>;
  var a: array<vec4<f32>, XR>;
  var b: array<mat4x4<f32>, NB>;
  if (LOW) {
    for (var k = 0u; k < p.R / 4u; k++) {
      for (var j = 0u; j < NB; j++) { // @unroll
        b[j] = load_u(k, n + j * LANES);
      }
      for (var i = 0u; i < XR; i++) { // @unroll
        a[i] = textureLoad(low_x, texel((m0 + i * LANES + lane) * (p.R / 4u) + k));
      }
      for (var i = 0u; i < XR; i++) { // @unroll
        for (var l = 0u; l < LANES; l++) { // @unroll
          let s = subgroupShuffle(a[i], l);
          for (var j = 0u; j < NB; j++) { // @unroll
            acc[(i * LANES + l) * NB + j] = multiply(s, b[j], acc[(i * LANES + l) * NB + j]);
          }
        }
      }
    }
    for (var i = 0u; i < TM; i++) { // @unroll
      for (var j = 0u; j < NB; j++) { // @unroll
        acc[i * NB + j] *= p.beta;
        if (DROP_LOW) {
          acc[i * NB + j] = dropped((p.y0 + (m0 + i) * p.ldy) / 4u + n + j * LANES, acc[i * NB + j]);
        }
      }
    }
  }
  for (var k = 0u; k < p.K / 4u; k++) {
    for (var j = 0u; j < NB; j++) { // @unroll
      b[j] = load_b(k, n + j * LANES);
    }
    for (var i = 0u; i < XR; i++) { // @unroll
      a[i] = textureLoad(x, texel(p.x0 + (m0 + i * LANES + lane) * p.ldx + k));
    }
    for (var i = 0u; i < XR; i++) { // @unroll
      for (var l = 0u; l < LANES; l++) { // @unroll
        let s = subgroupShuffle(a[i], l);
        for (var j = 0u; j < NB; j++) { // @unroll
          acc[(i * LANES + l) * NB + j] = multiply(s, b[j], acc[(i * LANES + l) * NB + j]);
        }
      }
    }
  }
  for (var i = 0u; i < TM; i += 4u) { // @unroll
    for (var j = 0u; j < NB; j++) { // @unroll
      store_block(m0 + i, n + j * LANES,
        mat4x4<f32>(acc[i * NB + j], acc[(i + 1u) * NB + j], acc[(i + 2u) * NB + j], acc[(i + 3u) * NB + j]));
    }
  }
}

@compute @workgroup_size(LANES)
fn columns(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  let m0 = group.x * TM;
  let n = group.y * LANES * NB + lane;
  var acc: array<vec4<f32>, TM * NB>;
  var a: array<vec4<f32>, 4>;
  var b: array<mat4x4<f32>, NB>;
  for (var k = 0u; k < p.K; k += 4u) {
    for (var j = 0u; j < NB; j++) { // @unroll
      b[j] = load_b(k / 4u, n + j * LANES);
    }
    for (var c = 0u; c < 4u; c++) { // @unroll
      a[c] = textureLoad(x, texel(p.x0 + (k + c) * p.ldx + m0 / 4u + lane));
    }
    if (k + 4u > p.K) {
      // rows of x and w past the end may hold anything, NaN too
      for (var c = 1u; c < 4u; c++) { // @unroll
        if (k + c >= p.K) {
          a[c] = vec4<f32>();
          for (var j = 0u; j < NB; j++) { // @unroll
            b[j][c] = vec4<f32>();
          }
        }
      }
    }
    for (var l = 0u; l < XL; l++) { // @unroll
      let t = transpose(mat4x4<f32>(
        subgroupShuffle(a[0], l), subgroupShuffle(a[1], l), subgroupShuffle(a[2], l), subgroupShuffle(a[3], l)));
      for (var r = 0u; r < 4u; r++) { // @unroll
        for (var j = 0u; j < NB; j++) { // @unroll
          acc[(l * 4u + r) * NB + j] = multiply(t[r], b[j], acc[(l * 4u + r) * NB + j]);
        }
      }
    }
  }
  for (var i = 0u; i < TM; i += 4u) { // @unroll
    for (var j = 0u; j < NB; j++) { // @unroll
      store_block(m0 + i, n + j * LANES,
        mat4x4<f32>(acc[i * NB + j], acc[(i + 1u) * NB + j], acc[(i + 2u) * NB + j], acc[(i + 3u) * NB + j]));
    }
  }
}
