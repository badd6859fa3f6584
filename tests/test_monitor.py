"""Interference in the course of training: what a monitor says, that it leaves no trace, and where to split."""

import copy
import random
import warnings
from importlib import import_module

import numpy as np
import pytest
import torch
from _networks import Blocks, Net, randn
from torch import nn
from torch.nn import functional as F

import gradembed as ge
from gradembed.datasets._loaders import _torchvision_mnist


def two_losses(model, batch):
    """Of an output's two halves, each the same four classes in another order."""
    z = model(batch[0])
    k = z.shape[1] // 2
    return {
        "a": F.cross_entropy(z[:, :k], batch[1] % k, reduction="none"),
        "b": F.cross_entropy(z[:, k:], (batch[1] + 1) % k, reduction="none"),
    }


def labeled(n, *shape):
    return randn(n, *shape), torch.randint(8, (n,))


# ---------------------------------------------------------------- it says what `interference` says


def three_blocks():
    network = Blocks()
    network.head = nn.Linear(4, 3)
    return network.double()


@pytest.mark.parametrize("centered", [False, True])
@pytest.mark.parametrize("make", [lambda: ge.MLP([4, 8, 8, 3], seed=0).double(), three_blocks])
def test_it_measures_what_interference_measures(make, centered):
    network, x = make(), randn(40, 4)
    monitor = ge.InterferenceMonitor(network, x, every=3, centered=centered)
    for _ in range(6):
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.add_(torch.randn_like(parameter), alpha=0.2)
        monitor.step()
    course = monitor.course
    assert course.steps.tolist() == [3, 6]
    expected = ge.interference(network, x, centered=centered)
    assert course.layers == expected.layers
    places = torch.triu_indices(len(expected.unit_labels), len(expected.unit_labels), 1)
    for i, layer in enumerate(course.layers):
        for name in ("cosine", "abs_cosine", "conflict"):
            found = getattr(course, name)[1, i]
            torch.testing.assert_close(found, getattr(expected, name)[layer][*places], rtol=1e-9, atol=1e-9)
        assert course.chance[1, i] == pytest.approx(expected.chance[layer], abs=1e-9)
    assert not torch.allclose(course.chance[0], course.chance[1])  # the weights had moved


def by_hand(network, batch, forward, layer):
    """Cosines of two losses' gradients at every sample, one backward pass each."""
    kept = []
    handle = dict(network.named_modules())[layer].register_forward_hook(lambda _m, _a, out: kept.append(out))
    cosines = []
    for i in range(len(batch[0])):
        kept.clear()
        losses = forward(network, (batch[0][i : i + 1], batch[1][i : i + 1]))
        a, b = (torch.autograd.grad(loss.sum(), kept[0], retain_graph=True)[0].flatten() for loss in losses.values())
        cosines.append(torch.dot(a, b) / a.norm() / b.norm())
    handle.remove()
    return torch.stack(cosines)


def test_losses_against_one_backward_pass_for_each_sample_and_parameters_against_their_own():
    network, batch = ge.MLP([5, 6, 6, 8], seed=0).double(), labeled(30, 5)
    frame = ge.InterferenceMonitor(network, batch, on="losses", forward=two_losses)
    frame.step(0)
    course, table = frame.course, frame.to_frame()
    assert course.pairs == (("a", "b"),)
    for i, layer in enumerate(course.layers):
        if layer != "input":
            expected = by_hand(network, batch, two_losses, layer)
            assert course.cosine[0, i, 0] == pytest.approx(float(expected.mean()), abs=1e-12)
            assert course.abs_cosine[0, i, 0] == pytest.approx(float(expected.abs().mean()), abs=1e-12)
            assert course.conflict[0, i, 0] == pytest.approx(float((expected < 0).double().mean()), abs=1e-12)
            standard = float(expected.std() / len(expected) ** 0.5)
            assert course.errors[0, 0, i, 0] == pytest.approx(standard, rel=1e-9)
    rows = []
    for loss in two_losses(network, batch).values():
        grads = torch.autograd.grad(loss.mean(), list(network.parameters()), retain_graph=True)
        rows.append(torch.cat([g.flatten() for g in grads]))
    assert float(table["parameter_cosine"].iloc[0]) == pytest.approx(float(F.cosine_similarity(*rows, dim=0)))
    assert set(table) >= {"step", "layer", "first", "second", "cosine", "abs_cosine", "conflict", "chance"}
    assert table.notna().all(axis=None)


