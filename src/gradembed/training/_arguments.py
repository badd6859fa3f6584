"""What training refuses: data, settings and networks that do not fit each other."""

from __future__ import annotations

import torch
from torch import nn

from gradembed import _context, _validation
from gradembed.datasets import Split
from gradembed.training._config import TrainConfig
from gradembed.training._loop import Task


def check_arguments(model: nn.Module, split: object, config: TrainConfig) -> None:
    """Refuse wrong types and settings that the data cannot follow."""
    _validation.check_module(model)
    _validation.check_parameters(model)
    if not isinstance(split, Split):
        _validation.refuse(
            "split",
            "be a gradembed.Split",
            _validation.describe(split),
            "Build one with gradembed.Split",
            TypeError,
        )
    check_config(config)
    d = split.x_train.shape[1]
    if config.max_shift and round(d**0.5) ** 2 != d:
        _validation.refuse(
            "max_shift",
            "be 0 unless rows are square images",
            f"{config.max_shift} with {d} features",
            "Set it to 0",
        )
    if not any(p.requires_grad for p in model.parameters()):
        _validation.refuse("model", "have parameters that require a gradient", "none", "Call model.requires_grad_()")


def check_config(config: object) -> None:
    """Refuse what is no configuration."""
    if not isinstance(config, TrainConfig):
        _validation.refuse("config", "be a gradembed.TrainConfig", _validation.describe(config), "Build one", TypeError)


def check_outputs(model: nn.Module, task: Task) -> None:
    """Refuse a model whose outputs the targets do not fit, tried on two samples."""
    with _context.preserved(model):
        model.eval()
        with torch.no_grad():
            output = _validation.try_forward(model, task.x_train[:2], "split")
    check_width("model", output.shape[1] if output.ndim == 2 else 0, task, _validation.describe(output))


def check_width(name: str, width: int, task: Task, got: object) -> None:
    """Refuse a number of outputs that the targets do not fit."""
    if task.is_classes:
        classes = int(torch.maximum(task.y_train.max(), task.y_test.max())) + 1
        if width % task.n_tasks or width // task.n_tasks < classes:
            rule = f"give {task.n_tasks} x {classes} outputs, one per task and class"
            _validation.refuse(name, rule, got, "Widen the last layer")
    elif width != task.n_tasks:
        _validation.refuse(name, f"give {task.n_tasks} outputs, one per target", got, "Change the last layer")
