"""A step of many networks at once: forward, backward and AdamW on stacked weights, in memory that is used again.

Activations lie as [e, width, n] and weights as [e, in, out], for which the products of small matrices are fastest. The
backward pass is written out: for chains it is a few products, and automatic differentiation, which takes new memory at
each step, costs about as much again.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gradembed.models import MLPEnsemble
from gradembed.training._config import TrainConfig, optimizer_and_schedule


class Stack:
    """Networks in training.

    Args:
        ensemble: The networks; copied.
        config: The settings.
        n: Samples of an epoch.
    """

    def __init__(self, ensemble: MLPEnsemble, config: TrainConfig, n: int) -> None:
        self._given = given = ensemble.parts()
        parts = [weight.transpose(1, 2) for weight in given["weights"]] + [bias[:, :, None] for bias in given["biases"]]
        # all numbers in one tensor: one call of the optimizer's kernel
        numbers = torch.cat([part.reshape(-1) for part in parts])
        numbers.grad = torch.zeros_like(numbers)
        self.weights, self.biases = _views(numbers, parts)  # each [e, in, out], each [e, out, 1]
        self.weight_grads, self.bias_grads = _views(numbers.grad, parts)
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

    def ensemble(self) -> MLPEnsemble:
        """Return the networks as they are now."""
        weights, biases = [w.transpose(1, 2) for w in self.weights], [b[:, :, 0] for b in self.biases]
        return MLPEnsemble.from_parts(self._given | {"weights": weights, "biases": biases})

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


def _views(numbers: Tensor, parts: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    """Return views of one long tensor in the shapes of others: the first half of them, and the second."""
    pieces = numbers.split([part.numel() for part in parts])
    views = [piece.view(part.shape) for piece, part in zip(pieces, parts, strict=True)]
    return views[: len(parts) // 2], views[len(parts) // 2 :]


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
