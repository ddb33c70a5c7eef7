// o_m = softmax(scale q_m.k_j) v_j over a key-value cache, j <= start + m and start + m - j < window; for few query rows.
// q, o: [M, heads * HEAD_DIM]; k, v: [capacity, kv_heads * HEAD_DIM].
// Grid: x heads, y query rows. A workgroup takes 64 keys at a time: one lane scores one key, then each lane sums
// its own four channels of v over them. Keys beyond the row's position are never read.
struct Params {
  start: u32,     // position of query row 0
  heads: u32,
  kv_heads: u32,
  window: u32,    // keys visible at most; 0xffffffff for all
  scale: f32,
}
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> q: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> k: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read> v: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read_write> o: array<vec4<f32>>;

const HEAD_DIM: u32 = 64u;
const VECS: u32 = HEAD_DIM / 4u;
const SIZE: u32 = 64u;
const HIDDEN = -1e30;

var<workgroup> score: array<f32, SIZE>;
var<workgroup> part: array<vec4<f32>, SIZE>;

@compute @workgroup_size(SIZE)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  let end = p.start + group.y + 1u;
  let begin = select(0u, end - p.window, end > p.window);
  let q0 = (group.y * p.heads + group.x) * VECS;
  let stride = p.kv_heads * VECS;
  let kv0 = (group.x * p.kv_heads / p.heads) * VECS;
  // lanes split into VECS channels times SHARES parts of the keys, so that small heads keep all lanes busy
  let shares = SIZE / VECS;
  let channel = lane % VECS;
  let share = lane / VECS;
  var acc = vec4(0.0);
  var top = HIDDEN;
  var total = 0.0;
  for (var j0 = begin; j0 < end; j0 += SIZE) {
    let count = min(SIZE, end - j0);
    var s = HIDDEN;
    if (lane < count) {
      let at = kv0 + (j0 + lane) * stride;
      var sum = vec4(0.0);
      for (var c = 0u; c < VECS; c++) { // @unroll
        sum += q[q0 + c] * k[at + c];
      }
      s = (sum.x + sum.y + sum.z + sum.w) * p.scale;
    }
    score[lane] = s;
    workgroupBarrier();
    var higher = top;
    for (var t = 0u; t < count; t++) { higher = max(higher, score[t]); }
    workgroupBarrier();
    score[lane] = select(0.0, exp(s - higher), lane < count);
    workgroupBarrier();
    let shrink = exp(top - higher);
    top = higher;
    acc *= shrink;
    total *= shrink;
    for (var t = 0u; t < count; t++) { total += score[t]; }
    if (share < shares) {
      for (var t = share; t < count; t += shares) {
        acc += score[t] * v[kv0 + (j0 + t) * stride + channel];
      }
    }
    workgroupBarrier();
  }
  part[lane] = acc;
  workgroupBarrier();
  if (lane < VECS) {
    var sum = part[lane];
    for (var t = 1u; t < shares; t++) { sum += part[t * VECS + lane]; }
    o[q0 + lane] = sum / total;
  }
}
