/**
 * Specialises WGSL files: constants, element types and `@unroll` loops.
 *
 * A kernel file is valid WGSL by itself, or with the files of `wgsl/shared/` that it uses. This module changes only
 * lines that are marked: `const NAME: u32 = 8u;` gets another value, `alias T = f32;` another type, and a `for` loop
 * that carries `// @unroll` is written out. naga neither unrolls nor keeps indexed function arrays in registers;
 * the expanded form ran four to six times faster on llvmpipe.
 * @module
 */
import { NibbleError } from "../errors.ts";

/** Values for a kernel's `const` lines and `alias` lines. */
export interface Specialization {
  /** `const NAME` to number (the declared type and suffix stay as written) or boolean. */
  consts?: Record<string, number | boolean>;
  /** `alias NAME` to WGSL type, such as `{ T: "f16" }`. */
  types?: Record<string, string>;
}

const CONST_LINE = /^(\s*const\s+)(\w+)(\s*(?::\s*\w+)?\s*=\s*)([^;]+);/gm;
const ALIAS_LINE = /^(\s*alias\s+)(\w+)(\s*=\s*)([^;]+);/gm;

/**
 * Returns the WGSL text with constants and types replaced and `@unroll` loops expanded.
 *
 * @example
 * ```ts
 * import { specialize } from "./wgsl.ts";
 * const src = "const N: u32 = 2u;\nfn f() { for (var i = 0u; i < N; i++) { // @unroll\n g(i); } }";
 * const out = specialize(src, { consts: { N: 3 } });
 * if (!out.includes("g(2u)")) throw new Error(out);
 * ```
 */
export function specialize(source: string, options: Specialization = {}): string {
  const values = new Map<string, number>();
  const unused = new Set([...Object.keys(options.consts ?? {}), ...Object.keys(options.types ?? {})]);
  let text = source.replace(CONST_LINE, (line, head, name, middle, old: string) => {
    const wanted = options.consts?.[name];
    unused.delete(name);
    const value = wanted === undefined ? old.trim() : literalLike(old.trim(), wanted);
    const number = constantValue(value, values);
    if (number !== undefined) values.set(name, number);
    return wanted === undefined ? line : `${head}${name}${middle}${value};`;
  });
  text = text.replace(ALIAS_LINE, (line, head, name, middle) => {
    const wanted = options.types?.[name];
    unused.delete(name);
    return wanted === undefined ? line : `${head}${name}${middle}${wanted};`;
  });
  if (unused.size > 0) {
    throw new NibbleError(
      "gpu/specialize",
      `The kernel has no const or alias named ${[...unused].join(", ")}`,
    );
  }
  text = unroll(text, values);
  return /\bf16\b/.test(stripComments(text)) ? `enable f16;\n${text}` : text;
}

/** Writes `value` with the suffix of the literal that it replaces (`8u`, `1.0`, `true`). */
function literalLike(old: string, value: number | boolean): string {
  if (typeof value === "boolean") return String(value);
  if (/u$/.test(old)) return `${value}u`;
  if (/[.f]/.test(old)) return Number.isInteger(value) ? `${value}.0` : String(value);
  return String(value);
}

/** The number of an integer expression over literals and constants seen so far, or undefined. */
function constantValue(expression: string, values: ReadonlyMap<string, number>): number | undefined {
  const plain = expression
    .replace(/\b(\d+)[ui]\b/g, "$1")
    .replace(/\b[A-Za-z_]\w*\b/g, (name) => values.has(name) ? String(values.get(name)) : "?");
  if (!/^[\d\s+\-*/%()]+$/.test(plain)) return undefined;
  const value = Function(`"use strict"; return (${plain});`)() as number;
  return Math.trunc(value);
}

function stripComments(text: string): string {
  return text.replace(/\/\/[^\n]*/g, "");
}

