/** Tokenizers and golden values made with Hugging Face's libraries (fixtures/make_fixtures.py). */
import { parse } from "@std/yaml";
import { createTokenizer, type Message, type Tokenizer, type TokenizerOptions } from "../../lib/text/mod.ts";

export interface Golden {
  configs: Record<string, Record<string, unknown>>;
  encodings: Record<string, { text: string; ids: number[]; plain: number[]; decoded: string }[]>;
  templates: Record<string, string>;
  chats: {
    template: string;
    tokenizer: string;
    messages: Message[];
    rendered: string;
    prompt: string;
    ids: number[];
  }[];
}

export function readJson(name: string): Record<string, unknown> {
  return JSON.parse(Deno.readTextFileSync(new URL(`fixtures/${name}.json`, import.meta.url)));
}

export const GOLDEN = readJson("golden") as unknown as Golden;

export function tokenizer(
  name: "chatml" | "llama3" | "sentencepiece",
  chatTemplate?: string,
  options?: TokenizerOptions,
): Tokenizer {
  const files = { tokenizerJson: readJson(name), tokenizerConfig: GOLDEN.configs[name], chatTemplate };
  return createTokenizer(files, options);
}

/** The decoded runs of trained tokens, one string a run. */
export function trainedRuns(tok: Tokenizer, example: { ids: number[]; trained: boolean[] }): string[] {
  const runs: number[][] = [];
  example.ids.forEach((id, i) => {
    if (!example.trained[i]) return;
    if (i === 0 || !example.trained[i - 1]) runs.push([]);
    runs.at(-1)!.push(id);
  });
  return runs.map((run) =>
    new TextDecoder().decode(Uint8Array.from(run.flatMap((id) => [...tok.tokenBytes(id)])))
  );
}

const SMOLLM3 = new URL("../../../shared/handbook/smollm3/sft/sft.yaml", import.meta.url);

/** SmolLM3's template, the longest in the handbook, if the shared folder is there. */
export const SMOLLM3_TEMPLATE: string | undefined = (() => {
  try {
    return (parse(Deno.readTextFileSync(SMOLLM3)) as { chat_template: string }).chat_template;
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return undefined;
    throw error;
  }
})();
