/**
 * SmolLM2-135M from its GGUF against the same weights in Transformers, in f64: numbers made by families/smollm2.py.
 * Runs where the model lies in nibble's cache, which the first run of a recipe with it leaves there.
 */
import assert from "node:assert/strict";
import { openModel } from "../../lib/formats/mod.ts";
import { MIRRORS } from "../../lib/hub/mod.ts";
import { cachedMirror } from "../../lib/hub/mirror.ts";
import { hubSettings } from "../../lib/hub/settings.ts";
import { generate } from "../../lib/model/generate.ts";
import { buildModel } from "../../lib/model/load.ts";
import { logits } from "../../lib/model/model.ts";
import { gpuTest } from "../gpu_helper.ts";
import { within } from "./within.ts";

const TITLE = "SmolLM2-135M: logits and 200 greedy tokens are Transformers'";
const path = cachedMirror(hubSettings(), MIRRORS["HuggingFaceTB/SmolLM2-135M-Instruct"]!);

/** Tokens written with the cache at either end of the text, a pass over all weights each; all 200 were, once. */
const CACHED = 20;

interface Reference {
  prompt: number[];
  greedy: number[];
  /** What Transformers in f32 errs by, over all logits. */
  deviation: number;
  /** Of every position: the most likely token, its logit, and the logits of 8 tokens that a rule chose. */
  argmax: number[];
  best: number[];
  kept: number[][];
}

if (path === undefined) {
  Deno.test({ name: `${TITLE} (skipped: the model is not in the cache)`, ignore: true, fn() {} });
} else {
  gpuTest(TITLE, async () => {
    const want: Reference = JSON.parse(
      Deno.readTextFileSync(new URL("families/smollm2.json", import.meta.url)),
    );
    const files = openModel(path);
    const model = await buildModel(files.config, files.source, { maxPositions: 256 });
    files.source.close();
    const ids = [...want.prompt, ...want.greedy], size = model.config.vocab_size;
    const got = await logits(model, ids);
    let worst = 0;
    ids.forEach((_, p) => {
      const row = got.subarray(p * size, (p + 1) * size);
      const best = row.reduce((b, v, i) => v > row[b]! ? i : b, 0);
      assert.equal(best, want.argmax[p], `the most likely token at ${p}`);
      worst = Math.max(worst, Math.abs(row[best]! - want.best[p]!));
      want.kept[p]!.forEach((v, k) =>
        worst = Math.max(worst, Math.abs(row[(p * 7919 + k * 6151) % size]! - v))
      );
    });
    // both compute in f32 and add in other orders; the stored numbers are rounded to 1e-6
    within("SmolLM2: logits over the yardstick", "largest", worst / want.deviation, 8);
    // every token of the text follows from those before it: the greedy text is the same; with the cache, its beginning
    // and, behind a cache filled with all before it, its end
    assert.deepEqual(want.argmax.slice(want.prompt.length - 1, -1), want.greedy);
    for (const from of [0, want.greedy.length - CACHED]) {
      const before = [...want.prompt, ...want.greedy.slice(0, from)];
      const written = await generate(model, before, { max_new_tokens: CACHED, eos_token_id: [] });
      assert.deepEqual(written.ids, want.greedy.slice(from, from + CACHED), `from ${from}`);
    }
    model.dispose();
  });
}
