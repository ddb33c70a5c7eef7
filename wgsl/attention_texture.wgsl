// attention.wgsl on processors that run WGSL in vector lanes (llvmpipe): q, k, v and dy come through textures, whose loads are
// gathered for all lanes at once (storage buffers are read lane by lane), texel i at (i % 2048, i / 2048).
// Formulas and shapes: as there. A workgroup is one subgroup. Grid: x blocks of LANES * ROW_BLOCKS rows, y kv heads times
// batch. A lane owns ROW_BLOCKS rows, LANES apart: of keys in backward_kv, of queries elsewhere, where the rows of all query
// heads of a kv head are counted together, position by position. The other side is walked in steps of STEP rows, each loaded
// once by all lanes, which hand each other its elements by shuffles. Loops test at their end: a lane's mask stops no work.
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var q: texture_storage_2d<rgba32float, read>;
@group(0) @binding(2) var k: texture_storage_2d<rgba32float, read>;
@group(0) @binding(3) var v: texture_storage_2d<rgba32float, read>;
@group(0) @binding(4) var<storage, read> segments: array<u32>;
@group(0) @binding(5) var<storage, read_write> o: array<vec4<f32>>;
@group(0) @binding(6) var<storage, read_write> stats: array<vec2<f32>>;
@group(0) @binding(7) var dy: texture_storage_2d<rgba32float, read>;
@group(0) @binding(8) var<storage, read_write> dq: array<vec4<f32>>;
@group(0) @binding(9) var<storage, read_write> dk: array<vec4<f32>>;
@group(0) @binding(10) var<storage, read_write> dv: array<vec4<f32>>;

const HEAD_DIM: u32 = 64u;
const VECS: u32 = HEAD_DIM / 4u;
const LANES: u32 = 8u;
const ROW_BLOCKS: u32 = 2u;
const STEP: u32 = 4u;         // LANES at most
const SEGMENTED: bool = true; // false: one document, `segments` is not read
const BLOCK: u32 = LANES * ROW_BLOCKS;
const PARTS: u32 = (VECS + LANES - 1u) / LANES; // texels a lane loads of a row that all share
const HIDDEN = -1e30;         // a score that no sum of visible ones reaches
const NONE = 0xffffffffu;

struct Span { low: u32, high: u32 }

// A lane's part of the lowest and highest document, padding left out; low > high when there is none.
fn widen(span: Span, document: u32) -> Span {
  return Span(min(span.low, select(document, NONE, document == 0u)), max(span.high, document));
}

// First and last of rows [start, end) of a document that some lane's rows may be of; low > high when there is none.
fn visible(batch_row: u32, start: u32, end: u32, documents: Span, lane: u32) -> Span {
  let low = subgroupMin(documents.low);
  let high = subgroupMax(documents.high);
  var found = Span(NONE, 0u);
  for (var r = start + lane; r < end; r += LANES) {
    let s = segments[batch_row + r];
    if (s >= low && s <= high) { found = Span(min(found.low, r), r); }
  }
  return Span(subgroupMin(found.low), subgroupMax(found.high));
}

