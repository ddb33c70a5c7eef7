/**
 * Makes assets/data/shakespeare from tiny Shakespeare (Karpathy's selection of the plays, public domain):
 *
 *     deno run -A assets/data/make_shakespeare.ts tiny_shakespeare.txt
 *
 * A play is a conversation, so each speech becomes a ChatML turn whose role is the speaker. A base model that has
 * read these knows turns before it is ever tuned. Every twentieth row is held out.
 */
const text = await Deno.readTextFile(Deno.args[0] ?? "tiny_shakespeare.txt");
const speeches = text.split(/\n\n+/).map((speech) => {
  const [, speaker, words] = /^([^\n:]{1,40}):\n([\s\S]+)$/.exec(speech.trim()) ?? [];
  return speaker ? `<|im_start|>${speaker}\n${words!.trim()}<|im_end|>\n` : undefined;
}).filter((s) => s !== undefined);
const rows: string[] = [];
for (const speech of speeches) {
  const last = rows.at(-1);
  if (last !== undefined && last.length + speech.length < 2000) rows[rows.length - 1] = last + speech;
  else rows.push(speech);
}
const folder = new URL("shakespeare/", import.meta.url);
await Deno.mkdir(folder, { recursive: true });
const write = (name: string, part: string[]) =>
  Deno.writeTextFile(new URL(name, folder), part.map((text) => JSON.stringify({ text }) + "\n").join(""));
await write("train.jsonl", rows.filter((_, i) => i % 20 !== 19));
await write("test.jsonl", rows.filter((_, i) => i % 20 === 19));
console.log(`${speeches.length} speeches, ${rows.length} rows`);
