"""Interference in networks that are no chains, side by side with what a user writes by hand: time and memory.

Run with ``python -m benchmarks.general`` (``--quick`` for a look whether it works; its numbers say nothing). The rival
puts a hook at each layer and asks for one backward pass per output and chunk, at the best of some sizes of chunks; it
computes the mean cosine alone, `gradembed.interference` all its measures, without the level of chance, whose cost is
given beside. Both look at the default layers. With respect
to one layer, ``vmap(jacrev)`` competes too. Weights and samples are random, because speed does not depend on them. Peak
memory is that of a process of its own, beyond what it had after a first small call. Prints tables.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import pandas as pd
import torch
from torch import Tensor, nn

import gradembed as ge
from benchmarks import _measure, _rivals

CHUNKS = (16, 64, 256)
MOST = 4e9  # bytes of gradients at a time that the rival may ask for
OUTPUTS = 10


class Attention(nn.Module):
    """A transformer's layer: one head of attention and a perceptron, each beside a skip."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1, self.qkv, self.out = nn.LayerNorm(width), nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        """Return [n, t, d] of the same."""
        q, k, v = self.qkv(self.norm1(x)).chunk(3, dim=-1)
        x = x + self.out((q @ k.mT / q.shape[-1] ** 0.5).softmax(-1) @ v)
        result: Tensor = x + self.mlp(self.norm2(x))
        return result


class Residual(nn.Module):
    """A block of a ResNet, which may halve height and width."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs)
        self.conv2, self.bn2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False), nn.BatchNorm2d(outputs)
        self.act, changes = nn.GELU(), stride > 1 or inputs != outputs
        self.shortcut = nn.Conv2d(inputs, outputs, 1, stride, bias=False) if changes else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Return [n, c, h, w], or a quarter of the places."""
        hidden = self.bn2(self.conv2(self.act(self.bn1(self.conv1(x)))))
        result: Tensor = self.act(hidden + self.shortcut(x))
        return result


class Skip(nn.Module):
    """A linear layer beside a skip."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Return [n, d] of the same."""
        return x + torch.tanh(self.linear(x))


class LastToken(nn.Module):
    """What stands at the last place."""

    def forward(self, x: Tensor) -> Tensor:
        """Return [n, d] of [n, t, d]."""
        return x[:, -1]


def convolutional(width: int, pixels: int) -> nn.Sequential:
    """Two convolutions with pooling, two linear layers.

    Returns:
        The network.
    """
    parts: list[nn.Module] = []
    for inputs, outputs in ((1, width), (width, 2 * width)):
        parts += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.GELU(), nn.AvgPool2d(2)]
    flat = 2 * width * (pixels // 4) ** 2
    return nn.Sequential(*parts, nn.Flatten(), nn.Linear(flat, 64), nn.GELU(), nn.Linear(64, OUTPUTS))


def transformer(width: int, blocks: int) -> nn.Sequential:
    """Tokens embedded, then attention.

    Returns:
        The network.
    """
    layers = [Attention(width) for _ in range(blocks)]
    return nn.Sequential(nn.Embedding(100, width), *layers, LastToken(), nn.Linear(width, OUTPUTS))


def resnet(width: int, blocks: int, stem: nn.Module) -> nn.Sequential:
    """Four stages, each of half the pixels and twice the channels of the one before.

    Returns:
        The network.
    """
    widths = [width * 2**stage for stage in range(4)]
    layers = [Residual(width, width) for _ in range(blocks)]
    for inputs, outputs in itertools.pairwise(widths):
        layers += [Residual(inputs, outputs, 2), *(Residual(outputs, outputs) for _ in range(blocks - 1))]
    return nn.Sequential(stem, *layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[-1], OUTPUTS))


class Setting(NamedTuple):
    """A network, its samples, and how often it is timed."""

    network: nn.Sequential
    x: Tensor
    layer: str  # one of its children, for what concerns one layer only
    repeats: int


