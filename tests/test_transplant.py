"""Transplants against maps and forward passes by hand; twins that are certified, and others that are not."""

import numpy as np
import pytest
import torch
from _asserts import assert_close, unchanged
from _networks import Residual
from torch import nn

import gradembed as ge

N = 600


def samples(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def network(seed=0, activation=nn.ReLU):
    return ge.MLP([4, 12, 3], activation, seed=seed).double()


def answers(model, x):
    return model(x).argmax(1).detach()


X, DONORS = samples(N, 4), samples(N, 7, seed=1)
CLAIMS = [([0, 3], [2, 6]), (5, 1), ([1, 2, 4], [0, 0, 5])]


def halves(seed=0):
    order = torch.randperm(N, generator=torch.Generator().manual_seed(seed))
    return order[: N // 2].sort()[0].numpy(), order[N // 2 :].sort()[0].numpy()


def by_hand(model, donors, units, others, mapping, y):
    """Accuracy lost and R², one unit at a time, with NumPy's least squares."""
    fitted, tested = halves()
    own, given = model.hidden1(X).detach().numpy(), donors.numpy()
    new = own.copy()
    for i, unit in enumerate(units):
        mine = others[i : i + 1] if mapping == "scale" else others
        design = np.column_stack([np.ones(N), given[:, mine]])
        new[:, unit] = design @ np.linalg.lstsq(design[fitted], own[fitted, unit], rcond=1e-9)[0]
    there = y[torch.from_numpy(tested)]
    scores = [float((model.output(torch.from_numpy(a[tested])).argmax(1) == there).double().mean()) for a in (own, new)]
    error = ((new - own)[tested][:, units] ** 2).sum()
    total = ((own[tested] - own[fitted].mean(0))[:, units] ** 2).sum()
    return scores[0] - scores[1], 1 - error / total


@pytest.mark.parametrize("mapping", ["scale", "linear"])
def test_losses_and_r2_equal_maps_and_forward_passes_by_hand(mapping):
    model = network()
    y = answers(model, X)
    donors = torch.cat([DONORS, model.hidden1(X).detach()[:, [3]] * -2 + 1 + 0.3 * DONORS[:, :1]], 1)
    claims = [*CLAIMS, ([3], [7])]
    with unchanged(model):
        found = ge.transplant(model, X, y, "hidden1", donors, claims, mapping=mapping)
    fitted, _ = halves()
    own = model.hidden1(X).detach()[fitted]
    shared = torch.corrcoef(torch.cat([donors[fitted], own], 1).T)[:8, 8:].square()
    assert found.score == 1
    for c, (units, others) in enumerate(claims):
        units, others = np.atleast_1d(units).tolist(), np.atleast_1d(others).tolist()
        assert found.claims[c] == (tuple(units), tuple(others))
        best = (shared[:, units].argmax(0).tolist() if mapping == "scale"
                else shared[:, units].sum(1).topk(len(others)).indices.tolist())  # fmt: skip
        for loss, r2, chosen in ((found.loss, found.r2, others), (found.matched, found.matched_r2, best)):
            expected = by_hand(model, donors, units, chosen, mapping, y)
            assert_close(torch.stack([loss[c], r2[c]]), torch.tensor(expected, dtype=torch.float64))
        held = by_hand(model, torch.zeros(N, 1), units, [0] * len(units), "scale", y)
        assert_close(found.ablation[c], torch.tensor(held[0], dtype=torch.float64))
    assert found.random.shape == (4, 19)
    assert float(found.r2[3]) > 0.8 > 0.2 > float(found.r2[0])


@pytest.mark.parametrize("activation", [nn.ReLU, nn.Tanh])
def test_hooks_and_the_shorter_way_through_an_mlp_agree(activation):
    model = network(activation=activation)
    asked = (X, answers(model, X), "hidden1", DONORS, CLAIMS)
    short = ge.transplant(model, *asked)
    for long in (ge.transplant(model, *asked, forward=lambda model, batch: model(batch)),
                 ge.transplant(nn.Sequential(*model.children()), X, asked[1], "0", DONORS, CLAIMS)):  # fmt: skip
        for part in ("loss", "ablation", "random", "matched", "r2"):
            assert_close(getattr(long, part), getattr(short, part))


def test_a_rescaled_copy_is_certified_and_a_fresh_network_is_not():
    model, order = network(), torch.randperm(12)
    y = answers(model, X)
    scales = samples(12).abs() + 0.5
    copied = (model.hidden1(X).detach() * scales + 3)[:, order]
    everything = [(range(12), order.argsort())]
    found = ge.transplant(model, X, y, "hidden1", copied, everything)
    assert (found.verdicts, float(found.loss[0])) == (("certified",), 0.0)
    assert_close(found.r2, torch.ones(1).double())
    assert found.ablation[0] > 0.2
    assert found.p_values[0] == 1 / 20
    assert ge.transplant(model, X, y, "hidden1", copied, [(range(12), order)]).verdicts == ("refuted",)
    assert ge.transplant(model, X, y, "hidden1", network(seed=1), everything).verdicts == ("refuted",)
    assert ge.transplant(model, X, y, "hidden1", model, [(range(12), range(12))]).r2[0] > 1 - 1e-12


def test_sets_that_span_the_same_are_twins_by_a_linear_map_only():
    model = network()
    y, mixed = answers(model, X), model.hidden1(X).detach() @ samples(12, 12, seed=3)
    everything = [(range(12), range(12))]
    assert ge.transplant(model, X, y, "hidden1", mixed, everything, mapping="linear").verdicts != ("refuted",)
    assert ge.transplant(model, X, y, "hidden1", mixed, everything, mapping="linear").r2[0] > 1 - 1e-9
    assert ge.transplant(model, X, y, "hidden1", mixed, everything).verdicts == ("refuted",)


def test_nothing_is_certified_where_nothing_is_at_stake():
    model = network()
    with torch.no_grad():
        model.output.weight[:, 4] = 0
    found = ge.transplant(model, X, answers(model, X), "hidden1", model, [(4, 4), (range(12), range(12))])
    assert found.verdicts == ("undecided", "certified")
    assert repr(found).startswith("Transplants(2 claims: 1 certified, 0 refuted, 1 undecided; mean loss 0.000 and ")
    frame = found.to_frame()
    assert frame["verdict"].tolist() == ["undecided", "certified"]
    assert frame["units"].tolist() == [1, 12]
    assert not frame.isna().any(axis=None)


def test_equal_donors_are_undecided_since_random_ones_do_as_well():
    model = network()
    alike = model.hidden1(X).detach()[:, [0]].expand(N, 5) + 1e-3 * samples(N, 5)
    found = ge.transplant(model, X, answers(model, X), "hidden1", alike, [(0, 2)], tolerance=0.005)
    assert found.p_values[0] > 0.05
    assert found.verdicts == ("undecided",)


def test_constant_units_and_donors_are_no_division_by_zero():
    model = network()
    with torch.no_grad():
        model.hidden1.linear.weight[2] = 0
        model.hidden1.linear.bias[2] = -1  # dead
    donors = torch.cat([DONORS, torch.full((N, 1), 0.1, dtype=torch.float64)], 1)
    claims = [(2, 1), (0, 7), ([0, 2], [7, 7])]
    for mapping in ("scale", "linear"):
        found = ge.transplant(model, X, answers(model, X), "hidden1", donors, claims, mapping=mapping)
        assert all(bool(part.isfinite().all()) for part in (found.loss, found.r2, found.random, found.matched_r2))
        assert_close(found.loss[1:], found.ablation[1:])
        assert found.r2[0] <= 1


def test_scores_sites_tasks_and_general_models():
    model = Residual().double().eval()
    x, y = samples(40, 4), samples(40, 3)

    def score(outputs, y):
        return -float((outputs - y[:, : outputs.shape[1]]).square().mean())

    site = ge.Site("stem", index=(slice(None), [0, 2]))
    with unchanged(model):
        found = ge.transplant(model, x, y, site, samples(40, 3), [(1, 0)], score=score)
    assert found.claims == (((1,), (0,)),)
    assert found.ablation[0] != 0
    stacked = ge.MLP([4, 10, 6], seed=0).double()
    both = stacked(x).reshape(40, 2, 3).argmax(2)
    found = ge.transplant(stacked, x, both, "hidden1", samples(40, 3), [(0, 0)])
    assert found.score == 1


def test_held_numbers_can_differ_by_sample():
    model, x = network(), X[:6]
    at = samples(6, 12)
    with unchanged(model), ge.ablated(model, "hidden1", [1, 5], at=at):
        held = model(x)
    inner = model.hidden1(x).detach()
    inner[:, [1, 5]] = at[:, [1, 5]]
    assert_close(held, model.output(inner))


GOOD = {"model": network(), "x": X, "targets": torch.zeros(N, dtype=torch.int64), "layer": "hidden1", "donors": DONORS,
        "claims": CLAIMS}  # fmt: skip


@pytest.mark.parametrize(("given", "error", "message"), [
    ({"mapping": "affine"}, ValueError, "`mapping` should be one of 'scale', 'linear'"),
    ({"score": 3}, TypeError, "`score` should be a function. Got 3. Pass one, or None"),
    ({"x": X[:7]}, ValueError, "`x` should hold 8 samples or more. Got 7. Half of them are fitted on; pass more"),
    ({"targets": torch.zeros(N)}, ValueError, r"`targets` should be classes, \[n\] or \[n, t\].*Pass integers, or a"),
    ({"targets": torch.full((N,), 3)}, ValueError, "`targets` should be classes of the 3 outputs. Got classes 3 to 3"),
    ({"targets": torch.zeros(N - 1, dtype=torch.int64)}, ValueError, "`targets` should have shape"),
    ({"donors": DONORS[1:]}, ValueError, "`donors` should have shape"),
    ({"claims": [0, 1, 2]}, TypeError, r"`claims` should be a list of pairs \(units, donors\). Got 0"),
    ({"claims": [([0, 1], [2])]}, ValueError, "`claims` should give one donor for each unit. Got 1 for 2 units"),
    ({"claims": [([0, 0], [2, 1])]}, ValueError, r"`claims` should name each unit once. Got \[0, 0\]"),
    ({"claims": [(12, 0)]}, ValueError, "`claims` should lie between 0 and 11, the units of the layer. Got 12"),
    ({"claims": [(0, 7)]}, ValueError, "`claims` should lie between 0 and 6, the donors. Got 7"),
    ({"n_random": 18}, ValueError, "`n_random` should be at least 19"),
    ({"score": lambda *_: float("nan")}, ValueError, "`score` should give a finite number. Got nan"),
    ({"forward": lambda model, batch: [model(batch)]}, ValueError, "`model` should return one tensor with a row"),
    ({"model": ge.MLP([4, 12, 3], seed=0)}, ValueError, "`x` should have the model's precision"),
    ({"layer": "nowhere"}, ValueError, "`layer` should name a layer of the model"),
])  # fmt: skip
def test_bad_transplants_are_refused(given, error, message):
    asked = GOOD | given
    with unchanged(asked["model"]), pytest.raises(error, match=message):
        ge.transplant(**asked)


def test_overflow_and_modules_that_run_twice_are_refused():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(4, 4).double()

        def forward(self, x):
            return self.layer(self.layer(x))

    asked = GOOD | {"model": Twice(), "layer": "layer", "claims": [(0, 0)]}
    with pytest.raises(ValueError, match=r"`layer` should run once in a forward pass\. Got 2 runs\. Say which"):
        ge.transplant(**asked)
    assert ge.transplant(**(asked | {"layer": ge.Site("layer", call=0)})).loss.shape == (1,)
    huge = ge.MLP([4, 12, 3], seed=0)
    with torch.no_grad():
        huge.hidden1.linear.weight.fill_(3e38)
    for where, message in (("hidden1", "`x` should give finite activations"), ("input", "`x` should give finite outp")):
        with pytest.raises(ValueError, match=message):
            ge.transplant(**(GOOD | {"model": huge, "x": X.float(), "layer": where, "claims": [(0, 0)]}))
