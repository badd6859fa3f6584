"""A network as it lies in somebody's own project: nothing in it knows of gradembed. Notebook 06 looks into it."""

import torch
from torch import Tensor, nn


class Block(nn.Module):
    """A residual block: two layers whose result is added to what came in."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.up, self.down = nn.LayerNorm(width), nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Add the block's own part to its input.

        Args:
            x: [n, width].

        Returns:
            [n, width].
        """
        return x + self.down(torch.relu(self.up(self.norm(x))))


class ResidualMLP(nn.Module):
    """A linear stem, residual blocks and a linear head."""

    def __init__(self, n_features: int, width: int, n_blocks: int, n_outputs: int) -> None:
        super().__init__()
        self.stem = nn.Linear(n_features, width)
        self.blocks = nn.ModuleList(Block(width) for _ in range(n_blocks))
        self.head = nn.Linear(width, n_outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Map samples of any shape to outputs.

        Args:
            x: [n, ...].

        Returns:
            [n, n_outputs].
        """
        x = self.stem(x.flatten(1))
        for block in self.blocks:
            x = block(x)
        return self.head(x)
