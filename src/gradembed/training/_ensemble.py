"""Training many small networks together, each as if it were alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from gradembed import _progress, _validation
from gradembed.datasets import RandomWaves, Split
from gradembed.models import MLPEnsemble, StackedLinear
from gradembed.training._arguments import check_config, check_width
from gradembed.training._config import TrainConfig, resolve_device
from gradembed.training._loop import Task, check_loss
from gradembed.training._stack import Stack
from gradembed.training._targets import Assignment, assign, check_shift

CACHE_BYTES = 4 * 2**20  # what a group's weights and activations may take
TEST_CHUNK = 2048


def train_ensemble(
    target: Split | Sequence[Split] | RandomWaves | Callable[[Tensor], Tensor],
    widths: Sequence[int],
    n_members: int,
    config: TrainConfig | None = None,
    *,
    n_samples: int | None = None,
    group_size: int | None = None,
    activation: Callable[[], nn.Module] = nn.ReLU,
) -> MLPEnsemble:
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
        check_config(config)
    if group_size is not None:
        _validation.check_integer("group_size", group_size, 1)
    ensemble = MLPEnsemble(widths, n_members, activation, seed=0 if config is None else config.seed)
    if config is None:
        config = TrainConfig.for_waves(ensemble.widths[0]) if callable(target) else TrainConfig()
    check_shift(config)
    assignment = assign(target, ensemble.widths[0], n_members, config.seed, n_samples)
    device = resolve_device(config.device)
    data = _Data(assignment, device)
    for task in data.tasks:
        check_width("widths", ensemble.widths[-1], task, list(ensemble.widths))
    ensemble.to(data.x)
    groups = torch.arange(n_members).split(group_size or _group_size(ensemble, config))
    total, name = config.epochs * len(groups), assignment.splits[0].name
    parts = []
    with _progress.bar(total, f"train {n_members} on {name}", "epoch", wanted=config.progress) as bar:
        for members in groups:
            losses = _train_group(ensemble, data, members, config, bar)
            parts.append((losses, _scores(ensemble, data, members, config)))
    ensemble.losses, ensemble.scores = (torch.cat(part) for part in zip(*parts, strict=True))
    ensemble.labels = torch.tensor(assignment.labels)
    return ensemble.cpu()


class _Data:
    """The data of all members in one tensor, and where each member's rows start.

    Attributes:
        tasks: One per distinct split.
        labels: Position in ``tasks`` for each member, [e].
        n: Samples of an epoch.
        x: Training samples of all distinct splits one below the other, or once if they share them, [k·n, d].
        y: Their targets, [f·n, t].
    """

    def __init__(self, assignment: Assignment, device: torch.device) -> None:
        splits = assignment.splits
        self.tasks = [Task(split, device) for split in splits]
        self.labels = torch.tensor(assignment.labels)
        self.n = len(splits[0].x_train)
        self.is_shared = all(split.x_train is splits[0].x_train for split in splits)
        self.is_test_shared = all(split.x_test is splits[0].x_test for split in splits)
        self.x = torch.cat([task.x_train for task in (self.tasks[:1] if self.is_shared else self.tasks)])
        self.y = torch.cat([task.y_train.reshape(self.n, -1) for task in self.tasks])

    def batch(self, rows: Tensor, starts: Tensor) -> tuple[Tensor, Tensor]:
        """Gather samples and targets.

        Args:
            rows: Of each member's own data, [e, n].
            starts: Where they start in ``y``, [e, 1].

        Returns:
            [e, n, d] and [e, n, t].
        """
        index = (rows + starts).flatten()
        x = self.x.index_select(0, rows.flatten() if self.is_shared else index)
        return x.view(*rows.shape, -1), self.y.index_select(0, index).view(*rows.shape, -1)


def _train_group(ensemble: MLPEnsemble, data: _Data, members: Tensor, config: TrainConfig, bar: tqdm[Any]) -> Tensor:
    """Train some members, in place.

    Returns:
        Their mean losses by epoch, [e, epochs].
    """
    layers = [module for module in ensemble.modules() if isinstance(module, StackedLinear)]
    own = [[value.detach()[members] for value in (layer.weight, layer.bias)] for layer in layers]
    stack = Stack([pair[0] for pair in own], [pair[1] for pair in own], ensemble.activation_modules(), config, data.n)
    generators = [torch.Generator().manual_seed(config.seed + i) for i in members.tolist()]
    starts = (data.labels[members] * data.n)[:, None].to(data.x.device)
    is_classes, epochs = data.tasks[0].is_classes, []
    for epoch in range(1, config.epochs + 1):
        order = torch.stack([torch.randperm(data.n, generator=generator) for generator in generators])
        losses = torch.zeros(len(members), dtype=data.x.dtype, device=data.x.device)
        for rows in order.to(data.x.device).split(config.batch_size, dim=1):
            losses += stack.step(*data.batch(rows, starts), is_classes=is_classes) * rows.shape[1]
        epochs.append(losses.cpu() / data.n)
        _check_losses(epochs[-1], members, f"in epoch {epoch}", config)
        bar.set_postfix({"median loss": f"{float(epochs[-1].median()):.4f}"}, refresh=False)
        bar.update()
    with torch.no_grad():
        for layer, weight, bias in zip(layers, *stack.numbers(), strict=True):
            layer.weight[members], layer.bias[members] = weight, bias
    return torch.stack(epochs, 1)


def _check_losses(losses: Tensor, members: Tensor, when: str, config: TrainConfig) -> None:
    """Stop if a member's loss is not finite."""
    bad = (~losses.isfinite()).nonzero()
    if len(bad):
        i = int(bad[0])
        check_loss(float(losses[i]), f"for member {int(members[i])} {when}", config, "no network is returned")


@torch.no_grad()
def _scores(ensemble: MLPEnsemble, data: _Data, members: Tensor, config: TrainConfig) -> Tensor:
    """Evaluate members on their test parts.

    Returns:
        Accuracy or R² of each, [e], float64.
    """
    tasks = [data.tasks[label] for label in data.labels[members].tolist()]
    x = tasks[0].x_test if data.is_test_shared else torch.stack([task.x_test for task in tasks])
    group = ensemble[members.tolist()]
    outputs = torch.cat([group(part) for part in x.split(TEST_CHUNK, dim=-2)], dim=1)
    losses = torch.stack([task.loss(output, task.y_test) for task, output in zip(tasks, outputs, strict=True)])
    _check_losses(losses.cpu(), members, f"on the test part after epoch {config.epochs}", config)
    scores = [
        task.score(task.score_parts(output, task.y_test), task.y_test)
        for task, output in zip(tasks, outputs, strict=True)
    ]
    return torch.tensor(scores, dtype=torch.float64)


def _group_size(ensemble: MLPEnsemble, config: TrainConfig) -> int:
    """Choose how many members train at a time, by what their weights (four times) and activations (twice) take.

    Returns:
        16 to 64, such that groups are about equal.
    """
    weights = sum(parameter[0].numel() for parameter in ensemble.parameters())
    numbers = 4 * weights + config.batch_size * (ensemble.widths[0] + 2 * sum(ensemble.widths[1:]))
    size, e = min(max(CACHE_BYTES // (4 * numbers), 16), 64), len(ensemble)
    return math.ceil(e / max(math.ceil(e / 64), round(e / size)))
