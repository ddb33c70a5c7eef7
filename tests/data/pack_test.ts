import assert from "node:assert/strict";
import fc from "fast-check";
import { collate, type Packed, packExamples, type PackingStrategy, packReport } from "../../lib/data/mod.ts";
import type { EncodedExample } from "../../lib/text/mod.ts";

const example = (row: number, ...ids: number[]): EncodedExample => ({
  ids,
  trained: ids.map(() => true),
  row,
});
const TRL = [example(1, 1, 2, 3, 4, 5), example(2, 6, 7), example(3, 8, 9, 10), example(4, 11)];
const ids = (rows: Packed[]) => rows.map((row) => [...row.ids]);

Deno.test("packExamples: TRL's golden rows", () => {
  const bfd = packExamples(TRL, 4, "bfd");
  assert.deepEqual(ids(bfd), [[1, 2, 3, 4], [8, 9, 10, 11], [6, 7]]);
  assert.deepEqual(bfd.map((row) => [...row.positions]), [[0, 1, 2, 3], [0, 1, 2, 0], [0, 1]]);
  assert.deepEqual(bfd.map((row) => row.rows), [[1], [3, 4], [2]]);
  assert.deepEqual(ids(packExamples(TRL, 4, "bfd_split")), [[1, 2, 3, 4], [8, 9, 10, 5], [6, 7, 11]]);
  assert.deepEqual(ids(packExamples(TRL, 4, "wrapped")), [[1, 2, 3, 4], [5, 6, 7, 8], [9, 10, 11]]);
  assert.deepEqual(ids(packExamples(TRL, 4, "none")), [[1, 2, 3, 4], [6, 7], [8, 9, 10], [11]]);
});

Deno.test("packExamples: labels are the next token, within the document, where trained", () => {
  const masked = { ids: [5, 6, 7], trained: [true, false, true], row: 1 };
  const [row] = packExamples([masked, example(2, 8, 9)], 5, "bfd");
  assert.deepEqual([...row.ids], [5, 6, 7, 8, 9]);
  assert.deepEqual([...row.labels], [-100, 7, -100, 9, -100]);
  assert.deepEqual([...row.segments], [1, 1, 1, 2, 2]);
});

Deno.test("packExamples: with a pad id packed rows have one length, marked by segment 0", () => {
  const rows = packExamples(TRL, 4, "bfd", 99);
  assert.deepEqual(ids(rows)[2], [6, 7, 99, 99]);
  assert.deepEqual([...rows[2].segments], [1, 1, 0, 0]);
  assert.deepEqual([...rows[2].labels], [7, -100, -100, -100]);
  assert.deepEqual(ids(packExamples(TRL, 4, "none", 99)), ids(packExamples(TRL, 4, "none")));
  assert.deepEqual(packReport(rows, 4), packReport(packExamples(TRL, 4, "bfd"), 4));
  assert.deepEqual(packReport(rows, 4), { rows: 3, length: 4, tokens: 10, trainedTokens: 6, fill: 10 / 12 });
});

Deno.test("packExamples: best fit, by plain search over all rows", () => {
  fc.assert(
    fc.property(
      fc.array(fc.integer({ min: 1, max: 24 }), { maxLength: 120 }),
      fc.integer({ min: 2, max: 24 }),
      (sizes, length) => {
        const examples = sizes.map((size, i) => example(i + 1, ...Array(size).fill(i)));
        const bins: { rows: number[]; room: number; since: number }[] = [];
        let clock = 0;
        const cut = sizes.map((size, i) => [Math.min(size, length), i + 1]).sort((a, b) =>
          b[0] - a[0] || a[1] - b[1]
        );
        for (const [size, row] of cut) {
          const fits = bins.filter((bin) => bin.room >= size).sort((a, b) =>
            a.room - b.room || a.since - b.since
          );
          const bin = fits[0] ?? bins[bins.push({ rows: [], room: length, since: 0 }) - 1];
          bin.rows.push(row);
          bin.room -= size;
          bin.since = ++clock;
        }
        assert.deepEqual(
          packExamples(examples, length, "bfd").map((p) => p.rows),
          bins.map((bin) => bin.rows),
        );
      },
    ),
  );
});

const anyExamples = fc.array(
  fc.array(fc.tuple(fc.integer({ min: 0, max: 500 }), fc.boolean()), { maxLength: 40 }),
  { maxLength: 30 },
).map((list) =>
  list.map((tokens, i) => ({ ids: tokens.map((t) => t[0]), trained: tokens.map((t) => t[1]), row: i + 1 }))
);
const sorted = (list: Iterable<number>) => [...list].sort((a, b) => a - b);

