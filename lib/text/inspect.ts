/**
 * Seeing what is trained: the tokens of an example, marked by its mask.
 * @module
 */
import type { EncodedExample, Tokenizer } from "./types.ts";

/** Settings of {@link inspectExample}. */
export interface InspectOptions {
  /** Colours for a terminal: trained green, context grey. Default: brackets in plain text. */
  color?: boolean;
  /** Also separate single tokens with a middle dot. Default false. */
  tokens?: boolean;
  /** What the last line calls the example. Default: its row. */
  title?: string;
}

const GREEN = "\x1b[32m", GREY = "\x1b[90m", RESET = "\x1b[0m";

/**
 * The text of an example with its targets marked: `⟦...⟧` (or green) are trained, the rest is context. Newlines are
 * shown as `↵` besides being broken, since a newline inside or outside the mask is a usual mistake.
 *
 * @example
 * ```ts
 * import { createTokenizer, inspectExample } from "./mod.ts";
 * const tok = createTokenizer({
 *   tokenizerJson: { model: { type: "BPE", vocab: { a: 0, b: 1, c: 2 }, merges: [] } },
 * });
 * const seen = inspectExample(tok, { ids: [0, 1, 2], trained: [false, true, true], row: 1 });
 * if (!seen.startsWith("a⟦bc⟧")) throw new Error(seen);
 * ```
 */
export function inspectExample(
  tok: Tokenizer,
  example: EncodedExample,
  options: InspectOptions = {},
): string {
  const { ids, trained } = example;
  const [open, close] = options.color ? [GREEN, RESET] : ["⟦", "⟧"];
  const [dim, undim] = options.color ? [GREY, RESET] : ["", ""];
  const parts: string[] = [];
  for (let from = 0; from < ids.length;) {
    let to = from + 1;
    while (to < ids.length && trained[to] === trained[from]) to++;
    const text = runText(tok, ids.slice(from, to), options.tokens ?? false).replaceAll("\n", "↵\n");
    parts.push(trained[from] ? open + text + close : dim + text + undim);
    from = to;
  }
  const count = trained.filter(Boolean).length;
  const share = ids.length === 0 ? 0 : 100 * count / ids.length;
  const cut = example.truncated
    ? `, ${example.truncated} cut off${example.answerCut ? " (answer not whole)" : ""}`
    : "";
  return `${parts.join("")}\n[${
    options.title ?? `row ${example.row}`
  }: ${ids.length} tokens, ${count} trained (${share.toFixed(1)} %)${cut}]`;
}

/** Text of a run of tokens; bytes are joined first, since one character may be spread over several tokens. */
function runText(tok: Tokenizer, ids: number[], separate: boolean): string {
  const decoder = new TextDecoder();
  const pieces: string[] = [];
  for (const id of ids) {
    const piece = decoder.decode(tok.tokenBytes(id), { stream: true });
    if (piece !== "") pieces.push(piece);
  }
  const rest = decoder.decode();
  if (rest !== "") pieces.push(rest);
  return pieces.join(separate ? "·" : "");
}