def branched():
    """A shared stem, and two branches with a head each."""
    parts = {"stem": nn.Linear(4, 6), "left": nn.Linear(6, 5), "right": nn.Linear(6, 5)}
    parts |= {"a": nn.Linear(5, 2), "b": nn.Linear(5, 3)}

    def run(m, x):
        h = m.stem(x).tanh()
        return {"a": m.a(m.left(h).tanh()), "b": m.b(m.right(h).tanh())}

    return Net(run, **parts).double()


def test_heads_are_tasks_and_parameters_are_compared_where_both_reach():
    network, x = branched(), randn(20, 4)
    monitor = ge.InterferenceMonitor(network, x, layers=["stem", "input"])
    monitor.step(0)
    course = monitor.course
    assert course.pairs == (("a", "b"),)
    assert course.layers == ("input", "stem")
    expected = ge.interference(network, x, layers=["stem"])
    assert course.cosine[0, 1, 0] == pytest.approx(float(expected.cosine["stem"][:2, 2:].mean()))

    def losses(model, batch):
        return {name: head.square().mean(1) for name, head in model(batch).items()}

    monitor = ge.InterferenceMonitor(network, x, on="losses", forward=losses)
    monitor.step(0)
    stem = list(network.stem.parameters())
    rows = [torch.autograd.grad(loss.mean(), stem, retain_graph=True) for loss in losses(network, x).values()]
    flat = [torch.cat([g.flatten() for g in row]) for row in rows]
    assert monitor.course.parameter_cosine[0, 0] == pytest.approx(float(F.cosine_similarity(*flat, dim=0)))


def test_where_nothing_is_shared_parameters_say_nothing_and_rows_without_gradients_are_left_out():
    network, x = branched(), randn(20, 4)

    def losses(model, batch):
        a, b = model(batch).values()
        return {"a": a.mean(1), "b": b.detach().mean(1)}

    monitor = ge.InterferenceMonitor(network, x, on="losses", forward=losses, layers=["stem", "left"], n_readouts=0)
    monitor.step(0)
    assert monitor.course.parameter_cosine.tolist() == [[0.0]]
    assert monitor.course.count[0].tolist() == [[0], [0]]
    assert len(monitor.to_frame()) == 0
    assert "chance" not in monitor.to_frame()


# ---------------------------------------------------------------- it leaves no trace


def convolutional():
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.Dropout2d(0.3), nn.Flatten(), nn.Linear(64, 4)
    )


def with_batch_norm():
    return nn.Sequential(nn.Linear(36, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.4), nn.Linear(16, 4))


class Frozen(nn.Module):
    """A frozen part, a counter that even eval mode moves, and a train() of its own, which eval() would call."""

    def __init__(self):
        super().__init__()
        self.stem, self.drop, self.head = nn.Linear(36, 8), nn.Dropout(0.2), nn.Linear(8, 4)
        self.stem.bias.requires_grad_(False)
        self.register_buffer("seen", torch.zeros(()))
        self.calls = []

    def train(self, mode=True):
        self.calls.append(mode)
        return super().train(mode)

    def forward(self, x):
        self.seen += 1
        return self.head(self.drop(self.stem(x.flatten(1)).relu()))


def attention():
    layer = nn.TransformerEncoderLayer(6, 2, 12, dropout=0.1, batch_first=True)
    return nn.Sequential(layer, nn.Flatten(), nn.Linear(36, 4))


MODELS = {
    "mlp": (lambda: ge.MLP([36, 16, 16, 4], seed=0), (36,)),
    "dropout and batch norm": (with_batch_norm, (36,)),
    "convolutional": (convolutional, (1, 6, 6)),
    "frozen": (Frozen, (36,)),
    "attention": (attention, (6, 6)),
}


