/**
 * Packing: several examples in one row, each a segment of its own, so that no token sees another document and no
 * label crosses from one to the next (R22).
 * @module
 */
import { NibbleError } from "../errors.ts";
import type { EncodedExample } from "../text/mod.ts";

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

/** A piece of an example. */
interface Piece {
  example: EncodedExample;
  start: number;
  end: number;
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
  examples: readonly EncodedExample[],
  length: number,
  strategy: PackingStrategy,
  padId?: number,
): Packed[] {
  if (!Number.isInteger(length) || length < 2) {
    throw new NibbleError("data/bad-length", `Rows cannot be ${length} tokens long`, {
      where: "max_length",
      remedy: "Set max_length to a whole number of tokens, at least 2.",
    });
  }
  const filled = examples.filter((example) => example.ids.length > 0);
  const whole = (example: EncodedExample) => ({
    example,
    start: 0,
    end: Math.min(example.ids.length, length),
  });
  if (strategy === "none") return filled.map((example) => joinPieces([whole(example)]));
  if (strategy === "wrapped") return wrap(filled, length).map((pieces) => joinPieces(pieces, length, padId));
  const packed: Packed[] = [];
  for (let from = 0; from < filled.length; from += GROUP) {
    const group = filled.slice(from, from + GROUP);
    const pieces = strategy === "bfd" ? group.map(whole) : group.flatMap((example) => split(example, length));
    for (const bin of bestFit(pieces, length)) packed.push(joinPieces(bin, length, padId));
  }
  return packed;
}

function split(example: EncodedExample, length: number): Piece[] {
  const pieces: Piece[] = [];
  for (let start = 0; start < example.ids.length; start += length) {
    pieces.push({ example, start, end: Math.min(start + length, example.ids.length) });
  }
  return pieces;
}

function wrap(examples: readonly EncodedExample[], length: number): Piece[][] {
  const rows: Piece[][] = [];
  let room = 0;
  for (const example of examples) {
    for (let start = 0; start < example.ids.length;) {
      if (room === 0) {
        rows.push([]);
        room = length;
      }
      const end = Math.min(example.ids.length, start + room);
      rows.at(-1)!.push({ example, start, end });
      room -= end - start;
      start = end;
    }
  }
  return rows;
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

function joinPieces(pieces: Piece[], length?: number, padId?: number): Packed {
  const real = pieces.reduce((n, piece) => n + piece.end - piece.start, 0);
  const total = length === undefined || padId === undefined ? real : length;
  const ids = new Uint32Array(total).fill(padId ?? 0, real),
    labels = new Int32Array(total).fill(IGNORE_INDEX);
  const positions = new Uint32Array(total), segments = new Uint32Array(total);
  let at = 0;
  pieces.forEach(({ example, start, end }, s) => {
    for (let i = start; i < end; i++, at++) {
      ids[at] = example.ids[i];
      positions[at] = i - start;
      segments[at] = s + 1;
      if (i + 1 < end && example.trained[i + 1]) labels[at] = example.ids[i + 1];
    }
  });
  return { ids, labels, positions, segments, rows: pieces.map((piece) => piece.example.row) };
}
