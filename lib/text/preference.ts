/**
 * Preferences as tokens: a prompt and the answers that were judged.
 * @module
 */
import { NibbleError } from "../errors.ts";
import { markTokens } from "./align.ts";
import { appendEos, type ChatOptions, withBos } from "./encode.ts";
import type { EncodedExample, Message, Tokenizer } from "./types.ts";

/** Token ids of a prompt and of an answer to it; their sequence is one after the other. */
export interface AnswerIds {
  /** BOS included, where there is one. */
  prompt: number[];
  /** EOS included. */
  answer: number[];
  /** Tokens of the prompt that no cut removes: 1 where it begins with the tokenizer's own BOS, else 0. */
  bos: 0 | 1;
}

/** Where the row is, for messages, and how it is rendered. */
export interface AnswerOptions extends ChatOptions {
  /** Row number in the data set, from 1. */
  row: number;
  /** The row as an error message should name it. */
  where?: string | undefined;
}

/**
 * Encodes a prompt with one or more answers to it, each as one text, as TRL's DPOTrainer did until 0.9 and does
 * since 1.0, and 0.19's ORPOTrainer and KTOTrainer do: a token across the boundary belongs to the answer, EOS is
 * appended where an answer does not end in it. A conversation's prompt is rendered with the generation prompt, and
 * ends where it ceases to be the beginning of every answer's render. BOS is added by the rule of all of nibble ({@link ChatOptions.bos}): where the tokenizer adds it.
 *
 * (The DPOTrainer of 0.19 encodes prompt and answer apart, without BOS, and always appends EOS: the same ids where
 * no token may lie across the boundary, no BOS is due and no answer ends in EOS.)
 *
 * @throws NibbleError `text/mixed-pair`, `text/template-*`, `text/double-bos`, with the row
 */
export function encodeAnswers(
  tok: Tokenizer,
  prompt: string | Message[],
  answers: readonly (string | Message[])[],
  options: AnswerOptions,
): AnswerIds[] {
  const where = options.where ?? `row ${options.row}`;
  const render = (messages: Message[], addGenerationPrompt = false) =>
    tok.renderChat(messages, {
      where,
      addGenerationPrompt,
      ...(options.variables ? { variables: options.variables } : {}),
    });
  const texts = answers.map((answer) => {
    if (typeof prompt === "string" && typeof answer === "string") return prompt + answer;
    if (typeof prompt !== "string" && typeof answer !== "string") return render([...prompt, ...answer]);
    throw new NibbleError(
      "text/mixed-pair",
      "Prompt and answers must all be texts or all lists of messages",
      {
        where,
        remedy: "Write them in the same form.",
      },
    );
  });
  const head = typeof prompt === "string" ? prompt : render(prompt, prompt.at(-1)?.role !== "assistant");
  const shared = texts.reduce((n, text) => Math.min(n, commonPrefix(head, text)), head.length);
  return texts.map((text) => {
    const plain = tok.encode(text, { addSpecialTokens: false });
    const marked = markTokens(tok, plain, text, [[shared, text.length]]).indexOf(true);
    const cut = marked < 0 ? plain.length : marked;
    const ids = withBos(tok, plain, options.bos, where);
    const start = cut + ids.length - plain.length;
    const answer = ids.slice(start);
    appendEos(tok, answer, true);
    return {
      prompt: ids.slice(0, start),
      answer,
      bos: start > 0 && tok.addsBos && ids[0] === tok.bosId ? 1 : 0,
    };
  });
}

function commonPrefix(a: string, b: string): number {
  let n = 0;
  while (n < a.length && a[n] === b[n]) n++;
  return n;
}

/** Lengths of a preference's sequences, under TRL's names; absent: no limit. */
export interface AnswerLimits {
  max_length?: number | undefined;
  max_prompt_length?: number | undefined;
  max_completion_length?: number | undefined;
  truncation_mode?: "keep_start" | "keep_end" | undefined;
}

/** Cuts one sequence to the limits. `longest`: tokens of the longest answer to the prompt. */
export type CutAnswer = (
  ids: AnswerIds,
  limits: AnswerLimits,
  longest: number,
) => [prompt: number[], answer: number[]];

/**
 * How each trainer of TRL 0.19 cuts; here a BOS stays in front of what is cut behind it.
 *
 * - `each`, DPO: the prompt keeps its last tokens and the answer its first; then the whole keeps one end.
 * - `prompt_first`, ORPO and KTO (and DPO until TRL 0.9): nothing as long as the whole fits; else the prompt keeps
 *   one end of `max_prompt_length` tokens, and where that does not do, the answer its beginning.
 */
export const CUTS: Readonly<Record<"each" | "prompt_first", CutAnswer>> = {
  each({ prompt, answer, bos }, limits) {
    const { max_length = Infinity, max_prompt_length = Infinity, max_completion_length, truncation_mode } =
      limits;
    const head = lastOf(prompt, max_prompt_length, bos), kept = answer.slice(0, max_completion_length);
    const surplus = head.length + kept.length - max_length;
    if (surplus <= 0) return [head, kept];
    if (truncation_mode === "keep_start") {
      return [head.slice(0, max_length), kept.slice(0, Math.max(0, max_length - head.length))];
    }
    const room = Math.max(bos, head.length - surplus);
    return [lastOf(head, room, bos), kept.slice(room - max_length)];
  },
  prompt_first({ prompt, answer, bos }, limits, longest) {
    const { max_length = Infinity, max_prompt_length = Infinity, truncation_mode } = limits;
    if (prompt.length + longest <= max_length) return [prompt, answer];
    const head = truncation_mode === "keep_start"
      ? prompt.slice(0, max_prompt_length)
      : lastOf(prompt, max_prompt_length, bos);
    if (head.length + longest <= max_length) return [head, answer];
    return [head, answer.slice(0, Math.max(0, max_length - head.length))];
  },
};

/** The last `n` tokens of a prompt, the first `bos` of them its own first. */
function lastOf(prompt: number[], n: number, bos: number): number[] {
  return prompt.length <= n ? prompt : [...prompt.slice(0, bos), ...prompt.slice(prompt.length - n + bos)];
}

/** The sequence of a prompt and an answer, cut to the limits, the answer its target. */
export function joinAnswer(
  ids: AnswerIds,
  how: keyof typeof CUTS,
  limits: AnswerLimits,
  row: number,
  longest = ids.answer.length,
): EncodedExample {
  const [prompt, answer] = CUTS[how](ids, limits, longest);
  const surplus = ids.prompt.length + ids.answer.length - prompt.length - answer.length;
  return {
    ids: [...prompt, ...answer],
    trained: [...prompt.map(() => false), ...answer.map(() => true)],
    row,
    ...(surplus > 0 ? { truncated: surplus } : {}),
    ...(answer.length < ids.answer.length ? { answerCut: true } : {}),
  };
}
