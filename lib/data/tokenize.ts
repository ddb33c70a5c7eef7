/**
 * From rows to a store of tokens for training on text: all at once and cached, or one by one for sets that are larger
 * than memory.
 * @module
 */
import type { Tokenizer } from "../text/mod.ts";
import { type ExampleKind, exampleReader, toExamples, type ToExamplesOptions } from "./columns.ts";
import { checkLeft, encodeExamples, encodeOne, type EncodeSettings, keep } from "./prepare.ts";
import { type DataReport, newReport } from "./report.ts";
import type { Row } from "./rows.ts";
import type { RowStream } from "./stream.ts";
import { cachedTokens, rowsDigest, tokenPath, type Tokens } from "./token_cache.ts";
import { readTokenFile, writeTokenFile } from "./token_file.ts";

/** How rows become tokens, and where those are kept. */
export interface TokenizeOptions {
  columns: ToExamplesOptions;
  encode: EncodeSettings;
  /** Folder of the cache; undefined: none. */
  cache?: string | undefined;
}

/** What tokenization found beside the tokens. */
export interface TokenizeMeta {
  report: DataReport;
  kind: ExampleKind;
}

/**
 * Tokenizes rows, or takes their tokens from the cache.
 *
 * @throws NibbleError as `toExamples` and `encodeExamples`
 */
export function tokenizeRows(
  tok: Tokenizer,
  rows: readonly Row[],
  { columns, encode, cache }: TokenizeOptions,
): Tokens<TokenizeMeta> {
  const parts = cache === undefined ? [] : ["text", tok.digest(), columns, encode, rowsDigest(rows)];
  return cachedTokens(cache, parts, () => {
    const set = toExamples(rows, columns);
    const { examples, report } = encodeExamples(tok, set, encode);
    return { sequences: examples, meta: { report, kind: set.kind } };
  });
}

/**
 * Tokenizes rows as they are read, into a file in which they stay: a sequence is read back when its batch is made.
 * Memory: one row (of Parquet one row group), 8 bytes a row while reading and 24 a row afterwards, whatever the rows
 * hold.
 *
 * @param folder the cache's folder
 * @throws NibbleError as `toExamples` and `encodeExamples`; `data/token-cache` where the file cannot be written
 */
export async function tokenizeStream(
  tok: Tokenizer,
  stream: RowStream,
  folder: string,
  { columns, encode }: Omit<TokenizeOptions, "cache">,
): Promise<Tokens<TokenizeMeta>> {
  const path = tokenPath(folder, ["stream", tok.digest(), columns, encode, stream.digest]);
  const open = (cached: boolean): Tokens<TokenizeMeta> | undefined => {
    const found = readTokenFile(path, false);
    return found && { store: found.store, meta: found.meta as TokenizeMeta, cached };
  };
  const found = open(true);
  if (found) return found;
  const writer = writeTokenFile(path);
  try {
    const reader = exampleReader(columns);
    const report = newReport({ examples: [], issues: [] });
    for await (const [place, row] of stream.rows()) {
      report.rows++;
      const example = reader.read(row, place + 1);
      if (example === undefined) continue;
      const encoded = encodeOne(tok, example, encode);
      if (keep(report, example, [encoded])) writer.put(encoded);
    }
    const { kind, issues } = reader.end();
    report.dropped.unshift(...issues);
    checkLeft(report.kept, report, encode);
    writer.finish({ report, kind });
  } finally {
    writer.close();
  }
  return open(false)!;
}