def train(make, shape, monitored, steps=12):
    """Train for some steps with noise of all three generators, and return everything there is afterwards."""
    torch.manual_seed(0)
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002
    network = make()
    x, y = torch.randn(200, *shape), torch.randint(4, (200,))
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-2)
    network.train()
    call = monitored(network, (x[160:], y[160:])) if monitored else lambda: None
    losses = []
    for _ in range(steps):
        rows = torch.randperm(160)[: 16 + random.randrange(8)]
        optimizer.zero_grad()
        noise = float(np.random.rand())  # noqa: NPY002
        loss = F.cross_entropy(network(x[rows] + 0.1 * noise), y[rows])
        loss.backward()
        optimizer.step()
        call()
        losses.append(loss.item())
    numpy = np.random.get_state()  # noqa: NPY002
    return {
        "losses": losses,
        "state": network.state_dict(),
        "optimizer": optimizer.state_dict()["state"],
        "grads": [None if p.grad is None else p.grad.clone() for p in network.parameters()],
        "learnable": [p.requires_grad for p in network.parameters()],
        "modes": [module.training for module in network.modules()],
        "hooks": [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in network.modules()],
        "calls": getattr(network, "calls", None),
        "torch": torch.get_rng_state(),
        "python": random.getstate(),
        "numpy": (numpy[1].tolist(), *numpy[2:]),
    }


def is_same(one, other):
    """Bit for bit."""
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(is_same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(is_same, one, other))
    return one == other


def outputs(network, probe):
    return ge.InterferenceMonitor(network, probe[0], every=2)


def losses(network, probe):
    return ge.InterferenceMonitor(network, probe, every=1, on="losses", forward=two_losses)


def noisy(network, probe):
    """What is compared draws random numbers of all three kinds."""

    def forward(model, batch):
        random.random()
        np.random.rand()  # noqa: NPY002
        torch.rand(3)
        return model(batch)

    return ge.InterferenceMonitor(network, probe[0], every=1, forward=forward)


def naive(network, probe):
    """A few lines by hand, as one would write them."""

    def call():
        loss = two_losses(network, probe)
        sum(part.mean() for part in loss.values()).backward()

    return call


@pytest.mark.parametrize("monitored", [outputs, losses, noisy], ids=lambda f: f.__name__)
@pytest.mark.parametrize("name", MODELS)
def test_a_monitored_run_is_bit_equal_to_one_that_is_not(name, monitored):
    assert is_same(train(*MODELS[name], monitored), train(*MODELS[name], None))


@pytest.mark.parametrize("name", MODELS)
def test_a_naive_monitor_does_not_pass_that_test(name):
    assert not is_same(train(*MODELS[name], naive), train(*MODELS[name], None))


def test_gradients_that_wait_for_the_optimizer_are_left_alone():
    network, x = ge.MLP([4, 8, 3], seed=0), torch.randn(20, 4)
    network(x).sum().backward()
    before, held = [p.grad.clone() for p in network.parameters()], [p.grad for p in network.parameters()]
    ge.InterferenceMonitor(network, x).step(0)
    assert all(map(torch.equal, before, held))
    assert all(p.grad is grad for p, grad in zip(network.parameters(), held, strict=True))


def test_the_probe_is_its_own():
    network, x = ge.MLP([4, 8, 3], seed=0), torch.randn(20, 4)
    monitor = ge.InterferenceMonitor(network, x)
    monitor.step(0)
    x.zero_()
    monitor.step(50)
    assert torch.equal(monitor.course.cosine[0], monitor.course.cosine[1])


@pytest.mark.parametrize("way", ["data", "parameter", "assign", "hook", "frozen"])
def test_whatever_way_weights_change_the_new_ones_are_measured(way):
    network, x = ge.MLP([4, 8, 8, 3], seed=0).double(), randn(30, 4)
    other = ge.MLP([4, 8, 8, 3], seed=1).double()
    monitor = ge.InterferenceMonitor(network, x)
    monitor.step(0)
    if way == "data":
        for parameter, new in zip(network.parameters(), other.parameters(), strict=True):
            parameter.data = new.data.clone()
    elif way == "parameter":
        network.hidden1.linear = other.hidden1.linear
    elif way == "assign":
        network.load_state_dict(other.state_dict(), assign=True)
    elif way == "hook":  # a chain no longer
        network.hidden1.register_forward_hook(lambda _m, _a, out: out * torch.arange(8))
    else:
        network.load_state_dict(other.state_dict())
        network.hidden1.requires_grad_(False)
    monitor.step(50)
    expected = ge.interference(network, x)
    places = torch.triu_indices(3, 3, 1)
    for i, layer in enumerate(monitor.course.layers):
        torch.testing.assert_close(monitor.course.cosine[1, i], expected.cosine[layer][*places])
    assert [p.requires_grad for p in network.hidden1.parameters()] == [way != "frozen"] * 2


