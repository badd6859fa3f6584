"""Training: what is learned and reported, what a seed decides, and that failure leaves no trace."""

import dataclasses
import math
import re
from collections import Counter

import jaxtyping
import numpy as np
import pytest
import torch
from sklearn.metrics import r2_score
from torch import nn
from torch.nn import functional as F

import gradembed as ge
from gradembed import training
from gradembed.training import _loop

IRIS = ge.datasets.load_iris()


@pytest.fixture
def as_users_see_it():
    """Without the shape checker of the tests, whose complaints would come first."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


def quick(**changes):
    settings = {"epochs": 2, "batch_size": 32, "learning_rate": 0.01, "weight_decay": 0.01, "progress": False}
    return ge.TrainConfig(**{**settings, **changes})


def fit(split=IRIS, widths=(4, 8, 3), weights=0, **changes):
    return ge.train(ge.MLP(widths, seed=weights), split, quick(**changes))


def snapshot(model):
    return {key: value.clone() for key, value in model.state_dict().items()}


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def make_split(y, d=5, n_test=None, seed=0):
    """Noise with given targets; the last samples (a third, if not told) are the test part."""
    x = torch.randn(len(y), d, generator=torch.Generator().manual_seed(seed))
    k = len(y) - (len(y) // 3 if n_test is None else n_test)
    return ge.datasets.Split(x[:k], y[:k], x[k:], y[k:], "made", "drawn")


def values_split(n_outputs=None, n=90):
    """Linear in x, with noise; [n] or [n, n_outputs]."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(n, 5, generator=generator)
    y = x @ torch.randn(5, n_outputs or 1, generator=generator) + 0.3 * torch.randn(n, 1, generator=generator)
    y = y if n_outputs else y[:, 0]
    return ge.datasets.Split(x[:60], y[:60], x[60:], y[60:], "line", "drawn")


def tasks_split():
    """Two tasks: the species, and whether the first feature is above its mean."""
    train, test = ((part[:, 0] > 0).long() for part in (IRIS.x_train, IRIS.x_test))
    y_train, y_test = torch.stack([IRIS.y_train, train], 1), torch.stack([IRIS.y_test, test], 1)
    return dataclasses.replace(IRIS, y_train=y_train, y_test=y_test)


# Learning


def test_linear_model_learns_iris():
    run = fit(widths=(4, 3), epochs=60, learning_rate=0.05)
    losses = run.history["train_loss"]
    assert losses.iloc[-1] < 0.5 * losses.iloc[0]
    assert run.test_accuracy > 0.85


def test_nothing_is_learned_from_shuffled_targets():
    order = torch.randperm(120, generator=torch.Generator().manual_seed(0))
    run = fit(dataclasses.replace(IRIS, y_train=IRIS.y_train[order]), widths=(4, 3), epochs=60, learning_rate=0.05)
    assert run.test_accuracy < 0.7


@pytest.mark.parametrize("n_outputs", [None, 1, 3])
def test_linear_model_learns_values(n_outputs):
    run = fit(values_split(n_outputs), widths=(5, n_outputs or 1), epochs=60, learning_rate=0.1)
    assert run.test_r2 > 0.9
    assert run.test_accuracy is None


