"""The report: its numbers are those of the functions behind it, it stands alone, it refuses, a browser can read it."""

import io
import re
from html import unescape
from html.parser import HTMLParser
from importlib import import_module

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from _asserts import unchanged
from _browser import browser, needs_chromium
from _networks import BatchMean, Convolutional, Noise, Residual, crossing
from torch import nn

import gradembed as ge

QUICK = {"n_bootstrap": 20, "n_cards": 1, "max_units": 4}


class Wrapped(nn.Module):
    """All layers inside one child, whose output is the model's."""

    def __init__(self):
        super().__init__()
        self.net = crossing()

    def forward(self, x):
        return self.net(x)


class Parsed(HTMLParser):
    """Tables by name, pictures, and whatever a page would load or run."""

    def __init__(self, text):
        super().__init__()
        self.tables, self.images, self.loaded, self.tags = {}, [], [], []
        self._rows, self._cell = None, None
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.tags.append(tag)
        self.loaded += [given[name] for name in ("src", "href", "data", "srcset", "action") if given.get(name)]
        self.loaded += [name for name in given if name.startswith("on")]
        if tag == "img":
            self.images.append(given)
        elif tag == "table":
            self._rows = self.tables[given["aria-label"]] = []
        elif tag == "tr":
            self._rows.append([])
        elif tag in ("td", "th") and self._rows is not None:
            self._cell = ""

    def handle_data(self, data):
        if self._cell is not None:
            self._cell += data

    def handle_endtag(self, tag):
        if tag in ("td", "th"):
            self._rows[-1].append(self._cell)
            self._cell = None
        elif tag == "table":
            self._rows = None

    def records(self, name):
        head, *rows = self.tables[name]
        return [dict(zip(head, row, strict=True)) for row in rows]


def value(cell):
    return float(cell.split(" ")[0].replace("−", "-"))


