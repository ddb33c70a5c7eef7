/**
 * Exercises: an answer is compared with what is right, and where it is wrong the usual mistake is named.
 * @module
 */
import { Tensor } from "../tensor/tensor.ts";
import { escapeHtml, figures } from "./html.ts";
import type { MimeBundle } from "./kernel.ts";
import { showBundle } from "./show.ts";

/** What an answer may be: a number, numbers, a tensor, a text or a truth value. */
export type Answer = number | string | boolean | ArrayLike<number> | Tensor;

/** An answer that people give, or what tells it, and what to say to it. */
export type Mistake = readonly [given: Answer | ((answer: number[]) => boolean), say: string];

/** Options of {@link check}. */
export interface CheckOptions {
  /** What is right. */
  expected: Answer;
  /** Largest difference, in shares of the largest expected magnitude; default 0.001. */
  tolerance?: number;
  /** Usual mistakes: values, or functions of the answer's numbers. */
  mistakes?: readonly Mistake[];
  /** Said when the answer is right. */
  right?: string;
  /** Said when it is wrong in no usual way. */
  hint?: string;
}

/** What a check found. */
export interface Verdict {
  outcome: "right" | "wrong" | "empty";
  message: string;
}

/**
 * Checks an answer and says what is the matter with it. A wrong answer is no error: the notebook goes on.
 *
 * @param answer undefined while nothing was filled in
 * @example
 * ```ts
 * import { check } from "./exercise.ts";
 * await check("bits a weight", 32 / 64, {
 *   expected: 0.5,
 *   mistakes: [[32, "That is a block's; 64 weights share it."]],
 * });
 * ```
 */
export async function check(name: string, answer: Answer | undefined, options: CheckOptions): Promise<void> {
  await showBundle(verdictBundle(name, await judge(answer, options)));
}

/** The verdict on an answer. */
export async function judge(answer: Answer | undefined, options: CheckOptions): Promise<Verdict> {
  const { mistakes = [], hint, tolerance = 1e-3 } = options;
  if (answer === undefined || answer === "") {
    return { outcome: "empty", message: "Nothing filled in yet: replace the blank and run the cell again." };
  }
  const [got, want] = [await numbersOf(answer), await numbersOf(options.expected)];
  const wrong = (message: string): Verdict => ({ outcome: "wrong", message });
  if (typeof got === "string" || typeof want === "string") {
    if (got === want) return { outcome: "right", message: options.right ?? "" };
  } else {
    const problem = got.findIndex((v) => !Number.isFinite(v));
    if (same(got, want, tolerance)) return { outcome: "right", message: options.right ?? "" };
    if (problem >= 0) return wrong(`Number ${problem} of your answer is ${got[problem]}.`);
  }
  for (const [given, say] of mistakes) {
    if (typeof given === "function") {
      if (typeof got !== "string" && given(got)) return wrong(say);
      continue;
    }
    const value = await numbersOf(given);
    if (typeof got === "string" || typeof value === "string" ? got === value : same(got, value, tolerance)) {
      return wrong(say);
    }
  }
  if (typeof got !== "string" && typeof want !== "string" && got.length !== want.length) {
    return wrong(`Your answer has ${got.length} numbers, it should have ${want.length}.`);
  }
  return wrong([difference(got, want), hint].filter(Boolean).join(" "));
}

/** Where the first number lies that differs most; nothing for single values, whose answer that would be. */
function difference(got: number[] | string, want: number[] | string): string {
  if (typeof got === "string" || typeof want === "string" || got.length < 2) return "";
  let worst = 0;
  got.forEach((v, i) => {
    if (Math.abs(v - want[i]!) > Math.abs(got[worst]! - want[worst]!)) worst = i;
  });
  return `Number ${worst} is ${figures(got[worst]!)} where ${figures(want[worst]!)} belongs.`;
}

async function numbersOf(answer: Answer): Promise<number[] | string> {
  if (typeof answer === "string") return answer.trim();
  if (typeof answer === "number") return [answer];
  if (typeof answer === "boolean") return String(answer);
  return answer instanceof Tensor ? [...await answer.data()] : Array.from(answer);
}

function same(got: readonly number[], want: readonly number[], tolerance: number): boolean {
  const most = want.reduce((a, v) => Math.max(a, Math.abs(v)), 0);
  return got.length === want.length && got.every((v, i) => Math.abs(v - want[i]!) <= tolerance * (most || 1));
}

const LOOK = {
  right: { mark: "✓", word: "Right.", colour: "#009e73" },
  wrong: { mark: "✗", word: "Not right yet.", colour: "#d55e00" },
  empty: { mark: "…", word: "", colour: "#8b949e" },
};

/** A verdict as a coloured line; mark and word say the same without the colour. */
function verdictBundle(name: string, { outcome, message }: Verdict): MimeBundle {
  const { mark, word, colour } = LOOK[outcome];
  const text = [word, message].filter(Boolean).join(" ");
  return {
    "text/html": `<div style="border-left:4px solid ${colour};padding:4px 12px" role="status"><b>${mark} ` +
      `${escapeHtml(name)}</b> ${escapeHtml(text)}</div>`,
    "text/plain": `${mark} ${name}: ${text}`,
  };
}
