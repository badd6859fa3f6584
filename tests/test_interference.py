import importlib
import math

import pytest
import torch
from _asserts import assert_close, unchanged
from _networks import Convolutional, Residual, crossing, linear, random_networks
from _oracle import all_pairs_loop, gradient_loop, interference_loop
from hypothesis import given, settings
from torch import nn

import gradembed as ge

MEASURES = ("cosine", "abs_cosine", "conflict", "norm_similarity", "norm", "undefined", "count")


def expected_of(gradients):
    loop = interference_loop(gradients)
    return {name: loop[name] for name in MEASURES}


def assert_equal_to_loop(result, layer, gradients):
    for name, expected in expected_of(gradients).items():
        assert_close(getattr(result, name)[layer].double(), expected.double(), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("activation", [nn.ReLU, nn.Tanh, nn.GELU])
def test_every_layer_equals_the_loop(activation):
    network, x = ge.MLP([20, 8, 6, 4], activation, seed=0).double(), torch.randn(30, 20, dtype=torch.float64)
    result = ge.interference(network, x)
    assert result.layers == ("input", "hidden1", "hidden2")
    for layer in result.layers:  # at "input" the gradients themselves are never formed: 20 > 8
        assert_equal_to_loop(result, layer, ge.unit_gradients(network, x, layer).gradients)
    assert_equal_to_loop(result, "input", gradient_loop(network, lambda s: s, x))


@pytest.mark.slow
def test_mnist_sample_equals_the_loop_on_a_subset():
    x = ge.datasets.load_mnist(source="sample").x_test[:40].double()
    network = ge.MLP([784, 64, 64, 10], seed=0).double()
    result = ge.interference(network, x)
    assert_equal_to_loop(result, "input", gradient_loop(network, lambda s: s, x))
    assert_equal_to_loop(
        result, "hidden1", gradient_loop(nn.Sequential(network.hidden2, network.output), network.hidden1, x)
    )


@pytest.mark.parametrize("make", [Residual, lambda: Convolutional().eval()])
def test_general_path_equals_the_loop(make):
    model = make().double()
    x = torch.randn(9, 4, dtype=torch.float64) if isinstance(model, Residual) else torch.randn(9, 1, 4, 4).double()
    with unchanged(model):
        result = ge.interference(model, x)
    expected = ("input", "stem", "norm", "branch") if isinstance(model, Residual) else ("input", "conv", "norm", "pool")
    assert result.layers == expected  # `act` runs twice, `head` is the output
    assert_equal_to_loop(result, "input", gradient_loop(lambda z: model(z.clone()), lambda s: s, x))


def test_hand_weighted_network():
    x = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [1.0, -2.0], [-1.0, -1.0]], dtype=torch.float64)
    result = ge.interference(crossing(), x, layers=["input"])
    # cosines 0, 1, -1, 1 and none
    assert_close(result.cosine["input"], torch.tensor([[1, 0.25], [0.25, 1]], dtype=torch.float64))
    assert_close(result.abs_cosine["input"], torch.tensor([[1, 0.75], [0.75, 1]], dtype=torch.float64))
    assert_close(result.conflict["input"], torch.tensor([[0, 0.25], [0.25, 0]], dtype=torch.float64))
    assert_close(result.norm["input"], torch.full((2,), (math.sqrt(2) + 3) / 5, dtype=torch.float64))
    assert result.undefined["input"].tolist() == [1, 1]
    assert result.count["input"].tolist() == [[4, 4], [4, 4]]
    assert_close(torch.tensor(result.orthogonality()["input"]), torch.tensor(0.25))


