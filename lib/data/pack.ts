/**
 * Packing: several examples in one row, each a segment of its own, so that no token sees another document and no
 * label crosses from one to the next (R22).
 * @module
 */
import { NibbleError } from "../errors.ts";

/** Tokens of one example, with the targets of the loss marked; what lib/text encodes fits as it is. */
export interface TokenSequence {
  /** Token ids. */
  ids: ArrayLike<number>;
  /** Whether each token is a target of the loss. */
  trained: ArrayLike<boolean | number>;
  /** Row number in the data set, from 1. */
  row: number;
}

/** Label of positions that are not trained. */
export const IGNORE_INDEX: number = -100;

/** TRL's names: best fit decreasing (truncating or splitting), concatenate and cut, or one example a row. */
export type PackingStrategy = "bfd" | "bfd_split" | "wrapped" | "none";

/** One row of a batch: all arrays have its length T. */
export interface Packed {
  /** Token ids (T). */
  ids: Uint32Array;
  /** The next token where it is a target and of the same document, else -100 (T): already shifted. */
  labels: Int32Array;
  /** Position within the document, from 0 (T). */
  positions: Uint32Array;
  /** Document number within the row, from 1 (T); 0 is padding. */
  segments: Uint32Array;
  /** The data set rows of the documents, in order. */
  rows: number[];
}

/** A piece of a sequence: its number, and the tokens from `start` to `end`. */
interface Piece {
  sequence: number;
  start: number;
  end: number;
}

/** Which pieces make up each packed row. 12 bytes a piece and 8 a row, whatever the tokens take. */
export interface PackPlan {
  /** Packed rows. */
  readonly count: number;
  /** Tokens of each. */
  readonly lengths: Uint32Array;
  /** The packed row itself. */
  join(row: number, padId?: number): Packed;
}

/** Rows that TRL packs at a time: its map works in batches of this size. */
const GROUP = 1000;

/**
 * Packs examples into rows of at most `length` tokens. With `padId`, packed rows (not those of `none`) are filled up
 * with padding to exactly `length`, so that all batches have one shape; without it {@link collate} pads what it must.
 *
 * - `bfd`: best fit decreasing, per 1000 examples; examples longer than `length` are truncated.
 * - `bfd_split`: the same, but longer examples are split, and nothing is lost.
 * - `wrapped`: all tokens in order, cut every `length`; the last row may be shorter. A document that runs over a cut
 *   goes on as a new segment, with no view of what came before.
 * - `none`: one example a row, truncated.
 *
 * Throws {@link NibbleError} `data/bad-length`.
 *
 * @example
 * ```ts
 * import { packExamples } from "./mod.ts";
 * const example = (row: number, ...ids: number[]) => ({ ids, trained: ids.map(() => true), row });
 * const rows = packExamples([example(1, 1, 2, 3, 4, 5), example(2, 6, 7), example(3, 8, 9, 10), example(4, 11)], 4, "bfd");
 * if (rows.map((r) => r.ids.join()).join(" ") !== "1,2,3,4 8,9,10,11 6,7") throw new Error("TRL's order");
 * if (rows[1].labels.join() !== "9,10,-100,-100") throw new Error("no label from one document to the next");
 * ```
 */
export function packExamples(
  examples: readonly TokenSequence[],
  length: number,
  strategy: PackingStrategy,
  padId?: number,
): Packed[] {
  const lengths = Uint32Array.from(examples, ({ ids }) => ids.length);
  const plan = planPacks({ lengths, at: (i) => examples[i]! }, length, strategy);
  return Array.from({ length: plan.count }, (_, row) => plan.join(row, padId));
}

/**
 * {@link packExamples} for sequences that are fetched when their row is: only lengths are looked at beforehand.
 *
 * Throws {@link NibbleError} `data/bad-length`.
 */
