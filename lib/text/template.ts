/**
 * Chat templates: Jinja as transformers sets it up (trim_blocks, lstrip_blocks, `raise_exception`,
 * `strftime_now`, `{% generation %}`), and the two defaults for models that carry none.
 * @module
 */
import { Environment, Interpreter, parse, tokenize } from "@huggingface/jinja";
import { NibbleError } from "../errors.ts";

/** ChatML, the default where the vocabulary has `<|im_start|>`. */
export const CHATML_TEMPLATE: string = "{% for message in messages %}" +
  "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}{% endfor %}" +
  "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}";

/** Zephyr's form, the default elsewhere: role markers in plain text, each turn closed by `eos_token`. */
export const ZEPHYR_TEMPLATE: string = "{% for message in messages %}" +
  "{{ '<|' + message['role'] + '|>\\n' + message['content'] + eos_token + '\\n' }}{% endfor %}" +
  "{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% endif %}";

type Json = Record<string, unknown>;

/** A compiled template: variables in, text out. */
export type RenderTemplate = (variables: Record<string, unknown>) => string;

/** Python's `str.strip`, `lstrip`, `rstrip` with a set of characters. */
const STRIP = {
  strip: (text: string, chars: string) => trimEnd(trimStart(text, chars), chars),
  lstrip: trimStart,
  rstrip: trimEnd,
};

function trimStart(text: string, chars: string): string {
  const drop = new Set(chars), all = [...text];
  const from = all.findIndex((c) => !drop.has(c));
  return from < 0 ? "" : all.slice(from).join("");
}

function trimEnd(text: string, chars: string): string {
  const drop = new Set(chars), all = [...text];
  return all.slice(0, all.findLastIndex((c) => !drop.has(c)) + 1).join("");
}

/**
 * The engine's strip methods ignore their argument and take all white space (Qwen's and SmolLM3's templates say
 * `lstrip('\n')`, which must leave spaces). Calls with an argument are turned into calls of functions of ours.
 */
function mendStrip(node: unknown): void {
  if (Array.isArray(node)) return node.forEach(mendStrip);
  if (typeof node !== "object" || node === null) return;
  const call = node as { type?: string; callee?: Json; args?: unknown[] };
  const method = (call.callee?.property as Json | undefined)?.value as string;
  if (call.type === "CallExpression" && call.callee?.type === "MemberExpression" && call.args?.length === 1) {
    if (!call.callee.computed && Object.hasOwn(STRIP, method)) {
      const { object, property } = call.callee;
      call.args = [object, ...call.args];
      call.callee = Object.assign(property as Json, { value: `nibble_${method}` });
    }
  }
  Object.values(node).forEach(mendStrip);
}

/** A value as the engine holds it while a template runs. */
interface RuntimeValue {
  type: string;
  value: unknown;
  toString(): string;
}

/** What `{{ value }}` writes in Python: the engine writes lists, mappings and truth values as JSON. */
function pythonText(runtime: RuntimeValue, within = false): string {
  const { type, value } = runtime;
  const parts = () => (value as RuntimeValue[]).map((part) => pythonText(part, true));
  if (type === "StringValue") return within ? pythonQuoted(value as string) : value as string;
  if (type === "BooleanValue") return value ? "True" : "False";
  if (type === "NullValue") return "None";
  if (type === "ArrayValue") return `[${parts().join(", ")}]`;
  if (type === "TupleValue") return `(${parts().join(", ")}${parts().length === 1 ? "," : ""})`;
  if (type !== "ObjectValue") return runtime.toString();
  const entries = [...value as Map<string, RuntimeValue>];
  return `{${entries.map(([key, part]) => `${pythonQuoted(key)}: ${pythonText(part, true)}`).join(", ")}}`;
}

