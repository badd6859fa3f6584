"""Build the documentation: run the code of its pages, write a page for every group of public names, make HTML.

The code blocks of a page are one program: they are run as docstring examples are, in a folder where the figures that
they save stand beside the page. An example that fails, a name or link that does not exist, and every warning end
the build with exit status 1. Nothing is fetched from a network.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import doctest
import io
import os
import re
import shutil
import sys
import tempfile
import tokenize
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parent.parent
FLAGS = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def groups_of_names(source: str) -> dict[str, list[str]]:
    """Read ``__all__`` with the comments that head its groups.

    Args:
        source: Of the package's first module.

    Returns:
        Names by group, in their order.
    """
    found = [node for node in ast.parse(source).body if isinstance(node, ast.Assign)]
    listed = next(n for n in found if isinstance(n.targets[0], ast.Name) and n.targets[0].id == "__all__")
    groups: dict[str, list[str]] = {}
    heading = ""
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if not listed.lineno <= token.start[0] < (listed.end_lineno or 0):
            continue
        if token.type == tokenize.COMMENT:
            heading = token.string.lstrip("# ").strip()
        elif token.type == tokenize.STRING:
            groups.setdefault(heading, []).append(ast.literal_eval(token.string))
    return groups


def write_api(folder: Path, groups: dict[str, list[str]]) -> None:
    """Write a page for each group and for each module in one, and one that lists them.

    Args:
        folder: Where.
        groups: Names by group.
    """
    import gradembed

    folder.mkdir(parents=True)
    pages: dict[str, list[str]] = {}
    for heading, names in groups.items():
        modules = [thing for name in names if isinstance(thing := getattr(gradembed, name), ModuleType)]
        pages |= {module.__name__: [f".. automodule:: {module.__name__}", "   :no-members:", "",
                                    *_entries(module, module.__all__)] for module in modules}  # fmt: skip
        if len(modules) < len(names):
            pages[heading[0].upper() + heading[1:]] = _entries(gradembed, names)
    title, files = "Public names", {page: re.sub(r"\W+", "-", page).lower() for page in pages}
    pages[title] = ["Made from the docstrings, every example of which is run by the tests.", "", ".. toctree::",
                    "   :maxdepth: 2", "", *(f"   {file}" for file in files.values())]  # fmt: skip
    for page, lines in pages.items():
        (folder / f"{files.get(page, 'index')}.rst").write_text("\n".join([page, "=" * len(page), "", *lines, ""]))


def _entries(module: ModuleType, names: list[str]) -> list[str]:
    """Return lines that ask Sphinx for the documentation of a module's functions and classes."""
    kinds = {name: "class" if isinstance(getattr(module, name), type) else "function" for name in names}
    shown = [name for name in names if callable(getattr(module, name))]
    heads = {
        name: [name, "-" * len(name), "", f".. auto{kinds[name]}:: {module.__name__}.{name}", ""] for name in shown
    }
    return [line for lines in heads.values() for line in lines]


def run_page(page: Path, folder: Path) -> int:
    """Run the code of one page.

    Args:
        page: The page.
        folder: Where it runs, and where its figures go.

    Returns:
        The number of examples.

    Raises:
        RuntimeError: If one of them fails.
    """
    text = page.read_text()
    code = "\n".join(match.group(1) for match in BLOCK.finditer(text))
    report = io.StringIO()
    runner = doctest.DocTestRunner(optionflags=FLAGS)
    with contextlib.chdir(folder):
        runner.run(doctest.DocTestParser().get_doctest(code, {}, page.name, page.name, 0), out=report.write)
    if runner.failures:
        raise RuntimeError(f"`{page.name}` should give what it shows. Got:\n{report.getvalue()}")
    return runner.tries


def build(source: Path, out: Path, groups: dict[str, list[str]]) -> int:
    """Build all pages.

    Args:
        source: Folder of the pages.
        out: Folder of the HTML, which is replaced.
        groups: Public names by group.

    Returns:
        Exit status.
    """
    from sphinx.cmd.build import build_main

    os.environ.setdefault("MPLBACKEND", "agg")
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary) / "docs"
        shutil.copytree(source, work, ignore=shutil.ignore_patterns("__pycache__"))
        for page in sorted(work.glob("*.md")):
            run_page(page, work)
        write_api(work / "api", groups)
        made = Path(temporary) / "html"
        status = build_main(
            ["-q", "-W", "--keep-going", "-b", "html", "-d", f"{temporary}/trees", str(work), str(made)]
        )
        if status == 0:
            shutil.rmtree(out, ignore_errors=True)
            shutil.copytree(made, out, ignore=shutil.ignore_patterns(".buildinfo", "objects.inv"))
    return int(status)


def main() -> int:
    """Build what the command line names.

    Returns:
        Exit status.
    """
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--source", type=Path, default=ROOT / "docs")
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "docs")
    arguments = parser.parse_args()
    groups = groups_of_names((ROOT / "src" / "gradembed" / "__init__.py").read_text())
    try:
        status = build(arguments.source, arguments.out, groups)
    except RuntimeError as error:
        print(error, file=sys.stderr)
        return 1
    if status == 0:
        print(f"documentation: {(arguments.out / 'index.html').resolve().as_uri()}")
    return status


if __name__ == "__main__":
    sys.exit(main())
