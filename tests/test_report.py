"""The report: its numbers are those of the functions behind it, it stands alone, it refuses, a browser can read it."""

import inspect
import io
import re
from collections import OrderedDict
from html import unescape
from html.parser import HTMLParser
from types import SimpleNamespace

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from _asserts import unchanged
from _browser import browser, needs_chromium
from _networks import BatchMean, Convolutional, Noise, Residual, crossing
from torch import nn

import gradembed as ge
from gradembed.report import _sections

QUICK = {"n_bootstrap": 20, "n_cards": 1, "max_units": 4}
BRIEF = {"n_bootstrap": 0, "n_cards": 0, "max_units": 4}  # where only words are looked at


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
    for module in (_sections,):
        monkeypatch.setattr(module, "pictures", lambda _, sizes: [blank.getvalue()] * len(sizes))


def read(path):
    return Parsed(path.read_text())


def words(path):
    return unescape(" ".join(path.read_text().split()))


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
    return path, networks, x, y, options


# numbers


def test_pairs_are_those_of_interference(full):
    path, networks, x, _, options = full
    names = options["names"]
    frame = ge.interference(networks[0], x, n_bootstrap=50, n_untrained=2).to_frame()
    rows = read(path).records("All pairs")
    assert len(rows) == len(frame) == 9
    columns = {"mean cosine": "cosine", "low": "cosine_low", "high": "cosine_high", "mean |cosine|": "abs_cosine",
               "in conflict": "conflict", "untrained cosine": "untrained_cosine", "samples": "n_pairs"}  # fmt: skip
    for row, true in zip(rows, frame.to_dict("records"), strict=True):
        called = [names[int(true[unit])] for unit in ("unit_a", "unit_b")]
        assert [row["layer"], row["output"], row["and output"]] == [true["layer"], *called]
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
        for matrices, label in {
            "cosine": "mean cosine",
            "abs_cosine": "mean |cosine|",
            "conflict": "in conflict",
        }.items():
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
    for row in read(path).records("Gradients by layer"):
        result, layer = results[0], row["layer"]
        assert value(row["dimension"]) == pytest.approx(result.effective_dimension[layer], abs=0.0501)
        assert value(row["norm"]) == pytest.approx(float(result.norm[layer].mean()), rel=5.01e-3)
        assert value(row["no gradient"]) == pytest.approx(int(result.undefined[layer].sum()) / 120, abs=5.01e-4)


def test_nodes_are_those_of_the_tree(full):
    path, networks, x, y, options = full
    names = options["names"]
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
    path, networks, x, _, options = full
    names = options["names"]
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


def test_one_network_has_twins_and_aligned_units_of_its_own(tmp_path, undrawn):
    model, x, y = plain()
    page = make(tmp_path, model, x, y, n_untrained=1, max_units=6)
    units = {row["unit"] for row in read(page).records("Functional twins")}
    for row in read(page).records("Functional twins"):
        assert row["nearest unit"] in units - {row["unit"]}
        assert value(row["nearest in an untrained copy"]) > 0
    text = words(page)
    assert "Aligned units: " in text
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
    assert expected in words(make(tmp_path, model, x, y, **BRIEF))


def test_modules_and_settings_are_listed(tmp_path, undrawn):
    model, x, y = convolutional()
    page = read(make(tmp_path, model, x, y, seed=7, embedder=ge.FieldDescriptor("orthogonal")))
    modules = {row["module"]: row for row in page.records("Modules")}
    assert list(modules) == ["conv", "norm", "pool", "head"]
    assert list(modules["conv"].values()) == ["conv", "Conv2d", "2 × 4 × 4", "20"]
    settings = {row["setting"]: row["value"] for row in page.records("Settings")}
    assert settings["seed"] == "7"
    assert settings["n_bootstrap"] == "20"
    assert "FieldDescriptor" in settings["embedder"]
    versions = {row["package"]: row["version"] for row in page.records("Versions")}
    assert versions["torch"] == torch.__version__
    assert versions["gradembed"] == ge.__version__


# the page


