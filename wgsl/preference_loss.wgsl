// Losses over preferences from the sums of log-probabilities of a batch's sequences, with their gradients.
// sums: [sequences, 2] of (log-probability, mean logits), summed over tokens; d: the same shape, d loss / d sums;
// items: [n] of what the host knows of each pair or answer; stats: the figures of the log, as sums over the batch.
// dpo: Rafailov et al. 2023, arXiv 2305.18290, and its relatives as TRL 0.19 has them; orpo: Hong et al. 2024,
// arXiv 2403.07691, eq. 7; kto: Ethayarajh et al. 2024, arXiv 2402.01306, eq. 7.
// Grid: one invocation, since a batch has a few pairs, and their order must not change the sum.
struct Params {
  n: u32,           // pairs; kto: answers
  beta: f32,
  smoothing: f32,   // dpo: probability that a preference is wrong
  tau: f32,         // discopop
  nll: f32,         // weight of the chosen answers' summed negative log-likelihood
  desirable: f32,   // kto: weights of both kinds of answers
  undesirable: f32,
}
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> sums: array<vec2<f32>>;
@group(0) @binding(2) var<storage, read> items: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read_write> d: array<vec2<f32>>;
@group(0) @binding(4) var<storage, read_write> stats: array<f32>;
@group(0) @binding(5) var<storage, read> others: array<vec2<f32>>; // kto: sums of the mismatched answers

// dpo: which loss; the order of DPO_LOSSES in lib/train/objectives/dpo.ts
const LOSS: u32 = 0u;

fn sigmoid(x: f32) -> f32 {
  let e = exp(-abs(x));
  return select(e, 1.0, x >= 0.0) / (1.0 + e);
}
fn log_sigmoid(x: f32) -> f32 { return min(x, 0.0) - log(1.0 + exp(-abs(x))); }
fn sigmoid_slope(x: f32) -> f32 { let s = sigmoid(x); return s * (1.0 - s); }

// Loss of a pair with log-ratios c and r to the reference, and its slopes along c and r.
// chosen_kl, rejected_kl: kto_pair's estimates, means of the log-ratios, not below 0.
fn pair_loss(c: f32, r: f32, chosen_kl: f32, rejected_kl: f32) -> vec3<f32> {
  let b = p.beta;
  let e = p.smoothing;
  let h = c - r;
  var loss = 0.0;
  var dh = 0.0;
  if (LOSS == 0u) { // sigmoid
    loss = -(1.0 - e) * log_sigmoid(b * h) - e * log_sigmoid(-b * h);
    dh = b * (e * sigmoid(b * h) - (1.0 - e) * sigmoid(-b * h));
  } else if (LOSS == 1u) { // robust
    loss = (-(1.0 - e) * log_sigmoid(b * h) + e * log_sigmoid(-b * h)) / (1.0 - 2.0 * e);
    dh = -b * ((1.0 - e) * sigmoid(-b * h) + e * sigmoid(b * h)) / (1.0 - 2.0 * e);
  } else if (LOSS == 2u) { // hinge
    loss = max(0.0, 1.0 - b * h);
    dh = select(0.0, -b, b * h < 1.0);
  } else if (LOSS == 3u) { // ipo, of ratios a token
    let x = h - 0.5 / b;
    loss = x * x;
    dh = 2.0 * x;
  } else if (LOSS == 4u) { // exo_pair
    let q = sigmoid(b * h);
    let gain = log_sigmoid(b * h) - log(1.0 - e);
    let cost = log_sigmoid(-b * h) - log(e);
    loss = q * gain + (1.0 - q) * cost;
    dh = b * q * (1.0 - q) * (gain - cost); // the slopes of the two logarithms cancel
  } else if (LOSS == 5u) { // nca_pair
    loss = -log_sigmoid(b * c) - 0.5 * log_sigmoid(-b * c) - 0.5 * log_sigmoid(-b * r);
    return vec3(loss, b * (0.5 * sigmoid(b * c) - sigmoid(-b * c)), 0.5 * b * sigmoid(b * r));
  } else if (LOSS == 6u) { // sppo_hard
    let x = c - 0.5 / b;
    let y = r + 0.5 / b;
    return vec3(x * x + y * y, 2.0 * x, 2.0 * y);
  } else if (LOSS == 7u) { // apo_zero
    return vec3(sigmoid(-b * c) + sigmoid(b * r), -b * sigmoid_slope(b * c), b * sigmoid_slope(b * r));
  } else if (LOSS == 8u) { // apo_down
    let s = b * sigmoid_slope(b * h);
    return vec3(sigmoid(b * c) + sigmoid(-b * h), b * sigmoid_slope(b * c) - s, s);
  } else if (LOSS == 9u) { // discopop
    let x = b * h;
    let w = sigmoid(x / p.tau);
    let slope = w * (1.0 - w) / p.tau;
    let up = exp(min(-x, 80.0));
    loss = -log_sigmoid(x) * (1.0 - w) + up * w;
    dh = b * (-sigmoid(-x) * (1.0 - w) + (log_sigmoid(x) + up) * slope - up * w);
  } else { // kto_pair: half of the sum of both answers' losses
    loss = 0.5 * (sigmoid(b * (rejected_kl - c)) + sigmoid(b * (r - chosen_kl)));
    return vec3(loss, -0.5 * b * sigmoid_slope(b * (c - rejected_kl)), 0.5 * b * sigmoid_slope(b * (chosen_kl - r)));
  }
  return vec3(loss, dh, -dh);
}

