// Causal attention with documents and a sliding window, never holding the scores (Dao et al. 2022, FlashAttention).
//   o_i = sum_j p_ij v_j,  p_ij = exp(scale q_i.k_j - lse_i);  j is visible to i when j <= i, i - j < window and segments match
//   D_i = do_i.o_i,  ds_ij = scale p_ij (do_i.v_j - D_i),  dq_i = sum_j ds_ij k_j,  dk_j = sum_i ds_ij q_i,  dv_j = sum_i p_ij do_i
// q, o, dq: [B*T, heads * HEAD_DIM]; k, v, dk, dv: [B*T, kv_heads * HEAD_DIM]; stats: [B*T, heads] of (lse, D); segments: [B*T], 0 = padding.
// Grid: x blocks of BLOCK rows, y heads times batch in parts of HEAD_LANES (kv heads in backward_kv). One invocation owns ROWS rows of one
// head in registers and walks the other side in groups of STEP rows, loaded once for all ROWS; groups that hold no document of its own rows
// are passed by. GPUs take HEAD_LANES 1, so that all lanes load the same address; a CPU gains from many ROWS and few lanes.
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
const ROWS: u32 = 1u;         // rows of one invocation
const ROW_LANES: u32 = 64u;   // invocations along the rows
const HEAD_LANES: u32 = 1u;   // invocations along heads and batch
const STEP: u32 = 4u;         // rows of the other side taken together
const SEGMENTED: bool = true; // false: one document, `segments` is not read
const LANES: u32 = ROW_LANES * HEAD_LANES;
const BLOCK: u32 = ROW_LANES * ROWS;
const HIDDEN = -1e30;         // a score that no sum of visible ones reaches

// What an invocation works on. Rows beyond the end repeat the last one and are not written.
struct Place { batch: u32, head: u32, row: u32, first: u32, last: u32, own: bool }

fn place(group: vec3<u32>, lane: u32, heads: u32, rows: u32) -> Place {
  let n = group.y * HEAD_LANES + lane % HEAD_LANES;
  let end = heads * p.batch;
  let at = min(n, end - 1u);
  let first = group.x * BLOCK;
  return Place(at / heads, at % heads, first + lane / HEAD_LANES * ROWS, first, min(first + BLOCK, rows), n < end);
}

struct Span { low: u32, high: u32 }

// Lowest and highest document of rows [from, to), padding left out; low > high when there is none.
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
  let me = place(group, lane, p.heads, p.time);
  let batch_keys = p.seg_base + me.batch * p.keys;
  let stride = p.kv_heads * VECS;
  let kv0 = p.kv_base + me.batch * p.keys * stride + (me.head * p.kv_heads / p.heads) * VECS;
  var span = Span(1u, 1u);
  if (SEGMENTED) { span = documents(batch_keys, me.first, me.last); }
  var x: array<vec4<f32>, ROWS * VECS>;
  var acc: array<vec4<f32>, ROWS * VECS>;
  var top: array<f32, ROWS>;
  var total: array<f32, ROWS>;
  var document: array<u32, ROWS>;
  var q0: array<u32, ROWS>;
  for (var r = 0u; r < ROWS; r++) { // @unroll
    let i = min(me.row + r, p.time - 1u);
    q0[r] = p.q_base + ((me.batch * p.time + i) * p.heads + me.head) * VECS;
    for (var c = 0u; c < VECS; c++) { // @unroll
      x[r * VECS + c] = q[q0[r] + c] * p.scale;
      acc[r * VECS + c] = vec4(0.0);
    }
    top[r] = HIDDEN;
    total[r] = 0.0;
    document[r] = 1u;
    if (SEGMENTED) { document[r] = segments[batch_keys + i]; }
  }
  let position = p.start + me.row;
  let end = min(p.start + me.last, p.keys);
  let oldest = p.start + me.first + 1u;
  var j0 = next_group(batch_keys, select(0u, oldest - p.window, oldest > p.window), end, span);
  loop {
    if (j0 >= end) { break; }
    var s: array<f32, ROWS * STEP>;
    var at: array<u32, STEP>;
    for (var t = 0u; t < STEP; t++) { // @unroll
      at[t] = kv0 + min(j0 + t, end - 1u) * stride;
      for (var r = 0u; r < ROWS; r++) { // @unroll
        s[r * STEP + t] = 0.0;
      }
    }
    for (var c = 0u; c < VECS; c++) { // @unroll
      for (var t = 0u; t < STEP; t++) { // @unroll
        let y = k[at[t] + c];
        for (var r = 0u; r < ROWS; r++) { // @unroll
          s[r * STEP + t] += dot(x[r * VECS + c], y);
        }
      }
    }
    for (var r = 0u; r < ROWS; r++) { // @unroll
      var seen: array<bool, STEP>;
      var higher = top[r];
      for (var t = 0u; t < STEP; t++) { // @unroll
        let j = j0 + t;
        seen[t] = j <= position + r && position + r - j < p.window && j < end;
        if (SEGMENTED) {
          seen[t] = seen[t] && document[r] != 0u && segments[batch_keys + min(j, end - 1u)] == document[r];
        }
        higher = max(higher, select(HIDDEN, s[r * STEP + t], seen[t]));
      }
      let shrink = exp(top[r] - higher);
      top[r] = higher;
      total[r] *= shrink;
      for (var t = 0u; t < STEP; t++) { // @unroll
        s[r * STEP + t] = select(0.0, exp(s[r * STEP + t] - higher), seen[t]);
        total[r] += s[r * STEP + t];
      }
      for (var c = 0u; c < VECS; c++) { // @unroll
        acc[r * VECS + c] *= shrink;
      }
    }
    for (var c = 0u; c < VECS; c++) { // @unroll
      for (var t = 0u; t < STEP; t++) { // @unroll
        let y = v[at[t] + c];
        for (var r = 0u; r < ROWS; r++) { // @unroll
          acc[r * VECS + c] += s[r * STEP + t] * y;
        }
      }
    }
    j0 = next_group(batch_keys, j0 + STEP, end, span);
  }
  for (var r = 0u; r < ROWS; r++) { // @unroll
    if (me.own && me.row + r < p.time) {
      let share = select(0.0, 1.0 / total[r], total[r] > 0.0);
      for (var c = 0u; c < VECS; c++) { // @unroll
        o[q0[r] + c] = acc[r * VECS + c] * share;
      }
      let row = p.row_base + (me.batch * p.time + me.row + r) * p.heads + me.head;
      stats[row].x = select(0.0, top[r] + log(total[r]), total[r] > 0.0);
    }
  }
}