@compute @workgroup_size(LANES)
fn forward(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  let each = p.heads / p.kv_heads;
  let batch = group.y / p.kv_heads;
  let head = group.y % p.kv_heads;
  let first = group.x * BLOCK;
  let last = min(first + BLOCK, p.time * each) - 1u;
  let batch_row = p.seg_base + batch * p.keys;
  let stride = p.kv_heads * VECS;
  let kv0 = p.kv_base + (batch * p.keys * p.kv_heads + head) * VECS + lane;
  var documents = Span(NONE, 0u);
  var x: array<vec4<f32>, ROW_BLOCKS * VECS>;
  var acc: array<vec4<f32>, ROW_BLOCKS * VECS>;
  var top: array<f32, ROW_BLOCKS>;
  var total: array<f32, ROW_BLOCKS>;
  var document: array<u32, ROW_BLOCKS>;
  var position: array<u32, ROW_BLOCKS>;
  var row: array<u32, ROW_BLOCKS>;
  for (var r = 0u; r < ROW_BLOCKS; r++) { // @unroll
    let n = min(first + r * LANES + lane, last);
    let i = n / each;
    row[r] = (batch * p.time + i) * p.heads + head * each + n - i * each;
    position[r] = p.start + i;
    document[r] = 1u;
    if (SEGMENTED) { document[r] = segments[batch_row + i]; }
    documents = widen(documents, document[r]);
    for (var c = 0u; c < VECS; c++) { // @unroll
      x[r * VECS + c] = textureLoad(q, texel(p.q_base + row[r] * VECS + c)) * p.scale;
    }
    top[r] = HIDDEN;
  }
  let end = min(p.start + last / each + 1u, p.keys);
  let oldest = p.start + first / each + 1u;
  var j0 = select(0u, oldest - p.window, oldest > p.window);
  if (SEGMENTED) { j0 = min(visible(batch_row, j0, end, documents, lane).low, end - 1u); }
  loop {
    var y: array<vec4<f32>, STEP * PARTS>;
    var s: array<f32, ROW_BLOCKS * STEP>;
    for (var t = 0u; t < STEP; t++) { // @unroll
      for (var r = 0u; r < ROW_BLOCKS; r++) { // @unroll
        s[r * STEP + t] = 0.0;
      }
      for (var i = 0u; i < PARTS; i++) { // @unroll
        y[t * PARTS + i] = textureLoad(k, texel(kv0 + min(j0 + t, end - 1u) * stride + i * LANES));
      }
    }
    for (var c = 0u; c < VECS; c++) { // @unroll
      for (var t = 0u; t < STEP; t++) { // @unroll
        let b = subgroupShuffle(y[t * PARTS + c / LANES], c % LANES);
        for (var r = 0u; r < ROW_BLOCKS; r++) { // @unroll
          s[r * STEP + t] += dot(x[r * VECS + c], b);
        }
      }
    }
    for (var t = 0u; t < STEP; t++) { // @unroll
      for (var i = 0u; i < PARTS; i++) { // @unroll
        y[t * PARTS + i] = textureLoad(v, texel(kv0 + min(j0 + t, end - 1u) * stride + i * LANES));
      }
    }
    var theirs = 1u;
    if (SEGMENTED) { theirs = segments[batch_row + min(j0 + lane, end - 1u)]; }
    for (var r = 0u; r < ROW_BLOCKS; r++) { // @unroll
      var seen: array<bool, STEP>;
      var higher = top[r];
      for (var t = 0u; t < STEP; t++) { // @unroll
        let j = j0 + t;
        seen[t] = j <= position[r] && position[r] - j < p.window && j < end;
        if (SEGMENTED) {
          seen[t] = seen[t] && document[r] != 0u && subgroupShuffle(theirs, t) == document[r];
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
        let b = subgroupShuffle(y[t * PARTS + c / LANES], c % LANES);
        for (var r = 0u; r < ROW_BLOCKS; r++) { // @unroll
          acc[r * VECS + c] += s[r * STEP + t] * b;
        }
      }
    }
    continuing {
      j0 += STEP;
      break if j0 >= end;
    }
  }
  for (var r = 0u; r < ROW_BLOCKS; r++) { // @unroll
    if (first + r * LANES + lane <= last) {
      let share = select(0.0, 1.0 / total[r], total[r] > 0.0);
      for (var c = 0u; c < VECS; c++) { // @unroll
        o[p.q_base + row[r] * VECS + c] = acc[r * VECS + c] * share;
      }
      stats[p.row_base + row[r]].x = select(0.0, top[r] + log(total[r]), total[r] > 0.0);
    }
  }
}

@compute @workgroup_size(LANES)
fn backward_q(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  let each = p.heads / p.kv_heads;
  let batch = group.y / p.kv_heads;
  let head = group.y % p.kv_heads;
  let first = group.x * BLOCK;
  let last = min(first + BLOCK, p.time * each) - 1u;
  let batch_row = p.seg_base + batch * p.time;
  let stride = p.kv_heads * VECS;
  let kv0 = p.kv_base + (batch * p.time * p.kv_heads + head) * VECS + lane;
  var documents = Span(NONE, 0u);
  var x: array<vec4<f32>, ROW_BLOCKS * VECS>;
  var g: array<vec4<f32>, ROW_BLOCKS * VECS>;
  var acc: array<vec4<f32>, ROW_BLOCKS * VECS>;
  var own: array<vec2<f32>, ROW_BLOCKS>;
  var document: array<u32, ROW_BLOCKS>;
  var position: array<u32, ROW_BLOCKS>;
  var row: array<u32, ROW_BLOCKS>;
  for (var r = 0u; r < ROW_BLOCKS; r++) { // @unroll
    let n = min(first + r * LANES + lane, last);
    position[r] = n / each;
    row[r] = (batch * p.time + position[r]) * p.heads + head * each + n - position[r] * each;
    own[r] = stats[p.row_base + row[r]];
    document[r] = segments[batch_row + position[r]];
    documents = widen(documents, document[r]);
    for (var c = 0u; c < VECS; c++) { // @unroll
      let at = texel(p.q_base + row[r] * VECS + c);
      x[r * VECS + c] = textureLoad(q, at) * p.scale;
      g[r * VECS + c] = textureLoad(dy, at);
    }
  }
  let end = last / each + 1u;
  let oldest = first / each + 1u;
  let start = select(0u, oldest - p.window, oldest > p.window);
  var j0 = min(visible(batch_row, start, end, documents, lane).low, end - 1u);
  loop {
    var y: array<vec4<f32>, STEP * PARTS>;
    var z: array<vec4<f32>, STEP * PARTS>;
    var s: array<f32, ROW_BLOCKS * STEP>;
    var dp: array<f32, ROW_BLOCKS * STEP>;
    for (var t = 0u; t < STEP; t++) { // @unroll
      for (var r = 0u; r < ROW_BLOCKS; r++) { // @unroll
        s[r * STEP + t] = 0.0;
        dp[r * STEP + t] = 0.0;
      }
      for (var i = 0u; i < PARTS; i++) { // @unroll
        let at = texel(kv0 + min(j0 + t, end - 1u) * stride + i * LANES);
        y[t * PARTS + i] = textureLoad(k, at);
        z[t * PARTS + i] = textureLoad(v, at);
      }
    }
    for (var c = 0u; c < VECS; c++) { // @unroll
      for (var t = 0u; t < STEP; t++) { // @unroll
        let a = subgroupShuffle(y[t * PARTS + c / LANES], c % LANES);
        let b = subgroupShuffle(z[t * PARTS + c / LANES], c % LANES);
        for (var r = 0u; r < ROW_BLOCKS; r++) { // @unroll
          s[r * STEP + t] += dot(x[r * VECS + c], a);
          dp[r * STEP + t] += dot(g[r * VECS + c], b);
        }
      }
    }
    let theirs = segments[batch_row + min(j0 + lane, end - 1u)];
    for (var t = 0u; t < STEP; t++) { // @unroll
      let j = j0 + t;
      let their = subgroupShuffle(theirs, t);
      for (var r = 0u; r < ROW_BLOCKS; r++) { // @unroll
        let i = position[r];
        let seen = j <= i && i - j < p.window && document[r] != 0u && their == document[r];
        let ds = exp(s[r * STEP + t] - own[r].x) * (dp[r * STEP + t] - own[r].y) * p.scale;
        s[r * STEP + t] = select(0.0, ds, seen);
      }
    }
    for (var c = 0u; c < VECS; c++) { // @unroll
      for (var t = 0u; t < STEP; t++) { // @unroll
        let a = subgroupShuffle(y[t * PARTS + c / LANES], c % LANES);
        for (var r = 0u; r < ROW_BLOCKS; r++) { // @unroll
          acc[r * VECS + c] += s[r * STEP + t] * a;
        }
      }
    }
    continuing {
      j0 += STEP;
      break if j0 >= end;
    }
  }
  for (var r = 0u; r < ROW_BLOCKS; r++) { // @unroll
    if (first + r * LANES + lane <= last) {
      for (var c = 0u; c < VECS; c++) { // @unroll
        dq[p.q_base + row[r] * VECS + c] = acc[r * VECS + c];
      }
    }
  }
}

// The group's query heads are summed in order inside the invocation, so no atomics and the same bits every time.
@compute @workgroup_size(LANES)
fn backward_kv(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  let each = p.heads / p.kv_heads;
  let batch = group.y / p.kv_heads;
  let head = group.y % p.kv_heads;
  let first = group.x * BLOCK;
  let last = min(first + BLOCK, p.time) - 1u;
  let batch_row = p.seg_base + batch * p.time;
  var documents = Span(NONE, 0u);
  var x: array<vec4<f32>, ROW_BLOCKS * VECS>;
  var w: array<vec4<f32>, ROW_BLOCKS * VECS>;
  var acc_k: array<vec4<f32>, ROW_BLOCKS * VECS>;
  var acc_v: array<vec4<f32>, ROW_BLOCKS * VECS>;
  var document: array<u32, ROW_BLOCKS>;
  var kv0: array<u32, ROW_BLOCKS>;
  for (var r = 0u; r < ROW_BLOCKS; r++) { // @unroll
    let j = min(first + r * LANES + lane, last);
    kv0[r] = p.kv_base + ((batch * p.time + j) * p.kv_heads + head) * VECS;
    document[r] = segments[batch_row + j];
    documents = widen(documents, document[r]);
    for (var c = 0u; c < VECS; c++) { // @unroll
      let at = texel(kv0[r] + c);
      x[r * VECS + c] = textureLoad(k, at) * p.scale;
      w[r * VECS + c] = textureLoad(v, at);
    }
  }
  // the window may be all ones
  let reach = select(p.time, min(p.time, last + p.window), p.window < p.time);
  let end = max(first, visible(batch_row, first, reach, documents, lane).high) + 1u;
  var h = head * each + p.h_from;
  loop {
    let row0 = batch * p.time * p.heads + h;
    var i0 = first;
    loop {
      var y: array<vec4<f32>, STEP * PARTS>;
      var z: array<vec4<f32>, STEP * PARTS>;
      var s: array<f32, ROW_BLOCKS * STEP>;
      var dp: array<f32, ROW_BLOCKS * STEP>;
      for (var t = 0u; t < STEP; t++) { // @unroll
        for (var r = 0u; r < ROW_BLOCKS; r++) { // @unroll
          s[r * STEP + t] = 0.0;
          dp[r * STEP + t] = 0.0;
        }
        for (var n = 0u; n < PARTS; n++) { // @unroll
          let at = texel(p.q_base + (row0 + min(i0 + t, end - 1u) * p.heads) * VECS + n * LANES + lane);
          y[t * PARTS + n] = textureLoad(q, at);
          z[t * PARTS + n] = textureLoad(dy, at);
        }
      }
      for (var c = 0u; c < VECS; c++) { // @unroll
        for (var t = 0u; t < STEP; t++) { // @unroll
          let a = subgroupShuffle(y[t * PARTS + c / LANES], c % LANES);
          let b = subgroupShuffle(z[t * PARTS + c / LANES], c % LANES);
          for (var r = 0u; r < ROW_BLOCKS; r++) { // @unroll
            s[r * STEP + t] += dot(x[r * VECS + c], a);
            dp[r * STEP + t] += dot(w[r * VECS + c], b);
          }
        }
      }
      let mine = min(i0 + lane, end - 1u);
      let theirs = segments[batch_row + mine];
      let rows = stats[p.row_base + row0 + mine * p.heads];
      for (var t = 0u; t < STEP; t++) { // @unroll
        let i = i0 + t;
        let their = subgroupShuffle(theirs, t);
        let row = subgroupShuffle(rows, t);
        for (var r = 0u; r < ROW_BLOCKS; r++) { // @unroll
          let j = first + r * LANES + lane;
          let seen = i < end && j <= i && i - j < p.window && document[r] != 0u && their == document[r];
          let weight = select(0.0, exp(s[r * STEP + t] - row.x), seen);
          dp[r * STEP + t] = weight * (dp[r * STEP + t] - row.y) * p.scale;
          s[r * STEP + t] = weight;
        }
      }
      for (var c = 0u; c < VECS; c++) { // @unroll
        for (var t = 0u; t < STEP; t++) { // @unroll
          let a = subgroupShuffle(y[t * PARTS + c / LANES], c % LANES);
          let b = subgroupShuffle(z[t * PARTS + c / LANES], c % LANES);
          for (var r = 0u; r < ROW_BLOCKS; r++) { // @unroll
            acc_k[r * VECS + c] += dp[r * STEP + t] * a;
            acc_v[r * VECS + c] += s[r * STEP + t] * b;
          }
        }
      }
      continuing {
        i0 += STEP;
        break if i0 >= end;
      }
    }
    continuing {
      h++;
      break if h >= head * each + p.h_to;
    }
  }
  for (var r = 0u; r < ROW_BLOCKS; r++) { // @unroll
    if (first + r * LANES + lane <= last) {
      for (var c = 0u; c < VECS; c++) { // @unroll
        let at = kv0[r] + c;
        dk[at] = select(dk[at], vec4(0.0), p.h_from == 0u) + acc_k[r * VECS + c];
        dv[at] = select(dv[at], vec4(0.0), p.h_from == 0u) + acc_v[r * VECS + c];
      }
    }
  }
}
