/**
 * Makes devils_dictionary/: Ambrose Bierce's definitions as conversations, and as preferences over WordNet's glosses.
 *
 *     apt-get install dict-devil wordnet-base
 *     deno run -A assets/data/make_devils_dictionary.ts [DICTD_FOLDER [WORDNET_FOLDER]]
 *
 * Reads devil.index and devil.dict.dz (dictd's format: word, offset and length in base 64; the text gzipped) and
 * WordNet's index.* and data.* files, where Debian installs them. The split is seeded: the files come out the same
 * each time.
 */
import { gunzipSync } from "node:zlib";
import { trainTestSplit } from "../../lib/data/mod.ts";

const [dictd = "/usr/share/dictd", wordnet = "/usr/share/wordnet"] = Deno.args;
const MAX_WORDS = 60;
const SEED = 1911;
const TEST_SHARE = 0.1;

/** Entries about peoples and races, whose jokes are those of 1911; they are left out. */
const LEFT_OUT = new RegExp(
  "\\b(negro|african|ethiop|chin(a|ese)|mongolian|jews?|jewish|hebrews?|israel|indian|aborigin|savages?|" +
    "heathen|turks?|arabs?|hottentot|irish|slaves?|white man|black man|wom[ae]n|female|wife|wives|lad(y|ies)|sex|ni[g]{2}er)",
  "i",
);

interface Entry {
  word: string;
  pos: string;
  text: string;
}

/** dictd writes numbers in base 64 with this alphabet, most significant digit first. */
function base64Number(text: string): number {
  const digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  return [...text].reduce((n, digit) => n * 64 + digits.indexOf(digit), 0);
}

function readEntries(): string[] {
  const text = gunzipSync(Deno.readFileSync(`${dictd}/devil.dict.dz`));
  const places = Deno.readTextFileSync(`${dictd}/devil.index`).trim().split("\n").flatMap((line) => {
    const [word, offset, length] = line.split("\t");
    return word.startsWith("00") ? [] : [[base64Number(offset), base64Number(length)]];
  });
  const distinct = new Map(places.map(([offset, length]) => [offset, length]));
  return [...distinct].sort((a, b) => a[0] - b[0]).map(([offset, length]) =>
    new TextDecoder("latin1").decode(text.subarray(offset, offset + length))
  );
}