// D = rowsum(dy * o) a head; ROWS is 1.
@compute @workgroup_size(LANES)
fn backward_delta(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  let me = place(group, lane, p.heads, p.time);
  if (!me.own || me.row >= p.time) { return; }
  let row = (me.batch * p.time + me.row) * p.heads + me.head;
  let q0 = p.q_base + row * VECS;
  var sum = 0.0;
  for (var c = 0u; c < VECS; c++) { // @unroll
    sum += dot(dy[q0 + c], o[q0 + c]);
  }
  stats[p.row_base + row].y = sum;
}

@compute @workgroup_size(LANES)
fn backward_q(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  let me = place(group, lane, p.heads, p.time);
  let batch_row = p.seg_base + me.batch * p.time;
  let stride = p.kv_heads * VECS;
  let kv0 = p.kv_base + me.batch * p.time * stride + (me.head * p.kv_heads / p.heads) * VECS;
  let span = documents(batch_row, me.first, me.last);
  var x: array<vec4<f32>, ROWS * VECS>;
  var g: array<vec4<f32>, ROWS * VECS>;
  var acc: array<vec4<f32>, ROWS * VECS>;
  var own: array<vec2<f32>, ROWS>;
  var document: array<u32, ROWS>;
  var q0: array<u32, ROWS>;
  for (var r = 0u; r < ROWS; r++) { // @unroll
    let i = min(me.row + r, p.time - 1u);
    let row = (me.batch * p.time + i) * p.heads + me.head;
    q0[r] = p.q_base + row * VECS;
    own[r] = stats[p.row_base + row];
    document[r] = segments[batch_row + i];
    for (var c = 0u; c < VECS; c++) { // @unroll
      x[r * VECS + c] = q[q0[r] + c] * p.scale;
      g[r * VECS + c] = dy[q0[r] + c];
      acc[r * VECS + c] = vec4(0.0);
    }
  }
  let oldest = me.first + 1u;
  var j0 = next_group(batch_row, select(0u, oldest - p.window, oldest > p.window), me.last, span);
  loop {
    if (j0 >= me.last) { break; }
    var s: array<f32, ROWS * STEP>;
    var dp: array<f32, ROWS * STEP>;
    var at: array<u32, STEP>;
    for (var t = 0u; t < STEP; t++) { // @unroll
      at[t] = kv0 + min(j0 + t, me.last - 1u) * stride;
      for (var r = 0u; r < ROWS; r++) { // @unroll
        s[r * STEP + t] = 0.0;
        dp[r * STEP + t] = 0.0;
      }
    }
    for (var c = 0u; c < VECS; c++) { // @unroll
      for (var t = 0u; t < STEP; t++) { // @unroll
        let y = k[at[t] + c];
        let z = v[at[t] + c];
        for (var r = 0u; r < ROWS; r++) { // @unroll
          s[r * STEP + t] += dot(x[r * VECS + c], y);
          dp[r * STEP + t] += dot(g[r * VECS + c], z);
        }
      }
    }
    for (var t = 0u; t < STEP; t++) { // @unroll
      let j = j0 + t;
      let theirs = segments[batch_row + min(j, me.last - 1u)];
      for (var r = 0u; r < ROWS; r++) { // @unroll
        let i = me.row + r;
        let seen = j <= i && i - j < p.window && document[r] != 0u && theirs == document[r];
        let ds = exp(s[r * STEP + t] - own[r].x) * (dp[r * STEP + t] - own[r].y) * p.scale;
        s[r * STEP + t] = select(0.0, ds, seen);
      }
    }
    for (var c = 0u; c < VECS; c++) { // @unroll
      for (var t = 0u; t < STEP; t++) { // @unroll
        let y = k[at[t] + c];
        for (var r = 0u; r < ROWS; r++) { // @unroll
          acc[r * VECS + c] += s[r * STEP + t] * y;
        }
      }
    }
    j0 = next_group(batch_row, j0 + STEP, me.last, span);
  }
  for (var r = 0u; r < ROWS; r++) { // @unroll
    if (me.own && me.row + r < p.time) {
      for (var c = 0u; c < VECS; c++) { // @unroll
        dq[q0[r] + c] = acc[r * VECS + c];
      }
    }
  }
}

