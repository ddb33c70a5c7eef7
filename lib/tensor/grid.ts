/**
 * Grids and row ranges: the one place that cuts work into what one dispatch and one binding may cover.
 * @module
 */
import { NibbleError } from "../errors.ts";
import { adapterKind, gpu } from "../gpu/mod.ts";

/** Workgroups in x and y for `count` workgroups, and the invocations of one grid row. */
export interface Grid {
  groups: [number, number];
  row: number;
}

/** A grid over `count` workgroups of `size` invocations, folded into y beyond 65,535. */
export function grid1d(count: number, size: number): Grid {
  const limit = gpu().limits.maxComputeWorkgroupsPerDimension;
  const x = Math.min(count, limit);
  return { groups: [x, Math.ceil(count / x)], row: x * size };
}

/**
 * Cuts `rows` into ranges such that every operand's part fits one binding and starts on a multiple of 256 bytes.
 *
 * @param rowBytes bytes of one row of each operand
 * @param most rows of a range, such as an invocation may walk
 */
export function* rowRanges(
  rows: number,
  rowBytes: readonly number[],
  most: number = Infinity,
): Generator<[number, number]> {
  const widest = Math.max(...rowBytes);
  const fit = Math.min(most, Math.floor(gpu().maxBinding / widest));
  if (fit >= rows) {
    yield [0, rows];
    return;
  }
  // 64 rows of 4-byte elements, or 128 of 2-byte ones, start on a multiple of 256 whatever the width
  const step = Math.max(128, Math.floor(fit / 128) * 128);
  for (let from = 0; from < rows; from += step) yield [from, Math.min(rows, from + step)];
}

/**
 * Rounds of loops that one invocation may take, all its loops together: Mesa's llvmpipe leaves a loop when 65,535 are
 * spent, and says nothing (`LP_MAX_TGSI_LOOP_ITERATIONS`; one counter an invocation). Loops that are written out do not
 * count.
 */
export function mostRounds(): number {
  return adapterKind(gpu()) === "llvmpipe" ? 60_000 : Infinity;
}

/**
 * For kernels whose work cannot be shared out further.
 *
 * @throws NibbleError `tensor/rounds` where an invocation would take more than {@link mostRounds}
 */
export function checkRounds(op: string, rounds: number): void {
  if (rounds <= mostRounds()) return;
  throw new NibbleError("tensor/rounds", `${op} would take ${Math.ceil(rounds)} rounds of a loop`, {
    where: `${gpu().name} leaves a loop after 65,535 of them, without a word`,
    remedy: "Lower max_length or the batch size, or run on a GPU.",
  });
}

/**
 * Invocations that share a row in reductions: 64, or 8 on software adapters, whose lanes are a processor's vector
 * and which pay dearly for barriers between vectors; more where so few would take too many rounds.
 *
 * @param rounds of all loops over a row, before they are shared out
 * @throws NibbleError `tensor/rounds`
 */
export function rowLanes(rounds: number): number {
  if (adapterKind(gpu()) === "gpu") return 64;
  const lanes = [8, 64, 256].find((n) => rounds / n <= mostRounds()) ?? 256;
  checkRounds("A row", rounds / lanes);
  return lanes;
}

/**
 * Invocations of a workgroup that share nothing: 64, or 256 on llvmpipe, where a workgroup costs a quarter of a
 * microsecond by itself: 5 to 15 % of a sum of 512 x 576 elements.
 */
export function loneLanes(): number {
  return adapterKind(gpu()) === "llvmpipe" ? 256 : 64;
}
