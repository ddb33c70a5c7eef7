/**
 * Preferences from examples to batches: pairs of answers, and answers judged one by one.
 * @module
 */
import {
  type AnswerIds,
  type AnswerLimits,
  type ChatOptions,
  CUTS,
  encodeAnswers,
  type EncodedExample,
  joinAnswer,
  type Tokenizer,
} from "../text/mod.ts";
import { type Batch, collate, type CollateOptions } from "./collate.ts";
import type { Example, ExampleSet } from "./columns.ts";
import { packExamples } from "./pack.ts";
import { checkLeft, type EncodeSettings, keep, type Prepared, withSystem, wrongKind } from "./prepare.ts";
import { newReport } from "./report.ts";

/** How to turn preferences into tokens; the names are TRL's and the handbook's. */
export interface PreferenceSettings
  extends AnswerLimits, Pick<EncodeSettings, "auto_insert_empty_system_msg"> {
  /** Which trainer's way of cutting: see {@link CUTS}. */
  cut: keyof typeof CUTS;
  /** See `ChatOptions.bos`. Default `auto`. */
  bos?: ChatOptions["bos"];
}

/** A preference pair as tokens: two sequences that share their prompt. */
export interface EncodedPair {
  /** Prompt and preferred answer; the answer is trained. */
  chosen: EncodedExample;
  /** Prompt and other answer; the answer is trained. */
  rejected: EncodedExample;
  /** Row number in the data set, from 1. */
  row: number;
}

/** An answer that was judged by itself, as tokens. */
export interface EncodedJudgement extends EncodedExample {
  /** Prompt and answer before they are cut, for pairing each with another's. */
  parts: AnswerIds;
  /** Whether the answer is a desirable one. */
  label: boolean;
}

/**
 * Encodes preference pairs; a pair stays only if both its answers keep a target.
 *
 * Throws NibbleError `data/nothing-to-train`, `data/wrong-kind`, and the errors of lib/text.
 *
 * @example
 * ```ts
 * import { collatePairs, encodePairs, toExamples } from "./mod.ts";
 * import { createTokenizer } from "../text/mod.ts";
 *
 * const vocab = Object.fromEntries([..." abcdefghijklmnopqrstuvwxyz"].map((c, id) => [c, id]));
 * const tok = createTokenizer({
 *   tokenizerJson: {
 *     added_tokens: [{ id: 99, content: "</s>", special: true, normalized: false, lstrip: false, rstrip: false }],
 *     model: { type: "BPE", vocab, merges: [] },
 *   },
 *   tokenizerConfig: { eos_token: "</s>" },
 * });
 * const set = toExamples([{ prompt: "it is", chosen: " the sun", rejected: " a dog" }], { task: "preference" });
 * const { examples } = encodePairs(tok, set, { cut: "each", max_length: 64 });
 * const batch = collatePairs(examples, [0], { values: undefined, perItem: 2 }, tok.padId!);
 * // two rows; the answers and their ends are what counts
 * if (batch.batch !== 2 || batch.trainedTokens !== " the sun".length + " a dog".length + 2) throw new Error("targets");
 * ```
 */
export function encodePairs(
  tok: Tokenizer,
  set: ExampleSet,
  settings: PreferenceSettings,
): Prepared<EncodedPair> {
  const examples: EncodedPair[] = [];
  const report = newReport(set);
  for (const example of set.examples) {
    if (example.kind !== "preference") throw wrongKind(example, "chosen + rejected");
    const parts = answersOf(tok, example, [example.chosen, example.rejected], settings);
    const longest = Math.max(...parts.map(({ answer }) => answer.length));
    const [chosen, rejected] = parts.map((ids) =>
      joinAnswer(ids, settings.cut, settings, example.row, longest)
    );
    if (keep(report, example, [chosen!, rejected!])) {
      examples.push({ chosen: chosen!, rejected: rejected!, row: example.row });
    }
  }
  checkLeft(examples.length, report, settings);
  return { examples, report };
}