/** A text within a list or mapping: Python's `repr`. */
function pythonQuoted(text: string): string {
  const quote = text.includes("'") && !text.includes('"') ? '"' : "'";
  const named: Record<string, string> = {
    "\n": "\\n",
    "\r": "\\r",
    "\t": "\\t",
    "\\": "\\\\",
    [quote]: `\\${quote}`,
  };
  const hex = (code: number) =>
    code < 256
      ? `\\x${code.toString(16).padStart(2, "0")}`
      : code < 65536
      ? `\\u${code.toString(16).padStart(4, "0")}`
      : `\\U${code.toString(16).padStart(8, "0")}`;
  const escape = (c: string) =>
    named[c] ?? (/[\p{C}\p{Z}]/u.test(c) && c !== " " ? hex(c.codePointAt(0)!) : c);
  return quote + [...text].map(escape).join("") + quote;
}

/** Statements whose value is what a template writes, `None` included. */
const WRITES = new Set(["Identifier", "MemberExpression", "CallExpression", "FilterExpression"]);

/** Runs a template, writing values as Python does. */
function runTemplate(program: ReturnType<typeof parse>, scope: Environment): string {
  const interpreter = new Interpreter(scope) as unknown as {
    run(program: unknown): RuntimeValue;
    evaluate(statement: { type: string }, environment: unknown): RuntimeValue;
    evaluateBlock(statements: { type: string }[], environment: unknown): unknown;
  };
  const text = scope.set("nibble_text", "") as unknown as { constructor: new (text: string) => unknown };
  interpreter.evaluateBlock = (statements, environment) => {
    let result = "";
    for (const statement of statements) {
      const value = interpreter.evaluate(statement, environment);
      const silent = value.type === "UndefinedValue" ||
        (value.type === "NullValue" && !WRITES.has(statement.type));
      if (!silent) result += pythonText(value);
    }
    return new text.constructor(result);
  };
  return interpreter.run(program).value as string;
}

/** Names of the variables by which `{% generation %}` blocks run and what is written before and after them. */
const GENERATION = "nibble_generation", OPENS = "nibble_opens", CLOSES = "nibble_closes";

/** Puts the two marks around the content of every generation block. */
function markGeneration(node: unknown): void {
  if (Array.isArray(node)) return node.forEach(markGeneration);
  if (typeof node !== "object" || node === null) return;
  const block = node as { type?: string; test?: { value?: unknown }; body?: unknown[] };
  if (block.type === "If" && block.test?.value === GENERATION) {
    const write = (name: string) => parse(tokenize(`{{ ${name} }}`)).body;
    block.body = [...write(OPENS), ...block.body!, ...write(CLOSES)];
  }
  Object.values(node).forEach(markGeneration);
}

/** Marks that no conversation holds: of Unicode's private use. */
const MARKS = ["\u{f0001}", "\u{f0002}"] as const;

/**
 * Renders a template that has `{% generation %}` blocks, and finds what they wrote.
 *
 * @returns undefined where the template has none
 */
export function renderGeneration(
  source: string,
  render: (variables: Record<string, unknown>) => string,
): { text: string; spans: [start: number, end: number][] } | undefined {
  if (!/\{%[-+]?\s*generation\s*-?%\}/.test(source)) return undefined;
  const [open, close] = MARKS;
  let text = "";
  const spans: [number, number][] = [];
  for (const piece of render({ [OPENS]: open, [CLOSES]: close }).split(open)) {
    const [inside, after] = piece.split(close);
    if (after === undefined) text += inside;
    else {
      spans.push([text.length, text.length + inside!.length]);
      text += inside! + after;
    }
  }
  return { text, spans };
}

/** What `raise_exception` in a template throws. */
class TemplateRaised extends Error {}

const MONTHS = "January February March April May June July August September October November December".split(
  " ",
);
const DAYS = "Sunday Monday Tuesday Wednesday Thursday Friday Saturday".split(" ");