def test_dead_units_are_counted_and_never_give_nan():
    network = nn.Sequential(linear([[1, 0], [0, 1]]), nn.ReLU(), linear([[1, 1], [0, 0], [1, -1]]))
    result = ge.interference(network, torch.rand(6, 2, dtype=torch.float64) + 0.1)
    frame = result.to_frame()
    assert not frame.isna().any().any()
    assert result.undefined["input"].tolist() == [0, 6, 0]
    assert result.count["input"].tolist() == [[6, 0, 6], [0, 0, 0], [6, 0, 6]]
    assert result.cosine["input"][1].tolist() == [0, 0, 0]
    assert frame.loc[frame["unit_a"] == "1", ["n_pairs", "undefined_a"]].to_numpy().tolist() == [[0, 6]] * 3
    assert "zero gradients left out: {'input': 6" in repr(result)
    assert result.orthogonality()["input"] == 1.0  # of the one pair that is defined


@pytest.mark.parametrize("scale", [1e-30, 1e-20, 1.0, 1e18])
def test_tiny_and_huge_gradients_keep_their_angles(scale):
    network = ge.MLP([6, 5, 3], nn.Tanh, seed=0)
    x = torch.randn(20, 6)
    expected = ge.interference(network, x)
    with torch.no_grad():
        network.output.weight.mul_(scale)
    result = ge.interference(network, x)
    for layer in result.layers:
        assert_close(result.cosine[layer], expected.cosine[layer], rtol=1e-4, atol=1e-5)
        assert_close(result.norm[layer], expected.norm[layer] * scale, rtol=1e-4, atol=0)
        assert result.undefined[layer].tolist() == [0, 0, 0]


@pytest.mark.parametrize("make", [lambda: ge.MLP([7, 5, 4, 3], seed=0), Residual])
@pytest.mark.parametrize("chunk_size", [1, 2, 5, 100])
def test_chunk_size_changes_nothing(make, chunk_size):
    model = make().double()
    x = torch.randn(11, 7 if isinstance(model, ge.MLP) else 4, dtype=torch.float64)
    whole, parts = ge.interference(model, x), ge.interference(model, x, chunk_size=chunk_size)
    for name in MEASURES:
        for layer in whole.layers:
            assert_close(getattr(parts, name)[layer], getattr(whole, name)[layer])


def test_single_precision_agrees_with_double():
    network, x = ge.MLP([784, 64, 64, 10], seed=0), torch.randn(200, 784)
    single, double = ge.interference(network, x), ge.interference(network.double(), x.double())
    for layer in single.layers:
        assert_close(single.cosine[layer], double.cosine[layer], rtol=0, atol=1e-6)


def test_matrices_are_symmetric_bounded_and_one_on_the_diagonal():
    result = ge.interference(ge.MLP([6, 9, 5], seed=3).double(), torch.randn(40, 6, dtype=torch.float64))
    for layer in result.layers:
        for name in ("cosine", "abs_cosine", "conflict"):
            matrix = getattr(result, name)[layer]
            assert_close(matrix, matrix.T)
            assert float(matrix.abs().max()) <= 1
        assert_close(result.cosine[layer].diagonal(), torch.ones(5, dtype=torch.float64))
        assert bool((result.cosine[layer].abs() <= result.abs_cosine[layer] + 1e-12).all())


@settings(max_examples=200)
@given(random_networks())
def test_random_networks_equal_the_loop_and_have_its_symmetries(case):
    network, x = case
    result = ge.interference(network, x)
    for layer in result.layers:
        assert_equal_to_loop(result, layer, ge.unit_gradients(network, x, layer).gradients)
    shuffled = ge.interference(network, x.flip(0))
    order = torch.randperm(network.widths[-1])
    permuted = ge.interference(network, x, units=order.tolist())
    for layer in result.layers:
        assert_close(shuffled.cosine[layer], result.cosine[layer])
        assert_close(permuted.cosine[layer], result.cosine[layer][order][:, order])
        assert_close(permuted.norm[layer], result.norm[layer][order])


def rescaled(network, factors):
    """The same function: hidden units of the first layer scaled up, the next layer's weights down."""
    with torch.no_grad():
        network.hidden1.linear.weight.mul_(factors[:, None])
        network.hidden1.linear.bias.mul_(factors)
        network.hidden2.linear.weight.div_(factors)
    return network


