/**
 * Causal grouped-query attention over packed documents, forward and backward, without the matrix of scores.
 * @module
 */
import { NibbleError } from "../../errors.ts";
import { type AdapterKind, adapterKind, type BufferRange, defineKernel, gpu } from "../../gpu/mod.ts";
import source from "../../../wgsl/attention.wgsl" with { type: "text" };
import paramsSource from "../../../wgsl/shared/attention_params.wgsl" with { type: "text" };
import decodeSource from "../../../wgsl/attention_decode.wgsl" with { type: "text" };
import { checkRounds, mostRounds } from "../grid.ts";
import { attentionTexture, decodeTexture } from "./attention_texture.ts";
import { shareOperands, TEXTURE_BYTES } from "./matmul_texture.ts";
import { record, recording } from "../tape.ts";
import { BYTES, empty, shapeError, type Tensor } from "../tensor.ts";

const kernel = defineKernel("attention", source, paramsSource);
const decodeKernel = defineKernel("attention_decode", decodeSource);
const MAX_HEAD_DIM = 256;
const EVERYTHING = 0xffffffff;
/** Query rows from which {@link attentionDecode} takes the training kernel: below it, lanes split the keys. */
const PREFILL_ROWS = 16;

/** Heads: `heads` query heads share `kvHeads` key and value heads in equal groups. */
export interface AttentionHeads {
  heads: number;
  kvHeads: number;
  headDim: number;
  /** Position j is visible to i only when `i - j < window`; default: all earlier positions. */
  window?: number | undefined;
  /** Factor on the scores; default `headDim ** -0.5`. */
  scale?: number | undefined;
}

/** Operands of {@link attention}. */
export interface AttentionOptions extends AttentionHeads {
  /** `[B*T, heads*headDim]`, after rotary embedding. */
  q: Tensor;
  /** `[B*T, kvHeads*headDim]` */
  k: Tensor;
  /** `[B*T, kvHeads*headDim]` */
  v: Tensor;
  /** `[B*T]` u32: the document of each position, 0 for padding. */
  segments: Tensor;
  batch: number;
  time: number;
  /** Mapping to invocations, for tests and benchmarks; default by adapter. */
  tiling?: AttentionTiling | undefined;
}

/** Part of a tensor as a binding that starts on a multiple of 256 bytes, and where in it the part begins. */
function part(
  t: Tensor,
  fromRow: number,
  toRow: number,
  rowElements: number,
): { range: BufferRange; base: number } {
  const size = BYTES[t.dtype];
  const begin = fromRow * rowElements * size;
  const aligned = Math.floor(begin / 256) * 256;
  return {
    range: { buffer: t.buffer, offset: t.offset + aligned, bytes: toRow * rowElements * size - aligned },
    base: (begin - aligned) / size,
  };
}

/** How rows map to invocations: see the header of `attention.wgsl`. */
export interface AttentionTiling {
  ROWS: number;
  ROW_LANES: number;
  HEAD_LANES: number;
  STEP: number;
}

/**
 * The default mapping to buffers. For GPUs (not measured): one row an invocation, so that all lanes load one address. On
 * llvmpipe, where operands are too long for {@link attentionTexture}, the loads seem to set the time (forward, dQ and
 * dK/dV took the same), so each serves many rows. 9 heads of 64, T = 128, batch 4, two busy cores, separate runs: forward
 * and dQ 160 ms with one row, 30 with 8; dK/dV 168 with one, 89 with 4 and 94 with 8, which compiled four times longer.
 * STEP 2 with 8 rows was slower. More than 8 rows was not tried.
 */
export function attentionTiling(
  headDim: number,
  adapter: AdapterKind,
  backwardKv = false,
): AttentionTiling {
  // SwiftShader compiles tiles of many rows for minutes, and this one in a tenth of a second
  if (adapter === "swiftshader") return { ROWS: 1, ROW_LANES: 8, HEAD_LANES: 1, STEP: 1 };
  if (adapter === "gpu") return { ROWS: 1, ROW_LANES: 64, HEAD_LANES: 1, STEP: headDim <= 128 ? 4 : 2 };
  const rows = headDim <= 64 ? 8 : headDim <= 128 ? 4 : 2;
  return { ROWS: backwardKv ? rows / 2 : rows, ROW_LANES: 1, HEAD_LANES: 8, STEP: 1 };
}

