"""Training: what is learned and reported, what a seed decides, and that failure leaves no trace."""

import dataclasses
import math
import re
from collections import Counter

import jaxtyping
import numpy as np
import pytest
import torch
from _learning import IRIS, PARTS, map_parts, quick, values_split
from sklearn.metrics import r2_score
from torch import nn

import gradembed as ge
from gradembed import training
from gradembed.training._data import Shift


def fit(split=IRIS, widths=(4, 8, 3), weights=0, **changes):
    return ge.train(ge.MLP(widths, seed=weights), split, quick(**changes))


def snapshot(model):
    return {key: value.clone() for key, value in model.state_dict().items()}


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def assert_same_run(one, other):
    assert same(one.model.state_dict(), other.model.state_dict())
    assert one.history.drop(columns="seconds").equals(other.history.drop(columns="seconds"))


def tasks_split():
    """Two tasks: the species, and whether the first feature is above its mean."""
    train, test = ((part[:, 0] > 0).long() for part in (IRIS.x_train, IRIS.x_test))
    y_train, y_test = torch.stack([IRIS.y_train, train], 1), torch.stack([IRIS.y_test, test], 1)
    return dataclasses.replace(IRIS, y_train=y_train, y_test=y_test)


# Learning


@pytest.mark.parametrize("is_shuffled", [False, True])
def test_linear_model_learns_iris_but_nothing_from_shuffled_targets(is_shuffled):
    order = torch.randperm(120, generator=torch.Generator().manual_seed(0)) if is_shuffled else slice(None)
    run = fit(dataclasses.replace(IRIS, y_train=IRIS.y_train[order]), widths=(4, 3), epochs=30, learning_rate=0.05)
    losses = run.history["train_loss"]
    assert (losses.iloc[-1] < 0.5 * losses.iloc[0]) is not is_shuffled
    assert run.test_accuracy < 0.7 if is_shuffled else run.test_accuracy > 0.85


@pytest.mark.parametrize("n_outputs", [None, 3])
def test_values_are_learned(n_outputs):
    assert fit(values_split(n_outputs), (5, 32, n_outputs or 1), epochs=60, learning_rate=0.03).test_r2 > 0.8


