import assert from "node:assert/strict";
import { parse } from "@std/yaml";
import { type ModelCard, modelCard } from "../../lib/train/model_card.ts";

const CARD: ModelCard = {
  modelName: "smollm2-devil",
  base: { name: "HuggingFaceTB/SmolLM2-135M-Instruct", onHub: true },
  baseRevision: "main",
  isAdapter: true,
  quantization: { type: "nf4", blockSize: 64, doubleQuant: true },
  task: "sft",
  datasets: [{ name: "org/data", onHub: true }, { name: "assets/data/devils_dictionary", onHub: false }],
  license: "apache-2.0",
  languages: ["en"],
  before: { eval_loss: Math.log(50), eval_mean_token_accuracy: 0.25, eval_runtime: 3 },
  after: {
    eval_loss: Math.log(20),
    eval_mean_token_accuracy: 0.375,
    eval_runtime: 3,
    "eval_rewards/margins": 0.5,
  },
  trainLoss: 3.25,
  steps: 40,
  epochs: 1.25,
  tokens: 1_234_567,
  seconds: 610,
  trainableParameters: 4_884_480,
  parameters: 139_399_488,
  device: "llvmpipe (LLVM 15.0.6, 256 bits)",
  deviceBytes: 312 * 2 ** 20,
  recipe: "lora_r: 16\nlearning_rate: 2.0e-4\n",
  lossCurve: "loss_curve.svg",
  samples: [{
    prompt: "Define: LAWYER",
    before: "A person who...",
    after: "n. One skilled in\ncircumvention.",
  }],
  version: "0.1.0",
};

/** Front matter as the Hub takes it: between the first line `---` and the next. */
function frontMatter(text: string): Record<string, unknown> {
  const match = /^---\n([\s\S]*?)\n---\n/.exec(text);
  assert.ok(match, "a card begins with front matter");
  return parse(match[1]) as Record<string, unknown>;
}

Deno.test("the front matter of an adapter is what the Hub and PEFT expect", () => {
  assert.deepEqual(frontMatter(modelCard(CARD)), {
    base_model: "HuggingFaceTB/SmolLM2-135M-Instruct",
    base_model_relation: "adapter",
    library_name: "peft",
    model_name: "smollm2-devil",
    pipeline_tag: "text-generation",
    tags: ["nibble", "lora", "qlora", "sft", "webgpu"],
    datasets: ["org/data"],
    license: "apache-2.0",
    language: ["en"],
  });
});

Deno.test("paths stay out of the front matter, and names that YAML would misread survive", () => {
  const { license: _, languages: __, quantization: ___, baseRevision: ____, ...rest } = CARD;
  const text = modelCard({
    ...rest,
    base: { name: "./models/no: [base] #1", onHub: false },
    modelName: "no: yes #7",
    isAdapter: false,
    task: "cpt",
    datasets: [],
  });
  assert.deepEqual(frontMatter(text), {
    library_name: "transformers",
    model_name: "no: yes #7",
    pipeline_tag: "text-generation",
    tags: ["nibble", "full-fine-tuning", "cpt", "webgpu"],
  });
  assert.match(text, /`\.\/models\/no: \[base\] #1`/);
  assert.match(text, /AutoModelForCausalLM\.from_pretrained\(folder\)/);
  assert.doesNotMatch(text, /PeftModel|--adapter|4 bits/);
});

Deno.test("figures: losses, perplexity, other metrics, no speed among the results", () => {
  const text = modelCard(CARD);
  assert.ok(text.includes("| Loss (held out) | 3.9120 | 2.9957 |"));
  assert.ok(text.includes("| Perplexity | 50.00 | 20.00 |"));
  assert.ok(text.includes("| `mean_token_accuracy` | 0.2500 | 0.3750 |"));
  assert.ok(text.includes("| `rewards/margins` | – | 0.5000 |"));
  assert.doesNotMatch(text, /runtime/);
  for (
    const row of [
      "| Optimizer steps | 40 |",
      "| Epochs | 1.25 |",
      "| Tokens | 1,234,567 |",
      "| Time | 10m10s |",
      "| Seconds a step | 15.3 |",
      "| Tokens a second | 2,024 |",
      "| Mean training loss | 3.2500 |",
      "| Parameters trained | 4,884,480 of 139,399,488 (3.50 %) |",
      "| Device | `llvmpipe (LLVM 15.0.6, 256 bits)` |",
      "| Device memory at most | 312 MiB |",
    ]
  ) assert.ok(text.includes(row), row);
  assert.match(text, /!\[Loss over the optimizer steps\]\(loss_curve\.svg\)/);
});

