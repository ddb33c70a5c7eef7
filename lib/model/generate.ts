/**
 * Generation with a cache of keys and values.
 * @module
 */
import { NibbleError } from "../errors.ts";
import { type BufferRange, gpu } from "../gpu/mod.ts";
import { argmax } from "../tensor/ops/argmax.ts";
import { attentionDecode, writeCache } from "../tensor/ops/attention.ts";
import { gatherRows } from "../tensor/ops/embedding.ts";
import { holdTextures } from "../tensor/ops/matmul_texture.ts";
import { noGrad } from "../tensor/tape.ts";
import { empty, keep, scope, Tensor, tensor } from "../tensor/tensor.ts";
import { applyNorm, blockForward, type Pass } from "./block.ts";
import { applyHead, embed, type Model } from "./model.ts";
import { type TokenBlock, tokenBlocks } from "./token_block.ts";
import { checkLimits, randomNumbers, sampleToken, type SamplingOptions } from "./sample.ts";

/** Options of {@link generate}. */
export interface GenerateOptions extends SamplingOptions {
  /** Tokens to write at most; default 128. */
  max_new_tokens?: number;
  /** Tokens that end the text; default the config's `eos_token_id`. */
  eos_token_id?: readonly number[];
  /** Keep weights in the form that generation reads, up to 512 MiB, while it lasts (llvmpipe); default true. */
  holdWeights?: boolean;
  /** Called with every token as it is chosen. */
  onToken?: (id: number) => void;
  /** Ends the text after the token in progress; the reason is then `aborted`. */
  signal?: AbortSignal;
}

/** What {@link generate} returns. */
export interface Generation {
  /** The new tokens, without the stop token. */
  ids: number[];
  /** `stop`: an end token came; `length`: the limit; `aborted`: the signal. */
  reason: "stop" | "length" | "aborted";
  /** Seconds for the prompt. */
  prefillSeconds: number;
  /** Seconds for the new tokens. */
  decodeSeconds: number;
}

/** Texts after which the buffers of other lengths are given up. */
const IDLE = 2;
/** Prompt tokens handled at a time. */
const PREFILL = 256;
/**
 * Tokens chosen on the device between two readbacks, of which each costs 10 ms in Deno: at most so many, and what comes in
 * this time, since they reach the reader together and those after a stop token are for nothing.
 */
const AHEAD = 16, AHEAD_MS = 250;

/**
 * Continues a prompt. The prompt runs in pieces of 256 tokens, then one token at a time over the cache. Where the
 * likeliest token is taken as it is, the device chooses it and goes on; the host reads several at once.
 *
 * @throws NibbleError `model/too-long` when the prompt fills the positions the model was loaded for,
 *   `model/empty-prompt`, `model/sampling`
 */