def test_parts_that_are_frozen_meanwhile_stay_frozen():
    network, batch = branched(), randn(20, 4)
    monitor = ge.InterferenceMonitor(network, batch)
    network.stem.requires_grad_(False)
    monitor.step(0)
    assert not any(p.requires_grad for p in network.stem.parameters())
    assert monitor.course.count.min() == 20


# ---------------------------------------------------------------- nothing stops the training


def test_a_logger_that_raises_is_told_of_once_and_measuring_goes_on():
    network, x = ge.MLP([4, 8, 3], seed=0), torch.randn(20, 4)

    def log(values):
        raise ConnectionError("no network")

    monitor = ge.InterferenceMonitor(network, x, every=1, log=log)
    with pytest.warns(UserWarning, match="the logger failed at step 1, and training goes on: ConnectionError: no net"):
        monitor.step()
    monitor.step()
    assert monitor.course.steps.tolist() == [1, 2]


def test_weights_that_are_not_finite_are_told_of_once_and_not_measured():
    network, x = ge.MLP([4, 8, 3], seed=0), torch.randn(20, 4)
    monitor = ge.InterferenceMonitor(network, x, every=1)
    monitor.step()
    kept = copy.deepcopy(network.state_dict())
    with torch.no_grad():
        network.hidden1.linear.weight[0, 0] = float("nan")
    with pytest.warns(UserWarning, match="interference could not be measured at step 2, and training goes on"):
        monitor.step()
    monitor.step()
    network.load_state_dict(kept)
    monitor.step()
    assert monitor.course.steps.tolist() == [1, 4]
    assert monitor.to_frame().notna().all(axis=None)


def test_what_is_logged():
    network, batch, seen = ge.MLP([5, 6, 8], seed=0), (torch.randn(30, 5), torch.randint(8, (30,))), []
    with ge.InterferenceMonitor(network, batch, on="losses", forward=two_losses, every=5, log=seen.append) as monitor:
        for _ in range(7):
            monitor()
    assert [values["step"] for values in seen] == [0, 5, 7]  # when it begins, every fifth, when it ends
    row = monitor.to_frame().query("step == 7 and layer == 'hidden1'").iloc[0]
    values = seen[-1]
    assert values["interference/hidden1/cosine/a-b"] == values["interference/hidden1/cosine"] == row["cosine"]
    assert values["interference/hidden1/chance"] == row["chance"]
    assert values["interference/parameters/cosine/a-b"] == row["parameter_cosine"]
    assert all(np.isfinite(value) for value in values.values())
    seen.clear()
    ge.InterferenceMonitor(ge.MLP([5, 6, 8], seed=0), batch[0], log=seen.append).step(50)
    assert len(seen[0]) == 1 + 2 * 4  # of 28 pairs only means


def test_an_error_in_the_training_is_not_hidden_and_not_measured():
    network, x = ge.MLP([4, 8, 3], seed=0), torch.randn(20, 4)
    with pytest.raises(KeyError, match="mine"), ge.InterferenceMonitor(network, x) as monitor:  # noqa: PT012
        monitor()
        raise KeyError("mine")
    assert monitor.course.steps.tolist() == [0]


