/**
 * Text token by token: what the model reads, and what of it the loss counts.
 * @module
 */
import { inspectExample, type Tokenizer } from "../text/mod.ts";
import { escapeHtml } from "./html.ts";
import type { MimeBundle } from "./kernel.ts";
import { showBundle } from "./show.ts";

/** A sequence with a mark or a number for each token. */
export interface TokenView {
  /** Token ids. */
  ids: readonly number[];
  /** Which tokens are targets of the loss. */
  trained?: readonly boolean[] | undefined;
  /** A number for each token, 0 to 1: drawn as depth of colour instead of the mask. */
  weights?: ArrayLike<number> | undefined;
}

/**
 * Shows tokens side by side. Targets of the loss are coloured, underlined and bold, so that no eye depends on the
 * colour; the rest is context. Newlines are drawn as `↵`.
 *
 * @example
 * ```ts
 * import { showTokens } from "./tokens.ts";
 * import { createTokenizer } from "../text/mod.ts";
 * const tokenizer = createTokenizer({
 *   tokenizerJson: { model: { type: "BPE", vocab: { a: 0, b: 1 }, merges: [] } },
 * });
 * await showTokens(tokenizer, { ids: [0, 1], trained: [false, true] });
 * ```
 */
export async function showTokens(tokenizer: Tokenizer, view: TokenView): Promise<void> {
  await showBundle(tokensBundle(tokenizer, view));
}

/** The forms of a sequence. */
export function tokensBundle(tokenizer: Tokenizer, { ids, trained, weights }: TokenView): MimeBundle {
  const mask = trained ?? ids.map(() => false);
  const decoder = new TextDecoder();
  const spans = ids.map((id, i) => {
    const piece = decoder.decode(tokenizer.tokenBytes(id)).replaceAll("\ufffd", "·");
    const label = escapeHtml(piece).replaceAll(" ", "&nbsp;").replaceAll("\n", "↵");
    const look = weights
      ? `background:rgba(0,114,178,${(0.75 * Math.min(1, Math.max(0, weights[i]!))).toFixed(2)})`
      : mask[i]
      ? "background:rgba(0,114,178,.28);font-weight:600;text-decoration:underline"
      : "background:rgba(128,128,128,.13)";
    const title = weights
      ? `token ${id}: ${weights[i]!.toPrecision(3)}`
      : `token ${id}${mask[i] ? ", trained" : ""}`;
    const broken = piece.endsWith("\n") ? "<br>" : "";
    return `<span title="${title}" style="${look};padding:1px 2px;margin:1px;border-radius:3px">${label}</span>${broken}`;
  });
  const text = inspectExample(tokenizer, { ids: [...ids], trained: [...mask], row: 1 }, { tokens: true });
  return {
    "text/html": `<div style="line-height:1.9;font-family:monospace">${spans.join("")}</div>`,
    "text/plain": text.replace(/\n\[row 1: (.*)\]$/s, trained ? "\n[$1]" : ""),
  };
}
