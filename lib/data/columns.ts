/**
 * From rows to examples: which columns a data set has, and whether each row can be used (R24).
 * @module
 */
import { NibbleError } from "../errors.ts";
import type { Message } from "../text/mod.ts";
import { extractPrompt, readMessages } from "./messages.ts";
import { kindOf, RowProblem } from "./problems.ts";
import { nameRow, type Row } from "./rows.ts";

/** What is known of every example, whatever its kind. */
export interface ExampleBase {
  /** Row number, from 1, in the order given. */
  row: number;
  /** The row as a message should name it: file and line, or the number. */
  where: string;
  /** Template variables of the row: `chat_template_kwargs`, `tools`. */
  variables?: Record<string, unknown>;
}

/** A usable row. */
export type Example =
  | ExampleBase & { kind: "messages"; messages: Message[] }
  | ExampleBase & { kind: "text"; text: string }
  | ExampleBase & { kind: "prompt_completion"; prompt: string | Message[]; completion: string | Message[] }
  | ExampleBase & {
    kind: "preference";
    prompt: string | Message[];
    chosen: string | Message[];
    rejected: string | Message[];
  }
  | ExampleBase & {
    kind: "judged";
    prompt: string | Message[];
    completion: string | Message[];
    /** Whether the answer is a desirable one. */
    label: boolean;
  };

/** The forms of data. */
export type ExampleKind = Example["kind"];

/** A row that was left out, and why. */
export interface DataIssue {
  /** Row number, from 1. */
  row: number;
  /** File and line, or the number. */
  where: string;
  /** What is wrong with it. */
  problem: string;
}

/** Examples of one kind. */
export interface ExampleSet {
  /** The form of all examples. */
  kind: ExampleKind;
  /** The columns it was recognised by. */
  columns: string[];
  /** Usable rows. */
  examples: Example[];
  /** Rows left out. */
  issues: DataIssue[];
}

/** Settings of {@link toExamples}. */
export interface ToExamplesOptions {
  /**
   * What the rows are for. Preference data are taken as such only for `preference`, and for `judged`, where answers
   * with a label are taken too. Default `sft`.
   */
  task?: "sft" | "preference" | "judged" | "text";
  /** Column of plain text (`dataset_text_field`, `text_column`). Default `text`. */
  text_column?: string | undefined;
}

type Reader = (row: Row) => Pick<Example, "kind"> & Record<string, unknown>;

/**
 * Recognises the columns and reads every row. Forms, the first that fits: `messages`; `conversations` (ShareGPT);
 * `prompt` + `completion`; `instruction` + `input` + `output` (Alpaca); a text column; for preferences `chosen` +
 * `rejected`, with `prompt` or with the prompt as their common beginning; for judged answers also `prompt` +
 * `completion` + `label`.
 *
 * Rows that cannot be used (an empty turn, no answer) are left out and listed. Rows of the wrong form (unknown roles,
 * content that is no text) end in one {@link NibbleError} `data/bad-rows` that lists them. Others:
 * `data/no-columns`, `data/no-usable-rows`, `data/empty`.
 *
 * @example
 * ```ts
 * import { toExamples } from "./mod.ts";
 * const set = toExamples([{ instruction: "Add.", input: "2 and 2", output: "4" }, { instruction: "Add.", output: "" }]);
 * const [first] = set.examples;
 * if (first.kind !== "messages" || first.messages[0].content !== "Add.\n\n2 and 2") throw new Error("joined");
 * if (set.issues[0].row !== 2) throw new Error("the empty answer is left out");
 * ```
 */
export function toExamples(rows: readonly Row[], options: ToExamplesOptions = {}): ExampleSet {
  const reader = exampleReader(options);
  const examples = rows.flatMap((row, i) => reader.read(row, i + 1) ?? []);
  return { ...reader.end(), examples };
}

/** Reads rows one by one, as {@link toExamples} does all at once. */
export interface ExampleReader {
  /** The example of a row, or undefined where it cannot be used. */
  read(row: Row, number: number): Example | undefined;
  /** What was found, after the last row. Throws what {@link toExamples} throws. */
  end(): Omit<ExampleSet, "examples">;
}

/** Rows of the wrong form that are gathered for one message before reading stops. */
const MOST_FATAL = 1000;

/** A reader whose form is that of the first row. */
export function exampleReader(options: ToExamplesOptions = {}): ExampleReader {
  let chosen: ReturnType<typeof chooseReader> | undefined;
  let kind: ExampleKind | undefined;
  let count = 0;
  const issues: DataIssue[] = [], fatal: DataIssue[] = [];
  const checkFatal = () => {
    if (fatal.length === 0) return;
    throw new NibbleError("data/bad-rows", `${fatal.length} of ${count} rows have the wrong form`, {
      where: listIssues(fatal, 5),
      remedy: "Mend or remove these rows.",
    });
  };
  return {
    read(row, number) {
      chosen ??= chooseReader(row, options);
      count++;
      const base = { row: number, where: nameRow(row, number) };
      try {
        const example = { ...chosen[1](row), ...base, ...readVariables(row) } as Example;
        kind ??= example.kind;
        return example;
      } catch (error) {
        if (!(error instanceof RowProblem)) throw error;
        (error.fatal ? fatal : issues).push({ ...base, problem: error.message });
        if (fatal.length === MOST_FATAL) checkFatal();
        return undefined;
      }
    },
    end() {
      if (chosen === undefined) {
        throw new NibbleError("data/empty", "The data set has no rows", {
          remedy: "Check the split and its files.",
        });
      }
      checkFatal();
      if (kind === undefined) {
        throw new NibbleError("data/no-usable-rows", `None of the ${count} rows can be used`, {
          where: listIssues(issues, 5),
          remedy: "Check that the columns hold what their names say.",
        });
      }
      return { kind, columns: chosen[0], issues };
    },
  };
}

