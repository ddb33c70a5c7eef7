// Codes of COUNT columns chosen anew, one column after the other: of element j's 16 values the one nearest to
// x[j] + g[j] / C[j, j], after which g -= (q[j] - x[j]) C[j]. x is q before, or with AHEAD q before + error, the weight.
// words, absmax, scales, map: as in dequantize_4bit.wgsl. g, error: [rows, width]. c: [width, width].
// change: [rows, COUNT], q - x. Grid: one invocation a row; columns are multiples of 8, so a word is of one row.
struct Params {
  rows: u32,
  row: u32,      // invocations in one grid row
  columns: u32,  // of the whole weight
  first: u32,    // column of the weight at which these begin
  width: u32,    // columns of c and g
  at: u32,       // column of c and g at which these begin
}
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read_write> words: array<u32>;
@group(0) @binding(2) var<storage, read> absmax: array<u32>;
@group(0) @binding(3) var<storage, read> scales: array<f32>;
@group(0) @binding(4) var<storage, read> map: array<f32>;
@group(0) @binding(5) var<storage, read> g: array<f32>;
@group(0) @binding(6) var<storage, read> c: array<f32>;
@group(0) @binding(7) var<storage, read_write> change: array<f32>;
@group(0) @binding(8) var<storage, read> error: array<f32>;

const COUNT: u32 = 64u;
const AHEAD: bool = false;
const BLOCK: u32 = 64u;

fn scale_of(element: u32) -> f32 { return block_scale(element / BLOCK, 0u); }

fn nearest(v: f32) -> u32 {
  var best = 0u;
  var least = abs(v - C0);
  for (var code = 1u; code < 16u; code++) { // @unroll
    let distance = abs(v - decode(code));
    best = select(best, code, distance < least);
    least = min(least, distance);
  }
  return best;
}

@compute @workgroup_size(64)
fn refine(@builtin(global_invocation_id) id: vec3<u32>) {
  let r = id.y * p.row + id.x;
  if (r >= p.rows) { return; }
  var slope: array<f32, COUNT>;
  for (var j = 0u; j < COUNT; j++) { slope[j] = g[r * p.width + p.at + j]; }
  for (var word = 0u; word < COUNT / 8u; word++) {
    let element = r * p.columns + p.first + 8u * word;
    let s = scale_of(element);
    let before = words[element / 8u];
    var after = 0u;
    for (var k = 0u; k < 8u; k++) {
      let j = 8u * word + k;
      let shift = 4u * (k ^ 1u);
      let line = (p.at + j) * p.width + p.at;
      let own = c[line + j];
      var code = (before >> shift) & 15u;
      var x = s * decode(code);
      if (AHEAD) { x += error[r * p.width + p.at + j]; }
      // without an input, or in a block of zeros, any code is as good
      if (own > 0.0 && s > 0.0) { code = nearest((x + slope[j] / own) / s); }
      let d = s * decode(code) - x;
      after |= code << shift;
      change[r * COUNT + j] = d;
      if (d != 0.0) {
        for (var m = j + 1u; m < COUNT; m++) { slope[m] -= d * c[line + m]; }
      }
    }
    words[element / 8u] = after;
  }
}
