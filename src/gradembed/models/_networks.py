"""Multi-layer perceptrons, one or many of equal widths as one: weights stacked, every layer one batched product."""

from __future__ import annotations

import copy
import inspect
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import pairwise, zip_longest
from typing import TYPE_CHECKING, Any, Self, overload

import torch
from torch import Tensor, nn

from gradembed import _context
from gradembed._validation import as_integer, as_list, as_tensor, check_placement, describe, refuse

if TYPE_CHECKING:
    import pandas as pd

Factory = Callable[[], nn.Module]
KNOWN = ("scores", "labels", "losses")  # of a trained ensemble

# Elementwise and without parameters, so that one module serves all members. Exact types only: a subclass may
# compute something else.
ACTIVATIONS: dict[str, type[nn.Module]] = {kind.__name__: kind for kind in (
    nn.ReLU, nn.LeakyReLU, nn.GELU, nn.SiLU, nn.Tanh, nn.Sigmoid, nn.Identity, nn.ELU, nn.SELU, nn.CELU, nn.Softplus,
    nn.Softsign, nn.LogSigmoid, nn.Mish, nn.ReLU6, nn.Hardtanh, nn.Hardswish, nn.Hardsigmoid, nn.Tanhshrink,
)}  # fmt: skip


class _Chain(nn.Module):
    """Layers one after the other, under the names that results use."""

    widths: tuple[int, ...]

    def _add_layers(self, linears: Iterable[nn.Module], activations: Iterable[nn.Module]) -> None:
        """Name the layers "hidden1", "hidden2", ..., each with its activation, and the last one "output"."""
        for i, (linear, activation) in enumerate(zip_longest(linears, activations), start=1):
            if activation is None:
                self.add_module("output", linear)
            else:
                self.add_module(f"hidden{i}", nn.Sequential(OrderedDict(linear=linear, activation=activation)))

    def activation_modules(self) -> list[nn.Module]:
        """Return the activations, one per hidden layer."""
        return [layer.activation for layer in self.children() if isinstance(layer, nn.Sequential)]  # type: ignore[misc]

    def forward(self, x: Tensor) -> Tensor:
        """Map samples to outputs.

        Args:
            x: Samples, [n, d].

        Returns:
            Outputs (logits, for a classifier), [n, u].
        """
        for layer in self.children():
            x = layer(x)
        return x


class MLP(_Chain):
    """A chain of linear layers with an activation between them, its children named for results.

    The children are ``hidden1``, ``hidden2``, ... and ``output``; ``"hidden1"`` is the layer after its
    activation, ``"hidden1.linear"`` the same before it. Weights are drawn as torch draws them.

    Args:
        widths: Features, hidden units layer by layer, outputs: at least two numbers.
        activation: Called without arguments for each hidden layer; should give an elementwise module.
        seed: Of the weights; ``None`` draws from torch's global generator.

    Raises:
        ValueError: If there are fewer than two widths, or one below 1, or ``seed`` is negative.
        TypeError: If a width or the seed is no integer, or ``activation`` gives no module.

    Example:
        >>> import torch, gradembed as ge
        >>> network = ge.MLP([4, 8, 8, 3], seed=0)
        >>> network(torch.zeros(5, 4)).shape
        torch.Size([5, 3])
        >>> [name for name, _ in network.named_children()]
        ['hidden1', 'hidden2', 'output']
    """

    def __init__(self, widths: Iterable[int], activation: Factory = nn.ReLU, seed: int | None = None) -> None:
        super().__init__()
        self.widths = tuple(as_integer("widths", w, 1) for w in as_list("widths", widths, "a sequence of layer widths"))
        if len(self.widths) < 2:
            refuse("widths", "give at least features and outputs", list(self.widths), "Pass [d, ..., u]")
        with _context.seeded(None if seed is None else as_integer("seed", seed, 0)):
            linears = (nn.Linear(fan_in, fan_out) for fan_in, fan_out in pairwise(self.widths))
            self._add_layers(linears, (_make(activation) for _ in self.widths[2:]))


