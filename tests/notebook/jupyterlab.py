"""Drives JupyterLab in a headless Chromium as a reader does, and reports what there was to see.

    python jupyterlab.py CHROMIUM ROOT NOTEBOOK LONG [SHOTS]

In ROOT lie a course's `notebooks` and what they import. NOTEBOOK is opened, run to its end, and the live chart of its
training cell is watched; LONG, whose training takes long, is run in the dark theme and stopped in the middle, its
last cell is run, then the training cell again, and that is stopped too. What NOTEBOOK then holds is written as HTML and
opened without a network. SHOTS is a folder for pictures. Standard output: {"whole", "page", "stopped", "resumed"}.
"""

import json
import os
import secrets
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import nbformat
from playwright.sync_api import sync_playwright

sys.path.append(str(Path(__file__).resolve().parents[2] / "tools"))
from execute_notebook import write_html  # noqa: E402

# Seconds that a whole notebook may take on a slow, busy machine.
LIMIT = 300
TRAINING = "trainLive(recipe"
STATE = """cell => {
  const outputs = cell.querySelectorAll('.jp-OutputArea-child');
  const live = cell.querySelector('.jp-OutputArea-output div[role=status]');
  return {
    outputs: outputs.length,
    line: live?.textContent.trim() ?? '',
    value: live?.querySelector('progress')?.value ?? null,
    drawn: (live?.parentElement.querySelector('svg')?.innerHTML ?? '').length,
  };
}"""
# How well the letters of figures stand out: luminance of text and of what lies behind them, 0 to 1.
FIGURES = """() => {
  const light = (colour) => {
    const [r, g, b, a] = colour.match(/[\\d.]+/g).map(Number);
    return a === 0 ? null : (0.2126 * r + 0.7152 * g + 0.0722 * b) / 255;
  };
  const behind = (node) => {
    for (; node; node = node.parentElement) {
      const value = light(getComputedStyle(node).backgroundColor);
      if (value !== null) return value;
    }
    return 1;
  };
  const apart = (text) => Math.abs(light(getComputedStyle(text).fill) - behind(text));
  return [...document.querySelectorAll('.jp-OutputArea-output .js-plotly-plot')].map((plot) => ({
    width: plot.getBoundingClientRect().width,
    title: plot.querySelector('.gtitle')?.textContent ?? '',
    least: Math.min(...[...plot.querySelectorAll('text')].map(apart)),
  }));
}"""
ERRORS = """() => [...document.querySelectorAll(
  '[data-mime-type="application/vnd.jupyter.error"], [data-mime-type="application/vnd.jupyter.stderr"]')]
  .map((e) => e.textContent.slice(0, 400))"""


class Lab:
    """A server on a free port, with settings that keep news and window tricks out."""

    def __init__(self, root, scratch):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.token, self.settings = secrets.token_hex(8), Path(scratch, "settings")
        self.url = f"http://127.0.0.1:{port}/lab/tree/"
        self.set("notebook-extension/tracker", {"windowingMode": "none"})
        self.set("apputils-extension/notification", {"fetchNews": "false", "checkForUpdates": False})
        environment = dict(os.environ, JUPYTERLAB_SETTINGS_DIR=str(self.settings))
        root_flag = ["--allow-root"] if hasattr(os, "getuid") and os.getuid() == 0 else []
        self.log = open(Path(scratch, "lab.log"), "w+")
        command = [sys.executable, "-m", "jupyterlab", *root_flag, "--no-browser", "--ip=127.0.0.1", f"--port={port}"]
        places = [f"--IdentityProvider.token={self.token}", "--notebook-dir", str(Path(root, "notebooks"))]
        self.process = subprocess.Popen(command + places, env=environment, stdout=self.log, stderr=self.log)
        for _ in range(240):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    return
            if self.process.poll() is not None:
                break
            time.sleep(0.25)
        raise SystemExit("JupyterLab does not start:\n" + self.said())

    def said(self):
        self.log.seek(0)
        return self.log.read()[-3000:]

    def set(self, plugin, settings):
        file = self.settings / "@jupyterlab" / f"{plugin}.jupyterlab-settings"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(settings))

    def close(self):
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()


