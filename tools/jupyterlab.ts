/**
 * `deno task test:jupyterlab`: notebook 09 in JupyterLab, driven by Playwright in a headless Chromium. Installs what is
 * missing: Python's part in .venv, Chromium by Debian's package where root may. Not a part of `deno task test`, which
 * skips it: it takes some minutes.
 * @module
 */
import { NibbleError } from "../lib/errors.ts";
import { asksForHelp, runCommand } from "./command.ts";
import { BROWSER, ensureJupyter, findChromium, ROOT } from "./jupyter.ts";
import { aptAsRoot, isDebian } from "./setup.ts";

const HELP = `Usage: deno task test:jupyterlab

Drives notebook 09 in JupyterLab in a headless Chromium. NIBBLE_SHOTS names a folder for pictures.`;

async function ensureChromium(): Promise<void> {
  if (findChromium()) return;
  if (
    await aptAsRoot("a browser", ["chromium"], (text) => console.error(`[setup] ${text}`)) && findChromium()
  ) return;
  throw new NibbleError("setup/chromium", "There is no Chromium on this machine", {
    remedy: isDebian()
      ? "Type: sudo apt-get install chromium"
      : "Install Chromium or Chrome, and name its program by CHROME_PATH where it has another name than these.",
  });
}

async function main(): Promise<number> {
  if (asksForHelp(Deno.args)) {
    console.log(HELP);
    return 0;
  }
  await ensureChromium();
  await ensureJupyter(BROWSER);
  const child = new Deno.Command(Deno.execPath(), {
    args: ["test", "-A", "--no-check", "tests/notebook/jupyterlab_test.ts"],
    cwd: ROOT,
    env: { NIBBLE_JUPYTERLAB: "1" },
  }).spawn();
  return (await child.status).code;
}

await runCommand(main);
