"""Training on data held as one tensor: AdamW, one-cycle schedule, optional one-pixel shifts; one network, or many."""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from gradembed import _context, _progress
from gradembed.datasets import Split
from gradembed.training._arguments import check_arguments, check_outputs
from gradembed.training._config import TrainConfig, resolve_device
from gradembed.training._ensemble import train_ensemble
from gradembed.training._loop import Loop, Task

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["TrainConfig", "TrainingRun", "resolve_device", "train", "train_ensemble"]


@dataclass(frozen=True, repr=False)
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
        score = (
            f"test accuracy {self.test_accuracy:.4f}"
            if self.test_accuracy is not None
            else f"test R² {self.test_r2:.4f}"
        )
        return (
            f"TrainingRun({type(self.model).__name__}, {score} after {self.config.epochs} epochs, {self.seconds:.1f} s)"
        )


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
    config = TrainConfig() if config is None else config
    check_arguments(model, split, config)
    device = resolve_device(config.device)
    start = time.perf_counter()
    rows: list[dict[str, Any]] = []
    with _in_place_or_not_at_all(model, device), _context.seeded(config.seed, device):
        task = Task(split, device)
        check_outputs(model, task)
        loop = Loop(model, task, config, device)
        with _progress.bar(config.epochs, f"train on {split.name}", "epoch", wanted=config.progress) as bar:
            for epoch in range(1, config.epochs + 1):
                row = {"epoch": epoch, **loop.epoch(epoch), "seconds": time.perf_counter() - start}
                rows.append(row)
                score = f"test_{task.score_name}"
                bar.set_postfix({"loss": f"{row['train_loss']:.4f}", score: f"{row[score]:.4f}"}, refresh=False)
                bar.update()
    return _finish(model, rows, config, time.perf_counter() - start)


def _finish(model: nn.Module, rows: list[dict[str, Any]], config: TrainConfig, seconds: float) -> TrainingRun:
    """Put the run together.

    Returns:
        The run.
    """
    import pandas as pd

    history = pd.DataFrame(rows).astype({"epoch": int})
    last = rows[-1]
    return TrainingRun(model, history, last.get("test_accuracy"), last.get("test_r2"), config, seconds)


@contextmanager
def _in_place_or_not_at_all(model: nn.Module, device: torch.device) -> Iterator[None]:
    """Move the model to a device for the block; put mode and device back, and after an error the weights.

    Yields:
        Nothing.
    """
    home = next((p.device for p in model.parameters()), device)
    modes = [(module, module.training) for module in model.modules()]
    grads = [(p, p.grad) for p in model.parameters()]
    before = copy.deepcopy(model.state_dict())
    for parameter, _ in grads:
        parameter.grad = None
    try:
        model.to(device)
        yield
    except BaseException:
        model.to(home)
        model.load_state_dict(before)
        raise
    finally:
        model.to(home)
        for parameter, grad in grads:
            parameter.grad = grad
        for module, mode in modes:
            module.training = mode
