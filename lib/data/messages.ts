/**
 * Messages as data sets write them: roles, contents, and the prompt of a preference pair.
 * @module
 */
import type { Message } from "../text/mod.ts";
import { kindOf, RowProblem } from "./problems.ts";

const ROLES = new Set(["system", "developer", "user", "assistant", "tool", "function", "ipython"]);
/** ShareGPT's names. */
const FROM: Record<string, string> = {
  human: "user",
  user: "user",
  gpt: "assistant",
  chatgpt: "assistant",
  assistant: "assistant",
  system: "system",
  tool: "tool",
};

/**
 * Reads a list of messages: `{role, content}`, or ShareGPT's `{from, value}`. Other keys stay. Only a system message,
 * or an assistant turn that calls a tool, may be empty. Throws a {@link RowProblem}.
 */
export function readMessages(value: unknown, column: string): Message[] {
  if (!Array.isArray(value)) {
    throw new RowProblem(`${column} is ${kindOf(value)}, not a list of messages`, true);
  }
  if (value.length === 0) throw new RowProblem(`${column} is empty`);
  return value.map((entry, i) => {
    const at = `${column}[${i}]`;
    if (typeof entry !== "object" || entry === null) {
      throw new RowProblem(`${at} is ${kindOf(entry)}, not a message`, true);
    }
    const message = entry as Record<string, unknown>;
    const role = "role" in message ? message.role : FROM[String(message.from)];
    if (typeof role !== "string" || !ROLES.has(role)) {
      const found = JSON.stringify(message.role ?? message.from) ?? "missing";
      throw new RowProblem(`${at} has the role ${found}; known are ${[...ROLES].join(", ")}`, true);
    }
    const calls = Array.isArray(message.tool_calls) && message.tool_calls.length > 0;
    const content = readContent("content" in message ? message.content : message.value, at, calls);
    if (content.trim() === "" && !calls && (role === "user" || role === "assistant")) {
      throw new RowProblem(`${at} (${role}) is empty`);
    }
    const { from: _from, value: _value, ...rest } = message;
    return { ...("role" in message ? message : rest), role, content };
  });
}

/** Text, or a list of parts of type text. */
function readContent(value: unknown, at: string, calls: boolean): string {
  if (typeof value === "string") return value;
  if ((value === null || value === undefined) && calls) return "";
  if (Array.isArray(value)) {
    return value.map((part) => {
      if (typeof part?.text === "string" && (part.type ?? "text") === "text") return part.text;
      throw new RowProblem(
        `${at} has a part of type ${JSON.stringify(part?.type)}; only text can be trained`,
        true,
      );
    }).join("");
  }
  if (value === null) throw new RowProblem(`${at} has no content`);
  throw new RowProblem(`${at}.content is ${kindOf(value)}, not text`, true);
}

/** Prompt, chosen and rejected, apart. */
export interface PreferenceParts {
  /** What both answers answer. */
  prompt: string | Message[];
  /** The preferred answer. */
  chosen: string | Message[];
  /** The other answer. */
  rejected: string | Message[];
}

/** Takes the prompt as given, or from the beginning that both answers share (TRL's `extract_prompt`). */
export function extractPrompt(
  given: string | Message[] | undefined,
  chosen: string | Message[],
  rejected: string | Message[],
): PreferenceParts {
  if (typeof chosen === "string" || typeof rejected === "string") {
    const [a, b] = [chosen as string, rejected as string];
    if (typeof given === "string") return { prompt: given, chosen: a, rejected: b };
    if (given !== undefined) {
      throw new RowProblem("prompt is a list of messages, chosen and rejected are text", true);
    }
    let shared = 0;
    while (shared < a.length && a[shared] === b[shared]) shared++;
    if (a[shared - 1] === " ") shared--; // the space belongs to the first word of the answer
    return answered({ prompt: a.slice(0, shared), chosen: a.slice(shared), rejected: b.slice(shared) });
  }
  let shared = 0;
  while (shared < chosen.length && shared < rejected.length && same(chosen[shared], rejected[shared])) {
    shared++;
  }
  if (Array.isArray(given)) {
    // Some sets repeat the explicit prompt at the head of both answers.
    const repeated = shared >= given.length && given.every((m, i) => same(m, chosen[i]));
    const drop = repeated ? given.length : 0;
    return answered({ prompt: given, chosen: chosen.slice(drop), rejected: rejected.slice(drop) });
  }
  const prompt = shared === 0 && given !== undefined
    ? [{ role: "user", content: given }]
    : chosen.slice(0, shared);
  return answered({ prompt, chosen: chosen.slice(shared), rejected: rejected.slice(shared) });
}

function answered(parts: PreferenceParts): PreferenceParts {
  for (const name of ["prompt", "chosen", "rejected"] as const) {
    if (parts[name].length === 0) {
      throw new RowProblem(`nothing is left for ${name} beside what the answers share`);
    }
  }
  for (const name of ["chosen", "rejected"] as const) {
    const answer = parts[name];
    if (Array.isArray(answer) && !answer.some((m) => m.role === "assistant")) {
      throw new RowProblem(`${name} has no assistant turn`);
    }
  }
  return parts;
}

function same(a: Message, b: Message): boolean {
  return a.role === b.role && a.content === b.content;
}
