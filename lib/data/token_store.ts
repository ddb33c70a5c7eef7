/**
 * Token sequences by number: in memory as typed arrays, or left in a file and read when they are asked for.
 * @module
 */
import { createHash } from "node:crypto";
import type { TokenSequence } from "./pack.ts";

/** Sequences in the order of their rows. */
export interface TokenStore {
  /** How many. */
  readonly count: number;
  /** Tokens of each. */
  readonly lengths: Uint32Array;
  /** One of them; a copy that may be kept. */
  at(i: number): TokenSequence;
  /** SHA-256 over tokens, targets and order. */
  digest(): string;
}

/** Words that are hashed at once: 4 MiB. */
const PIECE = 1 << 20;

/** Marks a token that is a target of the loss: ids stay far below 2^31. */
export const TRAINED = 0x80000000;

/** A sequence as the words that stores keep: 4 bytes a token, the target's mark in the highest bit. */
export function toWords({ ids, trained }: TokenSequence): Uint32Array<ArrayBuffer> {
  return Uint32Array.from({ length: ids.length }, (_, i) => (ids[i]! | (trained[i] ? TRAINED : 0)) >>> 0);
}

/** The sequence of some words. */
export function fromWords(words: Uint32Array, row: number): TokenSequence {
  return {
    ids: words.map((word) => word & ~TRAINED),
    trained: Uint8Array.from(words, (word) => word >>> 31),
    row,
  };
}

/**
 * A store over words that can be read from anywhere.
 *
 * @param lengths tokens of each sequence, in the order of the words
 * @param rows row number of each; the store is in their order
 * @param read the words from `start` to `end`
 */
export function storeOf(
  lengths: Uint32Array,
  rows: Uint32Array,
  read: (start: number, end: number) => Uint32Array,
): TokenStore {
  const starts = new Float64Array(lengths.length + 1); // exact beyond 2^32 tokens
  lengths.forEach((length, i) => starts[i + 1] = starts[i]! + length);
  const order = Uint32Array.from(lengths.keys()).sort((a, b) => rows[a]! - rows[b]! || a - b);
  return {
    count: lengths.length,
    lengths: order.map((i) => lengths[i]!),
    at(i) {
      const place = order[i]!;
      return fromWords(read(starts[place]!, starts[place + 1]!), rows[place]!);
    },
    digest() {
      const hash = createHash("sha256").update(lengths).update(order);
      const total = starts.at(-1)!;
      for (let at = 0; at < total; at += PIECE) hash.update(read(at, Math.min(total, at + PIECE)));
      return hash.digest("hex");
    },
  };
}

/** A store in memory: 4 bytes a token. */
export function memoryStore(sequences: readonly TokenSequence[]): TokenStore {
  const lengths = Uint32Array.from(sequences, ({ ids }) => ids.length);
  const words = new Uint32Array(lengths.reduce((a, b) => a + b, 0));
  let at = 0;
  for (const sequence of sequences) {
    words.set(toWords(sequence), at);
    at += sequence.ids.length;
  }
  const rows = Uint32Array.from(sequences, ({ row }) => row);
  return storeOf(lengths, rows, (start, end) => words.subarray(start, end));
}