@EVERY
def test_any_model_has_every_section_and_needs_nothing_else(build, tmp_path, undrawn):
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
    assert not re.search(
        r"\b(nan|inf)\b|\{\{|\}\}|\{%", re.sub(r"base64,[^\"]*|<style>.*?</style>", "", text, flags=re.S)
    )


def test_the_same_arguments_give_the_same_numbers(tmp_path, undrawn):
    model, x, y = convolutional()
    torch.manual_seed(1)
    first = make(tmp_path, model, x, y, "first.html", n_untrained=1, max_samples=30).read_bytes()
    torch.manual_seed(2)
    again = make(tmp_path, model, x, y, "again.html", n_untrained=1, max_samples=30).read_bytes()
    assert first == again
    assert first != make(tmp_path, model, x, y, "other.html", n_untrained=1, max_samples=30, seed=1).read_bytes()


def test_text_of_the_caller_never_becomes_markup(full, tmp_path, undrawn):
    text = full[0].read_text()
    assert "<b>one" not in text
    assert "&lt;b&gt;one&lt;/b&gt;" in text
    assert "two $x$ &amp; $" in text

    def refuse(_):
        raise ValueError(hostile)

    hostile = "<script>'\"&{{ 1 }}"
    kind = type("<script>Kind", (nn.Sequential,), {})
    model = kind(OrderedDict({hostile: nn.Linear(4, 6), "<script>act": nn.ReLU(), "head": nn.Linear(6, 3)}))
    names, x = [hostile, "<img src=x>", "</td><script>"], draw(40, 4)
    page = make(tmp_path, model, x, torch.arange(40) % 3, title=hostile, names=names, layers=["input", hostile])
    refused = make(
        tmp_path,
        model,
        x,
        name="refused.html",
        embedder=SimpleNamespace(fit=refuse, transform=refuse),
        title="",
        **BRIEF,
    )
    for path in (page, refused):
        assert not {"script", "b"} & set(read(path).tags)
        assert all(image["src"].startswith("data:image/png") for image in read(path).images)
        assert hostile in words(path)
    assert "The units could not be embedded" in words(refused)
    assert [row["layer"] for row in read(page).records("Interference by layer")] == ["input", hostile]


def test_figures_are_the_same_again_whatever_the_style_of_the_caller(tmp_path):
    model, x, y = plain()
    first = make(tmp_path, model, x, y, "first.html", **BRIEF).read_bytes()
    with plt.style.context("dark_background"):
        own, _ = plt.subplots()
        assert make(tmp_path, model, x, y, "again.html", **BRIEF).read_bytes() == first
        assert plt.get_fignums() == [own.number]


def dead():
    model = ge.MLP([4, 6, 3], seed=0)
    with torch.no_grad():
        model.output.weight.zero_()
        model.hidden1[0].weight.zero_()
    return model


SHARED = ge.MLP([4, 6, 6, 3], seed=5)
SAID = {
    "a refused tree": (Residual(), {}, "The library refused with:</p> <blockquote>`tolerance` should be"),
    "a merged tree": (Residual(), {"tolerance": 0.1}, "up to a cosine distance of 0.1. All 40 samples"),
    "a tree that never parts": (ge.MLP([4, 3], seed=0), {}, "No part of the tree is drawn"),
    "no choice of samples": (SHARED, {}, "at 40 of 40 samples"),
    "a choice of samples": (SHARED, {"max_samples": 25}, "25 of the 40 samples|at 25 of 40 samples"),
    "too few samples": (SHARED, {"x": draw(10, 4)}, "Nothing is embedded. 7 units"),
    "dead units": (dead(), {"n_untrained": 1}, "Nothing is embedded: every unit is constant"),
    "one output": (ge.MLP([4, 6, 1], seed=0), {"y": draw(40, 1)}, "There is one output, and so no pair"),
    "nothing between": (Wrapped(), {"x": draw(40, 2).double()}, "Only the input was compared|such as 'net', 'net.0'"),
}  # fmt: skip


@pytest.mark.parametrize(("model", "options", "sentences"), SAID.values(), ids=SAID)
def test_what_is_left_out_is_said(model, options, sentences, tmp_path, undrawn):
    page = make(tmp_path, model, **({"x": draw(40, 4)} | BRIEF | options))
    assert all(sentence in words(page) for sentence in sentences.split("|"))
    assert ("All pairs" in read(page).tables) is (sentences != SAID["one output"][2])