// The group's query heads are summed in order inside the invocation, so no atomics and the same bits every time.
@compute @workgroup_size(LANES)
fn backward_kv(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  let me = place(group, lane, p.kv_heads, p.time);
  let batch_row = p.seg_base + me.batch * p.time;
  let stride = p.heads * VECS;
  let span = documents(batch_row, me.first, me.last);
  let each = p.heads / p.kv_heads;
  // the window may be all ones
  let end = select(p.time, min(p.time, me.last - 1u + p.window), p.window < p.time);
  var x: array<vec4<f32>, ROWS * VECS>;
  var w: array<vec4<f32>, ROWS * VECS>;
  var acc_k: array<vec4<f32>, ROWS * VECS>;
  var acc_v: array<vec4<f32>, ROWS * VECS>;
  var document: array<u32, ROWS>;
  var kv0: array<u32, ROWS>;
  for (var r = 0u; r < ROWS; r++) { // @unroll
    let j = min(me.row + r, p.time - 1u);
    kv0[r] = p.kv_base + ((me.batch * p.time + j) * p.kv_heads + me.head) * VECS;
    document[r] = segments[batch_row + j];
    for (var c = 0u; c < VECS; c++) { // @unroll
      x[r * VECS + c] = k[kv0[r] + c] * p.scale;
      w[r * VECS + c] = v[kv0[r] + c];
      acc_k[r * VECS + c] = vec4(0.0);
      acc_v[r * VECS + c] = vec4(0.0);
    }
  }
  for (var h = me.head * each + p.h_from; h < me.head * each + p.h_to; h++) {
    let q0 = p.q_base + (me.batch * p.time * p.heads + h) * VECS;
    let row0 = p.row_base + me.batch * p.time * p.heads + h;
    var i0 = next_group(batch_row, me.first, end, span);
    loop {
      if (i0 >= end) { break; }
      var s: array<f32, ROWS * STEP>;
      var dp: array<f32, ROWS * STEP>;
      var at: array<u32, STEP>;
      for (var t = 0u; t < STEP; t++) { // @unroll
        at[t] = q0 + min(i0 + t, end - 1u) * stride;
        for (var r = 0u; r < ROWS; r++) { // @unroll
          s[r * STEP + t] = 0.0;
          dp[r * STEP + t] = 0.0;
        }
      }
      for (var c = 0u; c < VECS; c++) { // @unroll
        for (var t = 0u; t < STEP; t++) { // @unroll
          let y = q[at[t] + c];
          let z = dy[at[t] + c];
          for (var r = 0u; r < ROWS; r++) { // @unroll
            s[r * STEP + t] += dot(x[r * VECS + c], y);
            dp[r * STEP + t] += dot(w[r * VECS + c], z);
          }
        }
      }
      for (var t = 0u; t < STEP; t++) { // @unroll
        let i = min(i0 + t, end - 1u);
        let theirs = segments[batch_row + i];
        let row = stats[row0 + i * p.heads];
        for (var r = 0u; r < ROWS; r++) { // @unroll
          let j = me.row + r;
          let seen = i0 + t < end && j <= i && i - j < p.window && document[r] != 0u && theirs == document[r];
          let weight = select(0.0, exp(s[r * STEP + t] - row.x), seen);
          dp[r * STEP + t] = weight * (dp[r * STEP + t] - row.y) * p.scale;
          s[r * STEP + t] = weight;
        }
      }
      for (var c = 0u; c < VECS; c++) { // @unroll
        for (var t = 0u; t < STEP; t++) { // @unroll
          let y = q[at[t] + c];
          let z = dy[at[t] + c];
          for (var r = 0u; r < ROWS; r++) { // @unroll
            acc_k[r * VECS + c] += dp[r * STEP + t] * y;
            acc_v[r * VECS + c] += s[r * STEP + t] * z;
          }
        }
      }
      i0 = next_group(batch_row, i0 + STEP, end, span);
    }
  }
  for (var r = 0u; r < ROWS; r++) { // @unroll
    if (me.own && me.row + r < p.time) {
      for (var c = 0u; c < VECS; c++) { // @unroll
        let at = kv0[r] + c;
        dk[at] = select(dk[at], vec4(0.0), p.h_from == 0u) + acc_k[r * VECS + c];
        dv[at] = select(dv[at], vec4(0.0), p.h_from == 0u) + acc_v[r * VECS + c];
      }
    }
  }
}
