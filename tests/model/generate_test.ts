import assert from "node:assert/strict";
import { openModel } from "../../lib/formats/mod.ts";
import { gpu } from "../../lib/gpu/mod.ts";
import { readConfig } from "../../lib/model/config.ts";
import { generate } from "../../lib/model/generate.ts";
import { buildModel } from "../../lib/model/load.ts";
import { logits } from "../../lib/model/model.ts";
import { randomNumbers, sampleToken } from "../../lib/model/sample.ts";
import { createTokenizer } from "../../lib/text/mod.ts";
import { gpuTest, rejected } from "../gpu_helper.ts";
import {
  inDoubles,
  memorySource,
  naiveLogits,
  tinyConfig,
  tinyWeights,
  warmDevice,
  wholeRow,
} from "./tiny.ts";

await warmDevice();

const largest = (row: ArrayLike<number>) =>
  Array.from(row).reduce((best, v, i, all) => v > all[best]! ? i : best, 0);

for (
  const [what, more] of [["Llama", {}], ["Mistral, window 4", {
    model_type: "mistral",
    sliding_window: 4,
  }]] as const
) {
  gpuTest(`generation with a cache equals the full forward pass over and over: ${what}`, async () => {
    const raw = tinyConfig(more), weights = tinyWeights(raw, 6);
    const model = await buildModel(raw, memorySource(raw, weights));
    const prompt = [5, 17, 60, 2, 9];
    const seen: number[] = [];
    const { ids, reason } = await generate(model, prompt, {
      max_new_tokens: 12,
      eos_token_id: [],
      onToken: (id) => seen.push(id),
    });
    assert.equal(reason, "length");
    assert.deepEqual(seen, ids);
    assert.equal(ids.length, 12);
    // a penalty that changes no logit has the host choose every token
    const nearly = { repetition_penalty: 1 + Number.EPSILON };
    const hosts = await generate(model, prompt, { max_new_tokens: 12, eos_token_id: [], ...nearly });
    assert.deepEqual(hosts.ids, ids, "the device chooses what the host chooses");
    const c = readConfig(raw, "c"), w = inDoubles(weights), all = [...prompt];
    for (const [i, id] of ids.entries()) {
      const full = await logits(model, all);
      assert.equal(id, largest(full.subarray((all.length - 1) * 61)), `token ${i} against the full pass`);
      assert.equal(
        id,
        largest(naiveLogits(c, w, wholeRow(all)).at(-1)!),
        `token ${i} against the naive model`,
      );
      all.push(id);
    }
    model.dispose();
  });
}

gpuTest("a prompt longer than one piece fills the cache as one pass would", async () => {
  const raw = tinyConfig({ max_position_embeddings: 600 });
  const model = await buildModel(raw, memorySource(raw, tinyWeights(raw, 7)));
  const prompt = Array.from({ length: 519 }, (_, i) => (i * 31 + (i >> 3)) % 61);
  const { ids } = await generate(model, prompt, { max_new_tokens: 2, eos_token_id: [] });
  const full = await logits(model, prompt);
  assert.equal(ids[0], largest(full.subarray(518 * 61)));
  const next = await logits(model, [...prompt, ids[0]!]);
  assert.equal(ids[1], largest(next.subarray(519 * 61)));
  model.dispose();
});

gpuTest("generation ends at a stop token, at the limit of positions and by its signal", async () => {
  const raw = tinyConfig({ max_position_embeddings: 16 });
  const model = await buildModel(raw, memorySource(raw, tinyWeights(raw, 6)));
  const free = await generate(model, [5, 17], { max_new_tokens: 100, eos_token_id: [] });
  assert.equal(free.reason, "length");
  assert.equal(free.ids.length, 16 - 2 + 1, "every position is used; the last token needs none");
  const stop = free.ids[3]!;
  const stopped = await generate(model, [5, 17], { max_new_tokens: 100, eos_token_id: [stop] });
  assert.equal(stopped.reason, "stop");
  assert.deepEqual(stopped.ids, free.ids.slice(0, free.ids.indexOf(stop)));
  const control = new AbortController();
  const aborted = await generate(model, [5, 17], {
    eos_token_id: [],
    signal: control.signal,
    onToken: () => control.abort(),
  });
  assert.equal(aborted.reason, "aborted");
  assert.equal(aborted.ids.length, 1);
  await assert.rejects(generate(model, [], {}), /no tokens/);
  await assert.rejects(generate(model, Array(16).fill(1), {}), /16 tokens, the model 16 positions/);
  const sampled = { temperature: 1.5, seed: 3, max_new_tokens: 8, eos_token_id: [] };
  const a = await generate(model, [5], sampled), b = await generate(model, [5], sampled);
  assert.deepEqual(a.ids, b.ids, "a seed repeats");
  const c = await generate(model, [5], { ...sampled, seed: 4 });
  assert.notDeepEqual(a.ids, c.ids);
  model.dispose();
});

