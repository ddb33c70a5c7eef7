/**
 * Tokenization kept on disk, under a key that holds all that decides it: the rows, the tokenizer with its template,
 * the settings and the code.
 * @module
 */
import { createHash } from "node:crypto";
import { join } from "@std/path";
import { NibbleError } from "../errors.ts";
import { CODE_DIGEST } from "./code_digest.ts";
import type { TokenSequence } from "./pack.ts";
import { nameRow, type Row } from "./rows.ts";
import { readTokenFile, writeTokenFile } from "./token_file.ts";
import { memoryStore, type TokenStore } from "./token_store.ts";

/** Tokens, and what else was found while they were made. */
export interface Tokens<M> {
  store: TokenStore;
  meta: M;
  /** Whether they come from the cache. */
  cached: boolean;
}

/** SHA-256 over rows and their places, which messages name. */
export function rowsDigest(rows: readonly Row[]): string {
  const hash = createHash("sha256");
  rows.forEach((row, i) => {
    hash.update(JSON.stringify(row, (_, v) => typeof v === "bigint" ? `${v}n` : v));
    hash.update(`\n${nameRow(row, i + 1)}\n`);
  });
  return hash.digest("hex");
}

/** Where the tokens of a key lie. */
export function tokenPath(folder: string, parts: readonly unknown[]): string {
  const key = createHash("sha256").update(JSON.stringify([CODE_DIGEST, ...parts])).digest("hex");
  return join(folder, `${key}.tokens`);
}

/**
 * Takes tokens from the cache, or makes them and puts them there. A file that is not whole and sound is made anew; a
 * folder that cannot be written to leaves the tokens in memory only.
 *
 * @param folder undefined: no cache
 * @param parts what decides the tokens, beside the code
 * @param make makes the sequences, and `meta`, which must survive JSON
 */
export function cachedTokens<M>(
  folder: string | undefined,
  parts: readonly unknown[],
  make: () => { sequences: readonly TokenSequence[]; meta: M },
): Tokens<M> {
  const path = folder === undefined ? undefined : tokenPath(folder, parts);
  const found = path === undefined ? undefined : readTokenFile(path, true);
  if (found) return { store: found.store, meta: found.meta as M, cached: true };
  const { sequences, meta } = make();
  if (path !== undefined) keep(path, sequences, meta);
  return { store: memoryStore(sequences), meta, cached: false };
}

function keep(path: string, sequences: readonly TokenSequence[], meta: unknown): void {
  try {
    const writer = writeTokenFile(path);
    try {
      sequences.forEach((sequence) => writer.put(sequence));
      writer.finish(meta);
    } finally {
      writer.close();
    }
  } catch (error) {
    if (!(error instanceof NibbleError)) throw error; // a cache that cannot be written is only slower
  }
}
