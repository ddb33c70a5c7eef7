/**
 * Data: read, mix, split, encode, pack, collate.
 *
 * @example From rows to a batch.
 * ```ts
 * import { collate, encodeExamples, epochBatches, formatDataReport, packExamples, toExamples } from "./mod.ts";
 * import { createTokenizer } from "../text/mod.ts";
 *
 * const vocab = Object.fromEntries([..."<|>abcdefghijklmnopqrstuvwxyz/\n"].map((c, id) => [c, id]));
 * const tok = createTokenizer({
 *   tokenizerJson: {
 *     added_tokens: [{ id: 99, content: "</s>", special: true, normalized: false, lstrip: false, rstrip: false }],
 *     model: { type: "BPE", vocab, merges: [] },
 *   },
 *   tokenizerConfig: { eos_token: "</s>" },
 * });
 * const rows = ["yo", "hello"].map((answer) => ({
 *   messages: [{ role: "user", content: "hi" }, { role: "assistant", content: answer }],
 * }));
 * const { examples, report } = encodeExamples(tok, toExamples(rows), { assistant_only_loss: true, max_length: 64 });
 * if (!formatDataReport(report).includes("2 of 2")) throw new Error(formatDataReport(report));
 * const packed = packExamples(examples, 64, "bfd");
 * const [first] = epochBatches(packed.length, 2, 42, 0);
 * const batch = collate(first.map((i) => packed[i]), tok.padId!);
 * if (batch.trainedTokens !== "yo".length + "hello".length + 2) throw new Error("the answers and their stops");
 * ```
 *
 * @module
 */
export { readRows, streamRows } from "./read.ts";
export { findFiles, type SplitOptions } from "./folder.ts";
export { nameRow, type Origin, originOf, type Row, withOrigin } from "./rows.ts";
export {
  type DatasetEntry,
  type DatasetMixture,
  type DatasetSplits,
  LEGACY_COLUMNS,
  type LegacyMixture,
  type LoadSplit,
  mixDatasets,
  mixDatasetsLegacy,
  shuffleRows,
  trainTestSplit,
} from "./mix.ts";
export { epochBatches, permutation, randperm, seedSequence } from "./random.ts";
export {
  type DataIssue,
  type Example,
  type ExampleBase,
  type ExampleKind,
  type ExampleSet,
  toExamples,
  type ToExamplesOptions,
} from "./columns.ts";
export { encodeExamples, type EncodeSettings, type Prepared } from "./prepare.ts";
export {
  collateJudged,
  collatePairs,
  type EncodedJudgement,
  type EncodedPair,
  encodeJudgements,
  encodePairs,
  type JudgedBatch,
  type PairBatch,
  type PreferenceSettings,
  type Scores,
} from "./preference.ts";
export { type DataReport, formatDataReport, type PackReport, packReport } from "./report.ts";
export {
  IGNORE_INDEX,
  type Packed,
  packExamples,
  type PackingStrategy,
  type PackPlan,
  planPacks,
  type TokenSequence,
} from "./pack.ts";
export {
  type LocateSplit,
  type NamedSplits,
  type RowStream,
  type StreamChoice,
  streamDatasets,
  type StreamSplits,
} from "./stream.ts";
export { cachedTokens, rowsDigest, type Tokens } from "./token_cache.ts";
export { type TokenizeMeta, type TokenizeOptions, tokenizeRows, tokenizeStream } from "./tokenize.ts";
export { type Batch, collate, type CollateOptions } from "./collate.ts";