def test_tasks_are_learned_side_by_side():
    run = fit(tasks_split(), widths=(4, 32, 6), epochs=30)
    logits = run.model(IRIS.x_test)
    accuracies = [(logits[:, i : i + 3].argmax(1) == tasks_split().y_test[:, i // 3]).double().mean() for i in (0, 3)]
    assert min(accuracies) > 0.8
    assert run.test_accuracy == pytest.approx(float(sum(accuracies) / 2))
    assert run.test_r2 is None


def test_one_task_in_a_column_is_the_same_as_without():
    column = dataclasses.replace(IRIS, y_train=IRIS.y_train[:, None], y_test=IRIS.y_test[:, None])
    one, other = fit(), fit(column)
    assert same(one.model.state_dict(), other.model.state_dict())
    assert one.test_accuracy == other.test_accuracy


def test_one_value_in_a_column_is_the_same_as_without():
    one, other = (fit(values_split(n), widths=(5, 4, 1)) for n in (None, 1))
    assert one.history["test_r2"].iloc[-1] == other.history["test_r2"].iloc[-1]
    assert same(one.model.state_dict(), other.model.state_dict())


@pytest.mark.slow
def test_mnist_sample_is_learned():
    split = ge.datasets.load_mnist(source="sample")
    config = dataclasses.replace(ge.TrainConfig.for_mnist_sample(seed=0), progress=False)
    run = ge.train(ge.MLP([784, 64, 64, 10], seed=0), split, config)
    assert run.test_accuracy >= 0.955
    predicted = run.model(split.x_test).argmax(1).numpy()
    assert run.test_accuracy == (predicted == split.y_test.numpy()).mean()


# One step, by hand


@pytest.mark.parametrize("weight_decay", [0.0, 0.5])
def test_first_step_is_that_of_adamw_at_the_start_of_one_cycle(weight_decay):
    model = nn.Linear(4, 3)
    with torch.no_grad():
        model.weight.mul_(3)
    before = model.weight.detach().double().numpy().copy()
    bias = model.bias.detach().double().numpy().copy()
    x, y = IRIS.x_train.double().numpy(), IRIS.y_train.numpy()
    logits = x @ before.T + bias
    shares = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    gradient = (shares - np.eye(3)[y]).T @ x / 120
    ge.train(model, IRIS, quick(epochs=1, batch_size=120, learning_rate=0.25, weight_decay=weight_decay))
    rate = 0.25 / 25
    expected = before * (1 - rate * weight_decay) - rate * gradient / (np.abs(gradient) + 1e-8)
    assert np.allclose(model.weight.detach().numpy(), expected, atol=1e-6)
    assert not np.allclose(model.weight.detach().numpy(), before, atol=1e-3)


# What is reported


@pytest.mark.parametrize(
    ("split", "widths", "score"),
    [(IRIS, (4, 3), "accuracy"), (tasks_split(), (4, 6), "accuracy"), (values_split(), (5, 1), "r2")],
    ids=["classes", "tasks", "values"],
)
def test_history_has_a_row_for_each_epoch(split, widths, score):
    run = fit(split, widths, epochs=7)
    columns = ["epoch", "train_loss", f"train_{score}", "test_loss", f"test_{score}", "learning_rate", "seconds"]
    assert list(run.history.columns) == columns
    assert run.history.dtypes.map(str).tolist() == ["int64"] + ["float64"] * 6
    assert run.history["epoch"].tolist() == list(range(1, 8))
    assert run.history["seconds"].is_monotonic_increasing
    assert 0 < run.history["seconds"].iloc[-1] <= run.seconds
    assert getattr(run, f"test_{score}") == run.history[f"test_{score}"].iloc[-1]


def test_learning_rate_rises_and_falls_below_its_peak():
    rates = fit(epochs=20, learning_rate=0.02).history["learning_rate"].to_numpy()
    peak = int(rates.argmax())
    assert 0 < peak < 19
    assert (np.diff(rates[: peak + 1]) > 0).all()
    assert (np.diff(rates[peak:]) < 0).all()
    assert 0.015 < rates.max() <= 0.02
    assert rates[-1] < 0.001


def still(split, model, batch_size):
    """An epoch in which the weights stand as good as still: its running means are those of the start."""
    return ge.train(model, split, quick(epochs=1, batch_size=batch_size, learning_rate=1e-30, weight_decay=0.0)).history


@pytest.mark.parametrize("batch_size", [120, 50, 7])
def test_reported_loss_and_accuracy_are_means_over_samples(batch_size):
    model = ge.MLP([4, 8, 3], seed=3)
    row = still(IRIS, model, batch_size).iloc[0]
    for part in ("train", "test"):
        x, y = getattr(IRIS, f"x_{part}"), getattr(IRIS, f"y_{part}").numpy()
        logits = model(x).detach().double().numpy()
        right = np.log(np.exp(logits).sum(1)) - logits[range(len(y)), y]
        assert row[f"{part}_loss"] == pytest.approx(right.mean(), rel=1e-5)
        assert row[f"{part}_accuracy"] == pytest.approx((logits.argmax(1) == y).mean(), rel=1e-12)


@pytest.mark.parametrize("batch_size", [120, 50])
def test_reported_loss_and_accuracy_are_means_over_tasks(batch_size):
    split, model = tasks_split(), ge.MLP([4, 8, 6], seed=3)
    row = still(split, model, batch_size).iloc[0]
    for part in ("train", "test"):
        logits, y = model(getattr(split, f"x_{part}")).detach(), getattr(split, f"y_{part}")
        blocks = [(logits[:, :3], y[:, 0]), (logits[:, 3:], y[:, 1])]
        losses = [float(F.cross_entropy(block, classes)) for block, classes in blocks]
        scores = [float((block.argmax(1) == classes).double().mean()) for block, classes in blocks]
        assert row[f"{part}_loss"] == pytest.approx(sum(losses) / 2, rel=1e-5)
        assert row[f"{part}_accuracy"] == pytest.approx(sum(scores) / 2, rel=1e-6)
        assert abs(losses[0] - losses[1]) > 1e-3


@pytest.mark.parametrize("n_outputs", [None, 1, 4])
@pytest.mark.parametrize("batch_size", [60, 17])
def test_reported_loss_and_r2_are_means_over_outputs(n_outputs, batch_size):
    split = values_split(n_outputs)
    model = ge.MLP([5, 8, n_outputs or 1], seed=3)
    row = still(split, model, batch_size).iloc[0]
    for part in ("train", "test"):
        y = getattr(split, f"y_{part}").double().numpy().reshape(-1, n_outputs or 1)
        output = model(getattr(split, f"x_{part}")).detach().double().numpy()
        rest = ((y - output) ** 2).sum(0) / ((y - y.mean(0)) ** 2).sum(0)
        assert row[f"{part}_loss"] == pytest.approx(((y - output) ** 2).mean(), rel=1e-5)
        assert row[f"{part}_r2"] == pytest.approx(1 - rest.mean(), rel=1e-4, abs=1e-5)
        assert row[f"{part}_r2"] == pytest.approx(r2_score(y, output), rel=1e-4, abs=1e-5)


def test_r2_of_a_constant_test_target_is_finite():
    split = dataclasses.replace(values_split(), y_test=torch.ones(30))
    assert math.isfinite(fit(split, (5, 1)).test_r2)


def test_test_accuracy_is_that_of_the_returned_model_in_eval_mode():
    model = nn.Sequential(nn.Linear(4, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.5), nn.Linear(16, 3))
    run = ge.train(model, IRIS, quick(epochs=3))
    predicted = run.model.eval()(IRIS.x_test).argmax(1).numpy()
    assert run.test_accuracy == (predicted == IRIS.y_test.numpy()).mean()


@pytest.mark.parametrize("split", [IRIS, tasks_split(), values_split(), values_split(3)])
def test_evaluation_in_chunks_is_the_same(split):
    width = {torch.int64: 6, torch.float32: split.y_test.shape[-1] if split.y_test.ndim == 2 else 1}[split.y_test.dtype]
    model, task = ge.MLP([split.x_test.shape[1], width], seed=0), _loop.Task(split, torch.device("cpu"))
    whole, chunked = _loop.evaluate(model, task), _loop.evaluate(model, task, chunk=7)
    assert whole.keys() == chunked.keys()
    assert list(whole.values()) == pytest.approx(list(chunked.values()), rel=1e-5)


def test_run_holds_the_model_and_the_configuration():
    model, config = ge.MLP([4, 3], seed=0), quick()
    run = ge.train(model, IRIS, config)
    assert run.model is model
    assert run.config is config


@pytest.mark.parametrize(
    ("split", "widths", "text"),
    [
        (IRIS, (4, 3), r"TrainingRun\(MLP, test accuracy 0\.\d{4} after 2 epochs, \d+\.\d s\)"),
        (values_split(), (5, 1), r"TrainingRun\(MLP, test R² -?\d+\.\d{4} after 2 epochs, \d+\.\d s\)"),
    ],
)
def test_run_says_how_it_went(split, widths, text):
    assert re.fullmatch(text, repr(fit(split, widths)))


# Seeds and random state


def noisy():
    torch.manual_seed(5)
    return nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Dropout(0.3), nn.Linear(16, 3))


def test_same_seed_gives_the_same_weights_to_the_bit():
    one, again = fit(seed=1), fit(seed=1)
    assert same(one.model.state_dict(), again.model.state_dict())
    measures = one.history.columns.drop("seconds")
    assert one.history[measures].equals(again.history[measures])


@pytest.mark.parametrize("change", [{"seed": 2}, {"weights": 1}, {"epochs": 3}, {"batch_size": 31},
                                    {"learning_rate": 0.011}, {"weight_decay": 0.5}])  # fmt: skip
def test_any_other_setting_gives_other_weights(change):
    one, other = fit(seed=1), fit(**{"seed": 1, **change})
    assert not torch.equal(one.model.output.weight, other.model.output.weight)


def test_progress_does_not_change_the_result():
    assert same(fit(progress=True).model.state_dict(), fit(progress=False).model.state_dict())


def test_seed_decides_what_dropout_draws_whatever_the_global_state():
    results = []
    for state, seed in ((1, 0), (2, 0), (1, 9)):
        model = noisy()
        torch.manual_seed(state)
        results.append(snapshot(ge.train(model, IRIS, quick(batch_size=120, seed=seed)).model))
    assert same(results[0], results[1])
    assert not same(results[0], results[2])


def test_training_leaves_the_random_states_alone():
    model = noisy()
    before, numpy_before = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    ge.train(model, IRIS, quick())
    assert torch.equal(torch.get_rng_state(), before)
    assert np.array_equal(np.random.get_state()[1], numpy_before)  # noqa: NPY002


def test_data_are_left_alone():
    split = make_split(torch.arange(30) % 3, d=9)
    before = [getattr(split, name).clone() for name in ("x_train", "y_train", "x_test", "y_test")]
    fit(split, (9, 3), max_shift=1)
    assert all(torch.equal(a, b) for a, b in
               zip(before, (split.x_train, split.y_train, split.x_test, split.y_test), strict=True))  # fmt: skip


# State of the model


def test_modes_are_put_back():
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(), nn.Linear(8, 3)).eval()
    model[2].train()
    ge.train(model, IRIS, quick())
    assert [module.training for module in model] == [False, False, True, False]
    assert model.training is False
    model.train()[1].eval()
    ge.train(model, IRIS, quick())
    assert [module.training for module in model] == [True, False, True, True]
    assert model.training is True


class Modes(nn.Linear):
    def __init__(self, d=4, u=3):
        super().__init__(d, u)
        self.seen = []

    def forward(self, x):
        self.seen.append((self.training, len(x)))
        return super().forward(x)


def test_training_part_is_seen_in_train_mode_and_test_part_in_eval_mode():
    model = Modes().eval()
    ge.train(model, IRIS, quick(epochs=2, batch_size=60))
    epoch = [(True, 60), (True, 60), (False, 30)]
    assert model.seen == [(False, 2), *epoch, *epoch]  # the first: whether model and data fit


def test_gradients_are_put_back():
    model = nn.Linear(4, 3)
    kept = torch.full_like(model.weight, 7)
    model.weight.grad = kept
    ge.train(model, IRIS, quick())
    assert model.weight.grad is kept
    assert bool((kept == 7).all())
    assert model.bias.grad is None


def test_former_gradients_do_not_enter():
    one, other = nn.Linear(4, 3), nn.Linear(4, 3)
    other.load_state_dict(one.state_dict())
    one.weight.grad = torch.full_like(one.weight, 1e6)
    assert same(ge.train(one, IRIS, quick()).model.state_dict(), ge.train(other, IRIS, quick()).model.state_dict())


def test_frozen_parameters_stay():
    model = ge.MLP([4, 8, 3], seed=0)
    model.hidden1.requires_grad_(False)
    before = snapshot(model)
    ge.train(model, IRIS, quick())
    assert torch.equal(model.hidden1.linear.weight, before["hidden1.linear.weight"])
    assert not torch.equal(model.output.weight, before["output.weight"])
    assert model.hidden1.linear.weight.requires_grad is False


def test_trying_the_model_on_two_samples_does_not_count():
    """Batch norm's statistics come from the training steps alone."""
    model = nn.Sequential(nn.BatchNorm1d(4, momentum=None), nn.Linear(4, 3))
    ge.train(model, IRIS, quick(epochs=1, batch_size=120))
    assert int(model[0].num_batches_tracked) == 1
    assert torch.allclose(model[0].running_mean, IRIS.x_train.mean(0), atol=1e-6)


@pytest.mark.parametrize("batch_size", [120, 1000])
def test_one_epoch_of_one_batch_works(batch_size):
    before = snapshot(ge.MLP([4, 8, 3], seed=0))
    run = fit(epochs=1, batch_size=batch_size)
    assert len(run.history) == 1
    assert not same(snapshot(run.model), before)
    assert math.isfinite(run.history["test_loss"].iloc[0])


@pytest.mark.parametrize("epochs", [1, 2, 3, 4, 5])
def test_few_steps_are_no_trouble_for_the_schedule(epochs):
    rates = fit(epochs=epochs, batch_size=120).history["learning_rate"]
    assert len(rates) == epochs
    assert rates.between(0, 0.01).all()


def test_settings_may_be_left_out():
    run = ge.train(ge.MLP([4, 3], seed=0), IRIS)
    assert run.config == ge.TrainConfig()
    assert len(run.history) == 40


# Failure


class Touchy(nn.Module):
    """Batch norm and a linear layer; raises at its k-th call in a mode."""

    def __init__(self, error, at, in_training=True):
        super().__init__()
        self.norm, self.linear = nn.BatchNorm1d(4), nn.Linear(4, 3)
        self.error, self.left, self.in_training = error, at, in_training

    def forward(self, x):
        if self.training == self.in_training:
            self.left -= 1
            if self.left == 0:
                raise self.error
        return self.linear(self.norm(x))


@pytest.mark.parametrize("error", [KeyboardInterrupt, ZeroDivisionError, RuntimeError])
@pytest.mark.parametrize(("at", "in_training"), [(1, True), (6, True), (3, False)], ids=["first", "later", "test"])
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
    assert kept.tolist() == [5, 5, 5]
    assert model.linear.weight.grad is None
    assert torch.equal(torch.get_rng_state(), random_before)


def test_uninterrupted_training_does_leave_a_trace():
    model = Touchy(ZeroDivisionError, at=1000)
    before = snapshot(model)
    ge.train(model, IRIS, quick(epochs=5))
    after = snapshot(model)
    assert [key for key in before if torch.equal(before[key], after[key])] == []


def test_loss_that_is_not_finite_stops_and_undoes():
    first, second, third = nn.Linear(4, 8), nn.Linear(8, 8), nn.Linear(8, 3)
    model = nn.Sequential(first, nn.BatchNorm1d(8), nn.ReLU(), second, nn.ReLU(), third).eval()
    before = snapshot(model)
    message = (
        r"`config\.learning_rate` should keep the loss finite\. Got a loss of (nan|inf) in epoch 1, step 2, "
        r"at a peak rate of 1e\+30\. Lower it, or scale the data; the model has its former weights back\."
    )
    with pytest.raises(FloatingPointError, match=message):
        ge.train(model, IRIS, quick(learning_rate=1e30))
    assert same(snapshot(model), before)
    assert not any(module.training for module in model.modules())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_epoch_of_the_failure_is_named():
    model = ge.MLP([4, 8, 8, 3], seed=0)
    with pytest.raises(FloatingPointError, match="Got a loss of nan on the test part after epoch 1, at a peak rate"):
        ge.train(model, IRIS, quick(learning_rate=1e30, batch_size=120))


def test_divergence_in_the_last_step_is_found():
    model = ge.MLP([4, 8, 8, 3], seed=0)
    with pytest.raises(FloatingPointError, match=r"`config\.learning_rate` should keep the loss finite"):
        ge.train(model, IRIS, quick(learning_rate=1e30, batch_size=120, epochs=1))


# Shifts


def moved(image, dy, dx, background):
    """Roll, then blank what came round the edge."""
    result = np.roll(image, (dy, dx), axis=(0, 1))
    for axis, by in ((0, dy), (1, dx)):
        edge = [slice(None)] * 2
        edge[axis] = slice(0, by) if by > 0 else slice(len(image) + by, None)
        if by:
            result[tuple(edge)] = background
    return result


def draw_shifts(x, pixels, index, seed=0):
    return _loop.Shift(x, pixels, torch.Generator().manual_seed(seed))(index).numpy()


@pytest.mark.parametrize(("side", "pixels"), [(5, 1), (5, 2), (2, 1), (28, 1)])
def test_shifts_are_all_the_offsets_and_no_other(side, pixels):
    x = torch.randn(3, side**2, generator=torch.Generator().manual_seed(0))
    offsets = [(dy, dx) for dy in range(-pixels, pixels + 1) for dx in range(-pixels, pixels + 1)]
    background = float(x.min())
    n = 300 * len(offsets)
    results = draw_shifts(x, pixels, torch.ones(n, dtype=torch.int64))
    image = x[1].numpy().reshape(side, side)
    expected = {moved(image, *offset, background).tobytes(): offset for offset in offsets}
    assert len(expected) == len(offsets)  # all differ
    arisen = Counter(expected[row.tobytes()] for row in results)
    assert set(arisen) == set(offsets)
    assert all(200 < number < 400 for number in arisen.values())  # about equally often, 300


def test_each_image_of_a_batch_moves_by_itself_and_stays_itself():
    x = torch.randn(6, 16, generator=torch.Generator().manual_seed(0))
    index = torch.tensor([4, 0, 0, 5, 2, 1, 3, 0])
    offsets = [(dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)]
    used = []
    for row, i in zip(draw_shifts(x, 1, index), index.tolist(), strict=True):
        possible = {moved(x[i].numpy().reshape(4, 4), *o, float(x.min())).tobytes(): o for o in offsets}
        used.append(possible[row.tobytes()])
    assert len(set(used)) > 2


def test_shift_larger_than_the_image_leaves_background():
    x = torch.arange(1.0, 5).reshape(1, 4)
    rows = draw_shifts(x, 3, torch.zeros(500, dtype=torch.int64))
    assert (rows == 1).all(1).any()
    assert (rows == [1, 2, 3, 4]).all(1).any()


def test_shifts_follow_the_seed():
    x = torch.randn(50, 16)
    index = torch.arange(50)
    assert np.array_equal(draw_shifts(x, 1, index, 1), draw_shifts(x, 1, index, 1))
    assert not np.array_equal(draw_shifts(x, 1, index, 1), draw_shifts(x, 1, index, 2))


class Recorder(nn.Linear):
    def __init__(self):
        super().__init__(9, 3)
        self.batches = {True: [], False: []}

    def forward(self, x):
        self.batches[self.training].append(x.detach().clone())
        return super().forward(x)


@pytest.mark.parametrize("max_shift", [0, 1])
def test_only_training_images_move_and_only_if_asked(max_shift):
    split, model = make_split(torch.arange(60) % 3, d=9), Recorder()
    ge.train(model, split, quick(epochs=1, max_shift=max_shift))
    seen = {tuple(row) for batch in model.batches[True] for row in batch.tolist()}
    assert (seen == {tuple(row) for row in split.x_train.tolist()}) is (max_shift == 0)
    assert torch.equal(model.batches[False][-1], split.x_test)


def test_labels_stay_with_their_images():
    """The class is the total brightness, which no shift of a framed image changes."""
    images = torch.zeros(90, 5, 5)
    images[:, 1:4, 1:4] = torch.rand(90, 3, 3, generator=torch.Generator().manual_seed(0))
    y = torch.arange(90) % 3
    images /= images.sum((1, 2), keepdim=True) / (1 + y[:, None, None])
    x = images.flatten(1)
    shift = _loop.Shift(x, 1, torch.Generator().manual_seed(0))
    index = torch.randperm(90, generator=torch.Generator().manual_seed(1))
    assert torch.equal((shift(index).sum(1) - 1).round().long(), y[index])


# The progress bar


@pytest.mark.parametrize("progress", [True, False])
def test_progress_bar_is_drawn_on_standard_error_if_asked(capsys, progress):
    fit(progress=progress)
    out, err = capsys.readouterr()
    assert out == ""
    if progress:
        assert "train on iris" in err
        assert "2/2" in err
        assert "test_accuracy=" in err
    else:
        assert err == ""


# Refusals


@pytest.mark.parametrize(
    ("field", "value", "error", "message"),
    [
        ("epochs", 0, ValueError, "should be at least 1. Got 0"),
        ("epochs", 2.0, TypeError, "should be an integer. Got 2.0. Pass an int"),
        ("epochs", True, TypeError, "should be an integer. Got True"),
        ("epochs", None, TypeError, "should be an integer. Got None"),
        ("batch_size", 0, ValueError, "should be at least 1. Got 0"),
        ("batch_size", "32", TypeError, "should be an integer. Got '32'"),
        ("learning_rate", 0, ValueError, "should be finite, above 0. Got 0"),
        ("learning_rate", -0.1, ValueError, "should be finite, above 0. Got -0.1"),
        ("learning_rate", math.inf, ValueError, "should be finite, above 0. Got inf. Pass a number in that range"),
        ("learning_rate", math.nan, ValueError, "should be finite, above 0. Got nan"),
        ("learning_rate", "fast", TypeError, "should be a number. Got 'fast'. Pass a float"),
        ("learning_rate", True, TypeError, "should be a number. Got True"),
        ("weight_decay", -1e-9, ValueError, "should be finite, at least 0. Got -1e-09"),
        ("weight_decay", math.nan, ValueError, "should be finite, at least 0. Got nan"),
        ("weight_decay", None, TypeError, "should be a number. Got None"),
        ("max_shift", -1, ValueError, "should be at least 0. Got -1"),
        ("max_shift", 1.5, TypeError, "should be an integer. Got 1.5"),
        ("seed", -1, ValueError, "should be at least 0. Got -1"),
        ("seed", "0", TypeError, "should be an integer. Got '0'"),
        ("device", "gpu", ValueError, "should be 'auto' or a device that torch knows. Got 'gpu'. Use 'auto' or 'cpu'"),
        ("device", None, ValueError, "should be 'auto' or a device that torch knows. Got None"),
    ],
)
def test_configuration_is_refused(as_users_see_it, field, value, error, message):
    with pytest.raises(error, match=f"`{field}` {message}"):
        ge.TrainConfig(**{field: value})


def test_cuda_is_refused_where_there_is_none(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match=r"`device` should be a device of this machine\. Got 'cuda:1'\. Use 'auto'"):
        ge.TrainConfig(device="cuda:1")
    assert ge.TrainConfig(device="cpu").device == "cpu"


@pytest.mark.parametrize(("available", "kind"), [(True, "cuda"), (False, "cpu")])
def test_auto_takes_cuda_where_there_is_one(monkeypatch, available, kind):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: available)
    assert training.resolve_device("auto").type == kind


