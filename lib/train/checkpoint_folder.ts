/**
 * Folders `checkpoint-N`: their names, which is newest, which go, and how a folder is written so that it is there
 * whole or not at all.
 * @module
 */
import { basename, dirname, join, resolve } from "@std/path";
import { NibbleError } from "../errors.ts";
import { isObject } from "../formats/mod.ts";
import { TRAINER_STATE_FILE } from "./state.ts";

/** The loop's state, and what the run is recognised by. */
export const STATE = "nibble_state.json";

/** A checkpoint on disk. */
export interface Checkpoint {
  /** Optimizer step after which it was written. */
  step: number;
  /** When, in milliseconds since 1970. */
  written: number;
  /** Its folder. */
  path: string;
}

/** `checkpoint-N`. */
export function checkpointName(step: number): string {
  return `checkpoint-${step}`;
}

/**
 * The step of a checkpoint's folder name or path, or undefined where it is none.
 *
 * @example
 * ```ts
 * import { checkpointName, checkpointStep } from "./checkpoint_folder.ts";
 * if (checkpointStep(`out/${checkpointName(40)}`) !== 40) throw new Error("40");
 * if (checkpointStep("out/checkpoint-40-old") !== undefined) throw new Error("not a checkpoint");
 * ```
 */
export function checkpointStep(path: string): number | undefined {
  const match = /^checkpoint-(\d+)$/.exec(basename(path));
  return match ? Number(match[1]) : undefined;
}

/**
 * The whole checkpoints of an output folder, oldest first; none when there is no such folder. Whole are those with a
 * `trainer_state.json`. One whose replacement was cut off by a crash is put back first. Age goes by the time of writing
 * and not by the step, since an earlier and longer run may have left some.
 *
 * @throws NibbleError `train/cannot-write` where a file has the folder's name
 */
export function listCheckpoints(outputDir: string): Checkpoint[] {
  const names = namesIn(outputDir);
  for (const name of names) {
    const original = /^\.(checkpoint-\d+)\.old$/.exec(name)?.[1];
    if (original) recoverFolder(join(outputDir, original));
  }
  return namesIn(outputDir).flatMap((name) => {
    const step = checkpointStep(name);
    const path = join(outputDir, name);
    return step !== undefined && isThere(join(path, TRAINER_STATE_FILE))
      ? [{ step, path, written: writtenAt(path) }]
      : [];
  }).sort((a, b) => a.written - b.written || a.step - b.step);
}

/** What a checkpoint's {@link STATE} says; nothing where there is none or it is damaged, which loading it will tell. */
export function peekState(folder: string): Record<string, unknown> | undefined {
  try {
    return parseState(Deno.readTextFileSync(join(folder, STATE)));
  } catch {
    return undefined;
  }
}

/** The object that a text holds; undefined where it holds none. */
export function parseState(text: string): Record<string, unknown> | undefined {
  try {
    const saved: unknown = JSON.parse(text);
    return isObject(saved) ? saved : undefined;
  } catch {
    return undefined;
  }
}

/** The time that a checkpoint holds, since copies of files are as old as the copying; else that of its file. */
function writtenAt(path: string): number {
  const written = peekState(path)?.written;
  if (typeof written === "number") return written;
  return Deno.statSync(join(path, TRAINER_STATE_FILE)).mtime?.getTime() ?? 0;
}

/**
 * Folder of the whole checkpoint that was written last, or undefined.
 *
 * @example
 * ```ts
 * import { newestCheckpoint, writeFolder } from "./checkpoint_folder.ts";
 * const out = await Deno.makeTempDir();
 * for (const step of [8, 16]) {
 *   await writeFolder(`${out}/checkpoint-${step}`, (folder) => {
 *     Deno.writeTextFileSync(`${folder}/trainer_state.json`, `{"global_step": ${step}}`);
 *   });
 * }
 * if (!newestCheckpoint(out)?.endsWith("checkpoint-16")) throw new Error("16 is newer than 8");
 * await Deno.remove(out, { recursive: true });
 * ```
 */
export function newestCheckpoint(outputDir: string): string | undefined {
  return listCheckpoints(outputDir).at(-1)?.path;
}

/**
 * Remove the oldest checkpoints beyond a limit, as Trainer does: the best is never removed, and a limit of 1 keeps two
 * where the best is not the newest.
 *
 * @param limit `save_total_limit`; null keeps all
 * @param best folder of the best checkpoint, if any (`best_model_checkpoint`)
 * @param latest folder of the one just written, which stays whatever the clock says; default the newest
 * @returns the folders that were removed
 */
