/**
 * `deno task test:jupyterlab`: notebook 09 in JupyterLab, driven by Playwright in a headless Chromium. Installs what is
 * missing: Python's part in .venv, Chromium by Debian's package where root may. Not a part of `deno task test`, which
 * skips it: it takes some minutes.
 * @module
 */
import { NibbleError } from "../lib/errors.ts";
import { asksForHelp } from "./command.ts";
import { BROWSER, ensureJupyter, findChromium, ROOT } from "./jupyter.ts";
import { aptInstall, isDebian } from "./setup.ts";

async function ensureChromium(): Promise<void> {
  if (findChromium()) return;
  const apt = Deno.build.os === "linux" && isDebian() && Deno.uid() === 0;
  if (apt) {
    console.error("[setup] Installing a browser: apt-get install chromium");
    if (await aptInstall(["chromium"]) && findChromium()) return;
  }
  throw new NibbleError("setup/chromium", "There is no Chromium on this machine", {
    remedy: isDebian()
      ? "Type: sudo apt-get install chromium"
      : "Install Chromium or Chrome, and name its program by CHROME_PATH where it has another name than these.",
  });
}

if (asksForHelp(Deno.args)) {
  console.log(
    "Usage: deno task test:jupyterlab\n\nDrives notebook 09 in JupyterLab in a headless Chromium. NIBBLE_SHOTS names a " +
      "folder for pictures.",
  );
  Deno.exit(0);
}
try {
  await ensureChromium();
  await ensureJupyter(BROWSER);
} catch (error) {
  if (!(error instanceof NibbleError)) throw error;
  console.error(`[setup] ${error.message}`);
  Deno.exit(1);
}
const child = new Deno.Command(Deno.execPath(), {
  args: ["test", "-A", "--no-check", "tests/notebook/jupyterlab_test.ts"],
  cwd: ROOT,
  env: { NIBBLE_JUPYTERLAB: "1" },
}).spawn();
Deno.exit((await child.status).code);
