"""The report: its numbers are those of the functions behind it, it stands alone, it refuses, a browser can read it."""

import base64
import io
import json
import re
from collections import OrderedDict
from contextlib import contextmanager
from dataclasses import replace
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from _asserts import unchanged
from _browser import browser, needs_chromium
from _networks import BatchMean, Convolutional, Residual, crossing
from _zoo import CASES
from axe_playwright_python.sync_playwright import Axe
from markupsafe import escape
from PIL import Image
from torch import nn

import gradembed as ge
from benchmarks import report as cost
from gradembed.report import _results, _sections, _units, _views

QUICK = {"n_bootstrap": 20, "max_units": 4}
BRIEF = {"n_bootstrap": 0, "max_units": 4}  # where only words are looked at
UPPER = np.triu_indices(3, 1)


class Page:
    """Its words, its tables by name, what it draws, and every tag with its attributes."""

    def __init__(self, path):
        self.path, self.text, self.tags = Path(path), Path(path).read_text(), []
        parser = HTMLParser()
        parser.handle_starttag = lambda tag, given: self.tags.append((tag, dict(given)))
        parser.feed(self.text)
        self.words = unescape(" ".join(self.text.split()))
        self.data = json.loads(re.search(r'id="data">(.*?)</script>', self.text, re.DOTALL)[1])
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
    """The plotting library takes seconds to put together: left out where nobody opens the page."""
    monkeypatch.setattr(_sections, "plotting_library", str)


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
    options = {"others": networks[1:], "names": names, "n_bootstrap": 50, "n_untrained": 2}
    atlas = ge.report(networks[0], X, Y, tmp_path_factory.mktemp("report") / "full.html", **options)
    return SimpleNamespace(page=Page(atlas), atlas=atlas, networks=networks, names=names)


# numbers


def test_pairs_are_those_of_interference(full):
    frame = ge.interference(full.networks[0], X, n_bootstrap=50, n_untrained=2, centered=True).to_frame()
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
    results = [ge.interference(network, X, centered=True) for network in full.networks]
    copies = [ge.interference(ge.untrained(full.networks[0], seed), X, centered=True) for seed in (0, 1)]
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
    shown = full.page.tables["Nearest units"]
    assert len(shown) == min(15, len(kept) - len(elsewhere))
    for row in shown:
        i = kept.index(row["unit"])
        distances = (flat[elsewhere] - flat[i]).norm(dim=1)
        j = elsewhere[int(distances.argmin())]
        assert kept[j] == row["nearest unit"]
        assert near(row["correlation of values"], np.corrcoef(rows.values[[i, j]].numpy())[0, 1], 2)
        scale = value(row["distance"]) / float(distances.min())
        assert value(row["median distance"]) == pytest.approx(scale * float(np.median(distances)), rel=0.01)
        assert value(row["null"]) > 0
    assert [value(row["distance"]) for row in shown] == sorted(value(row["distance"]) for row in shown)


def test_outputs_are_centered_where_targets_are_classes_of_three_outputs_or_more(make, undrawn):
    three, two = ge.interference(SHARED, X), ge.MLP([4, 6, 6], seed=0)
    for options, is_centered in [({}, False), ({"y": Y}, True), ({"y": Y, "centered": False}, False),
                                 ({"centered": True}, True), ({"y": draw(40, 3)}, False)]:  # fmt: skip
        page = make(**BRIEF, **options)
        expected = ge.interference(SHARED, X, centered=True) if is_centered else three
        assert np.allclose(page.data["matrices"]["input"], expected.cosine["input"], atol=1e-4)
        assert ("minus the mean of their head" in page.words) == is_centered
    for blocks in (torch.stack([Y, Y], 1), None):  # two tasks in one head have no mean of their own
        raw = make(two, y=blocks, **BRIEF).data["matrices"]["input"]
        assert np.allclose(raw, ge.interference(two, X).cosine["input"], atol=1e-4)


def test_many_outputs_stand_in_a_clustered_order(make, undrawn):
    network = ge.MLP([4, 6, 6], seed=0)
    with torch.no_grad():
        network.output.weight[[0, 3]] = network.output.weight[[5, 1]]  # those share everything
    order = make(network, **BRIEF).data["order"]
    assert sorted(order) == list(range(6))
    assert abs(order.index(0) - order.index(5)) == abs(order.index(3) - order.index(1)) == 1
    assert make(**BRIEF).data["order"] == [0, 1, 2]


def packed(text, kind):
    return np.frombuffer(base64.b64decode(text), dtype=kind)


