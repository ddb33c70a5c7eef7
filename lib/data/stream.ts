/**
 * Data sets larger than memory: rows are counted, chosen by number as the mixtures choose them, and then read one by
 * one in the order of their files.
 * @module
 */
import { createHash } from "node:crypto";
import {
  type DatasetMixture,
  type DatasetSplits,
  type LegacyMixture,
  mixParts,
  mixPartsLegacy,
  type PartLoader,
} from "./mix.ts";
import { countRows, streamRows } from "./read.ts";
import { type Row, selectColumns } from "./rows.ts";

/** Chosen rows of files. */
export interface RowStream {
  /** How many. */
  readonly count: number;
  /** SHA-256 over the files and the choice. */
  readonly digest: string;
  /** The rows in the order of their files, each with its place (from 0) in the order of the mixture. */
  rows(): AsyncGenerator<[place: number, row: Row]>;
}

/** Finds the file or folder of a data set, without reading rows. */
export type LocateSplit = (
  id: string,
  options: { split: string; config?: string | undefined },
) => Promise<string>;

/** Training rows, and test rows if there are any. */
export interface StreamSplits {
  train: RowStream;
  test?: RowStream;
}

/** One data set to read by its name. */
export interface NamedSplits {
  id: string;
  config: string | undefined;
  train: string;
  /** Undefined: no evaluation. */
  test: string | undefined;
}

/** How rows are chosen: as the keys of a recipe name them. */
export type StreamChoice = { mixture: DatasetMixture } | { legacy: LegacyMixture } | { named: NamedSplits };

interface Part {
  path: string;
  options: { split: string; config?: string | undefined };
  columns: readonly string[] | undefined;
  /** Number of its first row, and rows. */
  first: number;
  count: number;
  digest: string;
}

/**
 * Chooses rows as `mixDatasets`, `mixDatasetsLegacy` or a plain name would, the very same ones in the same order.
 * Memory: 24 bytes a row of the files, however long rows are.
 *
 * @param most rows of each side at most
 * @throws NibbleError as those, and for files that cannot be read
 */
export async function streamDatasets(
  choice: StreamChoice,
  locate: LocateSplit,
  most: { train?: number | undefined; test?: number | undefined } = {},
): Promise<StreamSplits> {
  const parts: Part[] = [];
  const loader: PartLoader<number> = {
    async load(id, options) {
      const path = await locate(id, options);
      const { count, columns, digest } = await countRows(path, options);
      const first = parts.reduce((n, part) => n + part.count, 0);
      parts.push({ path, options, columns: undefined, first, count, digest });
      return { rows: Array.from({ length: count }, (_, i) => first + i), columns };
    },
    select(rows, columns) {
      parts.at(-1)!.columns = columns; // rows are cut when they are read
      return rows;
    },
  };
  const { train, test } = await choose(choice, loader);
  return {
    train: rowStream(parts, train.slice(0, most.train)),
    ...(test ? { test: rowStream(parts, test.slice(0, most.test)) } : {}),
  };
}

async function choose(choice: StreamChoice, loader: PartLoader<number>): Promise<DatasetSplits<number>> {
  if ("mixture" in choice) return await mixParts(choice.mixture, loader);
  if ("legacy" in choice) return await mixPartsLegacy(choice.legacy, loader);
  const { id, config, train, test } = choice.named;
  const load = async (split: string) => [...(await loader.load(id, { split, config })).rows];
  return { train: await load(train), ...(test === undefined ? {} : { test: await load(test) }) };
}

function rowStream(parts: readonly Part[], chosen: readonly number[]): RowStream {
  const places = new Int32Array(parts.reduce((n, part) => n + part.count, 0)).fill(-1);
  chosen.forEach((row, place) => places[row] = place);
  const hash = createHash("sha256").update(new Uint8Array(places.buffer));
  for (const { digest, columns } of parts) hash.update(`${digest} ${columns?.join() ?? ""}\n`);
  return {
    count: chosen.length,
    digest: hash.digest("hex"),
    async *rows() {
      for (const { path, options, columns, first, count } of parts) {
        const last = places.subarray(first, first + count).findLastIndex((place) => place >= 0);
        if (last < 0) continue;
        let at = 0;
        for await (const row of streamRows(path, options)) {
          const place = places[first + at]!;
          if (place >= 0) yield [place, columns ? selectColumns(row, columns) : row];
          if (at++ === last) break;
        }
      }
    },
  };
}