@pytest.mark.parametrize("device", ["meta", "xpu", "mps"])
def test_devices_that_cannot_train_here_are_refused(device):
    if getattr(torch, device, None) is not None and getattr(torch, device).is_available():
        pytest.fail("this machine has one: nothing to see")
    with pytest.raises(ValueError, match=f"`device` should be a device of this machine. Got '{device}'"):
        ge.TrainConfig(device=device)


def test_weights_survive_a_device_that_fails():
    model = ge.MLP([4, 3], seed=0)
    before = snapshot(model)
    with pytest.raises((ValueError, RuntimeError)):
        ge.train(model, IRIS, quick(device="meta"))
    assert same(snapshot(model), before)


@pytest.mark.parametrize(
    ("make", "shift"),
    [(ge.TrainConfig.for_mnist, 1), (ge.TrainConfig.for_mnist_sample, 1), (ge.TrainConfig.for_iris, 0)],
)
def test_ready_made_settings_take_the_seed(make, shift):
    assert make(seed=7).seed == 7
    assert make().seed == 0
    assert make().max_shift == shift
    assert dataclasses.replace(make(), seed=7) == make(seed=7)


def test_configuration_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        quick().epochs = 3


class Pair(nn.Linear):
    def forward(self, x):
        return super().forward(x), x


