import assert from "node:assert/strict";
import { join } from "@std/path";
import {
  cachedTokens,
  packExamples,
  planPacks,
  rowsDigest,
  tokenizeRows,
  withOrigin,
} from "../../lib/data/mod.ts";
import { tokenPath } from "../../lib/data/token_cache.ts";
import { readTokenFile, writeTokenFile } from "../../lib/data/token_file.ts";
import { memoryStore } from "../../lib/data/token_store.ts";
import { tokenizer } from "../text/fixtures.ts";

const sequence = (row: number, ...ids: number[]) => ({ ids, trained: ids.map((id) => id % 3 === 0), row });
const SEQUENCES = [sequence(1, 3, 1, 4), sequence(2), sequence(3, 9, 2_000_000, 6, 5), sequence(4, 7)];
const plain = (
  { ids, trained, row }: { ids: ArrayLike<number>; trained: ArrayLike<boolean | number>; row: number },
) => ({
  ids: Array.from(ids),
  trained: Array.from(trained, Boolean),
  row,
});

function inFolder(work: (folder: string) => void): void {
  const folder = Deno.makeTempDirSync({ prefix: "nibble-tokens-" });
  try {
    work(folder);
  } finally {
    Deno.removeSync(folder, { recursive: true });
  }
}

function written(folder: string, sequences = SEQUENCES, meta: unknown = { kind: "text" }): string {
  const path = join(folder, "a.tokens");
  const writer = writeTokenFile(path);
  sequences.forEach((s) => writer.put(s));
  writer.finish(meta);
  writer.close();
  return path;
}

for (const inMemory of [true, false]) {
  Deno.test(`token file: what goes in comes out, ${inMemory ? "in memory" : "from the disk"}`, () => {
    inFolder((folder) => {
      const path = written(folder);
      const { store, meta } = readTokenFile(path, inMemory)!;
      assert.deepEqual(Array.from({ length: store.count }, (_, i) => plain(store.at(i))), SEQUENCES);
      assert.deepEqual([...store.lengths], [3, 0, 4, 1]);
      assert.deepEqual(meta, { kind: "text" });
      assert.deepEqual(
        [...Deno.readDirSync(folder)].map((e) => e.name),
        ["a.tokens"],
        "nothing is left beside it",
      );
    });
  });

  Deno.test(`token file: sequences in another order come out by row, ${inMemory}`, () => {
    inFolder((folder) => {
      const path = written(folder, [SEQUENCES[2]!, SEQUENCES[0]!, SEQUENCES[3]!, SEQUENCES[1]!]);
      const { store } = readTokenFile(path, inMemory)!;
      assert.deepEqual(Array.from({ length: 4 }, (_, i) => plain(store.at(i))), SEQUENCES);
      assert.deepEqual([...store.lengths], [3, 0, 4, 1]);
    });
  });
}

Deno.test("token file: a bit changed anywhere, a cut and a longer file are no token files", () => {
  inFolder((folder) => {
    const path = written(folder);
    const whole = Deno.readFileSync(path);
    assert.ok(readTokenFile(path, true));
    for (let at = 0; at < whole.length; at++) {
      const spoilt = whole.slice();
      spoilt[at]! ^= 1;
      if (at >= whole.length - 8) continue; // the closing mark only tells people what it is
      Deno.writeFileSync(path, spoilt);
      assert.equal(readTokenFile(path, at % 2 === 0), undefined, `byte ${at}`);
    }
    for (
      const bytes of [
        whole.slice(0, -1),
        whole.slice(0, 40),
        new Uint8Array(0),
        new Uint8Array([...whole, 0]),
      ]
    ) {
      Deno.writeFileSync(path, bytes);
      assert.equal(readTokenFile(path, true), undefined, `${bytes.length} bytes`);
    }
    assert.equal(readTokenFile(join(folder, "none"), true), undefined);
  });
});

Deno.test("token file: longer than a buffer, and given up half-way", () => {
  inFolder((folder) => {
    const long = Array.from(
      { length: 3000 },
      (_, i) => sequence(i + 1, ...Array.from({ length: 200 }, (_, j) => i + j)),
    );
    const { store } = readTokenFile(written(folder, long), false)!;
    assert.deepEqual(plain(store.at(2999)), long[2999]);
    const writer = writeTokenFile(join(folder, "b.tokens"));
    writer.put(long[0]!);
    writer.close();
    assert.deepEqual([...Deno.readDirSync(folder)].map((e) => e.name), ["a.tokens"]);
  });
});