/** Python's `strftime` in the C locale, for the codes that templates use. */
function strftime(date: Date, format: string): string {
  const two = (n: number) => String(n).padStart(2, "0");
  const codes: Record<string, () => string> = {
    Y: () => String(date.getFullYear()),
    y: () => two(date.getFullYear() % 100),
    m: () => two(date.getMonth() + 1),
    d: () => two(date.getDate()),
    e: () => String(date.getDate()).padStart(2, " "),
    B: () => MONTHS[date.getMonth()],
    b: () => MONTHS[date.getMonth()].slice(0, 3),
    A: () => DAYS[date.getDay()],
    a: () => DAYS[date.getDay()].slice(0, 3),
    H: () => two(date.getHours()),
    I: () => two((date.getHours() + 11) % 12 + 1),
    M: () => two(date.getMinutes()),
    S: () => two(date.getSeconds()),
    p: () => date.getHours() < 12 ? "AM" : "PM",
    "%": () => "%",
  };
  return format.replace(/%(.)/g, (code, letter) => codes[letter]?.() ?? code);
}

function range(start: number, stop?: number, step = 1): number[] {
  if (typeof stop !== "number") [start, stop] = [0, start];
  const out: number[] = [];
  for (let i = start; step > 0 ? i < stop : i > stop; i += step) out.push(i);
  return out;
}

/**
 * Compiles a chat template. `now` fixes the date that `strftime_now` reads: data that are encoded twice (a resumed
 * run, a rendered prefix) must not change at midnight.
 *
 * Throws {@link NibbleError} `text/template-syntax` here, `text/template-raised` (the template's own
 * `raise_exception`) or `text/template-failed` when rendering.
 *
 * @example
 * ```ts
 * import { compileTemplate } from "./template.ts";
 * const render = compileTemplate("{% for m in messages %}\n{{ m.role }}: {{ m.content }}\n{% endfor %}");
 * const text = render({ messages: [{ role: "user", content: "hi" }] });
 * if (text !== "user: hi\n") throw new Error(text);
 * ```
 */
export function compileTemplate(source: string, now: Date = new Date()): RenderTemplate {
  // transformers makes `generation` a block tag of its own. A block that always runs has the same output and,
  // unlike cutting the tag out, the same whitespace control.
  const blocks = source
    .replace(/\{%([-+]?)\s*generation\s*(-?)%\}/g, `{%$1 if ${GENERATION} $2%}`)
    .replace(/\{%([-+]?)\s*endgeneration\s*(-?)%\}/g, "{%$1 endif $2%}");
  let program: ReturnType<typeof parse>;
  try {
    program = parse(tokenize(blocks, { lstrip_blocks: true, trim_blocks: true }));
    mendStrip(program.body);
    markGeneration(program.body);
  } catch (cause) {
    throw new NibbleError("text/template-syntax", `Cannot read the chat template: ${messageOf(cause)}`, {
      where: "chat_template",
      remedy: "Mend the Jinja template, or set chat_template in the recipe.",
      cause,
    });
  }
  return (variables) => {
    const scope = new Environment();
    const globals: Record<string, unknown> = {
      true: true,
      false: false,
      none: null,
      True: true,
      False: false,
      None: null,
      range,
      raise_exception: (message: unknown) => {
        throw new TemplateRaised(String(message));
      },
      [GENERATION]: true,
      [OPENS]: "",
      [CLOSES]: "",
      nibble_strip: STRIP.strip,
      nibble_lstrip: STRIP.lstrip,
      nibble_rstrip: STRIP.rstrip,
      strftime_now: (format: string) => strftime(now, format),
    };
    for (const [name, value] of Object.entries({ ...globals, ...variables })) {
      if (value !== undefined) scope.set(name, value);
    }
    try {
      return runTemplate(program, scope);
    } catch (cause) {
      if (cause instanceof TemplateRaised) {
        throw new NibbleError("text/template-raised", `The chat template refuses: ${cause.message}`, {
          remedy:
            "Change the conversation to what the model's template allows, or set another chat_template.",
          cause,
        });
      }
      throw new NibbleError("text/template-failed", `The chat template failed: ${messageOf(cause)}`, {
        remedy:
          "Check that every message has a role and a text content, and that the template is valid Jinja.",
        cause,
      });
    }
  };
}

function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
