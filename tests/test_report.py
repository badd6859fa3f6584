"""The report: its numbers are those of the functions behind it, it stands alone, it refuses, a browser can read it."""

import io
import re
from collections import OrderedDict
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from _asserts import unchanged
from _browser import browser, needs_chromium
from _networks import BatchMean, Convolutional, Residual, crossing
from _zoo import CASES
from torch import nn

import gradembed as ge
from gradembed.report import _sections

QUICK = {"n_bootstrap": 20, "n_cards": 1, "max_units": 4}
BRIEF = {"n_bootstrap": 0, "n_cards": 0, "max_units": 4}  # where only words are looked at
UPPER = np.triu_indices(3, 1)


class Page:
    """Its words, its tables by name, its pictures, and every tag with its attributes."""

    def __init__(self, path):
        self.path, self.text, self.tags = path, path.read_text(), []
        parser = HTMLParser()
        parser.handle_starttag = lambda tag, given: self.tags.append((tag, dict(given)))
        parser.feed(self.text)
        self.words = unescape(" ".join(self.text.split()))
        self.images = [given for tag, given in self.tags if tag == "img"]
        self.tables = {}
        for name, body in re.findall(r'<table aria-label="(.*?)">(.*?)</table>', self.text, re.DOTALL):
            rows = [re.findall(r"<t[hd]\b[^>]*>(.*?)</t[hd]>", row, re.DOTALL) for row in body.split("</tr>")[:-1]]
            head, *rest = [[unescape(re.sub(r"<[^>]*>", "", cell)) for cell in row] for row in rows]
            self.tables[unescape(name)] = [dict(zip(head, row, strict=True)) for row in rest]


def value(cell):
    return float(cell.split(" ")[0].replace("−", "-"))


def near(cell, true, digits=3):
    return value(cell) == pytest.approx(float(true), abs=0.501 * 10**-digits)


