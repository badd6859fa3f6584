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
from jinja2 import Environment
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from nbconvert import HTMLExporter
from nbconvert.filters import markdown2html
from tqdm import tqdm

from gradembed._files import write_atomically

ROOT = Path(__file__).resolve().parent.parent
FIGURES = ROOT / "docs" / "figures"  # of the committed runs, one per notebook: its opening and the README show it
CELL_LIMIT = 3600  # seconds


@dataclass(frozen=True)
class Result:
    """How one notebook went."""

    name: str
    title: str
    opening: tuple[str, str]  # question and answer
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


def without_bars(cell: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    """Return the outputs of a cell less its progress bars."""
    kept = []
    for output in cell.get("outputs", ()):
        if output.get("name") == "stderr":
            output.text = "".join(line for line in output.text.splitlines(keepends=True) if "%|" not in line)
        if output.get("text") != "":
            kept.append(output)
    return kept


def page_of(notebook: nbformat.NotebookNode, title: str) -> str:
    """Return a notebook as HTML, each figure described by the heading that it stands under."""
    heading, headings = title, []
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            heading = (re.findall(r"^#+ (.*)", cell.source, re.M) or [heading])[-1]
        headings += [heading for output in cell.get("outputs", ()) if "image/png" in output.get("data", {})]
    exporter = HTMLExporter(mathjax_url="", require_js_url="", jquery_url="")
    page, _ = exporter.from_notebook_node(notebook, resources={"metadata": {"name": title}})
    described = iter(headings)
    return re.sub('alt="No description[^"]*"', lambda _: f'alt="Figure: {html.escape(next(described))}"', page)


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
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = without_bars(cell)
    committed = FIGURES / f"{path.stem}.png"
    if in_place and not error:
        write_atomically(path, (nbformat.writes(notebook).rstrip() + "\n").encode())
        if profile == "full" and (figure := headline(notebook)):
            write_atomically(committed, figure)
    lines = [line for cell in notebook.cells if cell.cell_type == "markdown" for line in cell.source.splitlines()]
    title = next((line[2:] for line in lines if line.startswith("# ")), path.stem)
    question, answer = (next((line for line in lines if line.startswith(f"**{word}**")), "")
                        for word in ("Question.", "Answer"))  # fmt: skip
    page = page_of(notebook, title)
    if committed.exists():
        inside = f"data:image/png;base64,{base64.b64encode(committed.read_bytes()).decode()}"
        page = page.replace(f"../docs/figures/{committed.name}", inside)
    write_atomically(out / f"{path.stem}.html", page.encode())
    return Result(path.stem, title, (question, answer), time.perf_counter() - start, error)


ENVIRONMENT = Environment(autoescape=True)
ENVIRONMENT.filters["markdown2html"] = markdown2html
INDEX = ENVIRONMENT.from_string("""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>gradembed notebooks</title>
<style>:root{color-scheme:light dark}body{font:16px/1.5 sans-serif;max-width:50em;margin:2em auto;padding:0 1em;
overflow-wrap:anywhere}</style>
</head>
<body>
<h1>gradembed notebooks</h1>
<p>Run in the <b>{{ profile }}</b> profile. The answers are those of the committed full runs.</p>
{%- for one in results %}
<h2><a href="{{ one.name }}.html">{{ one.title }}</a></h2>
{% for part in one.opening %}{{ part | markdown2html | safe }}{% endfor %}
<p>{{ "failed" if one.error else "ran to the end" }} in {{ one.seconds | round | int }} s</p>
{%- endfor %}
{%- if reports %}
<h2>Pages that notebook 06 wrote with <code>ge.report</code></h2>
<ul>{% for one in reports %}<li><a href="reports/{{ one }}">{{ one }}</a></li>{% endfor %}</ul>
{%- endif %}
</body>
</html>
""")


def index(results: list[Result], profile: str, out: Path) -> str:
    """Write the page that lists the notebooks.

    Args:
        results: How each went.
        profile: In which profile.
        out: Folder of the pages.

    Returns:
        HTML.
    """
    reports = sorted(path.name for path in (out / "reports").glob("*.html"))
    return INDEX.render(results=results, profile=profile, reports=reports) + "\n"


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
    write_atomically(arguments.out / "index.html", index(results, arguments.profile, arguments.out).encode())
    for result in results:
        print(f"{result.name}: {result.seconds:.0f} s, {'FAILED' if result.error else 'ok'}")
        if result.error:
            print(result.error, file=sys.stderr)
    print(f"pages: {(arguments.out / 'index.html').as_uri()}")
    return int(any(result.error for result in results))


if __name__ == "__main__":
    sys.exit(main())
