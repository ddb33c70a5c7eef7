/**
 * The nested data keys of a recipe: `dataset_mixture` and `dataset_mixer`.
 * @module
 */
import { NibbleError } from "../errors.ts";
import type { DatasetEntry, DatasetMixture } from "../train/settings.ts";
import { nearest } from "../nearest.ts";

const ENTRY_KEYS = ["id", "config", "split", "columns", "weight"];
const MIXTURE_KEYS = ["datasets", "seed", "test_split_size", "rule"];
const RULES = ["handbook", "trl"];

/**
 * Reads a `dataset_mixture`. As in the handbook, `split` defaults to train, `weight` to 1 and `seed` to 0; by TRL's rule
 * a `weight` is a share of the mixture, given for every data set or for none.
 *
 * @throws NibbleError `recipe/bad-mixture`, `recipe/unknown-key`
 */
export function readMixture(value: unknown, where: string): DatasetMixture {
  const at = `${where}, dataset_mixture`;
  const mixture = mapping(value, "dataset_mixture", at);
  onlyKeys(mixture, MIXTURE_KEYS, at);
  if (!Array.isArray(mixture.datasets) || mixture.datasets.length === 0) {
    throw bad("datasets must be a list of at least one data set", at);
  }
  const rule = mixture.rule ?? "handbook";
  if (!RULES.includes(rule as string)) throw bad(`rule must be one of ${RULES.join(", ")}`, at);
  const trl = rule === "trl";
  const datasets = mixture.datasets.map((entry, i) => readEntry(entry, `${at}, data set ${i + 1}`, trl));
  const shared = datasets.filter(({ weight }) => weight !== null);
  if (shared.length > 0 && shared.length < datasets.length) {
    throw bad("give every data set its share of the mixture (fraction), or none", at);
  }
  const columns = new Set(
    datasets.flatMap((entry) => entry.columns ? [entry.columns.toSorted().join(",")] : []),
  );
  if (columns.size > 1) throw bad("all data sets of a mixture must keep the same columns", at);
  const seed = mixture.seed === undefined || mixture.seed === null ? 0 : Number(mixture.seed);
  if (!Number.isInteger(seed) || seed < 0) throw bad(`seed must be a whole number, got ${mixture.seed}`, at);
  const test_split_size = readTestSize(mixture.test_split_size, at);
  return { datasets, seed, test_split_size, ...(trl ? { rule: "trl" } : {}) };
}

function readEntry(value: unknown, at: string, trl: boolean): DatasetEntry {
  const entry = mapping(value, "a data set", at);
  onlyKeys(entry, ENTRY_KEYS, at);
  if (typeof entry.id !== "string" || entry.id === "") throw bad("id must name the data set", at);
  const { columns } = entry;
  if (columns !== undefined && columns !== null && !Array.isArray(columns)) {
    throw bad("columns must be a list", at);
  }
  return {
    id: entry.id,
    config: textOr(entry.config, null),
    split: textOr(entry.split, "train"),
    columns: Array.isArray(columns) ? columns.map(String) : null,
    weight: trl ? readFraction(entry.weight, at) : readShare(entry.weight ?? 1, "weight", at),
  };
}

/**
 * Reads a `dataset_mixer`: data set to share of its training rows.
 *
 * @throws NibbleError `recipe/bad-mixture`
 */
export function readMixer(value: unknown, where: string): Record<string, number> {
  const at = `${where}, dataset_mixer`;
  const mixer = mapping(value, "dataset_mixer", at);
  if (Object.keys(mixer).length === 0) throw bad("dataset_mixer names no data set", at);
  return Object.fromEntries(
    Object.entries(mixer).map(([id, share]) => [id, readShare(share, `the share of ${id}`, at)]),
  );
}

function readShare(value: unknown, what: string, at: string): number {
  const share = typeof value === "string" && value.trim() !== "" ? Number(value) : value;
  if (typeof share === "number" && share >= 0 && share <= 1) return share;
  throw bad(`${what} must be a share from 0 to 1, got ${JSON.stringify(value)}`, at);
}

/** A part of the mixture beside the others' parts; null: all rows. */
function readFraction(value: unknown, at: string): number | null {
  if (value === undefined || value === null) return null;
  const part = Number(value);
  if (part > 0 && Number.isFinite(part)) return part;
  throw bad(`fraction must be a number above 0, got ${JSON.stringify(value)}`, at);
}

function readTestSize(value: unknown, at: string): number | null {
  if (value === undefined || value === null) return null;
  const size = Number(value);
  if (size > 0 && (size < 1 || Number.isInteger(size))) return size;
  throw bad(`test_split_size must be a share below 1 or a number of rows, got ${JSON.stringify(value)}`, at);
}

function textOr<T>(value: unknown, fallback: T): string | T {
  return value === undefined || value === null ? fallback : String(value);
}

function mapping(value: unknown, what: string, at: string): Record<string, unknown> {
  if (value !== null && typeof value === "object" && !Array.isArray(value)) {
    return value as Record<string, unknown>;
  }
  throw bad(`${what} must be a mapping`, at);
}

function onlyKeys(value: Record<string, unknown>, allowed: string[], at: string): void {
  for (const key of Object.keys(value)) {
    if (allowed.includes(key)) continue;
    const close = nearest(key, allowed);
    throw new NibbleError("recipe/unknown-key", `Unknown key ${key}`, {
      where: at,
      remedy: close ? `Did you mean ${close}?` : `Known here: ${allowed.join(", ")}.`,
    });
  }
}

function bad(what: string, where: string): NibbleError {
  return new NibbleError("recipe/bad-mixture", what, {
    where,
    remedy:
      "datasets is a list of {id, config, split, columns, weight}; seed and test_split_size stand beside it.",
  });
}
