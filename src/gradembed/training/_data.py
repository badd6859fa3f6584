"""What is learned: data on their device, the loss and score that their targets ask for; which member learns what."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from gradembed._validation import as_integer, as_list, as_tensor, describe, refuse
from gradembed.datasets import RandomWaves, Split

N_TEST = 2_000
N_SAMPLES = 16_384


class Task:
    """The data on their device, with the loss and the score that their targets ask for."""

    def __init__(self, split: Split, device: torch.device) -> None:
        self.x_train, self.y_train = split.x_train.to(device), split.y_train.to(device)
        self.x_test, self.y_test = split.x_test.to(device), split.y_test.to(device)
        self.is_classes = self.y_train.dtype == torch.int64
        self.score_name = "accuracy" if self.is_classes else "r2"
        self.n_tasks = self.y_train.shape[1] if self.y_train.ndim == 2 else 1

    def check_width(self, name: str, width: int, got: object) -> None:
        """Refuse a number of outputs that the targets do not fit."""
        if self.is_classes:
            classes = int(torch.maximum(self.y_train.max(), self.y_test.max())) + 1
            if width % self.n_tasks or width // self.n_tasks < classes:
                rule = f"give {self.n_tasks} x {classes} outputs, one per task and class"
                refuse(name, rule, got, "Widen the last layer")
        elif width != self.n_tasks:
            refuse(name, f"give {self.n_tasks} outputs, one per target", got, "Change the last layer")

    def measure(self, output: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Compare outputs of a batch with its targets.

        Returns:
            Mean cross-entropy over samples and tasks, or mean squared error over samples and outputs; and what `score`
            needs, to be summed over batches: right answers [1], or the squared errors of each output [u].
        """
        if self.is_classes:
            logits, classes = output.reshape(len(output) * self.n_tasks, -1), y.reshape(-1)
            return F.cross_entropy(logits, classes), (logits.argmax(1) == classes).sum(dim=0, keepdim=True)
        y = y.reshape(output.shape)
        return F.mse_loss(output, y), (output.detach() - y).square().sum(0)

    def score(self, parts: Iterable[Tensor], y: Tensor) -> float:
        """Accuracy over samples and tasks, or R² averaged over outputs (of a constant target: 1 if met, else 0).

        Returns:
            The score.
        """
        total = sum(parts, torch.zeros(1, device=y.device))
        if self.is_classes:
            return float(total.sum()) / y.numel()
        spread = (y - y.mean(0)).square().sum(0).reshape(total.shape)
        explained = torch.where(spread > 0, 1 - total / torch.where(spread > 0, spread, 1), (total == 0).to(y.dtype))
        return float(explained.mean())

    @torch.no_grad()
    def evaluate(self, outputs: Iterable[Tensor]) -> tuple[float, float]:
        """Compare outputs for the test part, which come piece by piece, with its targets.

        Returns:
            Loss and score.
        """
        total, parts, start = 0.0, [], 0
        for output in outputs:
            y = self.y_test[start : start + len(output)]
            loss, part = self.measure(output, y)
            total += float(loss) * len(output)
            parts.append(part)
            start += len(output)
        return total / start, self.score(parts, self.y_test)


class Shift:
    """Moves each image of a batch by its own random offset; what enters is background (the data's minimum)."""

    def __init__(self, x: Tensor, pixels: int, generator: torch.Generator) -> None:
        side = round(x.shape[1] ** 0.5)
        self.generator, self.span = generator, 2 * pixels + 1
        framed = F.pad(x.reshape(-1, side, side), (pixels,) * 4, value=float(x.min()))
        self.moved = framed.unfold(1, side, 1).unfold(2, side, 1)  # [n, span, span, side, side], a view

    def __call__(self, index: Tensor) -> Tensor:
        chosen = torch.randint(self.span**2, (len(index),), generator=self.generator).to(index.device)
        return self.moved[index, chosen // self.span, chosen % self.span].flatten(1)


class Pool:
    """The data of all members in one tensor, and where each member's rows start.

    Attributes:
        tasks: One per distinct split.
        labels: Position in ``tasks`` for each member, [e].
        x: Training samples of all distinct splits one below the other, or once if they share them, [k·n, d].
        y: Their targets, [f·n, t].
        n: Samples of an epoch.
    """

    def __init__(self, splits: list[Split], labels: list[int], device: torch.device) -> None:
        self.tasks, self.labels = [Task(split, device) for split in splits], torch.tensor(labels)
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


def assign(target: object, d: int, n_members: int, seed: int, n_samples: int | None) -> tuple[list[Split], list[int]]:
    """Turn a target of `train_ensemble` into data for each of its members, which take d features.

    Returns:
        Distinct splits, of equal shapes; and for each member the position of its own.
    """
    if callable(target):
        splits = _sampled(target, d, seed, n_samples)
        each, rest = divmod(n_members, len(splits))
        if rest:
            rule = f"be a multiple of {len(splits)}, the number of functions"
            refuse("n_members", rule, n_members, "Train as many networks on each function")
        return splits, [i // each for i in range(n_members)]
    if n_samples is not None:
        got, remedy = f"{n_samples} with {describe(target)}", "Leave it out, or shorten the split"
        refuse("n_samples", "be None unless a function is sampled", got, remedy)
    rule = "a gradembed.datasets.Split, one for each member, or a function of points"
    splits = [target] * n_members if isinstance(target, Split) else as_list("target", target, rule)
    if not all(isinstance(split, Split) for split in splits):
        refuse("target", f"be {rule}", describe(target), "Build one with gradembed.datasets.Split", TypeError)
    if len(splits) != n_members:
        got, remedy = f"{len(splits)} splits for {n_members} members", "Pass as many as members, or a single one"
        refuse("target", "hold one split for each member", got, remedy)
    shapes = [", ".join(map(describe, (s.x_train, s.y_train, s.x_test, s.y_test))) for s in splits]
    for i, shape in enumerate(shapes):
        if shape != shapes[0]:
            got, remedy = f"{shape} for member {i} after {shapes[0]}", "Cut them to equal sizes"
            refuse("target", "hold splits of equal shapes and types", got, remedy)
    if (width := splits[0].x_train.shape[1]) != d:
        refuse("widths", f"start with {width}, the features of the data", d, "Change the first width")
    distinct = {id(split): split for split in splits}
    return list(distinct.values()), [list(distinct).index(id(split)) for split in splits]


def _sampled(function: Any, d: int, seed: int, n_samples: int | None) -> list[Split]:
    """Return values at points drawn uniformly from the cube [-1, 1]^d: a split per function, with shared points."""
    waves = isinstance(function, RandomWaves)
    if waves and function.dim != d:
        refuse("widths", f"start with {function.dim}, the inputs of the waves", d, "Change the first width")
    n = N_SAMPLES if n_samples is None else as_integer("n_samples", n_samples, 1)
    x = 2 * torch.rand(n + N_TEST, d, generator=torch.Generator().manual_seed(seed)) - 1
    x_train, x_test = x.split([n, N_TEST])  # the same for all, told by identity
    with torch.no_grad():
        given = function(x)
    name = "waves" if waves else getattr(function, "__name__", type(function).__name__)
    source = f"{n:,} points drawn uniformly from the cube [-1, 1]^{d}, and {N_TEST:,} held out"
    splits = []
    for values in given if waves else [given]:
        y = as_tensor("target", values, "n|n t", kind="any", n=len(x))
        y = y.to(x) if y.is_floating_point() else as_tensor("target", y, "n|n t", kind="int")
        splits.append(Split(x_train, y[:n], x_test, y[n:], name, source))
    return splits