def draw(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@pytest.fixture
def undrawn(monkeypatch):
    """Figures cost most of a report's time; where they are not looked at, a blank one stands for each."""
    blank = io.BytesIO()
    plt.imsave(blank, np.zeros((3, 3)), format="png")
    monkeypatch.setattr(_sections, "pictures", lambda _, sizes: [blank.getvalue()] * len(sizes))


X, Y, SHARED = draw(40, 4), torch.arange(40) % 3, ge.MLP([4, 6, 6, 3], seed=5)
MODELS = {
    "convolutional": lambda: (Convolutional().eval(), draw(40, 1, 4, 4)),
    "residual": lambda: (Residual(), X),
    "plain": lambda: (SHARED, X),
}


@pytest.fixture
def make(tmp_path):
    """Write a report; of the shared network, where nothing else is said."""

    def made(model=SHARED, x=X, y=None, name="report.html", **options):
        return Page(ge.report(model, x, y, tmp_path / name, **(QUICK | options)))

    return made


@pytest.fixture(scope="module")
def full(tmp_path_factory):
    """A report with everything in it, and what it was made from."""
    networks = [ge.MLP([4, 6, 6, 3], seed=seed) for seed in (5, 6, 7)]
    names = ["<b>one</b>", "two $x$ & $", "three"]
    options = {"others": networks[1:], "names": names, "n_bootstrap": 50, "n_untrained": 2, "n_cards": 1}
    page = Page(ge.report(networks[0], X, Y, tmp_path_factory.mktemp("report") / "full.html", **options))
    return SimpleNamespace(page=page, networks=networks, names=names)


# numbers


def test_pairs_are_those_of_interference(full):
    frame = ge.interference(full.networks[0], X, n_bootstrap=50, n_untrained=2).to_frame()
    rows = full.page.tables["All pairs"]
    assert len(rows) == len(frame) == 9
    columns = {"mean cosine": "cosine", "low": "cosine_low", "high": "cosine_high", "mean |cosine|": "abs_cosine"}
    columns |= {"in conflict": "conflict", "untrained cosine": "untrained_cosine", "samples": "n_pairs"}
    for row, true in zip(rows, frame.to_dict("records"), strict=True):
        called = [full.names[int(true[unit])] for unit in ("unit_a", "unit_b")]
        assert [row["layer"], row["output"], row["and output"]] == [true["layer"], *called]
        assert all(near(row[shown], true[column]) for shown, column in columns.items())
        assert value(row["norm"]) == pytest.approx(true["norm_a"], rel=5.01e-3)


def test_layers_have_means_over_pairs_chance_control_and_range(full):
    results = [ge.interference(network, X) for network in full.networks]
    copies = [ge.interference(ge.untrained(full.networks[0], seed), X) for seed in (0, 1)]
    labels = {"cosine": "mean cosine", "abs_cosine": "mean |cosine|", "conflict": "in conflict"}
    beside = full.page.tables["Gradients by layer"]
    for row, other in zip(full.page.tables["Interference by layer"], beside, strict=True):
        layer, row = row["layer"], row | other
        for matrices, label in labels.items():
            means = [getattr(result, matrices)[layer].numpy()[UPPER].mean() for result in (*results, *copies)]
            assert near(row[label], means[0])
            assert near(row[f"untrained {label}"], np.mean(means[3:]))
            if matrices == "abs_cosine":
                low, high = row["mean |cosine|, all networks"].split(" to ")
                assert near(low, min(means[:3]))
                assert near(high, max(means[:3]))
        assert near(row["chance"], results[0].chance[layer])
        assert near(row["beyond chance"], results[0].excess(layer)[0])
        patterns = np.corrcoef([result.cosine[layer].numpy()[UPPER] for result in results])
        assert near(row["agreement"], patterns[UPPER].mean())
        low, high = re.search(r"\[(.*), (.*)\]", row["mean cosine"]).groups()
        assert value(low) <= value(row["mean cosine"]) <= value(high)
    for row in full.page.tables["Gradients by layer"]:
        result, layer = results[0], row["layer"]
        assert value(row["norm"]) == pytest.approx(float(result.norm[layer].mean()), rel=5.01e-3)
        assert near(row["no gradient"], int(result.undefined[layer].sum()) / 120)


def test_nodes_are_those_of_the_tree(full):
    tree = ge.gradient_tree(full.networks[0], X)
    for row in full.page.tables["Nodes by layer"]:
        counts = tree.counts[row["layer"]]
        assert int(row["nodes"]) == len(counts)
        assert near(row["share of the largest"], int(counts.max()) / 40)
        assert near(row["samples alone"], int((counts == 1).sum()) / 120)
    largest, rows = tree.largest("hidden1", 10), full.page.tables["Largest subtrees"]
    assert [int(row["node"]) for row in rows] == largest["node"].tolist()
    assert [row["output"] for row in rows] == [full.names[int(root)] for root in largest["root"]]
    for row in rows:
        members = Y[(tree.nodes["hidden1"] == int(row["node"])).any(0)]
        shares = [float((members == k).double().mean()) for k in range(3)]
        assert near(row["its share"], max(shares))
        assert shares[full.names.index(row["most frequent class"])] == max(shares)


def test_twins_are_the_nearest_units_of_other_networks(full):
    parts, called = [], []
    for i, network in enumerate(full.networks):
        parts += [ge.gradient_fields(network, X, unit_layer="hidden2"), ge.gradient_fields(network, X)]
        called += [f"hidden2[{j}], net {i}" for j in range(6)] + [f"output {name}, net {i}" for name in full.names]
    fields = ge.GradientFields.concatenate(parts)
    alive = fields.amplitudes() > 0
    rows = fields[alive].normalized()
    kept = [name for name, one in zip(called, alive, strict=True) if one]
    flat = rows.gradients.flatten(1)  # of functions with a common input: gradients as they are
    elsewhere = [j for j, name in enumerate(kept) if not name.endswith("net 0")]
    shown = full.page.tables["Functional twins"]
    assert len(shown) == min(15, len(kept) - len(elsewhere))
    for row in shown:
        i = kept.index(row["unit"])
        distances = (flat[elsewhere] - flat[i]).norm(dim=1)
        j = elsewhere[int(distances.argmin())]
        assert kept[j] == row["nearest unit"]
        assert near(row["correlation of values"], np.corrcoef(rows.values[[i, j]].numpy())[0, 1], 2)
        scale = value(row["distance"]) / float(distances.min())
        assert value(row["median distance"]) == pytest.approx(scale * float(np.median(distances)), rel=0.01)
    assert [value(row["distance"]) for row in shown] == sorted(value(row["distance"]) for row in shown)


def test_one_network_has_twins_and_aligned_units_of_its_own(make, undrawn):
    page = make(y=Y, n_untrained=1, max_units=6)
    for row in (twins := page.tables["Functional twins"]):
        assert row["nearest unit"] in {one["unit"] for one in twins} - {row["unit"]}
        assert value(row["nearest in an untrained copy"]) > 0
    for words in ("Aligned units: ", "One network only", "every number below is a fact about this network"):
        assert words in page.words


def in_two(z):
    return {"a": z[:, :1], "b": z[:, 1:]}


FOUR, X30 = ge.MLP([4, 6, 4], seed=0), draw(30, 4)
OUT = FOUR(X30).detach()
VALUES = OUT + draw(30, 4, seed=1)
R2 = float((1 - (VALUES - OUT).square().sum(0) / (VALUES - VALUES.mean(0)).square().sum(0)).mean())
WRONG = torch.arange(30) < 6
PAIRS = OUT.reshape(30, 2, 2).argmax(2)
SCORES = {
    "classes": ((OUT.argmax(1) + WRONG) % 4, None, "Accuracy at these samples: 0.800 (always naming the most frequent"),
    "blocks": (torch.stack([PAIRS[:, 0] ^ WRONG, PAIRS[:, 1]], 1), None, "Accuracy at these samples: 0.900"),
    "heads": (torch.stack([WRONG * 0, (OUT[:, 1:].argmax(1) + WRONG) % 3], 1), lambda model, x: in_two(model(x)),
              "Accuracy at these samples: 0.900"),
    "values": (VALUES, None, f"R² at these samples: {R2:.3f} (always naming the mean: 0.000)".replace("-", "−")),
    "none": (None, None, "No targets were given"),
}  # fmt: skip


@pytest.mark.parametrize(("y", "forward", "expected"), SCORES.values(), ids=SCORES)
def test_the_score_is_that_of_the_targets(y, forward, expected, make, undrawn):
    words = make(FOUR, X30, y, forward=forward, **BRIEF).words
    assert expected in words
    if "frequent" in expected:
        assert f"frequent class: {int(y.bincount().max()) / 30:.3f})" in words


def test_modules_and_settings_are_listed(make, undrawn):
    model, x = MODELS["convolutional"]()
    tables = make(model, x, seed=7, embedder=ge.FieldDescriptor("orthogonal")).tables
    modules = {row["module"]: list(row.values()) for row in tables["Modules"]}
    assert list(modules) == ["conv", "norm", "pool", "head"]
    assert modules["conv"] == ["conv", "Conv2d", "2 × 4 × 4", "20"]
    settings = {row["setting"]: row["value"] for row in tables["Settings"]}
    assert settings.items() >= {"seed": "7", "n_bootstrap": "20", "units": "0, 1, 2"}.items()
    assert "FieldDescriptor" in settings["embedder"]
    versions = {row["package"]: row["version"] for row in tables["Versions"]}
    assert (versions["torch"], versions["gradembed"]) == (torch.__version__, ge.__version__)


# what a model is asked with, and what it returns


def test_tokens_by_name_have_every_section_but_the_embedding(make, undrawn):
    model, tokens = CASES["encoder"].made()
    asked = {key: part[torch.arange(30) % 3] for key, part in tokens.items()}
    page = make(model, asked, torch.arange(30) % 3, tolerance=0.1, layers=[ge.Site("blocks.*", index=(slice(None), 0))])
    assert [row["layer"] for row in page.tables["Interference by layer"]] == ["blocks.0 [:, 0]", "blocks.1 [:, 0]"]
    said = "30 with 'input_ids' of shape 3 (int64, on cpu) and 'attention_mask' of shape 3 (int64, on cpu)."
    assert said in page.words
    assert "This model is asked with int64 'input_ids', int64 'attention_mask'." in page.words
    assert {"All pairs", "Nodes by layer"} < set(page.tables)
    assert "Functional twins" not in page.tables
    batches = list(asked["input_ids"].split(7))
    assert "Samples: 30 of shape 3 (int64, on cpu)." in make(model, batches, tolerance=0.1, **BRIEF).words


def test_heads_are_named_in_every_section_and_compared_with_each_other(make, undrawn):
    model, _ = CASES["heads_by_name"].made()
    x, site = draw(30, 1, 2, 2, dtype=torch.float64), ge.Site("trunk", mean=(2, 3))
    page = make(model, x, units=["seg[7]", 0, "kind[2]"], layers=["input", site], unit_layer=site, tolerance=0.1)
    assert {row["output"] for row in page.tables["All pairs"]} == {"seg[7]", "seg[0]"}
    assert "output kind[2]" in str(page.tables["Functional twins"])
    assert "trunk mean (2, 3)[0]" in str(page.tables["Functional twins"])
    assert {row["output"] for row in page.tables["Largest subtrees"]} <= {"seg[7]", "seg[0]", "kind[2]"}
    result = ge.interference(model, x, units=["seg[7]", 0, "kind[2]"], layers=["input", site])
    for row in page.tables["Interference by layer"]:
        assert near(row["mean |cosine| between heads"], result.abs_cosine[row["layer"]][2, :2].mean())


class Projected(nn.Module):
    """Its child of that name is not what it returns."""

    def __init__(self, name):
        super().__init__()
        torch.manual_seed(0)
        self.add_module(name, nn.Linear(4, 5))
        self.head, self.name = nn.Linear(5, 3), name

    def forward(self, x):
        return self.head(torch.relu(getattr(self, self.name)(x)))


def test_a_child_named_output_is_not_taken_for_what_the_model_returns(make, undrawn):
    options = {"y": Projected("output")(X).argmax(1), "n_untrained": 1, "tolerance": 0.01}
    one, other = (str(make(Projected(name), **options).tables) for name in ("output", "projection"))
    assert one == other.replace("projection", "output")


# the page


@pytest.mark.parametrize("build", MODELS.values(), ids=MODELS)
def test_any_model_has_every_section_and_needs_nothing_else(build, make, tmp_path, undrawn):
    model, x = build()
    with unchanged(model):
        page = make(model, x, Y, n_untrained=1)
    assert list(tmp_path.iterdir()) == [page.path] == [tmp_path / "report.html"]
    assert {"Interference by layer", "All pairs", "Functional twins", "Settings", "Versions"} <= set(page.tables)
    assert len(page.images) >= 9
    assert all(image["alt"] and image["src"].startswith("data:image/png;base64,") for image in page.images)
    given = [attributes for _, attributes in page.tags]
    loaded = [one[name] for one in given for name in ("src", "href", "data", "srcset", "action") if one.get(name)]
    assert all(link.startswith(("#", "data:")) for link in loaded)
    assert not [name for one in given for name in one if name.startswith("on")]
    assert not {"script", "iframe", "object", "embed", "base"} & {tag for tag, _ in page.tags}
    assert re.findall("<h2 id=.(\\w+)", page.text) == ["measured", "interference", "tree", "units", "settings"]
    assert not re.search(r"url\(|@import|https?:", page.text)
    plain = re.sub(r"base64,[^\"]*|<style>.*?</style>", "", page.text, flags=re.S)
    assert not re.search(r"\b(nan|inf)\b|\{\{|\}\}|\{%", plain)


def test_the_same_arguments_give_the_same_page_whatever_the_style_and_the_random_state(make):
    options = BRIEF | {"model": ge.MLP([4, 3], seed=0), "n_untrained": 1, "n_bootstrap": 20, "max_samples": 30}
    first = make(**options).text
    torch.manual_seed(2)
    with plt.style.context("dark_background"):
        own, _ = plt.subplots()
        assert make(**options).text == first
        assert plt.get_fignums() == [own.number]
    assert make(seed=1, **options).text != first


def test_text_of_the_caller_never_becomes_markup(full, make, undrawn):
    assert "<b>one" not in full.page.text
    assert "&lt;b&gt;one&lt;/b&gt;" in full.page.text
    assert "two $x$ &amp; $" in full.page.text

    def refuse(_):
        raise ValueError(hostile)

    hostile = "<script>'\"&{{ 1 }}"
    kind = type("<script>Kind", (nn.Sequential,), {})
    model = kind(OrderedDict({hostile: nn.Linear(4, 6), "<script>act": nn.ReLU(), "head": nn.Linear(6, 3)}))
    names = [hostile, "<img src=x>", "</td><script>"]
    page = make(model, y=Y, title=hostile, names=names, layers=["input", hostile])
    refused = make(model, embedder=SimpleNamespace(fit=refuse, transform=refuse), **BRIEF)
    for one in (page, refused):
        assert not {"script", "b"} & {tag for tag, _ in one.tags}
        assert all(image["src"].startswith("data:image/png") for image in one.images)
        assert hostile in one.words
    assert "The units could not be embedded" in refused.words
    assert [row["layer"] for row in page.tables["Interference by layer"]] == ["input", hostile]


def dead():
    model = ge.MLP([4, 6, 3], seed=0)
    with torch.no_grad():
        model.output.weight.zero_()
        model.hidden1[0].weight.zero_()
    return model


DEEP = ge.MLP([6, *[12] * 10, 4], seed=0)
SAID = {
    "a refused tree": (Residual(), {}, "The library refused with:</p> <blockquote>`tolerance` should be"),
    "a merged tree": (Residual(), {"tolerance": 0.1}, "up to a cosine distance of 0.1. All 40 samples"),
    "a tree that never parts": (ge.MLP([4, 3], seed=0), {}, "No part of the tree is drawn|Only the input was compared"),
    "no choice of samples": (SHARED, {}, "at 40 of 40 samples"),
    "a choice of samples": (SHARED, {"max_samples": 25}, "25 of the 40 samples|at 25 of 40 samples"),
    "too few samples": (SHARED, {"x": draw(10, 4)}, "Nothing is embedded. 7 units"),
    "dead units": (dead(), {"n_untrained": 1}, "Nothing is embedded: every unit is constant"),
    "one output": (ge.MLP([4, 6, 1], seed=0), {"y": draw(40, 1)}, "There is one output, and so no pair"),
    "two inputs": (CASES["two_inputs"].made()[0], {"x": (draw(40, 3).double(), draw(40, 2).double())},
                   "with '0' of shape 3 (float64, on cpu) and '1' of shape 2|float64 '0', float64 '1'."),
    "half precision": (ge.MLP([4, 6, 3], seed=0).bfloat16(), {"x": X.bfloat16(), "tolerance": 0.1}, "at 40 of 40"),
    "matrices of a few layers": (DEEP, {"x": draw(40, 6)}, "Shown: 6 of 11 layers"),
}  # fmt: skip


@pytest.mark.parametrize(("model", "options", "sentences"), SAID.values(), ids=SAID)
def test_what_is_left_out_is_said(model, options, sentences, make, undrawn):
    page = make(model, **(BRIEF | options))
    assert all(sentence in page.words for sentence in sentences.split("|"))
    assert ("All pairs" in page.tables) is (sentences != SAID["one output"][2])
    assert sum(image["alt"].startswith("Matrix") for image in page.images) <= 6


def test_a_tree_that_is_too_large_is_explained_and_else_a_part_is_drawn_and_named(make, monkeypatch, undrawn):
    found = re.search(r"Gradient tree of node (\d+) at '(\w+)' \((\d+) samples\). A row", make(**BRIEF).words)
    node, layer, count = found.groups()
    assert int(ge.gradient_tree(SHARED, X).counts[layer][int(node)]) == int(count)
    monkeypatch.setattr(_sections, "MOST_NODES", 5)
    assert "`max_nodes` should" in make(**BRIEF).words


def test_only_layers_that_differ_have_a_matrix(make, undrawn):
    """An orthogonal layer changes no angle: there is nothing new to see below it."""
    turned = nn.Linear(6, 6, bias=False)
    nn.init.orthogonal_(turned.weight)
    model = nn.Sequential(turned, nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 4))
    alts = [image["alt"] for image in make(model, draw(40, 6), **BRIEF).images]
    assert [re.search("at '(.*)'", alt)[1] for alt in alts if alt.startswith("Matrix")] == ["input", "1"]  # not "0"


