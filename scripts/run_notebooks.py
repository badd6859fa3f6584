"""Run notebooks top to bottom, with a progress bar, and write them as pages with an index.

Each notebook runs in a fresh kernel of this interpreter, in its own folder, in the profile asked for. A failing
notebook does not stop the others; its page shows the error and the exit status is 1.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import html
import os
import re
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from nbconvert import HTMLExporter
from tqdm import tqdm

from gradembed._files import write_atomically

ROOT = Path(__file__).resolve().parent.parent
FIGURES = (
    ROOT / "docs" / "figures"
)  # of the committed runs, one per notebook: its opening shows it, and so does the README
CELL_LIMIT = 3600  # seconds


@dataclass(frozen=True)
class Result:
    """How one notebook went."""

    name: str
    title: str
    question: str
    seconds: float
    error: str


def headline(notebook: nbformat.NotebookNode) -> bytes:
    """Return the figure that speaks for a notebook: the picture of the cell that is tagged "headline".

    Args:
        notebook: The notebook, with its outputs.

    Returns:
        PNG; empty if no cell is tagged.
    """
    tagged = [cell for cell in notebook.cells if "headline" in cell.metadata.get("tags", ())]
    found = [one.data["image/png"] for cell in tagged for one in cell.outputs if "image/png" in one.get("data", {})]
    return base64.b64decode(found[0]) if found else b""


def run(path: Path, profile: str, out: Path, *, in_place: bool) -> Result:
    """Run one notebook and write its page.

    Args:
        path: The notebook.
        profile: "quick" or "full".
        out: Folder of the pages.
        in_place: Write outputs back into the notebook, if it ran to its end.

    Returns:
        How it went.
    """
    notebook = nbformat.read(path, as_version=4)
    total = sum(cell.cell_type == "code" for cell in notebook.cells)
    start, error = time.perf_counter(), ""
    with tqdm(total=total, desc=f"{path.stem} ({profile})", unit="cell", file=sys.stderr) as bar:
        client = NotebookClient(
            notebook,
            timeout=CELL_LIMIT,
            resources={"metadata": {"path": str(path.parent)}},
            record_timing=False,
            coalesce_streams=True,
            on_cell_executed=lambda **_: bar.update(),
            extra_arguments=["--log-level=40"],  # errors only
        )
        try:
            client.execute(env={**os.environ, "GRADEMBED_PROFILE": profile, "PYDEVD_DISABLE_FILE_VALIDATION": "1"})
        except (CellExecutionError, CellTimeoutError, DeadKernelError) as failure:
            error = re.sub(r"\x1b\[[0-9;]*m", "", str(failure)).strip()
    committed = FIGURES / f"{path.stem}.png"
    if in_place and not error:
        write_atomically(path, (nbformat.writes(notebook).rstrip() + "\n").encode())
        if profile == "full" and (figure := headline(notebook)):
            write_atomically(committed, figure)
    exporter = HTMLExporter(mathjax_url="", require_js_url="", jquery_url="")
    page, _ = exporter.from_notebook_node(notebook)
    if committed.exists():
        inside = f"data:image/png;base64,{base64.b64encode(committed.read_bytes()).decode()}"
        page = page.replace(f"../docs/figures/{committed.name}", inside)
    write_atomically(out / f"{path.stem}.html", page.encode())
    lines = [line for cell in notebook.cells if cell.cell_type == "markdown" for line in cell.source.splitlines()]
    title = next((line[2:] for line in lines if line.startswith("# ")), path.stem)
    question = next((line for line in lines if line.startswith("**Question.**")), "").removeprefix("**Question.** ")
    return Result(path.stem, title, question, time.perf_counter() - start, error)


def index(results: list[Result], profile: str) -> str:
    """Write the page that lists the notebooks.

    Args:
        results: How each went.
        profile: In which profile.

    Returns:
        HTML.
    """
    rows = "".join(
        f'<tr><td><a href="{r.name}.html">{html.escape(r.title)}</a></td><td>{html.escape(r.question)}</td>'
        f"<td>{r.seconds:.0f} s</td><td>{'failed' if r.error else 'ran to the end'}</td></tr>"
        for r in results
    )
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>gradembed notebooks</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><style>body{font:16px/1.5 sans-serif;'
        "max-width:60em;margin:2em auto;padding:0 1em}td,th{padding:.4em .8em;text-align:left;vertical-align:top;"
        "border-bottom:1px solid #ccc}</style></head><body><h1>gradembed notebooks</h1>"
        f"<p>Run in the <b>{profile}</b> profile.</p><table><tr><th>Notebook</th><th>Question</th><th>Run time</th>"
        f"<th>Result</th></tr>{rows}</table></body></html>\n"
    )


def main() -> int:
    """Run what the command line names.

    Returns:
        0 if all notebooks ran to their end.
    """
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("notebooks", nargs="*", type=Path, help="default: all of notebooks/")
    parser.add_argument("--profile", choices=("quick", "full"), default="quick")
    parser.add_argument("--out", type=Path, default=ROOT / "build")
    parser.add_argument("--in-place", action="store_true", help="write outputs back into the notebooks")
    arguments = parser.parse_args()
    paths = [path.resolve() for path in arguments.notebooks] or sorted((ROOT / "notebooks").glob("*.ipynb"))
    if sys.platform == "win32":
        asyncio.set_event_loop_policy(asyncio.WindowsSelectorEventLoopPolicy())
    results = [run(path, arguments.profile, arguments.out, in_place=arguments.in_place) for path in paths]
    write_atomically(arguments.out / "index.html", index(results, arguments.profile).encode())
    for result in results:
        print(f"{result.name}: {result.seconds:.0f} s, {'FAILED' if result.error else 'ok'}")
        if result.error:
            print(result.error, file=sys.stderr)
    print(f"pages: {(arguments.out / 'index.html').as_uri()}")
    return int(any(result.error for result in results))


if __name__ == "__main__":
    sys.exit(main())