def setting(name: str, quick: bool) -> Setting:
    """Make a network and samples.

    Returns:
        They, always the same.
    """
    torch.manual_seed(0)
    stem: nn.Module
    if name == "convolutional, 28 px":
        pixels, n = (8, 6) if quick else (28, 1024)
        made = Setting(convolutional(4 if quick else 16, pixels), torch.randn(n, 1, pixels, pixels), "2", 7)
    elif name == "transformer, 16 tokens":
        made = Setting(transformer(8 if quick else 64, 2 if quick else 4), torch.randint(100, (512, 16)), "1", 7)
    elif name == "resnet-like, 32 px":
        stem, n = nn.Conv2d(3, 4 if quick else 16, 3, padding=1), 6 if quick else 256
        made = Setting(resnet(4 if quick else 16, 1 if quick else 2, stem), torch.randn(n, 3, 32, 32), "2", 3)
    else:  # as large as resnet18
        width, pixels, n = (4, 32, 2) if quick else (64, 224, 64)
        stem = nn.Sequential(nn.Conv2d(3, width, 7, 2, 3), nn.BatchNorm2d(width), nn.GELU(), nn.MaxPool2d(3, 2, 1))
        made = Setting(resnet(width, 1 if quick else 2, stem), torch.randn(n, 3, pixels, pixels), "2", 1)
    x = made.x[:8] if quick else made.x
    return made._replace(network=made.network.eval(), x=x, repeats=1 if quick else made.repeats)


NAMES = ("convolutional, 28 px", "transformer, 16 tokens", "resnet-like, 32 px", "resnet18-sized, 224 px")


def chunks(network: nn.Module, x: Tensor, layers: Sequence[str]) -> list[int]:
    """Find the rival's sizes that make sense: no more than there are samples, and than memory allows.

    Returns:
        One of them at least.
    """
    widths = {"input": x[0].numel()}
    handles = [
        module.register_forward_hook(lambda _m, _a, out, name=name: widths.update({name: out.numel()}))
        for name, module in network.named_modules()
    ]
    with torch.no_grad():
        network(x[:1])
    for handle in handles:
        handle.remove()
    each = 4 * OUTPUTS * sum(widths[layer] for layer in layers)
    return [c for c in CHUNKS if c == CHUNKS[0] or (c <= len(x) and c * each <= MOST)]


def side_by_side(name: str, quick: bool) -> dict[str, Any]:
    """Compare at all default layers.

    Returns:
        Seconds, peak memory and ratios.

    Raises:
        RuntimeError: If the rival computes something else.
    """
    network, x, _, repeats = setting(name, quick)
    first = ge.interference(network, x)
    sizes = chunks(network, x, first.layers)
    rivals = {str(c): partial(_rivals.hooked, network, x, first.layers, c) for c in sizes}
    for layer, cosine in rivals["16"]().items():
        if not torch.allclose(cosine.double(), first.cosine[layer], atol=1e-3):
            raise RuntimeError(f"the rival computes something else at {layer} of {name}")
    contestants: dict[str, Callable[[], Any]] = {"gradembed": partial(_measure.measures, network, x), **rivals}
    contestants["chance"] = partial(ge.interference, network, x)
    seconds = _measure.medians(contestants, repeats)
    chunk = min(rivals, key=seconds.__getitem__)
    ours, theirs = (_measure.in_own_process(_peak, name, quick, size) for size in (0, int(chunk)))
    return {
        "network": name, "samples": len(x), "layers": len(first.layers), "gradembed (s)": seconds["gradembed"],
        "hooks (s)": seconds[chunk], "chunk": chunk, "time ratio": seconds["gradembed"] / seconds[chunk],
        "gradembed (MB)": ours, "hooks (MB)": theirs, "memory ratio": ours / max(theirs, 1),
        "with chance": seconds["chance"] / seconds["gradembed"],
    }  # fmt: skip


