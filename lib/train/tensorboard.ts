/**
 * Event files as TensorBoard reads them, written by hand.
 *
 * A file is a row of TFRecords: length (u64), masked CRC-32C of the length, payload, masked CRC-32C of the
 * payload, all little-endian. Each payload is an `Event` in protobuf's wire format. Fields used, by number
 * (tensorflow/core/util/event.proto, framework/summary.proto, framework/tensor.proto):
 *
 * - Event: wall_time = 1 (double), step = 2 (int64), file_version = 3 (string), summary = 5
 * - Summary: value = 1 (repeated); Value: tag = 1, simple_value = 2 (float), tensor = 8, metadata = 9
 * - SummaryMetadata: plugin_data = 1; PluginData: plugin_name = 1
 * - TensorProto: dtype = 1 (DT_STRING is 7), tensor_shape = 2, string_val = 8; Shape: dim = 2; Dim: size = 1
 * @module
 */
import { join } from "@std/path";
import { NibbleError } from "../errors.ts";
import { bytesField, doubleField, floatField, stringField, varintField } from "./protobuf.ts";

/** An open event file. */
export interface EventFile {
  /** Where it lies. */
  readonly path: string;
  /**
   * Add one number to a curve.
   * @param wallTime seconds since 1970; now unless given
   */
  scalar(tag: string, value: number, step: number, wallTime?: number): void;
  /** Add a text (Markdown), for TensorBoard's text tab. It is filed as `tag/text_summary`, as PyTorch files it. */
  text(tag: string, text: string, step: number, wallTime?: number): void;
  /** Bring all to disk and close. Twice is harmless. */
  close(): void;
}

/** Options of {@link openEventFile}. */
export interface EventFileOptions {
  /** Seconds since 1970 for the file's name and first event; now unless given. */
  wallTime?: number;
  /** Name of this machine in the file's name; asked of the system unless given. */
  host?: string;
}

/**
 * Start an event file `events.out.tfevents.<seconds>.<host>.<pid>.<n>` in a folder, which is made where missing.
 * Every event goes to the file at once, so a TensorBoard that watches sees it, and a crash loses none.
 *
 * @throws NibbleError `train/cannot-write` when the file cannot be made or grown
 *
 * @example
 * ```ts
 * import { openEventFile } from "./tensorboard.ts";
 * const folder = await Deno.makeTempDir();
 * const events = openEventFile(folder);
 * events.scalar("train/loss", 3.41, 10);
 * events.scalar("train/loss", 2.98, 20);
 * events.close();
 * if (!events.path.includes("events.out.tfevents.")) throw new Error("TensorBoard looks for that name");
 * await Deno.remove(folder, { recursive: true });
 * ```
 */
export function openEventFile(folder: string, options: EventFileOptions = {}): EventFile {
  const began = options.wallTime ?? Date.now() / 1000;
  const { file, path } = create(folder, Math.floor(began), options.host ?? hostName());
  let open = true;

  function put(event: Uint8Array): void {
    if (!open) {
      throw new NibbleError("train/closed", "The event file is closed: nothing more can be added", {
        where: path,
      });
    }
    const record = tfRecord(event);
    try {
      for (let done = 0; done < record.length;) done += file.writeSync(record.subarray(done));
    } catch (cause) {
      throw cannotWrite(path, cause);
    }
  }

  const summary = (wallTime: number | undefined, step: number, value: number[]) =>
    put(encodeEvent(wallTime ?? Date.now() / 1000, step, bytesField(5, bytesField(1, value))));

  put(encodeEvent(began, 0, stringField(3, "brain.Event:2")));
  return {
    path,
    scalar(tag, value, step, wallTime) {
      summary(wallTime, step, [...stringField(1, tag), ...floatField(2, value)]);
    },
    text(tag, text, step, wallTime) {
      const metadata = bytesField(1, stringField(1, "text"));
      const shape = bytesField(2, bytesField(2, varintField(1, 1)));
      const tensor = [...varintField(1, 7), ...shape, ...stringField(8, text)];
      summary(wallTime, step, [
        ...stringField(1, `${tag}/text_summary`),
        ...bytesField(8, tensor),
        ...bytesField(9, metadata),
      ]);
    },
    close() {
      if (!open) return;
      open = false;
      try {
        file.syncSync();
      } finally {
        file.close();
      }
    },
  };
}