def test_tasks_are_learned_side_by_side():
    run = fit(tasks_split(), widths=(4, 32, 6), epochs=30)
    logits = run.model(IRIS.x_test)
    accuracies = [(logits[:, i : i + 3].argmax(1) == tasks_split().y_test[:, i // 3]).double().mean() for i in (0, 3)]
    assert min(accuracies) > 0.8
    assert run.test_accuracy == pytest.approx(float(sum(accuracies) / 2))


@pytest.mark.parametrize(("split", "widths"), [(IRIS, (4, 8, 3)), (values_split(), (5, 4, 1))], ids=["class", "value"])
def test_one_target_in_a_column_is_the_same_as_without(split, widths):
    column = map_parts(split, lambda part: part if part.ndim == 2 else part[:, None])
    assert_same_run(fit(split, widths), fit(column, widths))


@pytest.mark.slow
def test_mnist_sample_is_learned():
    split = ge.datasets.load_mnist(source="sample")
    config = dataclasses.replace(ge.TrainConfig.for_mnist_sample(seed=0), epochs=10, progress=False)
    assert ge.train(ge.MLP([784, 64, 64, 10], seed=0), split, config).test_accuracy >= 0.93


# One step, by hand


def test_first_step_is_that_of_adamw_at_the_start_of_one_cycle():
    model = nn.Linear(4, 3)
    before, bias = (3 * p.detach().double().numpy() for p in model.parameters())
    model.load_state_dict({"weight": torch.from_numpy(before), "bias": torch.from_numpy(bias)})
    x, y = IRIS.x_train.double().numpy(), IRIS.y_train.numpy()
    logits = x @ before.T + bias
    shares = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    gradient = (shares - np.eye(3)[y]).T @ x / 120
    ge.train(model, IRIS, quick(epochs=1, batch_size=120, learning_rate=0.25, weight_decay=0.5))
    rate = 0.25 / 25
    expected = before * (1 - rate * 0.5) - rate * gradient / (np.abs(gradient) + 1e-8)
    assert np.allclose(model.weight.detach().numpy(), expected, atol=1e-6)
    assert not np.allclose(model.weight.detach().numpy(), before, atol=1e-3)


# What is reported


@pytest.mark.parametrize(("split", "widths", "score", "text"), [
    (IRIS, (4, 3), "accuracy", r"accuracy 0\.\d{4}"), (values_split(), (5, 1), "r2", r"R² -?\d+\.\d{4}")])  # fmt: skip
def test_run_has_a_row_for_each_epoch_and_says_how_it_went(split, widths, score, text):
    model, config = ge.MLP(widths, seed=0), quick(epochs=7)
    run = ge.train(model, split, config)
    columns = ["epoch", "train_loss", f"train_{score}", "test_loss", f"test_{score}", "learning_rate", "seconds"]
    assert list(run.history.columns) == columns
    assert run.history.dtypes.map(str).tolist() == ["int64"] + ["float64"] * 6
    assert run.history["epoch"].tolist() == list(range(1, 8))
    assert run.history["seconds"].is_monotonic_increasing
    assert 0 < run.history["seconds"].iloc[-1] <= run.seconds
    scores = {"accuracy": None, "r2": None, score: run.history[f"test_{score}"].iloc[-1]}
    assert {"accuracy": run.test_accuracy, "r2": run.test_r2} == scores
    assert (id(run.model), id(run.config)) == (id(model), id(config))
    assert re.fullmatch(rf"TrainingRun\(MLP, test {text} after 7 epochs, \d+\.\d s\)", repr(run))
    assert run != ge.train(model, split, config)


def test_learning_rate_rises_and_falls_below_its_peak():
    rates = fit(epochs=20, learning_rate=0.02).history["learning_rate"].to_numpy()
    peak = int(rates.argmax())
    assert 0 < peak < 19
    assert (np.sign(np.diff(rates)) == np.where(np.arange(19) < peak, 1, -1)).all()
    assert 0.015 < rates.max() <= 0.02
    assert rates[-1] < 0.001


def still(split, model, batch_size):
    """The second epoch with weights that stand as good as still: its running means are those of the start."""
    return ge.train(model, split, quick(batch_size=batch_size, learning_rate=1e-30, weight_decay=0.0)).history.iloc[1]


@pytest.mark.parametrize(("split", "batch_size"), [(IRIS, 120), (IRIS, 50), (tasks_split(), 7)])
def test_reported_loss_and_accuracy_are_means_over_samples_and_tasks(split, batch_size):
    t = 1 if split is IRIS else 2
    model = ge.MLP([4, 8, 3 * t], seed=3)
    row = still(split, model, batch_size)
    for part in ("train", "test"):
        logits = model(getattr(split, f"x_{part}")).detach().double().reshape(-1, t, 3).numpy()
        y = getattr(split, f"y_{part}").reshape(-1, t)
        right = np.log(np.exp(logits).sum(2)) - np.take_along_axis(logits, y[..., None].numpy(), 2)[..., 0]
        assert row[f"{part}_loss"] == pytest.approx(right.mean(), rel=1e-5)
        assert row[f"{part}_accuracy"] == pytest.approx((logits.argmax(2) == y.numpy()).mean(), rel=1e-6)
        assert t == 1 or abs(right[:, 0].mean() - right[:, 1].mean()) > 1e-3


@pytest.mark.parametrize("n_outputs", [None, 4])
def test_reported_loss_and_r2_are_means_over_outputs(n_outputs):
    split, model = values_split(n_outputs), ge.MLP([5, 8, n_outputs or 1], seed=3)
    row = still(split, model, batch_size=17)
    for part in ("train", "test"):
        y = getattr(split, f"y_{part}").double().numpy().reshape(-1, n_outputs or 1)
        output = model(getattr(split, f"x_{part}")).detach().double().numpy()
        assert row[f"{part}_loss"] == pytest.approx(((y - output) ** 2).mean(), rel=1e-5)
        assert row[f"{part}_r2"] == pytest.approx(r2_score(y, output), rel=1e-4, abs=1e-5)


def test_r2_of_a_constant_test_target_is_finite():
    assert math.isfinite(fit(dataclasses.replace(values_split(), y_test=torch.ones(30)), (5, 1)).test_r2)


def noisy():
    torch.manual_seed(5)
    return nn.Sequential(nn.Linear(4, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.3), nn.Linear(16, 3))


def test_test_accuracy_is_that_of_the_returned_model_in_eval_mode():
    run = ge.train(noisy(), IRIS, quick(epochs=3))
    predicted = run.model.eval()(IRIS.x_test).argmax(1).numpy()
    assert run.test_accuracy == (predicted == IRIS.y_test.numpy()).mean()


@pytest.mark.parametrize(("split", "widths"), [(tasks_split(), (4, 6)), (values_split(3), (5, 3))])
def test_evaluation_in_chunks_is_the_same(split, widths, monkeypatch):
    whole = fit(split, widths, epochs=1).history
    monkeypatch.setattr(training, "CHUNK", 7)
    np.testing.assert_allclose(fit(split, widths, epochs=1).history.iloc[0, :-1], whole.iloc[0, :-1], rtol=1e-5)


# Seeds and random state


def test_same_settings_give_the_same_weights_to_the_bit_and_any_other_setting_others():
    one = fit(seed=1)
    assert_same_run(one, fit(seed=1))
    others = [("seed", 2), ("weights", 1), ("epochs", 3), ("batch_size", 31), ("learning_rate", 0.011)]
    for key, value in (*others, ("weight_decay", 0.5)):
        assert not torch.equal(one.model.output.weight, fit(**{"seed": 1, key: value}).model.output.weight)


def test_seed_decides_what_dropout_draws_whatever_the_global_state():
    def drawn(state, seed):
        model = noisy()
        torch.manual_seed(state)
        return snapshot(ge.train(model, IRIS, quick(batch_size=120, seed=seed)).model)

    assert same(drawn(1, 0), drawn(2, 0))
    assert not same(drawn(1, 0), drawn(1, 9))


def test_random_states_and_data_are_left_alone():
    x, y = torch.randn(30, 4), torch.arange(30) % 3
    split, model = ge.datasets.Split(x[:20], y[:20], x[20:], y[20:], "made", "drawn"), noisy()
    copies, before = [getattr(split, name).clone() for name in PARTS], torch.get_rng_state()
    numpy_before = np.random.get_state()[1].copy()  # noqa: NPY002
    ge.train(model, split, quick(max_shift=1))
    assert torch.equal(torch.get_rng_state(), before)
    assert np.array_equal(np.random.get_state()[1], numpy_before)  # noqa: NPY002
    assert all(torch.equal(getattr(split, name), b) for name, b in zip(PARTS, copies, strict=True))


# State of the model


class Watched(nn.Linear):
    """Keeps what it sees, and returns what `change` makes of its outputs."""

    def __init__(self, d=4, change=lambda z: z):
        super().__init__(d, 3)
        self.seen, self.change = [], change

    def forward(self, x):
        self.seen.append((self.training, x.detach().clone()))
        return self.change(super().forward(x))


def test_training_part_is_seen_in_train_mode_and_test_part_in_eval_mode():
    model = Watched().eval()
    ge.train(model, IRIS, quick(batch_size=60))
    epoch = [(True, 60), (True, 60), (False, 30)]
    assert [(mode, len(x)) for mode, x in model.seen] == [(False, 2), *epoch, *epoch]  # first: whether they fit


def test_former_gradients_do_not_enter_and_are_put_back():
    one, other = nn.Linear(4, 3), nn.Linear(4, 3)
    other.load_state_dict(one.state_dict())
    one.weight.grad = kept = torch.full_like(one.weight, 1e6)
    assert_same_run(ge.train(one, IRIS, quick()), ge.train(other, IRIS, quick()))
    assert one.weight.grad is kept
    assert [kept.unique().item(), one.bias.grad] == [1e6, None]


def test_frozen_parameters_stay():
    model = ge.MLP([4, 8, 3], seed=0)
    model.hidden1.requires_grad_(False)
    before = snapshot(model)
    ge.train(model, IRIS, quick())
    changed = [key for key, value in model.state_dict().items() if not torch.equal(value, before[key])]
    assert changed == ["output.weight", "output.bias"] == [k for k, p in model.named_parameters() if p.requires_grad]


def test_trying_the_model_on_two_samples_does_not_count():
    """Batch norm's statistics come from the training steps alone."""
    model = nn.Sequential(nn.BatchNorm1d(4, momentum=None), nn.Linear(4, 3))
    ge.train(model, IRIS, quick(epochs=1, batch_size=120))
    assert int(model[0].num_batches_tracked) == 1
    assert torch.allclose(model[0].running_mean, IRIS.x_train.mean(0), atol=1e-6)


@pytest.mark.parametrize(("epochs", "batch_size"), [(1, 1000), (2, 120), (3, 120), (4, 120)])
def test_few_steps_are_no_trouble_for_the_schedule(epochs, batch_size):
    run = fit(epochs=epochs, batch_size=batch_size)
    assert run.history["learning_rate"].between(0, 0.01).all()
    assert not same(snapshot(run.model), snapshot(ge.MLP([4, 8, 3], seed=0)))


def test_settings_may_be_left_out():
    assert ge.train(ge.MLP([4, 3], seed=0), IRIS).config == ge.TrainConfig()


# Failure (Ctrl-C in the optimizer: test_abuse_disk.py)


class Touchy(nn.Module):
    """Batch norm and a linear layer; raises at its k-th call in a mode."""

    def __init__(self, error, at, in_training):
        super().__init__()
        self.norm, self.linear = nn.BatchNorm1d(4), nn.Linear(4, 3)
        self.error, self.left, self.in_training = error, at, in_training

    def forward(self, x):
        self.left -= self.training == self.in_training
        if self.left == 0:
            raise self.error
        return self.linear(self.norm(x))


@pytest.mark.parametrize(("error", "at", "in_training"), [
    (KeyboardInterrupt, 1, True), (ZeroDivisionError, 6, True), (RuntimeError, 3, False)])  # fmt: skip
def test_interrupted_training_leaves_no_trace(error, at, in_training):
    model = Touchy(error, at, in_training)
    model.norm.eval()
    kept = model.linear.bias.grad = torch.full((3,), 5.0)
    before, random_before = snapshot(model), torch.get_rng_state()
    with pytest.raises(error):
        ge.train(model, IRIS, quick(epochs=5))
    assert model.left == 0
    assert same(snapshot(model), before)
    assert (model.training, model.norm.training, model.linear.training) == (True, False, True)
    assert model.linear.bias.grad is kept
    assert (kept.tolist(), model.linear.weight.grad) == ([5, 5, 5], None)
    assert torch.equal(torch.get_rng_state(), random_before)
    model.left = 1000  # uninterrupted, it does leave a trace
    ge.train(model, IRIS, quick(epochs=5))
    assert (model.training, model.norm.training, model.linear.training) == (True, False, True)
    assert [key for key, value in model.state_dict().items() if torch.equal(value, before[key])] == []


@pytest.mark.parametrize(("batch_size", "when"), [(32, "in epoch 1, step 2"), (120, "on the test part after epoch 1")])
def test_loss_that_is_not_finite_stops_and_undoes(batch_size, when):
    layers = [nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3)]
    model = nn.Sequential(*layers).eval()
    before = snapshot(model)
    message = rf"`config\.learning_rate` should keep the loss finite\. Got a loss of (nan|inf) {when}, "
    message += r"at a peak rate of 1e\+30\. Lower it, or scale the data; all weights are as they were\."
    with pytest.raises(FloatingPointError, match=message):
        ge.train(model, IRIS, quick(learning_rate=1e30, batch_size=batch_size))
    assert same(snapshot(model), before)
    assert not any(module.training for module in model.modules())
    assert {parameter.grad for parameter in model.parameters()} == {None}


# Shifts


def moved(image, dy, dx, background):
    """Roll, then blank what came round the edge."""
    result, places = np.roll(image, (dy, dx), axis=(0, 1)), np.arange(len(image))
    rows, columns = (((places - by) < 0) | ((places - by) >= len(image)) for by in (dy, dx))
    result[rows[:, None] | columns] = background
    return result


@pytest.mark.parametrize(("side", "pixels"), [(5, 1), (2, 3)])
def test_each_image_moves_by_itself_by_all_the_offsets_and_no_other(side, pixels):
    x = torch.randn(2, side**2, generator=torch.Generator().manual_seed(0))
    offsets = [(dy, dx) for dy in range(-pixels, pixels + 1) for dx in range(-pixels, pixels + 1)]
    index = torch.arange(600 * len(offsets)) % 2
    images = x.numpy().reshape(2, side, side)
    expected = {moved(images[i], *o, float(x.min())).tobytes(): (i, o) for i in (0, 1) for o in offsets}
    results = [expected[row.tobytes()] for row in Shift(x, pixels, torch.Generator().manual_seed(0))(index).numpy()]
    if side > pixels:  # all differ; else nothing is left of many
        assert len(expected) == 2 * len(offsets)
        assert [i for i, _ in results] == index.tolist()
        assert all(200 < number < 400 for number in Counter(results).values())  # about equally often, 300
    assert set(results) == set(expected.values())


@pytest.mark.parametrize("max_shift", [0, 1])
def test_only_training_images_move_and_only_if_asked(max_shift):
    split, model = map_parts(IRIS, lambda part: part if part.ndim == 1 else part.repeat(1, 3)[:, :9]), Watched(9)
    ge.train(model, split, quick(epochs=1, max_shift=max_shift))
    seen = {tuple(row) for mode, x in model.seen if mode for row in x.tolist()}
    assert (seen == {tuple(row) for row in split.x_train.tolist()}) is (max_shift == 0)
    assert torch.equal(model.seen[-1][1], split.x_test)


# The progress bar


def test_progress_bar_is_drawn_on_standard_error_if_asked(capsys):
    fit(progress=True)
    out, err = capsys.readouterr()
    assert out == ""
    assert re.search(r"train on iris.* 2/2 .*test_accuracy=", err)
    fit()
    assert capsys.readouterr() == ("", "")


# Settings, refusals


def test_auto_takes_cuda_where_there_is_one_and_what_is_not_there_is_refused(monkeypatch):
    for kind, available in (("cuda", True), ("cpu", False)):
        monkeypatch.setattr(torch.cuda, "is_available", lambda available=available: available)
        assert training.resolve_device("auto").type == kind
    for device in ("meta", "cuda:1"):
        with pytest.raises(ValueError, match=f"`device` should be a device of this machine. Got '{device}'"):
            ge.TrainConfig(device=device)


@pytest.mark.parametrize(("make", "arguments", "shift", "epochs"), [
    (ge.TrainConfig.for_mnist, (), 1, 40), (ge.TrainConfig.for_iris, (), 0, 60),
    (ge.TrainConfig.for_waves, (1,), 0, 5), (ge.TrainConfig.for_waves, (64,), 0, 10)])  # fmt: skip
def test_ready_made_settings_take_the_seed(make, arguments, shift, epochs):
    config = make(*arguments)
    assert (config.seed, config.max_shift, config.epochs) == (0, shift, epochs)
    assert dataclasses.replace(config, seed=7) == make(*arguments, seed=7)


def test_configuration_is_frozen_and_reads_numpy_numbers(monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as users see it
    numbers = {"epochs": np.int64(3), "learning_rate": np.float32(0.5), "progress": np.bool_(False)}
    config = quick(**numbers, weight_decay=torch.tensor(0.25))
    assert (config.epochs, config.learning_rate, config.weight_decay) == (3, 0.5, 0.25)
    assert [type(getattr(config, name)) for name in numbers] == [int, float, bool]
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.epochs = 3


@pytest.mark.parametrize(("model", "split", "message"), [
        (nn.Linear(4, 2), IRIS, "`model` should give 1 x 3 outputs, one per task and class.* Widen"),
        (nn.Linear(4, 7), tasks_split(), r"`model` should give 2 x 3 outputs.* Got .* shape \[2, 7\]"),
        (nn.Linear(5, 2), values_split(), "`model` should give 1 outputs, one per target.* Change"),
        (nn.Linear(5, 1), values_split(2), "`model` should give 2 outputs, one per target"),
        (Watched(change=lambda z: z[..., None]), IRIS, r"`model` should give 1 x 3 outputs.* Got .* shape \[2, 3, 1\]"),
        (Watched(change=lambda z: (z, z)), IRIS, "`model` should return one tensor with a row per sample. Got tuple"),
        (Watched(change=lambda z: z[:1]), IRIS, r"`model` should return one tensor with .* shape \[1, 3\]"),
        (Watched(change=lambda z: z[:, 0]), IRIS, r"`model` should return one tensor with .* shape \[2\]"),
        (nn.Linear(7, 3), IRIS, r"`split` should fit the model. Got .* on which Linear stopped with"),
        (nn.Linear(4, 3).double(), IRIS, "`split` should fit the model. Got a float32 tensor"),
        (nn.Linear(4, 3), dataclasses.replace(IRIS, y_test=IRIS.y_test + 1), "`model` should give 1 x 4 outputs"),
        (nn.Linear(4, 3).requires_grad_(False), IRIS, "`model` should have parameters that require a gradient"),
])  # fmt: skip
def test_model_or_data_are_refused_and_the_model_stays(model, split, message):
    before = snapshot(model)
    with pytest.raises(ValueError, match=message):
        ge.train(model, split, quick())
    assert same(before, snapshot(model))
    assert all(module.training for module in model.modules())


def test_shifts_need_square_images():
    with pytest.raises(ValueError, match=r"`max_shift` should be 0 unless rows are square .* Got 1 with 5 features"):
        fit(values_split(), (5, 1), max_shift=1)
