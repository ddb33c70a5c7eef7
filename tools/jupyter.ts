/**
 * Jupyter in a Python environment `.venv` of this repository, with this very Deno as its kernel: nothing is written to
 * the user's home.
 * @module
 */
import { fromFileUrl, join } from "@std/path";
import { isFile } from "../lib/formats/file.ts";
import { ensurePython, pythonOf, quiet } from "./python.ts";

/** The repository. */
export const ROOT = fromFileUrl(new URL("..", import.meta.url));
const VENV = join(ROOT, ".venv");
/** The environment's Python. */
export const PYTHON = pythonOf(VENV);

/** Python modules, and the packages that bring them. */
export interface Needs {
  modules: string[];
  packages: string[];
}

/** To execute notebooks. */
export const RUN: Needs = {
  modules: ["nbconvert", "nbclient", "jupyter_client"],
  packages: ["nbconvert>=7,<8", "nbclient<1", "jupyter-client<9"],
};
/** To work in them. */
export const LAB: Needs = { modules: ["jupyterlab"], packages: ["jupyterlab>=4,<5"] };
/** To look at them in a browser, as a test does; Playwright only drives, the browser is one that is there. */
export const BROWSER: Needs = {
  modules: [...RUN.modules, ...LAB.modules, "playwright"],
  packages: [...RUN.packages, ...LAB.packages, "playwright<2"],
};

/** A Chromium on this machine: what `CHROME_PATH` names, or one under its usual names. */
export function findChromium(): string | undefined {
  const folders = (Deno.env.get("PATH") ?? "").split(Deno.build.os === "windows" ? ";" : ":");
  const names = ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable"];
  const given = Deno.env.get("CHROME_PATH");
  return [...(given ? [given] : []), ...folders.flatMap((f) => names.map((name) => join(f, name)))].find(
    isFile,
  );
}

/** Variables by which a kernel finds the adapter that `tools/task.ts` found. */
const ADAPTER = [
  "DENO_WEBGPU_BACKEND",
  "LD_LIBRARY_PATH",
  "VK_DRIVER_FILES",
  "VK_ICD_FILENAMES",
  "XDG_RUNTIME_DIR",
];

const probe = ({ modules }: Needs) => `import ${modules.join(", ")}`;

/** Whether the environment is there with these modules. */
export async function hasJupyter(needs: Needs): Promise<boolean> {
  return (await quiet(PYTHON, ["-c", probe(needs)])).ok;
}

/**
 * Finds or makes the Python environment with these packages in it.
 *
 * @throws NibbleError `setup/python`, `setup/pip` with the command to type
 */
export async function ensureJupyter(needs: Needs): Promise<void> {
  await ensurePython({ folder: VENV, purpose: "Jupyter", probe: probe(needs), install: needs.packages });
}

/** Registers this Deno as the kernel `deno` of the environment, and of it alone. */
export function registerKernel(): void {
  const folder = join(VENV, "share", "jupyter", "kernels", "deno");
  Deno.mkdirSync(folder, { recursive: true });
  const env = Object.fromEntries(ADAPTER.flatMap((name) => {
    const value = Deno.env.get(name);
    return value ? [[name, value]] : [];
  }));
  const spec = {
    argv: [Deno.execPath(), "jupyter", "--kernel", "--conn", "{connection_file}"],
    display_name: "Deno",
    language: "typescript",
    env,
  };
  const path = join(folder, "kernel.json");
  Deno.writeTextFileSync(`${path}.tmp`, JSON.stringify(spec, null, 2));
  Deno.renameSync(`${path}.tmp`, path);
}

/** Environment for Jupyter's own files, in a folder of ours, and plain text in outputs. */
export function jupyterEnv(scratch: string): Record<string, string> {
  return {
    JUPYTER_PREFER_ENV_PATH: "1",
    JUPYTER_RUNTIME_DIR: join(scratch, "runtime"),
    JUPYTER_CONFIG_DIR: join(scratch, "config"),
    JUPYTER_DATA_DIR: join(scratch, "data"),
    NO_COLOR: "1",
  };
}
