"""What the README tells to type works, and what it points to is there."""

import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
import torch
from torch import nn

import gradembed as ge

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "README.md").read_text()
PROSE = re.sub(r"```.*?```", "", TEXT, flags=re.DOTALL)


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)


class Reader(nn.Module):
    """Somebody's transformer: tokens and a mask in, two heads out."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(100, 16)
        self.blocks = nn.ModuleList(nn.TransformerEncoderLayer(16, 4, 32, batch_first=True) for _ in range(2))
        self.topic, self.mood = nn.Linear(16, 4), nn.Linear(16, 2)

    def forward(self, tokens, mask):
        x = self.embed(tokens)
        for block in self.blocks:
            x = block(x, src_key_padding_mask=mask)
        return {"topic": self.topic(x[:, 0]), "mood": self.mood(x[:, 0])}


def test_the_five_lines_print_what_stands_below_them(capsys):
    code, *_ = blocks("python")
    assert len([line for line in code.splitlines() if line]) == 5
    exec(compile(code, "README.md", "exec"), {})
    (expected,) = blocks("text")
    for printed, told in zip(capsys.readouterr().out.split(), expected.split(), strict=True):
        assert printed == told or abs(float(printed) - float(told)) < 0.11  # another machine rounds another way


def test_the_longer_example_runs_and_gives_what_its_comments_say(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(compile(blocks("python")[1], "README.md", "exec"), names)
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


def test_the_last_example_is_five_lines_about_any_transformer(capsys):
    assert TEXT.count("```") == 2 * sum(len(blocks(language)) for language in ("python", "console", "text"))
    _, _, code = blocks("python")
    assert len(code.splitlines()) == 5
    tokens, mask = torch.randint(100, (40, 6)), torch.arange(6) >= torch.randint(2, 7, (40, 1))
    names = {"ge": ge, "reader": Reader().eval(), "tokens": tokens, "mask": mask}
    exec(compile(code, "README.md", "exec"), names)
    assert names["result"].layers == ("embed", "blocks.0", "blocks.1")
    assert names["result"].unit_labels == (*(f"topic[{i}]" for i in range(4)), "mood[0]", "mood[1]")
    printed = capsys.readouterr().out
    assert printed.startswith("{'embed': 0.")
    # at the token that the heads read, their gradients are their weights
    weights = nn.functional.normalize(torch.cat([names["reader"].topic.weight, names["reader"].mood.weight]).detach())
    found = ge.interference(names["reader"], names["asked"], layers=names["first"]).cosine["blocks.1 [:, 0]"]
    torch.testing.assert_close(found, (weights @ weights.T).double(), rtol=0, atol=1e-6)
    assert "blocks.1 [:, 0]   mood[0]   mood[1]" in printed


@pytest.mark.skipif(not shutil.which("make"), reason="no make")
@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md"])
def test_make_knows_every_target_that_is_named(name):
    targets = set(re.findall(r"(?:^|`)make ([a-z-]+)", (ROOT / name).read_text(), re.MULTILINE))
    listed = subprocess.run(["make", "-C", ROOT, "help"], capture_output=True, text=True, check=True).stdout
    assert {"test", "check"} < targets <= set(re.findall(r"^([a-z-]+) ", listed, re.MULTILINE))
    subprocess.run(["make", "-C", ROOT, "--dry-run", *targets], capture_output=True, check=True)
    assert subprocess.run(["make", "-C", ROOT, "--dry-run", "nothing"], capture_output=True).returncode != 0


def test_the_commands_do_what_is_said_of_them():
    told = dict(re.findall(r"^make (\S+) +# (.*)$", "".join(blocks("console")), re.MULTILINE))
    assert "writes pages to build/" in told["notebooks"]
    assert "the notebooks among them" in told["test"]
    assert 'default=ROOT / "build"' in (ROOT / "scripts" / "run_notebooks.py").read_text()
    recipe = re.search(r"^test: .*\n\t(.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)[1]
    assert recipe.startswith("OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses")
    assert not re.search(r" (-m|-k|--ignore|--deselect)\b", recipe.partition("pytest")[2])  # nothing is left out


def test_links_files_and_variables_that_are_named_exist():
    links = [link.partition("#")[0] for link in re.findall(r"\]\(([^)\s]+)\)", PROSE)]
    named = re.findall(r"`((?:src|notebooks|tests|benchmarks|data|docs)(?:/[\w./-]*)?|\w+\.(?:md|txt|toml))`", PROSE)
    assert {"notebooks/01-mnist-mlp.ipynb", "src/gradembed", "NOTES.md", "constraints.txt"} <= {*links, *named}
    files = {one for one in [*links, *named] if not one.startswith("http")} - {"data/cache"}  # which the commands make
    assert [name for name in files if not (ROOT / name).exists()] == []
    sources = [path.read_text() for folder in ("src", "notebooks", "scripts") for path in (ROOT / folder).rglob("*")
               if path.suffix in (".py", ".ipynb")]  # fmt: skip
    variables = set(re.findall(r"\bGRADEMBED_\w+", TEXT))
    assert variables
    assert [name for name in variables if not any(name in source for source in sources)] == []


def test_the_python_version_is_that_of_the_package():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["requires-python"] == ">=" + re.search(r"You need Python ([\d.]+) or newer", TEXT)[1]
    assert project["license"] in TEXT.rpartition("License: ")[2]