def _make(activation: Factory) -> nn.Module:
    """Return a new module of the activation's factory."""
    with suppress(TypeError):  # it is no function, or wants arguments
        if isinstance(module := activation(), nn.Module):
            return module
    rule = "be a class or function that makes a module when called without arguments"
    return refuse("activation", rule, describe(activation), "Pass torch.nn.Tanh, not torch.nn.Tanh()", TypeError)


class StackedLinear(nn.Module):
    """As many linear layers as there are members.

    Args:
        weight: [e, out, in].
        bias: [e, out].
    """

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(weight), nn.Parameter(bias)

    def forward(self, x: Tensor) -> Tensor:
        """Map each member's samples.

        Args:
            x: [e, n, in].

        Returns:
            [e, n, out].
        """
        return torch.baddbmm(self.bias[:, None], x, self.weight.transpose(1, 2))

    def extra_repr(self) -> str:
        """Return how many members it has, and its widths."""
        e, fan_out, fan_in = self.weight.shape
        return f"{e} members, {fan_in} to {fan_out}"


class MLPEnsemble(_Chain):
    """Independent perceptrons of equal widths that are evaluated together; member i is ``MLP(..., seed=seed + i)``.

    The children have the names of an `MLP`'s and the parameters its names, with the members as first axis. A member
    is taken out as an `MLP` with weights of its own by ``ensemble[i]``, and fewer members as an ensemble by
    ``ensemble[2:5]`` or ``ensemble[[0, 7]]``.

    Attributes:
        widths: Features, hidden units layer by layer, outputs.
        scores: After `train_ensemble`: held-out accuracy or R² of each member, [e], float64; before, ``None``.
        labels: Which function each member learned, [e], int64; or ``None``.
        losses: Mean training loss in each epoch, [e, epochs]; or ``None``.

    Args:
        widths: Features, hidden units layer by layer, outputs: at least two numbers.
        n_members: How many.
        activation: Called without arguments for each hidden layer; should give an elementwise module of torch
            without parameters.
        seed: Of the first member's weights, the next one's is one more; ``None`` draws from torch's global generator.

    Raises:
        ValueError: If there are fewer than two widths, or one below 1, or no member, or ``seed`` is negative, or the
            activation is none of torch's elementwise ones without parameters.
        TypeError: If a number is no integer, or ``activation`` gives no module.

    Example:
        >>> import torch, gradembed as ge
        >>> ensemble = ge.MLPEnsemble([4, 8, 3], n_members=5, seed=0)
        >>> ensemble
        MLPEnsemble(5 members, 4-8-3, ReLU)
        >>> x = torch.randn(10, 4)
        >>> ensemble(x).shape
        torch.Size([5, 10, 3])
        >>> torch.allclose(ensemble(x)[2], ge.MLP([4, 8, 3], seed=2)(x), atol=1e-6)
        True
        >>> [len(ensemble[1:3]), ensemble[1:3][0].widths]
        [2, (4, 8, 3)]
    """

    scores: Tensor | None
    labels: Tensor | None
    losses: Tensor | None

    def __init__(
        self, widths: Iterable[int], n_members: int, activation: Factory = nn.ReLU, seed: int | None = None
    ) -> None:
        super().__init__()
        e, first = as_integer("n_members", n_members, 1), MLP(widths, activation, seed)
        rest = [MLP(first.widths, activation, None if seed is None else seed + i) for i in range(1, e)]
        self._build(*_stacked([first, *rest], "activation"))

    @classmethod
    def from_members(cls, members: Iterable[MLP]) -> Self:
        """Stack networks; their weights are copied.

        Args:
            members: `MLP` s of the same widths, activations, precision and device.

        Returns:
            The ensemble.

        Raises:
            ValueError: If there is no member, or they differ, or an activation has parameters or is none of torch's
                elementwise ones.
            TypeError: If a member is no `MLP`.

        Example:
            >>> import gradembed as ge
            >>> len(ge.MLPEnsemble.from_members([ge.MLP([4, 3]), ge.MLP([4, 3])]))
            2
        """
        networks = as_list("members", members, "a sequence of networks")
        for network in networks:
            if type(network) is not MLP:
                refuse("members", "be gradembed.MLP", describe(network), "Stack its weights yourself", TypeError)
        return cls._of(*_stacked(networks, "members"))

    @classmethod
    def from_parts(cls, parts: Mapping[str, Any]) -> Self:
        """Rebuild what `parts` took apart; weights are copied.

        Args:
            parts: As `parts` gives them.

        Returns:
            The ensemble.

        Example:
            >>> import gradembed as ge
            >>> ge.MLPEnsemble.from_parts(ge.MLPEnsemble([4, 8, 3], n_members=2).parts())
            MLPEnsemble(2 members, 4-8-3, ReLU)
        """
        activations = [ACTIVATIONS[name](**settings) for name, settings in parts["activations"]]
        layers = zip(parts["weights"], parts["biases"], strict=True)
        return cls._of([parameter for layer in layers for parameter in layer], activations, parts)

    def parts(self) -> dict[str, Any]:
        """Take the ensemble apart, into what can be written to disk.

        Returns:
            Weights and biases layer by layer (views, not copies), names and settings of the activations, and what
            is known of the training.

        Example:
            >>> import gradembed as ge
            >>> parts = ge.MLPEnsemble([4, 8, 3], n_members=2).parts()
            >>> [list(weight.shape) for weight in parts["weights"]], parts["activations"]
            ([[2, 8, 4], [2, 3, 8]], [['ReLU', {'inplace': False}]])
        """
        parameters, recipes = [p.detach() for p in self.parameters()], []
        for module in self.activation_modules():
            names = [name for name in inspect.signature(type(module)).parameters if hasattr(module, name)]
            recipes.append([type(module).__name__, {name: getattr(module, name) for name in names}])
        known = {name: getattr(self, name) for name in KNOWN}
        return {"weights": parameters[::2], "biases": parameters[1::2], "activations": recipes, **known}

    @property
    def history(self) -> pd.DataFrame | None:
        """How the training loss fell: ``epoch``, ``mean_loss``, ``median_loss``, ``worst_loss`` over members.

        ``None`` before training.
        """
        import pandas as pd

        if (losses := self.losses) is None:
            return None
        columns = {"mean_loss": losses.mean(0), "median_loss": losses.quantile(0.5, 0), "worst_loss": losses.amax(0)}
        epochs = {"epoch": range(1, losses.shape[1] + 1)}
        return pd.DataFrame(epochs | {name: column.double().numpy() for name, column in columns.items()})

    def forward(self, x: Tensor) -> Tensor:
        """Map samples to the outputs of every member.

        Args:
            x: Samples, [n, d] for all members, or [e, n, d] for each its own.

        Returns:
            Outputs, [e, n, u].

        Raises:
            ValueError: If ``x`` has another shape, precision or device.
            TypeError: If it holds no numbers.
        """
        return super().forward(self._spread(x))

    def activations(self, x: Tensor) -> dict[str, Tensor]:
        """Run all members and keep every layer.

        Args:
            x: Samples, [n, d] for all members, or [e, n, d] for each its own.

        Returns:
            "input", "hidden1", ..., "output", each [e, n, width]; hidden layers after their activation.

        Raises:
            ValueError: If ``x`` has another shape, precision or device.
            TypeError: If it holds no numbers.

        Example:
            >>> import torch, gradembed as ge
            >>> layers = ge.MLPEnsemble([4, 8, 3], n_members=5).activations(torch.randn(10, 4))
            >>> {name: list(layer.shape) for name, layer in layers.items()}
            {'input': [5, 10, 4], 'hidden1': [5, 10, 8], 'output': [5, 10, 3]}
        """
        layers = {"input": self._spread(x)}
        for name, layer in self.named_children():
            layers[name] = layer(next(reversed(layers.values())))
        return layers

    def __len__(self) -> int:
        return len(next(self.parameters()))

    def __iter__(self) -> Iterator[MLP]:
        return (self[i] for i in range(len(self)))

    @overload
    def __getitem__(self, index: int) -> MLP: ...

    @overload
    def __getitem__(self, index: slice | Sequence[int] | Tensor) -> MLPEnsemble: ...

    def __getitem__(self, index: int | slice | Sequence[int] | Tensor) -> MLP | MLPEnsemble:
        e = len(self)
        if isinstance(index, slice):
            index = range(e)[index]
        is_one = not isinstance(index, Iterable) or getattr(index, "ndim", 1) == 0
        listed = [index] if is_one else as_list("index", index, "a list of positions")
        chosen = [as_integer("index", i) for i in listed]
        for i in chosen:
            if not -e <= i < e:
                refuse("index", f"lie between {-e} and {e - 1}", i, "Drop or correct it", IndexError)
        if is_one:
            activations = map(copy.deepcopy, self.activation_modules())
            member = MLP(self.widths, activations.__next__, seed=0).to(next(self.parameters()))
            member.load_state_dict({key: value[chosen[0]] for key, value in self.state_dict().items()})
            return member.train(self.training)
        known = {name: value[chosen] for name in KNOWN if (value := getattr(self, name)) is not None}
        parameters = [parameter[chosen] for parameter in self.parameters()]
        return self._of(parameters, self.activation_modules(), known).train(self.training)

    def __repr__(self) -> str:
        kinds = list(dict.fromkeys(type(module).__name__ for module in self.activation_modules()))
        parts = [f"{len(self)} member{'s' if len(self) > 1 else ''}", "-".join(map(str, self.widths)), *kinds]
        if self.scores is not None:
            parts.append(f"median score {float(self.scores.quantile(0.5)):.4f}")
        return f"MLPEnsemble({', '.join(parts)})"

    @classmethod
    def _of(cls, *parts: Any) -> Self:
        """Return an ensemble of what `_build` takes."""
        ensemble = cls.__new__(cls)
        nn.Module.__init__(ensemble)
        ensemble._build(*parts)
        return ensemble.train()

    def _build(self, parameters: list[Tensor], activations: list[nn.Module], known: Mapping[str, Any]) -> None:
        """Make the children out of copies of weights [e, out, in] and biases [e, out], which alternate."""
        weights, biases = ([p.detach().clone() for p in parameters[i::2]] for i in (0, 1))
        self.widths = (weights[0].shape[2], *(weight.shape[1] for weight in weights))
        self._add_layers(map(StackedLinear, weights, biases), map(copy.deepcopy, activations))
        self.scores, self.labels, self.losses = map(known.get, KNOWN)

    def _spread(self, x: object) -> Tensor:
        """Return samples for every member, [e, n, d]."""
        e, d = len(self), self.widths[0]
        x = x if isinstance(x, Tensor) else as_tensor("x", x, "...").to(next(self.parameters()))
        if x.ndim not in (2, 3) or x.shape[-1] != d or (x.ndim == 3 and len(x) != e):
            refuse("x", f"have shape [n, {d}] or [{e}, n, {d}]", describe(x), "Reshape it")
        check_placement(self, x)
        return x.expand(e, *x.shape[-2:])


def _stacked(members: Sequence[MLP], name: str) -> tuple[list[Tensor], list[nn.Module], dict[str, Any]]:
    """Return what `_build` takes; ``name`` is the argument that is wrong where they do not fit."""
    activations = members[0].activation_modules()
    for module in activations:
        if ACTIVATIONS.get(type(module).__name__) is not type(module):
            rule = f"be one of torch's elementwise activations without parameters ({', '.join(ACTIVATIONS)})"
            refuse(name, rule, describe(module), "Train such networks one by one")
    firsts = ((member, next(member.parameters())) for member in members)
    kinds = [f"{m.widths}, {m.activation_modules()}, {p.dtype} on {p.device}" for m, p in firsts]
    for i, kind in enumerate(kinds):
        if kind != kinds[0]:
            got = f"{kind} for member {i} after {kinds[0]}"
            refuse(name, "give networks of equal widths, activations, precision and device", got, "Stack equal ones")
    same = zip(*(member.parameters() for member in members), strict=True)
    return [torch.stack(parameters) for parameters in same], activations, {}