/**
 * Tag under which Transformers files a logged metric: `eval_loss` as `eval/loss`, `loss` as `train/loss`.
 *
 * @example
 * ```ts
 * import { tagOf } from "./tensorboard.ts";
 * if (tagOf("eval_loss") !== "eval/loss" || tagOf("grad_norm") !== "train/grad_norm") throw new Error("tags");
 * ```
 */
export function tagOf(metric: string): string {
  for (const split of ["eval", "test"]) {
    if (metric.startsWith(`${split}_`)) return `${split}/${metric.slice(split.length + 1)}`;
  }
  return `train/${metric}`;
}

/**
 * CRC-32C (Castagnoli, reflected polynomial 0x82F63B78) of some bytes, unsigned.
 *
 * @example
 * ```ts
 * import { crc32c } from "./tensorboard.ts";
 * // The check value of RFC 3720 and every CRC catalogue.
 * if (crc32c(new TextEncoder().encode("123456789")) !== 0xe3069283) throw new Error("not CRC-32C");
 * ```
 */
export function crc32c(bytes: Uint8Array): number {
  let crc = 0xffffffff;
  for (const byte of bytes) crc = CRC_TABLE[(crc ^ byte) & 0xff] ^ (crc >>> 8);
  return (crc ^ 0xffffffff) >>> 0;
}

const CRC_TABLE = Uint32Array.from({ length: 256 }, (_, n) => {
  for (let bit = 0; bit < 8; bit++) n = n & 1 ? (n >>> 1) ^ 0x82f63b78 : n >>> 1;
  return n;
});

/** The CRC as TFRecord stores it: rotated right by 15 and offset, since a CRC of data with CRCs is weak. */
function maskedCrc(bytes: Uint8Array): number {
  const crc = crc32c(bytes);
  return (((crc >>> 15) | (crc << 17)) + 0xa282ead8) >>> 0;
}

/** Frames a payload as one TFRecord. */
function tfRecord(payload: Uint8Array): Uint8Array {
  const record = new Uint8Array(8 + 4 + payload.length + 4);
  const view = new DataView(record.buffer);
  view.setBigUint64(0, BigInt(payload.length), true);
  view.setUint32(8, maskedCrc(record.subarray(0, 8)), true);
  record.set(payload, 12);
  view.setUint32(12 + payload.length, maskedCrc(payload), true);
  return record;
}

function encodeEvent(wallTime: number, step: number, what: number[]): Uint8Array {
  return Uint8Array.from([...doubleField(1, wallTime), ...varintField(2, step), ...what]);
}

/** A new file that no other run writes to: the counter at its end rises until the name is free. */
function create(folder: string, seconds: number, host: string): { file: Deno.FsFile; path: string } {
  for (let n = 0;; n++) {
    const path = join(folder, `events.out.tfevents.${seconds}.${host}.${Deno.pid}.${n}`);
    try {
      Deno.mkdirSync(folder, { recursive: true });
      return { file: Deno.openSync(path, { write: true, createNew: true }), path };
    } catch (cause) {
      if (!(cause instanceof Deno.errors.AlreadyExists) || n > 999) throw cannotWrite(path, cause);
    }
  }
}

function cannotWrite(path: string, cause: unknown): NibbleError {
  const why = cause instanceof Error ? cause.message : String(cause);
  return new NibbleError("train/cannot-write", `Cannot write TensorBoard's event file: ${why}`, {
    where: path,
    remedy: "Check that the folder may be written and has space left.",
    cause,
  });
}

function hostName(): string {
  try {
    return Deno.hostname().replace(/[^\w-]+/g, "-") || "localhost";
  } catch {
    // Without the permission to ask, the name is only a label.
    return "localhost";
  }
}
