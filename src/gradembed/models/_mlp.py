"""The multi-layer perceptron, and how to draw the weights of any network anew."""

from __future__ import annotations

import contextlib
import copy
from collections import OrderedDict
from collections.abc import Callable, Sequence

from torch import Tensor, nn

from gradembed import _context, _validation


class MLP(nn.Module):
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

    def __init__(
        self, widths: Sequence[int], activation: Callable[[], nn.Module] = nn.ReLU, seed: int | None = None
    ) -> None:
        super().__init__()
        self.widths = tuple(_validation.check_sequence("widths", widths, "a sequence of layer widths"))
        for width in self.widths:
            _validation.check_integer("widths", width, 1)
        if len(self.widths) < 2:
            _validation.refuse("widths", "give at least features and outputs", list(self.widths), "Pass [d, ..., u]")
        if seed is not None:
            _validation.check_integer("seed", seed, 0)
        with _context.seeded(seed):
            for i, (fan_in, fan_out) in enumerate(zip(self.widths[:-2], self.widths[1:-1], strict=True), start=1):
                parts = OrderedDict(linear=nn.Linear(fan_in, fan_out), activation=_make(activation))
                self.add_module(f"hidden{i}", nn.Sequential(parts))
            self.add_module("output", nn.Linear(self.widths[-2], self.widths[-1]))

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


def _make(activation: Callable[[], nn.Module]) -> nn.Module:
    """Call the activation's factory.

    Returns:
        A new module.
    """
    module = None
    if callable(activation) and not isinstance(activation, nn.Module):
        with contextlib.suppress(TypeError):  # it wants arguments
            module = activation()
    if not isinstance(module, nn.Module):
        _validation.refuse(
            "activation",
            "be a class or function that makes a module when called without arguments",
            _validation.describe(activation),
            "Pass torch.nn.Tanh, not torch.nn.Tanh()",
            TypeError,
        )
    return module


def untrained(model: nn.Module, seed: int = 0) -> nn.Module:
    """Copy a network and draw its initial weights anew, as each of its modules does when it is made.

    What is learned by training is then what the network has and its copy lacks.

    Args:
        model: Any module whose parameters belong to modules with ``reset_parameters``, as torch's own have.
        seed: Of the weights.

    Returns:
        The copy; the model is left as it was. Buffers of modules that reset them (running statistics) are reset.

    Raises:
        ValueError: If a module has parameters of its own and no ``reset_parameters``, or ``seed`` is negative.
        TypeError: If ``model`` is no module or ``seed`` no integer.

    Example:
        >>> import torch, gradembed as ge
        >>> network = ge.MLP([4, 3], seed=1)
        >>> torch.equal(ge.untrained(network, seed=0).output.weight, ge.MLP([4, 3], seed=0).output.weight)
        True
    """
    _validation.check_module(model)
    _validation.check_integer("seed", seed, 0)
    twin = copy.deepcopy(model)
    with _context.seeded(seed):
        for name, module in twin.named_modules():
            reset = getattr(module, "reset_parameters", None)
            if callable(reset):
                reset()
            elif any(True for _ in module.parameters(recurse=False)):
                got = f"{type(module).__name__} at {name!r} without that method"
                remedy = "Give it one, or make the untrained network yourself"
                _validation.refuse("model", "have reset_parameters wherever it has parameters", got, remedy)
    return twin
