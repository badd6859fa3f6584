"""Networks and their training as in somebody's own project: nothing in it knows of gradembed. Notebook 06 asks them."""

from collections import OrderedDict
from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, pad


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


def trunk() -> OrderedDict[str, nn.Module]:
    """Return two convolutions with pooling and a hidden layer of 32, for images of 8 x 8 pixels."""

    def convolution(before: int, after: int) -> nn.Module:
        return nn.Sequential(nn.Conv2d(before, after, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2))

    hidden = nn.Sequential(nn.Linear(128, 32), nn.ReLU())
    return OrderedDict(conv1=convolution(1, 16), conv2=convolution(16, 32), flat=nn.Flatten(), hidden=hidden)


def convolutional() -> nn.Module:
    """Return a convolutional network of ten outputs."""
    return nn.Sequential(trunk() | {"head": nn.Linear(32, 10)})


def transformer() -> nn.Module:
    """Return two encoder layers whose tokens are the rows of the image; the norm's bias tells them which they are."""
    block = partial(nn.TransformerEncoderLayer, 32, 4, 64, dropout=0.0, batch_first=True, norm_first=True)
    tokens = OrderedDict(rows=nn.Flatten(1, 2), embed=nn.Linear(8, 32), place=nn.LayerNorm([8, 32]))
    hidden = nn.Sequential(nn.Flatten(), nn.Linear(256, 32), nn.ReLU())
    return nn.Sequential(tokens | OrderedDict(block1=block(), block2=block(), hidden=hidden, head=nn.Linear(32, 10)))


def two_heads() -> nn.Module:
    """Return a convolutional trunk with a head for the digit and a second one of two classes; `heads` runs it."""
    return nn.ModuleDict({"trunk": nn.Sequential(trunk()), "digit": nn.Linear(32, 10), "second": nn.Linear(32, 2)})


def heads(model: nn.Module, images: Tensor) -> dict[str, Tensor]:
    """Return the logits of both heads, by name."""
    features = model["trunk"](images)
    return {"digit": model["digit"](features), "second": model["second"](features)}


def augmented(images: Tensor) -> Tensor:
    """Shift half of the images, [n, 1, 8, 8], by up to a pixel, and add noise to all."""
    n, inner = len(images), torch.arange(1, 9)
    rows, columns = torch.randint(-1, 2, (2, n, 1, 1)) * (torch.rand(n, 1, 1) < 0.5)
    padded = pad(images[:, 0], (1, 1, 1, 1))
    moved = padded[torch.arange(n)[:, None, None], inner[:, None] + rows, inner + columns]
    return moved[:, None] + 0.1 * torch.randn(n, 1, 8, 8)


def digit_loss(images: Tensor, labels: Tensor, model: nn.Module, batch: Tensor) -> Tensor:
    """Return the cross-entropy at augmented images."""
    return cross_entropy(model(augmented(images[batch])), labels[batch])


def heads_loss(images: Tensor, labels: Mapping[str, Tensor], model: nn.Module, batch: Tensor) -> Tensor:
    """Return the sum of both heads' cross-entropies at augmented images."""
    out = heads(model, augmented(images[batch]))
    return sum(cross_entropy(out[name], label[batch]) for name, label in labels.items())


def trained(
    build: Callable[[], nn.Module], loss: Callable[[nn.Module, Tensor], Tensor], n_samples: int, epochs: int, seed: int
) -> nn.Module:
    """Train a new network: AdamW, one-cycle schedule, batches of 100."""
    torch.manual_seed(seed)
    model = build()
    batches = torch.cat([torch.randperm(n_samples) for _ in range(epochs)]).split(100)
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.1)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, total_steps=len(batches))
    for batch in batches:
        optimizer.zero_grad()
        loss(model, batch).backward()
        optimizer.step()
        schedule.step()
    return model.eval()