def test_rescaling_hidden_units_moves_their_own_layer_only():
    x, factors = torch.randn(50, 6, dtype=torch.float64), torch.tensor([0.1, 10, 1, 3, 7], dtype=torch.float64)
    before = ge.interference(ge.MLP([6, 5, 5, 3], seed=0).double(), x)
    after = ge.interference(rescaled(ge.MLP([6, 5, 5, 3], seed=0).double(), factors), x)
    for layer in ("input", "hidden2"):
        assert_close(after.cosine[layer], before.cosine[layer])
    moved = (after.cosine["hidden1"] - before.cosine["hidden1"]).abs().max()
    assert float(moved) > 0.01  # a cosine at a layer depends on that layer's scales: the negative control
    with torch.no_grad():
        turned = rescaled(ge.MLP([6, 5, 5, 3], seed=0).double(), -factors)  # another function
    assert float((ge.interference(turned, x).cosine["input"] - before.cosine["input"]).abs().max()) > 0.01


def test_separate_tasks_are_orthogonal_and_shared_ones_are_not():
    separate = ge.MLP([8, 12, 2], seed=0).double()
    with torch.no_grad():
        separate.hidden1.linear.weight[:6, 4:] = 0
        separate.hidden1.linear.weight[6:, :4] = 0
        separate.output.weight[0, 6:] = 0
        separate.output.weight[1, :6] = 0
    x = torch.randn(100, 8, dtype=torch.float64)
    shared = ge.MLP([8, 12, 2], seed=0).double()
    for layer in ("input", "hidden1"):
        assert ge.interference(separate, x).orthogonality()[layer] == pytest.approx(1, abs=1e-12)
        assert ge.interference(shared, x).orthogonality()[layer] < 0.9
        assert float(ge.interference(separate.float(), x.float()).conflict[layer][0, 1]) == 0  # not rounding noise
        separate.double()


def test_random_directions_meet_the_level_that_the_docstring_states():
    d = 64
    model = nn.Sequential(nn.Identity(), nn.Linear(d, 400, bias=False))
    with torch.no_grad():
        model[1].weight.normal_()
    level = 1 - math.sqrt(2 / (math.pi * d))
    assert ge.interference(model, torch.randn(1, d)).orthogonality()["input"] == pytest.approx(level, abs=2e-3)


def test_orthogonality_compares_groups():
    network, x = ge.MLP([6, 8, 4], seed=0).double(), torch.randn(30, 6, dtype=torch.float64)
    result = ge.interference(network, x)
    pairs = [(0, 2), (0, 3), (1, 2), (1, 3)]
    for layer in result.layers:
        expected = 1 - sum(float(result.abs_cosine[layer][a, b]) for a, b in pairs) / 4
        assert result.orthogonality(["a", "a", "b", "b"])[layer] == pytest.approx(expected, abs=1e-12)
    assert ge.interference(network, x, units=[1, 1]).orthogonality()["input"] == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize(
    ("groups", "error", "message"),
    [
        ([0, 1], ValueError, r"`groups` should name a group for each of 3 units. Got 2"),
        ([0, 0, 0], ValueError, r"`groups` should name at least two groups. Got one"),
        ([], ValueError, r"`groups` should be a list of groups, not empty"),
        ("abc", TypeError, r"`groups` should be a list of groups. Got 'abc'"),
        (3, TypeError, r"`groups` should be a list of groups. Got 3"),
    ],
)
def test_bad_groups_are_refused(groups, error, message):
    result = ge.interference(ge.MLP([4, 5, 3], seed=0), torch.randn(5, 4))
    with pytest.raises(error, match=message):
        result.orthogonality(groups)


def test_orthogonality_of_one_unit_or_of_dead_ones_is_refused():
    network, x = ge.MLP([4, 5, 3], seed=0), torch.randn(5, 4)
    with pytest.raises(ValueError, match=r"`groups` should name at least two groups"):
        ge.interference(network, x, units=[1]).orthogonality()
    with torch.no_grad():
        network.output.weight.zero_()
    with pytest.raises(
        ValueError, match=r"`groups` should have a defined cosine between them at 'input'. Got zero grad"
    ):
        ge.interference(network, x).orthogonality()