def one_layer(name: str, quick: bool) -> dict[str, Any]:
    """Compare at one layer.

    Returns:
        Seconds and their ratio.

    Raises:
        RuntimeError: If a rival computes something else.
    """
    network, x, layer, repeats = setting(name, quick)
    k = int(layer) + 1
    ask: Callable[[], ge.Interference] = partial(_measure.measures, network, x, layers=[layer])
    sizes = chunks(network, x, [layer])
    rivals: dict[str, Callable[[], Any]] = {
        **{f"hooks, {c}": partial(_rivals.hooked, network, x, [layer], c) for c in sizes},
        **{f"vmap(jacrev), {c}": partial(_rivals.at_one_layer, network[k:], network[:k], x, c) for c in sizes},
    }
    for cosine in (rivals["hooks, 16"]()[layer], rivals["vmap(jacrev), 16"]()):
        if not torch.allclose(cosine.double(), ask().cosine[layer], atol=1e-3):
            raise RuntimeError(f"a rival computes something else at {layer} of {name}")
    seconds = _measure.medians({"gradembed": ask, **rivals}, repeats)
    best = min(rivals, key=seconds.__getitem__)
    row = {"network": name, "layer": layer, "gradembed (s)": seconds["gradembed"], "best rival": best}
    return row | {"rival (s)": seconds[best], "time ratio": seconds["gradembed"] / seconds[best]}


def _peak(name: str, quick: bool, chunk: int) -> float:
    """Return the peak memory of the rival (``chunk`` samples at a time) or, for 0, of gradembed."""
    network, x, _, _ = setting(name, quick)
    layers = ge.interference(network, x[:1]).layers

    def ask(samples: Tensor) -> object:
        return _rivals.hooked(network, samples, layers, chunk) if chunk else _measure.measures(network, samples)

    ask(x[:1])
    before = _measure.high_water()
    ask(x)
    return _measure.high_water() - before


def _peak_of_one_unit(pixels: int) -> float:
    network = nn.Sequential(nn.Conv2d(3, 64, 7, 4, 3), nn.BatchNorm2d(64), nn.GELU()).eval()
    x = torch.randn(2, 3, pixels, pixels)
    network(x)
    before = _measure.high_water()
    ge.unit_gradients(network, x, "input", unit_layer="2", units=[5])
    return _measure.high_water() - before


def depth(few: int, repeats: int) -> float:
    """Time twice as many layers.

    Returns:
        Times as long.
    """
    contestants = {}
    for k in (few, 2 * few):
        network = nn.Sequential(nn.Linear(64, 64), *(Skip(64) for _ in range(k)), nn.Linear(64, OUTPUTS))
        contestants[str(k)] = partial(_measure.measures, network, torch.randn(256, 64))
    seconds = _measure.medians(contestants, repeats)
    return seconds[str(2 * few)] / seconds[str(few)]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to see whether it runs")
    parser.add_argument("--only", default="", help="networks with this in their name")
    arguments = parser.parse_args()
    quick, names = arguments.quick, [name for name in NAMES if arguments.only in name]
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads; medians; a busy machine moves all of this\n")
    table = pd.DataFrame([side_by_side(name, quick) for name in names])
    print(f"Default layers, {OUTPUTS} outputs\n{table.round(3).to_string(index=False)}\n", flush=True)
    table = pd.DataFrame([one_layer(name, quick) for name in names])
    print(f"One layer\n{table.round(3).to_string(index=False)}\n", flush=True)
    pixels, few = (32, 5) if quick else (224, 50)
    extra, ratio = _measure.in_own_process(_peak_of_one_unit, pixels), depth(few, 1 if quick else 7)
    print(f"one unit of a layer of {64 * (pixels // 4) ** 2:,}: {extra:.0f} MB beyond the forward pass")
    print(f"{2 * few} layers take {ratio:.2f} times as long as {few}")


if __name__ == "__main__":
    main()
