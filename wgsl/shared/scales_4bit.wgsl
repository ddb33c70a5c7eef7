// Scales of blocks of 4-bit codes. absmax: one f32 a block, or with NESTED (double quantization, Dettmers et al. 2023, section
// 3) one byte, four a word, that stands for map[q] * scales[1 + block / 256] + scales[0]. The kernel's file declares the three.
const NESTED: bool = false;

// first: number of the scale (NESTED: of the group of four) that absmax[0] is
fn block_scale(block: u32, first: u32) -> f32 {
  if (NESTED) {
    let q = (absmax[block / 4u - first] >> (8u * (block % 4u))) & 255u;
    return map[q] * scales[1u + block / 256u] + scales[0];
  }
  return bitcast<f32>(absmax[block - first]);
}
