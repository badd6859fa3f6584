"""Networks for tests: weights typed by hand with answers on paper, one of every module kind."""

import json
from collections.abc import Callable
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import gradembed as ge


def randn(*shape: int) -> Tensor:
    """Normal numbers in double precision."""
    return torch.randn(*shape, dtype=torch.float64)


def linear(weight: list[list[float]], bias: list[float] | None = None) -> nn.Linear:
    """A linear layer with weights typed by hand."""
    matrix = torch.tensor(weight, dtype=torch.float64)
    layer = nn.Linear(matrix.shape[1], matrix.shape[0], bias=bias is not None, dtype=torch.float64)
    with torch.no_grad():
        layer.weight.copy_(matrix)
        if bias is not None:
            layer.bias.copy_(torch.tensor(bias, dtype=torch.float64))
    return layer


def crossing() -> nn.Sequential:
    """Two inputs, two ReLUs, two outputs: out0 = r0 + r1, out1 = r0 - r1, with r = relu(x).

    At x > 0 both are on: gradients (1, 1) and (1, -1), cosine 0. With only x0 > 0: (1, 0) twice, cosine 1.
    With only x1 > 0: (0, 1) and (0, -1), cosine -1. With neither: no gradient at the input.
    """
    return nn.Sequential(linear([[1, 0], [0, 1]]), nn.ReLU(), linear([[1, 1], [1, -1]]))


def mlp(*widths: int, activation: type[nn.Module] = nn.ReLU) -> ge.MLP:
    """A multi-layer perceptron in double precision."""
    return ge.MLP(list(widths), activation, seed=0).double()


def rescaled(factors: Tensor) -> ge.MLP:
    """For positive factors the same function: hidden units scaled up, the next layer's weights down."""
    network = mlp(6, 5, 5, 3)
    with torch.no_grad():
        network.hidden1.linear.weight.mul_(factors[:, None])
        network.hidden1.linear.bias.mul_(factors)
        network.hidden2.linear.weight.div_(factors)
    return network


class Net(nn.Module):
    """Children, and a forward pass that is a function of the module and what it is given."""

    def __init__(self, run: Callable[..., Any], **children: nn.Module) -> None:
        super().__init__()
        self.run = run
        for name, child in children.items():
            self.add_module(name, child)

    def forward(self, *args: Any, **named: Any) -> Any:
        return self.run(self, *args, **named)


class Residual(nn.Module):
    """A residual sum, layer norm and an in-place activation that is used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.branch, self.norm = nn.Linear(4, 5), nn.Linear(5, 5), nn.LayerNorm(5)
        self.act, self.head = nn.ReLU(inplace=True), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.stem(x))
        x = x + self.act(self.branch(self.norm(x)))
        return self.head(x)


class Convolutional(nn.Module):
    """Convolution, batch norm (eval), pooling, a flattening reshape."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(1, 2, 3, padding=1), nn.BatchNorm2d(2)
        self.pool, self.head = nn.AvgPool2d(2), nn.Linear(8, 3)
        self.norm.running_mean.uniform_(-1, 1)
        self.norm.running_var.uniform_(0.5, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(torch.tanh(self.norm(self.conv(x))))
        return self.head(x.flatten(1))


class Blocks(nn.Module):
    """Layers in a ModuleList, an input used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 4)])
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        hidden = x
        for layer in self.layers:
            hidden = torch.relu(layer(hidden)) * x
        return self.head(hidden)


class BatchMean(nn.Module):
    """Samples depend on each other: every sample has the batch's mean taken off."""

    def forward(self, x: Tensor) -> Tensor:
        return x - x.mean(0)


class Noise(nn.Module):
    """Another output every time."""

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.randn_like(x)


CLOCK_SHAPES = {"embed.W_E": (8, 5), "pos_embed.W_pos": (2, 8), "unembed.W_U": (8, 5)}
CLOCK_SHAPES |= {f"blocks.0.attn.W_{name}": (2, 4, 8) for name in "KQV"} | {"blocks.0.attn.W_O": (8, 8)}
CLOCK_SHAPES |= {"blocks.0.mlp.W_in": (16, 8), "blocks.0.mlp.b_in": (16,)}
CLOCK_SHAPES |= {"blocks.0.mlp.W_out": (8, 16), "blocks.0.mlp.b_out": (8,)}


def write_clock(root, attention, shapes=None, about=None):
    """Write weights as the published ones are kept, in a folder; return it, and them in float64."""
    weights = {name: torch.randn(shape) for name, shape in (shapes or CLOCK_SHAPES).items()}
    (root / "clock_pizza").mkdir(exist_ok=True)
    said = {"config": json.dumps({"attn_coeff": attention}), "published_gradient_similarity": "0.3 (100 triples)"}
    save_file(weights, root / "clock_pizza" / "l8k1hzciux.safetensors", metadata=said if about is None else about)
    return root, {name.split(".")[-1]: weight.double() for name, weight in weights.items()}