/**
 * Encodes judged answers; a preference pair gives two of them, the desirable one first.
 *
 * Throws NibbleError `data/nothing-to-train`, `data/wrong-kind`, and the errors of lib/text.
 */
export function encodeJudgements(
  tok: Tokenizer,
  set: ExampleSet,
  settings: PreferenceSettings,
): Prepared<EncodedJudgement> {
  const examples: EncodedJudgement[] = [];
  const report = newReport(set);
  for (const example of set.examples) {
    if (example.kind !== "judged" && example.kind !== "preference") {
      throw wrongKind(example, "prompt + completion + label, or chosen + rejected");
    }
    const judgements = judgementsOf(example);
    report.rows += judgements.length - 1; // a pair is two answers
    for (const [answer, label] of judgements) {
      const [parts] = answersOf(tok, example, [answer], settings);
      const encoded = joinAnswer(parts!, settings.cut, settings, example.row);
      if (keep(report, example, [encoded])) examples.push({ ...encoded, parts: parts!, label });
    }
  }
  checkLeft(examples.length, report, settings);
  return { examples, report };
}

type Preference = Extract<Example, { kind: "preference" | "judged" }>;

function judgementsOf(example: Preference): [answer: Preference["prompt"], label: boolean][] {
  return example.kind === "judged"
    ? [[example.completion, example.label]]
    : [[example.chosen, true], [example.rejected, false]];
}

function answersOf(
  tok: Tokenizer,
  example: Preference,
  answers: Preference["prompt"][],
  settings: PreferenceSettings,
): AnswerIds[] {
  const { row, where, variables } = example;
  return encodeAnswers(tok, withSystem(tok, example.prompt, settings), answers, {
    ...{ row, where, variables, bos: settings.bos },
  });
}

/** Scores of a side's sequences by the reference, made once, shared by all its batches. */
export interface Scores {
  /** Sums of log-probabilities, `perItem` for each item of the side; undefined until they are known. */
  values: Float32Array | undefined;
  /** 2 for pairs: chosen, rejected. 2 for judged answers: the answer, and another's. */
  perItem: number;
}

/** Rows 0 to P - 1 are the chosen answers of P pairs, the next P the rejected ones, in the same order. */
export interface PairBatch extends Batch {
  /** The pairs' places in their side. */
  items: readonly number[];
  scores: Scores;
}

/** Answers judged one by one, and the same prompts with each other's answers. */
export interface JudgedBatch extends Batch {
  /** The answers' places in their side. */
  items: readonly number[];
  /** Whether each is a desirable one. */
  desirable: readonly boolean[];
  /** Each prompt with the answer before its own in the block: what the estimate of the KL divergence is made from. */
  mismatched: Batch;
  scores: Scores;
}

/** A batch of pairs. `items` index `pairs`. */
export function collatePairs(
  pairs: readonly EncodedPair[],
  items: readonly number[],
  scores: Scores,
  padId: number,
  options: CollateOptions = {},
): PairBatch {
  const rows = [...items.map((i) => pairs[i]!.chosen), ...items.map((i) => pairs[i]!.rejected)];
  return { ...collateRows(rows, padId, options), items, scores };
}

/** A batch of judged answers. `items` index `examples` and `mismatched`. */
export function collateJudged(
  examples: readonly EncodedJudgement[],
  mismatched: readonly EncodedExample[],
  items: readonly number[],
  scores: Scores,
  padId: number,
  options: CollateOptions = {},
): JudgedBatch {
  const of = (list: readonly EncodedExample[]) => collateRows(items.map((i) => list[i]!), padId, options);
  const desirable = items.map((i) => examples[i]!.label);
  return { ...of(examples), items, scores, desirable, mismatched: of(mismatched) };
}

function collateRows(rows: readonly EncodedExample[], padId: number, options: CollateOptions): Batch {
  const longest = rows.reduce((n, { ids }) => Math.max(n, ids.length), 2);
  return collate(packExamples(rows, longest, "none"), padId, options);
}
