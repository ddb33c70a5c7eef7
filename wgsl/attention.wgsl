// Causal attention with documents and a sliding window, never holding the scores (Dao et al. 2022, FlashAttention).
//   o_i = sum_j p_ij v_j,  p_ij = exp(scale q_i.k_j - lse_i);  j is visible to i when j <= i, i - j < window and segments match
//   D_i = do_i.o_i,  ds_ij = scale p_ij (do_i.v_j - D_i),  dq_i = sum_j ds_ij k_j,  dk_j = sum_i ds_ij q_i,  dv_j = sum_i p_ij do_i
// q, o, dq: [B*T, heads * HEAD_DIM]; k, v, dk, dv: [B*T, kv_heads * HEAD_DIM]; stats: [B*T, heads] of (lse, D); segments: [B*T], 0 = padding.
// Grid: x blocks of LANES rows, y heads (kv heads in backward_kv), z batch. One invocation owns one row of one head and walks the
// other side in groups of STEP rows whose addresses are the same in every lane; groups with nothing visible to the block are passed by.
struct Params {
  time: u32,      // query rows of one batch element
  keys: u32,      // key rows of one batch element: `time`, or the cache's filled length
  start: u32,     // position of query row 0 among the keys
  heads: u32,
  kv_heads: u32,
  window: u32,    // keys visible at most; 0xffffffff for all
  q_base: u32,    // first vec4 of q, o, do, dq in their bindings
  kv_base: u32,   // first vec4 of k, v, dk, dv
  row_base: u32,  // first element of stats
  seg_base: u32,  // first element of segments
  scale: f32,
}
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> q: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> k: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read> v: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read> segments: array<u32>;
@group(0) @binding(5) var<storage, read_write> o: array<vec4<f32>>;
@group(0) @binding(6) var<storage, read_write> stats: array<vec2<f32>>;
@group(0) @binding(7) var<storage, read> dy: array<vec4<f32>>;
@group(0) @binding(8) var<storage, read_write> dq: array<vec4<f32>>;
@group(0) @binding(9) var<storage, read_write> dk: array<vec4<f32>>;
@group(0) @binding(10) var<storage, read_write> dv: array<vec4<f32>>;

const HEAD_DIM: u32 = 64u;
const VECS: u32 = HEAD_DIM / 4u;
const LANES: u32 = 64u;       // rows of one workgroup
const STEP: u32 = 8u;         // rows of the other side taken together
const SEGMENTED: bool = true; // false: one document, `segments` is not read
const HIDDEN = -1e30;         // a score that no sum of visible ones reaches

struct Span { low: u32, high: u32 }

// Lowest and highest document of rows [from, to); 1, 0 when all are padding.
fn documents(batch_row: u32, start: u32, to: u32) -> Span {
  var span = Span(0xffffffffu, 0u);
  for (var r = start; r < to; r++) {
    let s = segments[batch_row + r];
    span = Span(min(span.low, select(s, 0xffffffffu, s == 0u)), max(span.high, s));
  }
  return span;
}

// First row at or after `row` whose group of STEP holds a document of the span; `end` when there is none.
fn next_group(batch_row: u32, row: u32, end: u32, span: Span) -> u32 {
  var at = row;
  if (SEGMENTED) {
    loop {
      if (at >= end) { break; }
      var found = false;
      for (var t = 0u; t < STEP; t++) { // @unroll
        let s = segments[batch_row + min(at + t, end - 1u)];
        found = found || (s >= span.low && s <= span.high);
      }
      if (found) { break; }
      at += STEP;
    }
  }
  return min(at, end);
}