def test_many_outputs_and_rows_are_cut_and_it_is_said(make, monkeypatch, undrawn):
    monkeypatch.setattr(_sections, "MOST_PAIRS", 30)
    page = make(ge.MLP([4, 6, 25], seed=0), **BRIEF)
    assert "of which the first 20 are compared" in page.words
    assert "The 30 rows with the largest |cosine| of 380" in page.words
    sizes = [value(row["mean |cosine|"]) for row in page.tables["All pairs"]]
    assert len(sizes) == 30
    assert sizes == sorted(sizes, reverse=True)


def test_units_and_layers_choose_and_names_follow(make, undrawn):
    page = make(units=np.array([2, 0]), names=["a", "b", "c"], layers="hidden*", **BRIEF)
    assert {(row["output"], row["and output"]) for row in page.tables["All pairs"]} == {("c", "a")}
    assert [row["layer"] for row in page.tables["Interference by layer"]] == ["hidden1", "hidden2"]
    wrapped = make(nn.Sequential(OrderedDict(net=crossing())), draw(40, 2).double(), layers=["net.1", "input"], **BRIEF)
    assert [row["layer"] for row in wrapped.tables["Interference by layer"]] == ["net.1", "input"]


# writing


def test_a_failed_write_leaves_the_old_page_and_missing_folders_are_made(make, tmp_path, monkeypatch, undrawn):
    path = make(name="a/b/report.html").path
    before = path.read_bytes()

    def full_disk(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full_disk)
    with pytest.raises(OSError, match="No space left"):
        make(name="a/b/report.html", seed=1)
    assert path.read_bytes() == before
    assert list((tmp_path / "a/b").iterdir()) == [path]