def test_what_the_views_draw_is_what_the_functions_return(full, make, undrawn):
    network, data, answers = full.networks[0], full.page.data, full.networks[0](X).detach()
    result, tree = ge.interference(network, X, centered=True), ge.gradient_tree(network, X)
    values = np.array(data["pairs"]["values"])
    assert np.allclose(values, (answers - answers.mean(1, keepdim=True)).T, rtol=1e-3, atol=1e-4)
    for layer in result.layers:
        assert np.allclose(data["matrices"][layer], result.cosine[layer], atol=1e-4)
        rows = (
            ge.unit_gradients(network, X, layer, directions=torch.eye(3) - 1 / 3).unit_vectors().double()
        )  # [n, u, d]
        exists = rows.any(2)
        own = packed(data["pairs"]["cosines"][layer], "i1").reshape(3, 40)
        for place, (a, b) in enumerate(zip(*UPPER, strict=True)):
            both = (exists[:, a] & exists[:, b]).numpy()
            assert np.allclose(own[place][both] / 127, (rows[:, a] * rows[:, b]).sum(1)[both], atol=0.5 / 127 + 1e-6)
            assert (own[place][~both] == -128).all()
        nodes = packed(data["tree"]["nodes"][layer], "<u2").reshape(3, 40)
        assert np.array_equal(nodes + tree.nodes[layer].min(1, keepdim=True).values.numpy(), tree.nodes[layer])
    units = data["units"]
    first = units["name"].index("output three, net 0")
    at = np.array(units["top"][first])
    assert answers[at, 2].tolist() == answers[:, 2].topk(8).values.tolist()
    assert units["low"][first] == pytest.approx(float(answers[:, 2].min()), rel=1e-3)
    few = make(max_samples=25).data
    assert len(few["samples"]["index"]) == len(set(few["samples"]["index"])) == 25


def test_a_nearest_unit_beats_its_null_in_half_of_all_cases_where_there_is_nothing_to_find():
    rng, groups = np.random.default_rng(0), np.repeat([0, 1, 2], 200)
    mixed = rng.normal(size=(600, 30)) @ rng.normal(size=(30, 30))
    found = _units._nearest(mixed, groups, None, 0)
    assert abs(np.mean(found["nearer"]) - 0.5) < 0.05
    assert abs(np.mean(np.array(found["distance"])[:, 0] < found["null"]) - 0.5) < 0.07
    same = np.tile(mixed[:200], (3, 1)) + 0.01 * rng.normal(size=(600, 30))
    found = _units._nearest(same, groups, mixed[:5], 0)
    nearest = np.array(found["nearest"])
    assert (nearest[:, 0] % 200 == np.arange(600) % 200).all()  # twins by construction
    assert (groups[nearest] != groups[:, None]).all()
    assert (np.array(found["distance"])[:, 0] < 0.2 * np.array(found["null"])).all()
    apart = np.linalg.norm(same[0] - same[200:], axis=1)
    assert found["distance"][0] == pytest.approx(np.sort(apart)[:5].tolist())
    assert found["median"][0] == pytest.approx(np.median(apart))
    assert found["untrained"][7] == pytest.approx(np.linalg.norm(same[7] - mixed[:5], axis=1).min())
    small = _units._nearest(1e-30 * same, groups, 1e-30 * mixed[:5], 0)
    for name in ("distance", "null", "median", "untrained"):
        assert np.allclose(1e30 * np.array(small[name]), found[name])


def test_twins_closer_than_single_precision_tells_are_found():
    rng = np.random.default_rng(0)
    z = np.tile(10 + rng.normal(size=(60, 40)), (2, 1))
    z[60:] += 1e-6 * rng.normal(size=(60, 40))
    found = _units._nearest(z, np.repeat([0, 1], 60), None, 0)
    assert np.array(found["nearest"])[:60, 0].tolist() == list(range(60, 120))
    assert np.array(found["distance"])[:60, 0] == pytest.approx(np.linalg.norm(z[:60] - z[60:], axis=1), rel=1e-6)


