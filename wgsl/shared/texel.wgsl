// Where texel i of an operand lies that was copied into a texture: row after row of `WIDTH` texels
// (lib/tensor/ops/matmul_texture.ts).
fn texel(i: u32) -> vec2<u32> { return vec2<u32>(i & 2047u, i >> 11u); }