# refusals (the ordinary mistakes: test_abuse_report.py)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": BatchMean()}, "`model` should treat every sample by itself"),
        ({"y": torch.zeros(39).long()}, "`y` should have shape [40] or [40, t]"),
        ({"y": torch.full((40,), -1)}, "`y` should number the classes from 0"),
        ({"y": torch.full((40,), 3)}, "`y` should number classes that have an output each"),
        ({"y": torch.zeros(40, 2).long()}, "`y` should number classes that have an output each"),
        ({"y": torch.zeros(40)}, "`y` should hold a value for each of 3 outputs"),
        ({"y": Y, "forward": lambda model, x: in_two(model(x))}, "`y` should hold a class for each of 2 heads"),
        ({"path": "."}, "`path` should name a file"),
        ({"others": [ge.MLP([4, 6, 6, 2])]}, "`others` should give 3 outputs"),
        ({"others": [nn.Linear(4, 3)]}, "`others` should have the layers"),
        ({"unit_layer": "hidden*"}, "`unit_layer` should match one layer only"),
    ],
)
def test_wrong_arguments_are_refused_and_nothing_is_written(change, message, tmp_path):
    with pytest.raises(ValueError, match=re.escape(message)):
        ge.report(**({"model": SHARED, "x": X, "y": Y, "path": tmp_path / "report.html"} | change))
    assert list(tmp_path.iterdir()) == []


