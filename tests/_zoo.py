"""Small models in the shapes that people use, and the gradients that they should give. Imports torch only.

The oracle runs a model on one sample at a time, puts a leaf in the place of the tensor at a site, and differentiates
every unit by it: no batches, no chunks, nothing shared with the library.
"""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from _networks import Net, randn
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune
from torch.utils._pytree import tree_leaves, tree_map

Forward = Callable[[nn.Module, Any], Any]
Change = Callable[[Tensor], Tensor]
Make = Callable[[], tuple[nn.Module, Any]]
EVERY = slice(None)


class Place:
    """A site, in the words of `gradembed.Site`.

    Attributes:
        arguments: What a `gradembed.Site` of the same place is made with, beside its name.
        refused: Where no gradient per sample exists, the argument that is to blame.
    """

    element: int | str | None = None
    index: tuple[int | slice, ...] | None = None
    mean: tuple[int, ...] | None = None
    call: int | None = None
    input = False

    def __init__(self, name: str, refused: str = "", **arguments: Any) -> None:
        vars(self).update(arguments, name=name, refused=refused, arguments=arguments)


@dataclass(frozen=True)
class Case:
    """A model, samples for it, and three places to look at.

    Attributes:
        never: Modules that are no default layers, though a gradient could be taken there.
    """

    make: Make
    places: tuple[Place, ...]
    forward: Forward | None = None
    never: tuple[str, ...] = ()

    def made(self) -> tuple[nn.Module, Any]:
        """The model in float64 and eval mode, and the samples; the same every time."""
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model, x = self.make()
            return model.double().eval(), x


CASES: dict[str, Case] = {}


def case(*places: Place, **more: Any) -> Callable[[Make], Case]:
    """Put a model and samples into the zoo."""
    return lambda make: CASES.setdefault(make.__name__, Case(make, places, **more))


# The oracle


def samples_of(x: Any) -> Iterator[Any]:
    """Samples one by one, each as a batch."""
    for i in range(len(tree_leaves(x)[0])):
        yield tree_map(lambda tensor, i=i: tensor[i : i + 1], x)


def called(model: nn.Module, x: Any) -> Any:
    """Call a model with a tensor, a mapping or several inputs."""
    if isinstance(x, Mapping):
        return model(**x)
    return model(x) if isinstance(x, Tensor) else model(*x)


def units_of(output: Any) -> Tensor:
    """The units that one sample's output holds, [u]: those of all heads, one after the other."""
    output = getattr(output, "logits", output)
    heads = [output] if isinstance(output, Tensor) else output.values() if isinstance(output, Mapping) else output
    return torch.cat([head.reshape(-1) for head in heads])


def swap(value: Any, element: int | str | None, change: Change) -> Any:
    """Change a tensor, or one of several; the only or first float one where none is named."""
    if isinstance(value, Tensor):
        return change(value)
    if element is None:
        places = value.items() if isinstance(value, Mapping) else enumerate(value)
        element = next(key for key, part in places if isinstance(part, Tensor) and part.is_floating_point())
    items: Any = copy.copy(value) if isinstance(value, Mapping) else list(value)
    items[element] = change(value[element])
    return items if isinstance(value, Mapping) else tuple(items)


