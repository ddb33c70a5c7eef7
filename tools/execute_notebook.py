"""Executes a notebook with the Deno kernel, in the folder of the original, and writes it as a notebook and as HTML.

    python execute_notebook.py INPUT FOLDER OUTPUT HTML TIMEOUT

Cells whose metadata say `nibble.variant` are executed and left out of the HTML. Exits 1 when a cell fails; what had
been executed is written all the same.
"""

import sys
import warnings

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from nbconvert import HTMLExporter


def variant(cell):
    return "variant" in cell.metadata.get("nibble", {})


def write_html(notebook, path):
    """Writes a page without addresses of other machines: figures carry what they need."""
    exporter = HTMLExporter(require_js_url="", mathjax_url="", jquery_url="", mermaid_js_url="")
    page, _ = exporter.from_notebook_node(notebook)
    with open(path, "w", encoding="utf-8") as file:
        file.write(page)


def main(source, folder, output, html, timeout):
    warnings.filterwarnings("ignore")
    notebook = nbformat.read(source, as_version=4)
    client = NotebookClient(
        notebook,
        kernel_name="deno",
        timeout=int(timeout),
        record_timing=False,
        coalesce_streams=True,
        resources={"metadata": {"path": folder}},
    )
    failure = None
    try:
        client.execute()
    except (CellExecutionError, CellTimeoutError, DeadKernelError) as error:
        failure = error
    nbformat.write(notebook, output)
    notebook.cells = [cell for cell in notebook.cells if not variant(cell)]
    for number, cell in enumerate((c for c in notebook.cells if c.cell_type == "code"), 1):
        cell.execution_count = number
    write_html(notebook, html)
    if failure:
        print(failure)
    return 1 if failure else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