def test_frame_has_a_row_per_layer_and_pair():
    result = ge.interference(ge.MLP([4, 5, 3], seed=0), torch.randn(5, 4), units=[2, 0, 1])
    frame = result.to_frame()
    measures = ["cosine", "abs_cosine", "conflict", "norm_similarity"]
    rest = ["norm_a", "norm_b", "undefined_a", "undefined_b", "n_pairs", "effective_dimension", "chance_abs_cosine"]
    assert list(frame.columns) == ["layer", "unit_a", "unit_b", *measures, *rest]
    assert frame[["layer", "unit_a", "unit_b"]].to_numpy().tolist() == [
        [layer, *pair] for layer in ("input", "hidden1") for pair in (["2", "0"], ["2", "1"], ["0", "1"])
    ]
    assert frame["cosine"].tolist()[:3] == [float(result.cosine["input"][a, b]) for a, b in ((0, 1), (0, 2), (1, 2))]


def test_labels_and_repr():
    result = ge.interference(ge.MLP([4, 5, 3], seed=0), torch.randn(5, 4), directions=torch.eye(3)[:2])
    assert result.unit_labels == ("direction 0", "direction 1")
    assert repr(result) == "Interference(2 units of 'output', layers ['input', 'hidden1'], 5 samples)"
    hidden = ge.interference(ge.MLP([4, 5, 6, 3], seed=0), torch.randn(5, 4), unit_layer="hidden2")
    assert hidden.layers == ("input", "hidden1")
    assert len(hidden.unit_labels) == 6


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"pairing": "some"}, ValueError, r"`pairing` should be one of 'realised', 'all'"),
        ({"layers": "input"}, TypeError, r"`layers` should be a list of layer names. Got 'input'"),
        ({"layers": []}, ValueError, r"`layers` should be a list of layer names, not empty"),
        ({"layers": ["hidden7"]}, ValueError, r"`layers` should name a layer of the model. Got 'hidden7'"),
        ({"layers": ["output"]}, ValueError, r"`unit_layer` should come after 'output'"),
        ({"unit_layer": "hidden1", "layers": ["hidden1"]}, ValueError, r"`unit_layer` should come after 'hidden1'"),
        ({"unit_layer": "input"}, ValueError, r"`unit_layer` should come after 'input'"),
        ({"units": [3]}, ValueError, r"`units` should lie between 0 and 2"),
        ({"n_bootstrap": -1}, ValueError, r"`n_bootstrap` should be at least 0. Got -1"),
        ({"n_bootstrap": 1.5}, TypeError, r"`n_bootstrap` should be an integer"),
        ({"n_bootstrap": 9, "pairing": "all"}, ValueError, r"`n_bootstrap` should be 0 with pairing='all'.*Got 9"),
        ({"confidence": 1.0}, ValueError, r"`confidence` should be finite, at least 0.5 and at most 0.9999. Got 1.0"),
        ({"n_untrained": -1}, ValueError, r"`n_untrained` should be at least 0"),
        ({"seed": -1}, ValueError, r"`seed` should be at least 0"),
        ({"chunk_size": 0}, ValueError, r"`chunk_size` should be at least 1"),
    ],
)
def test_bad_arguments_are_refused(arguments, error, message):
    network = ge.MLP([4, 5, 3], seed=0)
    x = torch.randn(5, 4)
    with unchanged(network), pytest.raises(error, match=message):
        ge.interference(network, x, **arguments)


# All pairs of samples