def test_parameters_whose_gradients_are_not_finite_are_told_of():
    """A loss that overflows its mean, not the gradient at any sample."""
    network, x = ge.MLP([4, 8, 2], seed=0), torch.rand(20, 4)

    def losses(model, batch):
        z = model(batch)
        return {"a": z[:, 0], "b": z[:, 1] * scale}

    scale = 1.0
    monitor = ge.InterferenceMonitor(network, x, on="losses", forward=losses, every=1, layers="hidden1")
    scale = 1e38
    with torch.no_grad():
        network.hidden1.linear.bias.fill_(1e4)
    with pytest.warns(UserWarning, match="interference could not be measured at step 1"):
        monitor.step()
    assert len(monitor.course.steps) == 0


def test_a_step_that_comes_again_is_measured_once():
    monitor = ge.InterferenceMonitor(ge.MLP([4, 8, 3], seed=0), torch.randn(20, 4), every=10)
    for step in (0, 10, 10, 10, 11, 20):
        monitor(step)
    assert monitor.course.steps.tolist() == [0, 10, 20]


# ---------------------------------------------------------------- refusals


def empty():
    return ge.MLP([4, 8, 3], seed=0), torch.randn(20, 4)


@pytest.mark.parametrize(
    ("settings", "error", "match"),
    [
        ({"every": 0}, ValueError, "`every` should be at least 1"),
        ({"every": 2.5}, TypeError, "`every` should be an integer"),
        ({"on": "weights"}, ValueError, "`on` should be one of 'outputs', 'losses'"),
        ({"on": "losses"}, ValueError, "`forward` should return the losses of every sample"),
        ({"log": "tensorboard"}, TypeError, "`log` should be a function of a mapping"),
        ({"n_readouts": 2}, ValueError, "`n_readouts` should be 0 or at least 4"),
        ({"seed": -1}, ValueError, "`seed` should be at least 0"),
        ({"layers": "hidden7"}, ValueError, "hidden7"),
        ({"units": [7]}, ValueError, "`units` should lie between 0 and 2"),
        ({"units": [1]}, ValueError, "`probe` should be asked of at least two tasks"),
        ({"centered": 1}, TypeError, "`centered` should be True or False"),
        ({"on": "losses", "forward": lambda m, x: m(x).sum()}, ValueError, "`model` should return float tensors"),
        (
            {"on": "losses", "forward": lambda m, x: {"a": m(x), "b": m(x)[:, :1]}},
            ValueError,
            "`forward` should return one loss a sample for each task",
        ),
    ],
)
def test_settings_are_refused_before_the_training(settings, error, match):
    with pytest.raises(error, match=match):
        ge.InterferenceMonitor(*empty(), **settings)


def test_models_probes_and_steps_are_refused():
    network, x = empty()
    with pytest.raises(TypeError, match=r"`model` should be a torch\.nn\.Module"):
        ge.InterferenceMonitor("network", x)
    with pytest.raises(ValueError, match="`probe` should be finite"):
        ge.InterferenceMonitor(network, x * float("nan"))
    with pytest.raises(TypeError, match="`probe` should be one batch"):
        ge.InterferenceMonitor(network, [x, x])
    with pytest.raises(ValueError, match="`probe` should hold at least two samples"):
        ge.InterferenceMonitor(network, x[:1])
    with pytest.raises(ValueError, match="`step` should be at least 0"):
        ge.InterferenceMonitor(network, x).step(-1)
    with pytest.raises(TypeError, match="`step` should be an integer"):
        ge.InterferenceMonitor(network, x).step(1.5)


# ---------------------------------------------------------------- saved weights


def test_a_course_over_saved_weights_is_that_of_a_monitor(tmp_path):
    network, x, y = ge.MLP([4, 8, 8, 3], seed=0), torch.randn(60, 4), torch.randint(3, (60,))
    optimizer, saved = torch.optim.SGD(network.parameters(), lr=0.5), {}
    with ge.InterferenceMonitor(network, x, every=2) as monitor:
        saved[0] = copy.deepcopy(network.state_dict())
        for step in range(1, 5):
            optimizer.zero_grad()
            F.cross_entropy(network(x), y).backward()
            optimizer.step()
            monitor.step()
            if step == 2:
                torch.save({"state_dict": network.state_dict()}, tmp_path / "two.pt")
                saved[2] = tmp_path / "two.pt"
            if step == 4:
                from safetensors.torch import save_file

                save_file(network.state_dict(), tmp_path / "four.safetensors")
                saved[4] = str(tmp_path / "four.safetensors")
    before = copy.deepcopy(network.state_dict())
    course = ge.training_course(network, saved, x)
    assert course.to_frame().equals(monitor.to_frame())
    assert is_same(before, network.state_dict())
    assert ge.training_course(network, list(saved.values()), x).steps.tolist() == [0, 1, 2]


