"""The house rules that a program can check."""

import ast
import re
import shutil
import subprocess
from pathlib import Path

import pytest

import gradembed as ge

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src" / "gradembed"
# A module imports only what stands before it in this list.
ORDER = ["_validation", "_context", "_progress", "_files", "datasets", "models", "training", "gradients",
         "interference", "monitor", "tree", "modules", "fields", "embed", "metrics", "cards", "store", "sweep", "plots",
         "report"]  # fmt: skip


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


@pytest.mark.parametrize("home", [ge, ge.datasets, ge.metrics, ge.plots], ids=lambda home: home.__name__)
def test_every_public_name_exists_and_has_a_docstring_with_an_example(home):
    assert len(home.__all__) == len(set(home.__all__))
    shown = {name: getattr(home, name) for name in home.__all__ if callable(getattr(home, name))}
    assert [name for name, thing in shown.items() if ">>>" not in (thing.__doc__ or "")] == []


def test_unknown_names_are_refused():
    with pytest.raises(AttributeError, match="module 'gradembed' has no attribute 'nothing'"):
        ge.nothing  # noqa: B018


def test_no_absolute_paths_in_the_repository():
    if not (ROOT / ".git").exists() or not shutil.which("git"):
        pytest.skip("no git, or no repository")
    listing = ["git", "-C", ROOT, "ls-files", "--cached", "-z"]
    listed = subprocess.run(listing, capture_output=True, text=True, check=True).stdout.split("\0")
    files = [ROOT / name for name in listed if name and (ROOT / name).is_file()]
    pattern = re.compile("/" + r"(work|root|home|tmp|Users)/\w")
    assert [p.name for p in files if p.suffix != ".png" and pattern.search(p.read_text(errors="ignore"))] == []


def test_modules_stay_readable():
    long = {str(path.relative_to(SOURCE)): n for path in FILES if (n := len(path.read_text().splitlines())) > 400}
    assert long == {}


def test_errors_come_from_one_place():
    """Refusals are written through _validation; no other module raises an error that it makes itself."""
    raised = [f"{module_of(path)} {node.exc.func.id}" for path in FILES if module_of(path) != "_validation"
              for node in ast.walk(ast.parse(path.read_text()))
              if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call)]  # fmt: skip
    assert raised == []
