/**
 * Where in a YAML text its top-level keys stand. The parser reads the values; this only finds lines.
 * @module
 */

/** A top-level key's place. */
export interface KeyLine {
  /** Line, from 1. */
  line: number;
  /** The text after the colon, without its comment; empty where the value follows below. */
  raw: string;
}

// A key at the left margin; whatever belongs to a value is indented or begins with "- ".
const TOP_LEVEL_KEY = /^(?:"([^"]+)"|'([^']+)'|([^\s#"'{}[\],&*!|>%@`-][^\s:#]*))\s*:(?:\s+(.*))?$/;

/**
 * Finds the top-level keys of a block-style YAML mapping. A flow mapping (`{a: 1}`) yields none.
 *
 * @example
 * ```ts
 * import { findKeys } from "./lines.ts";
 * const keys = findKeys("# model\nlora_r: 8 # rank\n");
 * if (keys.get("lora_r")?.line !== 2 || keys.get("lora_r")?.raw !== "8") throw new Error("line 2");
 * ```
 */
export function findKeys(text: string): Map<string, KeyLine> {
  const keys = new Map<string, KeyLine>();
  text.split(/\r?\n/).forEach((row, i) => {
    const match = TOP_LEVEL_KEY.exec(row.replace(/^\uFEFF/, ""));
    const name = match?.[1] ?? match?.[2] ?? match?.[3];
    if (match && name && !keys.has(name)) {
      keys.set(name, { line: i + 1, raw: (match[4] ?? "").replace(/(^|\s)#.*$/, "").trim() });
    }
  });
  return keys;
}
