/**
 * From rows to batches for the objectives over preferences.
 * @module
 */
import { createHash } from "node:crypto";
import {
  cachedTokens,
  collateJudged,
  collatePairs,
  type EncodedJudgement,
  type EncodedPair,
  encodeJudgements,
  encodePairs,
  formatDataReport,
  type PreferenceSettings,
  type Row,
  rowsDigest,
  type Scores,
  shuffleRows,
  toExamples,
  type TokenSequence,
} from "../data/mod.ts";
import { NibbleError } from "../errors.ts";
import { type EncodedExample, joinAnswer, type Tokenizer } from "../text/mod.ts";
import { type Prepared, tokenFolder } from "./prepare.ts";
import type { TrainSettings } from "./settings.ts";

/** The settings that encoding reads. Each task cuts as its trainer of TRL 0.19 does. */
function preferenceSettings(s: TrainSettings): PreferenceSettings {
  if (s.packing) {
    throw new NibbleError("train/packing", `packing: true is for text, and this is ${s.nibble_task}`, {
      where: "packing",
      remedy: "Remove packing: answers are compared one sequence with another.",
    });
  }
  return {
    cut: s.nibble_task === "dpo" ? "each" : "prompt_first",
    max_length: s.max_length ?? undefined,
    max_prompt_length: s.max_prompt_length ?? undefined,
    max_completion_length: s.max_completion_length ?? undefined,
    truncation_mode: s.truncation_mode,
    auto_insert_empty_system_msg: s.auto_insert_empty_system_msg,
  };
}

const isChat = (prompt: unknown) => Array.isArray(prompt);

/** Encodes one side's preference pairs, for DPO and ORPO. */
export function preparePairs(rows: Row[], tokenizer: Tokenizer, s: TrainSettings): Prepared {
  const settings = preferenceSettings(s);
  const { store, meta } = cachedTokens(
    tokenFolder(),
    ["pairs", tokenizer.digest(), settings, rowsDigest(rows)],
    () => {
      const set = toExamples(rows, { task: "preference" });
      const { examples, report } = encodePairs(tokenizer, set, settings);
      const chat = set.examples.some((e) => e.kind === "preference" && isChat(e.prompt));
      return {
        sequences: examples.flatMap(({ chosen, rejected }) => [chosen, rejected]),
        meta: { report, chat },
      };
    },
  );
  const pairs = Array.from({ length: store.count / 2 }, (_, i): EncodedPair => {
    const [chosen, rejected] = [exampleOf(store.at(2 * i)), exampleOf(store.at(2 * i + 1))];
    return { chosen, rejected, row: chosen.row };
  });
  const scores: Scores = { values: undefined, perItem: 2 };
  const padId = tokenizer.padId ?? 0;
  return {
    lengths: pairs.map(({ chosen, rejected }) => Math.max(chosen.ids.length, rejected.ids.length)),
    batch: (items) => collatePairs(pairs, items, scores, padId),
    scored: { scores, sequences: () => pairs.flatMap(({ chosen, rejected }) => [chosen, rejected]) },
    digest: () => store.digest(),
    report: formatDataReport(meta.report),
    chat: meta.chat,
  };
}

/** A stored sequence as it was encoded. */
function exampleOf({ ids, trained, row }: TokenSequence): EncodedExample {
  return { ids: Array.from(ids), trained: Array.from(trained, Boolean), row };
}

/**
 * Encodes one side's judged answers, for KTO; preference pairs are taken as two each.
 *
 * The answers are put into a seeded order once and cut into blocks of a batch: within its block, each prompt is
 * paired with the answer before its own, so that the estimate of the divergence is made from the very answers that
 * the batch judges, as in TRL (whose trainer takes rows in their order, and all chosen answers before all rejected
 * ones where they came as pairs).
 */
export function prepareJudged(
  rows: Row[],
  tokenizer: Tokenizer,
  s: TrainSettings,
  side: "train" | "eval",
): Prepared {
  const settings = preferenceSettings(s);
  const size = side === "train" ? s.per_device_train_batch_size : s.per_device_eval_batch_size;
  if (size < 2) {
    throw new NibbleError("train/kto-batch", "KTO needs at least two answers in a batch", {
      where: side === "train" ? "per_device_train_batch_size" : "per_device_eval_batch_size",
      remedy: "Set it to 2 or more: each prompt is also paired with another's answer.",
    });
  }
  const { store, meta } = cachedTokens(
    tokenFolder(),
    ["judged", tokenizer.digest(), settings, rowsDigest(rows)],
    () => {
      const set = toExamples(rows, { task: "judged" });
      const { examples, report } = encodeJudgements(tokenizer, set, settings);
      const chat = set.examples.some((e) =>
        (e.kind === "preference" || e.kind === "judged") && isChat(e.prompt)
      );
      // prompt and answer apart, as pairing each with another's needs them
      const sequences = examples.flatMap(({ parts, row }) =>
        [parts.prompt, parts.answer].map((ids) => ({ ids, trained: ids.map(() => false), row }))
      );
      const judged = examples.map(({ label, parts: { bos } }) => ({ label, bos }));
      return { sequences, meta: { report, chat, judged } };
    },
  );
  const encoded = meta.judged.map(({ label, bos }, i): EncodedJudgement => {
    const { ids: prompt, row } = exampleOf(store.at(2 * i));
    const parts = { bos, prompt, answer: exampleOf(store.at(2 * i + 1)).ids };
    return { ...joinAnswer(parts, settings.cut, settings, row), parts, label };
  });
  const examples = shuffleRows(encoded, s.data_seed ?? s.seed);
  const blocks: number[][] = [];
  for (let from = 0; from < examples.length; from += size) {
    blocks.push(Array.from({ length: Math.min(size, examples.length - from) }, (_, i) => from + i));
  }
  // a block of one would hold an answer against itself
  if (blocks.length > 1 && blocks.at(-1)!.length === 1) blocks.at(-1)!.unshift(blocks.at(-2)!.pop()!);
  const mismatched: EncodedExample[] = [];
  for (const block of blocks) {
    block.forEach((item, i) => {
      const other = examples[block.at(i - 1)!]!, { parts, row } = examples[item]!;
      mismatched[item] = joinAnswer({ ...parts, answer: other.parts.answer }, settings.cut, settings, row);
    });
  }
  const scores: Scores = { values: undefined, perItem: 2 };
  const padId = tokenizer.padId ?? 0;
  return {
    lengths: examples.map(({ ids }, i) => Math.max(ids.length, mismatched[i]!.ids.length)),
    blocks,
    batch: (items) => collateJudged(examples, mismatched, items, scores, padId),
    scored: { scores, sequences: () => examples.flatMap((example, i) => [example, mismatched[i]!]) },
    digest: () => createHash("sha256").update(store.digest() + JSON.stringify(meta.judged)).digest("hex"),
    report: formatDataReport(meta.report),
    chat: meta.chat,
  };
}
