"""Pairwise interference against loops, on paper, under symmetries; intervals, chance, control, heads, groups."""

import importlib
import math
from functools import partial

import pytest
import torch
from _asserts import assert_close, unchanged
from _networks import Net, crossing, linear, mlp, randn, rescaled
from _oracle import all_pairs_loop, interference_loop
from torch import nn

import gradembed as ge

MEANS = ("cosine", "abs_cosine", "conflict", "norm_similarity")
MEASURES = (*MEANS, "norm", "undefined", "count")
AT_INPUT = partial(ge.interference, layers=["input"])


def assert_is_loop(result, layer, gradients):
    for name, expected in interference_loop(gradients).items():
        assert_close(getattr(result, name)[layer].double(), expected.double(), rtol=1e-9, atol=1e-9)


def test_hand_weighted_network():
    x = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [1.0, -2.0], [-1.0, -1.0]], dtype=torch.float64)
    result = AT_INPUT(crossing(), x)
    # cosines 0, 1, -1, 1 and none
    for name, (own, other) in {"cosine": (1, 0.25), "abs_cosine": (1, 0.75), "conflict": (0, 0.25)}.items():
        assert getattr(result, name)["input"].flatten().tolist() == pytest.approx([own, other, other, own])
    assert_close(result.norm["input"], torch.full((2,), (math.sqrt(2) + 3) / 5, dtype=torch.float64))
    assert result.undefined["input"].tolist() == [1, 1]
    assert result.count["input"].tolist() == [[4, 4], [4, 4]]
    assert result.orthogonality()["input"] == pytest.approx(0.25)
    every = AT_INPUT(crossing(), x[[0, 1, 2, 4]], pairing="all")
    assert every.count["input"].tolist() == [[9, 9], [9, 9]]
    assert every.undefined["input"].tolist() == [1, 1]


def test_dead_units_are_counted_and_never_give_nan():
    network = nn.Sequential(linear([[1, 0], [0, 1]]), nn.ReLU(), linear([[1, 1], [0, 0], [1, -1], [1, 1]]))
    result = ge.interference(network, torch.rand(6, 2, dtype=torch.float64) + 0.1)
    dead = ge.interference(linear([[0, 0, 0]]), randn(2, 3))
    assert dead.undefined["input"].tolist() == [2]
    frame = result.to_frame()
    assert not frame.isna().any().any()
    assert result.undefined["input"].tolist() == [0, 6, 0, 0]
    assert result.count["input"][:2].tolist() == [[6, 0, 6, 6], [0, 0, 0, 0]]
    assert result.cosine["input"][1].tolist() == [0, 0, 0, 0]
    assert frame.loc[frame["unit_a"] == "1", ["n_pairs", "undefined_a"]].to_numpy().tolist() == [[0, 6]] * 6
    assert "zero gradients left out: {'input': 6" in repr(result)
    assert result.pair_mean("cosine", "input") == pytest.approx(1 / 3)  # pairs (0, 2), (0, 3), (2, 3)
    assert result.orthogonality()["input"] == pytest.approx(2 / 3)


@pytest.mark.parametrize("scale", [1e-30, 1e-20, 1e18])
def test_tiny_and_huge_gradients_keep_their_angles(scale):
    network, x = ge.MLP([6, 5, 3], nn.Tanh, seed=0), torch.randn(20, 6)
    expected = ge.interference(network, x)
    with torch.no_grad():
        network.output.weight.mul_(scale)
    result = ge.interference(network, x)
    for layer in result.layers:
        assert_close(result.cosine[layer], expected.cosine[layer], rtol=1e-4, atol=1e-5)
        assert_close(result.norm[layer], expected.norm[layer] * scale, rtol=1e-4, atol=0)
        assert result.undefined[layer].tolist() == [0, 0, 0]


@pytest.mark.parametrize("scale", [1e3, 1e-60, 1e-90])
def test_all_pairs_of_long_and_short_gradients(scale):
    """Squares of lengths that are 1e-90 of the longest would vanish."""
    network, x = mlp(6, 5, 3), randn(8, 6)
    with torch.no_grad():
        network.output.weight[1] *= scale
    result = AT_INPUT(network, x, pairing="all")
    expected = all_pairs_loop(ge.unit_gradients(network, x, "input").gradients)["norm_similarity"]
    assert_close(result.norm_similarity["input"], expected, atol=0)
    assert float(expected[0, 1]) > 0


