"""What the README tells to type works, and what it points to is there."""

import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import matplotlib.pyplot as plt
import pytest
import torch

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "README.md").read_text()
PROSE = re.sub(r"```.*?```", "", TEXT, flags=re.DOTALL)
TARGETS = sorted(set(re.findall(r"(?:^|`)make ([a-z-]+)", TEXT, re.MULTILINE)))


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)


def test_the_python_code_runs_and_gives_what_its_comments_say(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert TEXT.count("```") == 2 * (len(blocks("python")) + len(blocks("console")))
    names = {}
    for block in blocks("python"):
        exec(compile(block, "README.md", "exec"), names)
    result, x, model = names["result"], names["x"], names["model"]
    assert result.layers == ("input", "0", "1")  # at the input and every layer between
    assert names["gradients"].shape == (len(x), 4, x.shape[1])  # [samples, outputs, features]
    one = x[:1].clone().requires_grad_()
    (expected,) = torch.autograd.grad(model(one)[0, 2], one)
    torch.testing.assert_close(names["gradients"][0, 2], expected[0])  # per sample, exact
    assert len(names["z"]) == 4  # units: the outputs
    assert all(p.grad is None and p.requires_grad for p in model.parameters())  # the model is left as it was
    printed = capsys.readouterr().out
    assert printed.startswith("tensor([[")
    assert re.search(r"layer +unit_a +unit_b +cosine +conflict\n", printed)
    assert "Do the outputs interfere?" in (tmp_path / "report.html").read_text()
    assert (tmp_path / "interference.png").stat().st_size > 1000
    plt.close("all")


@pytest.mark.skipif(not shutil.which("make"), reason="no make")
def test_make_knows_every_target():
    listed = subprocess.run(["make", "-C", ROOT, "help"], capture_output=True, text=True, check=True).stdout
    assert {"notebooks", "test", "help"} < set(TARGETS)
    assert [name for name in TARGETS if not re.search(rf"^{name} ", listed, re.MULTILINE)] == []
    for name in TARGETS:
        subprocess.run(["make", "-C", ROOT, "--dry-run", name], capture_output=True, check=True)
    assert subprocess.run(["make", "-C", ROOT, "--dry-run", "nothing"], capture_output=True).returncode != 0


def test_the_commands_do_what_is_said_of_them():
    told = dict(re.findall(r"^make (\S+) +# (.*)$", "".join(blocks("console")), re.MULTILINE))
    assert "writes pages to build/" in told["notebooks"]
    assert "the notebooks among them" in told["test"]
    assert 'default=ROOT / "build"' in (ROOT / "scripts" / "run_notebooks.py").read_text()
    assert re.search(r"^test: .*\n\t\$\(BIN\)/python -m pytest$", (ROOT / "Makefile").read_text(), re.MULTILINE)


def test_links_and_pictures_lead_somewhere():
    links = [link.partition("#")[0] for link in re.findall(r"\]\(([^)\s]+)\)", PROSE)]
    assert links
    assert [link for link in links if not re.match("https?:", link) and not (ROOT / link).exists()] == []


def test_files_and_variables_that_are_named_exist():
    named = re.findall(r"`((?:src|notebooks|tests|benchmarks|data|docs)(?:/[\w./-]*)?|\w+\.(?:md|txt|toml))`", PROSE)
    assert {"src/gradembed", "notebooks", "NOTES.md", "CHANGELOG.md", "constraints.txt"} <= set(named)
    made = {"data/cache"}  # by the commands
    assert [name for name in named if name not in made and not (ROOT / name).exists()] == []
    sources = [path.read_text() for folder in ("src", "notebooks", "scripts") for path in (ROOT / folder).rglob("*")
               if path.suffix in (".py", ".ipynb")]  # fmt: skip
    variables = set(re.findall(r"\bGRADEMBED_\w+", TEXT))
    assert variables
    assert [name for name in variables if not any(name in source for source in sources)] == []


def test_the_python_version_is_that_of_the_package():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["requires-python"] == ">=" + re.search(r"You need Python ([\d.]+) or newer", TEXT)[1]
    assert project["license"] in TEXT.rpartition("Licence: ")[2]