def draw(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@pytest.fixture
def undrawn(monkeypatch):
    """Figures cost most of a report's time; where they are not looked at, a blank one stands for each."""
    blank = io.BytesIO()
    plt.imsave(blank, np.zeros((3, 3)), format="png")
    for section in ("_interference", "_tree", "_units", "_twins"):
        module = import_module(f"gradembed.report.{section}")
        monkeypatch.setattr(module, "pictures", lambda _, sizes: [blank.getvalue()] * len(sizes))


def read(path):
    return Parsed(path.read_text())


def make(tmp_path, model, x, y=None, name="report.html", **options):
    return ge.report(model, x, y, tmp_path / name, **(QUICK | options))


def convolutional():
    return Convolutional().eval(), draw(40, 1, 4, 4), torch.arange(40) % 3


def residual():
    return Residual(), draw(40, 4), torch.arange(40) % 3


def plain():
    return ge.MLP([4, 6, 6, 3], seed=5), draw(40, 4), torch.arange(40) % 3


MODELS = {"convolutional": convolutional, "residual": residual, "plain": plain}
EVERY = pytest.mark.parametrize("build", MODELS.values(), ids=MODELS)


@pytest.fixture(scope="module")
def full(tmp_path_factory):
    """A report with everything in it, and what it was made from."""
    networks = [ge.MLP([4, 6, 6, 3], seed=seed) for seed in (5, 6, 7)]
    x, y, names = draw(40, 4), torch.arange(40) % 3, ["<b>one</b>", "two $x$ & $", "three"]
    options = {"others": networks[1:], "names": names, "n_bootstrap": 50, "n_untrained": 2, "n_cards": 2}
    path = ge.report(networks[0], x, y, tmp_path_factory.mktemp("report") / "full.html", **options)
    return path, networks, x, y, names


# numbers


def test_pairs_are_those_of_interference(full):
    path, networks, x, _, names = full
    frame = ge.interference(networks[0], x, n_bootstrap=50, n_untrained=2).to_frame()
    rows = read(path).records("All pairs")
    assert len(rows) == len(frame) == 9
    columns = {"mean cosine": "cosine", "low": "cosine_low", "high": "cosine_high", "mean |cosine|": "abs_cosine",
               "in conflict": "conflict", "untrained cosine": "untrained_cosine", "samples": "n_pairs"}  # fmt: skip
    for row, true in zip(rows, frame.to_dict("records"), strict=True):
        assert [row["layer"], row["output"], row["and output"]] == [
            true["layer"],
            names[int(true["unit_a"])],
            names[int(true["unit_b"])],
        ]
        for shown, column in columns.items():
            assert value(row[shown]) == pytest.approx(true[column], abs=5.01e-4), column
        assert value(row["norm"]) == pytest.approx(true["norm_a"], rel=5.01e-3)


def test_layers_have_means_over_pairs_chance_control_and_range(full):
    path, networks, x, *_ = full
    results = [ge.interference(network, x) for network in networks]
    copies = [ge.interference(ge.untrained(networks[0], seed), x) for seed in (0, 1)]
    upper = np.triu_indices(3, 1)
    for row in read(path).records("Interference by layer"):
        layer = row["layer"]
        for label, matrices in (
            ("mean cosine", "cosine"),
            ("mean |cosine|", "abs_cosine"),
            ("in conflict", "conflict"),
        ):
            means = [getattr(result, matrices)[layer].numpy()[upper].mean() for result in (*results, *copies)]
            assert value(row[label]) == pytest.approx(means[0], abs=5.01e-4)
            assert value(row[f"untrained {label}"]) == pytest.approx(np.mean(means[3:]), abs=5.01e-4)
            if matrices == "abs_cosine":
                ends = row["mean |cosine|, all networks"].split(" to ")
                assert [value(end) for end in ends] == pytest.approx([min(means[:3]), max(means[:3])], abs=5.01e-4)
        assert value(row["chance"]) == pytest.approx(results[0].chance[layer], abs=5.01e-4)
        patterns = np.corrcoef([result.cosine[layer].numpy()[upper] for result in results])
        assert value(row["agreement"]) == pytest.approx(patterns[upper].mean(), abs=5.01e-4)
        low, high = re.search(r"\[(.*), (.*)\]", row["mean cosine"]).groups()
        assert value(low) <= value(row["mean cosine"]) <= value(high)


def test_nodes_are_those_of_the_tree(full):
    path, networks, x, y, names = full
    tree = ge.gradient_tree(networks[0], x)
    page = read(path)
    for row in page.records("Nodes by layer"):
        counts = tree.counts[row["layer"]]
        assert int(row["nodes"]) == len(counts)
        assert value(row["share of the largest"]) == pytest.approx(int(counts.max()) / 40, abs=5.01e-4)
        assert value(row["samples alone"]) == pytest.approx(int((counts == 1).sum()) / 120, abs=5.01e-4)
    largest = tree.largest("hidden1", 10)
    rows = page.records("Largest subtrees")
    assert [int(row["node"]) for row in rows] == largest["node"].tolist()
    assert [row["output"] for row in rows] == [names[int(root)] for root in largest["root"]]
    for row in rows:
        members = y[(tree.nodes["hidden1"] == int(row["node"])).any(0)]
        shares = [float((members == k).double().mean()) for k in range(3)]
        assert value(row["its share"]) == pytest.approx(max(shares), abs=5.01e-4)
        assert shares[names.index(row["most frequent class"])] == max(shares)


def test_twins_are_the_nearest_units_of_other_networks(full):
    path, networks, x, _, names = full
    parts, called = [], []
    for i, network in enumerate(networks):
        parts += [ge.gradient_fields(network, x, unit_layer="hidden2"), ge.gradient_fields(network, x)]
        called += [f"hidden2[{j}], net {i}" for j in range(6)] + [f"output {name}, net {i}" for name in names]
    fields = ge.GradientFields.concatenate(parts)
    alive = fields.amplitudes() > 0
    rows = fields[alive].normalized()
    kept = [name for name, one in zip(called, alive, strict=True) if one]
    flat = rows.gradients.flatten(1)  # of functions with a common input: gradients as they are
    home = [name.split("net ")[1] for name in kept]
    shown = read(path).records("Functional twins")
    assert len(shown) == min(15, sum(i == "0" for i in home))
    for row in shown:
        i, elsewhere = kept.index(row["unit"]), [j for j in range(len(kept)) if home[j] != "0"]
        distances = (flat[elsewhere] - flat[i]).norm(dim=1)
        assert kept[elsewhere[int(distances.argmin())]] == row["nearest unit"]
        j = kept.index(row["nearest unit"])
        correlation = np.corrcoef(rows.values[[i, j]].numpy())[0, 1]
        assert value(row["correlation of values"]) == pytest.approx(correlation, abs=5.01e-3)
        scale = value(row["distance"]) / float(distances.min())
        assert value(row["median distance"]) == pytest.approx(scale * float(np.median(distances)), rel=0.01)
    assert [value(row["distance"]) for row in shown] == sorted(value(row["distance"]) for row in shown)


def test_one_network_has_twins_and_interferers_of_its_own(tmp_path, undrawn):
    model, x, y = plain()
    page = make(tmp_path, model, x, y, n_untrained=1, max_units=6)
    units = {row["unit"] for row in read(page).records("Functional twins")}
    for row in read(page).records("Functional twins"):
        assert row["nearest unit"] in units - {row["unit"]}
        assert value(row["nearest in an untrained copy"]) > 0
    text = page.read_text()
    assert "Interferers: " in text
    assert "One network only" in text
    assert "every number below is a fact about this network" in text


@pytest.mark.parametrize("kind", ["classes", "values", "blocks", "none"])
def test_the_score_is_that_of_the_targets(kind, tmp_path, undrawn):
    model, x = ge.MLP([4, 6, 4], seed=0), draw(30, 4)
    output = model(x).detach()
    if kind == "classes":
        y = output.argmax(1)
        y[:6] = (y[:6] + 1) % 4
        constant = int(y.bincount().max()) / 30
        expected = f"Accuracy at these samples: 0.800 (always naming the most frequent class: {constant:.3f})"
    elif kind == "blocks":
        y = output.reshape(30, 2, 2).argmax(2)
        y[:6, 0] = 1 - y[:6, 0]
        expected = "Accuracy at these samples: 0.900"
    elif kind == "values":
        y = output + draw(30, 4, seed=1)
        explained = [1 - ((y - output)[:, j] ** 2).sum() / ((y[:, j] - y[:, j].mean()) ** 2).sum() for j in range(4)]
        number = f"{float(sum(explained)) / 4:.3f}".replace("-", "−")
        expected = f"R² at these samples: {number} (always naming the mean: 0.000)"
    else:
        y, expected = None, "No targets were given"
    assert expected in make(tmp_path, model, x, y).read_text()


def test_modules_and_settings_are_listed(tmp_path, undrawn):
    model, x, y = convolutional()
    page = read(make(tmp_path, model, x, y, seed=7, embedder=ge.FieldDescriptor("orthogonal")))
    modules = {row["module"]: row for row in page.records("Modules")}
    assert list(modules) == ["conv", "norm", "pool", "head"]
    assert modules["conv"] == {
        "module": "conv",
        "type": "Conv2d",
        "output of one sample": "2 × 4 × 4",
        "parameters": "20",
    }
    settings = {row["setting"]: row["value"] for row in page.records("Settings")}
    assert settings["seed"] == "7"
    assert settings["n_bootstrap"] == "20"
    assert "FieldDescriptor" in settings["embedder"]
    versions = {row["package"]: row["version"] for row in page.records("Versions")}
    assert versions["torch"] == torch.__version__
    assert versions["gradembed"] == ge.__version__


# the page


@EVERY
def test_any_model_has_every_section_and_needs_nothing_else(build, tmp_path):
    model, x, y = build()
    with unchanged(model):
        path = make(tmp_path, model, x, y, n_untrained=1)
    page = read(path)
    assert path == tmp_path / "report.html"
    assert list(tmp_path.iterdir()) == [path]
    assert {"Interference by layer", "All pairs", "Functional twins", "Settings", "Versions"} <= set(page.tables)
    assert len(page.images) >= 9
    assert all(image["alt"] and image["src"].startswith("data:image/png;base64,") for image in page.images)
    assert all(link.startswith(("#", "data:")) for link in page.loaded)
    assert not {"script", "iframe", "object", "embed", "base"} & set(page.tags)
    text = path.read_text()
    assert re.findall("<h2 id=.(\\w+)", text) == ["measured", "interference", "tree", "units", "settings"]
    assert not re.search(r"url\(|@import|https?:", text)
    assert plt.get_fignums() == []


@EVERY
def test_the_same_arguments_give_the_same_numbers(build, tmp_path, undrawn):
    model, x, y = build()
    torch.manual_seed(1)
    first = make(tmp_path, model, x, y, "first.html", n_untrained=1, max_samples=30).read_bytes()
    torch.manual_seed(2)
    again = make(tmp_path, model, x, y, "again.html", n_untrained=1, max_samples=30).read_bytes()
    assert first == again
    assert first != make(tmp_path, model, x, y, "other.html", n_untrained=1, max_samples=30, seed=1).read_bytes()


def test_names_are_escaped(full):
    path, *_ = full
    text = path.read_text()
    assert "<b>one" not in text
    assert "&lt;b&gt;one&lt;/b&gt;" in text
    assert "two $x$ &amp; $" in text


def test_figures_are_the_same_again_whatever_the_style_of_the_caller(tmp_path):
    model, x, y = plain()
    first = make(tmp_path, model, x, y, "first.html").read_bytes()
    with plt.style.context("dark_background"):
        own, _ = plt.subplots()
        assert make(tmp_path, model, x, y, "again.html").read_bytes() == first
        assert plt.get_fignums() == [own.number]


def test_a_refused_tree_is_explained(tmp_path, undrawn):
    model, x, y = residual()
    text = make(tmp_path, model, x, y).read_text()
    assert "There is no gradient tree of this model with these settings" in text
    assert "`tolerance` should be given for a network without activation patterns" in text
    merged = make(tmp_path, model, x, y, "merged.html", tolerance=0.1)
    assert "up to a cosine distance of 0.1" in merged.read_text()
    assert "Nodes by layer" in read(merged).tables


def test_a_tree_that_is_too_large_is_explained(tmp_path, monkeypatch, undrawn):
    monkeypatch.setattr(import_module("gradembed.report._tree"), "MOST_NODES", 5)
    model, x, y = plain()
    assert "`max_nodes` should" in make(tmp_path, model, x, y).read_text()


def test_subsampling_is_said(tmp_path, undrawn):
    model, x, y = plain()
    text = make(tmp_path, model, x, y, max_samples=25).read_text()
    assert "25 of the 40 samples" in text
    assert "at 25 of 40 samples" in text
    assert "All 40 samples" in make(tmp_path, model, x, y).read_text()


def test_what_cannot_be_embedded_is_explained(tmp_path, undrawn):
    model, x, y = plain()
    assert "Nothing is embedded." in make(tmp_path, model, x[:10], y[:10]).read_text()
    dead = ge.MLP([4, 6, 3], seed=0)
    with torch.no_grad():
        dead.output.weight.zero_()
        dead.hidden1[0].weight.zero_()
    text = make(tmp_path, dead, x, y, n_untrained=1).read_text()
    assert "Nothing is embedded: every unit is constant" in text


def test_an_embedder_that_refuses_is_explained(tmp_path, undrawn):
    model, x, y = plain()
    other = ge.gradient_fields(ge.MLP([5, 6, 3], seed=0), draw(40, 5))

    class Fitted(ge.FieldDescriptor):
        def fit(self, fields, y=None):  # noqa: ARG002
            return super().fit(other)

    text = unescape(make(tmp_path, model, x, y, embedder=Fitted()).read_text())
    assert "The units could not be embedded" in text
    assert "`fields` should have 5 dimensions" in text


def test_one_output_has_no_pairs(tmp_path, undrawn):
    page = make(tmp_path, ge.MLP([4, 6, 1], seed=0), draw(40, 4), draw(40, 1))
    assert "There is one output" in page.read_text()
    assert "All pairs" not in read(page).tables


def test_many_outputs_and_rows_are_cut_and_it_is_said(tmp_path, monkeypatch, undrawn):
    monkeypatch.setattr(import_module("gradembed.report._interference"), "MOST_PAIRS", 30)
    page = make(tmp_path, ge.MLP([4, 6, 25], seed=0), draw(40, 4))
    assert "of which the first 20 are compared" in page.read_text()
    rows = read(page).records("All pairs")
    assert len(rows) == 30
    assert "The 30 rows with the largest |cosine| of 380" in page.read_text()
    sizes = [value(row["mean |cosine|"]) for row in rows]
    assert sizes == sorted(sizes, reverse=True)


def test_units_choose_and_names_follow(tmp_path, undrawn):
    model, x, y = plain()
    page = read(make(tmp_path, model, x, y, units=[2, 0], names=["a", "b", "c"]))
    assert {(row["output"], row["and output"]) for row in page.records("All pairs")} == {("c", "a")}


def test_layers_without_children_between_are_hinted_at(tmp_path, undrawn):
    wrapped = Wrapped()
    page = make(tmp_path, wrapped, draw(40, 2, dtype=torch.float64))
    assert "Only the input was compared" in page.read_text()
    assert "'net.1'" in unescape(page.read_text())
    inside = read(make(tmp_path, wrapped, draw(40, 2, dtype=torch.float64), layers=["input", "net.1"]))
    assert [row["layer"] for row in inside.records("Interference by layer")] == ["input", "net.1"]


# writing


def test_a_failed_write_leaves_the_old_page(tmp_path, monkeypatch, undrawn):
    model, x, y = plain()
    path = make(tmp_path, model, x, y)
    before = path.read_bytes()

    def full_disk(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fdopen", full_disk)
    with pytest.raises(OSError, match="No space left"):
        make(tmp_path, model, x, y, seed=1)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_missing_folders_are_made(tmp_path, undrawn):
    model, x, _ = plain()
    assert make(tmp_path, model, x, None, "a/b/report.html").is_file()


# refusals


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"model": 3}, TypeError, "`model` should be a torch.nn.Module"),
        ({"model": BatchMean()}, ValueError, "`model` should treat every sample by itself"),
        ({"model": Noise()}, ValueError, "`model` should give the same output twice"),
        ({"model": nn.Sequential(nn.Linear(4, 3), nn.Dropout())}, ValueError, "Call model.eval"),
        ({"x": [[1.0]]}, TypeError, "`x` should be a torch.Tensor"),
        ({"x": torch.full((5, 4), torch.nan)}, ValueError, "`x` should be finite"),
        ({"x": torch.zeros(40, 5)}, ValueError, "`x` should fit the model"),
        ({"x": torch.zeros(40, 4).double()}, ValueError, "`x` should have the model's precision"),
        ({"y": [0] * 40}, TypeError, "`y` should be a torch.Tensor"),
        ({"y": torch.zeros(39).long()}, ValueError, "`y` should hold one target"),
        ({"y": torch.full((40,), 3)}, ValueError, "`y` should number classes that have an output each"),
        ({"y": torch.zeros(40, 2).long()}, ValueError, "`y` should number classes that have an output each"),
        ({"y": torch.zeros(40)}, ValueError, "`y` should hold a value for each of 3 outputs"),
        ({"path": 3}, TypeError, "`path` should name a file"),
        ({"path": "."}, ValueError, "`path` should name a file"),
        ({"others": nn.Linear(4, 3)}, TypeError, "`others` should be a list of networks"),
        ({"others": 3}, TypeError, "`others` should be a list of networks"),
        ({"others": ["net"]}, TypeError, "`others` should be a list of torch.nn.Module"),
        ({"others": [nn.Linear(4, 2)]}, ValueError, "`others` should give 3 outputs"),
        ({"others": [nn.Linear(4, 3)]}, ValueError, "`others` should have the layers"),
        ({"names": "abc"}, TypeError, "`names` should be a list of strings"),
        ({"names": [1, 2, 3]}, TypeError, "`names` should be a list of strings"),
        ({"names": ["a"]}, ValueError, "`names` should name each of 3 outputs"),
        ({"units": [3]}, ValueError, "`units` should lie between 0 and 2"),
        ({"units": []}, ValueError, "`units` should be a list of indices, not empty"),
        ({"layers": ["nowhere"]}, ValueError, "`layers` should name a layer"),
        ({"unit_layer": "nowhere"}, ValueError, "`unit_layer` should name a layer"),
        ({"unit_layer": 1}, TypeError, "`unit_layer` should be a layer's name"),
        ({"embedder": 3}, TypeError, "`embedder` should have the methods"),
        ({"embedder": ge.FieldDescriptor}, TypeError, "`embedder` should be an estimator"),
        ({"tolerance": 2.0}, ValueError, "`tolerance` should be finite, above 0"),
        ({"n_bootstrap": -1}, ValueError, "`n_bootstrap` should be at least 0"),
        ({"n_untrained": 1.5}, TypeError, "`n_untrained` should be an integer"),
        ({"n_cards": -1}, ValueError, "`n_cards` should be at least 0"),
        ({"max_samples": 1}, ValueError, "`max_samples` should be at least 2"),
        ({"max_units": 0}, ValueError, "`max_units` should be at least 1"),
        ({"title": None}, TypeError, "`title` should be a string"),
        ({"seed": -1}, ValueError, "`seed` should be at least 0"),
    ],
)
def test_wrong_arguments_are_refused_and_nothing_is_written(change, error, message, tmp_path):
    model, x, y = plain()
    arguments = {"model": model, "x": x, "y": y, "path": tmp_path / "report.html"} | change
    with pytest.raises(error, match=re.escape(message)):
        ge.report(**arguments)
    assert list(tmp_path.iterdir()) == []