const LOOP =
  /for\s*\(\s*var\s+(\w+)(?::\s*\w+)?\s*=\s*([^;]+);\s*\1\s*<\s*([^;]+);\s*\1\s*(\+\+|\+=\s*[^)]+)\s*\)\s*\{\s*\/\/\s*@unroll[^\n]*\n/;

/** Expands marked loops, outermost first, so that an inner bound may use an outer index. */
function unroll(text: string, values: ReadonlyMap<string, number>): string {
  const match = LOOP.exec(text);
  if (!match) return text;
  const [head, name, from, to, advance] = match as unknown as [string, string, string, string, string];
  const bodyStart = match.index + head.length;
  const bodyEnd = closingBrace(text, bodyStart);
  const body = text.slice(bodyStart, bodyEnd);
  const start = constantValue(from, values);
  const end = constantValue(to, values);
  const step = advance === "++" ? 1 : constantValue(advance.slice(2), values);
  if (start === undefined || end === undefined || step === undefined) {
    throw new NibbleError("gpu/unroll", `Cannot unroll: the bounds of 'for ${name}' are not constant`, {
      where: head.trim(),
    });
  }
  const suffix = /\d\s*u\s*$/.test(from) ? "u" : "";
  const use = new RegExp(`\\b${name}\\b`, "g");
  const scoped = /\b(let|var)\b/.test(body);
  const copies: string[] = [];
  for (let i = start; i < end; i += step) {
    const copy = unroll(body.replace(use, `${i}${suffix}`), values);
    copies.push(scoped ? `{\n${copy}}\n` : copy);
  }
  return text.slice(0, match.index) + copies.join("") + unroll(text.slice(bodyEnd + 1), values);
}

/** Index of the brace that closes the block whose body starts at `from`. */
function closingBrace(text: string, from: number): number {
  let depth = 1;
  for (let i = from; i < text.length; i++) {
    if (text[i] === "/" && text[i + 1] === "/") i = text.indexOf("\n", i);
    else if (text[i] === "{") depth++;
    else if (text[i] === "}" && --depth === 0) return i;
  }
  throw new NibbleError("gpu/unroll", "Unbalanced braces in the kernel");
}

/** A binding or the uniform block, as declared in the file. */
export interface Binding {
  name: string;
  index: number;
  kind: "uniform" | "read" | "read_write" | "texture";
}

/** A field of `struct Params`: every field is a 4-byte scalar. */
export interface ParamField {
  name: string;
  type: "u32" | "i32" | "f32";
}

const BINDING =
  /@group\(0\)\s*@binding\((\d+)\)\s*var(?:<(uniform|storage)(?:,\s*(read_write|read))?>)?\s+(\w+)\s*:/g;

/** Reads the declared bindings and the fields of `struct Params` from a kernel file. */
export function reflect(source: string): { bindings: Binding[]; params: ParamField[] } {
  const text = stripComments(source);
  const bindings = [...text.matchAll(BINDING)].map((m): Binding => ({
    name: m[4]!,
    index: Number(m[1]),
    kind: m[2] === undefined
      ? "texture"
      : m[2] === "uniform"
      ? "uniform"
      : m[3] === "read_write"
      ? "read_write"
      : "read",
  }));
  const block = /struct\s+Params\s*\{([^}]*)\}/.exec(text)?.[1] ?? "";
  const params = [...block.matchAll(/(\w+)\s*:\s*(u32|i32|f32)\b/g)].map((m): ParamField => ({
    name: m[1]!,
    type: m[2] as ParamField["type"],
  }));
  return { bindings, params };
}

/** What a texture binding of a specialised text is bound as; its type may stand behind an alias. */
export function textureLayout(text: string, name: string): Partial<GPUBindGroupLayoutEntry> {
  const TYPE = String.raw`(\w+(?:<[^>]*>)?)`;
  const declared = new RegExp(String.raw`\bvar\s+${name}\s*:\s*${TYPE}`).exec(text)?.[1] ?? "";
  const type = new RegExp(String.raw`\balias\s+${declared}\s*=\s*${TYPE}`).exec(text)?.[1] ?? declared;
  const [, format, access] = /^texture_storage_2d<\s*(\w+)\s*,\s*(read|write)\s*>$/.exec(type) ?? [];
  if (format) {
    return {
      storageTexture: { access: `${access as "read" | "write"}-only`, format: format as GPUTextureFormat },
    };
  }
  return { texture: { sampleType: type.includes("u32") ? "uint" : "unfilterable-float" } };
}