function checkHeads(op: string, { heads, kvHeads, headDim, window }: AttentionHeads): void {
  if (headDim % 4 !== 0 || headDim < 4 || headDim > MAX_HEAD_DIM) {
    throw new NibbleError(
      "tensor/head-dim",
      `${op}: head_dim ${headDim} is not a multiple of 4 up to ${MAX_HEAD_DIM}`,
      {
        where: "head_dim in config.json",
      },
    );
  }
  if (heads % kvHeads !== 0) {
    throw new NibbleError(
      "tensor/heads",
      `${op}: ${heads} heads cannot share ${kvHeads} key and value heads equally`,
      {
        where: "num_attention_heads and num_key_value_heads in config.json",
      },
    );
  }
  if (window !== undefined && !(window >= 1)) throw shapeError(op, `window ${window} is less than 1`);
}

/** What the kernels are told of the heads. */
export function headParams({ heads, kvHeads, headDim, window, scale }: AttentionHeads) {
  return {
    ...{ heads, kv_heads: kvHeads, window: Math.min(window ?? EVERYTHING, EVERYTHING) },
    scale: scale ?? headDim ** -0.5,
  };
}

interface Problem extends AttentionHeads {
  batch: number;
  /** Query rows of one batch element. */
  time: number;
  /** Key rows of one batch element, and how many of them hold something. */
  keys: number;
  start: number;
  segmented: boolean;
  tiling?: AttentionTiling | undefined;
}

type Operand = "q" | "k" | "v" | "segments" | "o" | "stats" | "dy" | "dq" | "dk" | "dv";
const KV: readonly string[] = ["k", "v", "dk", "dv"];

/** Launches one entry, over as many batch elements at a time as the widest operand's binding holds. */
function launch(entry: string, problem: Problem, operands: Partial<Record<Operand, Tensor>>): void {
  const { batch, time, keys, heads, kvHeads, headDim } = problem;
  const rowElements = (name: string) =>
    name === "segments" ? 1 : name === "stats" ? 2 * heads : (KV.includes(name) ? kvHeads : heads) * headDim;
  const rows = (name: string) => name === "segments" || KV.includes(name) ? keys : time;
  const widest = Math.max(...Object.keys(operands).map((name) => 4 * rows(name) * rowElements(name)));
  const texture = problem.tiling ? undefined : attentionTexture(entry, headDim, widest);
  const maxBinding = texture ? Math.min(gpu().maxBinding, TEXTURE_BYTES) : gpu().maxBinding;
  const fit = batch * widest <= maxBinding ? batch : Math.floor((maxBinding - 256) / widest);
  if (fit < 1) {
    throw new NibbleError(
      "tensor/binding",
      `attention: one sequence of ${Math.max(time, keys)} tokens needs ${widest} bytes`,
      {
        where: `${entry}; this device binds at most ${maxBinding} bytes`,
        remedy: "Lower max_length.",
      },
    );
  }
  const tiling = {
    ...(problem.tiling ?? attentionTiling(headDim, adapterKind(gpu()), entry === "backward_kv")),
  };
  if (entry === "backward_delta") Object.assign(tiling, { ROWS: 1, STEP: 1 });
  // dK and dV add up all query heads of a group: as many at a time as the rounds of a loop allow
  const each = entry === "backward_kv" ? heads / kvHeads : 1;
  // on buffers the steps and the searches for the next, on textures the steps and a look at every eighth row before
  const steps = entry === "backward_delta"
    ? 0
    : texture
    ? keys / texture.step + keys / 8
    : 2 * keys / tiling.STEP;
  checkRounds(`attention: a sequence of ${keys} tokens`, steps);
  const most = Math.min(each, Math.floor(mostRounds() / steps));
  for (let from = 0; from < batch; from += fit) {
    const to = Math.min(batch, from + fit);
    const bind: Record<string, BufferRange> = {};
    const base: Record<string, number> = {};
    for (const [name, t] of Object.entries(operands)) {
      const cut = part(t, from * rows(name), to * rows(name), rowElements(name));
      bind[name] = cut.range;
      base[name] = cut.base;
    }
    const params = {
      ...{ batch: to - from, time, keys, start: problem.start, ...headParams(problem) },
      q_base: (base.q ?? base.dy)! / 4,
      kv_base: (base.k ?? 0) / 4,
      row_base: base.stats! / 2,
      seg_base: problem.segmented ? base.segments ?? 0 : 0,
    };
    const consts = { HEAD_DIM: headDim, SEGMENTED: problem.segmented };
    for (let h_from = 0; h_from < each; h_from += most) {
      const part = { ...params, h_from, h_to: Math.min(each, h_from + most) };
      if (texture) {
        texture(consts, part, bind);
        continue;
      }
      gpu().kernels.launch(kernel, {
        entry,
        consts: { ...consts, ...tiling },
        ...{ params: part, bind },
        groups: [
          Math.ceil(time / (tiling.ROWS * tiling.ROW_LANES)),
          Math.ceil((entry === "backward_kv" ? kvHeads : heads) * (to - from) / tiling.HEAD_LANES),
        ],
      });
    }
  }
}