# in a browser


@needs_chromium
@pytest.mark.slow
@EVERY
def test_a_browser_can_read_it_at_any_width(build, tmp_path):
    model, x, y = build()
    path = make(tmp_path, model, x, y, tolerance=None if build is plain else 0.1, n_untrained=1, max_units=6, n_cards=2)
    smallest = """Math.min(...Array.from(document.querySelectorAll("main *")).filter(
        one => Array.from(one.childNodes).some(node => node.nodeType == 3 && node.textContent.trim())).map(
        one => parseFloat(getComputedStyle(one).fontSize)))"""
    with browser() as page:
        for width, height in ((1280, 900), (400, 800)):
            page.resize(width, height)
            page.open(path)
            page.wait("Array.from(document.images).every(image => image.complete)")
            assert page.errors == []
            images = page.evaluate("Array.from(document.images).map(i => [i.complete, i.naturalWidth, i.width])")
            assert len(images) == len(read(path).images)
            assert all(complete and natural > 0 and shown >= 200 for complete, natural, shown in images)
            assert page.evaluate("document.documentElement.scrollWidth") <= width
            assert page.evaluate(smallest) >= 12
            page.evaluate("document.querySelector('details').open = true")
            assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert page.evaluate("document.querySelectorAll('h2').length") == 5
