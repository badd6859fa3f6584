"""The house rules that a program can check."""

import ast
import inspect
import re
import shutil
import subprocess
from pathlib import Path

import pytest

import gradembed as ge

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src" / "gradembed"
# A module imports only what stands before it in this list.
ORDER = ["_validation", "_context", "_progress", "_files", "_signs", "datasets", "models", "training", "gradients", "interference",
         "tree", "modules", "fields", "embed", "metrics", "cards", "store", "sweep", "plots", "report"]  # fmt: skip


def module_of(path):
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def imports_of(path):
    """Names of the library's modules that a file imports (type-checking blocks too)."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "gradembed":
            parts = node.module.split(".")
            yield from [parts[1]] if len(parts) > 1 else [alias.name for alias in node.names]


FILES = sorted(path for path in SOURCE.rglob("*.py") if path.parent != SOURCE or path.name != "__init__.py")


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_imports_point_one_way(path):
    allowed = ORDER[: ORDER.index(module_of(path)) + 1]
    assert [name for name in imports_of(path) if name not in allowed] == []


def test_only_plots_imports_matplotlib():
    users = {module_of(path) for path in FILES if re.search(r"^\s*(import|from) matplotlib", path.read_text(), re.M)}
    assert users == {"plots"}


def test_importing_the_library_does_not_import_matplotlib(run_python):
    assert run_python("import sys, gradembed; print('matplotlib' in sys.modules)").strip() == "False"


def test_every_public_name_exists_and_has_a_docstring_with_an_example():
    for name in ge.__all__:
        thing = getattr(ge, name)
        assert thing.__doc__, name
        assert ">>>" in thing.__doc__ or inspect.ismodule(thing), name


def test_unknown_names_are_refused():
    with pytest.raises(AttributeError, match="module 'gradembed' has no attribute 'nothing'"):
        ge.nothing  # noqa: B018


def tracked_files():
    names = [".gitignore", "CHANGELOG.md", "CITATION.cff", "CONTRIBUTING.md", "LICENSE", "MANIFEST.in", "Makefile",
             "NOTES.md", "README.md", "constraints.txt", "data/README.md", "pyproject.toml"]  # fmt: skip
    folders = [".ci", "benchmarks", "docs", "notebooks", "scripts", "src", "tests"]
    nested = [path for folder in folders for path in (ROOT / folder).rglob("*") if path.is_file()]
    return [ROOT / name for name in names] + [
        p for p in nested if "__pycache__" not in p.parts and "egg-info" not in str(p)
    ]


def test_every_tracked_file_is_looked_at():
    listing = ["git", "-C", ROOT, "ls-files", "--cached", "-z"]
    if not (ROOT / ".git").exists() or not shutil.which("git"):
        pytest.skip("no git, or no repository")
    listed = subprocess.run(listing, capture_output=True, text=True, check=True).stdout.split("\0")
    present = {ROOT / name for name in listed if name and (ROOT / name).is_file()}
    assert present - set(tracked_files()) == set()


def test_no_absolute_paths_in_the_repository():
    pattern = re.compile("/" + r"(work|root|home|tmp|Users)/\w")
    found = [p.name for p in tracked_files() if p.suffix != ".png" and pattern.search(p.read_text(errors="ignore"))]
    assert found == []


def test_modules_stay_readable():
    long = {str(path.relative_to(SOURCE)): n for path in FILES if (n := len(path.read_text().splitlines())) > 400}
    assert long == {}


def test_errors_come_from_one_place():
    """Refusals in the house grammar are written through _validation; what else is raised is listed here."""
    raised = {}
    for path in FILES:
        if module_of(path) != "_validation":
            nodes = [n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Raise) and n.exc]
            raised |= (
                {module_of(path): sorted(n.exc.func.id for n in nodes if isinstance(n.exc, ast.Call))} if nodes else {}
            )
    assert raised == {
        "datasets": ["OSError"],
        "store": ["ValueError", "ValueError"],
        "training": ["FloatingPointError"],
    }