@compute @workgroup_size(LANES)
fn forward(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  let first = group.x * LANES;
  let last = min(first + LANES, p.time);
  let i = min(first + lane, p.time - 1u);
  let own = first + lane < p.time;
  let position = p.start + i;
  let batch_keys = p.seg_base + group.z * p.keys;
  let stride = p.kv_heads * VECS;
  let kv0 = p.kv_base + group.z * p.keys * stride + (group.y * p.kv_heads / p.heads) * VECS;
  let q0 = p.q_base + ((group.z * p.time + i) * p.heads + group.y) * VECS;
  var span = Span(1u, 1u);
  var document = 1u;
  if (SEGMENTED) {
    span = documents(batch_keys, first, last);
    document = segments[batch_keys + i];
  }
  var x: array<vec4<f32>, VECS>;
  var acc: array<vec4<f32>, VECS>;
  for (var c = 0u; c < VECS; c++) { // @unroll
    x[c] = q[q0 + c] * p.scale;
    acc[c] = vec4(0.0);
  }
  var top = HIDDEN;
  var total = 0.0;
  let end = min(p.start + last, p.keys);
  let oldest = p.start + first + 1u;
  var j0 = next_group(batch_keys, select(0u, oldest - p.window, oldest > p.window), end, span);
  loop {
    if (j0 >= end) { break; }
    var s: array<f32, STEP>;
    var seen: array<bool, STEP>;
    var at: array<u32, STEP>;
    for (var t = 0u; t < STEP; t++) { // @unroll
      at[t] = kv0 + min(j0 + t, end - 1u) * stride;
      s[t] = 0.0;
      seen[t] = j0 + t <= position && position - (j0 + t) < p.window && j0 + t < end;
      if (SEGMENTED) { seen[t] = seen[t] && document != 0u && segments[batch_keys + min(j0 + t, end - 1u)] == document; }
    }
    for (var c = 0u; c < VECS; c++) { // @unroll
      for (var t = 0u; t < STEP; t++) { // @unroll
        s[t] += dot(x[c], k[at[t] + c]);
      }
    }
    var higher = top;
    for (var t = 0u; t < STEP; t++) { // @unroll
      s[t] = select(HIDDEN, s[t], seen[t]);
      higher = max(higher, s[t]);
    }
    let shrink = exp(top - higher);
    top = higher;
    total *= shrink;
    for (var t = 0u; t < STEP; t++) { // @unroll
      s[t] = select(0.0, exp(s[t] - top), seen[t]);
      total += s[t];
    }
    for (var c = 0u; c < VECS; c++) { // @unroll
      var a = acc[c] * shrink;
      for (var t = 0u; t < STEP; t++) { // @unroll
        a += s[t] * v[at[t] + c];
      }
      acc[c] = a;
    }
    j0 = next_group(batch_keys, j0 + STEP, end, span);
  }
  if (own) {
    let share = select(0.0, 1.0 / total, total > 0.0);
    for (var c = 0u; c < VECS; c++) { // @unroll
      o[q0 + c] = acc[c] * share;
    }
    stats[p.row_base + (group.z * p.time + i) * p.heads + group.y].x = select(0.0, top + log(total), total > 0.0);
  }
}

// D = rowsum(dy * o) a head; x counts rows, y heads, z batch as in forward.
@compute @workgroup_size(LANES)
fn backward_delta(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  let i = group.x * LANES + lane;
  if (i >= p.time) { return; }
  let row = (group.z * p.time + i) * p.heads + group.y;
  let q0 = p.q_base + row * VECS;
  var sum = 0.0;
  for (var c = 0u; c < VECS; c++) { // @unroll
    sum += dot(dy[q0 + c], o[q0 + c]);
  }
  stats[p.row_base + row].y = sum;
}

@compute @workgroup_size(LANES)
fn backward_q(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  let first = group.x * LANES;
  let last = min(first + LANES, p.time);
  let i = min(first + lane, p.time - 1u);
  let own = first + lane < p.time;
  let batch_row = p.seg_base + group.z * p.time;
  let stride = p.kv_heads * VECS;
  let kv0 = p.kv_base + group.z * p.time * stride + (group.y * p.kv_heads / p.heads) * VECS;
  let row = (group.z * p.time + i) * p.heads + group.y;
  let q0 = p.q_base + row * VECS;
  let span = documents(batch_row, first, last);
  let document = segments[batch_row + i];
  let own_stats = stats[p.row_base + row];
  var x: array<vec4<f32>, VECS>;
  var g: array<vec4<f32>, VECS>;
  var acc: array<vec4<f32>, VECS>;
  for (var c = 0u; c < VECS; c++) { // @unroll
    x[c] = q[q0 + c] * p.scale;
    g[c] = dy[q0 + c];
    acc[c] = vec4(0.0);
  }
  let oldest = first + 1u;
  var j0 = next_group(batch_row, select(0u, oldest - p.window, oldest > p.window), last, span);
  loop {
    if (j0 >= last) { break; }
    var s: array<f32, STEP>;
    var dp: array<f32, STEP>;
    var at: array<u32, STEP>;
    for (var t = 0u; t < STEP; t++) { // @unroll
      at[t] = kv0 + min(j0 + t, last - 1u) * stride;
      s[t] = 0.0;
      dp[t] = 0.0;
    }
    for (var c = 0u; c < VECS; c++) { // @unroll
      for (var t = 0u; t < STEP; t++) { // @unroll
        s[t] += dot(x[c], k[at[t] + c]);
        dp[t] += dot(g[c], v[at[t] + c]);
      }
    }
    for (var t = 0u; t < STEP; t++) { // @unroll
      let j = j0 + t;
      let seen = j <= i && i - j < p.window && document != 0u && segments[batch_row + min(j, last - 1u)] == document;
      s[t] = select(0.0, exp(s[t] - own_stats.x) * (dp[t] - own_stats.y) * p.scale, seen);
    }
    for (var c = 0u; c < VECS; c++) { // @unroll
      var a = acc[c];
      for (var t = 0u; t < STEP; t++) { // @unroll
        a += s[t] * k[at[t] + c];
      }
      acc[c] = a;
    }
    j0 = next_group(batch_row, j0 + STEP, last, span);
  }
  if (own) {
    for (var c = 0u; c < VECS; c++) { // @unroll
      dq[q0 + c] = acc[c];
    }
  }
}