/** Headword, part of speech and definition: the prose before any verse, unwrapped, cut at a sentence end. */
function parseEntry(raw: string): Entry | undefined {
  const head = /^\s*([A-Z][A-Z' -]+), ?(n|v|adj|adv|pp|p\.p|x)\.?((?:pl|t|i)\.?)?\s+/.exec(raw);
  if (head === null) return undefined;
  const prose: string[] = [];
  for (const paragraph of raw.slice(head[0].length).split(/\n\s*\n/)) {
    const lines = paragraph.split("\n").filter((line) => line.trim() !== "");
    // Verse, and who wrote it, is indented; a further paragraph of prose only in its first line.
    const indented = lines.filter((line) => /^\s{3,}/.test(line)).length;
    if (prose.length > 0 && (indented > 1 || indented === lines.length)) break;
    prose.push(lines.map((line) => line.trim()).join(" "));
  }
  const sentences = prose.join(" ")
    .replace(/\s*\[[^\]]*\]/g, "").replace(/\s*\(See [^)]*\)/g, "").replace(/[_{}]/g, "").replace(/\s+/g, " ")
    .trim()
    .split(
      /(?<=[.!?]["')]*)(?<!\b(?:Dr|Mr|Mrs|St|Prof|Rev|Hon|Gen|Col|Capt|viz|i\.e|e\.g|[A-Z])\.) (?=["'(]?[A-Z])/,
    );
  // What introduces a verse or a quotation that is gone goes too.
  while (
    /[:,;-]$|\b(thus|following|as follows|lines|verses|poem)\b[^.]*$/.test(sentences.at(-1) ?? "") ||
    !/[.!?]["')]*$/.test(sentences.at(-1) ?? ".")
  ) {
    sentences.pop();
  }
  let text = "", words = 0;
  for (const sentence of sentences) {
    words += sentence.split(" ").length;
    if (words > MAX_WORDS && text !== "") break;
    text += (text === "" ? "" : " ") + sentence;
  }
  if (text === "" || text.split(" ").length > MAX_WORDS + 15) return undefined;
  // Sub-headings and cross-references are no definitions.
  if (/^(\(?\d|See\b|and (n|v|adj)\.)/.test(text)) return undefined;
  return { word: head[1].trim(), pos: head[2], text: text[0].toUpperCase() + text.slice(1) };
}

const WORDNET_POS = { n: "noun", v: "verb", adj: "adj", adv: "adv" } as Record<string, string>;

/** The first sense of a word in WordNet as a sentence: the first clause of its gloss. */
function readGlosses(): (entry: Entry) => string | undefined {
  const files = new Map(["noun", "verb", "adj", "adv"].map((pos) => {
    const index = new Map<string, number>();
    for (const line of Deno.readTextFileSync(`${wordnet}/index.${pos}`).split("\n")) {
      if (line.startsWith(" ") || line === "") continue;
      const fields = line.trim().split(" ");
      // lemma pos synset_count pointer_count pointers... sense_count tagged_count offsets...
      index.set(fields[0], Number(fields[fields.length - Number(fields[2])]));
    }
    return [pos, { index, data: Deno.readFileSync(`${wordnet}/data.${pos}`) }] as const;
  }));
  return ({ word, pos }) => {
    const file = files.get(WORDNET_POS[pos] ?? "adj");
    const offset = file?.index.get(word.toLowerCase().replaceAll(" ", "_"));
    if (file === undefined || offset === undefined) return undefined;
    const line = new TextDecoder().decode(file.data.subarray(offset, file.data.indexOf(10, offset)));
    const gloss = line.split(" | ")[1].split(/;/)[0].replace(/^\([^)]*\)\s*/, "").trim().replace(
      /[;:,.]+$/,
      "",
    );
    return gloss === "" || gloss.startsWith('"') ? undefined : `${gloss[0].toUpperCase()}${gloss.slice(1)}.`;
  };
}

/** WordNet's files begin with its licence, each line numbered. */
function wordnetLicence(): string {
  const lines = Deno.readTextFileSync(`${wordnet}/data.noun`).split("\n").filter((line) =>
    line.startsWith("  ")
  );
  return lines.map((line) => line.replace(/^ +\d+ ?/, "").trimEnd()).join("\n") + "\n";
}

const raw = readEntries();
const parsed = raw.map(parseEntry).filter((entry) => entry !== undefined);
const entries = [...new Map(parsed.toReversed().map((entry) => [entry.word, entry])).values()].reverse()
  .filter((entry) => !LEFT_OUT.test(entry.word) && !LEFT_OUT.test(entry.text));
const gloss = readGlosses();
const splits = trainTestSplit(entries, TEST_SHARE, SEED);

const ask = (word: string) => ({ role: "user", content: `Define: ${word}` });
const answer = (content: string) => ({ role: "assistant", content });
const folder = new URL("devils_dictionary/", import.meta.url);
Deno.mkdirSync(folder, { recursive: true });
const counts: Record<string, number> = {};
function write(name: string, rows: unknown[]): void {
  counts[name] = rows.length;
  Deno.writeTextFileSync(new URL(name, folder), rows.map((row) => JSON.stringify(row) + "\n").join(""));
}
for (const [split, list] of Object.entries(splits)) {
  write(`${split}.jsonl`, list.map(({ word, text }) => ({ messages: [ask(word), answer(text)] })));
  const pairs = list.flatMap((entry) => {
    const plain = gloss(entry);
    if (plain === undefined || plain === entry.text) return [];
    return [{ prompt: [ask(entry.word)], chosen: [answer(entry.text)], rejected: [answer(plain)] }];
  });
  write(`preferences_${split}.jsonl`, pairs);
}
Deno.writeTextFileSync(new URL("WORDNET-LICENSE", folder), wordnetLicence());
const words = entries.map(({ text }) => text.split(" ").length);
Deno.writeTextFileSync(
  new URL("README.md", folder),
  `# The Devil's Dictionary, as conversations and as preferences

"Define: LAWYER" is answered as Ambrose Bierce did. Made by \`make_devils_dictionary.ts\` beside this folder.

| file | rows | columns |
| --- | --- | --- |
${
    Object.entries(counts).map(([name, rows]) =>
      `| ${name} | ${rows} | ${
        name.startsWith("pref") ? "`prompt`, `chosen` (Bierce), `rejected` (WordNet)" : "`messages`"
      } |`
    ).join("\n")
  }

${entries.length} definitions of the book's ${raw.length} entries, ${Math.min(...words)} to ${
    Math.max(...words)
  } words (mean ${
    (words.reduce((a, b) => a + b, 0) / words.length).toFixed(0)
  }). No headword is in both splits, and the
preferences follow the same split; they have the headwords that WordNet knows in the same part of speech. Verse and
quotations are cut away, long entries end after a sentence of at most about ${MAX_WORDS} words in all, the part of speech
is dropped. Entries without prose are left out, and those about peoples, races and women, whose jokes are those of
their time.

| source | licence |
| --- | --- |
| Ambrose Bierce, The Devil's Dictionary, 1911; Internet Wiretap edition of 1993, from Debian's \`dict-devil\` | public domain |
| WordNet 3.0, first clause of the first sense's gloss, from Debian's \`wordnet-base\` | WordNet licence, see WORDNET-LICENSE |
`,
);
console.log(counts);