def test_cards_are_those_of_unit_card(make, undrawn):
    networks = [ge.MLP([4, 6, 3], seed=seed) for seed in range(2)]
    units = make(networks[0], others=networks[1:], embedder=ge.FieldDescriptor("none"), max_units=6).data["units"]
    parts = [ge.gradient_fields(net, X, unit_layer=layer) for net in networks for layer in ("hidden1", "output")]
    fields = ge.GradientFields.concatenate(parts)
    fields = replace(fields, groups=torch.arange(18) // 9)
    alive = fields.amplitudes() > 0
    fields = fields[alive]
    z = ge.FieldDescriptor("none", random_state=0).fit(fields).transform(fields)
    for i in range(len(fields)):
        card = ge.unit_card(fields, i, z, n_neighbors=3)
        assert units["dimension"][i] == pytest.approx(card.effective_dimension, rel=1e-3)
        assert units["silent"][i] == card.undefined
        assert np.abs(units["aligned_cosine"][i]) == pytest.approx(card.cosines.abs().numpy(), abs=1e-3)
        assert units["nearest"][i][:3] == card.twins.tolist()
        assert units["distance"][i][:3] == pytest.approx(card.distances.tolist(), rel=1e-3)


def test_it_begins_with_what_was_found_beside_chance_and_control(full, make, undrawn):
    results = ge.interference(full.networks[0], X, n_untrained=2, centered=True)
    one, two, three = full.atlas.findings
    layer = re.search("(no layer is beyond chance; nearest to it is|furthest from chance is) '(.*?)'", one)
    (_, low, high), layer = results.excess(layer[2]), layer[2]
    assert ("no layer is beyond chance" in one) == (low <= 0 <= high)
    assert f"two centered outputs is {results.pair_mean('abs_cosine', layer):.3f} and" in one
    assert f"in this network {results.chance[layer]:.3f}," in one
    control = np.mean([copy.pair_mean("abs_cosine", layer) for copy in results.untrained])
    assert f"untrained copies have {control:.3f}" in one
    frame = results.to_frame().query("layer == 'input'")
    lowest = frame.loc[frame["cosine"].idxmin()]
    assert f"({lowest['cosine']:.2f}".replace("-", "−") in two
    assert all(full.names[int(lowest[unit])] in two for unit in ("unit_a", "unit_b"))
    units = full.page.data["units"]
    assert f"{np.mean(units['nearer']):.0%} of {len(units['name'])} units" in three
    assert "(50%;" in three
    assert all(
        unescape(" ".join(line.split())) in full.page.words.replace("</strong>", "") for line in (one, two, three)
    )
    assert "no untrained control was asked for" in make().words
    assert "There is one output" in make(ge.MLP([4, 6, 1], seed=0), **BRIEF).words


SMOOTH = draw(30, 8, 8).cumsum(1).cumsum(2)  # neighbors are alike, as in images
PICTURES = {
    "flat": (SMOOTH.flatten(1), (8, 8)), "grey": (SMOOTH, (8, 8)), "one channel": (SMOOTH[:, None], (8, 8)),
    "colors": (SMOOTH[:, None].repeat(1, 3, 1, 1), (8, 8)), "large": (torch.rand(4, 3, 96, 192), (48, 24)),
    "a table": (draw(30, 64), None), "no square": (draw(30, 65), None), "channels": (draw(30, 5, 8, 8), None),
    "whole numbers": (torch.ones(30, 64).long(), None), "constant": (torch.ones(30, 64), None),
}  # fmt: skip


@pytest.mark.parametrize(("x", "expected"), PICTURES.values(), ids=PICTURES)
def test_samples_that_are_images_have_pictures(x, expected):
    found = _views._picture(x, torch.arange(3))
    if expected is None:
        assert found is None
        return
    assert (found["width"], found["height"], found["n"]) == (*expected, 3)
    sheet = np.asarray(Image.open(io.BytesIO(base64.b64decode(found["data"].split(",")[1]))), dtype=float)
    assert sheet.shape[:2] == (found["rows"] * expected[1], found["columns"] * expected[0])
    if expected == (8, 8):  # the second picture stands beside the first
        shown, own = sheet[:8, 8:16], x[1].reshape(-1, 8, 8)[0].numpy()
        assert np.corrcoef(shown.reshape(64, -1)[:, 0], own.ravel())[0, 1] > 0.99


def test_one_network_has_twins_and_aligned_units_of_its_own(make, undrawn):
    page = make(y=Y, n_untrained=1, max_units=6)
    for row in (twins := page.tables["Nearest units"]):
        assert row["nearest unit"] in {one["unit"] for one in twins} - {row["unit"]}
        assert value(row["nearest in an untrained copy"]) > 0
    for words in ("One network only", "every number below is a fact about this network"):
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
    assert "Nearest units" not in page.tables
    batches = list(asked["input_ids"].split(7))
    assert "Samples: 30 of shape 3 (int64, on cpu)." in make(model, batches, tolerance=0.1, **BRIEF).words


def test_heads_are_named_in_every_section_and_compared_with_each_other(make, undrawn):
    model, _ = CASES["heads_by_name"].made()
    x, site = draw(30, 1, 2, 2, dtype=torch.float64), ge.Site("trunk", mean=(2, 3))
    page = make(model, x, units=["seg[7]", 0, "kind[2]"], layers=["input", site], unit_layer=site, tolerance=0.1)
    assert {row["output"] for row in page.tables["All pairs"]} == {"seg[7]", "seg[0]"}
    assert "output kind[2]" in str(page.tables["Nearest units"])
    assert "trunk mean (2, 3)[0]" in str(page.tables["Nearest units"])
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
    assert {"Interference by layer", "All pairs", "Nearest units", "Settings", "Versions"} <= set(page.tables)
    given = [attributes for _, attributes in page.tags]
    loaded = [one[name] for one in given for name in ("src", "href", "data", "srcset", "action") if one.get(name)]
    assert all(link.startswith(("#", "data:")) for link in loaded)
    assert not [name for one in given for name in one if name.startswith("on")]
    assert not {"iframe", "object", "embed", "base", "link"} & {
        tag for tag, one in page.tags if one.get("rel") != "icon"
    }
    assert re.findall("<h2 id=.(\\w+)", page.text) == ["interference", "tree", "units", "measured", "settings"]
    assert not re.search(r"@import|https?:|fetch\(|XMLHttp", page.text)
    plain = re.sub(r"<(script|style).*?</\1>", "", page.text, flags=re.S)
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
    assert full.page.data["outputs"] == full.names
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
        assert not {"b", "img"} & {tag for tag, _ in one.tags}
        assert len(re.findall("<script", one.text)) == 3
        assert hostile in one.words
    assert "The units could not be embedded" in refused.words
    assert [row["layer"] for row in page.tables["Interference by layer"]] == ["input", hostile]


def dead():
    model = ge.MLP([4, 6, 3], seed=0)
    with torch.no_grad():
        model.output.weight.zero_()
        model.hidden1[0].weight.zero_()
    return model


SAID = {
    "a refused tree": (Residual(), {}, "The library refused with:</p> <blockquote>`tolerance` should be"),
    "a merged tree": (Residual(), {"tolerance": 0.1}, "up to a cosine distance of 0.1. All 40 samples"),
    "a tree that never parts": (ge.MLP([4, 3], seed=0), {}, "Only the input was compared"),
    "no choice of samples": (SHARED, {}, "at 40 of 40 samples"),
    "a choice of samples": (SHARED, {"max_samples": 25}, "25 of the 40 samples|at 25 of 40 samples"),
    "too few samples": (SHARED, {"x": draw(10, 4)}, "Nothing is embedded. 7 units"),
    "dead units": (dead(), {"n_untrained": 1}, "Nothing is embedded: every unit is constant"),
    "one output": (ge.MLP([4, 6, 1], seed=0), {"y": draw(40, 1)}, "There is one output, and so no pair"),
    "two inputs": (CASES["two_inputs"].made()[0], {"x": (draw(40, 3).double(), draw(40, 2).double())},
                   "with '0' of shape 3 (float64, on cpu) and '1' of shape 2|float64 '0', float64 '1'."),
    "half precision": (ge.MLP([4, 6, 3], seed=0).bfloat16(), {"x": X.bfloat16(), "tolerance": 0.1}, "at 40 of 40"),
}  # fmt: skip


@pytest.mark.parametrize(("model", "options", "sentences"), SAID.values(), ids=SAID)
def test_what_is_left_out_is_said(model, options, sentences, make, undrawn):
    page = make(model, **(BRIEF | options))
    assert all(sentence in page.words for sentence in sentences.split("|"))
    assert ("All pairs" in page.tables) is (sentences != SAID["one output"][2])


def test_a_tree_that_is_too_large_is_explained(make, monkeypatch, undrawn):
    monkeypatch.setattr(_sections, "MOST_NODES", 5)
    page = make(**BRIEF)
    assert "`max_nodes` should" in page.words
    assert page.data["tree"] is None


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


def test_an_atlas_is_a_path_and_is_saved_elsewhere(make, tmp_path, undrawn):
    atlas = ge.report(SHARED, X, path=tmp_path / "one.html", title="A & B", **BRIEF)
    assert Path(atlas) == atlas.path == tmp_path / "one.html"
    assert atlas.save(tmp_path / "new" / "two.html").read_text() == atlas.path.read_text() == atlas.html
    assert repr(atlas).startswith("Atlas('A & B', 0.")
    with pytest.raises(ValueError, match="`path` should name a file"):
        atlas.save(tmp_path)
    with pytest.raises(TypeError, match="`path` should"):
        atlas.save(3)
    with pytest.raises(ValueError, match="`height` should"):
        atlas.explore(height=100)
    with pytest.raises(TypeError, match="`height` should"):
        atlas.explore(height="tall")


# results that are there already


@pytest.fixture(scope="module")
def results():
    """Of three networks, and what is explored of them."""
    networks = [ge.MLP([4, 6, 6, 3], seed=seed) for seed in (5, 6, 7)]
    parts = [ge.gradient_fields(network, X, unit_layer="hidden2", labels=torch.arange(6) % 2) for network in networks]
    fields = ge.GradientFields.concatenate(parts, new_networks=True)
    return ge.interference(networks[0], X, n_untrained=1), ge.gradient_tree(networks[0], X), fields


def explored(tmp_path, *results, **options):
    return Page(ge.explore(*results, **options).save(tmp_path / "explored.html"))


def test_results_are_shown_as_they_are(results, tmp_path, undrawn):
    result, tree, fields = results
    page = explored(tmp_path, result, tree, fields[torch.randperm(18)], title="A & B")
    assert page.data["pairs"] is None
    for layer in result.layers:
        assert np.allclose(page.data["matrices"][layer], result.cosine[layer], atol=1e-4)
        assert np.allclose(page.data["control"][layer], result.untrained[0].cosine[layer], atol=1e-4)
        nodes = packed(page.data["tree"]["nodes"][layer], "<u2").reshape(3, 40)
        assert np.array_equal(nodes + tree.nodes[layer].min(1, keepdim=True).values.numpy(), tree.nodes[layer])
    assert [int(row["node"]) for row in page.tables["Largest subtrees"]] == tree.largest("hidden1")["node"].tolist()
    assert len(page.tables["All pairs"]) == len(result.to_frame())
    units = page.data["units"]
    assert units["network"] == sorted(units["network"])
    assert len(units["name"]) == int((fields.amplitudes() > 0).sum())
    assert set(units["label"]) == {"0", "1"}
    alive = fields[fields.amplitudes() > 0]
    rows = alive.normalized().gradients.flatten(1)
    nearest = torch.cdist(rows, rows).masked_fill(alive.groups[:, None] == alive.groups, torch.inf).amin(1)
    scale = np.sort(np.array(units["distance"])[:, 0]) / np.sort(nearest)
    assert np.allclose(scale, scale[0], rtol=1e-2)
    assert "there is no untrained control." in page.words
    assert "<h1>A &amp; B</h1>" in page.text


@pytest.mark.parametrize("kept", [(0,), (1,), (2,), (0, 2)])
def test_views_without_a_result_are_left_out_and_it_is_said(results, kept, tmp_path, undrawn):
    page = explored(tmp_path, *(results[i] for i in kept))
    there = [("interference", "tree", "units")[i] for i in kept]
    assert re.findall("<h2 id=.(\\w+)", page.text) == [*there, "settings"]
    assert re.findall('<li><a href="#(\\w+)', page.text) == [*there, "settings"]
    left_out = page.words.split("Left out are the views of what was not given: ")[1].split(".</p>")[0]
    assert left_out.count("(gradembed.") == 3 - len(kept)


def one_network(fields):
    return replace(fields, groups=None, labels=None)


def test_fields_of_one_network_have_twins_of_their_own(results, tmp_path, undrawn):
    page = explored(tmp_path, one_network(results[2][:6]), embedder=ge.FieldDescriptor("linear"))
    assert page.data["units"]["name"][0] == "unit 0"
    assert "Embedded by FieldDescriptor" in page.words
    assert "label" not in page.data["units"]


def varying(**changes):
    points, gradients = draw(30, 4), draw(5, 30, 4)
    return replace(ge.GradientFields(points, gradients, gradients.sum(2)), **changes)


BAD = {
    "none": ((), {}, "`results` should hold at least one"),
    "a matrix": ((torch.eye(3),), {}, "`results` should be an Interference"),
    "two": ((varying(), varying()), {}, "`results` should be one of each kind. Got two GradientFields"),
    "hidden": ((ge.interference(SHARED, X, unit_layer="hidden1"),), {}, "should compare at most 100 outputs. Got 6"),
    "many": ((ge.interference(ge.MLP([4, 101], seed=0), X),), {}, "should compare at most 100 outputs. Got 101"),
    "no chance": ((ge.interference(SHARED, X, n_readouts=0),), {}, "should have two units or more, and a level of"),
    "no values": ((varying(values=None),), {}, "`results` should have values at shared points. Got no values"),
    "own points": ((varying(points=draw(5, 30, 4)),), {}, "should have values at shared points. Got points of"),
    "constant": ((varying(gradients=torch.zeros(5, 30, 4), values=torch.ones(5, 30)),), {}, "should have a unit that"),
    "embedder": ((varying(),), {"embedder": ge.FieldDescriptor}, "`embedder` should be an estimator"),
    "title": ((varying(),), {"title": 3}, "`title` should be a string"),
    "seed": ((varying(),), {"seed": -1}, "`seed` should"),
}


@pytest.mark.parametrize(("given", "options", "message"), BAD.values(), ids=BAD)
def test_what_cannot_be_explored_is_refused(given, options, message):
    with pytest.raises((ValueError, TypeError), match=re.escape(message)):
        ge.explore(*given, **options)


def test_a_tree_that_is_too_large_is_refused(results, monkeypatch):
    monkeypatch.setattr(_results, "MOST_NODES", 5)
    with pytest.raises(ValueError, match="`results` should have at most 5 nodes at a layer"):
        ge.explore(results[1])


def test_a_page_of_results_has_no_path(results, undrawn):
    atlas = ge.explore(results[0])
    assert repr(atlas) == "Atlas('Results to look around in', 0.1 MB, not saved)"
    with pytest.raises(ValueError, match="`atlas` should be a page on disk"):
        Path(atlas)
    assert atlas._repr_html_() == atlas.explore()._repr_html_()


# in a browser

WIDTHS = pytest.mark.parametrize("size", [(1280, 900), (400, 800)], ids=["wide", "narrow"])
SCHEMES = pytest.mark.parametrize("scheme", ["light", "dark"])


@pytest.fixture(scope="module")
def pictured(tmp_path_factory):
    """A report about networks that look at pictures."""
    x = draw(60, 8, 8).cumsum(1).cumsum(2).flatten(1)
    networks = [ge.MLP([64, 12, 12, 4], seed=seed) for seed in (1, 2, 3)]
    path = tmp_path_factory.mktemp("pictured") / "pictures.html"
    given = {"others": networks[1:], "n_untrained": 1, "n_bootstrap": 20, "names": ["one", "two", "three", "four"]}
    return ge.report(networks[0], x, torch.arange(60) % 4, path, **given)


@contextmanager
def opened(path, size, scheme="light"):
    """A page in a browser, its figures drawn; nothing may go wrong until it is closed."""
    with browser() as page:
        page.resize(*size)
        page.tab.emulate_media(color_scheme=scheme)
        page.open(Path(path))
        page.wait(cost.DRAWN)
        yield page
        assert page.errors == []


def serious(page):
    """What axe-core finds that bars people from a page."""
    found = Axe().run(page.tab).response["violations"]
    return [(one["id"], one["nodes"][0]["html"]) for one in found if one["impact"] in ("serious", "critical")]


@needs_chromium
@pytest.mark.slow
@WIDTHS
@SCHEMES
def test_everyone_can_read_it_at_any_width(pictured, full, size, scheme):
    smallest = """Math.min(...Array.from(document.querySelectorAll("main *")).filter(
        one => Array.from(one.childNodes).some(node => node.nodeType == 3 && node.textContent.trim())).map(
        one => parseFloat(getComputedStyle(one).fontSize)))"""
    cut = """Array.from(document.querySelectorAll('main table')).filter(
        one => one.offsetWidth > one.parentElement.clientWidth + 1 &&
        getComputedStyle(one.parentElement).overflowX != 'auto')"""
    for atlas in (pictured, full.atlas):
        with opened(atlas, size, scheme) as page:
            page.evaluate("document.querySelectorAll('details').forEach(one => { one.open = true })")
            page.tab.locator("#search").fill("net 1")
            page.tab.locator("#found button").first.click()
            page.wait("document.querySelector('#card table')")
            assert page.evaluate("document.documentElement.scrollWidth") <= size[0]
            assert page.evaluate(smallest) >= 12
            assert page.evaluate(f"{cut}.length") == 0
            assert serious(page) == []


@needs_chromium
@pytest.mark.slow
@WIDTHS
def test_every_view_leads_to_the_next_and_back(pictured, size):
    with opened(pictured, size) as page:
        tab = page.tab
        state = lambda name: page.evaluate(f"new URLSearchParams(location.hash.slice(1)).get('{name}')")  # noqa: E731
        # layers → matrix → one pair → one sample
        tab.locator("#layers .role-mark.mark-symbol path").last.click(force=True)
        page.wait("location.hash.includes('layer=2')")
        assert tab.locator("#layer").input_value() == "2"
        tab.locator("#matrix .layer_0_marks path").nth(1).click()  # the first output and the third
        page.wait("document.getElementById('a').value + document.getElementById('b').value == '02'")
        assert "one and three at hidden2: mean cosine" in tab.locator("#status").text_content()
        page.wait("document.querySelector('#pair .plot').textContent.includes('value of output three')")
        tab.locator("#pair .layer_0_marks path").first.click(force=True)
        page.wait("location.hash.includes('sample=')")
        assert tab.locator("#extremes .picture").count() > 0
        # branches: down, up
        tab.locator("#root").select_option("1")
        tab.locator("#branches .mark-rect path").last.click()
        page.wait("location.hash.includes('branch=')")
        assert tab.locator("#branch").text_content().startswith("A branch at 'input'")
        tab.locator("#up").click()
        page.wait("document.getElementById('branch').textContent.startsWith(\"A branch at 'hidden1'\")")
        tab.locator("#down").select_option(index=1)
        page.wait("document.getElementById('branch').textContent.startsWith(\"A branch at 'input'\")")
        # embedding: hover, click, nearest unit, back
        point = tab.locator("#embedding .layer_0_layer_0_marks path, #embedding .layer_0_marks path").first
        point.hover(force=True)
        page.wait("!document.getElementById('tip').hidden")
        assert "nearest elsewhere: " in tab.locator("#tip").text_content()
        point.click(force=True)
        page.wait("location.hash.includes('unit=')")
        first, unit = tab.locator("#card h3").text_content(), state("unit")
        assert "of the null" in tab.locator("#card").text_content()
        tab.locator("#card table button").first.click()
        page.wait(f"document.querySelector('#card h3').textContent != {json.dumps(first)}")
        tab.go_back()
        page.wait(f"document.querySelector('#card h3').textContent == {json.dumps(first)}")
        assert state("unit") == unit
        # the address alone brings all of it back
        address = page.evaluate("location.href")
        page.open(address)
        page.wait(cost.DRAWN)
        assert tab.locator("#card h3").text_content() == first
        assert tab.locator("#layer").input_value() == "2"
        # search, by keyboard
        tab.locator("#search").fill("OUTPUT two")
        assert tab.locator("#found button").all_text_contents() == [f"output two, net {i}" for i in range(3)]
        tab.locator("#search").press("Tab")  # to the colors, and on to what was found
        page.tab.keyboard.press("Tab")
        page.tab.keyboard.press("Enter")
        page.wait("document.querySelector('#card h3').textContent == 'output two, net 0'")
        tab.locator("#search").fill("nothing of the kind")
        assert tab.locator("#found").text_content() == "no unit has such a name"
        tab.locator("#colors").select_option("distance")
        page.wait("document.querySelector('#embedding .plot').textContent.includes('in units of the null')")


@needs_chromium
@pytest.mark.slow
@WIDTHS
def test_arrow_keys_walk_through_the_figures(pictured, size):
    with opened(pictured, size) as page:
        tab = page.tab
        chosen = lambda name: tab.locator(f"#{name}").input_value()  # noqa: E731

        def press(figure, *keys):
            tab.locator(f"#{figure} .plot").focus()
            for key in keys:
                tab.keyboard.press(key)
            assert page.evaluate(f"document.activeElement === document.querySelector('#{figure} .plot')")
            assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
            return tab.locator("#status").text_content()

        assert "at hidden2: mean cosine" in press("layers", *["ArrowRight"] * 5)  # and no farther
        assert "at hidden1: mean cosine" in press("layers", "ArrowLeft")
        assert chosen("layer") == "1"
        tab.locator("#a").select_option("0")
        tab.locator("#b").select_option("1")
        page.wait("location.hash.includes('a=0') || document.getElementById('a').value == '0'")
        said = press("matrix", "ArrowDown")  # over the diagonal
        assert (chosen("a"), chosen("b")) == ("2", "1")
        assert said.startswith("Outputs three and two at hidden1: mean cosine ")
        said = press("matrix", "ArrowDown", "ArrowDown")  # and no farther
        assert (chosen("a"), chosen("b")) == ("3", "1")
        page.wait("document.querySelector('#matrix path[aria-label]')")
        cells = tab.locator("#matrix .layer_0_marks path").evaluate_all("all => all.map(one => one.ariaLabel)")
        names = ("one", "two", "three", "four")
        pairs = {(a, b) for a in names for b in names if a != b}
        assert {tuple(cell.split(":")[0].split(" and ")) for cell in cells} == pairs
        assert f"two and four:{said.split(':')[1]}" in cells
        assert re.fullmatch(r"Sample \d+, cosine −?\d\.\d\d", press("pair", "ArrowRight"))
        first = page.evaluate("location.hash")
        press("pair", "ArrowRight", "ArrowUp", "ArrowLeft", "ArrowDown")
        assert page.evaluate("location.hash") != first
        before = press("embedding", "ArrowRight")
        assert before.startswith("Card of ")
        assert press("embedding", "ArrowRight", "ArrowLeft", "ArrowUp") != before
        tab.keyboard.press("Control+ArrowUp")  # is not ours
        assert serious(page) == []


@needs_chromium
@pytest.mark.slow
def test_figures_and_tables_can_be_saved(pictured, full):
    with opened(pictured, (1280, 900)) as page:
        for name, kind in (("embedding", "svg"), ("pair", "csv")):
            with page.tab.expect_download() as download:
                page.tab.locator(f"#{name} [data-save={kind}]").click()
            text = Path(download.value.path()).read_text()
            assert download.value.suggested_filename == f"{name}.{kind}"
            assert text.startswith("<svg" if kind == "svg" else "sample,index,class,a,b,cosine\n")
        assert len(text.splitlines()) == 61
    with opened(full.atlas, (1280, 900)) as page:
        page.evaluate("document.querySelectorAll('details').forEach(one => { one.open = true })")
        with page.tab.expect_download() as download:
            page.tab.locator("[aria-label='Save all-pairs as CSV']").click()
        rows = pd.read_csv(download.value.path(), keep_default_na=False)
        assert rows["output"].tolist() == [row["output"] for row in full.page.tables["All pairs"]]


@needs_chromium
@pytest.mark.slow
def test_a_notebook_has_the_same_views(pictured, tmp_path):
    cell = tmp_path / "cell.html"
    cell.write_text(f"<!DOCTYPE html><title>cell</title>{pictured.explore(height=700)._repr_html_()}")
    with browser() as page:
        page.open(cell)
        frame = page.tab.frame_locator("iframe")
        frame.locator("#embedding[data-drawn]").wait_for()
        frame.locator("#search").fill("output two, net 1")
        frame.locator("#found button").click()
        frame.locator("#card h3", has_text="output two, net 1").wait_for()
        assert page.errors == []
    summary = pictured._repr_html_()
    assert all(str(escape(line)) in summary for line in (pictured.title, *pictured.findings, str(pictured.path)))


@needs_chromium
@pytest.mark.slow
@WIDTHS
def test_a_notebook_shows_results(results, size, tmp_path):
    atlas, cell = ge.explore(*results), tmp_path / "cell.html"
    cell.write_text(f"<!DOCTYPE html><html lang=en><title>cell</title><main>{atlas._repr_html_()}</main>")
    with browser() as page:
        page.resize(*size)
        page.open(cell)
        frame = page.tab.frame_locator("iframe")
        for figure in ("layers", "matrix", "branches", "embedding"):
            frame.locator(f"#{figure}[data-drawn]").wait_for()
        frame.locator("#search").fill("unit 2, net 1")
        frame.locator("#found button").click()
        frame.locator("#card h3", has_text="unit 2, net 1").wait_for()
        frame.locator("#colors").select_option("label")
        for name, unit in (("a", "0"), ("b", "1")):
            frame.locator(f"#{name}").select_option(unit)
        frame.locator("#matrix .plot").press("ArrowRight")
        frame.locator("#status", has_text="Outputs 0 and 2 at input: mean cosine").wait_for(state="attached")
        page.open(atlas.save(tmp_path / "whole.html"))
        page.wait("document.getElementById('embedding').dataset.drawn")
        assert page.evaluate("document.documentElement.scrollWidth") <= size[0]
        assert serious(page) == []
        assert page.errors == []


@needs_chromium
@pytest.mark.slow
def test_ten_thousand_units_are_quick(tmp_path):
    """Times are of a quiet machine in headless Chromium; here with room for a busy one."""
    path = tmp_path / "many.html"
    assert cost.write(path, 2000, 20)["MB"] < 10
    told = cost.look(path)
    assert told["units"] > 9_000
    assert told["errors"] == 0
    assert told["first paint"] < 3 * 1500
    assert told["brush"] < 3 * 100