// The group's query heads are summed in order inside the invocation, so no atomics and the same bits every time.
@compute @workgroup_size(LANES)
fn backward_kv(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  let first = group.x * LANES;
  let last = min(first + LANES, p.time);
  let j = min(first + lane, p.time - 1u);
  let own = first + lane < p.time;
  let batch_row = p.seg_base + group.z * p.time;
  let stride = p.heads * VECS;
  let kv0 = p.kv_base + ((group.z * p.time + j) * p.kv_heads + group.y) * VECS;
  let span = documents(batch_row, first, last);
  let document = segments[batch_row + j];
  let each = p.heads / p.kv_heads;
  // saturated, since the window may be all ones
  let end = select(p.time, min(p.time, last - 1u + p.window), p.window < p.time);
  var x: array<vec4<f32>, VECS>;
  var w: array<vec4<f32>, VECS>;
  var acc_k: array<vec4<f32>, VECS>;
  var acc_v: array<vec4<f32>, VECS>;
  for (var c = 0u; c < VECS; c++) { // @unroll
    x[c] = k[kv0 + c] * p.scale;
    w[c] = v[kv0 + c];
    acc_k[c] = vec4(0.0);
    acc_v[c] = vec4(0.0);
  }
  for (var h = group.y * each; h < (group.y + 1u) * each; h++) {
    let q0 = p.q_base + (group.z * p.time * p.heads + h) * VECS;
    let row0 = p.row_base + group.z * p.time * p.heads + h;
    var i0 = next_group(batch_row, first, end, span);
    loop {
      if (i0 >= end) { break; }
      var s: array<f32, STEP>;
      var dp: array<f32, STEP>;
      var at: array<u32, STEP>;
      for (var t = 0u; t < STEP; t++) { // @unroll
        at[t] = q0 + min(i0 + t, end - 1u) * stride;
        s[t] = 0.0;
        dp[t] = 0.0;
      }
      for (var c = 0u; c < VECS; c++) { // @unroll
        for (var t = 0u; t < STEP; t++) { // @unroll
          s[t] += dot(x[c], q[at[t] + c]);
          dp[t] += dot(w[c], dy[at[t] + c]);
        }
      }
      for (var t = 0u; t < STEP; t++) { // @unroll
        let i = min(i0 + t, end - 1u);
        let seen = i0 + t < end && j <= i && i - j < p.window && document != 0u && segments[batch_row + i] == document;
        let row = stats[row0 + i * p.heads];
        let weight = select(0.0, exp(s[t] - row.x), seen);
        dp[t] = weight * (dp[t] - row.y) * p.scale;
        s[t] = weight;
      }
      for (var c = 0u; c < VECS; c++) { // @unroll
        var a = acc_k[c];
        var b = acc_v[c];
        for (var t = 0u; t < STEP; t++) { // @unroll
          a += dp[t] * q[at[t] + c];
          b += s[t] * dy[at[t] + c];
        }
        acc_k[c] = a;
        acc_v[c] = b;
      }
      i0 = next_group(batch_row, i0 + STEP, end, span);
    }
  }
  if (own) {
    for (var c = 0u; c < VECS; c++) { // @unroll
      dk[kv0 + c] = acc_k[c];
      dv[kv0 + c] = acc_v[c];
    }
  }
}
