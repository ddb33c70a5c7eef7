/**
 * Stand-in for `@std/yaml` where JSR is out of reach: the same two functions over npm's `yaml`.
 * `merge: true` because `@std/yaml` honours `<<` keys. Where the two readers differ otherwise
 * (`1_000`, `017`, timestamps), recipes must not go: tests/recipe covers the subset they use.
 * @module
 */
import YAML from "npm:yaml@2.9.1";

/** Parses one YAML document. Throws the reader's own error, which carries line and column. */
export function parse(text: string): unknown {
  return YAML.parse(text, { merge: true });
}

/** Writes a value as YAML. */
export function stringify(value: unknown): string {
  return YAML.stringify(value);
}