def test_rescaling_hidden_units_moves_their_own_layer_only():
    x, factors = randn(50, 6), torch.tensor([0.1, 10, 1, 3, 7], dtype=torch.float64)
    before, after = (ge.interference(rescaled(f), x).cosine for f in (torch.ones(5), factors))
    for layer in ("input", "hidden2"):
        assert_close(after[layer], before[layer])
    # a cosine at a layer depends on that layer's scales, and another function has others: the negative controls
    assert float((after["hidden1"] - before["hidden1"]).abs().max()) > 0.01
    assert float((ge.interference(rescaled(-factors), x).cosine["input"] - before["input"]).abs().max()) > 0.01


def test_separate_tasks_are_orthogonal_and_shared_ones_are_not():
    separate, shared, x = mlp(8, 12, 2), mlp(8, 12, 2), randn(100, 8)
    with torch.no_grad():
        separate.hidden1.linear.weight[:6, 4:] = 0
        separate.hidden1.linear.weight[6:, :4] = 0
        separate.output.weight[0, 6:] = 0
        separate.output.weight[1, :6] = 0
    apart, together = (ge.interference(model, x).orthogonality() for model in (separate, shared))
    single = ge.interference(separate.float(), x.float())
    for layer in ("input", "hidden1"):
        assert apart[layer] == pytest.approx(1, abs=1e-12)
        assert together[layer] < 0.9
        assert float(single.conflict[layer][0, 1]) == 0  # not rounding noise


# Groups, heads, frames


def test_heads_are_groups_and_keep_them_when_units_are_chosen():
    model = Net(lambda m, x: {"seg": m.seg(h := torch.tanh(m.trunk(x))), "kind": m.kind(h)},
                trunk=nn.Linear(4, 5), seg=nn.Linear(5, 3), kind=nn.Linear(5, 2)).double()  # fmt: skip
    x, units = randn(9, 4), ["kind[1]", "seg[0]", 2]
    result, some = ge.interference(model, x), ge.interference(model, x, units=units)
    assert result.layers == ("input", "trunk")  # a head's layer does not feed the other's units
    assert result.heads == ("seg",) * 3 + ("kind",) * 2
    assert (some.unit_labels, some.heads) == (("kind[1]", "seg[0]", "seg[2]"), ("kind", "seg", "seg"))
    assert some.to_frame()["unit_a"].tolist() == ["kind[1]", "kind[1]", "seg[0]"] * 2
    for layer in result.layers:
        assert result.orthogonality("heads")[layer] == 1 - float(result.abs_cosine[layer][:3, 3:].mean())
        assert result.orthogonality(list("aaabb"))[layer] == result.orthogonality("heads")[layer]
        assert some.orthogonality("heads")[layer] == 1 - float(result.abs_cosine[layer][4, [0, 2]].mean())
        assert_is_loop(result, layer, ge.unit_gradients(model, x, layer).gradients)
    one = ge.interference(model, x, forward=lambda m, batch: m(batch)["seg"])
    assert (one.heads, one.unit_labels, one.layers) == ((), ("0", "1", "2"), ("input", "trunk"))
    assert_close(one.cosine["trunk"], result.cosine["trunk"][:3, :3])


@pytest.mark.parametrize(("change", "groups", "message"), [
    (1, "heads", r"`groups` should be given for a model with one head. Got 'heads'"),
    (1, [0, 1], r"`groups` should name a group for each of 3 units. Got 2. Name them all"),
    (1, [0, 0, 0], r"`groups` should name at least two groups. Got one"),
    (0, None, r"`groups` should have a defined cosine between them at 'input'. Got zero gradients"),
])  # fmt: skip
def test_bad_groups_are_refused(change, groups, message):
    network = mlp(4, 5, 3)
    with torch.no_grad():
        network.output.weight.mul_(change)
    with pytest.raises(ValueError, match=message):
        ge.interference(network, randn(5, 4)).orthogonality(groups)


