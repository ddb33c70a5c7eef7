// Copies a block of columns between matrices of different widths, row by row.
// part: [rows, width]; whole: [rows, columns]; the block begins at column `first` of whole.
// take: part = whole[:, first:first+width]; put: whole[:, first:first+width] = part. One invocation an element.
struct Params {
  rows: u32,
  width: u32,
  columns: u32,
  first: u32,
  row: u32,  // invocations in one grid row
}
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> source: array<f32>;
@group(0) @binding(2) var<storage, read_write> target_: array<f32>;

@compute @workgroup_size(64)
fn take(@builtin(global_invocation_id) id: vec3<u32>) {
  let i = id.y * p.row + id.x;
  if (i < p.rows * p.width) { target_[i] = source[i / p.width * p.columns + p.first + i % p.width]; }
}

@compute @workgroup_size(64)
fn put(@builtin(global_invocation_id) id: vec3<u32>) {
  let i = id.y * p.row + id.x;
  if (i < p.rows * p.width) { target_[i / p.width * p.columns + p.first + i % p.width] = source[i]; }
}