@pytest.mark.parametrize("make", [lambda: ge.MLP([9, 6, 5, 3], seed=0), Residual])
def test_all_pairs_equal_the_loop_over_all_pairs(make):
    model = make().double()
    x = torch.randn(7, 9 if isinstance(model, ge.MLP) else 4, dtype=torch.float64)
    result = ge.interference(model, x, pairing="all", chunk_size=3)
    for layer in result.layers:
        expected = all_pairs_loop(ge.unit_gradients(model, x, layer).gradients)
        for name, matrix in expected.items():
            assert_close(getattr(result, name)[layer].double(), matrix.double(), rtol=1e-9, atol=1e-9)
    assert result.pairing == "all"


def test_all_pairs_leave_zero_gradients_out():
    x = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]], dtype=torch.float64)
    result = ge.interference(crossing(), x, layers=["input"], pairing="all")
    expected = all_pairs_loop(ge.unit_gradients(crossing(), x, "input").gradients)
    assert_close(result.cosine["input"], expected["cosine"])
    assert result.count["input"].tolist() == [[9, 9], [9, 9]]
    assert result.undefined["input"].tolist() == [1, 1]


@pytest.mark.parametrize("scale", [1e3, 1e-60, 1e-90])
def test_all_pairs_of_long_and_short_gradients(scale):
    """Squares of lengths that are 1e-90 of the longest would vanish."""
    network, x = ge.MLP([6, 5, 3], seed=0).double(), torch.randn(8, 6, dtype=torch.float64)
    with torch.no_grad():
        network.output.weight[1] *= scale
    result = ge.interference(network, x, layers=["input"], pairing="all")
    expected = all_pairs_loop(ge.unit_gradients(network, x, "input").gradients)["norm_similarity"]
    assert_close(result.norm_similarity["input"], expected, atol=0)
    assert float(expected[0, 1]) > 0
    assert float(expected[1, 1]) > 0.5


def test_all_pairs_of_one_unit_at_one_sample_keep_its_norm():
    network, x = ge.MLP([6, 5, 1], seed=0).double(), torch.randn(1, 6, dtype=torch.float64)
    result = ge.interference(network, x, pairing="all")
    assert_close(result.norm["input"], ge.interference(network, x).norm["input"])


def test_all_pairs_differ_from_realised_pairs_unless_gradients_are_constant():
    network, x = ge.MLP([6, 8, 8, 3], seed=0).double(), torch.randn(40, 6, dtype=torch.float64)
    realised, every = ge.interference(network, x), ge.interference(network, x, pairing="all")
    assert_close(every.cosine["hidden2"], realised.cosine["hidden2"])  # rows of the last weight matrix
    assert every.count["hidden2"].unique().tolist() == [1600]
    assert float((every.cosine["input"] - realised.cosine["input"]).abs().max()) > 0.05
    assert float(every.cosine["input"][0, 0]) < 0.99  # a unit's gradients at different samples differ
    assert float(realised.cosine["input"][0, 0]) == pytest.approx(1)


def test_all_pairs_in_blocks_are_the_same(monkeypatch):
    network, x = ge.MLP([6, 8, 3], seed=0).double(), torch.randn(30, 6, dtype=torch.float64)
    whole = ge.interference(network, x, pairing="all")
    monkeypatch.setattr(importlib.import_module("gradembed.interference._all_pairs"), "BLOCK", 7)
    parts = ge.interference(network, x, pairing="all")
    for name in MEASURES:
        assert_close(getattr(parts, name)["input"], getattr(whole, name)["input"])


# Intervals


def test_bootstrap_agrees_with_resampling_by_hand():
    network, x = ge.MLP([6, 8, 3], seed=0).double(), torch.randn(300, 6, dtype=torch.float64)
    result = ge.interference(network, x, n_bootstrap=2000, layers=["input"])
    vectors = ge.unit_gradients(network, x, "input").unit_vectors()
    cosines = (vectors[:, 0] * vectors[:, 2]).sum(1)
    drawn = cosines[torch.randint(300, (2000, 300))]
    for name, values in {"cosine": drawn, "abs_cosine": drawn.abs(), "conflict": (drawn < 0).double()}.items():
        by_hand = torch.quantile(values.mean(1), torch.tensor([0.025, 0.975], dtype=torch.float64))
        width = float(by_hand[1] - by_hand[0])
        assert_close(result.intervals[name]["input"][:, 0, 2], by_hand, rtol=0, atol=0.12 * width)
        assert torch.equal(result.intervals[name]["input"][:, 2, 0], result.intervals[name]["input"][:, 0, 2])