class Summed(nn.Linear):
    def forward(self, x):
        return super().forward(x).sum(0, keepdim=True)


class Flat(nn.Linear):
    def forward(self, x):
        return super().forward(x)[:, 0]


class Wide(nn.Linear):
    def forward(self, x):
        return super().forward(x)[..., None]


def broken():
    model = nn.Linear(4, 3)
    nn.init.constant_(model.bias, math.nan)
    return model


@pytest.mark.parametrize(
    ("model", "split", "error", "message"),
    [
        (nn.Linear(4, 2), IRIS, ValueError, "`model` should give 1 x 3 outputs, one per task and class.* Widen"),
        (nn.Linear(4, 5), tasks_split(), ValueError, r"`model` should give 2 x 3 outputs.* Got .* shape \[2, 5\]"),
        (nn.Linear(4, 4), tasks_split(), ValueError, r"`model` should give 2 x 3 outputs.* Got .* shape \[2, 4\]"),
        (nn.Linear(5, 2), values_split(), ValueError, "`model` should give 1 outputs, one per target.* Change"),
        (nn.Linear(5, 1), values_split(2), ValueError, "`model` should give 2 outputs, one per target"),
        (Wide(4, 3), IRIS, ValueError, r"`model` should give 1 x 3 outputs.* Got .* shape \[2, 3, 1\]"),
        (Wide(5, 1), values_split(), ValueError, r"`model` should give 1 outputs.* Got .* shape \[2, 1, 1\]"),
        (Pair(4, 3), IRIS, ValueError, "`model` should return one tensor with a row per sample. Got tuple"),
        (Summed(4, 3), IRIS, ValueError, r"`model` should return one tensor with a row per sample.* shape \[1, 3\]"),
        (Flat(4, 3), IRIS, ValueError, r"`model` should return one tensor with a row per sample.* shape \[2\]"),
        (nn.Linear(7, 3), IRIS, ValueError, r"`split` should fit the model. Got .* on which Linear stopped with"),
        (nn.Linear(4, 3).double(), IRIS, ValueError, "`split` should fit the model. Got a float32 tensor"),
        (broken(), IRIS, ValueError, "`model` should have finite parameters. Got NaN or infinity in 'bias'"),
        (nn.Linear(4, 3).requires_grad_(False), IRIS, ValueError, "`model` should have parameters that require a grad"),
        (nn.Identity(), IRIS, ValueError, "`model` should have parameters that require a gradient. Got none"),
        (lambda x: x, IRIS, TypeError, "`model` should be a torch.nn.Module. Got function"),
        (None, IRIS, TypeError, "`model` should be a torch.nn.Module. Got None"),
        (nn.Linear(4, 3), (IRIS.x_train, IRIS.y_train), TypeError, "(?s)`split` should be a gradembed.Split. Got"),
    ],
)  # fmt: skip
def test_model_or_data_are_refused_and_the_model_stays(model, split, error, message):
    if isinstance(model, nn.Module):
        before, modes = snapshot(model), [module.training for module in model.modules()]
    with pytest.raises(error, match=message):
        ge.train(model, split, quick())
    if isinstance(model, nn.Module):
        assert all(torch.equal(a.nan_to_num(), b.nan_to_num()) for a, b in
                   zip(before.values(), snapshot(model).values(), strict=True))  # fmt: skip
        assert [module.training for module in model.modules()] == modes


@pytest.mark.parametrize("config", [{"epochs": 3}, 3, "quick"])
def test_settings_of_another_type_are_refused(config):
    with pytest.raises(TypeError, match=r"`config` should be a gradembed\.TrainConfig\. Got"):
        ge.train(nn.Linear(4, 3), IRIS, config)


def test_shifts_need_square_images():
    with pytest.raises(ValueError, match=r"`max_shift` should be 0 unless rows are square .* Got 1 with 5 features"):
        fit(values_split(), (5, 1), max_shift=1)


def test_class_that_only_the_test_part_has_counts():
    y_test = IRIS.y_test.clone()
    y_test[0] = 3
    with pytest.raises(ValueError, match="`model` should give 1 x 4 outputs"):
        fit(dataclasses.replace(IRIS, y_test=y_test))


def test_more_outputs_than_classes_are_allowed():
    assert fit(widths=(4, 8, 5), epochs=10).test_accuracy > 0.5
