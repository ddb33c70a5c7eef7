// 1 / v, rounded to nearest, from v's bits: 2^47 divided by its 24-bit significand, bit by bit, because WGSL's division may
// be off by 2.5 ulp and a code would flip. 0 for what has no normal inverse.
fn reciprocal(bits: u32) -> f32 {
  let exponent = bits >> 23u;
  if (exponent == 0u || exponent > 252u) { return 0.0; }
  let m = (bits & 0x7fffffu) | 0x800000u;
  if (m == 0x800000u) { return bitcast<f32>((254u - exponent) << 23u); }
  var r = 0x800000u;
  var q = 0u;
  for (var i = 0u; i < 24u; i++) {
    r = r << 1u;
    q = q << 1u;
    if (r >= m) { r -= m; q |= 1u; }
  }
  if (2u * r > m) { q += 1u; }
  return bitcast<f32>(((253u - exponent) << 23u) | (q & 0x7fffffu));
}
