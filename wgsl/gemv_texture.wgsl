// y = alpha * x w^T (+ y) for a few rows of x, on processors that run WGSL in vector lanes (llvmpipe): w is copied into a
// texture, whose loads are gathered for all lanes at once, while storage buffers are read lane by lane.
// x: [M, K] as four f32 a texel; w: [N, K] as 16 bytes a texel, which hold four f32, or eight f16 or bf16; texel i lies at
// (i % 2048, i / 2048). y: [M, ldy] in vec4.
// Grid: x over N / (4 LANES QUADS). One lane: QUADS times 4 columns of y, LANES apart, for all M rows.
struct Params {
  N: u32,
  texels: u32,        // of a row of w
  y0: u32, ldy: u32,  // first vec4 of y and vec4 of a row
  alpha: f32,
}
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var x: texture_storage_2d<rgba32float, read>;
@group(0) @binding(2) var w: texture_storage_2d<rgba32uint, read>;
@group(0) @binding(3) var<storage, read_write> y: array<vec4<f32>>;

const W_KIND: u32 = 0u;       // 0 f32, 1 f16, 2 bf16
const HALVES: u32 = 1u;       // texels of x that go with one of w: 1 for f32, else 2
const ACCUMULATE: bool = false;
const LANES: u32 = 8u;
const M: u32 = 1u;
const QUADS: u32 = 2u;
const ACC: u32 = M * QUADS;
const MX: u32 = M * HALVES;

// elements 4h .. 4h + 3 of a texel of w
fn unpack(v: vec4<u32>, h: u32) -> vec4<f32> {
  if (W_KIND == 0u) { return bitcast<vec4<f32>>(v); }
  var two = v.xy;
  if (h == 1u) { two = v.zw; }
  if (W_KIND == 1u) { return vec4<f32>(unpack2x16float(two.x), unpack2x16float(two.y)); }
  return bitcast<vec4<f32>>(vec4<u32>(two.x << 16u, two.x & 0xffff0000u, two.y << 16u, two.y & 0xffff0000u));
}

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  let n = group.x * LANES * QUADS + lane;
  var acc: array<vec4<f32>, ACC>;
  var a: array<vec4<f32>, MX>;
  for (var k = 0u; k < p.texels; k++) {
    for (var m = 0u; m < M; m++) { // @unroll
      for (var h = 0u; h < HALVES; h++) { // @unroll
        a[m * HALVES + h] = textureLoad(x, texel((m * p.texels + k) * HALVES + h));
      }
    }
    for (var q = 0u; q < QUADS; q++) { // @unroll
      let i = 4u * (n + q * LANES) * p.texels + k;
      let w0 = textureLoad(w, texel(i));
      let w1 = textureLoad(w, texel(i + p.texels));
      let w2 = textureLoad(w, texel(i + 2u * p.texels));
      let w3 = textureLoad(w, texel(i + 3u * p.texels));
      for (var h = 0u; h < HALVES; h++) { // @unroll
        let b = transpose(mat4x4<f32>(unpack(w0, h), unpack(w1, h), unpack(w2, h), unpack(w3, h)));
        for (var m = 0u; m < M; m++) { // @unroll
          let u = a[m * HALVES + h];
          acc[m * QUADS + q] = fma(vec4(u.w), b[3], fma(vec4(u.z), b[2],
            fma(vec4(u.y), b[1], fma(vec4(u.x), b[0], acc[m * QUADS + q]))));
        }
      }
    }
  }
  for (var m = 0u; m < M; m++) { // @unroll
    for (var q = 0u; q < QUADS; q++) { // @unroll
      if (4u * (n + q * LANES) < p.N) {
        let at = p.y0 + m * p.ldy + n + q * LANES;
        var v = p.alpha * acc[m * QUADS + q];
        if (ACCUMULATE) { v += y[at]; }
        y[at] = v;
      }
    }
  }
}
