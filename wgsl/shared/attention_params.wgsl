// Params of the attention kernels over sequences, on buffers and on textures.
struct Params {
  batch: u32,     // batch elements of this launch
  time: u32,      // query rows of one batch element
  keys: u32,      // key rows of one batch element: `time`, or the cache's filled length
  start: u32,     // position of query row 0 among the keys
  heads: u32,
  kv_heads: u32,
  window: u32,    // keys visible at most; 0xffffffff for all
  q_base: u32,    // first vec4 of q, o, do, dq in their bindings
  kv_base: u32,   // first vec4 of k, v, dk, dv
  row_base: u32,  // first element of stats
  seg_base: u32,  // first element of segments
  scale: f32,
  h_from: u32,    // of the query heads that share a key head, those that backward_kv takes; dk and dv are added to
  h_to: u32,      // where h_from is not 0
}
