/**
 * Uploading a run's results as `hub_strategy` says, with Trainer's choice of files and titles.
 * @module
 */
import { basename, join, resolve } from "@std/path";
import { openHubRepo } from "../hub/mod.ts";
import type { HubFile } from "../hub/mod.ts";
import { STATE_FILES } from "./checkpoint.ts";
import { checkpointStep } from "./checkpoint_folder.ts";
import type { TrainSettings } from "./settings.ts";
import { TRAINER_STATE_FILE } from "./state.ts";

/** The upload of one run. */
export interface HubPush {
  /** Page of the repository. */
  readonly url: string;
  /** `owner/name`. */
  readonly id: string;
  /** A checkpoint is whole. An upload that fails is told and left to the next one. */
  saved(folder: string, step: number): Promise<void>;
  /** The output folder is whole. */
  end(): Promise<void>;
}

/**
 * Opens the repository before training begins, so that a token that will not do is told before time is spent.
 *
 * @param note receives lines for the log
 * @throws NibbleError of the room hub
 */
export async function openHubPush(s: TrainSettings, note: (text: string) => void): Promise<HubPush> {
  const repo = await openHubRepo(s.hub_model_id ?? basename(resolve(s.output_dir)), {
    token: s.hub_token ?? undefined,
    private: s.hub_private_repo ?? undefined,
    branch: s.hub_revision ?? undefined,
    onNote: note,
  });
  const where = repo.branch === "main" ? repo.url : `${repo.url}, branch ${repo.branch}`;
  note(`upload      to ${where} (hub_strategy: ${s.hub_strategy})`);
  const send = async (files: HubFile[], title: string) => {
    await repo.upload(files, title);
    note(`uploaded    ${files.length} files to ${where}`);
  };
  return {
    url: repo.url,
    id: repo.id,
    async saved(folder, step) {
      if (s.hub_strategy === "end") return;
      const all = filesOf(folder);
      const model = all.filter(({ path }) => !STATE_FILES.includes(path) && path !== TRAINER_STATE_FILE);
      const whole = {
        every_save: undefined,
        checkpoint: "last-checkpoint",
        all_checkpoints: basename(folder),
      };
      const below = whole[s.hub_strategy];
      const files = [
        ...model,
        ...(below ? all.map((file) => ({ ...file, path: `${below}/${file.path}` })) : []),
        ...records(s.output_dir),
      ];
      try {
        await send(files, `Training in progress, step ${step}`);
      } catch (error) {
        note(`upload      failed: ${(error as Error).message.split("\n")[0]}; training goes on`);
      }
    },
    async end() {
      const top = filesOf(s.output_dir).filter(({ path }) => !path.includes("/"));
      await send([...top, ...records(s.output_dir)], "End of training");
    },
  };
}

/** Event files for TensorBoard, which the Hub draws. */
function records(outputDir: string): HubFile[] {
  return filesOf(join(outputDir, "runs")).map((file) => ({ ...file, path: `runs/${file.path}` }));
}

/** Files below a folder, without hidden ones, unfinished ones and checkpoints. */
function filesOf(folder: string): (HubFile & { from: string })[] {
  let entries: Deno.DirEntry[];
  try {
    entries = [...Deno.readDirSync(folder)];
  } catch {
    return [];
  }
  return entries.sort((a, b) => a.name < b.name ? -1 : 1).flatMap(({ name, isDirectory }) => {
    if (/^\.|\.tmp$/.test(name) || checkpointStep(name) !== undefined) return [];
    const from = join(folder, name);
    if (!isDirectory) return [{ path: name, from }];
    return filesOf(from).map((file) => ({ ...file, path: `${name}/${file.path}` }));
  });
}