def test_a_tree_that_is_too_large_is_explained(tmp_path, monkeypatch, undrawn):
    monkeypatch.setattr(_sections, "MOST_NODES", 5)
    assert "`max_nodes` should" in words(make(tmp_path, SHARED, draw(40, 4), **BRIEF))


def test_a_part_of_the_tree_is_drawn_and_named(tmp_path, undrawn):
    text = words(make(tmp_path, SHARED, draw(40, 4), **BRIEF))
    node, layer, count = re.search(r"Gradient tree of node (\d+) at '(\w+)' \((\d+) samples\). A row", text).groups()
    assert int(ge.gradient_tree(SHARED, draw(40, 4)).counts[layer][int(node)]) == int(count)


def test_only_layers_that_differ_have_a_matrix(tmp_path, undrawn):
    """An orthogonal layer changes no angle: there is nothing new to see below it."""
    turned = nn.Linear(6, 6, bias=False)
    nn.init.orthogonal_(turned.weight)
    model = nn.Sequential(turned, nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 4))
    alts = [image["alt"] for image in read(make(tmp_path, model, draw(40, 6), **BRIEF)).images]
    assert [re.search("at '(.*)'", alt)[1] for alt in alts if alt.startswith("Matrix")] == ["input", "1"]  # not "0"
    deep = make(tmp_path, ge.MLP([6, *[12] * 10, 4], seed=0), draw(40, 6), **BRIEF)
    assert sum(image["alt"].startswith("Matrix") for image in read(deep).images) == 6
    assert "Shown: 6 of 11 layers" in words(deep)


def test_many_outputs_and_rows_are_cut_and_it_is_said(tmp_path, monkeypatch, undrawn):
    monkeypatch.setattr(_sections, "MOST_PAIRS", 30)
    page = make(tmp_path, ge.MLP([4, 6, 25], seed=0), draw(40, 4), **BRIEF)
    assert "of which the first 20 are compared" in words(page)
    rows = read(page).records("All pairs")
    assert len(rows) == 30
    assert "The 30 rows with the largest |cosine| of 380" in words(page)
    sizes = [value(row["mean |cosine|"]) for row in rows]
    assert sizes == sorted(sizes, reverse=True)


def test_units_choose_and_names_follow(tmp_path, undrawn):
    model, x, y = plain()
    page = read(make(tmp_path, model, x, y, units=np.array([2, 0]), names=["a", "b", "c"], **BRIEF))
    assert {(row["output"], row["and output"]) for row in page.records("All pairs")} == {("c", "a")}


def test_layers_inside_a_child_can_be_compared(tmp_path, undrawn):
    page = read(make(tmp_path, Wrapped(), draw(40, 2).double(), layers=["input", "net.1"], **BRIEF))
    assert [row["layer"] for row in page.records("Interference by layer")] == ["input", "net.1"]


# what a model returns


class Projected(nn.Module):
    """Its child of that name is not what it returns."""

    def __init__(self, name):
        super().__init__()
        torch.manual_seed(0)
        self.add_module(name, nn.Linear(4, 5))
        self.head, self.name = nn.Linear(5, 3), name

    def forward(self, x):
        return self.head(torch.relu(getattr(self, self.name)(x)))


def test_a_child_named_output_is_not_taken_for_what_the_model_returns(tmp_path, undrawn):
    x = draw(40, 4)
    pages = [read(make(tmp_path, Projected(name), x, Projected(name)(x).argmax(1), n_untrained=1, tolerance=0.01))
             for name in ("output", "projection")]  # fmt: skip
    wrong, right = ({name: pages[i].records(name) for name in pages[i].tables if name != "Versions"} for i in (0, 1))
    assert str(wrong).replace("output (child)", "projection") == str(right)
    clipped = Projected("inner")
    clipped.output = nn.Linear(4, 3)
    clipped.forward = lambda x: clipped.output(x).relu_()  # the child's own tensor, but no longer what the child gave
    assert _request._with_one_output(clipped, x) is not clipped
    assert _request._with_one_output(model := ge.MLP([4, 6, 3]), x) is model