def test_frame_has_a_row_per_layer_and_pair_and_everything_in_it():
    network, x = mlp(4, 5, 3), randn(30, 4)
    plain = ge.interference(network, x, units=[2, 0, 1])
    result = ge.interference(network, x, units=[2, 0, 1], n_bootstrap=20, n_untrained=1)
    base = ["layer", "unit_a", "unit_b", *MEANS, "norm_a", "norm_b", "undefined_a", "undefined_b", "n_pairs"]
    base += ["output_correlation", "chance", "excess", "excess_low", "excess_high"]
    assert list(plain.to_frame().columns) == base
    frame = result.to_frame()
    ends = [f"{name}_{end}" for name in MEANS for end in ("low", "high")]
    more = [*ends, *(f"untrained_{name}" for name in MEANS)]
    assert list(frame.columns) == base + more
    assert frame[base].equals(plain.to_frame())
    assert frame[["layer", "unit_a", "unit_b"]].to_numpy().tolist() == [
        [layer, *pair] for layer in ("input", "hidden1") for pair in (["2", "0"], ["2", "1"], ["0", "1"])
    ]
    assert frame["cosine"].tolist()[:3] == [float(result.cosine["input"][a, b]) for a, b in ((0, 1), (0, 2), (1, 2))]
    assert (frame["cosine_low"] <= frame["cosine"] + 1e-12).all()
    assert (frame["cosine"] <= frame["cosine_high"] + 1e-12).all()
    assert frame["excess"].tolist() == (frame["abs_cosine"] - frame["layer"].map(result.chance)).tolist()
    without = ge.interference(network, x, n_readouts=0)
    assert (without.chance, without.readouts, "excess" in without.to_frame()) == ({}, {}, False)


def test_labels_layers_and_repr():
    network, x = mlp(4, 5, 6, 3), randn(5, 4)
    result = ge.interference(network, x, directions=torch.eye(3)[:2], layers="hidden1")
    assert result.unit_labels == ("direction 0", "direction 1")
    assert repr(result) == "Interference(2 units of 'output', layers ['hidden1'], 5 samples)"
    assert AT_INPUT(network, x, units=[1, 1]).orthogonality()["input"] == pytest.approx(0, abs=1e-12)
    hidden = ge.interference(network, x, unit_layer="hidden2")
    assert (hidden.layers, len(hidden.unit_labels)) == (("input", "hidden1"), 6)
    site = ge.Site("hidden1", index=(slice(None), slice(0, 2)))
    named = ge.interference(network, x, layers=["h*2", site, "input", "hidden2", ge.Site("input")])
    assert named.layers == ("hidden2", "hidden1 [:, 0:2]", "input")  # none twice, in the caller's order
    assert_is_loop(named, str(site), ge.unit_gradients(network, x, "hidden1").gradients[..., :2])


@pytest.mark.parametrize(("arguments", "message"), [
    ({"layers": ["blocks.*"]}, r"`layers` should name a layer of the model. Got 'blocks.\*'"),
    ({"layers": ["output"]}, r"`layers` should come before 'output'"),
    ({"unit_layer": "input"}, r"`unit_layer` should come after the input"),
    ({"n_bootstrap": 9, "pairing": "all"}, r"`n_bootstrap` should be 0 with pairing='all'.*Got 9"),
])  # fmt: skip
def test_bad_arguments_are_refused(arguments, message):
    network, x = mlp(4, 5, 3), randn(5, 4)
    with unchanged(network), pytest.raises(ValueError, match=message):
        ge.interference(network, x, **arguments)


# All pairs of samples


def test_all_pairs_differ_from_realised_pairs_unless_gradients_are_constant():
    network, x = mlp(6, 8, 8, 3), randn(40, 6)
    realised, every = ge.interference(network, x), ge.interference(network, x, pairing="all")
    assert_close(every.cosine["hidden2"], realised.cosine["hidden2"])  # rows of the last weight matrix
    assert every.count["hidden2"].unique().tolist() == [1600]
    assert float((every.cosine["input"] - realised.cosine["input"]).abs().max()) > 0.05
    assert float(every.cosine["input"][0, 0]) < 0.99  # a unit's gradients at different samples differ
    assert float(realised.cosine["input"][0, 0]) == pytest.approx(1)
    one, same = (AT_INPUT(network, x[:1], units=[0], pairing=pairing).norm["input"] for pairing in ("all", "realised"))
    assert_close(one, same)


def test_all_pairs_in_blocks_are_the_same(monkeypatch):
    network, x = mlp(6, 8, 3), randn(30, 6)
    whole = ge.interference(network, x, pairing="all")
    monkeypatch.setattr(importlib.import_module("gradembed.interference.all_pairs"), "BLOCK", 7)
    parts = ge.interference(network, x, pairing="all")
    for name in MEASURES:
        assert_close(getattr(parts, name)["input"], getattr(whole, name)["input"])


# Intervals