def test_intervals_cover_the_mean_over_many_samples_about_as_often_as_they_say():
    network = ge.MLP([6, 8, 3], seed=0).double()
    truth = ge.interference(network, torch.randn(50_000, 6, dtype=torch.float64), layers=["input"]).cosine["input"][
        0, 1
    ]
    hits = 0
    for i in range(100):
        x = torch.randn(100, 6, dtype=torch.float64)
        low, high = ge.interference(network, x, layers=["input"], n_bootstrap=200, seed=i).intervals["cosine"]["input"][
            :, 0, 1
        ]
        hits += bool(low <= truth <= high)
    assert 86 <= hits <= 100  # 95 expected, less a little for 100 samples


def test_intervals_narrow_with_samples_and_widen_with_confidence():
    network, x = ge.MLP([6, 8, 3], seed=0).double(), torch.randn(1600, 6, dtype=torch.float64)

    def width(**arguments):
        ends = ge.interference(network, layers=["input"], n_bootstrap=1000, **arguments).intervals["cosine"]["input"]
        return float(ends[1, 0, 1] - ends[0, 0, 1])

    assert width(x=x[:100]) / width(x=x) == pytest.approx(4, rel=0.35)
    assert width(x=x, confidence=0.99) / width(x=x, confidence=0.5) == pytest.approx(2.576 / 0.674, rel=0.25)


@pytest.mark.parametrize("chunk_size", [1, 7, 100])
def test_intervals_do_not_depend_on_chunks_but_on_the_seed(chunk_size):
    network, x = ge.MLP([6, 8, 3], seed=0).double(), torch.randn(20, 6, dtype=torch.float64)
    whole, parts = (ge.interference(network, x, n_bootstrap=50, chunk_size=size) for size in (None, chunk_size))
    other = ge.interference(network, x, n_bootstrap=50, seed=1)
    for name, layers in whole.intervals.items():
        for layer, ends in layers.items():
            assert_close(parts.intervals[name][layer], ends)
            assert parts.summary_intervals[name][layer] == pytest.approx(whole.summary_intervals[name][layer])
    assert not torch.equal(other.intervals["cosine"]["input"], whole.intervals["cosine"]["input"])


def test_constant_gradients_have_intervals_of_no_width():
    result = ge.interference(ge.MLP([6, 8, 3], seed=0).double(), torch.randn(20, 6).double(), n_bootstrap=50)
    ends = result.intervals["cosine"]["hidden1"]
    assert_close(ends[0], ends[1])
    assert_close(ends[0], result.cosine["hidden1"])


def test_summary_interval_holds_the_mean_over_pairs():
    network, x = ge.MLP([6, 8, 4], seed=0).double(), torch.randn(200, 6, dtype=torch.float64)
    result = ge.interference(network, x, n_bootstrap=500)
    for name in ("cosine", "abs_cosine", "conflict", "norm_similarity"):
        low, high = result.summary_intervals[name]["input"]
        assert low < result.pair_mean(name, "input") < high
        widths = result.intervals[name]["input"][1] - result.intervals[name]["input"][0]
        assert high - low < float(widths.max())


def test_pair_mean_leaves_undefined_pairs_out():
    network = nn.Sequential(linear([[1, 0], [0, 1]]), nn.ReLU(), linear([[1, 1], [0, 0], [1, -1], [1, 1]]))
    result = ge.interference(network, torch.rand(6, 2, dtype=torch.float64) + 0.1)
    expected = (0 + 1 + 0) / 3  # pairs (0, 2), (0, 3), (2, 3)
    assert result.pair_mean("cosine", "input") == pytest.approx(expected, abs=1e-12)
    for arguments, message in {
        ("x", "input"): "`measure` should be one of",
        ("cosine", "x"): "`layer` should name",
    }.items():
        with pytest.raises(ValueError, match=message):
            result.pair_mean(*arguments)


