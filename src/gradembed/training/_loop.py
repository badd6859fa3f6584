"""Epoch after epoch: loss and score that the targets ask for, order, shifts, optimiser and schedule."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gradembed.datasets import Split
from gradembed.training._config import TrainConfig


class Task:
    """The data on their device, with the loss and the score that their targets ask for."""

    def __init__(self, split: Split, device: torch.device) -> None:
        # detached: data that require a gradient get none from training
        self.x_train, self.y_train = split.x_train.detach().to(device), split.y_train.detach().to(device)
        self.x_test, self.y_test = split.x_test.detach().to(device), split.y_test.detach().to(device)
        self.is_classes = self.y_train.dtype == torch.int64
        self.score_name = "accuracy" if self.is_classes else "r2"
        self.n_tasks = self.y_train.shape[1] if self.y_train.ndim == 2 else 1

    def loss(self, output: Tensor, y: Tensor) -> Tensor:
        """Mean cross-entropy over samples and tasks, or mean squared error over samples and outputs.

        Returns:
            A scalar.
        """
        if self.is_classes:
            return F.cross_entropy(*self._by_task(output, y))
        return F.mse_loss(output, y.reshape(output.shape))

    def score_parts(self, output: Tensor, y: Tensor) -> Tensor:
        """What `score` needs of a batch, to be summed over batches.

        Returns:
            Right answers [1], or the squared errors of each output [u].
        """
        if self.is_classes:
            logits, classes = self._by_task(output, y)
            return (logits.argmax(1) == classes).sum(dim=0, keepdim=True)
        return (output - y.reshape(output.shape)).square().sum(0)

    def score(self, parts: Tensor, y: Tensor) -> float:
        """Accuracy over samples and tasks, or R² averaged over outputs (of a constant target: 1 if met, else 0).

        Returns:
            The score.
        """
        if self.is_classes:
            return float(parts.sum()) / y.numel()
        spread = (y - y.mean(0)).square().sum(0).reshape(parts.shape)
        explained = torch.where(spread > 0, 1 - parts / torch.where(spread > 0, spread, 1), (parts == 0).to(y.dtype))
        return float(explained.mean())

    def _by_task(self, output: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        return output.reshape(len(output) * self.n_tasks, -1), y.reshape(-1)


class Loop:
    """One epoch after the other: order, shifts, optimiser and schedule."""

    def __init__(self, model: nn.Module, task: Task, config: TrainConfig, device: torch.device) -> None:
        self.model, self.task, self.config, self.device = model, task, config, device
        self.n = len(task.x_train)
        # The generator lives on the CPU, so that the order is the same whatever the device.
        self.generator = torch.Generator().manual_seed(config.seed)
        parameters = [p for p in model.parameters() if p.requires_grad]
        self.optimiser, self.schedule = optimiser_and_schedule(parameters, config, self.n, device)
        self.shift = Shift(task.x_train, config.max_shift, self.generator) if config.max_shift else None

    def epoch(self, number: int) -> dict[str, float]:
        """Train through all samples once.

        Returns:
            Loss and score of both parts, of the training part as running means, and the last learning rate.
        """
        self.model.train()
        total, parts = torch.zeros((), device=self.device), torch.zeros(1, device=self.device)
        for step, rows in enumerate(torch.randperm(self.n, generator=self.generator).split(self.config.batch_size), 1):
            index = rows.to(self.device)
            y = self.task.y_train[index]
            output = self.model(self.shift(index) if self.shift else self.task.x_train[index])
            loss = self.task.loss(output, y)
            self._check_loss(float(loss.detach()), f"in epoch {number}, step {step}")
            self.optimiser.zero_grad()
            loss.backward()
            self.optimiser.step()
            self.schedule.step()
            total += loss.detach() * len(rows)
            parts = parts + self.task.score_parts(output.detach(), y)
        test = evaluate(self.model, self.task)
        self._check_loss(test["test_loss"], f"on the test part after epoch {number}")
        score = self.task.score(parts, self.task.y_train)
        return {
            "train_loss": float(total) / self.n,
            f"train_{self.task.score_name}": score,
            **test,
            "learning_rate": float(self.schedule.get_last_lr()[0]),
        }

    def _check_loss(self, loss: float, when: str) -> None:
        check_loss(loss, when, self.config, "the model has its former weights back")


def optimiser_and_schedule(
    parameters: Sequence[Tensor], config: TrainConfig, n: int, device: torch.device
) -> tuple[torch.optim.AdamW, torch.optim.lr_scheduler.OneCycleLR]:
    """Make AdamW and its one-cycle schedule for n samples.

    Returns:
        Both.
    """
    fused = device.type in ("cpu", "cuda") or None
    rate = config.learning_rate
    optimiser = torch.optim.AdamW(parameters, fused=fused, lr=rate, weight_decay=config.weight_decay)
    steps = config.epochs * -(-n // config.batch_size)
    # below four steps one-cycle has no room for its phases: the schedule then runs its first few
    return optimiser, torch.optim.lr_scheduler.OneCycleLR(optimiser, rate, max(steps, 4))


def check_loss(loss: float, when: str, config: TrainConfig, aftermath: str) -> None:
    """Stop if a loss is not finite.

    Raises:
        FloatingPointError: If so.
    """
    if not math.isfinite(loss):
        raise FloatingPointError(
            f"`config.learning_rate` should keep the loss finite. Got a loss of {loss} {when}, at a peak rate of "
            f"{config.learning_rate:g}. Lower it, or scale the data; {aftermath}."
        )


class Shift:
    """Moves each image of a batch by its own random offset; what enters is background (the data's minimum)."""

    def __init__(self, x: Tensor, pixels: int, generator: torch.Generator) -> None:
        side = round(x.shape[1] ** 0.5)
        self.generator, self.span = generator, 2 * pixels + 1
        self.images = torch.cat([x, x.min().expand(len(x), 1)], dim=1)  # one more column: the background
        offsets = torch.arange(-pixels, pixels + 1)
        moved = torch.arange(side) + offsets[:, None]  # [span, side]
        inside = (moved >= 0) & (moved < side)
        source = moved[:, None, :, None] * side + moved[None, :, None, :]  # [span, span, side, side]
        both = inside[:, None, :, None] & inside[None, :, None, :]
        self.table = torch.where(both, source, x.shape[1]).flatten(2).flatten(0, 1).to(x.device)

    def __call__(self, index: Tensor) -> Tensor:
        chosen = torch.randint(self.span**2, (len(index),), generator=self.generator)
        return self.images[index].gather(1, self.table[chosen.to(index.device)])


@torch.no_grad()
def evaluate(model: nn.Module, task: Task, chunk: int = 8192) -> dict[str, float]:
    """Loss and score on the test part, in eval mode.

    Returns:
        ``test_loss`` and ``test_accuracy`` or ``test_r2``.
    """
    model.eval()
    total, parts = 0.0, torch.zeros(1, device=task.x_test.device)
    for x, y in zip(task.x_test.split(chunk), task.y_test.split(chunk), strict=True):
        output = model(x)
        total += float(task.loss(output, y)) * len(x)
        parts = parts + task.score_parts(output, y)
    return {"test_loss": total / len(task.x_test), f"test_{task.score_name}": task.score(parts, task.y_test)}
