// y = f(a, b), element by element; also y += b, and activations with their gradients.
// a: [n], b: [n] or [period] repeated (broadcast over leading axes) or [n / period] spread (over trailing axes).
// Grid: x over n / LANES, folded into y when longer than one dimension allows. One invocation: one V, which is a f32
// or, where lengths are multiples of four, a vec4 (n and period then count those).
struct Params {
  n: u32,       // elements of y
  period: u32,  // elements of b when broadcast
  row: u32,     // invocations in one grid row
  alpha: f32,   // scale, where the operation has one
}
alias V = f32;
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> a: array<V>;
@group(0) @binding(2) var<storage, read> b: array<V>;
@group(0) @binding(3) var<storage, read_write> y: array<V>;
@group(0) @binding(4) var<storage, read> dy: array<V>;
@group(0) @binding(5) var<storage, read_write> db: array<V>;

const LANES: u32 = 64u;
const OP: u32 = 0u;
const MODE: u32 = 0u; // b's index: 0 i, 1 i % period, 2 i / period
const ACT: u32 = 0u;  // activation: 0 silu, 1 gelu, 2 gelu in its tanh form, 3 relu

// tanh by exp overflows to NaN on some drivers beyond 44: the clamp changes nothing in f32
fn safe_tanh(x: V) -> V { return tanh(clamp(x, V(-15.0), V(15.0))); }

// The normal distribution function, given e = exp(-u^2 / 2): a series around 0, a fit of its ratio to e beyond, so that
// the tail keeps its relative accuracy. Both fitted for nibble (minimax): 1e-7 and, relative to a tail, 4e-7 in f32.
fn normal_cdf(u: V, e: V) -> V {
  let s = u * u;
  let center = 0.5 + u * (0.398942262 + s * (-0.0664895847 + s * (0.00996719673 + s * (-0.00116935372 + s * 9.42352344e-5))));
  let t = 1.0 / (1.0 + 0.28 * abs(u));
  let tail = e * t * (0.111673579 + t * (0.11232359 + t * (0.0976705998 + t * (0.109595686
    + t * (-0.0027829241 + t * (0.130586594 + t * -0.0591443703))))));
  return select(select(tail, 1.0 - tail, u > V(0.0)), center, abs(u) < V(1.0));
}

struct Activated { y: V, slope: V } // act(u) and act'(u)

fn activate(u: V) -> Activated {
  if (ACT == 0u) {
    let s = 1.0 / (1.0 + exp(-u));
    return Activated(u * s, s * (1.0 + u * (1.0 - s)));
  }
  if (ACT == 1u) {
    let e = exp(-0.5 * u * u);
    let c = normal_cdf(u, e);
    return Activated(u * c, c + u * e * 0.398942280);
  }
  if (ACT == 2u) {
    let t = safe_tanh(0.7978845608 * (u + 0.044715 * u * u * u));
    let slope = 0.7978845608 * (1.0 + 0.134145 * u * u);
    return Activated(0.5 * u * (1.0 + t), 0.5 * (1.0 + t) + 0.5 * u * (1.0 - t * t) * slope);
  }
  return Activated(max(u, V(0.0)), select(V(0.0), V(1.0), u > V(0.0)));
}

fn b_index(i: u32) -> u32 {
  if (MODE == 1u) { return i % p.period; }
  if (MODE == 2u) { return i / p.period; }
  return i;
}

// y = OP(a, b): 0 add, 1 mul, 2 sub
@compute @workgroup_size(LANES)
fn binary(@builtin(global_invocation_id) id: vec3<u32>) {
  let i = id.y * p.row + id.x;
  if (i < p.n) {
    let u = a[i];
    let v = b[b_index(i)];
    if (OP == 0u) { y[i] = u + v; }
    else if (OP == 1u) { y[i] = u * v; }
    else { y[i] = u - v; }
  }
}

// y = OP(a): 0 alpha * a, 1 a + alpha, 2 exp, 3 log, 4 square, 5 alpha * tanh(a / alpha)
@compute @workgroup_size(LANES)
fn unary(@builtin(global_invocation_id) id: vec3<u32>) {
  let i = id.y * p.row + id.x;
  if (i < p.n) {
    let u = a[i];
    if (OP == 0u) { y[i] = p.alpha * u; }
    else if (OP == 1u) { y[i] = u + p.alpha; }
    else if (OP == 2u) { y[i] = exp(u); }
    else if (OP == 3u) { y[i] = log(u); }
    else if (OP == 4u) { y[i] = u * u; }
    else { y[i] = p.alpha * safe_tanh(u / p.alpha); }
  }
}

// y = dy * OP'(a)
@compute @workgroup_size(LANES)
fn unary_backward(@builtin(global_invocation_id) id: vec3<u32>) {
  let i = id.y * p.row + id.x;
  if (i < p.n) {
    let u = a[i];
    var g = V(p.alpha);
    if (OP == 1u) { g = V(1.0); }
    else if (OP == 2u) { g = exp(u); }
    else if (OP == 3u) { g = 1.0 / u; }
    else if (OP == 4u) { g = 2.0 * u; }
    else if (OP == 5u) { let t = safe_tanh(u / p.alpha); g = 1.0 - t * t; }
    y[i] = dy[i] * g;
  }
}

// y = act(a)
@compute @workgroup_size(LANES)
fn activation(@builtin(global_invocation_id) id: vec3<u32>) {
  let i = id.y * p.row + id.x;
  if (i < p.n) { y[i] = activate(a[i]).y; }
}

// y = dy * act'(a)
@compute @workgroup_size(LANES)
fn activation_backward(@builtin(global_invocation_id) id: vec3<u32>) {
  let i = id.y * p.row + id.x;
  if (i < p.n) { y[i] = dy[i] * activate(a[i]).slope; }
}

// y = act(a) * b
@compute @workgroup_size(LANES)
fn gated(@builtin(global_invocation_id) id: vec3<u32>) {
  let i = id.y * p.row + id.x;
  if (i < p.n) { y[i] = activate(a[i]).y * b[i]; }
}

// both gradients in place, y holding a and db holding b: y = dy * act'(a) * b, db = dy * act(a)
@compute @workgroup_size(LANES)
fn gated_backward(@builtin(global_invocation_id) id: vec3<u32>) {
  let i = id.y * p.row + id.x;
  if (i < p.n) {
    let f = activate(y[i]);
    let d = dy[i];
    y[i] = d * db[i] * f.slope;
    db[i] = d * f.y;
  }
}

// y += alpha * b
@compute @workgroup_size(LANES)
fn add_into(@builtin(global_invocation_id) id: vec3<u32>) {
  let i = id.y * p.row + id.x;
  if (i < p.n) { y[i] += p.alpha * b[b_index(i)]; }
}
