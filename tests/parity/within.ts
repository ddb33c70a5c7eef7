/** Comparisons with a tolerance that can tell how near they came to it: the figures of the table in README.md. */
import assert from "node:assert/strict";
import { largestError } from "../gpu_helper.ts";

/** The comparison of each kind that came nearest to what is allowed. */
const nearest = new Map<string, { error: number; allowed: number; count: number }>();

if (Deno.env.get("NIBBLE_REPORT")) {
  addEventListener("unload", () => {
    for (const [kind, { error, allowed, count }] of nearest) {
      const share = (100 * shareOf(error, allowed)).toPrecision(2);
      console.log(
        `report  ${kind}: ${error.toPrecision(2)} of ${allowed.toPrecision(2)} (${share} %), nearest of ${count}`,
      );
    }
  });
}

/** The part of what is allowed; no error is none of it even where nothing is. */
const shareOf = (error: number, allowed: number) => error === 0 ? 0 : error / allowed;

/**
 * Asserts `error <= allowed`. With `NIBBLE_REPORT=1` the nearest of each kind is printed when the file's tests are over.
 *
 * @param kind the row of the table
 * @param what this one
 */
export function within(kind: string, what: string, error: number, allowed: number): void {
  const known = nearest.get(kind);
  const count = (known?.count ?? 0) + 1;
  const nearer = !known || shareOf(error, allowed) > shareOf(known.error, known.allowed);
  nearest.set(kind, nearer ? { error, allowed, count } : { ...known, count });
  assert.ok(error <= allowed, `${kind}, ${what}: off by ${error}, allowed ${allowed}`);
}

/** {@link within} at every element. */
export function allWithin(
  kind: string,
  what: string,
  got: ArrayLike<number>,
  want: ArrayLike<number>,
  allowed: number,
): void {
  within(kind, what, largestError(got, want), allowed);
}