class Cut:
    """Hands on something else at one place of a forward pass."""

    def __init__(self, place: Place, change: Change) -> None:
        self.place, self.change, self.runs = place, change, 0

    def put(self, whole: Tensor) -> Tensor:
        """Change the part that the place names; the rest keeps its graph."""
        if self.place.index is None:
            return self.change(whole)
        changed = whole.clone()
        changed[self.place.index] = self.change(whole[self.place.index])
        return changed

    def after(self, _module: nn.Module, _args: Any, output: Any) -> Any:
        """Change a module's output."""
        return swap(output, self.place.element, self.put) if self._is_due() else None

    def before(self, _module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Change a module's input."""
        inputs = {**dict(enumerate(args)), **kwargs}
        inputs = swap(inputs, self.place.element, self.put) if self._is_due() else inputs
        return tuple(inputs[i] for i in range(len(args))), {name: inputs[name] for name in kwargs}

    def _is_due(self) -> bool:
        self.runs += 1
        return self.place.call in (None, self.runs - 1)


def run(model: nn.Module, sample: Any, forward: Forward | None, changes: Mapping[Place, Change]) -> Tensor:
    """The units at one sample, [u], where things are changed on the way, as the last of all hooks there."""
    with ExitStack() as stack:
        for place, change in changes.items():
            hook, module = Cut(place, change), model if place.name == "input" else model.get_submodule(place.name)
            if place.name == "input":
                sample = swap(sample, place.element, hook.put)
            elif place.input:
                stack.callback(module.register_forward_pre_hook(hook.before, with_kwargs=True).remove)
            else:
                stack.callback(module.register_forward_hook(hook.after).remove)
        return units_of((forward or called)(model, sample))


def oracle(model, x, place, forward=None, units=None) -> tuple[Tensor, ...]:
    """Gradients [n, u, d], activations [n, d] and values [n, u] of what a model returns, or of units at a place."""

    def at(sample: Any) -> tuple[Tensor, Tensor, Tensor]:
        seen: dict[str, Tensor] = {}

        def leaf(part: Tensor) -> Tensor:
            assert "leaf" not in seen  # one node only
            point = part.detach() if place.mean is None else part.detach().mean(place.mean, keepdim=True)
            seen["point"], seen["leaf"] = point.flatten().clone(), torch.zeros_like(point).requires_grad_()
            return (
                part.detach() + seen["leaf"] if place.mean is None else part + seen["leaf"]
            )  # all places move together

        def read(part: Tensor) -> Tensor:
            seen["units"] = (part.mean(units.mean) if units.mean else part).flatten()
            return part

        with torch.enable_grad():
            out = run(model, sample, forward, {place: leaf, units: read} if units else {place: leaf})
        out = seen.get("units", out)
        rows = [torch.autograd.grad(u, seen["leaf"], retain_graph=True, materialize_grads=True)[0] for u in out]
        return torch.stack([row.flatten() for row in rows]), seen["point"], out.detach()

    return tuple(torch.stack(parts) for parts in zip(*map(at, samples_of(x)), strict=True))


def slopes_by_nudging(model, x, place, forward, step=1e-5) -> tuple[Tensor, ...]:
    """Directions [n, d] and how fast each unit changes along them, [n, u], by differences: no automatic gradient."""

    def at(sample: Any) -> tuple[Tensor, Tensor]:
        directions = []

        def nudge(part: Tensor) -> Tensor:
            like = part if place.mean is None else part.mean(place.mean, keepdim=True)
            directions.append(torch.linspace(-1, 2, like.numel(), dtype=part.dtype).cos().view_as(like))
            return part + (step if len(directions) == 1 else -step) * directions[-1]

        with torch.no_grad():
            high, low = (run(model, sample, forward, {place: nudge}) for _ in range(2))
        return directions[0].flatten(), (high - low) / (2 * step)

    return tuple(torch.stack(parts) for parts in zip(*map(at, samples_of(x)), strict=True))


def passes_through(model: nn.Module, x: Any, forward: Forward | None) -> set[str]:
    """Names of the modules that return the very tensor that they got, as it was."""
    through, changed = set(), set()
    with ExitStack() as stack, torch.no_grad():
        for name, module in model.named_modules():

            def look(module: nn.Module, args: tuple[Any, ...], output: Any, name: str = name) -> None:
                is_same = bool(args) and output is args[0] and not getattr(module, "inplace", False)
                (through if is_same else changed).add(name)

            stack.callback(module.register_forward_hook(look).remove)
        (forward or called)(model, x)
    return through - changed


# Pieces


def drop_path() -> nn.Module:
    """Stochastic depth: nothing at all in eval mode."""
    return Net(lambda m, x: x * (torch.rand(len(x), 1, 1) > 0.1) if m.training else x)


def layer_scale(width: int) -> nn.Module:
    """A factor for each feature."""
    return Net(lambda m, x: x * m.own["gamma"], own=nn.ParameterDict({"gamma": torch.linspace(0.2, 0.9, width)}))


class Conv1D(nn.Module):
    """GPT-2's linear layer, whose weight stands the other way round."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(inputs, outputs) / 2), nn.Parameter(torch.randn(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """As GPT-2 computes it."""
        flat = torch.addmm(self.bias, x.reshape(-1, x.shape[-1]), self.weight)
        return flat.view(*x.shape[:-1], -1)


class Attention(nn.Module):
    """Two heads, written by hand. Returns what they see and how they look at it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.query_key_value, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """A mask, which broadcasts to [n, heads, t, t], is true where nobody looks."""
        n, t, width = x.shape
        q, k, v = self.query_key_value(x).view(n, t, 3, 2, width // 2).permute(2, 0, 3, 1, 4)
        scores = q @ k.mT / math.sqrt(width // 2)
        weights = scores.masked_fill(mask if mask is not None else torch.tensor(False), -torch.inf).softmax(-1)
        return self.out((weights @ v).transpose(1, 2).reshape(n, t, width)), weights


class Block(nn.Module):
    """A transformer's layer, with layer scale and stochastic depth."""

    def __init__(self, width: int, mlp: nn.Module | None = None, *, returns_tuple: bool = False) -> None:
        super().__init__()
        self.norm1, self.attn, self.scale1 = nn.LayerNorm(width), Attention(width), layer_scale(width)
        self.norm2, self.mlp, self.scale2 = nn.LayerNorm(width), mlp or perceptron(width, 6, width), layer_scale(width)
        self.drop_path1, self.drop_path2, self.returns_tuple = drop_path(), drop_path(), returns_tuple

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Any:
        """Attention, then the perceptron, each beside a skip."""
        seen, weights = self.attn(self.norm1(x), mask=mask)
        x = x + self.drop_path1(self.scale1(seen))
        x = x + self.drop_path2(self.scale2(self.mlp(self.norm2(x))))
        return (x, weights) if self.returns_tuple else x


class Residual(nn.Module):
    """A block of a ResNet, whose shortcut may be no more than a name."""

    def __init__(self, width: int, shortcut: nn.Module) -> None:
        super().__init__()
        self.conv1, self.bn1, self.conv2, self.bn2 = conv(width, width), norm(width), conv(width, width), norm(width)
        self.relu, self.shortcut = nn.ReLU(inplace=True), shortcut

    def forward(self, x: Tensor) -> Tensor:
        """The tensor that the shortcut passes on is also read by the first convolution."""
        out = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        out += self.shortcut(x)
        return self.relu(out)


def perceptron(*widths: int, activation: Callable[[], nn.Module] = nn.GELU) -> nn.Sequential:
    """Linear layers with an activation and dropout between them."""
    layers = [(nn.Linear(a, b), activation(), nn.Dropout(0.1)) for a, b in itertools.pairwise(widths)]
    return nn.Sequential(*itertools.chain(*layers))[:-2]


def conv(inputs: int, outputs: int, size: int = 3, **more: Any) -> nn.Conv2d:
    """A convolution that keeps height and width."""
    return nn.Conv2d(inputs, outputs, size, padding=size // 2, **more)


def norm(width: int) -> nn.BatchNorm2d:
    """A batch norm that has seen something."""
    layer = nn.BatchNorm2d(width)
    layer.running_mean, layer.running_var = torch.randn(width) / 4, torch.rand(width) + 0.5
    return layer


def looped(model: Any, x: Tensor) -> Tensor:
    """Go through a model's blocks, whatever they return."""
    for block in model.blocks:
        x = block(x)
        x = x[0] if isinstance(x, tuple) else x
    return x


# The zoo: images


@case(Place("blocks.0.shortcut"), Place("blocks.1.shortcut", index=(EVERY, 1)), Place("blocks.1.bn2", mean=(2, 3)),
      never=("blocks.0.shortcut", "blocks.1.shortcut"))  # fmt: skip
def resnet():
    blocks = nn.Sequential(Residual(3, nn.Identity()), Residual(3, nn.Sequential()))
    stem = nn.Sequential(conv(1, 3), norm(3), nn.ReLU(inplace=True), nn.MaxPool2d(2))
    run = lambda m, x: m.fc(m.drop(m.pool(m.blocks(m.stem(x))).flatten(1)))  # noqa: E731
    pool, drop, fc = nn.AdaptiveAvgPool2d(1), nn.Dropout(), nn.Linear(3, 4)
    return Net(run, stem=stem, blocks=blocks, pool=pool, drop=drop, fc=fc), randn(3, 1, 6, 6)


@case(Place("features.dense.layers.1"), Place("features.dense", index=(EVERY, EVERY, 0)),
      Place("features.transition", index=(EVERY, slice(1, 3)), mean=(2, 3)))  # fmt: skip
def densenet():
    def dense(m, x):
        for layer in m.layers:
            x = torch.cat([x, layer(x)], 1)
        return x

    layers = nn.ModuleList([nn.Sequential(norm(c), nn.ReLU(inplace=True), conv(c, 2)) for c in (2, 4)])
    features = nn.Sequential()
    features.add_module("conv0", conv(1, 2))
    features.add_module("dense", Net(dense, layers=layers))
    features.add_module("transition", nn.Sequential(norm(6), nn.SiLU(inplace=True), conv(6, 3, 1), nn.AvgPool2d(2)))
    run = lambda m, x: m.classifier(torch.tanh(m.features(x)).flatten(1))  # noqa: E731
    return Net(run, features=features, classifier=nn.Linear(12, 3)), randn(3, 1, 4, 4)


@case(Place("0.1.0.squeeze"), Place("0.1.0", index=(EVERY, 2)), Place("0.1.1", input=True))
def mobilenet():
    excite = lambda m, x: x * m.squeeze(x.mean((2, 3))).sigmoid()[..., None, None]  # noqa: E731
    block = lambda: Net(excite, squeeze=perceptron(4, 2, 4, activation=nn.ReLU))  # noqa: E731
    depthwise = nn.Sequential(conv(4, 4, groups=4, bias=False), norm(4), nn.Hardswish(inplace=True))
    features = nn.Sequential(conv(1, 4, stride=2), nn.Sequential(block(), nn.Sequential(depthwise, block())))
    return nn.Sequential(features, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)), randn(3, 1, 6, 6)


@case(Place("blocks.0.drop_path1"), Place("mha", element=0), Place("blocks.1", index=(EVERY, 0)),
      never=("blocks.0.drop_path1", "blocks.1.drop_path2"))  # fmt: skip
def vit():
    def run(m, x):
        x = torch.cat([m.token.weight.expand(len(x), -1, -1), m.patch(x).flatten(2).mT], 1)
        x = x + m.mha(x, x, x, need_weights=False)[0]
        return m.head(m.norm(looped(m, x))[:, 0])

    token, patch = nn.Embedding(1, 4), nn.Conv2d(1, 4, 2, stride=2)
    blocks, mha = nn.ModuleList([Block(4), Block(4)]), nn.MultiheadAttention(4, 2, batch_first=True)
    parts = {"token": token, "patch": patch, "mha": mha, "blocks": blocks, "norm": nn.LayerNorm(4)}
    return Net(run, **parts, head=nn.Linear(4, 3)), randn(3, 1, 4, 4)


# Tokens


@case(Place("blocks.0", index=(EVERY, -1)), Place("blocks.1.attn", element=0), Place("blocks.1.norm1", input=True))
def encoder():
    def run(m, input_ids, attention_mask=None):
        mask = None if attention_mask is None else attention_mask[:, None, None] == 0
        hidden = m.embed(input_ids)
        for block in m.blocks:
            hidden = block(hidden, mask)[0]
        return SimpleNamespace(logits=m.head(hidden[:, 0]), hidden_states=(hidden,))

    blocks = nn.ModuleList([Block(4, returns_tuple=True), Block(4, returns_tuple=True)])
    tokens = {"input_ids": torch.tensor([[6, 1, 2], [3, 4, 0], [5, 0, 0]]),
              "attention_mask": torch.tensor([[1, 1, 1], [1, 1, 0], [1, 0, 0]])}  # fmt: skip
    return Net(run, embed=nn.Embedding(7, 4), blocks=blocks, head=nn.Linear(4, 3)), tokens


@case(Place("wte", index=(EVERY, -1)), Place("blocks.0", element=0), Place("blocks.1.mlp.c_fc", index=(EVERY, -1)),
      forward=lambda model, x: model(x)[0][:, -1])  # fmt: skip
def decoder():
    def run(m, x):
        hidden, mask = m.wte(x) + m.wpe(torch.arange(x.shape[1])), torch.ones(x.shape[1], x.shape[1]).triu(1).bool()
        for block in m.blocks:
            hidden, weights = block(hidden, mask)
        return m.norm(hidden) @ m.wte.weight.T, (weights,)  # the embedding is the read-out too

    mlp = lambda: Net(lambda m, x: m.c_proj(m.act(m.c_fc(x))), c_fc=Conv1D(4, 6), act=nn.GELU("tanh"),  # noqa: E731
                      c_proj=Conv1D(6, 4))  # fmt: skip
    blocks = nn.ModuleList([Block(4, mlp(), returns_tuple=True), Block(4, mlp(), returns_tuple=True)])
    parts = {"wte": nn.Embedding(5, 4), "wpe": nn.Embedding(3, 4), "blocks": blocks, "norm": nn.LayerNorm(4)}
    return Net(run, **parts), torch.tensor([[4, 0, 1], [2, 2, 3]])


@case(Place("0", index=(EVERY, 1)), Place("1", input=True), Place("2"))
def categories():
    x = torch.tensor([[9, 8], [0, 1], [5, 5]])  # the last category stands in the first row
    return nn.Sequential(nn.Embedding(10, 3), nn.Flatten(), nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3)), x


@case(Place("0.linear1"), Place("0.self_attn", element=0), Place("1.norm2", input=True))
def torch_encoder():
    layers = [nn.TransformerEncoderLayer(4, 2, 5, batch_first=True, norm_first=first) for first in (False, True)]
    read = Net(lambda m, x: m.linear(x[:, -1]), linear=nn.Linear(4, 3))
    return nn.Sequential(*layers, read), randn(3, 3, 4)


@case(Place("rnn", element=0), Place("rnn", index=(EVERY, -1)), Place("norm"))
def lstm():
    run = lambda m, x: m.head(m.norm(m.rnn(m.stem(x))[0].mean(1)))  # noqa: E731
    parts = {"stem": nn.Linear(2, 3), "rnn": nn.LSTM(3, 4, 2, batch_first=True), "norm": nn.LayerNorm(4)}
    return Net(run, **parts, head=nn.Linear(4, 3)), randn(3, 4, 2)


@case(Place("rnn", mean=(1,)), Place("rnn", input=True), Place("rnn", element=0, index=(EVERY, -1, slice(2))),
      Place("rnn", element=1, refused="wrt"))  # fmt: skip
def gru():  # the last state has its layers, not samples, along axis 0
    run = lambda m, x: m.head(m.rnn(m.stem(x))[0][:, -1])  # noqa: E731
    rnn = nn.GRU(3, 2, 1, batch_first=True, bidirectional=True)
    return Net(run, stem=nn.Linear(2, 3), rnn=rnn, head=nn.Linear(4, 3)), randn(3, 4, 2)


# Several inputs, several heads


@case(Place("input", element=1), Place("left"), Place("join", input=True))
def two_inputs():
    run = lambda m, a, b: m.head(torch.tanh(m.join(torch.cat([m.left(a), m.right(b)], 1))))  # noqa: E731
    parts = {"left": nn.Linear(3, 2), "right": nn.Linear(2, 2), "join": nn.Linear(4, 4), "head": nn.Linear(4, 3)}
    return Net(run, **parts), (randn(3, 3), randn(3, 2))


def _two_heads(read: Callable[[Tensor, Tensor], Any]) -> tuple[nn.Module, Tensor]:
    def run(m, x):
        hidden = m.trunk(x)
        return read(m.seg(hidden), m.kind(hidden.mean((2, 3))))

    trunk = nn.Sequential(conv(1, 3), nn.ReLU(), conv(3, 3), nn.Tanh())
    return Net(run, trunk=trunk, seg=conv(3, 2, 1), kind=nn.Linear(3, 3)), randn(3, 1, 2, 2)


@case(Place("trunk.0", index=(EVERY, 1)), Place("trunk", mean=(2, 3)), Place("input"), never=("seg", "kind"))
def heads_by_name():
    return _two_heads(lambda seg, kind: {"seg": seg, "kind": kind})


@case(Place("trunk.2"), Place("trunk", index=(EVERY, EVERY, 0, 1)), Place("trunk.3", input=True), never=("seg", "kind"))
def heads_in_a_tuple():
    return _two_heads(lambda seg, kind: (seg, kind))


@case(Place("conv1"), Place("input", element="adjacency"), Place("conv2", mean=(1,)))
def graphs():
    def run(m, nodes, adjacency):
        hidden = torch.relu(adjacency @ m.conv1(nodes))
        return m.head((adjacency @ m.conv2(hidden)).amax(1))

    x = {"nodes": randn(3, 4, 2), "adjacency": torch.rand(3, 4, 4, dtype=torch.float64)}
    return Net(run, conv1=nn.Linear(2, 3), conv2=nn.Linear(3, 3), head=nn.Linear(3, 3)), x


# Unusual wiring


@case(Place("stem"), Place("gate"), Place("experts.0", refused="wrt"), never=("experts.0",))
def experts():  # each sees some of the samples only
    def run(m, x):
        hidden = torch.tanh(m.stem(x))
        weights = m.gate(hidden).softmax(1)
        best, out = weights.argmax(1), torch.zeros_like(hidden)
        for k, expert in enumerate(m.experts):
            chosen = best == k
            if chosen.any():
                out[chosen] = weights[chosen, k, None] * expert(hidden[chosen])
        return m.head(hidden + out)

    parts = {"stem": nn.Linear(3, 4), "gate": nn.Linear(4, 2), "head": nn.Linear(4, 3)}
    return Net(run, **parts, experts=nn.ModuleList([nn.Linear(4, 4) for _ in range(2)])), randn(6, 3)


@case(Place("sae.encoder"), Place("sae"), Place("body.0"))
def sparse_autoencoder():  # spliced in: what it rebuilds goes on
    sae = Net(lambda m, x: m.decoder(torch.relu(m.encoder(x))), encoder=nn.Linear(4, 8), decoder=nn.Linear(8, 4))
    model = Net(lambda m, x: m.body(x), body=perceptron(3, 4, 4, 3), sae=sae)
    model.body[0].register_forward_hook(lambda _module, _args, output: model.sae(output))
    return model, randn(3, 3)


@case(Place("encoder"), Place("decoder"), Place("decoder", input=True))
def tied_weights():
    parts = {"encoder": nn.Linear(4, 4), "decoder": nn.Linear(4, 4), "head": nn.Linear(4, 2)}
    model = Net(lambda m, x: m.head(m.decoder(torch.tanh(m.encoder(x)))), **parts)
    model.decoder.weight = model.encoder.weight
    return model, randn(3, 4)


@case(Place("cell", call=1), Place("cell", call=3), Place("cell", call=2, input=True), never=("cell",))
def four_runs():
    def run(m, x):
        x = m.stem(x)
        for _ in range(4):
            x = x + torch.tanh(m.cell(x))
        return m.head(x)

    return Net(run, stem=nn.Linear(2, 3), cell=nn.Linear(3, 3), head=nn.Linear(3, 3)), randn(3, 2)


@case(Place("output"), Place("hidden"), Place("input"))
def another_output():  # a child of that name is not what the model returns
    parts = {"hidden": nn.Linear(3, 4), "output": nn.Linear(4, 4), "last": nn.Linear(4, 3)}
    return Net(lambda m, x: m.last(torch.tanh(m.output(torch.tanh(m.hidden(x))))), **parts), randn(3, 3)


# Outputs without an axis for units


@case(Place("body.0"), Place("body.1"), Place("input"))
def squeezed():
    return Net(lambda m, x: m.body(x).squeeze(), body=perceptron(3, 4, 1)), randn(3, 3)


@case(Place("body.0"), Place("body.1"), Place("input", index=(EVERY, slice(1, 3))))
def regressor():
    return Net(lambda m, x: m.body(x)[:, 0], body=perceptron(3, 4, 1)), randn(3, 3)


# Wrappers, and weights that are not plain


@case(Place("module.0"), Place("module.0", index=(EVERY, slice(1, 3))), Place("module.3", input=True))
def data_parallel():
    return nn.DataParallel(perceptron(3, 4, 3)), randn(3, 3)


@case(Place("model.body.0"), Place("model.body.3"), Place("model", input=True), never=("loss", "accuracy"))
def lightning():  # metrics and loss are modules too, and are not run
    model = Net(lambda m, x: m.head(torch.tanh(m.body(x))), body=perceptron(3, 4, 4), head=nn.Linear(4, 3))
    parts = {"model": model, "loss": nn.CrossEntropyLoss(), "accuracy": nn.Identity()}
    return Net(lambda m, x: m.model(x), **parts), randn(3, 3)


@case(Place("parts.first"), Place("parts.second"), Place("parts.third", input=True))
def bent_weights():
    layers = {name: nn.Linear(4, 4) for name in ("first", "second", "third")}
    parametrizations.weight_norm(layers["first"])
    parametrizations.spectral_norm(layers["second"])
    prune.l1_unstructured(layers["third"], "weight", amount=0.5)
    run = lambda m, x: m.parts["third"](m.parts["second"](m.parts["first"](x).relu()).relu())  # noqa: E731
    return Net(run, parts=nn.ModuleDict(layers)), randn(3, 4)


# Models that look at their input


@case(Place("body.0"), Place("body.1"), Place("input"))
def strict_range():
    def run(m, x):
        if x.min() < 0 or x.max() > 1:
            raise ValueError("pixels lie between 0 and 1")
        return m.body(x)

    return Net(run, body=perceptron(3, 4, 3)), torch.rand(3, 3, dtype=torch.float64)


@case(Place("body.0"), Place("body"), Place("body.3", input=True))
def probabilities():
    def run(m, x):
        prior = torch.distributions.Bernoulli(probs=x, validate_args=True)
        scale = torch.nn.functional.softplus(m.scale.weight[0])
        return torch.distributions.Normal(m.body(prior.logits), scale, validate_args=True).log_prob(x)

    return Net(run, body=perceptron(3, 4, 3), scale=nn.Linear(3, 1)), randn(3, 3).sigmoid()