/** `train.jsonl:17: empty turn; ...`, at most `limit` rows. */
export function listIssues(issues: readonly DataIssue[], limit: number): string {
  const shown = issues.slice(0, limit).map((issue) => `${issue.where}: ${issue.problem}`).join("; ");
  return issues.length > limit ? `${shown}; and ${issues.length - limit} more` : shown;
}

function chooseReader(first: Row, options: ToExamplesOptions): [columns: string[], read: Reader] {
  const { task = "sft", text_column = "text" } = options;
  const readers: [tasks: string, columns: string[], read: Reader][] = [
    ["judged", ["prompt", "completion", "label"], readJudged],
    ["preference judged", ["chosen", "rejected"], readPreference],
    [
      "sft",
      ["messages"],
      (row) => ({ kind: "messages", messages: withAnswer(readMessages(row.messages, "messages")) }),
    ],
    ["sft", ["conversations"], (row) => ({
      kind: "messages",
      messages: withAnswer(readMessages(row.conversations, "conversations")),
    })],
    ["sft", ["prompt", "completion"], readPromptCompletion],
    ["sft", ["instruction", "output"], readAlpaca],
    ["sft text", [text_column], (row) => ({ kind: "text", text: filled(row, text_column) })],
  ];
  const fitting = readers.find(([tasks, columns]) =>
    tasks.split(" ").includes(task) && columns.every((column) => column in first)
  );
  if (fitting !== undefined) return [fitting[1], fitting[2]];
  const known = readers.filter(([tasks]) => tasks.split(" ").includes(task)).map(([, columns]) =>
    columns.join(" + ")
  );
  const other = "chosen" in first && task !== "preference"
    ? " These are preferences: train them with DPO, ORPO or KTO."
    : "label" in first && task === "preference"
    ? " These are answers judged one by one: train them with KTO."
    : "";
  throw new NibbleError("data/no-columns", `No columns to train on among: ${Object.keys(first).join(", ")}`, {
    where: nameRow(first, 1),
    remedy: `Name the columns ${known.join(", or ")}.${other}`,
  });
}

function readPromptCompletion(row: Row): ReturnType<Reader> {
  const prompt = textOrMessages(row, "prompt"), completion = textOrMessages(row, "completion");
  if (typeof prompt !== typeof completion) {
    throw new RowProblem("prompt and completion must both be text or both be messages", true);
  }
  return { kind: "prompt_completion", prompt, completion };
}

/** An answer that was judged by itself; the label is true, false, 1 or 0. */
function readJudged(row: Row): ReturnType<Reader> {
  const { prompt, completion } = readPromptCompletion(row);
  const { label } = row;
  if (label !== true && label !== false && label !== 1 && label !== 0) {
    throw new RowProblem(`label is ${JSON.stringify(label) ?? "missing"}, neither true nor false`, true);
  }
  return { kind: "judged", prompt, completion, label: Boolean(label) };
}

function readAlpaca(row: Row): ReturnType<Reader> {
  const input = typeof row.input === "string" && row.input.trim() !== "" ? `\n\n${row.input}` : "";
  const messages = [
    { role: "user", content: filled(row, "instruction") + input },
    { role: "assistant", content: filled(row, "output") },
  ];
  return { kind: "messages", messages };
}

/**
 * Prompt and answers. A prompt in the same form as the answers is explicit. Otherwise (UltraFeedback: the prompt a
 * text, the answers whole conversations) it is what both answers begin with, as in TRL.
 */
function readPreference(row: Row): ReturnType<Reader> {
  const chosen = textOrMessages(row, "chosen"), rejected = textOrMessages(row, "rejected");
  if (typeof chosen !== typeof rejected) {
    throw new RowProblem("chosen and rejected must both be text or both be messages", true);
  }
  if (JSON.stringify(chosen) === JSON.stringify(rejected)) {
    throw new RowProblem("chosen and rejected are the same");
  }
  const given = row.prompt === undefined || row.prompt === null ? undefined : textOrMessages(row, "prompt");
  return { kind: "preference", ...extractPrompt(given, chosen, rejected) };
}

function textOrMessages(row: Row, column: string): string | Message[] {
  return typeof row[column] === "string" ? filled(row, column) : readMessages(row[column], column);
}

function filled(row: Row, column: string): string {
  const value = row[column];
  if (typeof value !== "string") {
    throw new RowProblem(`${column} is ${kindOf(value)}, not text`, value !== null);
  }
  if (value.trim() === "") throw new RowProblem(`${column} is empty`);
  return value;
}

function withAnswer(messages: Message[]): Message[] {
  if (!messages.some((m) => m.role === "assistant")) throw new RowProblem("no assistant turn to learn from");
  return messages;
}

/** `chat_template_kwargs` and `tools`, which may be written as JSON text. */
function readVariables(row: Row): { variables?: Record<string, unknown> } {
  const variables: Record<string, unknown> = {};
  const kwargs = parsed(row.chat_template_kwargs);
  if (typeof kwargs === "object" && kwargs !== null) {
    for (const [key, value] of Object.entries(kwargs)) if (value !== null) variables[key] = parsed(value);
  }
  const tools = parsed(row.tools);
  if (Array.isArray(tools) && tools.length > 0) variables.tools = tools;
  return Object.keys(variables).length > 0 ? { variables } : {};
}

function parsed(value: unknown): unknown {
  if (typeof value !== "string" || !/^\s*[[{]/.test(value)) return value;
  try {
    return JSON.parse(value);
  } catch {
    return value;
  }
}