/**
 * `softmax(scale q kᵀ) v` for every head, where position j is visible to i when `j <= i`, both lie in the same
 * document and `i - j < window`. Rows of padding (segment 0) give zeros and take no gradient.
 *
 * The forward pass keeps one log-sum-exp a row and head; the backward pass computes the weights again from it
 * (Dao et al. 2022, FlashAttention, arXiv 2205.14135, appendix B). Sums run in a fixed order.
 *
 * @returns `[B*T, heads*headDim]`
 * @throws NibbleError `tensor/shape`, `tensor/head-dim`, `tensor/heads`; `tensor/binding` when one sequence's
 * queries exceed the device's largest binding
 * @example
 * ```ts
 * import { openGpu } from "../../gpu/mod.ts";
 * import { tensor } from "../tensor.ts";
 * import { attention } from "./attention.ts";
 * await openGpu();
 * const one = tensor([1, 0, 0, 0, 1, 0, 0, 0], [2, 4]); // two positions, one head of 4
 * const segments = tensor(Uint32Array.of(1, 2), [2]); // two documents: each sees itself alone
 * const o = attention({ q: one, k: one, v: one, segments, batch: 1, time: 2, heads: 1, kvHeads: 1, headDim: 4 });
 * if (Math.abs((await o.data())[4]! - 1) > 1e-6) throw new Error("a lone position attends to itself");
 * ```
 */
export function attention(options: AttentionOptions): Tensor {
  const { q, k, v, segments, batch, time, heads, kvHeads, headDim } = options;
  checkHeads("attention", options);
  const rows = batch * time;
  if (
    q.size !== rows * heads * headDim || k.size !== rows * kvHeads * headDim || v.size !== k.size ||
    segments.size !== rows
  ) {
    throw shapeError(
      "attention",
      `q [${q.shape}], k [${k.shape}], v [${v.shape}], segments [${segments.shape}] for batch ${batch}, time ${time}, ` +
        `${heads} heads on ${kvHeads} of ${headDim}`,
    );
  }
  const problem: Problem = { ...options, keys: time, start: 0, segmented: true };
  const o = empty([rows, heads * headDim]);
  const stats = empty([rows, heads, 2]);
  launch("forward", problem, { q, k, v, segments, o, stats });
  if (!recording() || !(q.requiresGrad || k.requiresGrad || v.requiresGrad)) {
    stats.dispose();
    return o;
  }
  return record("attention", o, [q, k, v], (dy) => {
    launch("backward_delta", problem, { dy, o, stats });
    const dq = q.requiresGrad ? empty(q.shape) : undefined;
    let dk: Tensor | undefined, dv: Tensor | undefined;
    shareOperands([q, k, v, dy], () => {
      if (dq) launch("backward_q", problem, { q, k, v, segments, dy, stats, dq });
      if (!k.requiresGrad && !v.requiresGrad) return;
      dk = empty(k.shape);
      dv = empty(v.shape);
      launch("backward_kv", problem, { q, k, v, segments, dy, stats, dk, dv });
    });
    stats.dispose(); // the walk comes here once
    return [dq, dk, dv];
  });
}

