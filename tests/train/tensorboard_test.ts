import assert from "node:assert/strict";
import { basename, join } from "@std/path";
import { NibbleError } from "../../lib/errors.ts";
import { crc32c, openEventFile, tagOf } from "../../lib/train/tensorboard.ts";

/** One field of a protobuf message: a number for varints and fixed widths, bytes for the rest. */
type Field = number | Uint8Array;

/** An independent reader of protobuf's wire format: field number to values, in order. */
function readMessage(bytes: Uint8Array): Map<number, Field[]> {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const fields = new Map<number, Field[]>();
  let at = 0;
  const varint = () => {
    let value = 0;
    for (let scale = 1;; scale *= 128) {
      const byte = bytes[at++];
      value += (byte & 127) * scale;
      if (byte < 128) return value;
    }
  };
  while (at < bytes.length) {
    const key = varint();
    let value: Field;
    if ((key & 7) === 0) value = varint();
    else if ((key & 7) === 1) value = view.getFloat64((at += 8) - 8, true);
    else if ((key & 7) === 5) value = view.getFloat32((at += 4) - 4, true);
    else if ((key & 7) === 2) {
      const length = varint();
      assert.ok(at + length <= bytes.length, "a length must stay inside its message");
      value = bytes.subarray(at, at += length);
    } else throw new Error(`wire type ${key & 7}`);
    fields.set(key >>> 3, [...(fields.get(key >>> 3) ?? []), value]);
  }
  return fields;
}

/** Bit by bit, without a table: a CRC-32C that shares nothing with the one under test. */
function slowMaskedCrc(bytes: Uint8Array): number {
  let crc = 0xffffffffn;
  for (const byte of bytes) {
    crc ^= BigInt(byte);
    for (let bit = 0; bit < 8; bit++) crc = crc & 1n ? (crc >> 1n) ^ 0x82f63b78n : crc >> 1n;
  }
  crc ^= 0xffffffffn;
  return Number((((crc >> 15n) | (crc << 17n)) + 0xa282ead8n) & 0xffffffffn);
}

/** All records of a file, both sums of each checked. */
function readRecords(bytes: Uint8Array): Uint8Array[] {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const records = [];
  for (let at = 0; at < bytes.length;) {
    const length = Number(view.getBigUint64(at, true));
    assert.equal(view.getUint32(at + 8, true), slowMaskedCrc(bytes.subarray(at, at + 8)));
    const payload = bytes.subarray(at + 12, at + 12 + length);
    assert.equal(payload.length, length, "the last record must be whole");
    assert.equal(view.getUint32(at + 12 + length, true), slowMaskedCrc(payload));
    records.push(payload);
    at += 16 + length;
  }
  return records;
}

const only = <T>(list: T[] | undefined): T => {
  assert.equal(list?.length, 1);
  return list![0];
};
const message = (fields: Map<number, Field[]>, number: number) =>
  readMessage(only(fields.get(number)) as Uint8Array);
const string = (fields: Map<number, Field[]>, number: number) =>
  new TextDecoder().decode(only(fields.get(number)) as Uint8Array);

function withFolder(test: (folder: string) => void): void {
  const folder = Deno.makeTempDirSync();
  try {
    test(folder);
  } finally {
    Deno.removeSync(folder, { recursive: true });
  }
}

Deno.test("crc32c has the published values of RFC 3720, appendix B.4", () => {
  assert.equal(crc32c(new Uint8Array(32)), 0x8a9136aa);
  assert.equal(crc32c(new Uint8Array(32).fill(0xff)), 0x62a8ab43);
  assert.equal(crc32c(Uint8Array.from({ length: 32 }, (_, i) => i)), 0x46dd794e);
  assert.equal(crc32c(Uint8Array.from({ length: 32 }, (_, i) => 31 - i)), 0x113fdb5c);
  assert.equal(crc32c(new Uint8Array(0)), 0);
});

