// One element of a weight as f32: w is array<W>.
alias W = f32;           // u32 where w is stored in 16 bits, two to a word
const W_KIND: u32 = 0u;  // 0 f32, 1 f16, 2 bf16

fn load_w(i: u32) -> f32 {
  if (W_KIND == 0u) { return f32(w[i]); }
  let word = u32(w[i / 2u]);
  if (W_KIND == 1u) { let both = unpack2x16float(word); return select(both.x, both.y, (i & 1u) == 1u); }
  return bitcast<f32>(select(word << 16u, word & 0xffff0000u, (i & 1u) == 1u));
}
