// Rows of a table: forward y[i] = w[ids[i]]; gather y[i] = x[index[i]]; both directions without atomics.
// w: [vocabulary, columns] (rows first .. last bound; also f16 or bf16, two to a word); ids: [rows]; y: [rows, columns].
// backward: one workgroup row a distinct id; starts/order list the rows of each id, summed in that order.
struct Params {
  rows: u32,
  columns: u32,
  row: u32,     // invocations in one grid row
  first: u32,   // bound rows of w
  last: u32,
}
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> ids: array<u32>;
@group(0) @binding(2) var<storage, read> w: array<W>;  // shared/weight.wgsl
@group(0) @binding(3) var<storage, read_write> y: array<f32>;
@group(0) @binding(4) var<storage, read> starts: array<u32>;
@group(0) @binding(5) var<storage, read> order: array<u32>;
@group(0) @binding(6) var<storage, read> dy: array<f32>;
@group(0) @binding(7) var<storage, read_write> dw: array<f32>;

@compute @workgroup_size(64)
fn forward(@builtin(global_invocation_id) at: vec3<u32>) {
  let i = at.y * p.row + at.x;
  if (i >= p.rows * p.columns) { return; }
  let id = ids[i / p.columns];
  if (id >= p.first && id < p.last) { y[i] = load_w((id - p.first) * p.columns + i % p.columns); }
}

// dw[ids[k]] += sum of dy over the rows of the k-th distinct id
@compute @workgroup_size(64)
fn backward(@builtin(global_invocation_id) at: vec3<u32>) {
  let i = at.y * p.row + at.x;
  if (i >= p.rows * p.columns) { return; }
  let k = i / p.columns;
  let c = i % p.columns;
  let id = ids[k];
  if (id < p.first || id >= p.last) { return; }
  var sum = 0.0;
  for (var j = starts[k]; j < starts[k + 1u]; j++) { sum += dy[order[j] * p.columns + c]; }
  dw[(id - p.first) * p.columns + c] += sum;
}

// y[ids[k]] = dy[k]: the gradient of a gather with distinct rows; the caller cleared y
@compute @workgroup_size(64)
fn scatter(@builtin(global_invocation_id) at: vec3<u32>) {
  let i = at.y * p.row + at.x;
  if (i >= p.rows * p.columns) { return; }
  y[ids[i / p.columns] * p.columns + i % p.columns] = dy[i];
}
