/**
 * `@std/yaml` and `@std/path` are stand-ins where JSR is out of reach. These tests hold for both: they
 * cover the part of YAML that recipes use, and watch that no recipe of ours leaves it.
 */
import assert from "node:assert/strict";
import {
  basename,
  dirname,
  extname,
  fromFileUrl,
  isAbsolute,
  join,
  relative,
  resolve,
  toFileUrl,
} from "@std/path";
import { parse, stringify } from "@std/yaml";

const root = new URL("../../", import.meta.url);

/** Text of a value and what every reader makes of it. */
const AGREED: [text: string, value: unknown][] = [
  ["1e-4", 1e-4],
  ["5.0e-7", 5e-7],
  ["2.0e-05", 2e-5],
  ["1.0", 1],
  ["-1", -1],
  ["0x1F", 31],
  ["true", true],
  ["False", false],
  ["null", null],
  ["~", null],
  ["", null],
  ["yes", "yes"],
  ["no", "no"],
  ["on", "on"],
  ["'no'", "no"],
  ['"steps"', "steps"],
  ["mistralai/Mistral-7B-v0.1", "mistralai/Mistral-7B-v0.1"],
  ["<|im_end|>", "<|im_end|>"],
  ["v1.0 # a comment", "v1.0"],
  ["a#b", "a#b"],
  ['"{% for m in messages %}\\n{{ m }}\\t\\"q\\""', '{% for m in messages %}\n{{ m }}\t"q"'],
  ["'it''s'", "it's"],
  ["[q_proj, v_proj]", ["q_proj", "v_proj"]],
  ["{min_lr_rate: 0.1}", { min_lr_rate: 0.1 }],
  ["\n- q_proj\n- v_proj", ["q_proj", "v_proj"]],
  ["\n  - id: a/b\n    weight: 0.5\n    columns:\n      - messages", [
    { id: "a/b", weight: 0.5, columns: ["messages"] },
  ]],
  ["|\n  two\n  lines\n", "two\nlines\n"],
  ["|-\n  no\n  end", "no\nend"],
  [">-\n  one\n  line", "one line"],
];

for (const [text, value] of AGREED) {
  Deno.test(`yaml reads ${JSON.stringify(text)}`, () => {
    assert.deepEqual(parse(`key: ${text}\nnext: 1\n`), { key: value, next: 1 });
  });
}

Deno.test("yaml refuses a key that appears twice", () => {
  assert.throws(() => parse("lora_r: 8\nlora_r: 16\n"));
});

Deno.test("yaml says the line of what it cannot read", () => {
  assert.throws(() => parse('a: 1\nb: "open\n'), /line \d+/);
});

Deno.test("yaml merges keys and follows anchors", () => {
  const text = "base: &base\n  config: default\n  weight: 1.0\nother:\n  <<: *base\n  weight: 0.5\n";
  assert.deepEqual((parse(text) as Record<string, unknown>).other, { config: "default", weight: 0.5 });
});

Deno.test("yaml writes what it reads back", () => {
  const value = {
    learning_rate: 2e-4,
    tiny: 5e-7,
    save_strategy: "no",
    torch_dtype: null,
    report_to: [],
    chat_template: "{% for m in messages %}\n{{ m }}: 'x' \"y\" # z\n",
    dataset_mixer: { "a/b": 0.5 },
    revision: "0123",
    number_like: "1e5",
    true_like: "true",
  };
  assert.deepEqual(parse(stringify(value)), value);
});

// Readers differ on these: 1_000, 017, 0o17, dates, numbers that begin with a point, tabs.
const DISPUTED = /:\s+(\d[\d_]*_\d+|0\d+|0o\d+|\d{4}-\d\d-\d\d.*|[+-]?\.\d+)\s*(#.*)?$|^\t| \t/m;

function* recipesUnder(folder: URL): Generator<URL> {
  for (const entry of Deno.readDirSync(folder)) {
    if (entry.isDirectory) yield* recipesUnder(new URL(`${entry.name}/`, folder));
    else if (/\.ya?ml$/.test(entry.name)) yield new URL(entry.name, folder);
  }
}

Deno.test("no recipe of ours uses what readers dispute", () => {
  for (const text of ["a: 1_000", "a: 017", "a: 2024-01-02", "a: -.5", "a: 0o17 # x", "\ta: 1"]) {
    assert.match(text, DISPUTED); // the pattern itself works
  }
  const files = [...recipesUnder(new URL("recipes/", root))];
  assert.ok(files.length >= 3);
  for (const file of files) assert.doesNotMatch(Deno.readTextFileSync(file), DISPUTED, file.pathname);
});

Deno.test("path: the names that nibble uses", () => {
  assert.equal(join("a", "..", "b", "c.yaml"), join("b", "c.yaml"));
  assert.equal(basename("a/b.yaml"), "b.yaml");
  assert.equal(dirname("a/b.yaml"), "a");
  assert.equal(extname("a/b.yaml"), ".yaml");
  assert.equal(isAbsolute(resolve("a")), true);
  assert.equal(relative(resolve("a"), resolve("a/b")), "b");
  const path = resolve("a b", "c#d.yaml");
  assert.equal(fromFileUrl(toFileUrl(path)), path);
});