@pytest.mark.parametrize(
    ("give", "labels"),
    [
        (lambda z: z, ["0", "1", "2", "3"]),
        (lambda z: z[:, 0], ["0"]),
        (lambda z: z.reshape(-1, 2, 2), ["0", "1", "2", "3"]),
        (lambda z: {"a": z[:, :1], "b": z[:, 1]}, ["a[0]", "b[0]"]),
        (lambda z: (z[:, :2], z[:, 2]), ["0[0]", "0[1]", "1[0]"]),
        (lambda z: SimpleNamespace(logits=z), ["0", "1", "2", "3"]),
    ],
)
def test_outputs_are_read_from_whatever_a_model_returns(give, labels):
    model, x = nn.Linear(3, 4), draw(2000, 3)  # in two parts
    found, called = _request.outputs_of(model, x, lambda model, x: give(model(x)))
    assert called == labels
    assert torch.equal(found, model(x).detach()[:, : len(labels)])
    with pytest.raises(ValueError, match="`forward` should return a tensor, or several, with a row per sample"):
        _request.outputs_of(model, x, lambda model, x: {"a": give(model(x)), "loss": torch.ones(())})


@pytest.mark.skipif(
    "forward" not in inspect.signature(ge.interference).parameters, reason="the engine takes no forward="
)
def test_heads_are_named_in_every_section(tmp_path, undrawn):
    def heads(model, x):
        z = model(x)
        return {"a": z[:, :1], "b": z[:, 1:]}

    model, x, _ = plain()
    page = read(make(tmp_path, model, x, forward=heads))
    assert {row["output"] for row in page.records("All pairs")} == {"a[0]", "b[0]"}
    assert "output b[1]" in str(page.records("Functional twins"))


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


# refusals (the ordinary mistakes: test_abuse_report.py)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": BatchMean()}, "`model` should treat every sample by itself"),
        ({"model": Noise()}, "`model` should give the same output twice"),
        ({"model": nn.Sequential(nn.Linear(4, 3), nn.Dropout())}, "Call model.eval"),
        ({"x": torch.zeros(40, 5)}, "`x` should fit the model"),
        ({"y": torch.zeros(39).long()}, "`y` should have shape [40] or [40, t]"),
        ({"y": torch.full((40,), -1)}, "`y` should number the classes from 0"),
        ({"y": torch.full((40,), 3)}, "`y` should number classes that have an output each"),
        ({"y": torch.zeros(40, 2).long()}, "`y` should number classes that have an output each"),
        ({"y": torch.zeros(40)}, "`y` should hold a value for each of 3 outputs"),
        ({"path": "."}, "`path` should name a file"),
        ({"others": [nn.Linear(4, 2)]}, "`others` should give 3 outputs"),
        ({"others": [nn.Linear(4, 3)]}, "`others` should have the layers"),
        ({"layers": ["nowhere"]}, "`layers` should name a layer"),
        ({"unit_layer": "nowhere"}, "`unit_layer` should name a layer"),
    ],
)
def test_wrong_arguments_are_refused_and_nothing_is_written(change, message, tmp_path):
    model, x, y = plain()
    with pytest.raises(ValueError, match=re.escape(message)):
        ge.report(**({"model": model, "x": x, "y": y, "path": tmp_path / "report.html"} | change))
    assert list(tmp_path.iterdir()) == []


# in a browser


@needs_chromium
@pytest.mark.slow
@pytest.mark.parametrize("kind", ["everything", "convolutional"])
def test_a_browser_can_read_it_at_any_width(kind, full, tmp_path):
    model, x, y = convolutional()
    path = full[0] if kind == "everything" else make(tmp_path, model, x, y, tolerance=0.1, n_untrained=1, max_units=6)
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
            cut = (
                "Array.from(document.querySelectorAll('.scroll')).filter(one => one.scrollWidth > one.clientWidth + 1)"
            )
            assert (page.evaluate(f"{cut}.length") == 0) is (width == 1280)  # on a telephone tables are pushed sideways
        assert page.evaluate("document.querySelectorAll('h2').length") == 5
