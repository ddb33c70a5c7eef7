/**
 * Where the assistant's turns are in a rendered conversation, found by rendering prefixes: no template has to say
 * `{% generation %}`, and hardly any does (R2).
 * @module
 */
import { NibbleError } from "../errors.ts";
import { renderGeneration } from "./template.ts";
import type { Span } from "./align.ts";
import type { Message, RenderOptions, Tokenizer } from "./types.ts";

/** A rendered conversation with the stretches that the assistant wrote. */
export interface RenderedChat {
  /** The whole text. */
  text: string;
  /** The assistant's turns, each with its stop token and without the newline after that. */
  spans: Span[];
  /** False if a turn has no stop token: from such data a model cannot learn to stop. */
  stops: boolean;
}

/**
 * Renders a conversation and finds the assistant's turns.
 *
 * Where the template says itself what the model writes, in `{% generation %}` blocks, that is it, as in Transformers.
 * Else prefixes are rendered, and no template has to say it:
 *
 * Turn i starts where the render of messages before it, with the generation prompt, ends: exactly where the model
 * starts to write when it is used. It ends where the render of messages up to it ends. Templates that render a turn
 * differently when others follow (reasoning dropped from earlier turns) break that for some turns; there the
 * content is located by rendering the conversation with the content exchanged.
 *
 * Throws {@link NibbleError} `text/template-*` when the template refuses or fails, and `text/turn-not-found`.
 */
export function renderWithSpans(
  tok: Tokenizer,
  messages: Message[],
  options: RenderOptions = {},
): RenderedChat {
  const { addGenerationPrompt: _, ...settings } = options;
  const marked = renderGeneration(
    tok.chatTemplate ?? "",
    (marks) => tok.renderChat(messages, { ...settings, variables: { ...settings.variables, ...marks } }),
  );
  if (marked && marked.spans.length > 0) {
    return {
      ...marked,
      stops: marked.spans.every(([from, to]) => endsInStop(tok, marked.text.slice(from, to))),
    };
  }
  const text = tok.renderChat(messages, settings);
  const spans: Span[] = [];
  let stops = true;
  const prefix = (count: number, addGenerationPrompt: boolean): string | undefined => {
    if (count === messages.length && !addGenerationPrompt) return text;
    try {
      const part = tok.renderChat(messages.slice(0, count), { ...settings, addGenerationPrompt });
      return text.startsWith(part) ? part : undefined;
    } catch (error) {
      if (error instanceof NibbleError) return undefined; // a prefix may be no valid conversation
      throw error;
    }
  };
  messages.forEach((message, i) => {
    if (message.role !== "assistant") return;
    let content: Span | undefined;
    const find = () => content ??= locateContent(tok, messages, i, text, settings);
    const before = spans.at(-1)?.[1] ?? 0;
    const head = prefix(i, true);
    const start = Math.max(head === undefined ? find()[0] : head.length, before);
    const whole = prefix(i + 1, false);
    const [end, stop] = whole !== undefined && whole.length > start
      ? trimTurn(tok, text.slice(start, whole.length), start)
      : extendToStop(tok, text, Math.max(find()[1], start));
    spans.push([start, end]);
    stops &&= stop;
  });
  return { text, spans, stops };
}

/** Cuts the white space after a turn's stop token. Without a stop token the white space is all that ends the turn. */
function trimTurn(tok: Tokenizer, turn: string, start: number): [end: number, stop: boolean] {
  const stop = endsInStop(tok, turn);
  return [start + (stop ? turn.trimEnd().length : turn.length), stop];
}

/** Whether a text ends in a special token, white space after it aside: without one a model cannot learn to stop. */
export function endsInStop(tok: Tokenizer, text: string): boolean {
  const ids = tok.encode(text.trimEnd(), { addSpecialTokens: false });
  return ids.length > 0 && tok.isSpecial(ids[ids.length - 1]!);
}

/** Extends a content's end over the special token behind it, if there is one. */
function extendToStop(tok: Tokenizer, text: string, end: number): [end: number, stop: boolean] {
  const rest = text.slice(end);
  const gap = rest.length - rest.trimStart().length;
  // Long enough for any special token, and not so long that a conversation is encoded over and over.
  const [first] = tok.encode(rest.slice(gap, gap + 64), { addSpecialTokens: false });
  if (first === undefined || !tok.isSpecial(first)) return [end, false];
  return [end + gap + tok.tokenOf(first)!.length, true];
}

/** Where message i's content stands, by rendering with two other contents that share neither first nor last letter. */
function locateContent(
  tok: Tokenizer,
  messages: Message[],
  i: number,
  text: string,
  settings: RenderOptions,
): Span {
  const [a, b] = ["\uE000.\uE000", "\uE001.\uE001"].map((content) =>
    tok.renderChat(messages.map((m, j) => j === i ? { ...m, content } : m), settings)
  );
  let start = 0;
  while (start < a.length && a[start] === b[start]) start++;
  let tail = 0;
  while (tail < a.length - start && a[a.length - 1 - tail] === b[b.length - 1 - tail]) tail++;
  const fits = text.startsWith(a.slice(0, start)) && text.endsWith(a.slice(a.length - tail));
  if (!fits || start + tail > text.length || start === a.length) {
    throw new NibbleError(
      "text/turn-not-found",
      `Cannot find message ${i + 1} (assistant) in the rendered text`,
      {
        where: settings.where ?? "chat_template",
        remedy:
          "The template renders this turn depending on its content: set assistant_only_loss: false, or a " +
          "simpler chat_template.",
      },
    );
  }
  return [start, text.length - tail];
}
