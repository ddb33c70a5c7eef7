/**
 * What became of the rows of a data set, in numbers that the user sees before training starts.
 * @module
 */
import type { DataIssue, ExampleSet } from "./columns.ts";
import type { Packed } from "./pack.ts";

/** The account of a data set. */
export interface DataReport {
  /** Rows read. */
  rows: number;
  /** Rows trained on. */
  kept: number;
  /** Tokens of the rows kept. */
  tokens: number;
  /** Those of them that are targets of the loss. */
  trainedTokens: number;
  /** Longest example in tokens, after truncation. */
  longest: number;
  /** Rows cut by `max_length`. */
  truncated: number;
  /** Rows whose answer was cut: they do not teach to stop. */
  answersCut: DataIssue[];
  /** Rows whose answers end in no stop token. */
  withoutStop: number;
  /** Rows left out. */
  dropped: DataIssue[];
  /** Packing, if rows were packed. */
  packed?: PackReport;
}

/** The account of packing. */
export interface PackReport {
  /** Packed rows. */
  rows: number;
  /** Row length asked for. */
  length: number;
  /** Tokens in them. */
  tokens: number;
  /** Targets in them (fewer than before where documents were cut). */
  trainedTokens: number;
  /** tokens / (rows * length). */
  fill: number;
}

/** A report that knows only what was read so far. */
export function newReport(set: Pick<ExampleSet, "examples" | "issues">): DataReport {
  return {
    rows: set.examples.length + set.issues.length,
    kept: 0,
    tokens: 0,
    trainedTokens: 0,
    longest: 0,
    truncated: 0,
    answersCut: [],
    withoutStop: 0,
    dropped: [...set.issues],
  };
}

/** Counts packed rows. */
export function packReport(packed: Iterable<Packed>, length: number): PackReport {
  let tokens = 0, trainedTokens = 0, rows = 0;
  for (const { segments, labels } of packed) {
    rows++;
    for (const segment of segments) if (segment !== 0) tokens++;
    for (const label of labels) if (label !== -100) trainedTokens++;
  }
  const room = rows * length;
  return { rows, length, tokens, trainedTokens, fill: room === 0 ? 0 : tokens / room };
}

/**
 * The report in a few lines of plain text.
 *
 * @example
 * ```ts
 * import { formatDataReport } from "./mod.ts";
 * const text = formatDataReport({
 *   rows: 3, kept: 2, tokens: 100, trainedTokens: 40, longest: 60, truncated: 0, answersCut: [], withoutStop: 0,
 *   dropped: [{ row: 2, where: "train.jsonl:2", problem: "no trained token" }],
 * });
 * if (!text.includes("40.0 %") || !text.includes("train.jsonl:2")) throw new Error(text);
 * ```
 */
export function formatDataReport(report: DataReport): string {
  const number = (n: number) => n.toLocaleString("en");
  const share = (part: number, whole: number) => `${(whole === 0 ? 0 : 100 * part / whole).toFixed(1)} %`;
  const { rows, kept, tokens, trainedTokens, packed } = report;
  const lines = [
    `rows        ${number(kept)} of ${number(rows)}`,
    `tokens      ${number(tokens)}, trained ${number(trainedTokens)} (${share(trainedTokens, tokens)}), ` +
    `longest example ${number(report.longest)}`,
  ];
  if (packed) {
    const { length, fill } = packed;
    lines.push(
      `packed      ${number(packed.rows)} rows of up to ${number(length)} tokens, ${share(fill, 1)} full`,
    );
  }
  if (report.truncated > 0) {
    lines.push(`truncated   ${number(report.truncated)} rows (${share(report.truncated, kept)})`);
  }
  const listed = (name: string, issues: DataIssue[]) => {
    if (issues.length === 0) return;
    lines.push(`${name} ${number(issues.length)} rows`);
    for (const { where, problem } of issues.slice(0, 5)) lines.push(`            ${where}: ${problem}`);
    if (issues.length > 5) lines.push(`            and ${number(issues.length - 5)} more`);
  };
  listed("answer cut ", report.answersCut);
  listed("left out   ", report.dropped);
  if (report.withoutStop > 0) {
    lines.push(
      `no stop     ${
        number(report.withoutStop)
      } rows: the template ends no turn, so the model cannot learn to stop`,
    );
  }
  return lines.join("\n");
}
