// index[0] = the first i for which x[i] is largest.
// x: [n], index: [1]. Grid: one workgroup. Each lane takes every SIZE-th number, then lanes are compared in pairs; of equal
// numbers the earlier wins, so the result is that of a loop from the front. Without a number above the lowest f32 it is 0.
struct Params { n: u32 }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read_write> index: array<u32>;

const SIZE: u32 = 256u;

var<workgroup> top: array<f32, SIZE>;
var<workgroup> place: array<u32, SIZE>;

@compute @workgroup_size(SIZE)
fn main(@builtin(local_invocation_index) lane: u32) {
  var best = -3.4028234e38;
  var at = lane;
  for (var i = lane; i < p.n; i += SIZE) {
    let v = x[i];
    if (v > best) {
      best = v;
      at = i;
    }
  }
  top[lane] = best;
  place[lane] = at;
  workgroupBarrier();
  for (var half = SIZE / 2u; half > 0u; half /= 2u) {
    if (lane < half) {
      let v = top[lane + half];
      let i = place[lane + half];
      if (v > top[lane] || (v == top[lane] && i < place[lane])) {
        top[lane] = v;
        place[lane] = i;
      }
    }
    workgroupBarrier();
  }
  if (lane == 0u) { index[0] = place[0]; }
}