export function rotateCheckpoints(
  outputDir: string,
  limit: number | null,
  best: string | null = null,
  latest?: string,
): string[] {
  if (limit === null || limit < 1) return [];
  const all = listCheckpoints(outputDir);
  const newest = latest === undefined ? all.at(-1) : all.find((c) => c.step === checkpointStep(latest));
  // By step and not by path: a moved output folder still knows its best.
  const bestStep = best === null ? undefined : checkpointStep(best);
  const isBest = (c: Checkpoint) => c.step === bestStep;
  const keepsTwo = limit === 1 && newest !== undefined && !isBest(newest) && all.some(isBest);
  const surplus = Math.max(0, all.length - (keepsTwo ? 2 : limit));
  const gone = all.filter((c) => !isBest(c) && c !== newest).slice(0, surplus);
  for (const { path } of gone) {
    // Under another name first: a removal that is cut off leaves no half checkpoint.
    const aside = join(outputDir, `.${basename(path)}.removed`);
    remove(aside);
    Deno.renameSync(path, aside);
    remove(aside);
  }
  return gone.map((c) => c.path);
}

/**
 * Write a folder so that it is there whole or not at all: `fill` gets an empty folder beside the target; all in it is
 * brought to disk, and only then it takes the target's name. What stood there is replaced, and put back if that fails.
 * When `fill` throws, the target is as it was.
 *
 * @throws NibbleError `train/cannot-write`, or what `fill` throws where that is a NibbleError
 */
export async function writeFolder(
  target: string,
  fill: (tmp: string) => void | Promise<void>,
): Promise<void> {
  const old = beside(target, "old");
  await filled(target, fill, (tmp) => {
    if (isThere(target)) {
      remove(old);
      Deno.renameSync(target, old);
    }
    try {
      Deno.renameSync(tmp, target);
    } catch (cause) {
      recoverFolder(target);
      throw cause;
    }
    remove(old);
  });
}

/**
 * Like {@link writeFolder} for a folder that holds other things too, such as `output_dir` with its checkpoints: each
 * new file replaces one of the same name, after all of them are whole and on disk; the rest is left alone.
 */
export async function writeIntoFolder(
  target: string,
  fill: (tmp: string) => void | Promise<void>,
): Promise<void> {
  await filled(target, fill, (tmp) => {
    Deno.mkdirSync(target, { recursive: true });
    for (const name of namesIn(tmp).sort()) {
      const into = join(target, name);
      if (Deno.statSync(join(tmp, name)).isDirectory) remove(into);
      Deno.renameSync(join(tmp, name), into);
    }
    remove(tmp);
  });
}

/** Put back what {@link writeFolder} had moved aside when it was cut off between its two renames. */
export function recoverFolder(target: string): void {
  const old = beside(target, "old");
  if (!isThere(target) && isThere(old)) Deno.renameSync(old, target);
}

/** Fills a folder beside the target, syncs it and hands it to `place`; nothing is left behind when that fails. */
async function filled(
  target: string,
  fill: (tmp: string) => void | Promise<void>,
  place: (tmp: string) => void,
): Promise<void> {
  const tmp = beside(target, "tmp");
  try {
    recoverFolder(target);
    remove(tmp);
    Deno.mkdirSync(tmp, { recursive: true });
    await fill(tmp);
    syncTree(tmp);
    place(tmp);
    syncFolder(dirname(resolve(target)));
  } catch (cause) {
    try {
      remove(tmp);
    } catch {
      // The first error is the one that tells; the next write clears the rest away.
    }
    if (cause instanceof NibbleError) throw cause;
    const why = cause instanceof Error ? cause.message : String(cause);
    throw new NibbleError("train/cannot-write", `Cannot write ${target}: ${why}`, {
      where: target,
      remedy:
        "Check that the folder may be written and that its disk has space left; what stood there is unharmed.",
      cause,
    });
  }
}

/** A hidden name in the same folder, hence on the same disk, where a rename moves no data. */
function beside(target: string, what: string): string {
  const whole = resolve(target);
  return join(dirname(whole), `.${basename(whole)}.${what}`);
}

function syncTree(folder: string): void {
  for (const entry of Deno.readDirSync(folder)) {
    const path = join(folder, entry.name);
    if (entry.isDirectory) syncTree(path);
    else if (entry.isFile) {
      using file = Deno.openSync(path, { read: true, write: true });
      file.syncSync();
    }
  }
  syncFolder(folder);
}

/** Brings a folder's list of names to disk, where the system has a way to (Windows has none). */
function syncFolder(folder: string): void {
  if (Deno.build.os === "windows") return;
  using handle = Deno.openSync(folder, { read: true });
  handle.syncSync();
}

function namesIn(folder: string): string[] {
  try {
    return [...Deno.readDirSync(folder)].map((entry) => entry.name);
  } catch (cause) {
    if (cause instanceof Deno.errors.NotFound) return [];
    if (!(cause instanceof Deno.errors.NotADirectory)) throw cause;
    throw new NibbleError("train/cannot-write", "A file stands where the output folder should be", {
      where: folder,
      remedy: "Set output_dir to a folder.",
      cause,
    });
  }
}

function isThere(path: string): boolean {
  try {
    Deno.lstatSync(path);
    return true;
  } catch (cause) {
    if (cause instanceof Deno.errors.NotFound || cause instanceof Deno.errors.NotADirectory) return false;
    throw cause;
  }
}

function remove(path: string): void {
  if (isThere(path)) Deno.removeSync(path, { recursive: true });
}
