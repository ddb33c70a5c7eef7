/**
 * `deno task notebooks` opens the course in JupyterLab; `deno task notebooks:run [names]` executes the notebooks
 * without a window and writes them as HTML to `.cache/notebooks`.
 *
 * Jupyter lives in a Python environment `.venv` in this repository, and so does the Deno kernel, which is this very
 * executable with the adapter that was found: nothing is written to the user's home.
 * @module
 */
import { basename, fromFileUrl, join, resolve } from "@std/path";
import { NibbleError } from "../lib/errors.ts";
import { aptInstall, isDebian } from "./setup.ts";

const ROOT = fromFileUrl(new URL("..", import.meta.url));
const VENV = join(ROOT, ".venv");
const PYTHON = join(VENV, ...(Deno.build.os === "windows" ? ["Scripts", "python.exe"] : ["bin", "python"]));
const OUT = join(ROOT, ".cache", "notebooks");
/** Seconds that one cell may take. */
const CELL_TIMEOUT = 600;
const RUN = {
  modules: ["nbconvert", "nbclient", "jupyter_client"],
  packages: ["nbconvert>=7,<8", "nbclient<1", "jupyter-client<9"],
};
const LAB = { modules: ["jupyterlab"], packages: ["jupyterlab>=4,<5"] };
/** Variables by which a kernel finds the adapter that `tools/task.ts` found. */
const ADAPTER = [
  "DENO_WEBGPU_BACKEND",
  "LD_LIBRARY_PATH",
  "VK_DRIVER_FILES",
  "VK_ICD_FILENAMES",
  "XDG_RUNTIME_DIR",
];

interface Result {
  ok: boolean;
  text: string;
}

async function quiet(command: string, args: string[], env: Record<string, string> = {}): Promise<Result> {
  try {
    const out = await new Deno.Command(command, { args, env, stdin: "null", stderr: "piped" }).output();
    const decode = (bytes: Uint8Array) => new TextDecoder().decode(bytes).trim();
    return { ok: out.success, text: [decode(out.stdout), decode(out.stderr)].filter(Boolean).join("\n") };
  } catch (error) {
    return { ok: false, text: (error as Error).message };
  }
}

/** Finds or makes the Python environment with these packages in it. */
async function ensureJupyter({ modules, packages }: typeof RUN): Promise<void> {
  const there = () => quiet(PYTHON, ["-c", `import ${modules.join(", ")}`]);
  if ((await there()).ok) return;
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
  console.error(`[setup] Installing ${packages.join(", ")} into .venv`);
  const pip = ["-m", "pip", "install", "--quiet", "--no-input", "--disable-pip-version-check"];
  const installed = await quiet(PYTHON, [...pip, ...packages]);
  const works = await there();
  if (installed.ok && works.ok) return;
  throw new NibbleError("setup/jupyter", "Cannot install Jupyter into .venv", {
    where: (installed.ok ? works : installed).text,
    remedy: "Check pip's package index and the network.",
  });
}

/** Registers this Deno as the kernel `deno` of the environment, and of it alone. */
function registerKernel(): void {
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

/** Executes notebooks one after the other; prints a closing line as `deno test` does. */
async function runAll(paths: string[]): Promise<boolean> {
  const scratch = await Deno.makeTempDir({ prefix: "nibble-jupyter-" });
  const env = {
    JUPYTER_PREFER_ENV_PATH: "1",
    JUPYTER_RUNTIME_DIR: join(scratch, "runtime"),
    JUPYTER_CONFIG_DIR: join(scratch, "config"),
    JUPYTER_DATA_DIR: join(scratch, "data"),
    NO_COLOR: "1",
  };
  let failed = 0;
  const started = performance.now();
  const seconds = (since: number) => `${((performance.now() - since) / 1000).toFixed(0)}s`;
  try {
    for (const path of paths) {
      const at = performance.now();
      const execute = ["--execute", `--ExecutePreprocessor.timeout=${CELL_TIMEOUT}`];
      const kernel = "--ExecutePreprocessor.kernel_name=deno";
      const to = ["--to", "html", "--output-dir", OUT];
      const { ok, text } = await quiet(PYTHON, ["-m", "nbconvert", ...to, ...execute, kernel, path], env);
      if (!ok) failed++;
      if (!ok) console.log(text);
      console.log(`${basename(path)} ... ${ok ? "ok" : "FAILED"} (${seconds(at)})`);
    }
  } finally {
    await Deno.remove(scratch, { recursive: true });
  }
  const passed = paths.length - failed;
  console.log(`\n${failed ? "FAILED" : "ok"} | ${passed} passed | ${failed} failed (${seconds(started)})`);
  return failed === 0;
}

function notebooks(names: string[]): string[] {
  if (names.length > 0) return names.map((name) => resolve(name));
  try {
    const folder = join(ROOT, "notebooks");
    const found = [...Deno.readDirSync(folder)].map((entry) => entry.name).filter((name) =>
      name.endsWith(".ipynb")
    );
    return found.sort().map((name) => join(folder, name));
  } catch {
    return [];
  }
}

async function main(args: string[]): Promise<number> {
  const run = args[0] === "--run";
  const paths = notebooks(run ? args.slice(1) : []);
  if (run && paths.length === 0) {
    console.log("There are no notebooks.");
    return 0;
  }
  await ensureJupyter(run ? RUN : LAB);
  registerKernel();
  if (run) return await runAll(paths) ? 0 : 1;
  // JupyterLab refuses root unless told; who runs this as root has decided already.
  const root = Deno.build.os !== "windows" && Deno.uid() === 0 ? ["--allow-root"] : [];
  const lab = new Deno.Command(PYTHON, {
    args: ["-m", "jupyterlab", ...root, "--notebook-dir", join(ROOT, "notebooks"), ...args],
    env: { JUPYTER_PREFER_ENV_PATH: "1" },
  }).spawn();
  Deno.addSignalListener("SIGINT", () => {}); // JupyterLab asks before it ends
  return (await lab.status).code;
}

try {
  Deno.exit(await main(Deno.args));
} catch (error) {
  if (!(error instanceof NibbleError)) throw error;
  console.error(`[setup] ${error.message}`);
  Deno.exit(1);
}
