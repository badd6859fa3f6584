"""The two halves of the cloze: an encoder of what is seen, a decoder of what is left out."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

WARM_UP = 0.1  # share of the steps


def schedule(optimizer: torch.optim.Optimizer, n_steps: int) -> torch.optim.lr_scheduler.LambdaLR:
    """Let the learning rate rise for a tenth of the steps and fall to zero along a cosine.

    Returns:
        The schedule, to be stepped after each step.
    """

    def factor(step: int) -> float:
        rise = (step + 1) / max(WARM_UP * n_steps, 1)
        return min(rise, 1) * (1 + math.cos(math.pi * step / n_steps)) / 2

    return torch.optim.lr_scheduler.LambdaLR(optimizer, factor)


class Encoder(nn.Module):
    """From principal components of what is seen to the bottleneck: the first few of them, and a learnt correction.

    The correction starts at zero, so that training starts from principal components and moves away only where that
    helps to predict.

    Args:
        n_rows: Principal components.
        n_extra: Further inputs that only the correction reads.
        n_components: Of the bottleneck.
        width: Of the hidden layer.
    """

    straight: Tensor

    def __init__(self, n_rows: int, n_extra: int, n_components: int, width: int) -> None:
        super().__init__()
        self.n_rows = n_rows
        self.first = nn.Linear(n_rows + n_extra, width)
        self.norm = nn.LayerNorm(width)
        self.last = nn.Linear(width, n_components)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)
        self.register_buffer("straight", torch.eye(n_rows, n_components))

    def forward(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Embed.

        Args:
            inputs: [u, rows and extras].

        Returns:
            The embedding, [u, k], and the correction in it.
        """
        correction = self.last(nn.functional.silu(self.norm(self.first(inputs))))
        return inputs[:, : self.n_rows] @ self.straight + correction, correction


class Decoder(nn.Module):
    """From a point and an embedding to a gradient; the embedding shifts and scales the hidden units.

    Args:
        n_axes: Coordinates of a point, and of a gradient.
        n_components: Of the embedding.
        width: Of the hidden layers.
    """

    def __init__(self, n_axes: int, n_components: int, width: int) -> None:
        super().__init__()
        self.first = nn.Linear(n_axes, width)
        self.second = nn.Linear(width, width)
        self.last = nn.Linear(width, n_axes)
        self.shifts = nn.Linear(n_components, 4 * width)

    def forward(self, points: Tensor, embedded: Tensor) -> Tensor:
        """Predict gradients.

        Args:
            points: [u, m, q].
            embedded: [u, k].

        Returns:
            [u, m, q].
        """
        a, b, c, d = self.shifts(embedded)[:, None].chunk(4, dim=2)
        hidden = nn.functional.silu(self.first(points) * (1 + a) + b)
        hidden = nn.functional.silu(self.second(hidden) * (1 + c) + d)
        predicted: Tensor = self.last(hidden)
        return predicted
