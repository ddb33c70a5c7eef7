"""Runs cells in Jupyter's Deno kernel as a front end does, and reports every message that came before "idle".

Standard input: {"cwd": folder, "steps": [{"code": text, "stop_on": text or absent}]}. `stop_on` presses Stop at the
first output that contains the text. Standard output: a list of {"status", "error", "outputs": [[type, content]]}.
"""

import json
import sys

from jupyter_client.manager import KernelManager

TIMEOUT = 240


def main():
    job = json.load(sys.stdin)
    manager = KernelManager(kernel_name="deno")
    manager.start_kernel(cwd=job["cwd"])
    client = manager.client()
    client.start_channels()
    results = []
    try:
        client.wait_for_ready(timeout=60)
        for step in job["steps"]:
            outputs, pressed = [], []

            def hook(message):
                content = message["content"]
                outputs.append([message["msg_type"], content])
                if step.get("stop_on") and not pressed and step["stop_on"] in json.dumps(content):
                    pressed.append(True)
                    manager.interrupt_kernel()

            try:
                reply = client.execute_interactive(step["code"], timeout=TIMEOUT, output_hook=hook, allow_stdin=False)
                status = reply["content"]["status"]
            except Exception as error:
                status = f"no reply: {error!r}"
            wanted = [o for o in outputs if o[0] not in ("status", "execute_input")]
            results.append({"status": status, "outputs": wanted, "alive": manager.is_alive()})
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
    json.dump(results, sys.stdout)


main()