# in a browser


@needs_chromium
@pytest.mark.slow
@pytest.mark.parametrize("kind", ["everything", "convolutional"])
def test_a_browser_can_read_it_at_any_width(kind, full, make):
    model, x = MODELS["convolutional"]()
    made = full.page if kind == "everything" else make(model, x, Y, tolerance=0.1, n_untrained=1, max_units=6)
    smallest = """Math.min(...Array.from(document.querySelectorAll("main *")).filter(
        one => Array.from(one.childNodes).some(node => node.nodeType == 3 && node.textContent.trim())).map(
        one => parseFloat(getComputedStyle(one).fontSize)))"""
    cut = "Array.from(document.querySelectorAll('.scroll')).filter(one => one.scrollWidth > one.clientWidth + 1)"
    with browser() as page:
        for width, height in ((1280, 900), (400, 800)):
            page.resize(width, height)
            page.open(made.path)
            page.wait("Array.from(document.images).every(image => image.complete)")
            assert page.errors == []
            images = page.evaluate("Array.from(document.images).map(i => [i.complete, i.naturalWidth, i.width])")
            assert len(images) == len(made.images)
            assert all(complete and natural > 0 and shown >= 200 for complete, natural, shown in images)
            assert page.evaluate("document.documentElement.scrollWidth") <= width
            assert page.evaluate(smallest) >= 12
            page.evaluate("document.querySelector('details').open = true")
            assert page.evaluate("document.documentElement.scrollWidth") <= width
            assert (page.evaluate(f"{cut}.length") == 0) is (width == 1280)  # on a telephone tables are pushed sideways
        assert page.evaluate("document.querySelectorAll('h2').length") == 5
