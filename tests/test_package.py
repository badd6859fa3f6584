"""The package: its version, what it depends on, what is in it, and that it works where it is installed."""

import itertools
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

import gradembed as ge

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_the_citation_is_valid_and_of_this_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert {"cff-version", "message", "title", "authors", "version", "license"} <= citation.keys()
    assert citation["cff-version"] == "1.2.0"
    same = {"title": "name", "version": "version", "license": "license"}
    assert {key: citation[key] for key in same} == {key: PROJECT[name] for key, name in same.items()}
    assert [author["name"] for author in citation["authors"]] == [author["name"] for author in PROJECT["authors"]]


def test_the_change_log_begins_with_this_version_and_its_migration_notes_hold():
    text = (ROOT / "CHANGELOG.md").read_text()
    versions = re.findall(r"^## \[(\S+)\]", text, re.M)
    assert versions[0] == PROJECT["version"]
    rows = [row.split(" | ") for row in re.findall(r"^\| (`.*) \|$", text, re.M)]
    moved = {
        home: re.findall(r"`ge\.(\w+)`", row[0]) for row in rows for home in re.findall(r"same in `ge\.(\w+)`", row[1])
    }
    assert {home: len(names) for home, names in moved.items()} == {"datasets": 8, "metrics": 10}
    assert [name for home, names in moved.items() for name in names if not hasattr(getattr(ge, home), name)] == []
    assert [name for names in moved.values() for name in names if hasattr(ge, name)] == []
    words = {
        old: new for row in rows for old, new in zip(*(re.findall(r"\.(\w+)`", cell) for cell in row[:2]), strict=False)
    }
    for old, new, home in [("normalised", "normalized", ge.GradientFields), ("interferers", "aligned", ge.UnitCard)]:
        fields = {*dir(home), *home.__dataclass_fields__}
        assert words[old] == new in fields
        assert old not in fields
    ge.FieldDescriptor("linear", n_features=512, origin=False)  # the old choices, as the table writes them


def test_every_dependency_has_one_lower_bound_and_an_exact_version_above_it():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    exact = dict(line.split("==") for line in lines if not line.startswith("#"))
    extras = PROJECT["optional-dependencies"]
    others = {Requirement(line).name for name in ("lightning", "transformers") for line in extras[name]}
    for one in map(Requirement, [*PROJECT["dependencies"], *itertools.chain(*extras.values())]):
        if one.name != PROJECT["name"]:
            assert [part.operator for part in one.specifier] == [">="], one  # a lower bound, no upper one
            assert one.name in others or one.specifier.contains(exact[one.name]), one  # trainers are not installed here


def run(*command):
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def distributions(tmp_path_factory):
    """A wheel, built from a source distribution, built from a copy of the sources."""
    source, out = tmp_path_factory.mktemp("source") / "copy", tmp_path_factory.mktemp("dist")
    kept = {"src", "pyproject.toml", "README.md", "LICENSE", "MANIFEST.in", "tests", "docs"}

    def ignored(folder, names):
        return [name for name in names if name.endswith((".egg-info", "__pycache__"))
                or (folder == str(ROOT) and name not in kept)]  # fmt: skip

    shutil.copytree(ROOT, source, ignore=ignored)
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", out, source)
    return next(out.glob("*.whl")), next(out.glob("*.tar.gz"))


@pytest.mark.slow
def test_the_distributions_hold_the_library_and_nothing_else(distributions):
    wheel, archive = distributions
    assert wheel.name == f"gradembed-{PROJECT['version']}-py3-none-any.whl"
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names} == {"gradembed", f"gradembed-{PROJECT['version']}.dist-info"}
    library = ROOT / "src" / "gradembed"
    files = {
        path.relative_to(ROOT / "src").as_posix() for path in library.rglob("*") if "__pycache__" not in path.parts
    }
    assert {name for name in names if name.startswith("gradembed/")} == {file for file in files if "." in file}
    assert {"gradembed/py.typed", "gradembed/report/page.html.j2", "gradembed/report/atlas.js"} <= set(names)
    assert any(name.endswith("licenses/LICENSE") for name in names)
    with tarfile.open(archive) as packed:
        sources = {name.partition("/")[2] for name in packed.getnames()}
    assert {"pyproject.toml", "README.md", "LICENSE", *(f"src/{name}" for name in files)} <= sources
    assert not [name for name in sources if name.split("/")[0] in ("tests", "notebooks", "data", "build")]


@pytest.mark.slow
def test_the_wheel_works_in_a_clean_environment(distributions, tmp_path):
    wheel, _ = distributions
    home = tmp_path / "environment"
    venv.create(home, with_pip=False, symlinks=True)
    python = home / ("Scripts" if sys.platform == "win32" else "bin") / "python"
    site = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip())
    command = ["install", "--quiet", "--no-deps", "--no-index", "--disable-pip-version-check", wheel]
    run(sys.executable, "-m", "pip", "--python", python, *command)
    alone = subprocess.run([python, "-c", "import torch"], capture_output=True)
    assert alone.returncode != 0  # clean: what the library needs is seen from here on only
    # As a line of a .pth file: the folder is on the path, but editable installs in it are not followed.
    (site / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n")
    # samples that are fixed: of random ones, some leave zero gradients out
    program = "import torch, gradembed as ge; x = torch.linspace(0.1, 1, 200).reshape(50, 4); "
    program += "print(ge.interference(ge.MLP([4, 8, 3], seed=0), x)); print(ge.__version__); print(ge.__file__)"
    shown, version, file = run(python, "-I", "-W", "error", "-c", program).splitlines()
    assert shown == "Interference(3 units of 'output', layers ['input', 'hidden1'], 50 samples)"
    assert version == PROJECT["version"]
    assert site in Path(file).parents
    assert site not in Path(ge.__file__).parents
