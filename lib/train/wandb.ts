/**
 * A run for Weights & Biases, written offline: `wandb sync FOLDER` uploads it when and where its owner wishes.
 *
 * The file is a LevelDB log (header `:W&B`, magic 0xBEE1, version 0; blocks of 32 KiB; a record is CRC-32 of kind and
 * data, length, kind, data, and continues in the next block where it does not fit) of `Record` messages. Fields used,
 * by number (wandb/proto/wandb_internal.proto of wandb 0.31):
 *
 * - Record: num = 1, history = 2, summary = 3, run = 17, exit = 18, header = 21
 * - RunRecord: run_id = 1, entity = 2, project = 3, config = 4, run_group = 6, display_name = 8, host = 13,
 *   start_time = 17; ConfigRecord: update = 1; its items, like those of history and summary: key = 1, value_json = 16
 * - HistoryRecord: item = 1, step = 2; HistoryStep: num = 1; SummaryRecord: update = 1
 * - RunExitRecord: exit_code = 1, runtime = 2; HeaderRecord: version_info = 1; VersionInfo: producer = 1,
 *   min_consumer = 2
 * @module
 */
import { join } from "@std/path";
import { crc32 } from "node:zlib";
import { NibbleError } from "../errors.ts";
import { bytesField, stringField, varintField } from "./protobuf.ts";

/** What names a run. */
export interface WandbRunOptions {
  project: string;
  entity?: string | undefined;
  group?: string | undefined;
  name?: string | undefined;
  /** Settings of the run. */
  config: Record<string, unknown>;
}

/** An open offline run. */
export interface WandbRun {
  /** Its folder, which `wandb sync` takes. */
  readonly folder: string;
  /** Adds a row of figures; the summary holds the newest of each. */
  log(metrics: Record<string, number>): void;
  /** Ends the run. Twice is harmless. */
  close(exitCode?: number): void;
}

const BLOCK = 32768;
const HEAD = 7;
/** Oldest reader that understands these records. */
const MIN_CONSUMER = "0.70.0";

/**
 * Starts an offline run in `folder/wandb/offline-run-<time>-<id>/`. Every row goes to the file at once.
 *
 * @throws NibbleError `train/cannot-write`
 * @example
 * ```ts
 * import { openWandbRun } from "./wandb.ts";
 * const folder = await Deno.makeTempDir();
 * const run = openWandbRun(folder, { project: "nibble", name: "first", config: { lora_r: 8 } });
 * run.log({ "train/loss": 3.4, "train/global_step": 10 });
 * run.close();
 * const names = [...Deno.readDirSync(run.folder)].map((file) => file.name).sort();
 * if (!/^files,run-[a-z0-9]{8}\.wandb$/.test(names.join())) throw new Error(names.join());
 * await Deno.remove(folder, { recursive: true });
 * ```
 */
export function openWandbRun(folder: string, options: WandbRunOptions): WandbRun {
  const began = new Date();
  const id = Array.from(crypto.getRandomValues(new Uint8Array(8)), (n) => (n % 36).toString(36)).join("");
  const stamp = began.toISOString().slice(0, 19).replace("T", "_").replace(/[-:]/g, "");
  const place = join(folder, "wandb", `offline-run-${stamp}-${id}`);
  const log = openRecordLog(place, join(place, `run-${id}.wandb`));
  let records = 0, rows = 0, open = true;
  const put = (...fields: number[][]) => log.put([...varintField(1, ++records), ...fields.flat()]);
  const items = (field: number, values: Record<string, unknown>) =>
    Object.entries(values).flatMap(([key, value]) =>
      bytesField(field, [...stringField(1, key), ...stringField(16, JSON.stringify(value ?? null))])
    );
  const runtime = () => (Date.now() - began.getTime()) / 1000;

  put(bytesField(21, bytesField(1, [...stringField(1, "nibble"), ...stringField(2, MIN_CONSUMER)])));
  const text = (field: number, value: string | undefined) => value ? stringField(field, value) : [];
  const seconds = Math.floor(began.getTime() / 1000);
  put(bytesField(17, [
    ...stringField(1, id),
    ...text(2, options.entity),
    ...stringField(3, options.project),
    ...bytesField(4, items(1, { _wandb: {}, ...options.config })),
    ...text(6, options.group),
    ...text(8, options.name),
    ...bytesField(17, varintField(1, seconds)),
  ]));
  return {
    folder: place,
    log(metrics) {
      const finite = Object.fromEntries(
        Object.entries(metrics).map(([key, v]) => [key, Number.isFinite(v) ? v : "NaN"]),
      );
      const row = { ...finite, _step: rows, _runtime: runtime(), _timestamp: Date.now() / 1000 };
      put(bytesField(2, [...items(1, row), ...bytesField(2, varintField(1, rows))]));
      put(bytesField(3, items(1, row)));
      rows++;
    },
    close(exitCode = 0) {
      if (!open) return;
      open = false;
      put(bytesField(18, [...varintField(1, exitCode), ...varintField(2, Math.floor(runtime()))]));
      log.close();
    },
  };
}

/** LevelDB's log: records that are cut at the ends of blocks. */
function openRecordLog(folder: string, path: string) {
  const guarded = <T>(act: () => T): T => {
    try {
      return act();
    } catch (cause) {
      throw new NibbleError("train/cannot-write", `Cannot write the run for Weights & Biases: ${cause}`, {
        where: path,
        remedy: "Check that the folder may be written and has space left.",
        cause,
      });
    }
  };
  const file = guarded(() => {
    Deno.mkdirSync(join(folder, "files"), { recursive: true }); // where `wandb sync` leaves its summary
    return Deno.openSync(path, { write: true, createNew: true });
  });
  let at = 0;
  const write = (bytes: Uint8Array) =>
    guarded(() => {
      for (let done = 0; done < bytes.length;) done += file.writeSync(bytes.subarray(done));
      at += bytes.length;
    });
  write(Uint8Array.of(0x3a, 0x57, 0x26, 0x42, 0xe1, 0xbe, 0)); // ":W&B", 0xBEE1, version 0
  return {
    put(record: number[]) {
      const data = Uint8Array.from(record);
      for (let from = 0; from < data.length || from === 0;) {
        const left = BLOCK - at % BLOCK;
        if (left < HEAD) {
          write(new Uint8Array(left));
          continue;
        }
        const to = Math.min(data.length, from + left - HEAD);
        // 1 whole, 2 first, 3 middle, 4 last
        const kind = from === 0 ? (to === data.length ? 1 : 2) : to === data.length ? 4 : 3;
        const piece = new Uint8Array(HEAD + to - from);
        const view = new DataView(piece.buffer);
        piece.set(data.subarray(from, to), HEAD);
        view.setUint16(4, to - from, true);
        view.setUint8(6, kind);
        view.setUint32(0, crc32(piece.subarray(6)), true);
        write(piece);
        if (to === data.length) return;
        from = to;
      }
    },
    close: () => {
      guarded(() => file.syncSync());
      file.close();
    },
  };
}