export async function generate(
  model: Model,
  prompt: readonly number[],
  options: GenerateOptions = {},
): Promise<Generation> {
  const { config } = model;
  const limit = model.positions;
  const wanted = options.max_new_tokens ?? 128;
  checkLimits(options);
  if (prompt.length === 0) {
    throw new NibbleError("model/empty-prompt", "The prompt has no tokens", {
      remedy: "Give at least one, such as the tokenizer's bos_token.",
    });
  }
  if (prompt.length >= limit) {
    throw new NibbleError(
      "model/too-long",
      `The prompt has ${prompt.length} tokens, the model ${limit} positions`,
      {
        where: model.path,
        remedy:
          "Shorten it by its oldest turns, or load the model with more maxPositions, if it was trained for them.",
      },
    );
  }
  if (wanted === 0) return { ids: [], reason: "length", prefillSeconds: 0, decodeSeconds: 0 };
  const capacity = Math.min(limit, prompt.length + wanted);
  const width = config.num_key_value_heads * config.head_dim;
  const caches = model.blocks.map(() => ({
    k: keep(empty([capacity, width])),
    v: keep(empty([capacity, width])),
  }));
  const constants = new Map<object, Record<string, Tensor>>();
  const stops = new Set(options.eos_token_id ?? config.eos_token_id);
  const random = randomNumbers(options.seed ?? 0);
  const greedy = (options.temperature ?? 0) <= 0 && (options.repetition_penalty ?? 1) === 1;
  const ids: number[] = [];
  const hold = options.holdWeights ?? true;
  using _held = hold ? holdTextures() : undefined;
  let held: TokenBlock[] | undefined;
  const started = performance.now();
  let prefilled = started, began = started;
  let reason: Generation["reason"] = "length";
  try {
    /** The blocks for one token at a time, made when the first comes. */
    const ready = () => held ??= hold ? tokenBlocks(model, caches) : [];
    const drop = () => held = void held?.forEach((block) => block.dispose());
    /** Runs the tokens from position `start` on, which end the sequence. */
    const feed = (tokens: readonly number[], start: number): Tensor => {
      let row: Tensor | undefined;
      if (tokens.length > 1) drop();
      for (let from = 0; from < tokens.length; from += PREFILL) {
        row?.dispose();
        row = advance(
          model,
          tokens.slice(from, from + PREFILL),
          start + from,
          start + tokens.length,
          caches,
          constants,
          tokens.length === 1 ? ready() : [],
        );
      }
      return row!;
    };
    /** The token at `position` by its logits, and up to `most - 1` after it. */
    const choose = async (row: Tensor, position: number, most: number): Promise<number[]> => {
      if (!greedy) {
        const scores = await row.data();
        row.dispose();
        return [sampleToken(scores, [...prompt, ...ids], options, random)];
      }
      const chosen = [argmax(row)];
      row.dispose();
      try {
        for (let at = position; chosen.length < most && at < capacity; at++) {
          if (model.rope?.renews(at + 1)) break;
          const next = advance(model, chosen.at(-1)!, at, at + 1, caches, constants, ready());
          chosen.push(argmax(next));
          next.dispose();
        }
        const read = await gpu().stream.read(chosen.map((t) => t.range as Required<BufferRange>));
        return read.map((bytes) => new Uint32Array(bytes)[0]!);
      } finally {
        chosen.forEach((t) => t.dispose());
      }
    };
    /** Takes a token up; true when it is the last. */
    const takes = (id: number): boolean => {
      if (stops.has(id)) {
        reason = "stop";
        return true;
      }
      ids.push(id);
      options.onToken?.(id);
      if (options.signal?.aborted) reason = "aborted";
      return reason === "aborted" || ids.length >= wanted;
    };
    let ahead = 1;
    for (let row = feed(prompt, 0), position = prompt.length;;) {
      const next = await choose(row, position, Math.min(ahead, wanted - ids.length));
      const first = ids.length === 0, now = performance.now();
      if (first) prefilled = now;
      const inTime = first ? 1 : Math.floor(AHEAD_MS * next.length / (now - began));
      ahead = Math.max(1, Math.min(AHEAD, first ? 1 : 2 * ahead, inTime));
      if (next.some(takes)) break;
      position += next.length;
      if (position > capacity) break;
      began = now;
      row = model.rope?.renews(position) ? feed([...prompt, ...ids], 0) : feed([ids.at(-1)!], position - 1);
    }
  } finally {
    for (const owned of [...caches, ...constants.values()]) Object.values(owned).forEach((t) => t.dispose());
    held?.forEach((block) => block.dispose());
    gpu().pool.age(IDLE);
  }
  return {
    ids,
    reason,
    prefillSeconds: (prefilled - started) / 1000,
    decodeSeconds: (performance.now() - prefilled) / 1000,
  };
}

/**
 * Runs tokens at positions `start ...` of a sequence of `length` positions so far, and returns the logits of the last
 * one, `[1, V]`.
 */
function advance(
  model: Model,
  ids: readonly number[] | Tensor,
  start: number,
  length: number,
  caches: readonly { k: Tensor; v: Tensor }[],
  constants: Map<object, Record<string, Tensor>>,
  held: readonly TokenBlock[],
): Tensor {
  const { config: c } = model;
  const { num_attention_heads: heads, num_key_value_heads: kvHeads, head_dim: headDim } = c;
  return noGrad(() =>
    keep(scope(() => {
      const rows = ids instanceof Tensor ? ids.size : ids.length;
      const positionIds = Uint32Array.from({ length: rows }, (_, i) => start + i);
      const pass: Pass = {
        context: { dropoutSeed: undefined, constants },
        positions: tensor(positionIds, [rows]),
        table: model.rope?.forLength(length),
        attend(i, q, k, v) {
          const { k: kCache, v: vCache } = caches[i]!;
          writeCache(kCache, k, start);
          writeCache(vCache, v, start);
          const { window, scale } = c.layers[i]!;
          return attentionDecode({ q, kCache, vCache, start, heads, kvHeads, headDim, window, scale });
        },
      };
      let x = embed(model, ids instanceof Tensor ? ids : Uint32Array.from(ids), positionIds);
      const one = rows === 1 ? held : [];
      model.blocks.forEach((block, i) =>
        x = scope(() => one[i] ? one[i].forward(x, start, pass.table) : blockForward(c, block, i, x, pass))
      );
      const n = applyNorm(c, x, model.norm);
      return applyHead(model, n.rows === 1 ? n : gatherRows(n, Uint32Array.of(n.rows - 1)));
    }))
  );
}
