// AdamW and Lion with their state in 8 bits (Dettmers et al. 2022, "8-bit Optimizers via Block-wise Quantization"):
// decode, update in f32, encode again. A number is map[code] times the largest magnitude of its block of 256.
//   adamw: m = beta1 m + (1 - beta1) g;  v = beta2 v + (1 - beta2) g^2;
//          w = (1 - lr decay) w - lr / (1 - beta1^t) m / (sqrt(v) / sqrt(1 - beta2^t) + eps)
//   lion:  w = (1 - lr decay) w - lr sign(beta1 m + (1 - beta1) g);  m = beta2 m + (1 - beta2) g
// w, grads: [64 n] vec4; m_codes, v_codes: [64 n] words of four codes, the first in the low byte; m_absmax, v_absmax: [n];
// maps: the signed map, then 257 borders (code q stands for what lies above border q and not above border q + 1), and from
// UNSIGNED on the same for the unsigned map; metrics: see optimizer.ts.
// Grid: one workgroup a block, x folded into y. The moments wait in workgroup memory until their maximum is known.
struct Params {
  blocks: u32,
  block_row: u32,     // workgroups in one grid row
  grad_scale: f32,
  lr: f32,
  keep: f32,          // 1 - lr * weight_decay
  beta1: f32,
  one_minus_beta1: f32,
  beta2: f32,
  one_minus_beta2: f32,
  eps: f32,
}
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> metrics: array<f32>;
@group(0) @binding(2) var<storage, read> grads: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read_write> w: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read_write> m_codes: array<u32>;
@group(0) @binding(5) var<storage, read_write> m_absmax: array<f32>;
@group(0) @binding(6) var<storage, read_write> v_codes: array<u32>;
@group(0) @binding(7) var<storage, read_write> v_absmax: array<f32>;
@group(0) @binding(8) var<storage, read> maps: array<f32>;

const LANES: u32 = 64u;
const WORDS: u32 = 64u;    // of a block
const SIGNED: u32 = 0u;    // where each map begins
const UNSIGNED: u32 = 520u;

var<workgroup> part: array<u32, LANES>;
var<workgroup> block_m: array<vec4<f32>, WORDS>;
var<workgroup> block_v: array<vec4<f32>, WORDS>;

// The largest of all lanes' bit patterns; those of positive numbers are ordered like the numbers.
fn largest(lane: u32, own: vec4<f32>) -> u32 {
  let bits = bitcast<vec4<u32>>(own) & vec4(0x7fffffffu);
  workgroupBarrier();
  part[lane] = max(max(bits.x, bits.y), max(bits.z, bits.w));
  for (var step = LANES / 2u; step > 0u; step /= 2u) {
    workgroupBarrier();
    if (lane < step) { part[lane] = max(part[lane], part[lane + step]); }
  }
  workgroupBarrier();
  // subnormal numbers are flushed by some GPUs: they count as zero
  return select(part[0], 0u, part[0] < 0x800000u);
}

// 1 / x rounded to nearest, divided out in integers: WGSL's own division may be off by 2.5 ulp
fn reciprocal(bits: u32) -> f32 {
  let exponent = bits >> 23u;
  if (exponent == 0u || exponent > 252u) { return 0.0; }
  let m = (bits & 0x7fffffu) | 0x800000u;
  if (m == 0x800000u) { return bitcast<f32>((254u - exponent) << 23u); }
  // an estimate within a few units, its remainder modulo 2^32, and the way back to where 0 <= remainder < m
  var q = u32(16777216.0 * (8388608.0 / f32(m)));
  var r = i32(0u - q * m);
  for (; r < 0; r += i32(m)) { q -= 1u; }
  for (; r >= i32(m); r -= i32(m)) { q += 1u; }
  if (2 * r > i32(m)) { q += 1u; }
  return bitcast<f32>(((253u - exponent) << 23u) | (q & 0x7fffffu));
}

fn decode(first: u32, word: u32, absmax: f32) -> vec4<f32> {
  let code = (vec4(word) >> vec4(0u, 8u, 16u, 24u)) & vec4(255u);
  return vec4(maps[first + code.x], maps[first + code.y], maps[first + code.z], maps[first + code.w]) * absmax;
}

