"""The documentation: its code runs, it names every public name, its links lead somewhere, it needs no network."""

import doctest
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import gradembed as ge
from scripts.build_docs import BLOCK, groups_of_names

ROOT = Path(__file__).parent.parent
PAGES = sorted((ROOT / "docs").glob("*.md"))
GROUPS = groups_of_names((ROOT / "src" / "gradembed" / "__init__.py").read_text())
BY_NAME = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)


class Page:
    """What one page loads, and can be linked to by."""

    def __init__(self, path):
        text = path.read_text()
        self.ids, self.formulas = set(re.findall(r'\sid="([^"]+)"', text)), text.count("<math")
        self.loaded = re.findall(r'<(?:link|img|script|object|iframe)\b[^>]*\s(?:src|href|data)="([^"]+)"', text)


def build(out, source=ROOT / "docs"):
    pytest.importorskip("sphinx", reason="the documentation is built by the extra docs")
    command = [sys.executable, ROOT / "scripts" / "build_docs.py", "--source", source, "--out", out]
    return subprocess.run(command, capture_output=True, text=True, timeout=600)


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    out = tmp_path_factory.mktemp("docs")
    done = build(out)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "WARNING" not in done.stderr
    assert (out / "index.html").as_uri() in done.stdout
    return out


def test_the_groups_are_those_of_all():
    assert [name for names in GROUPS.values() for name in names] == ge.__all__
    assert all(GROUPS)
    assert "unit_gradients" in GROUPS["gradients and interference"]


@BY_NAME
def test_every_block_of_a_page_is_run(page, tmp_path):
    text = page.read_text()
    examples = doctest.DocTestParser().get_examples("\n".join(BLOCK.findall(text)))
    assert len(examples) == len(re.findall("^>>> ", text, re.MULTILINE))
    assert text.count("```python") == len(BLOCK.findall(text))


def test_the_glossary_has_the_letters_of_the_axes():
    table = ge.__doc__.split("letter meaning")[1].split("Layers are")[0]
    letters = re.findall(r"^(\w)  ", table, re.MULTILINE)
    listed = re.findall(r"^\| (\w) \|", (ROOT / "docs" / "glossary.md").read_text(), re.MULTILINE)
    assert {"n", "u", "d", "t"} <= set(letters) <= set(listed)


def test_the_pages_say_what_every_measure_of_interference_means():
    from gradembed.interference.result import MEASURES

    text = (ROOT / "docs" / "reading.md").read_text()
    assert [
        name
        for name in (*MEASURES, "chance", "excess(layer)", "output_correlation", "centered=True", "undefined")
        if f"`{name}`" not in text
    ] == []


@pytest.mark.slow
def test_every_public_name_has_an_entry(built):
    ids = set.union(*(Page(path).ids for path in (built / "api").glob("*.html")))
    homes = {"": ge, "datasets.": ge.datasets, "metrics.": ge.metrics, "plots.": ge.plots}
    names = [f"gradembed.{home}{name}" for home, module in homes.items() for name in module.__all__
             if callable(getattr(module, name))]  # fmt: skip
    assert [name for name in names if name not in ids] == []
    assert {"gradembed.Interference.to_frame", "gradembed.Site.part", "gradembed.datasets.Split"} <= ids
    assert "gradembed.nothing" not in ids


@pytest.mark.slow
def test_no_page_needs_a_network(built):
    for path in built.rglob("*.html"):
        assert [one for one in Page(path).loaded if re.match("(https?:)?//", one)] == [], path
    for path in built.rglob("*.css"):
        assert not re.search(r"(@import|url\()[^;)]*https?:", path.read_text()), path


@pytest.mark.slow
@BY_NAME
def test_every_formula_is_drawn(page, built):
    text = re.sub(r"```.*?```|`[^`\n]*`", "", page.read_text(), flags=re.DOTALL)
    blocks = re.findall(r"^\$\$\n.*?\n\$\$$", text, re.MULTILINE | re.DOTALL)
    inline = re.findall(r"\$[^$]+\$", re.sub(r"^\$\$\n.*?\n\$\$$", "", text, flags=re.MULTILINE | re.DOTALL))
    html = built / f"{page.stem}.html"
    assert Page(html).formulas == len(blocks) + len(inline)
    assert not re.search(r"merror|\\frac", html.read_text())


FLAWS = {  # what is wrong on a page: what the report of the build says of it
    "[a page](nowhere.md)": "nowhere.md",
    "[a heading](method.md#elsewhere)": "elsewhere",
    "{py:func}`gradembed.nothing`": "gradembed.nothing",
    "{py:func}`gradembed.spread`": "gradembed.spread",  # that of gradembed.metrics
    "{term}`nonsense`": "term not in glossary: 'nonsense'",
    "![a picture](missing.png)": "missing.png",
}


def failed_build(folder, text):
    """Build a page with this text and no others, and return what is reported."""
    source = folder / "docs"
    source.mkdir()
    shutil.copy(ROOT / "docs" / "conf.py", source)
    (source / "index.md").write_text(f"# A page\n\n{text}\n\n```{{toctree}}\n:hidden:\n\nmethod\napi/index\n```\n")
    (source / "method.md").write_text("# Another page\n\n## Here\n")
    done = build(folder / "out", source)
    assert done.returncode != 0
    assert not (folder / "out").exists()
    return done.stderr


@pytest.mark.slow
def test_every_flaw_of_a_page_is_reported(tmp_path):
    report = failed_build(tmp_path, "\n\n".join([*FLAWS, "$\\nothing$"])).splitlines()
    for flaw, message in FLAWS.items():
        assert [line for line in report if "WARNING" in line and "index.md" in line and message in line], flaw
    assert [line for line in report if "\\nothing" in line]


def test_a_wrong_example_ends_the_build(tmp_path):
    report = failed_build(tmp_path, "```python\n>>> x = 1\n```\n\ntext\n\n```python\n>>> x + 1\n3\n```")
    assert re.search(r"`index.md` should give what it shows\. Got:\n(.|\n)*Expected:\n    3\nGot:\n    2", report)
