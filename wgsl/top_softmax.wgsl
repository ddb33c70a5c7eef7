// y_c = e^(x_c - top) / sum over the k largest of a row, 0 for the others; of equal elements the first is larger.
//   dx_c = y_c (dy_c - sum_j y_j dy_j), which is 0 where y is.
// x, y, dy, dx: [rows, columns]. Grid: one invocation a row; columns are few (experts of a mixture).
struct Params {
  rows: u32,
  columns: u32,
  k: u32,
  row: u32,  // invocations in one grid row
}
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read_write> y: array<f32>;
@group(0) @binding(3) var<storage, read> dy: array<f32>;
@group(0) @binding(4) var<storage, read_write> dx: array<f32>;

@compute @workgroup_size(64)
fn forward(@builtin(global_invocation_id) id: vec3<u32>) {
  let i = id.y * p.row + id.x;
  if (i >= p.rows) { return; }
  let base = i * p.columns;
  var top = x[base];
  for (var c = 1u; c < p.columns; c++) { top = max(top, x[base + c]); }
  var total = 0.0;
  for (var c = 0u; c < p.columns; c++) {
    let v = x[base + c];
    // rank by counting needs no array of indices
    var larger = 0u;
    for (var j = 0u; j < p.columns; j++) {
      let w = x[base + j];
      if (w > v || (w == v && j < c)) { larger++; }
    }
    let e = select(0.0, exp(v - top), larger < p.k);
    y[base + c] = e;
    total += e;
  }
  for (var c = 0u; c < p.columns; c++) { y[base + c] /= total; }
}

@compute @workgroup_size(64)
fn backward(@builtin(global_invocation_id) id: vec3<u32>) {
  let i = id.y * p.row + id.x;
  if (i >= p.rows) { return; }
  let base = i * p.columns;
  var sum = 0.0;
  for (var c = 0u; c < p.columns; c++) { sum += y[base + c] * dy[base + c]; }
  for (var c = 0u; c < p.columns; c++) { dx[base + c] = y[base + c] * (dy[base + c] - sum); }
}