Deno.test("token cache: made once, taken from then on, made anew where it is damaged", () => {
  inFolder((folder) => {
    let made = 0;
    const get = (parts: unknown[]) =>
      cachedTokens(folder, parts, () => {
        made++;
        return { sequences: SEQUENCES, meta: { made } };
      });
    assert.deepEqual([get(["a"]).cached, get(["a"]).cached, made], [false, true, 1]);
    assert.deepEqual(get(["a"]).meta, { made: 1 });
    assert.equal(get(["b"]).cached, false, "another key");
    const path = tokenPath(folder, ["a"]);
    const bytes = Deno.readFileSync(path);
    bytes[12]! ^= 4;
    Deno.writeFileSync(path, bytes);
    const again = get(["a"]);
    assert.deepEqual([again.cached, made], [false, 3], "the damaged file is ignored");
    assert.deepEqual(plain(again.store.at(2)), SEQUENCES[2]);
    assert.equal(get(["a"]).cached, true, "and has been written again");
    // a folder that cannot be made only means that nothing is kept
    assert.equal(
      cachedTokens(join(path, "x"), ["a"], () => ({ sequences: SEQUENCES, meta: 0 })).store.count,
      4,
    );
    assert.equal(cachedTokens(undefined, ["a"], () => ({ sequences: SEQUENCES, meta: 0 })).cached, false);
  });
});

const ROWS = [
  { messages: [{ role: "user", content: "hi" }, { role: "assistant", content: "yo" }] },
  { messages: [{ role: "user", content: "hi" }, { role: "assistant", content: "no" }] },
  { messages: [{ role: "user", content: "only a question" }] },
];

Deno.test("token cache: rows, tokenizer, template and each setting are in the key; tokens and report are the same", () => {
  inFolder((cache) => {
    const chatml = tokenizer("chatml");
    const options = { columns: {}, encode: { max_length: 64 }, cache };
    const first = tokenizeRows(chatml, ROWS, options);
    const second = tokenizeRows(chatml, ROWS, options);
    assert.deepEqual([first.cached, second.cached], [false, true]);
    assert.deepEqual(second.meta, first.meta);
    assert.equal(first.meta.report.dropped[0]!.row, 3);
    assert.deepEqual(plain(second.store.at(1)), plain(first.store.at(1)));
    const others = [
      tokenizeRows(chatml, ROWS.slice(0, 2), options),
      tokenizeRows(chatml, [ROWS[1]!, ROWS[0]!, ROWS[2]!], options),
      tokenizeRows(
        chatml,
        ROWS.map((row, i) => withOrigin({ ...row }, { file: "b.jsonl", row: i + 1 })),
        options,
      ),
      tokenizeRows(
        tokenizer("chatml", "{% for m in messages %}<|im_start|>{{ m.content }}{% endfor %}"),
        ROWS,
        options,
      ),
      tokenizeRows(chatml, ROWS, { ...options, encode: { max_length: 8 } }),
      tokenizeRows(chatml, ROWS, { ...options, encode: { max_length: 64, truncation_mode: "keep_end" } }),
    ];
    assert.deepEqual(others.map((o) => o.cached), others.map(() => false));
    assert.equal([...Deno.readDirSync(cache)].length, 1 + others.length);
    assert.notEqual(rowsDigest([{ a: 1n }]), rowsDigest([{ a: 1 }]));
  });
});

Deno.test("packing from a store gives the rows that packing in memory gives", () => {
  const many = Array.from(
    { length: 40 },
    (_, i) => sequence(i + 1, ...Array.from({ length: (i * 7) % 23 }, (_, j) => i + j)),
  );
  const store = memoryStore(many);
  for (const strategy of ["bfd", "bfd_split", "wrapped", "none"] as const) {
    const plan = planPacks(store, 16, strategy);
    const want = packExamples(many, 16, strategy);
    assert.deepEqual([...plan.lengths], want.map((p) => p.ids.length), strategy);
    assert.deepEqual(Array.from({ length: plan.count }, (_, i) => plan.join(i)), want, strategy);
  }
});
