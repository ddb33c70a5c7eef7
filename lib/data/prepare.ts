/**
 * From examples to tokens, with an account of what was kept, cut and left out (R1, R24).
 * @module
 */
import { NibbleError } from "../errors.ts";
import {
  encodeChat,
  type EncodedExample,
  encodePromptCompletion,
  encodeText,
  type Message,
  type Tokenizer,
} from "../text/mod.ts";
import { type DataIssue, type Example, type ExampleSet, listIssues } from "./columns.ts";
import { type DataReport, newReport } from "./report.ts";

/** How to turn examples into tokens; the names are TRL's and the handbook's. */
export interface EncodeSettings {
  /** Keep so many tokens. Absent: all. */
  max_length?: number | undefined;
  /** Which end of a longer sequence is kept. Default `keep_start`. */
  truncation_mode?: "keep_start" | "keep_end" | undefined;
  /** Conversations: train on the assistant's turns only. Default false, as in TRL. */
  assistant_only_loss?: boolean | undefined;
  /** Prompt and completion: train on the completion only. Default true, as in TRL. */
  completion_only_loss?: boolean | undefined;
  /** Plain text: append EOS. Default true. */
  add_eos?: boolean | undefined;
  /** Legacy recipes: put an empty system message first where the template knows one. Default false. */
  auto_insert_empty_system_msg?: boolean | undefined;
  /** See `ChatOptions.bos`. Default `auto`. */
  bos?: "auto" | "template" | undefined;
}

/** Encoded examples and the account of them. */
export interface Prepared<T> {
  /** What is trained on, in row order. */
  examples: T[];
  /** What happened to the rows. */
  report: DataReport;
}

/**
 * Encodes every example (`messages`, `text`, `prompt_completion`). Those without a single target, because of the mask
 * or because `max_length` cut the answer off, are left out and listed; if nothing is left that is an error, never a
 * silent loss of 0 (R1).
 *
 * Throws {@link NibbleError} `data/nothing-to-train`, `data/wrong-kind`, and the errors of lib/text.
 */
export function encodeExamples(
  tok: Tokenizer,
  set: ExampleSet,
  settings: EncodeSettings = {},
): Prepared<EncodedExample> {
  const examples: EncodedExample[] = [];
  const report = newReport(set);
  for (const example of set.examples) {
    const encoded = encodeOne(tok, example, settings);
    if (keep(report, example, [encoded])) examples.push(encoded);
  }
  checkLeft(examples.length, report, settings);
  return { examples, report };
}

/** The tokens of one example. */
export function encodeOne(tok: Tokenizer, example: Example, settings: EncodeSettings): EncodedExample {
  const options = shared(example, settings);
  switch (example.kind) {
    case "messages":
      return encodeChat(tok, withSystem(tok, example.messages, settings), {
        ...options,
        assistantOnly: settings.assistant_only_loss ?? false,
      });
    case "text":
      return encodeText(tok, example.text, { ...options, addEos: settings.add_eos ?? true });
    case "prompt_completion":
      return encodePromptCompletion(tok, withSystem(tok, example.prompt, settings), example.completion, {
        ...options,
        completionOnly: settings.completion_only_loss ?? true,
        addEos: settings.add_eos ?? true,
      });
    case "preference":
    case "judged":
      throw wrongKind(example, "messages, text, or prompt + completion");
  }
}

function shared(example: Example, settings: EncodeSettings) {
  const { row, where, variables } = example;
  const { max_length: maxLength, truncation_mode: truncationMode, bos } = settings;
  return { row, where, variables, maxLength, truncationMode, bos };
}

/** The legacy scripts' rule: an empty system turn, if the template has system turns and the conversation none. */
export function withSystem<T extends string | Message[]>(
  tok: Tokenizer,
  messages: T,
  settings: Pick<EncodeSettings, "auto_insert_empty_system_msg">,
): T {
  if (
    !settings.auto_insert_empty_system_msg || typeof messages === "string" || messages[0]?.role === "system"
  ) {
    return messages;
  }
  return /system|<\|im_start\|>/.test(tok.chatTemplate ?? "")
    ? [{ role: "system", content: "" }, ...messages as Message[]] as T
    : messages;
}

/** Counts an example's sequences in; false if one of them has no target, and the example is to be left out. */
export function keep(report: DataReport, example: Example, sequences: EncodedExample[]): boolean {
  const { row, where } = example;
  // Token 0 has no predecessor that could predict it.
  const targets = sequences.map((s) =>
    s.trained.reduce((n, trained, i) => n + (trained && i > 0 ? 1 : 0), 0)
  );
  if (targets.includes(0)) {
    const cut = sequences.some((s) => s.answerCut);
    report.dropped.push({
      row,
      where,
      problem: cut ? "max_length cuts the whole answer off" : "no trained token",
    });
    return false;
  }
  report.kept++;
  for (const s of sequences) report.tokens += s.ids.length;
  for (const n of targets) report.trainedTokens += n;
  if (sequences.some((s) => s.truncated)) report.truncated++;
  if (sequences.some((s) => s.answerCut)) {
    report.answersCut.push({ row, where, problem: "max_length cuts the answer" });
  }
  if (sequences.some((s) => s.stops === false)) report.withoutStop++;
  report.longest = Math.max(report.longest, ...sequences.map((s) => s.ids.length));
  return true;
}

/** Refuses a set of which nothing is left. */
export function checkLeft(
  count: number,
  report: DataReport,
  settings: Pick<EncodeSettings, "max_length">,
): void {
  if (count > 0) return;
  const dropped: DataIssue[] = report.dropped;
  throw new NibbleError("data/nothing-to-train", `None of the ${report.rows} rows has a token to train on`, {
    where: listIssues(dropped, 5),
    remedy: dropped.some((issue) => issue.problem.includes("max_length"))
      ? `Raise max_length (it is ${settings.max_length}).`
      : "Look at one row with inspectExample; set assistant_only_loss: false if there are no assistant turns.",
  });
}

/** The error for rows of a form that the task cannot use. */
export function wrongKind(example: Example, wanted: string): NibbleError {
  return new NibbleError("data/wrong-kind", `These rows hold ${example.kind}, but ${wanted} is needed`, {
    where: example.where,
    remedy: "Choose the task that fits the data: SFT for answers, DPO or ORPO for preferences.",
  });
}
