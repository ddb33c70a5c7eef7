/**
 * Which tokens touch which characters. Tokenizers say nothing about offsets here, so the bytes that each token
 * stands for are walked along the text.
 * @module
 */
import type { Tokenizer } from "./types.ts";

/** A stretch of text, in UTF-16 units: `[start, end)`. */
export type Span = readonly [start: number, end: number];

const SPACE = 0x20;

/**
 * Marks the tokens that hold at least one character of the spans. `ids` must be the text's tokens without added
 * BOS/EOS. A token across a boundary is marked: what the model has to write must not go untrained.
 *
 * Tokens are placed by their bytes. Where a normalizer changes the text (NFC, lower case) so that bytes do not match,
 * the tokens of the text before each boundary are compared instead.
 */
export function markTokens(
  tok: Tokenizer,
  ids: readonly number[],
  text: string,
  spans: readonly Span[],
): boolean[] {
  const places = walk(tok, ids, new TextEncoder().encode(text));
  if (places === undefined) return markByPrefix(tok, ids, text, spans);
  const byteAt = (index: number) => new TextEncoder().encode(text.slice(0, index)).length;
  return markPlaces(places, spans.map(([start, end]) => [byteAt(start), byteAt(end)]));
}

/** The byte ranges of tokens, two numbers a token; undefined if the tokens' bytes are not the text's. */
function walk(tok: Tokenizer, ids: readonly number[], text: Uint8Array): Uint32Array | undefined {
  const places = new Uint32Array(ids.length * 2);
  let at = 0;
  for (let i = 0; i < ids.length; i++) {
    const bytes = tok.tokenBytes(ids[i]);
    let from = at;
    // Some added tokens swallow the white space around them.
    if (tok.isAdded(ids[i])) { while (!startsAt(text, from, bytes) && isSpace(text[from])) from++; }
    let length = bytes.length;
    if (!startsAt(text, from, bytes)) {
      // A space that the tokenizer put before a word, and that the text does not have.
      if (bytes[0] !== SPACE || !startsAt(text, from, bytes.subarray(1))) {
        // White space swallowed after an added token.
        if (i === 0 || !tok.isAdded(ids[i - 1])) return undefined;
        while (!startsAt(text, from, bytes) && isSpace(text[from])) from++;
        if (!startsAt(text, from, bytes)) return undefined;
      } else {
        length--;
      }
    }
    places[2 * i] = from;
    places[2 * i + 1] = at = from + length;
  }
  while (at < text.length && isSpace(text[at])) at++;
  return at === text.length ? places : undefined;
}

function startsAt(text: Uint8Array, at: number, part: Uint8Array): boolean {
  if (at + part.length > text.length) return false;
  for (let i = 0; i < part.length; i++) if (text[at + i] !== part[i]) return false;
  return true;
}

function isSpace(byte: number | undefined): boolean {
  return byte === SPACE || (byte !== undefined && byte >= 9 && byte <= 13);
}

function markPlaces(places: Uint32Array, spans: readonly Span[]): boolean[] {
  const marked: boolean[] = [];
  let s = 0;
  for (let i = 0; i < places.length; i += 2) {
    const from = places[i], to = places[i + 1];
    while (s < spans.length && spans[s][1] <= from) s++;
    // A token without characters (the mark before a word) belongs to what follows it.
    marked.push(s < spans.length && (to > from ? to > spans[s][0] : from >= spans[s][0]));
  }
  return marked;
}

/** Tokens shared by the whole text and by the text up to a boundary lie before the boundary. */
function markByPrefix(
  tok: Tokenizer,
  ids: readonly number[],
  text: string,
  spans: readonly Span[],
): boolean[] {
  const marked = new Array<boolean>(ids.length).fill(false);
  const shared = (end: number): [count: number, whole: boolean] => {
    const head = tok.encode(text.slice(0, end), { addSpecialTokens: false });
    let n = 0;
    while (n < head.length && head[n] === ids[n]) n++;
    return [n, n === head.length];
  };
  for (const [start, end] of spans) {
    const [from] = shared(start);
    const [to, whole] = shared(end);
    marked.fill(true, from, whole ? to : to + 1);
  }
  return marked;
}
