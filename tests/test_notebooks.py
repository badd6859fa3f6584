"""Every notebook runs to its end in the quick profile, and what is committed comes from one clean full run."""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from scripts.run_notebooks import headline

ROOT = Path(__file__).parent.parent
SCRIPT = ROOT / "scripts" / "run_notebooks.py"
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
BY_NAME = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def code_cells(path):
    return [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]


def test_the_notebooks_are_those_that_the_readme_lists():
    listed = re.findall(r"\(notebooks/([\w-]+)\.ipynb\)", (ROOT / "README.md").read_text())
    assert sorted(set(listed)) == [path.stem for path in NOTEBOOKS] != []


@pytest.mark.slow
@BY_NAME
def test_notebook_runs_in_the_quick_profile(path, tmp_path):
    before = path.read_bytes()
    alone = {name: value for name, value in os.environ.items() if name != "GRADEMBED_DATA"} | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, SCRIPT, path, "--profile", "quick", "--out", tmp_path]
    done = subprocess.run(command, capture_output=True, text=True, env=alone, timeout=1200)
    assert done.returncode == 0, done.stdout + done.stderr
    assert path.read_bytes() == before
    page = (tmp_path / f"{path.stem}.html").read_text()
    assert "<html" in page
    assert "docs/figures" not in page  # the figure of the opening is inside the page
    assert 'alt="No description' not in page
    assert "%|" not in page  # progress bars
    assert re.search(r"<title>(.*)</title>", page)[1] not in ("", "Notebook")
    assert "Warning" not in page.replace("UserWarning: MNIST is not below", "")  # the sample stands in, and says so
    assert f'href="{path.stem}.html"' in (tmp_path / "index.html").read_text()


@pytest.mark.slow
def test_a_notebook_that_fails_is_reported_and_does_not_stop_the_next(tmp_path):
    paths = [tmp_path / "bad.ipynb", tmp_path / "good.ipynb"]
    for path, source in zip(paths, ["assert 1 == 2, 'planted'", "print(1)"], strict=True):
        title = nbformat.v4.new_markdown_cell(f"# A {path.stem} one\n\n**Question.** Why?")
        nbformat.write(nbformat.v4.new_notebook(cells=[title, nbformat.v4.new_code_cell(source)]), path)
    before = paths[0].read_bytes()
    command = [sys.executable, SCRIPT, *paths, "--out", tmp_path / "out", "--in-place"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 1
    assert re.search("bad: .* FAILED", done.stdout)
    assert "planted" in done.stderr
    assert "planted" in (tmp_path / "out" / "bad.html").read_text()
    assert paths[0].read_bytes() == before  # a failed run is not written back
    assert nbformat.read(paths[1], as_version=4).cells[1].outputs[0].text == "1\n"
    index = (tmp_path / "out" / "index.html").read_text()
    order = "A bad one.*failed.*A good one.*<strong>Question.</strong> Why[?].*ran to the end"
    assert re.search(order, index, re.DOTALL)


@BY_NAME
def test_committed_outputs_come_from_one_clean_full_run(path):
    cells = code_cells(path)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell.outputs]
    assert not [output for output in outputs if output.output_type == "error"]
    text = path.read_text()
    assert "full profile" in text
    assert "quick profile" not in str(outputs)
    assert not re.search("/" + r"(work|root|home|tmp|Users)/\w", text)
    assert "Warning" not in "".join(str(output.get("text", "")) for output in outputs)
    assert path.stat().st_size < 1_500_000


@BY_NAME
def test_the_figure_of_the_opening_is_that_of_the_committed_run(path):
    notebook = nbformat.read(path, as_version=4)
    shown = re.findall(r"!\[.+\]\((.+)\)", notebook.cells[0].source)
    figure = headline(notebook)
    assert shown == ([f"../docs/figures/{path.stem}.png"] if figure else [])
    if figure:  # three sentences beside it, then the rest when terms are defined
        assert (path.parent / shown[0]).read_bytes() == figure
        answer = re.search(r"\*\*Answer\*\* \(.*?\)\. (.*)", notebook.cells[0].source)[1]
        assert len(re.findall(r"[.?](?= [A-Z]|$)", answer)) <= 4  # "Yes: ..." may stand before
        assert any(cell.source.startswith("## The answer in detail") for cell in notebook.cells[1:])


def test_a_notebook_without_a_headline_has_no_figure():
    assert headline(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("1")])) == b""


@BY_NAME
def test_notebooks_follow_the_house_outline(path):
    cells, code = nbformat.read(path, as_version=4).cells, code_cells(path)
    assert cells[0].source.startswith("# ")
    assert "**Question.**" in cells[0].source
    assert "**Answer**" in cells[0].source
    assert "GRADEMBED_PROFILE" in code[0].source
    assert cells[-1].cell_type == "code"
    assert "assert " in cells[-1].source
    program = "\n".join(line for cell in code for line in cell.source.splitlines() if not line.startswith("%"))
    for node in ast.walk(ast.parse(program)):  # they import, they do not define
        assert not isinstance(node, ast.ClassDef)
        assert not isinstance(node, ast.FunctionDef) or node.end_lineno - node.lineno < 10, node.name
