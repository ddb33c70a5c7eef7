// Numbers from a hash of (seed, element): PCG (Jarzynski and Olano 2020, Hash Functions for GPU Rendering). The same come
// out in a backward pass, in a recomputed forward pass and in a resumed run, and none is stored.
fn pcg(v: vec4<u32>) -> vec4<u32> {
  let state = v * 747796405u + vec4(2891336453u);
  let word = ((state >> ((state >> vec4(28u)) + vec4(4u))) ^ state) * 277803737u;
  return (word >> vec4(22u)) ^ word;
}

fn draw(first: u32, seed: u32) -> vec4<u32> {
  return pcg((vec4(first) + vec4(0u, 1u, 2u, 3u)) ^ pcg(vec4(seed)));
}

// Inverted dropout of the elements first .. first + 3: scale is 1 / (1 - rate), threshold is rate * 2^32.
fn drop_out(v: vec4<f32>, first: u32, seed: u32, threshold: u32, scale: f32) -> vec4<f32> {
  return select(v * scale, vec4(0.0), draw(first, seed) < vec4(threshold));
}
