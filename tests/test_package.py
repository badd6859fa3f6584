"""The package: its version, what it depends on, what is in it, and that it works where it is installed."""

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
from scripts import lowest_versions

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]


def test_the_version_is_a_release():
    assert re.fullmatch(r"\d+\.\d+\.\d+", PROJECT["version"])


def test_the_citation_is_valid_and_of_this_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert {"cff-version", "message", "title", "authors", "version", "license"} <= citation.keys()
    assert citation["cff-version"] == "1.2.0"
    assert citation["version"] == PROJECT["version"]
    assert citation["title"] == PROJECT["name"]
    assert citation["license"] == PROJECT["license"]
    assert [author["name"] for author in citation["authors"]] == [author["name"] for author in PROJECT["authors"]]


def test_every_dependency_has_one_lower_bound_and_no_upper_one():
    for one in [*PROJECT["dependencies"], *(one for extra in EXTRAS.values() for one in extra)]:
        requirement = Requirement(one)
        bounds = [part.operator for part in requirement.specifier]
        assert bounds == ([] if requirement.name == PROJECT["name"] else [">="]), one


def test_every_dependency_has_an_exact_version_that_is_in_range():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    exact = dict(line.split("==") for line in lines if not line.startswith("#"))
    for one in map(Requirement, [*PROJECT["dependencies"], *(one for extra in EXTRAS.values() for one in extra)]):
        if one.name != PROJECT["name"]:
            assert one.specifier.contains(exact[one.name]), one


def test_lowest_versions_are_the_lower_bounds():
    found = lowest_versions.lowest(["tests"], ["torch", "torchvision"])
    assert {one.replace("==", ">=") for one in found} <= {*PROJECT["dependencies"], *EXTRAS["tests"]}
    assert not [one for one in found if one.startswith("torch")]
    assert [one for one in found if one.startswith("pytest==")]
    assert len(found) == len(PROJECT["dependencies"]) - 2 + len(EXTRAS["tests"])
    assert len(lowest_versions.lowest([], [])) == len(PROJECT["dependencies"])


def test_a_dependency_without_a_lower_bound_is_refused(tmp_path, monkeypatch):
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "x"\ndependencies = ["numpy<3"]\n')
    monkeypatch.setattr(lowest_versions, "ROOT", tmp_path)
    with pytest.raises(ValueError, match=r"`numpy` should have one lower bound\. Got 'numpy<3'\. Write name>=x\.y\."):
        lowest_versions.lowest([], [])


def run(*command, cwd=None):
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=600, cwd=cwd)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def distributions(tmp_path_factory):
    """A wheel, built from a source distribution, built from a copy of the sources."""
    source, out = tmp_path_factory.mktemp("source") / "copy", tmp_path_factory.mktemp("dist")
    left_out = [".git", ".*", "build", "dist", "data", "__pycache__", "*.egg-info"]
    keep_data = ROOT / "src" / "gradembed"

    def ignored(folder, names):
        inside = keep_data in (Path(folder), *Path(folder).parents)
        return shutil.ignore_patterns(*(["__pycache__"] if inside else left_out))(folder, names)

    shutil.copytree(ROOT, source, ignore=ignored)
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", out, source)
    return next(out.glob("*.whl")), next(out.glob("*.tar.gz"))


@pytest.mark.slow
def test_the_wheel_holds_the_library_and_nothing_else(distributions):
    wheel, _ = distributions
    assert wheel.name == f"gradembed-{PROJECT['version']}-py3-none-any.whl"
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names} == {"gradembed", f"gradembed-{PROJECT['version']}.dist-info"}
    sources = {f"gradembed/{path.relative_to(ROOT / 'src' / 'gradembed').as_posix()}" for path in sources_of_library()}
    assert {name for name in names if name.startswith("gradembed/")} == sources | {"gradembed/py.typed"}
    assert any(name.endswith("licenses/LICENSE") for name in names)


def sources_of_library():
    return (ROOT / "src" / "gradembed").rglob("*.py")


@pytest.mark.slow
def test_the_source_distribution_can_be_built_from(distributions):
    _, archive = distributions
    with tarfile.open(archive) as files:
        names = {name.partition("/")[2] for name in files.getnames()}
    assert {"pyproject.toml", "README.md", "LICENSE", "src/gradembed/py.typed", "src/gradembed/data/_mnist.py"} <= names
    assert not [name for name in names if name.split("/")[0] in ("tests", "notebooks", "data", "build")]


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
    program = (
        "import torch, gradembed as ge\n"
        "print(ge.interference(ge.MLP([4, 8, 3], seed=0), torch.randn(50, 4)))\n"
        "print(ge.__version__)\n"
        "print(ge.__file__)\n"
    )
    shown, version, file = run(python, "-W", "error", "-c", program, cwd=tmp_path).splitlines()
    assert shown == "Interference(3 units of 'output', layers ['input', 'hidden1'], 50 samples)"
    assert version == PROJECT["version"]
    assert site in Path(file).parents
    assert site not in Path(ge.__file__).parents
