/**
 * From rows to batches for training on text: SFT and continued pre-training.
 * @module
 */
import {
  collate,
  formatDataReport,
  packReport,
  planPacks,
  type Row,
  streamDatasets,
  type TokenizeMeta,
  type TokenizeOptions,
  tokenizeRows,
  tokenizeStream,
  type Tokens,
} from "../data/mod.ts";
import type { Tokenizer } from "../text/mod.ts";
import {
  dataChoice,
  evaluates,
  type LoadRowsOptions,
  locateSplit,
  type Prepared,
  tokenFolder,
} from "./prepare.ts";
import type { TrainSettings } from "./settings.ts";

/** Strategies that lose no token of an example longer than a row. */
const LOSSLESS: readonly string[] = ["bfd_split", "wrapped"];

/** The settings that encoding reads. */
function tokenizeOptions(s: TrainSettings): TokenizeOptions {
  return {
    columns: { task: s.nibble_task === "cpt" ? "text" : "sft", text_column: s.dataset_text_field },
    encode: {
      max_length: s.packing && LOSSLESS.includes(s.packing_strategy) ? undefined : s.max_length ?? undefined,
      truncation_mode: s.truncation_mode,
      assistant_only_loss: s.assistant_only_loss,
      completion_only_loss: s.completion_only_loss ?? undefined,
      auto_insert_empty_system_msg: s.auto_insert_empty_system_msg,
    },
    cache: tokenFolder(),
  };
}

/** Encodes and packs one side's rows, in memory: 4 bytes a token. */
export function prepareText(
  rows: Row[],
  tokenizer: Tokenizer,
  s: TrainSettings,
  side: "train" | "eval",
): Prepared {
  return packed(tokenizeRows(tokenizer, rows, tokenizeOptions(s)), tokenizer, s, side);
}

/**
 * Encodes and packs both sides without holding their rows: tokens stay on disk, in nibble's cache, and the memory
 * taken is bounded by the number of rows (about 60 bytes a row) and the largest single row or row group. The batches
 * of the evaluation are made beforehand, 16 bytes a token; `max_eval_samples` bounds them.
 */
export async function streamText(
  tokenizer: Tokenizer,
  s: TrainSettings,
  options: LoadRowsOptions = {},
): Promise<{ train: Prepared; test: Prepared | undefined }> {
  const { train, test } = await streamDatasets(dataChoice(s), locateSplit(options), {
    train: s.max_train_samples ?? undefined,
    test: s.max_eval_samples ?? undefined,
  });
  const tokens = (stream: typeof train) =>
    tokenizeStream(tokenizer, stream, tokenFolder(), tokenizeOptions(s));
  return {
    train: packed(await tokens(train), tokenizer, s, "train"),
    test: test && evaluates(s) ? packed(await tokens(test), tokenizer, s, "eval") : undefined,
  };
}

function packed(
  { store, meta, cached }: Tokens<TokenizeMeta>,
  tokenizer: Tokenizer,
  s: TrainSettings,
  side: "train" | "eval",
): Prepared {
  const packing = side === "eval" ? s.eval_packing ?? s.packing : s.packing;
  const length = s.max_length ?? store.lengths.reduce((a, b) => Math.max(a, b), 2);
  const plan = planPacks(store, length, packing ? s.packing_strategy : "none");
  const padId = tokenizer.padId ?? 0;
  const all = function* () {
    for (let i = 0; i < plan.count; i++) yield plan.join(i);
  };
  const report = formatDataReport({
    ...meta.report,
    ...(packing ? { packed: packReport(all(), length) } : {}),
  });
  return {
    lengths: Array.from(plan.lengths),
    batch: (items, minLength = 1) => collate(items.map((i) => plan.join(i)), padId, { minLength }),
    digest: () => store.digest(),
    report: cached ? `${report}\ncached      tokens of an earlier run` : report,
    chat: meta.kind === "messages",
  };
}
