/**
 * Jupyter in a Python environment `.venv` of this repository, with this very Deno as its kernel: nothing is written to
 * the user's home.
 * @module
 */
import { fromFileUrl, join } from "@std/path";
import { NibbleError } from "../lib/errors.ts";
import { aptInstall, isDebian } from "./setup.ts";

/** The repository. */
export const ROOT = fromFileUrl(new URL("..", import.meta.url));
const VENV = join(ROOT, ".venv");
/** The environment's Python. */
export const PYTHON = join(
  VENV,
  ...(Deno.build.os === "windows" ? ["Scripts", "python.exe"] : ["bin", "python"]),
);

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

/** Variables by which a kernel finds the adapter that `tools/task.ts` found. */
const ADAPTER = [
  "DENO_WEBGPU_BACKEND",
  "LD_LIBRARY_PATH",
  "VK_DRIVER_FILES",
  "VK_ICD_FILENAMES",
  "XDG_RUNTIME_DIR",
];

/** What a command came to. */
export interface Result {
  ok: boolean;
  text: string;
}

/** Runs a command and returns what it said. */
export async function quiet(
  command: string,
  args: string[],
  env: Record<string, string> = {},
): Promise<Result> {
  try {
    const out = await new Deno.Command(command, { args, env, stdin: "null", stderr: "piped" }).output();
    const decode = (bytes: Uint8Array) => new TextDecoder().decode(bytes).trim();
    return { ok: out.success, text: [decode(out.stdout), decode(out.stderr)].filter(Boolean).join("\n") };
  } catch (error) {
    return { ok: false, text: (error as Error).message };
  }
}

/** Whether the environment is there with these modules. */
export async function hasJupyter({ modules }: Needs): Promise<boolean> {
  return (await quiet(PYTHON, ["-c", `import ${modules.join(", ")}`])).ok;
}

/**
 * Finds or makes the Python environment with these packages in it.
 *
 * @throws NibbleError `setup/python`, `setup/jupyter` with the command to type
 */
export async function ensureJupyter(needs: Needs): Promise<void> {
  if (await hasJupyter(needs)) return;
  if (!(await quiet(PYTHON, ["-m", "pip", "--version"])).ok) {
    console.error("[setup] Making a Python environment for Jupyter in .venv");
    const make = () =>
      quiet(Deno.build.os === "windows" ? "python" : "python3", ["-m", "venv", "--clear", VENV]);
    let made = await make();
    // Debian splits venv off Python.
    if (!made.ok && Deno.build.os === "linux" && isDebian() && Deno.uid() === 0) {
      console.error("[setup] Installing what Debian splits off Python: apt-get install python3-venv");
      if (await aptInstall(["python3-venv"])) made = await make();
    }
    if (!made.ok) {
      throw new NibbleError("setup/python", "Cannot make a Python environment for Jupyter", {
        where: made.text,
        remedy: isDebian()
          ? "Type: sudo apt-get install python3-venv"
          : "Install Python 3 with its venv module.",
      });
    }
  }
  console.error(`[setup] Installing ${needs.packages.join(", ")} into .venv`);
  const pip = ["-m", "pip", "install", "--quiet", "--no-input", "--disable-pip-version-check"];
  const installed = await quiet(PYTHON, [...pip, ...needs.packages]);
  if (installed.ok && await hasJupyter(needs)) return;
  throw new NibbleError("setup/jupyter", "Cannot install Jupyter into .venv", {
    where: installed.text,
    remedy: "Check pip's package index and the network.",
  });
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
