"""Settings, and a step of many networks at once: forward, backward and AdamW on stacked weights.

Activations lie as [e, width, n] and weights as [e, in, out], for which the products of small matrices are fastest. The
backward pass is written out: for chains it is a few products, and automatic differentiation, which takes new memory at
each step, costs about as much again. Memory is used again.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import AdamW
from torch.optim.lr_scheduler import OneCycleLR

from gradembed._validation import as_bool, as_integer, as_number, describe, refuse
from gradembed.models import MLPEnsemble


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


class Stack:
    """Networks in training.

    Args:
        ensemble: The networks; from now on their parameters are views of what is trained here.
        config: The settings.
        n: Samples of an epoch.
    """

    def __init__(self, ensemble: MLPEnsemble, config: TrainConfig, n: int) -> None:
        parameters = [*ensemble.parameters()]
        parameters = [*parameters[::2], *parameters[1::2]]  # weights [e, out, in], then biases [e, out]
        parts = [p.detach().transpose(1, 2) if p.ndim == 3 else p.detach()[:, :, None] for p in parameters]
        sizes, depth = [part.numel() for part in parts], len(parts) // 2
        numbers = torch.cat([part.reshape(-1) for part in parts])  # in one tensor: one call of the optimizer's kernel
        numbers.grad = torch.zeros_like(numbers)
        views, grads = ([*map(Tensor.view_as, whole.split(sizes), parts)] for whole in (numbers, numbers.grad))
        for parameter, view in zip(parameters, views, strict=True):
            parameter.data = view.transpose(1, 2) if parameter.ndim == 3 else view[:, :, 0]
        self.weights, self.biases = views[:depth], views[depth:]  # each [e, in, out], each [e, out, 1]
        self.weight_grads, self.bias_grads = grads[:depth], grads[depth:]
        self.activations = ensemble.activation_modules()
        self.optimizer, self.schedule = optimizer_and_schedule([numbers], config, n)
        # by batch size: memory for what leaves each layer, and for gradients there
        self._spaces: dict[int, list[Tensor]] = {}

    @torch.no_grad()
    def step(self, x: Tensor, y: Tensor, *, is_classes: bool) -> Tensor:
        """Take one step on a batch.

        Args:
            x: Samples, [e, n, d].
            y: Targets, [e, n, t].
            is_classes: Whether they are classes, or values.

        Returns:
            Each member's mean loss before the step, [e].
        """
        inputs, graphs, output = self._forward(x.transpose(1, 2))
        loss, gradient = (_cross_entropy if is_classes else _squared_error)(output, y.transpose(1, 2))
        self._backward(gradient, inputs, graphs)
        self.optimizer.step()
        self.schedule.step()
        return loss

    def _forward(self, a: Tensor) -> tuple[list[Tensor], list[tuple[Tensor, Tensor] | None], Tensor]:
        """Return what enters each layer, [e, in, n], the graph of each smooth activation, and outputs [e, u, n]."""
        n = a.shape[2]
        if n not in self._spaces:
            self._spaces[n] = [a.new_empty(*bias.shape[:2], n) for bias in self.biases * 2]
        inputs, graphs = [], []
        for i, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            inputs.append(a)  # [e, in, n]
            product = torch.addcmul if weight.shape[1] == 1 else torch.baddbmm  # slow with a single column
            a = product(bias, weight.transpose(1, 2), a, out=self._spaces[n][i])  # [e, out, n]
            if i < len(self.activations):
                a, graph = _activate(self.activations[i], a)
                graphs.append(graph)
        return inputs, graphs, a

    def _backward(self, g: Tensor, inputs: list[Tensor], graphs: list[tuple[Tensor, Tensor] | None]) -> None:
        """Run back from the gradient at the outputs, [e, u, n], and write the weights' gradients."""
        depth = len(self.weights)
        spaces = self._spaces[g.shape[2]][depth:]
        for i in reversed(range(depth)):
            torch.bmm(inputs[i], g.transpose(1, 2), out=self.weight_grads[i])  # [e, in, n] x [e, n, out]
            torch.sum(g, 2, keepdim=True, out=self.bias_grads[i])  # [e, out, 1]
            if i == 0:
                return
            weight, space = self.weights[i], spaces[i - 1]
            g = (torch.mul if g.shape[1] == 1 else torch.bmm)(weight, g, out=space)  # [e, in, n]
            graph = graphs[i - 1]
            if graph is None:
                torch.ops.aten.threshold_backward.grad_input(g, inputs[i], 0, grad_input=g)
            else:
                (g,) = torch.autograd.grad(graph[1], graph[0], g)


def _activate(module: nn.Module, z: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor] | None]:
    """Return the numbers after an activation and, unless it is ReLU, which works in place, its graph: leaf, result."""
    if isinstance(module, nn.ReLU):
        return z.clamp_min_(0), None
    with torch.enable_grad():
        leaf = z.detach().requires_grad_()
        out = module(leaf.clone())  # a copy, because the module may work in place
    return out.detach(), (leaf, out)


def _squared_error(output: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Return each member's mean squared error over samples and outputs, [e], and its gradient there, [e, u, n]."""
    difference = output - y
    count = y.shape[1] * y.shape[2]
    return difference.square().sum((1, 2)) / count, difference * (2 / count)


def _cross_entropy(output: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Return each member's mean cross-entropy over samples and tasks, [e], and its gradient at the outputs, [e, u, n].

    Each task has its block of outputs.
    """
    (e, u, n), t = output.shape, y.shape[1]
    logarithms = F.log_softmax(output.view(e, t, u // t, n), 2)  # [e, t, classes, n]
    classes = y[:, :, None]  # [e, t, 1, n]
    loss = -logarithms.gather(2, classes).sum((1, 2, 3)) / (t * n)
    gradient = logarithms.exp_()
    gradient.scatter_add_(2, classes, gradient.new_full((), -1).expand(classes.shape))
    return loss, gradient.div_(t * n).view(e, u, n)
