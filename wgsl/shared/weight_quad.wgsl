// Four neighbours of a weight as f32: w is array<W>.
alias W = vec4<u32>;     // vec2<u32> where w is stored in 16 bits
const W_KIND: u32 = 0u;  // 0 f32, 1 f16, 2 bf16
const HIGH: u32 = 2u;    // 0 where w is stored in 16 bits

fn load_w(i: u32) -> vec4<f32> {
  let v = w[i];
  if (W_KIND == 0u) { return bitcast<vec4<f32>>(vec4<u32>(v.xy, v[HIGH], v[HIGH + 1u])); }
  if (W_KIND == 1u) { return vec4<f32>(unpack2x16float(v.x), unpack2x16float(v.y)); }
  return bitcast<vec4<f32>>(vec4<u32>(v.x << 16u, v.x & 0xffff0000u, v.y << 16u, v.y & 0xffff0000u));
}