/** Operands of {@link attentionDecode}. */
export interface AttentionDecodeOptions extends AttentionHeads {
  /** `[M, heads*headDim]`: consecutive positions `start .. start + M - 1`. */
  q: Tensor;
  /** `[capacity, kvHeads*headDim]`, filled up to `start + M`. */
  kCache: Tensor;
  /** `[capacity, kvHeads*headDim]` */
  vCache: Tensor;
  /** Position of the first query row. */
  start: number;
}

/**
 * Attention of new rows over a key-value cache, for prefill (many rows) and for generation (one row). Write the
 * rows' own keys and values first with {@link writeCache}. Not recorded.
 *
 * @returns `[M, heads*headDim]`
 * @throws NibbleError `tensor/shape` when the cache is too short; `tensor/binding` when it exceeds one binding
 */
export function attentionDecode(options: AttentionDecodeOptions): Tensor {
  const { q, kCache, vCache, start, heads, kvHeads, headDim } = options;
  checkHeads("attentionDecode", options);
  const rows = q.size / (heads * headDim);
  const capacity = kCache.size / (kvHeads * headDim);
  if (
    !Number.isInteger(rows) || !Number.isInteger(capacity) || vCache.size !== kCache.size ||
    start + rows > capacity
  ) {
    throw shapeError(
      "attentionDecode",
      `q [${q.shape}] at position ${start} over caches [${kCache.shape}] and [${vCache.shape}], ` +
        `${heads} heads on ${kvHeads} of ${headDim}`,
    );
  }
  const o = empty([rows, heads * headDim]);
  if (rows >= PREFILL_ROWS) {
    const stats = empty([rows, heads, 2]);
    const problem: Problem = {
      ...options,
      batch: 1,
      time: rows,
      keys: start + rows,
      start,
      segmented: false,
    };
    // one document: the segments' binding must be there and is never read
    launch("forward", problem, { q, k: kCache, v: vCache, segments: q, o, stats });
    stats.dispose();
    return o;
  }
  // the whole cache is bound, so that one bind group serves every position
  if (kCache.bytes > gpu().maxBinding) {
    throw new NibbleError("tensor/binding", `attentionDecode: a cache of ${kCache.bytes} bytes`, {
      where: `${capacity} positions; this device binds at most ${gpu().maxBinding} bytes`,
      remedy: "Lower max_new_tokens.",
    });
  }
  const params = { start, ...headParams(options) };
  const groups = [heads, rows] as const, used = 4 * (start + rows) * kvHeads * headDim;
  const cache = { k: { ...kCache.range, bytes: used }, v: { ...vCache.range, bytes: used } };
  if (decodeTexture(headDim, params, { q: q.range, ...cache, o: o.range }, groups)) return o;
  checkRounds(`attentionDecode: a cache of ${start + rows} tokens`, 3.1 * (start + rows)); // each is looked at 3 times
  gpu().kernels.launch(decodeKernel, {
    consts: { HEAD_DIM: headDim },
    bind: { q: q.range, k: kCache.range, v: vCache.range, o: o.range },
    ...{ params, groups },
  });
  return o;
}

/**
 * Copies `rows` (`[M, C]`) into `cache` (`[capacity, C]`) from row `start` on.
 *
 * @throws NibbleError `tensor/shape` when they do not fit
 */
export function writeCache(cache: Tensor, rows: Tensor, start: number): void {
  if (
    cache.dtype !== rows.dtype || cache.columns !== rows.columns || start + rows.rows > cache.rows ||
    start < 0
  ) {
    throw shapeError(
      "writeCache",
      `[${rows.shape}] ${rows.dtype} at row ${start} of [${cache.shape}] ${cache.dtype}`,
    );
  }
  const row = cache.columns * BYTES[cache.dtype];
  gpu().stream.copy(rows.buffer, rows.offset, cache.buffer, cache.offset + start * row, rows.bytes);
}