def test_saved_weights_are_refused(tmp_path):
    network, x = empty()
    state = network.state_dict()
    for wrong in (state, {-1: state}, {0.5: state}):
        with pytest.raises((ValueError, TypeError), match="`checkpoints` should be"):
            ge.training_course(network, wrong, x)
    for wrong in ("a path", 7, x):
        with pytest.raises(TypeError, match="`checkpoints` should map steps to state dicts"):
            ge.training_course(network, wrong, x)
    with pytest.raises(ValueError, match="`checkpoints` should hold at least one"):
        ge.training_course(network, [], x)
    with pytest.raises(ValueError, match=r"`checkpoints` should name files that exist\. Got 'gone\.pt'"):
        ge.training_course(network, [tmp_path / "gone.pt"], x)
    with pytest.raises(ValueError, match=r"`checkpoints` should be state dicts of the model\. Got another at step 0"):
        ge.training_course(network, [ge.MLP([4, 9, 3]).state_dict()], x)
    with pytest.raises(ValueError, match="`checkpoints` should be state dicts of the model"):
        ge.training_course(network, [7], x)
    other = ge.MLP([4, 8, 3], seed=1).state_dict()
    with pytest.raises(ValueError, match="`forward` should call the model that it is given"):
        ge.training_course(network, [state, other], x, forward=lambda _, batch: network(batch))
    with pytest.raises(TypeError, match=r"`model` should be a torch\.nn\.Module"):
        ge.training_course("network", [state], x)


# ---------------------------------------------------------------- the figure


def test_maps_show_the_numbers_and_mark_what_chance_gives_too(drawn):
    network = ge.MLP([4, 8, 8, 3], seed=0)
    states = [ge.MLP([4, 8, 8, 3], seed=seed).state_dict() for seed in range(4)]
    seen = ge.training_course(network, dict(zip((0, 10, 100, 1000), states, strict=True)), torch.randn(40, 4))
    for measure in ("cosine", "abs_cosine", "conflict"):
        panels = ge.plots.course(seen, measure=measure)
        assert [ax.get_title() for ax in panels] == ["0 and 1", "0 and 2", "1 and 2"]
        for k, ax in enumerate(panels):
            values, errors = (
                getattr(seen, measure)[:, :, k].T,
                seen.errors[["cosine", "abs_cosine", "conflict"].index(measure), :, :, k].T,
            )
            assert np.allclose(ax.images[0].get_array(), values)
            neutral = seen.chance.T if measure == "abs_cosine" else 0.0 if measure == "cosine" else 0.5
            dots = {(int(x), int(y)) for x, y in ax.collections[0].get_offsets()}
            marked = ((values - neutral).abs() <= 1.96 * errors).nonzero().tolist()
            assert dots == {(x, y) for y, x in marked}
        assert [text.get_text() for text in panels[0].get_xticklabels()] == ["0", "10", "100", "1,000"]


def test_maps_are_refused():
    network, x = empty()
    monitor = ge.InterferenceMonitor(network, x)
    with pytest.raises(ValueError, match="`result` should hold at least one measurement"):
        ge.plots.course(monitor)
    monitor.step(0)
    with pytest.raises(ValueError, match="`measure` should be one of"):
        ge.plots.course(monitor, measure="norm_similarity")
    with pytest.raises(ValueError, match="`pairs` should be some of those measured"):
        ge.plots.course(monitor, pairs=[("0", "7")])
    with pytest.raises(ValueError, match="`limit` should be finite"):
        ge.plots.course(monitor, limit=0)
    with pytest.raises(TypeError, match="`result` should be a TrainingCourse"):
        ge.plots.course(7)
    many = ge.InterferenceMonitor(ge.MLP([4, 8, 10], seed=0), x)
    many.step(0)
    with pytest.raises(ValueError, match="`pairs` should be at most 20"):
        ge.plots.course(many)