for (const strategy of ["bfd", "bfd_split", "wrapped", "none"] as const) {
  Deno.test(`packExamples: no token lost or doubled, segments whole, labels inside (${strategy})`, () => {
    fc.assert(fc.property(anyExamples, fc.integer({ min: 2, max: 50 }), (examples, length) => {
      const packed = packExamples(examples, length, strategy);
      const kept = strategy === "bfd" || strategy === "none"
        ? examples.map((e) => e.ids.slice(0, length))
        : examples.map((e) => e.ids);
      assert.deepEqual(
        sorted(packed.flatMap((p) => [...p.ids])),
        sorted(kept.flat()),
        "the same multiset of tokens",
      );
      for (const row of packed) checkRow(row, length, examples);
    }));
  });
}

/** Every segment is a stretch of its example: ids, positions from 0, and labels that only ever look inside it. */
function checkRow(row: Packed, length: number, examples: EncodedExample[]): void {
  const time = row.ids.length;
  assert.ok(time > 0 && time <= length);
  assert.ok([row.labels, row.positions, row.segments].every((array) => array.length === time));
  assert.equal(row.segments[0], 1);
  assert.equal(row.segments[time - 1], row.rows.length, "a segment for each document");
  for (let t = 0; t < time; t++) {
    const fresh = t === 0 || row.segments[t] !== row.segments[t - 1];
    if (t > 0) {
      assert.ok(row.segments[t] === row.segments[t - 1] + (fresh ? 1 : 0), "segments are contiguous");
    }
    assert.equal(row.positions[t], fresh ? 0 : row.positions[t - 1] + 1);
    const last = t + 1 === time || row.segments[t + 1] !== row.segments[t];
    if (last) assert.equal(row.labels[t], -100, "no label looks out of its document");
    else if (row.labels[t] !== -100) assert.equal(row.labels[t], row.ids[t + 1]);
  }
  for (let s = 1; s <= row.rows.length; s++) {
    const from = row.segments.indexOf(s), to = row.segments.lastIndexOf(s) + 1;
    const piece = [...row.ids.subarray(from, to)], source = examples[row.rows[s - 1] - 1];
    const at = stretches(source.ids, piece);
    const labels = (start: number) =>
      piece.map((_, i) =>
        i + 1 < piece.length && source.trained[start + i + 1] ? source.ids[start + i + 1] : -100
      );
    assert.ok(
      at.some((start) => labels(start).join() === [...row.labels.subarray(from, to)].join()),
      "labels by the mask",
    );
  }
}

/** Where a list occurs in another. */
function stretches(list: number[], piece: number[]): number[] {
  return list.flatMap((_, start) => piece.every((id, i) => list[start + i] === id) ? [start] : []);
}

Deno.test("packExamples: packed and unpacked rows have the same targets (R22)", () => {
  fc.assert(fc.property(anyExamples, (examples) => {
    const targets = (strategy: PackingStrategy) =>
      sorted(
        packExamples(examples, 40, strategy).flatMap((p) => [...p.labels].filter((label) => label !== -100)),
      );
    assert.deepEqual(targets("bfd"), targets("none"));
  }));
});

Deno.test("packExamples: groups of a thousand, empty input, impossible lengths", () => {
  const many = Array.from({ length: 1500 }, (_, i) => example(i + 1, ...Array(i < 1000 ? 3 : 1).fill(i)));
  const packed = packExamples(many, 4, "bfd");
  assert.equal(packed.length, 1000 + 125, "the ones of the second group do not fill gaps of the first");
  assert.deepEqual(packExamples([], 4, "wrapped"), []);
  for (const length of [0, 1, 2.5, NaN]) {
    assert.throws(() => packExamples(TRL, length, "bfd"), { code: "data/bad-length" });
  }
});

Deno.test("collate: a rectangle, padded by position; eos as pad id stays a target (R3)", () => {
  const EOS = 2;
  const batch = collate(packExamples([example(1, 5, 6, EOS), example(2, 7, EOS)], 8, "none"), EOS, {
    multipleOf: 4,
  });
  assert.deepEqual([batch.batch, batch.time, batch.realTokens, batch.trainedTokens], [2, 4, 5, 3]);
  assert.deepEqual([...batch.ids], [5, 6, EOS, EOS, 7, EOS, EOS, EOS]);
  assert.deepEqual([...batch.labels], [6, EOS, -100, -100, EOS, -100, -100, -100]);
  assert.deepEqual([...batch.segments], [1, 1, 1, 0, 1, 1, 0, 0]);
  assert.deepEqual([...batch.positions], [0, 1, 2, 0, 0, 1, 0, 0]);
});

Deno.test("collate: lengths are rounded up to eight, or to what is asked", () => {
  const rows = packExamples([example(1, ...Array(9).fill(1))], 32, "none");
  assert.equal(collate(rows, 0).time, 16);
  assert.equal(collate(rows, 0, { multipleOf: 1 }).time, 9);
  assert.equal(collate(rows, 0, { minLength: 32 }).time, 32);
  assert.equal(
    collate(packExamples(TRL, 4, "bfd", 0), 0).realTokens,
    10,
    "padding of packed rows is not counted",
  );
  assert.throws(() => collate([], 0), { code: "data/empty-batch" });
});