Deno.test("the first event names the version, and the file's name is TensorBoard's", () => {
  withFolder((folder) => {
    const events = openEventFile(folder, { wallTime: 1_700_000_000.5, host: "box" });
    events.close();
    assert.match(basename(events.path), /^events\.out\.tfevents\.1700000000\.box\.\d+\.0$/);
    const event = readMessage(only(readRecords(Deno.readFileSync(events.path))));
    assert.equal(only(event.get(1)), 1_700_000_000.5);
    assert.equal(string(event, 3), "brain.Event:2");
  });
});

Deno.test("scalars come back with tag, step, time and value", () => {
  withFolder((folder) => {
    // Steps on both sides of one varint byte and of 32 bits; values f32 can and cannot hold, and a NaN.
    const rows: [string, number, number][] = [
      ["train/loss", 3.25, 0],
      ["train/loss", 0.1, 127],
      ["train/Verlust µ", -1e-30, 128],
      ["eval/loss", NaN, 300],
      ["train/num_tokens", 16_777_217, 2 ** 40 + 5],
    ];
    const events = openEventFile(join(folder, "runs", "deep"));
    rows.forEach(([tag, value, step], i) => events.scalar(tag, value, step, 10 + i / 8));
    events.close();
    events.close();
    const records = readRecords(Deno.readFileSync(events.path)).slice(1).map(readMessage);
    assert.equal(records.length, rows.length);
    records.forEach((event, i) => {
      const [tag, value, step] = rows[i];
      assert.equal(only(event.get(1)), 10 + i / 8);
      assert.equal(only(event.get(2)), step);
      const entry = message(message(event, 5), 1);
      assert.equal(string(entry, 1), tag);
      assert.equal(only(entry.get(2)), Math.fround(value));
    });
    assert.throws(
      () => events.scalar("a", 1, 1),
      (e) => e instanceof NibbleError && e.code === "train/closed",
    );
  });
});

Deno.test("a text carries its plugin, type, shape and string", () => {
  withFolder((folder) => {
    const events = openEventFile(folder);
    const long = "Zeile\n".repeat(50) + "größer"; // longer than one byte of length
    events.text("sample", long, 7);
    events.close();
    const entry = message(message(readMessage(readRecords(Deno.readFileSync(events.path))[1]), 5), 1);
    assert.equal(string(entry, 1), "sample/text_summary");
    assert.equal(string(message(message(entry, 9), 1), 1), "text");
    const tensor = message(entry, 8);
    assert.equal(only(tensor.get(1)), 7);
    assert.equal(only(message(message(tensor, 2), 2).get(1)), 1);
    assert.equal(string(tensor, 8), long);
  });
});

Deno.test("a second file of the same second takes another name and leaves the first alone", () => {
  withFolder((folder) => {
    const first = openEventFile(folder, { wallTime: 5, host: "box" });
    first.scalar("a", 1, 1);
    const before = Deno.readFileSync(first.path);
    const second = openEventFile(folder, { wallTime: 5, host: "box" });
    second.close();
    first.close();
    assert.notEqual(first.path, second.path);
    assert.deepEqual(Deno.readFileSync(first.path), before);
  });
});

Deno.test("bad steps and folders that cannot be are said clearly", () => {
  withFolder((folder) => {
    const events = openEventFile(folder);
    for (const step of [-1, 0.5, NaN]) {
      assert.throws(
        () => events.scalar("a", 1, step),
        (e) => e instanceof NibbleError && e.code === "train/bad-step",
      );
    }
    events.close();
    assert.equal(readRecords(Deno.readFileSync(events.path)).length, 1, "a refused event leaves nothing");
    assert.throws(
      () => openEventFile(join(events.path, "inside-a-file")),
      (e) =>
        e instanceof NibbleError && e.code === "train/cannot-write" && e.message.includes("inside-a-file"),
    );
  });
});

Deno.test("metrics are filed under Transformers' tags", () => {
  assert.equal(tagOf("eval_rewards/margins"), "eval/rewards/margins");
  assert.equal(tagOf("test_loss"), "test/loss");
  assert.equal(tagOf("train_runtime"), "train/train_runtime");
  assert.equal(tagOf("evaluation"), "train/evaluation");
});