Deno.test("sampling follows the softmax, top-k, top-p, min-p and the penalty", () => {
  const scores = [2, 1, 0, -1, -8];
  const draw = (options: Parameters<typeof sampleToken>[2], n = 20000) => {
    const random = randomNumbers(5);
    const counts = new Array(5).fill(0);
    for (let i = 0; i < n; i++) counts[sampleToken(Float32Array.from(scores), [], options, random)]++;
    return counts.map((k) => k / n);
  };
  const softmax = (kept: number[], t = 1) => {
    const weights = scores.map((s, i) => kept.includes(i) ? Math.exp(s / t) : 0);
    const total = weights.reduce((a, b) => a + b, 0);
    return weights.map((w) => w / total);
  };
  const near = (got: number[], want: number[], what: string) =>
    got.forEach((p, i) => {
      // five standard errors of a share of 20,000 draws
      const error = 5 * Math.sqrt(want[i]! * (1 - want[i]!) / 20000) + 1e-9;
      assert.ok(Math.abs(p - want[i]!) <= error, `${what}: token ${i} came ${p}, expected ${want[i]}`);
    });
  near(draw({ temperature: 1 }), softmax([0, 1, 2, 3, 4]), "plain");
  near(draw({ temperature: 2 }), softmax([0, 1, 2, 3, 4], 2), "temperature");
  near(draw({ temperature: 1, top_k: 2 }), softmax([0, 1]), "top-k");
  // cumulative shares of the softmax: .643, .880, .967: 0.7 is crossed by the second token
  near(draw({ temperature: 1, top_p: 0.7 }), softmax([0, 1]), "top-p keeps the token that crosses");
  near(draw({ temperature: 1, top_p: 0 }), softmax([0]), "top-p keeps one");
  // shares relative to the best: 1, .368, .135, .0498
  near(draw({ temperature: 1, min_p: 0.1 }), softmax([0, 1, 2]), "min-p");
  const choose = (row: number[], seen: number[], options = {}) =>
    sampleToken(Float32Array.from(row), seen, { repetition_penalty: 2, ...options }, Math.random);
  assert.equal(choose([3, 2], [0]), 1, "positive scores are divided");
  assert.equal(choose([-1, -1.5], [0]), 1, "negative scores are multiplied");
  assert.equal(choose([3.5, 2], [0, 0, 0]), 0 + 1, "3.5 / 2 < 2");
  assert.equal(choose([5, 2], [0, 0, 0]), 0, "the penalty applies once a token");
});

const STORIES = new URL("../../../shared/models/stories260k/", import.meta.url);
let there = true;
try {
  Deno.statSync(STORIES);
} catch {
  there = false;
}
const STORY = "Once upon a time, there was a little girl named Lily. She loved to play outside in the park.";

if (there) {
  gpuTest("stories260K tells its story from BOS", async () => {
    const files = openModel(STORIES.pathname);
    const tokenizer = createTokenizer(files);
    for (
      const quantization of [undefined, { quantType: "nf4", blocksize: 64, doubleQuant: false } as const]
    ) {
      const model = await buildModel(files.config, files.source, { quantization, maxPositions: 128 });
      const { ids } = await generate(model, [tokenizer.bosId!], { max_new_tokens: quantization ? 8 : 48 });
      const text = tokenizer.decode(ids, { skipSpecialTokens: true });
      if (!quantization) assert.ok(text.trim().startsWith(STORY), text);
      else assert.ok(text.length > 0, "and runs in four bits");
      model.dispose();
    }
    files.source.close();
    gpu().check();
  });
} else {
  Deno.test({
    name: "stories260K tells its story from BOS (skipped: ../shared is absent)",
    ignore: true,
    fn() {},
  });
}

gpuTest(
  "a prompt without tokens, and one that fills all positions, are refused; ids must be the vocabulary's",
  async () => {
    const raw = tinyConfig();
    const model = await buildModel(raw, memorySource(raw, tinyWeights(raw, 7)), { maxPositions: 8 });
    await rejected(() => generate(model, []), "model/empty-prompt", /no tokens.*bos_token/s);
    await rejected(
      () => generate(model, Array(8).fill(1)),
      "model/too-long",
      /8 tokens, the model 8 positions.*maxPositions/s,
    );
    await rejected(
      () => generate(model, [1, 61]),
      "tensor/token-id",
      /id 61 at 1 is outside the vocabulary of 61/,
    );
    assert.deepEqual((await generate(model, [1], { max_new_tokens: 0 })).ids, []);
    const wrong = [{ temperature: NaN }, { temperature: -1 }, { top_k: 1.5 }, { top_p: 1.1 }, { min_p: 2 }];
    const more = [{ repetition_penalty: 0 }, { seed: NaN }, { max_new_tokens: 1.5 }, { max_new_tokens: -1 }];
    for (const options of [...wrong, ...more]) {
      const [[name, value]] = Object.entries(options) as [[string, number]];
      await rejected(
        () => generate(model, [1], options),
        "model/sampling",
        RegExp(`${name} is ${value}.*must be`, "s"),
      );
    }
    model.dispose();
  },
);
