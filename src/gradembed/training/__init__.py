"""Training on data held as one tensor: AdamW, one-cycle schedule, optional one-pixel shifts; one network, or many."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from gradembed import _context, _progress
from gradembed._validation import as_integer, check_kind, check_module, check_parameters, describe, refuse, try_forward
from gradembed.datasets import RandomWaves, Split
from gradembed.models import MLPEnsemble
from gradembed.training._data import Pool, Shift, Task, assign
from gradembed.training._optimization import Stack, TrainConfig, optimizer_and_schedule, resolve_device

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["TrainConfig", "TrainingRun", "resolve_device", "train", "train_ensemble"]

Step = Callable[[Tensor, str], Tensor]
CACHE_BYTES = 4 * 2**20  # what a group's weights and activations may take
CHUNK, ENSEMBLE_CHUNK = 8192, 2048  # test samples that one network, or a group, sees at a time


@dataclass(frozen=True, eq=False, repr=False)
class TrainingRun:
    """A trained network and how it came about.

    Attributes:
        model: The network that was passed to `train`, now trained.
        history: One row an epoch: ``epoch``, ``train_loss``, ``train_accuracy``, ``test_loss``,
            ``test_accuracy``, ``learning_rate``, ``seconds`` (since the start). For regression,
            ``train_r2`` and ``test_r2`` stand in place of the accuracies. Losses and scores of
            the training part are running means over the epoch, on shifted images where there are shifts.
        test_accuracy: Share of test targets predicted right after the last epoch; ``None`` for regression.
        test_r2: Share of the test targets' variance explained, averaged over outputs (an output whose test target is
            constant counts 1 if it is met exactly, else 0); ``None`` for classes.
        config: The configuration.
        seconds: Wall time of the training.

    Example:
        >>> import gradembed as ge
        >>> run = ge.train(ge.MLP([4, 3], seed=0), ge.datasets.load_iris(), ge.TrainConfig(epochs=2, progress=False))
        >>> len(run.history), run.test_r2 is None
        (2, True)
    """

    model: nn.Module
    history: pd.DataFrame
    test_accuracy: float | None
    test_r2: float | None
    config: TrainConfig
    seconds: float

    def __repr__(self) -> str:
        name, score = ("R²", self.test_r2) if self.test_accuracy is None else ("accuracy", self.test_accuracy)
        trained = f"after {self.config.epochs} epochs, {self.seconds:.1f} s"
        return f"TrainingRun({type(self.model).__name__}, test {name} {score:.4f} {trained})"


def train(model: nn.Module, split: Split, config: TrainConfig | None = None) -> TrainingRun:
    """Train a network in place, on data held in memory; all of it or, after an error, nothing.

    Integer targets are classes, learned by cross-entropy; with ``y`` [n, t] the outputs are ``t`` equal
    blocks, one per task, and losses and accuracies are means over tasks. Float targets are learned by
    mean squared error. The test part is evaluated after each epoch for the history and chooses nothing.
    Same weights, data, configuration and thread count on one machine: bit-identical result. Mode and device of the
    model are put back; if training fails or is interrupted, its weights are too.

    Args:
        model: Any module that maps [n, d] to [n, u].
        split: The data.
        config: The settings; ``None`` for the defaults.

    Returns:
        The trained model with its history and test score.

    Raises:
        ValueError: If data and model do not fit, or shifts are asked for and rows are no square images.
        TypeError: If an argument has the wrong type.
        FloatingPointError: If the loss is not finite; says when.

    Example:
        >>> import gradembed as ge
        >>> config = ge.TrainConfig(epochs=30, batch_size=16, learning_rate=0.01, progress=False)
        >>> run = ge.train(ge.MLP([4, 32, 3], seed=0), ge.datasets.load_iris(), config)
        >>> run.test_accuracy > 0.9
        True
    """
    import pandas as pd

    config = TrainConfig() if config is None else config
    check_module(model)
    check_parameters(model)
    check_kind("split", split, Split, "Build one with gradembed.datasets.Split")
    check_kind("config", config, TrainConfig)
    if config.max_shift and round((d := split.x_train.shape[1]) ** 0.5) ** 2 != d:
        got = f"{config.max_shift} with {d} features"
        refuse("max_shift", "be 0 unless rows are square images", got, "Set it to 0")
    if not (trained := [p for p in model.parameters() if p.requires_grad]):
        refuse("model", "have parameters that require a gradient", "none", "Call model.requires_grad_()")
    device, start = resolve_device(config.device), time.perf_counter()
    rows: list[dict[str, Any]] = []
    with _in_place_or_not_at_all(model, device), _context.seeded(config.seed, device):
        task, parts = Task(split, device), []
        n, name = len(task.x_train), task.score_name
        with _context.preserved(model.eval()), torch.no_grad():  # two samples, tried
            output = try_forward(model, task.x_train[:2], "split")
        task.check_width("model", output.shape[1] if output.ndim == 2 else 0, describe(output))
        optimizer, schedule = optimizer_and_schedule(trained, config, n)
        generator = torch.Generator().manual_seed(config.seed)
        shift = Shift(task.x_train, config.max_shift, generator) if config.max_shift else task.x_train.__getitem__

        def step(rows: Tensor, when: str) -> Tensor:
            index = rows[0].to(device)
            loss, part = task.measure(model(shift(index)), task.y_train[index])
            _check_loss(float(loss.detach()), when, config)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            parts.append(part)
            return loss.detach()

        with _progress.bar(config.epochs, f"train on {split.name}", "epoch", wanted=config.progress) as bar:
            model.train()
            for epoch, total in _epochs(step, [generator], n, config, bar):
                model.eval()
                loss, score = task.evaluate(model(x) for x in task.x_test.split(CHUNK))
                model.train()
                _check_loss(loss, f"on the test part after epoch {epoch}", config)
                row = {"epoch": epoch, "train_loss": float(total) / n, f"train_{name}": task.score(parts, task.y_train)}
                row |= {"test_loss": loss, f"test_{name}": score, "learning_rate": float(schedule.get_last_lr()[0])}
                rows.append(row | {"seconds": time.perf_counter() - start})
                parts.clear()
                bar.set_postfix({"loss": f"{row['train_loss']:.4f}", f"test_{name}": f"{score:.4f}"}, refresh=False)
    accuracy, r2 = rows[-1].get("test_accuracy"), rows[-1].get("test_r2")
    return TrainingRun(model, pd.DataFrame(rows), accuracy, r2, config, time.perf_counter() - start)


def train_ensemble(
    target: Split | Sequence[Split] | RandomWaves | Callable[[Tensor], Tensor], widths: Sequence[int], n_members: int,
    config: TrainConfig | None = None, *, n_samples: int | None = None, group_size: int | None = None,
    activation: Callable[[], nn.Module] = nn.ReLU,
) -> MLPEnsemble:  # fmt: skip
    """Train many small networks at once, each as `train` trains it alone.

    Member i starts from ``MLP(widths, activation, seed=config.seed + i)`` and meets its samples in the order of
    ``config.seed + i``; up to rounding it becomes what `train` makes of that network with that seed. Networks learn in
    groups, as batched matrix products. Either all members are returned or, after an error, none.

    Args:
        target: What they learn. A `Split`: all members the same data. A sequence of splits of equal shapes: each
            member its own. `RandomWaves`: member i learns function ``i // (n_members // n_functions)``. Any other
            function, [n, d] to [n] or [n, u]: all members that. Functions are sampled uniformly from [-1, 1]^d, at
            points that ``config.seed`` draws, the same for all members, and 2,000 more points are held out.
        widths: Features, hidden units layer by layer, outputs.
        n_members: How many networks.
        config: The settings; ``None`` for the defaults, which are `TrainConfig.for_waves` if functions are learned.
        n_samples: Points at which functions are sampled for training; ``None`` for 16,384.
        group_size: Networks trained at a time; ``None`` chooses as many as the processor's cache may hold, 16 to 64.
            The result is the same up to rounding.
        activation: As for `MLPEnsemble`.

    Returns:
        The trained networks, with held-out ``scores`` (accuracy, or R² averaged over outputs), ``labels`` (which
        function a member learned; with splits, which of the distinct ones) and ``losses`` by epoch.

    Raises:
        ValueError: If target, widths, number of members and settings do not fit each other.
        TypeError: If an argument has the wrong type.
        FloatingPointError: If a member's loss is not finite; says whose and when.

    Example:
        >>> import gradembed as ge
        >>> config = ge.TrainConfig(epochs=30, batch_size=16, learning_rate=0.01, progress=False)
        >>> ensemble = ge.train_ensemble(ge.datasets.load_iris(), [4, 32, 3], n_members=5, config=config)
        >>> len(ensemble), bool((ensemble.scores > 0.9).all())
        (5, True)
    """
    if config is not None:
        check_kind("config", config, TrainConfig)
    size = None if group_size is None else as_integer("group_size", group_size, 1)
    ensemble = MLPEnsemble(widths, n_members, activation, seed=0 if config is None else config.seed)
    e, d = len(ensemble), ensemble.widths[0]
    if config is None:
        config = TrainConfig.for_waves(d) if callable(target) else TrainConfig()
    if config.max_shift:  # drawn for one network at a time
        refuse("max_shift", "be 0 for an ensemble", config.max_shift, "Set it to 0, or train the networks one by one")
    splits, labels = assign(target, d, e, config.seed, n_samples)
    pool = Pool(splits, labels, resolve_device(config.device))
    for task in pool.tasks:
        task.check_width("widths", ensemble.widths[-1], list(ensemble.widths))
    ensemble.to(pool.x)
    groups = torch.arange(e).split(size or _group_size(ensemble, config))
    epochs = config.epochs * len(groups)
    with _progress.bar(epochs, f"train {e} on {splits[0].name}", "epoch", wanted=config.progress) as bar:
        parts = [_train_group(ensemble, members, pool, config, bar) for members in groups]
    ensemble.losses, ensemble.scores = (torch.cat(part) for part in zip(*parts, strict=True))
    ensemble.labels = pool.labels
    return ensemble.cpu()


def _train_group(
    ensemble: MLPEnsemble, members: Tensor, pool: Pool, config: TrainConfig, bar: tqdm[Any]
) -> tuple[Tensor, Tensor]:
    """Return mean losses by epoch, [e, epochs], and scores on the test part, [e], of members trained in place."""
    tasks = [pool.tasks[label] for label in pool.labels[members].tolist()]
    starts = (pool.labels[members] * pool.n)[:, None].to(pool.x.device)
    group, losses = ensemble[members], []
    stack = Stack(group, config, pool.n)

    def step(rows: Tensor, _: str) -> Tensor:
        return stack.step(*pool.batch(rows.to(starts.device), starts), is_classes=tasks[0].is_classes)

    generators = [torch.Generator().manual_seed(config.seed + i) for i in members.tolist()]
    for epoch, total in _epochs(step, generators, pool.n, config, bar):
        losses.append(total.cpu() / pool.n)
        for i, loss in zip(members.tolist(), losses[-1].tolist(), strict=True):
            _check_loss(loss, f"for member {i} in epoch {epoch}", config)
        bar.set_postfix({"median loss": f"{float(losses[-1].median()):.4f}"}, refresh=False)
    with torch.no_grad():
        for whole, part in zip(ensemble.parameters(), group.parameters(), strict=True):
            whole[members] = part
        x = tasks[0].x_test if pool.is_test_shared else torch.stack([task.x_test for task in tasks])
        outputs = torch.cat([group(part) for part in x.split(ENSEMBLE_CHUNK, dim=-2)], dim=1)  # [e, n, u]
    scores = torch.empty(len(tasks), dtype=torch.float64)
    for place, (i, task, output) in enumerate(zip(members.tolist(), tasks, outputs, strict=True)):
        loss, scores[place] = task.evaluate(output.split(CHUNK))
        _check_loss(loss, f"for member {i} on the test part after epoch {config.epochs}", config)
    return torch.stack(losses, 1), scores


def _group_size(ensemble: MLPEnsemble, config: TrainConfig) -> int:
    """Return how many members train at a time: 16 to 64, groups about equal, and small enough for the cache."""
    weights = sum(parameter[0].numel() for parameter in ensemble.parameters())
    # what weights (four times) and activations (twice) take
    numbers = 4 * weights + config.batch_size * (ensemble.widths[0] + 2 * sum(ensemble.widths[1:]))
    size, e = min(max(CACHE_BYTES // (4 * numbers), 16), 64), len(ensemble)
    return math.ceil(e / max(math.ceil(e / 64), round(e / size)))


def _epochs(
    step: Step, generators: list[torch.Generator], n: int, config: TrainConfig, bar: tqdm[Any]
) -> Iterator[tuple[int, Tensor]]:
    """Let networks step through n samples epoch after epoch, each in the order that its generator draws.

    The generators live on the CPU, so that the order is the same whatever the device. ``step`` takes rows of each
    network's data, [e, batch], and when this is, and returns mean losses, [e]. The bar moves on after each epoch.

    Yields:
        The epoch, from 1 on, and its summed losses, [e].
    """
    for epoch in range(1, config.epochs + 1):
        order = torch.stack([torch.randperm(n, generator=generator) for generator in generators])  # [e, n]
        total = torch.zeros(())
        for i, rows in enumerate(order.split(config.batch_size, dim=1), start=1):
            total = total + step(rows, f"in epoch {epoch}, step {i}") * rows.shape[1]
        yield epoch, total
        bar.update()


def _check_loss(loss: float, when: str, config: TrainConfig) -> None:
    """Stop if a loss is not finite."""
    if not math.isfinite(loss):
        got = f"a loss of {loss} {when}, at a peak rate of {config.learning_rate:g}"
        remedy = "Lower it, or scale the data; all weights are as they were"
        refuse("config.learning_rate", "keep the loss finite", got, remedy, FloatingPointError)


@contextmanager
def _in_place_or_not_at_all(model: nn.Module, device: torch.device) -> Iterator[None]:
    """Move the model to a device for the block; put mode and device back, and after an error the weights.

    Yields:
        Nothing.
    """
    grads, modes = {p: p.grad for p in model.parameters()}, {m: m.training for m in model.modules()}
    home, before = next(iter(grads)).device, copy.deepcopy(model.state_dict())
    model.zero_grad()
    try:
        model.to(device)
        yield
    except BaseException:
        model.load_state_dict(before)
        raise
    finally:
        model.to(home)
        for parameter, grad in grads.items():
            parameter.grad = grad
        for module, mode in modes.items():
            module.training = mode