// The code of each number in [-1, 1]. A dynamic map has seven decades, each of twice as many even parts as the one below:
// that gives the code or its neighbour, and the borders decide.
fn encode(first: u32, x: vec4<f32>) -> vec4<u32> {
  let unsigned = first == UNSIGNED;
  var y = abs(x);
  var parts = vec4(select(64.0, 128.0, unsigned));
  for (var decade = 0u; decade < 6u; decade++) { // @unroll
    let below = y <= vec4(0.1);
    y = select(y, y * 10.0, below);
    parts = select(parts, parts * 0.5, below);
  }
  let magnitude = select(128.0, 0.0, unsigned) + parts - 1.0 + floor((y - 0.1) * (parts / 0.9));
  // the signed map's codes are symmetric about 127
  var q = vec4<u32>(clamp(select(magnitude, 254.0 - magnitude, x < vec4(0.0)), vec4(0.0), vec4(255.0)));
  let at = q + (first + 256u);
  let above = x > vec4(maps[at.x + 1u], maps[at.y + 1u], maps[at.z + 1u], maps[at.w + 1u]);
  let under = x <= vec4(maps[at.x], maps[at.y], maps[at.z], maps[at.w]);
  q += select(vec4(0u), vec4(1u), above);
  return q - select(vec4(0u), vec4(1u), under);
}

fn pack(q: vec4<u32>) -> u32 { return q.x | q.y << 8u | q.z << 16u | q.w << 24u; }

fn gradient(i: u32) -> vec4<f32> { return grads[i] * p.grad_scale * metrics[1]; }

@compute @workgroup_size(LANES)
fn adamw(@builtin(workgroup_id) id: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  let block = id.y * p.block_row + id.x;
  if (block >= p.blocks || metrics[3] == 0.0) { return; }
  let old_m = m_absmax[block];
  let old_v = v_absmax[block];
  let step = p.lr / metrics[4];
  var top_m = vec4(0.0);
  var top_v = vec4(0.0);
  for (var k = lane; k < WORDS; k += LANES) {
    let i = block * WORDS + k;
    let g = gradient(i);
    let m = p.beta1 * decode(SIGNED, m_codes[i], old_m) + p.one_minus_beta1 * g;
    let v = p.beta2 * decode(UNSIGNED, v_codes[i], old_v) + p.one_minus_beta2 * g * g;
    w[i] = w[i] * p.keep - step * (m / (sqrt(v) / metrics[5] + p.eps));
    top_m = max(top_m, abs(m));
    top_v = max(top_v, v);
    block_m[k] = m;
    block_v[k] = v;
  }
  let new_m = largest(lane, top_m);
  let new_v = largest(lane, top_v);
  let inverse_m = reciprocal(new_m);
  let inverse_v = reciprocal(new_v);
  for (var k = lane; k < WORDS; k += LANES) {
    let i = block * WORDS + k;
    m_codes[i] = select(0u, pack(encode(SIGNED, block_m[k] * inverse_m)), new_m > 0u);
    v_codes[i] = select(0u, pack(encode(UNSIGNED, block_v[k] * inverse_v)), new_v > 0u);
  }
  if (lane == 0u) {
    m_absmax[block] = bitcast<f32>(new_m);
    v_absmax[block] = bitcast<f32>(new_v);
  }
}

@compute @workgroup_size(LANES)
fn lion(@builtin(workgroup_id) id: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  let block = id.y * p.block_row + id.x;
  if (block >= p.blocks || metrics[3] == 0.0) { return; }
  let old = m_absmax[block];
  var top = vec4(0.0);
  for (var k = lane; k < WORDS; k += LANES) {
    let i = block * WORDS + k;
    let g = gradient(i);
    let before = decode(SIGNED, m_codes[i], old);
    w[i] = w[i] * p.keep - p.lr * sign(p.beta1 * before + p.one_minus_beta1 * g);
    let m = p.beta2 * before + p.one_minus_beta2 * g;
    top = max(top, abs(m));
    block_m[k] = m;
  }
  let new_m = largest(lane, top);
  let inverse = reciprocal(new_m);
  for (var k = lane; k < WORDS; k += LANES) {
    let i = block * WORDS + k;
    m_codes[i] = select(0u, pack(encode(SIGNED, block_m[k] * inverse)), new_m > 0u);
  }
  if (lane == 0u) { m_absmax[block] = bitcast<f32>(new_m); }
}