export function planPacks(
  sequences: { readonly lengths: ArrayLike<number>; at(i: number): TokenSequence },
  length: number,
  strategy: PackingStrategy,
): PackPlan {
  if (!Number.isInteger(length) || length < 2) {
    throw new NibbleError("data/bad-length", `Rows cannot be ${length} tokens long`, {
      where: "max_length",
      remedy: "Set max_length to a whole number of tokens, at least 2.",
    });
  }
  const flat: number[] = [], firsts: number[] = [0], lengths: number[] = [];
  const place = (pieces: Piece[]) => {
    for (const { sequence, start, end } of pieces) flat.push(sequence, start, end);
    firsts.push(flat.length / 3);
    lengths.push(pieces.reduce((n, piece) => n + piece.end - piece.start, 0));
  };
  const filled = Array.from(sequences.lengths, (n, i) => n > 0 ? i : -1).filter((i) => i >= 0);
  const size = (i: number) => sequences.lengths[i]!;
  const whole = (i: number): Piece => ({ sequence: i, start: 0, end: Math.min(size(i), length) });
  if (strategy === "none") filled.forEach((i) => place([whole(i)]));
  else if (strategy === "wrapped") wrap(filled, size, length, place);
  else {
    for (let from = 0; from < filled.length; from += GROUP) {
      const group = filled.slice(from, from + GROUP);
      const pieces = strategy === "bfd" ? group.map(whole) : group.flatMap((i) => split(i, size(i), length));
      bestFit(pieces, length).forEach(place);
    }
  }
  const table = Uint32Array.from(flat), offsets = Uint32Array.from(firsts);
  return {
    count: lengths.length,
    lengths: Uint32Array.from(lengths),
    join(row, padId) {
      const pieces = Array.from({ length: offsets[row + 1]! - offsets[row]! }, (_, i) => {
        const at = 3 * (offsets[row]! + i);
        return { sequence: sequences.at(table[at]!), start: table[at + 1]!, end: table[at + 2]! };
      });
      return joinPieces(pieces, strategy === "none" ? undefined : length, padId);
    },
  };
}

function split(sequence: number, size: number, length: number): Piece[] {
  const pieces: Piece[] = [];
  for (let start = 0; start < size; start += length) {
    pieces.push({ sequence, start, end: Math.min(start + length, size) });
  }
  return pieces;
}

/** All tokens in order, cut every `length`. */
function wrap(
  sequences: readonly number[],
  size: (i: number) => number,
  length: number,
  place: (pieces: Piece[]) => void,
): void {
  let pieces: Piece[] = [];
  let room = length;
  for (const sequence of sequences) {
    for (let start = 0; start < size(sequence);) {
      const end = Math.min(size(sequence), start + room);
      pieces.push({ sequence, start, end });
      room -= end - start;
      start = end;
      if (room === 0) {
        place(pieces);
        pieces = [];
        room = length;
      }
    }
  }
  if (pieces.length > 0) place(pieces);
}

/**
 * Longest first, each into the row with the least room that still fits; of rows with the same room, the one that has
 * had it longest. A tree over the amounts of room finds that row in log(length) steps.
 */
function bestFit(pieces: Piece[], length: number): Piece[][] {
  const size = (piece: Piece) => piece.end - piece.start;
  const bins: Piece[][] = [];
  const byRoom: number[][] = Array.from({ length: length + 1 }, () => []); // room -> bins, oldest first
  let leaves = 1;
  while (leaves <= length) leaves *= 2;
  const some = new Uint8Array(2 * leaves); // is there a bin with room in this node's range?
  const mark = (room: number, value: number) => {
    let node = leaves + room;
    some[node] = value;
    while ((node >>= 1) > 0) some[node] = some[2 * node] | some[2 * node + 1];
  };
  const leastRoom = (atLeast: number): number | undefined => {
    let node = leaves + atLeast;
    if (some[node]) return atLeast;
    // Up until a right neighbour has something, then down its left edge.
    while (node > 1 && !(node % 2 === 0 && some[node + 1])) node >>= 1;
    if (node <= 1) return undefined;
    node++;
    while (node < leaves) node = some[2 * node] ? 2 * node : 2 * node + 1;
    return node - leaves;
  };
  for (const piece of pieces.toSorted((a, b) => size(b) - size(a))) { // a stable sort, as Arrow's
    const room = leastRoom(size(piece));
    const bin = room === undefined ? bins.push([]) - 1 : byRoom[room].shift()!;
    if (room !== undefined && byRoom[room].length === 0) mark(room, 0);
    bins[bin].push(piece);
    const left = (room ?? length) - size(piece);
    byRoom[left].push(bin);
    if (left > 0) mark(left, 1);
  }
  return bins;
}

function joinPieces(
  pieces: readonly { sequence: TokenSequence; start: number; end: number }[],
  length?: number,
  padId?: number,
): Packed {
  const real = pieces.reduce((n, piece) => n + piece.end - piece.start, 0);
  const total = length === undefined || padId === undefined ? real : length;
  const ids = new Uint32Array(total).fill(padId ?? 0, real),
    labels = new Int32Array(total).fill(IGNORE_INDEX);
  const positions = new Uint32Array(total), segments = new Uint32Array(total);
  let at = 0;
  pieces.forEach(({ sequence, start, end }, s) => {
    for (let i = start; i < end; i++, at++) {
      ids[at] = sequence.ids[i]!;
      positions[at] = i - start;
      segments[at] = s + 1;
      if (i + 1 < end && sequence.trained[i + 1]) labels[at] = sequence.ids[i + 1]!;
    }
  });
  return { ids, labels, positions, segments, rows: pieces.map(({ sequence }) => sequence.row) };
}
