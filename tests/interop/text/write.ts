/**
 * Tokenizers as nibble saves them beside a model, with the ids and renders that it makes with them.
 * @module
 */
import { join } from "@std/path";
import { createTokenizer, type Message } from "../../../lib/text/mod.ts";
import { folder } from "../checks.ts";

const read = (name: string) =>
  JSON.parse(Deno.readTextFileSync(new URL(`../../parity/text/${name}.json`, import.meta.url)));
const { texts, kinds } = read("ids") as {
  texts: string[];
  kinds: Record<string, { config: Record<string, unknown> }>;
};
const chats = read("renders").chats as Message[][];

for (const [kind, tokenizerJson] of Object.entries(read("tokenizers"))) {
  const tok = createTokenizer({ tokenizerJson, tokenizerConfig: kinds[kind]!.config });
  const to = join(folder(), kind);
  tok.save(to);
  const nibble = {
    texts,
    plain: texts.map((text) => tok.encode(text, { addSpecialTokens: false })),
    whole: texts.map((text) => tok.encode(text)),
    chats,
    renders: chats.map((chat) => tok.renderChat(chat)),
    prompts: chats.map((chat) => tok.renderChat(chat.slice(0, -1), { addGenerationPrompt: true })),
  };
  Deno.writeTextFileSync(join(to, "nibble.json"), JSON.stringify(nibble));
}
