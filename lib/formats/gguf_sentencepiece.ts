/**
 * SentencePiece BPE as merge rules: its vocabulary has a score a piece in place of an ordered list of merges.
 * @module
 */

/** A merge: `"left right"`, or a pair where a piece holds a space of its own. */
export type MergeRule = string | [string, string];

/**
 * Merge rules that segment as SentencePiece does: every way to cut a piece into two pieces is a rule, and rules
 * rank by the score of the piece they make, then (as transformers' converter has it) by the ids of the halves.
 * @param pieces ordinary pieces with their scores: no control, unknown or byte tokens
 * @param vocab ids of all tokens
 *
 * @example
 * ```ts
 * import { sentencePieceMerges } from "./gguf_sentencepiece.ts";
 * const vocab = { a: 0, b: 1, ab: 2, abb: 3 };
 * const pieces = [{ text: "ab", score: -1 }, { text: "abb", score: -2 }];
 * const merges = sentencePieceMerges(pieces, vocab);
 * if (merges.join() !== "a b,ab b") throw new Error(merges.join());
 * ```
 */
export function sentencePieceMerges(
  pieces: Iterable<{ text: string; score: number }>,
  vocab: Record<string, number>,
): MergeRule[] {
  const ids = new Map(Object.entries(vocab));
  const rules: {
    left: string;
    right: string;
    score: number;
    l: number;
    r: number;
    lengths: [number, number];
  }[] = [];
  for (const { text, score } of pieces) {
    const local = [];
    const characters = [...text]; // by code point: a cut inside a surrogate pair would be no piece
    let left = "";
    for (let cut = 1; cut < characters.length; cut++) {
      left += characters[cut - 1];
      const right = text.slice(left.length);
      const [l, r] = [ids.get(left), ids.get(right)];
      if (l === undefined || r === undefined) continue;
      const lengths: [number, number] = [cut, characters.length - cut];
      local.push({ left, right, score, l, r, lengths });
    }
    rules.push(...local.sort((a, b) => a.l - b.l || a.r - b.r));
  }
  rules.sort((a, b) => b.score - a.score || b.lengths[0] - a.lengths[0] || b.lengths[1] - a.lengths[1]);
  return rules.map(({ left, right }) =>
    left.includes(" ") || right.includes(" ") ? [left, right] : `${left} ${right}`
  );
}
