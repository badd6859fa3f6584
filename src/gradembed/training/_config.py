"""How to train: settings and device."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import torch
from torch import Tensor
from torch.optim import AdamW
from torch.optim.lr_scheduler import OneCycleLR

from gradembed._validation import as_bool, as_integer, as_number, describe, refuse


@dataclass(frozen=True)
class TrainConfig:
    """How to train: everything that, with the data and the initial weights, determines the result.

    Attributes:
        epochs: Passes through the training part.
        batch_size: Samples a step.
        learning_rate: Peak of the one-cycle schedule.
        weight_decay: Of AdamW.
        max_shift: Each image is moved by up to this many pixels in both directions, anew at each
            step; 0 for none. Needs square images in rows.
        seed: Of the order of samples and of the shifts (not of the weights, which the model has).
        device: "auto" (CUDA where there is one), or a name that torch knows.
        progress: Whether to draw a progress bar on standard error.

    Raises:
        ValueError: If a number is out of range.
        TypeError: If a field has the wrong type.

    Example:
        >>> import gradembed as ge
        >>> ge.TrainConfig.for_iris(seed=3).seed
        3

    References:
        I. Loshchilov, F. Hutter (2019), Decoupled weight decay regularization (AdamW).
        L. N. Smith, N. Topin (2019), Super-convergence (the one-cycle schedule).
    """

    epochs: int = 40
    batch_size: int = 256
    learning_rate: float = 6e-3
    weight_decay: float = 0.05
    max_shift: int = 0
    seed: int = 0
    device: str = "auto"
    progress: bool = field(default=True, metadata={"changes_result": False})

    def __post_init__(self) -> None:
        read: dict[str, Any] = {"learning_rate": as_number("learning_rate", self.learning_rate, 0, open_low=True)}
        read |= {"weight_decay": as_number("weight_decay", self.weight_decay, 0)}
        for name, minimum in (("epochs", 1), ("batch_size", 1), ("max_shift", 0), ("seed", 0)):
            read[name] = as_integer(name, getattr(self, name), minimum)
        vars(self).update(read, progress=as_bool("progress", self.progress))  # it is frozen
        resolve_device(self.device)

    @classmethod
    def for_mnist(cls, seed: int = 0) -> Self:
        """The settings of notebook 01: 40 epochs with random one-pixel shifts.

        Returns:
            A configuration.
        """
        return cls(epochs=40, batch_size=256, learning_rate=6e-3, weight_decay=0.05, max_shift=1, seed=seed)

    @classmethod
    def for_mnist_sample(cls, seed: int = 0) -> Self:
        """Settings for the 4,000 training images of the sample: more epochs, smaller batches.

        Returns:
            A configuration.
        """
        return cls(epochs=100, batch_size=64, learning_rate=5e-3, weight_decay=0.05, max_shift=1, seed=seed)

    @classmethod
    def for_iris(cls, seed: int = 0) -> Self:
        """Settings for the 120 training flowers of Iris.

        Returns:
            A configuration.
        """
        return cls(epochs=60, batch_size=16, learning_rate=5e-3, weight_decay=0.01, seed=seed)

    @classmethod
    def for_stacked_iris(cls, seed: int = 0) -> Self:
        """Settings for two stacked copies of Iris, 4,000 pairs; the strong decay takes away what no task needs.

        Returns:
            A configuration.
        """
        return cls(epochs=60, batch_size=64, learning_rate=0.01, weight_decay=2.0, seed=seed)

    @classmethod
    def for_soft_mixing(cls, seed: int = 0) -> Self:
        """Settings for the 8,000 training samples of `soft_mixing`.

        Returns:
            A configuration.
        """
        return cls(epochs=10, batch_size=128, learning_rate=5e-3, weight_decay=0.01, seed=seed)

    @classmethod
    def for_waves(cls, dim: int, seed: int = 0) -> Self:
        """Settings for `random_waves` of roughness 1, sampled at 16,384 points, and two hidden layers of 64 units.

        Args:
            dim: Inputs of the functions.
            seed: As in the class.

        Returns:
            A configuration: 1,280 steps up to 16 inputs, 2,560 above.

        Raises:
            ValueError: If ``dim`` is below 1.
            TypeError: If it is no integer.
        """
        epochs = 5 if as_integer("dim", dim, 1) <= 16 else 10
        return cls(epochs=epochs, batch_size=64, learning_rate=0.01, weight_decay=0.01, seed=seed)


def resolve_device(name: str) -> torch.device:
    """Turn "auto" or a device's name into a device that this machine has.

    Returns:
        The device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except (RuntimeError, TypeError):
        refuse("device", "be 'auto' or a device that torch knows", describe(name), "Use 'auto' or 'cpu'")
    backend = getattr(torch, device.type, None)  # torch.cpu, torch.cuda, torch.mps, ...; there is no torch.meta
    if backend is None or not backend.is_available():
        refuse("device", "be a device of this machine", repr(name), "Use 'auto' or 'cpu'")
    return device


def optimizer_and_schedule(parameters: Sequence[Tensor], config: TrainConfig, n: int) -> tuple[AdamW, OneCycleLR]:
    """Return AdamW and its one-cycle schedule for n samples."""
    fused = parameters[0].device.type in ("cpu", "cuda") or None
    optimizer = AdamW(parameters, fused=fused, lr=config.learning_rate, weight_decay=config.weight_decay)
    steps = config.epochs * math.ceil(n / config.batch_size)
    # below four steps one-cycle has no room for its phases: the schedule then runs its first few
    return optimizer, OneCycleLR(optimizer, config.learning_rate, max(steps, 4))