def test_bootstrap_agrees_with_resampling_by_hand():
    network, x = mlp(6, 8, 3), randn(300, 6)
    result = AT_INPUT(network, x, n_bootstrap=2000)
    vectors = ge.unit_gradients(network, x, "input").unit_vectors()
    cosines = (vectors[:, 0] * vectors[:, 2]).sum(1)
    drawn = cosines[torch.randint(300, (2000, 300))]
    for name, values in {"cosine": drawn, "abs_cosine": drawn.abs(), "conflict": (drawn < 0).double()}.items():
        by_hand = torch.quantile(values.mean(1), torch.tensor([0.025, 0.975], dtype=torch.float64))
        ends, width = result.intervals[name]["input"], float(by_hand[1] - by_hand[0])
        assert_close(ends[:, 0, 2], by_hand, rtol=0, atol=0.12 * width)
        assert_close(ends, ends.mT)
        low, high = result.summary_intervals[name]["input"]
        assert low < result.pair_mean(name, "input") < high
        assert high - low < float((ends[1] - ends[0]).max())


def test_intervals_cover_the_mean_over_many_samples_about_as_often_as_they_say():
    network = mlp(6, 8, 3)
    truth = AT_INPUT(network, randn(50_000, 6)).cosine["input"][0, 1]
    ends = [AT_INPUT(network, randn(100, 6), n_bootstrap=200, seed=i).intervals["cosine"]["input"] for i in range(100)]
    hits = sum(bool(low[0, 1] <= truth <= high[0, 1]) for low, high in ends)
    assert 86 <= hits <= 100  # 95 expected, less a little for 100 samples


def test_intervals_narrow_with_samples_and_widen_with_confidence():
    network, x = mlp(6, 8, 3), randn(1600, 6)
    asked = {"x": x[:100]}, {"x": x}, {"x": x, "confidence": 0.99}, {"x": x, "confidence": 0.5}
    ends = [AT_INPUT(network, n_bootstrap=1000, **more).intervals["cosine"]["input"][:, 0, 1] for more in asked]
    few, many, sure, unsure = (float(high - low) for low, high in ends)
    assert few / many == pytest.approx(4, rel=0.35)
    assert sure / unsure == pytest.approx(2.576 / 0.674, rel=0.25)


@pytest.mark.parametrize("chunk_size", [1, 7])
def test_intervals_do_not_depend_on_chunks_but_on_the_seed(chunk_size):
    ask = partial(ge.interference, mlp(6, 8, 3), randn(20, 6), n_bootstrap=50)
    whole, parts, other = ask(), ask(chunk_size=chunk_size), ask(seed=1)
    for name, layers in whole.intervals.items():
        for layer, ends in layers.items():
            assert_close(parts.intervals[name][layer], ends)
            assert parts.summary_intervals[name][layer] == pytest.approx(whole.summary_intervals[name][layer])
    assert not torch.equal(other.intervals["cosine"]["input"], whole.intervals["cosine"]["input"])
    low, high = whole.intervals["cosine"]["hidden1"]  # where gradients are constant
    assert_close(low, high)
    assert_close(low, whole.cosine["hidden1"])


def test_the_interval_of_a_rare_pair_is_that_of_the_samples_that_have_it():
    """Of 400 samples eight move both units, with cosines 0 and 1 alike often, beside one unit that is never moved."""
    network = nn.Sequential(linear([[1, 0], [0, 1]], [-9, -9]), nn.ReLU(), linear([[1, 1], [1, -1], [0, 0]]))
    x = torch.zeros(400, 2, dtype=torch.float64)
    x[10:50:10], x[200:240:10, 0] = 10, 10
    result, dense = (AT_INPUT(network, part, n_bootstrap=4000) for part in (x, x[x.any(1)]))
    assert result.count["input"].tolist() == [[8, 8, 0], [8, 8, 0], [0, 0, 0]]
    assert result.cosine["input"][0, 1] == pytest.approx(0.5)
    for name in MEANS:
        ends, expected = result.intervals[name]["input"], dense.intervals[name]["input"]
        assert_close(ends[:, 0, 1], expected[:, 0, 1], rtol=0, atol=0.08)  # two draws of the same law
        assert result.summary_intervals[name]["input"] == pytest.approx(tuple(ends[:, 0, 1].tolist()))
        assert not ends[:, 2].any()


# Control


def test_untrained_control_is_the_network_with_new_weights():
    network, x = ge.MLP([6, 8, 3], seed=0), torch.randn(30, 6)
    with torch.no_grad():
        network.output.weight.mul_(3)
    with unchanged(network):
        result = ge.interference(network, x, n_untrained=2, seed=5, units=[0, 2])
    for control, seed in zip(result.untrained, (5, 6), strict=True):
        expected = ge.interference(ge.MLP([6, 8, 3], seed=seed), x, units=[0, 2])
        assert torch.equal(control.cosine["input"], expected.cosine["input"])
    mean = sum(control.cosine["input"][0, 1] for control in result.untrained) / 2
    assert result.to_frame()["untrained_cosine"][0] == pytest.approx(float(mean))
