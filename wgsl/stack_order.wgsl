// Codes and scales of a 4-bit weight in the order in which gemv_4bit_texture.wgsl reads them, so that its lanes find what
// they need side by side: of a workgroup (OUT columns of y a lane), column after column of texels, the ROWS rows of a lane.
// words: [rows, texels]; scales: one a block; codes, ordered: textures, texel i at (i % 2048, i / 2048), the scales of a
// lane's rows in one texel for each GROUP texels of codes.
// Grid: one invocation a texel.
struct Params {
  texels: u32,  // of a row
  n: u32,       // columns of y
  count: u32,   // texels to write
  row: u32,     // invocations in one grid row
}
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> words: array<vec4<u32>>;
@group(0) @binding(2) var<storage, read> scales: array<f32>;
@group(0) @binding(3) var codes: texture_storage_2d<rgba32uint, write>;
@group(0) @binding(4) var ordered: texture_storage_2d<rgba32float, write>;

const LANES: u32 = 8u;
const ROWS: u32 = 4u;
const OUT: u32 = 4u;
const GROUP: u32 = 2u;
const BLOCK: u32 = 64u;

fn row_of(group: u32, r: u32, lane: u32) -> u32 {
  return min((group * OUT + r % OUT) * LANES + lane, p.n - 1u) + (r / OUT) * p.n;
}

@compute @workgroup_size(64)
fn order_codes(@builtin(global_invocation_id) id: vec3<u32>) {
  let i = id.y * p.row + id.x;
  if (i >= p.count) { return; }
  let at = i / (LANES * ROWS);
  let row = row_of(at / p.texels, i / LANES % ROWS, i % LANES);
  textureStore(codes, texel(i), words[row * p.texels + at % p.texels]);
}

@compute @workgroup_size(64)
fn order_scales(@builtin(global_invocation_id) id: vec3<u32>) {
  let i = id.y * p.row + id.x;
  if (i >= p.count) { return; }
  let at = i / LANES;
  let steps = p.texels / GROUP;
  var s: array<f32, 4>;
  for (var r = 0u; r < ROWS; r++) { // @unroll
    let first = row_of(at / steps, r, i % LANES) * p.texels + at % steps * GROUP;
    s[r] = scales[first / (BLOCK / 32u)];
  }
  textureStore(ordered, texel(i), vec4(s[0], s[1], s[2], s[3]));
}