Deno.test("what is unknown leaves no trace, and a preference run shows no perplexity", () => {
  const {
    samples: _,
    lossCurve: __,
    trainLoss: ___,
    tokens: ____,
    deviceBytes: _____,
    before: ______,
    ...rest
  } = CARD;
  const text = modelCard({ ...rest, task: "dpo", plannedSteps: 100 });
  assert.doesNotMatch(text, /undefined|NaN|Perplexity|Samples|!\[|Mean training loss/);
  assert.ok(text.includes("| Loss (held out) | – | 2.9957 |"));
  assert.ok(text.includes("| Optimizer steps | 40 of 100 (stopped early) |"));
  const { after: _______, ...without } = rest;
  assert.doesNotMatch(modelCard(without), /## Results/);
});

Deno.test("Python code names the base and quantization, or leaves out what Transformers cannot say", () => {
  const code = (card: ModelCard) => /```python\n([\s\S]*?)\n```/.exec(modelCard(card))![1];
  assert.match(code(CARD), /bnb_4bit_quant_type="nf4",\n {4}bnb_4bit_use_double_quant=True/);
  assert.match(code(CARD), /from_pretrained\("HuggingFaceTB\/SmolLM2-135M-Instruct", revision="main", quant/);
  const odd = code({ ...CARD, quantization: { type: "nf4", blockSize: 128, doubleQuant: false } });
  assert.doesNotMatch(odd, /BitsAndBytes|import torch/);
  const tricky = code({ ...CARD, base: { name: 'a"b\\c', onHub: false } });
  assert.ok(tricky.includes('from_pretrained("a\\"b\\\\c", revision'));
});

Deno.test("a path with blanks or quotes is quoted for the shell", () => {
  const text = modelCard({ ...CARD, base: { name: "my model's/x.gguf", onHub: false } });
  assert.ok(text.includes(`--model 'my model'\\''s/x.gguf' --adapter`));
});

Deno.test("samples and recipe cannot break out of their blocks", () => {
  const text = modelCard({
    ...CARD,
    samples: [{ prompt: "```\n# not a heading\n````", before: "", after: "x\n\n" }],
    recipe: "a: |\n  ```\n",
    device: "a|b`c\nd",
  });
  // A reader of fences after CommonMark: a block ends at the first fence at least as long as its own.
  let open = 0;
  const outside: string[] = [];
  for (const row of text.split("\n")) {
    const fence = /^(`{3,})(\w*)$/.exec(row);
    if (open === 0 && fence) open = fence[1].length;
    else if (open > 0 && fence && fence[1].length >= open && fence[2] === "") open = 0;
    else if (open === 0) outside.push(row);
  }
  assert.equal(open, 0, "all blocks are closed");
  assert.deepEqual(outside.filter((r) => r.startsWith("# ")), ["# smollm2-devil"]);
  assert.ok(outside.includes("| Device | `a\\|b'c d` |"));
});

Deno.test("adapters that were merged into the base are named, and merged by the snippet", () => {
  const card = modelCard({
    ...CARD,
    task: "dpo",
    merged: [{ name: "org/sft", onHub: true }, { name: "data/more", onHub: false }],
  });
  assert.match(
    card,
    /\[org\/sft\]\(https:[^)]*\), then `data\/more` were merged into the base: on the base alone/,
  );
  const steps = [...card.matchAll(/PeftModel\.from_pretrained\(base, "(.*)"\)\.merge_and_unload/g)].map((m) =>
    m[1]
  );
  assert.deepEqual(steps, ["org/sft", "data/more"]);
  assert.ok(!card.includes("quantization_config=four_bits"), "merged in 16 bits");
  assert.match(card, /deno task chat --adapter path/);
  assert.ok(!modelCard(CARD).includes("merge_and_unload"));
});
