/**
 * Python environments of nibble's own, for tasks that start programs written in Python.
 * @module
 */
import { join } from "@std/path";
import { NibbleError } from "../lib/errors.ts";
import { aptAsRoot, isDebian } from "./setup.ts";

/** What a program that was run to its end said. */
export interface Result {
  ok: boolean;
  /** Standard output, then standard error. */
  text: string;
}

/** Runs a program to its end without showing what it says. */
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

/** The Python of an environment. */
export function pythonOf(folder: string): string {
  return join(folder, ...(Deno.build.os === "windows" ? ["Scripts", "python.exe"] : ["bin", "python"]));
}

/** An environment, and what has to be in it. */
export interface PythonEnvironment {
  folder: string;
  /** What it is for, in messages: "Jupyter". */
  purpose: string;
  /** A Python program that fails while something is missing. */
  probe: string;
  /** What `pip install` is given. */
  install: string[];
}

/**
 * Finds or makes an environment with these packages in it.
 *
 * @returns the path of its Python
 * @throws NibbleError `setup/python` when there is no Python with venv, `setup/pip` when pip cannot install
 */
export async function ensurePython({ folder, purpose, probe, install }: PythonEnvironment): Promise<string> {
  const python = pythonOf(folder);
  const there = () => quiet(python, ["-c", probe]);
  if ((await there()).ok) return python;
  if (!(await quiet(python, ["-m", "pip", "--version"])).ok) {
    console.error(`[setup] Making a Python environment for ${purpose} in ${folder}`);
    const make = () =>
      quiet(Deno.build.os === "windows" ? "python" : "python3", ["-m", "venv", "--clear", folder]);
    let made = await make();
    // Debian splits venv off Python.
    const say = (text: string) => console.error(`[setup] ${text}`);
    if (!made.ok && await aptAsRoot("what Debian splits off Python", ["python3-venv"], say)) {
      made = await make();
    }
    if (!made.ok) {
      throw new NibbleError("setup/python", `Cannot make a Python environment for ${purpose}`, {
        where: made.text,
        remedy: isDebian()
          ? "Type: sudo apt-get install python3-venv"
          : "Install Python 3 with its venv module.",
      });
    }
  }
  console.error(`[setup] Installing ${install.join(" ")} into ${folder}`);
  const pip = ["-m", "pip", "install", "--quiet", "--no-input", "--disable-pip-version-check"];
  const installed = await quiet(python, [...pip, ...install]);
  const works = await there();
  if (works.ok) return python;
  throw new NibbleError("setup/pip", `Cannot install what ${purpose} needs`, {
    where: (installed.ok ? works : installed).text,
    remedy: "Check pip's package index and the network.",
  });
}