# Chance and control


def random_directions(rows, spectrum):
    """One linear layer whose gradients are independent rows with a given spectrum."""
    model = nn.Sequential(nn.Linear(len(spectrum), rows, bias=False)).double()
    with torch.no_grad():
        model[0].weight.copy_(torch.randn(rows, len(spectrum)).double() * torch.tensor(spectrum).double().sqrt())
    return ge.interference(model, torch.randn(1, len(spectrum), dtype=torch.float64))


@pytest.mark.parametrize("d", [2, 16, 64])
def test_isotropic_directions_fill_all_dimensions_and_meet_the_level_of_chance(d):
    result = random_directions(800, [1.0] * d)
    assert result.effective_dimension["input"] == pytest.approx(d, rel=0.05)
    assert result.pair_mean("abs_cosine", "input") == pytest.approx(result.chance["input"], rel=0.03)


def test_uneven_spectra_lower_the_effective_dimension():
    uneven = random_directions(800, [1.0] * 4 + [1e-6] * 60)
    assert uneven.effective_dimension["input"] == pytest.approx(4, rel=0.05)
    assert uneven.pair_mean("abs_cosine", "input") == pytest.approx(uneven.chance["input"], rel=0.03)


def test_parallel_and_missing_gradients_have_a_dimension_too():
    line = random_directions(50, [1.0])
    assert line.effective_dimension["input"] == 1
    assert line.chance["input"] == pytest.approx(1)
    dead = nn.Sequential(linear([[0, 0, 0]]))
    assert ge.interference(dead, torch.ones(2, 3, dtype=torch.float64)).effective_dimension["input"] > 0


@pytest.mark.parametrize("chunk_size", [1, 300, 1000])
def test_effective_dimension_does_not_depend_on_chunks(chunk_size):
    network, x = ge.MLP([6, 8, 3], seed=0).double(), torch.randn(3000, 6, dtype=torch.float64)
    whole, parts = ge.interference(network, x), ge.interference(network, x, chunk_size=chunk_size)
    assert parts.effective_dimension == pytest.approx(whole.effective_dimension)


def test_untrained_control_is_the_network_with_new_weights():
    network, x = ge.MLP([6, 8, 3], seed=0), torch.randn(30, 6)
    with torch.no_grad():
        network.output.weight.mul_(3)
    with unchanged(network):
        result = ge.interference(network, x, n_untrained=2, seed=5, units=[0, 2])
    assert len(result.untrained) == 2
    for control, seed in zip(result.untrained, (5, 6), strict=True):
        expected = ge.interference(ge.MLP([6, 8, 3], seed=seed), x, units=[0, 2])
        assert torch.equal(control.cosine["input"], expected.cosine["input"])
    frame = result.to_frame()
    mean = sum(control.cosine["input"][0, 1] for control in result.untrained) / 2
    assert frame["untrained_cosine"][0] == pytest.approx(float(mean))


def test_everything_stands_in_the_frame():
    result = ge.interference(ge.MLP([6, 8, 3], seed=0), torch.randn(30, 6), n_bootstrap=20, n_untrained=1)
    frame = result.to_frame()
    for name in ("cosine", "abs_cosine", "conflict", "norm_similarity"):
        assert {name, f"{name}_low", f"{name}_high", f"untrained_{name}"} <= set(frame.columns)
    inner = frame[frame["layer"] == "input"]
    assert (inner["cosine_low"] <= inner["cosine"]).all()
    assert (inner["cosine"] <= inner["cosine_high"]).all()
    assert not frame.isna().any().any()
    assert frame["effective_dimension"].tolist()[0] == result.effective_dimension["input"]