# ---------------------------------------------------------------- where to split


LAYERS = ["first", "second"]


def fork(at_second, at_first):
    """Two linear layers, read by two tasks whose gradients have a given cosine at the second, a sign at the first.

    Reading e0, and c e0 + s e1, of layer two, whose rows 0 and 1 are v and k v: at layer one the gradients are v and
    (c + s k) v, up to the residuals.
    """
    first, second, head = (nn.Linear(a, b, bias=False).double() for a, b in ((32, 32), (32, 32), (32, 2)))
    sine = (1 - at_second**2) ** 0.5
    with torch.no_grad():
        second.weight[1] = (at_first - at_second) / sine * second.weight[0]
        head.weight.zero_()
        head.weight[0, 0], head.weight[1, 0], head.weight[1, 1] = 1, at_second, sine
    return Net(lambda m, x: m.head(m.second(m.first(x))), first=first, second=second, head=head)


def residuals(model, batch):
    """Losses whose derivatives by the outputs are 1, or what the batch says."""
    z = model(batch[0])
    return {"a": z[:, 0], "b": z[:, 1] * batch[1]}


@pytest.mark.parametrize("level", ["zero", "chance"])
@pytest.mark.parametrize(
    ("at_second", "at_first", "expected"), [(-0.8, 1, "first"), (-0.8, -1, ""), (0.8, -1, ""), (0.8, 1, "second")]
)
def test_tasks_share_up_to_the_layer_where_they_are_at_odds(at_second, at_first, expected, level):
    x = randn(60, 32)
    found = ge.recommend_split(
        fork(at_second, at_first), (x, torch.ones(60)), forward=residuals, layers=LAYERS, level=level
    )
    assert found.layers == ("first", "second")
    assert found.layer == {("a", "b"): expected}
    assert found.share.tolist() == [[float(("", "first", "second")[k] == expected) for k in range(3)]]
    table = found.table.set_index("layer")
    assert table["cosine"].tolist() == pytest.approx([at_first, at_second])
    assert table["level"].tolist() == [0, 0] if level == "zero" else (table["level"] < 0).all()
    assert table["is_shared"].tolist() == [expected != "", expected == "second"]


def test_where_samples_disagree_the_recommendation_says_that_it_is_unsure():
    x, signs = randn(60, 32), torch.ones(60)
    signs[::2] = -1
    network = fork(0.8, 1)
    found = ge.recommend_split(network, (x, signs), forward=residuals, layers=LAYERS)
    assert 0.3 < found.share[0, 2] < 0.7
    low, high = found.table[["low", "high"]].to_numpy().T
    assert (low < 0).all()
    assert (high > 0).all()
    lenient = ge.recommend_split(network, (x, signs), forward=residuals, layers=LAYERS, level="chance")
    assert lenient.share[0, 2] > 0.95  # within chance
    again = ge.recommend_split(network, (x, signs), forward=residuals, layers=LAYERS)
    assert again.table.equals(found.table)


def test_networks_that_disagree_make_it_less_sure_than_one():
    x, agree, odd = (randn(60, 32), torch.ones(60)), fork(0.8, 1), fork(-0.8, -1)
    found = ge.recommend_split([agree, agree, odd], x, forward=residuals, layers=LAYERS)
    assert found.n_networks == 3
    assert found.layer == {("a", "b"): "second"}  # the mean cosine is 0.27
    assert 0.15 < found.share[0, 0] < 0.4  # two odd ones or more among three draws: 7 / 27
    assert "3 networks, 60 samples" in repr(found)


