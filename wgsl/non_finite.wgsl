// flags[slot] |= 1 where x holds an infinity, |= 2 where it holds a NaN.  x: [n] as bits, since a driver may take every
// number for finite. One element an invocation.
struct Params {
  n: u32,
  row: u32,     // invocations in one grid row
  slot: u32,
}
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<u32>;
@group(0) @binding(2) var<storage, read_write> flags: array<atomic<u32>>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
  let i = id.y * p.row + id.x;
  if (i >= p.n) { return; }
  let bits = x[i];
  if ((bits & 0x7f800000u) == 0x7f800000u) {
    atomicOr(&flags[p.slot], select(1u, 2u, (bits & 0x7fffffu) != 0u));
  }
}
