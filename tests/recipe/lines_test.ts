import assert from "node:assert/strict";
import { parse } from "@std/yaml";
import { findKeys } from "../../lib/recipe/lines.ts";

const TEXT = `# a comment: not a key
lora_r: 8   # rank
"quoted": 1
'single' : 2

dataset_mixture:
  datasets:
    - id: a/b
      seed: 3
report_to:
- wandb
template: "a: b # not a comment"
url: http://x/y
empty:
block: |
  lora_alpha: 1
last: v1.0
`;

Deno.test("findKeys: lines of the top-level keys, nothing nested", () => {
  const keys = findKeys(TEXT);
  assert.deepEqual([...keys].map(([key, { line }]) => `${key}:${line}`), [
    "lora_r:2",
    "quoted:3",
    "single:4",
    "dataset_mixture:6",
    "report_to:10",
    "template:12",
    "url:13",
    "empty:14",
    "block:15",
    "last:17",
  ]);
  assert.deepEqual([...keys.keys()].sort(), Object.keys(parse(TEXT) as Record<string, unknown>).sort());
});

Deno.test("findKeys: text of plain values", () => {
  const keys = findKeys(TEXT);
  assert.equal(keys.get("lora_r")?.raw, "8");
  assert.equal(keys.get("last")?.raw, "v1.0");
  assert.equal(keys.get("url")?.raw, "http://x/y");
  assert.equal(keys.get("empty")?.raw, "");
});

Deno.test("findKeys: Windows line ends and a byte order mark", () => {
  const keys = findKeys("\uFEFFlora_r: 8\r\nlora_alpha: 16\r\n");
  assert.deepEqual(keys.get("lora_r"), { line: 1, raw: "8" });
  assert.deepEqual(keys.get("lora_alpha"), { line: 2, raw: "16" });
});