// Log-ratios of pair i, chosen and rejected, and the factors by which the sums were scaled: 1, or 1 / tokens for ipo.
// items[i]: the reference's sums of both answers, and their tokens.
fn ratios(i: u32) -> vec4<f32> {
  let k = select(vec2(1.0), 1.0 / items[i].zw, LOSS == 3u);
  return vec4((vec2(sums[i].x, sums[p.n + i].x) - items[i].xy) * k, k);
}

@compute @workgroup_size(1)
fn dpo() {
  var mean = vec2(0.0); // of the log-ratios
  for (var i = 0u; i < p.n; i++) { mean += ratios(i).xy / f32(p.n); }
  let kl = max(mean, vec2(0.0));
  var total: array<f32, 10>;
  var d_kl = vec2(0.0);
  for (var i = 0u; i < p.n; i++) {
    let x = ratios(i);
    let chosen = sums[i];
    let rejected = sums[p.n + i];
    let l = pair_loss(x.x, x.y, kl.x, kl.y);
    d[i] = vec2(l.y * x.z - p.nll, 0.0);
    d[p.n + i] = vec2(l.z * x.w, 0.0);
    // each answer is held against the mean of the others: what a slope takes from one it gives to the other
    d_kl -= l.zy;
    let reward = p.beta * x.xy;
    total[0] += l.x - p.nll * chosen.x;
    total[1] += reward.x;
    total[2] += reward.y;
    total[3] += select(0.0, 1.0, reward.x > reward.y);
    total[4] += reward.x - reward.y;
    total[5] += chosen.x * x.z;
    total[6] += rejected.x * x.w;
    total[7] += chosen.y;
    total[8] += rejected.y;
    total[9] -= chosen.x;
  }
  if (LOSS == 10u) { // TRL let the gradient pass through the means
    let share = select(vec2(0.0), d_kl / f32(p.n), mean >= vec2(0.0));
    for (var i = 0u; i < p.n; i++) {
      d[i].x += share.x;
      d[p.n + i].x += share.y;
    }
  }
  for (var k = 0u; k < 10u; k++) { stats[k] = total[k]; }
}

// 1 - e^x for x <= 0 without cancellation: the series where x is small
fn one_minus_exp(x: f32) -> f32 {
  if (x < -0.5) { return 1.0 - exp(x); }
  return -x * (1.0 + x / 2.0 * (1.0 + x / 3.0 * (1.0 + x / 4.0 * (1.0 + x / 5.0 * (1.0 + x / 6.0 * (1.0 + x / 7.0 *
    (1.0 + x / 8.0)))))));
}

// sums: prompt and answer of each chosen row, then each rejected answer. items[i]: tokens of both answers.
@compute @workgroup_size(1)
fn orpo() {
  var total: array<f32, 12>;
  for (var i = 0u; i < p.n; i++) {
    let prompt = sums[2u * i].x;
    let chosen = sums[2u * i + 1u];
    let rejected = sums[2u * p.n + i];
    let tokens = items[i].xy;
    let mean = vec2(chosen.x, rejected.x) / tokens; // log-probability a token
    let rest = vec2(max(one_minus_exp(mean.x), 1e-7), max(one_minus_exp(mean.y), 1e-7));
    let log_odds = mean.x - mean.y - log(rest.x) + log(rest.y);
    let ratio = log_sigmoid(log_odds);
    let slope = -p.beta * sigmoid(-log_odds) / (rest * tokens);
    d[2u * i] = vec2(-p.nll, 0.0);
    d[2u * i + 1u] = vec2(slope.x - p.nll, 0.0);
    d[2u * p.n + i] = vec2(-slope.y, 0.0);
    let nll = -(prompt + chosen.x);
    let reward = p.beta * mean;
    total[0] += p.nll * nll - p.beta * ratio;
    total[1] += reward.x;
    total[2] += reward.y;
    total[3] += select(0.0, 1.0, reward.x > reward.y);
    total[4] += reward.x - reward.y;
    total[5] += mean.x;
    total[6] += mean.y;
    total[7] += chosen.y;
    total[8] += rejected.y;
    total[9] += nll;
    total[10] += ratio;
    total[11] += log_odds;
  }
  for (var k = 0u; k < 12u; k++) { stats[k] = total[k]; }
}

// items[i]: the reference's sum of the answer, 1 if it is desirable, and the reference's sum of the mismatched one.
@compute @workgroup_size(1)
fn kto() {
  var kl = 0.0;
  for (var i = 0u; i < p.n; i++) { kl += (others[i].x - items[i].z) / f32(p.n); }
  kl = max(kl, 0.0);
  var total: array<f32, 8>;
  for (var i = 0u; i < p.n; i++) {
    let ratio = sums[i].x - items[i].x;
    let good = items[i].y > 0.5;
    let way = select(-1.0, 1.0, good);
    let weight = select(p.undesirable, p.desirable, good);
    let x = p.beta * way * (ratio - kl);
    d[i] = vec2(-weight * way * p.beta * sigmoid_slope(x), 0.0);
    let k = select(1u, 0u, good);
    total[0] += weight * sigmoid(-x);
    total[1u + k] += p.beta * ratio;
    total[3u + k] += sums[i].x;
    total[5u + k] += sums[i].y;
  }
  total[7] = kl;
  for (var k = 0u; k < 8u; k++) { stats[k] = total[k]; }
}