class Page:
    """One open notebook."""

    def __init__(self, browser, lab, name, shots):
        self.page, self.shots = browser.new_page(viewport={"width": 1280, "height": 1000}), shots
        # without what was open before, whose kernel may be taken for this one's
        self.page.goto(f"{lab.url}{name}?reset&token={lab.token}", wait_until="domcontentloaded")
        self.page.wait_for_selector(".jp-Notebook .jp-CodeCell", timeout=120_000)
        # before the kernel has answered, "Run All Cells" does nothing
        self.page.wait_for_selector("#jp-main-statusbar >> text=Deno | Idle", timeout=120_000)

    def cell(self, text):
        return self.page.locator(".jp-CodeCell", has_text=text).last

    def shot(self, name, cell=None):
        if self.shots:
            if cell:
                cell.evaluate("e => e.querySelector('.jp-OutputArea').scrollIntoView({block: 'center'})")
            self.page.wait_for_timeout(400)
            self.page.screenshot(path=str(Path(self.shots, f"{name}.png")))

    def shot_cells(self, name, selector):
        """One picture of each cell that shows such a thing."""
        for i, cell in enumerate(self.page.locator(".jp-CodeCell").all() if self.shots else []):
            if cell.locator(selector).count():
                self.shot(f"{name}_cell_{i:02}", cell)

    def run_all(self):
        self.page.locator(".lm-MenuBar-item", has_text="Run").click()
        self.page.locator(".lm-Menu-item[data-command='runmenu:run-all']").click()

    def run_one(self, cell):
        cell.locator(".cm-content").click()
        self.page.keyboard.press("Control+Enter")

    def stop(self):
        self.page.locator("[data-command='notebook:interrupt-kernel']:visible").first.click()

    def save(self):
        self.page.locator("[data-command='docmanager:save']:visible").first.click()
        self.page.wait_for_selector(".lm-TabBar-tab.jp-mod-current:not(.jp-mod-dirty)")

    def busy(self):
        return self.page.locator(".jp-InputPrompt", has_text="[*]").count()

    def watch(self, seen=None, until=None, started=False):
        """States of the training cell: until a state is what is wanted, or where none is, until nothing runs any more.

        `started`: what is watched runs already, and may have ended.
        """
        cell, states, ends, idle = self.cell(TRAINING), [], time.time() + LIMIT, 0
        while time.time() < ends:
            started = started or self.busy() > 0
            state = cell.evaluate(STATE)
            if state["line"] and (not states or states[-1] != state):
                states.append(state)
                if seen:
                    seen(len(states), cell)
                if until and until(state):
                    return states
            idle = idle + 1 if started and self.busy() == 0 else 0
            if idle > 3 and until:
                break
            if idle > 3:
                return states
            time.sleep(0.2)
        self.shot("busy")
        raise SystemExit(f"{self.busy()} cells busy when it was given up, last state {states[-1:]}")

    def report(self, states):
        status = self.page.locator("p[role=status]").all_text_contents()
        return {
            "states": states,
            "status": status,
            "errors": self.page.evaluate(ERRORS),
            "figures": self.page.evaluate(FIGURES),
            "training": self.cell(TRAINING).locator(".jp-OutputArea-child").count(),
        }


def whole(browser, lab, name, shots):
    """The notebook as it is, from the first cell to the last."""
    page = Page(browser, lab, name, shots)
    page.run_all()
    states = page.watch(lambda n, cell: n in (2, 8, 20) and page.shot(f"whole_live_{n}", cell))
    page.page.wait_for_timeout(1000)
    found = page.report(states)
    page.save()
    page.shot("whole_end", page.cell(TRAINING))
    page.shot_cells("whole", ".js-plotly-plot, table")
    page.page.close()
    return found


def offline(browser, root, name, shots):
    """The notebook as HTML, in a browser that reaches no other machine."""
    html = Path(root, "notebooks", name).with_suffix(".html")
    write_html(nbformat.read(html.with_suffix(".ipynb"), as_version=4), html)
    asked = []
    context = browser.new_context(offline=True, viewport={"width": 1100, "height": 1000})
    page = context.new_page()
    page.on("request", lambda request: asked.append(request.url[:200]))
    page.goto(html.as_uri(), wait_until="load")
    page.wait_for_timeout(3000)
    figures = page.evaluate(FIGURES)
    if shots:
        page.screenshot(path=str(Path(shots, "page.png")), full_page=True)
    context.close()
    return {"figures": figures, "asked": [url for url in asked if not url.startswith(("file:", "data:", "blob:"))]}


def stopped(browser, lab, name, shots):
    """A run that is stopped, gone on with and stopped again, in the dark theme."""
    lab.set("apputils-extension/themes", {"theme": "JupyterLab Dark"})
    page = Page(browser, lab, name, shots)
    page.run_all()
    states = page.watch(until=lambda state: (state["value"] or 0) >= 5)
    page.shot("dark_live", page.cell(TRAINING))
    page.stop()
    page.watch(started=True)
    page.page.wait_for_timeout(500)
    first = page.report(states)
    page.shot("dark_stopped", page.cell(TRAINING))
    page.shot_cells("dark", ".js-plotly-plot, svg")
    last = page.page.locator(".jp-CodeCell").last
    page.run_one(last)
    page.page.wait_for_timeout(2000)
    first["alive"] = last.locator(".jp-OutputArea-executeResult").inner_text()
    training = page.cell(TRAINING)
    page.run_one(training)
    reached = int(first["status"][-1].split("step ")[1].split()[0])
    states = page.watch(until=lambda state: (state["value"] or 0) > reached)
    page.stop()
    page.watch(started=True)
    page.page.wait_for_timeout(500)
    page.shot("dark_resumed", training)
    again = page.report(states)
    page.page.close()
    return first, again


def main(chromium, root, name, long, shots=None):
    with tempfile.TemporaryDirectory() as scratch, sync_playwright() as playwright:
        lab = Lab(root, scratch)
        try:
            # a container has no room for the sandbox, and this Chromium opens only pages of this machine
            browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
            found = {"whole": whole(browser, lab, name, shots), "page": offline(browser, root, name, shots)}
            found["stopped"], found["resumed"] = stopped(browser, lab, long, shots)
            browser.close()
        except BaseException:
            print(lab.said(), file=sys.stderr)
            raise
        finally:
            lab.close()
    json.dump(found, sys.stdout)


main(*sys.argv[1:])
