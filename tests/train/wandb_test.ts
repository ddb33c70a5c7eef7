import assert from "node:assert/strict";
import { join } from "@std/path";
import { crc32 } from "node:zlib";
import { openWandbRun } from "../../lib/train/wandb.ts";

/** Fields of a protobuf message by number; nested messages stay bytes. */
function fields(message: Uint8Array): Map<number, (number | Uint8Array)[]> {
  const found = new Map<number, (number | Uint8Array)[]>();
  let at = 0;
  const varint = () => {
    let value = 0, scale = 1;
    for (;; scale *= 128) {
      const byte = message[at++]!;
      value += (byte & 127) * scale;
      if (byte < 128) return value;
    }
  };
  while (at < message.length) {
    const key = varint(), number = Math.floor(key / 8);
    let value: number | Uint8Array;
    if (key % 8 === 0) value = varint();
    else {
      assert.equal(key % 8, 2, "only whole numbers and bytes are written");
      const length = varint();
      value = message.subarray(at, at += length);
    }
    found.set(number, [...(found.get(number) ?? []), value]);
  }
  return found;
}
const text = (bytes: unknown) => new TextDecoder().decode(bytes as Uint8Array);
const nested = (message: Map<number, unknown[]>, number: number) =>
  fields(message.get(number)![0] as Uint8Array);
const items = (message: Map<number, unknown[]>, number: number) =>
  Object.fromEntries((message.get(number) ?? []).map((item) => {
    const f = fields(item as Uint8Array);
    return [text(f.get(1)![0]), JSON.parse(text(f.get(16)![0]))];
  }));

/** The records of a LevelDB log, by the description of its format. */
function records(file: Uint8Array): Map<number, (number | Uint8Array)[]>[] {
  assert.deepEqual([...file.subarray(0, 7)], [...new TextEncoder().encode(":W&B"), 0xe1, 0xbe, 0]);
  const out: Map<number, (number | Uint8Array)[]>[] = [];
  let at = 7, parts: number[] = [];
  while (at < file.length) {
    const left = 32768 - at % 32768;
    if (left < 7) {
      assert.ok(
        file.subarray(at, at + left).every((byte) => byte === 0),
        "a block's end is filled with zeros",
      );
      at += left;
      continue;
    }
    const view = new DataView(file.buffer, file.byteOffset + at);
    const length = view.getUint16(4, true), kind = view.getUint8(6);
    assert.ok(length + 7 <= left, "no piece crosses a block");
    assert.equal(view.getUint32(0, true), crc32(file.subarray(at + 6, at + 7 + length)), "checksum");
    assert.ok(parts.length === 0 ? kind <= 2 : kind >= 3, "pieces follow each other");
    parts.push(...file.subarray(at + 7, at += 7 + length));
    if (kind === 1 || kind === 4) {
      out.push(fields(Uint8Array.from(parts)));
      parts = [];
    }
  }
  assert.equal(parts.length, 0);
  return out;
}

async function written(rows: Record<string, number>[], config: Record<string, unknown> = {}) {
  const folder = await Deno.makeTempDir();
  const run = openWandbRun(folder, { project: "p", entity: "e", group: "g", name: "n", config });
  rows.forEach((row) => run.log(row));
  run.close();
  run.close();
  const name = [...Deno.readDirSync(run.folder)].find((f) => f.isFile)!.name;
  const file = Deno.readFileSync(join(run.folder, name));
  const id = /^run-([a-z0-9]{8})\.wandb$/.exec(name)![1];
  assert.match(run.folder, new RegExp(`/wandb/offline-run-\\d{8}_\\d{6}-${id}$`));
  await Deno.remove(folder, { recursive: true });
  return { id, all: records(file) };
}

Deno.test("wandb: header, run, rows with their summaries, exit, numbered in order", async () => {
  const rows = [{ "train/loss": 3.5, "train/global_step": 1 }, {
    "eval/loss": 1 / 3,
    "train/global_step": 2,
  }];
  const { id, all } = await written(rows, { lora_r: 8, datasets: ["a"], none: null });
  assert.deepEqual(all.map((r) => r.get(1)![0]), [1, 2, 3, 4, 5, 6, 7]);
  assert.deepEqual(all.map((r) => [...r.keys()].find((key) => key > 1)), [21, 17, 2, 3, 2, 3, 18]);
  assert.equal(text(nested(nested(all[0]!, 21), 1).get(2)![0]), "0.70.0");
  const run = nested(all[1]!, 17);
  assert.deepEqual([1, 2, 3, 6, 8].map((n) => text(run.get(n)![0])), [id, "e", "p", "g", "n"]);
  assert.deepEqual(items(nested(run, 4), 1), { _wandb: {}, lora_r: 8, datasets: ["a"], none: null });
  rows.forEach((row, i) => {
    const history = nested(all[2 + 2 * i]!, 2);
    const { _runtime, _timestamp, ...rest } = items(history, 1);
    assert.deepEqual(rest, { ...row, _step: i });
    assert.ok(_runtime >= 0 && Math.abs(_timestamp - Date.now() / 1000) < 60);
    assert.equal(nested(history, 2).get(1)![0], i);
    assert.equal(items(nested(all[3 + 2 * i]!, 3), 1)["train/global_step"], i + 1);
  });
  assert.equal(nested(all[6]!, 18).get(1)![0], 0);
});

Deno.test("wandb: records longer than blocks, and blocks that end anywhere", async () => {
  const long = "x".repeat(100_000);
  const rows = Array.from({ length: 400 }, (_, i) => ({ [`metric${"y".repeat(i % 53)}`]: i }));
  const { all } = await written(rows, { long });
  assert.equal(all.length, 3 + 2 * rows.length);
  assert.equal(items(nested(nested(all[1]!, 17), 4), 1).long, long);
  assert.equal(items(nested(all[2 + 2 * 399]!, 2), 1)[`metric${"y".repeat(399 % 53)}`], 399);
});

Deno.test("wandb: what is no number is written as such", async () => {
  const { all } = await written([{ loss: NaN, norm: Infinity }]);
  const { loss, norm } = items(nested(all[2]!, 2), 1);
  assert.deepEqual([loss, norm], ["NaN", "NaN"]);
});