def test_split_recommendations_refuse():
    network, batch, usual = fork(0.8, 1), (randn(20, 32), torch.ones(20)), {"forward": residuals, "layers": LAYERS}
    for settings, error, match in (
        ({"level": 0.5}, ValueError, "`level` should be one of 'chance', 'zero'"),
        ({"n_bootstrap": 0}, ValueError, "`n_bootstrap` should be at least 1"),
        ({"confidence": 2}, ValueError, "`confidence` should be finite"),
        ({"n_readouts": 0}, ValueError, "`n_readouts` should be at least 4"),
        ({"forward": None}, ValueError, "`forward` should return the losses"),
        (
            {"layers": "first", "units": None, "forward": residuals, "on": "weights"},
            ValueError,
            "`on` should be one of",
        ),
        ({"layers": "input"}, ValueError, "`layers` should name a layer of the trunk, beside the input"),
    ):
        with pytest.raises(error, match=match):
            ge.recommend_split(network, batch, **usual | settings)
    alike = [ge.MLP([32, 8, 2], seed=0).double(), ge.MLP([32, 8, 8, 2], seed=0).double()]
    with pytest.raises(ValueError, match="`models` should have the same layers and tasks"):
        ge.recommend_split(alike, batch, forward=residuals)
    with pytest.raises(TypeError, match="`models` should be a network, or a list of them"):
        ge.recommend_split(7, batch, **usual)
    with pytest.raises(TypeError, match=r"`model` should be a torch\.nn\.Module"):
        ge.recommend_split(["network"], batch, **usual)


# ---------------------------------------------------------------- callbacks


def test_without_their_libraries_callbacks_say_what_to_install(monkeypatch):
    _torchvision_mnist()
    for name in ("lightning", "transformers"):
        module = import_module(f"gradembed.monitor.{name}")
        monkeypatch.setattr(module, "Callback" if name == "lightning" else "TrainerCallback", None)
        with pytest.raises(
            ImportError, match=rf"`{name}` should be installed. Got none. pip install 'gradembed\[{name}"
        ):
            module.InterferenceCallback(torch.zeros(2, 2))


def test_lightning():
    warnings.simplefilter("ignore")
    _torchvision_mnist()  # imported first, as a CPU build of torch needs it
    lightning = pytest.importorskip("lightning.pytorch")
    from gradembed.monitor.lightning import InterferenceCallback

    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.network = ge.MLP([4, 8, 3], seed=0)
            self.drop = nn.Dropout(0.2)

        def forward(self, x):
            return self.network(self.drop(x))

        def training_step(self, batch, _):
            return F.cross_entropy(self(batch[0]), batch[1])

        def configure_optimizers(self):
            return torch.optim.Adam(self.parameters(), lr=1e-2)

    def fit(callbacks):
        lightning.seed_everything(0, verbose=False)
        module, data = Module(), torch.utils.data.TensorDataset(torch.randn(60, 4), torch.randint(3, (60,)))
        quiet = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
        trainer = lightning.Trainer(max_steps=6, accelerator="cpu", logger=False, callbacks=callbacks, **quiet)
        trainer.fit(module, torch.utils.data.DataLoader(data, batch_size=20, shuffle=True))
        return module.state_dict()

    seen = []
    callback = InterferenceCallback(torch.randn(20, 4), every=2, log=seen.append)
    assert is_same(fit([callback]), fit([]))
    assert callback.monitor.course.steps.tolist() == [0, 2, 4, 6]
    assert len(seen) == 4


def test_transformers(tmp_path):
    warnings.simplefilter("ignore")
    _torchvision_mnist()
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("accelerate")
    from gradembed.monitor.transformers import InterferenceCallback

    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    settings = transformers.BertConfig(vocab_size=50, num_labels=3, **sizes)
    tokens = torch.randint(50, (40, 7))
    rows = [{"input_ids": row, "labels": int(row[0]) % 3} for row in tokens]

    def fit(callbacks):
        transformers.set_seed(0)
        model = transformers.BertForSequenceClassification(settings)
        quiet = {"report_to": [], "disable_tqdm": True, "save_strategy": "no", "use_cpu": True}
        arguments = transformers.TrainingArguments(tmp_path, max_steps=6, per_device_train_batch_size=8, **quiet)
        transformers.Trainer(model, arguments, train_dataset=rows, callbacks=callbacks).train()
        return model.state_dict()

    callback = InterferenceCallback({"input_ids": tokens[:10]}, every=3)
    assert is_same(fit([callback]), fit([]))
    assert callback.monitor.course.steps.tolist() == [0, 3, 6]
    assert len(callback.monitor.course.layers) > 1
