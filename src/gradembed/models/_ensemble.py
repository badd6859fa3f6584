"""Many networks of equal widths as one: weights stacked, every layer one batched matrix product."""

from __future__ import annotations

import copy
import operator
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self, overload

from torch import Tensor, nn

from gradembed import _validation
from gradembed.models._mlp import MLP
from gradembed.models._stacked import ACTIVATIONS, StackedLinear, activations_of, settings, stacked

if TYPE_CHECKING:
    import pandas as pd


class MLPEnsemble(nn.Module):
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

    widths: tuple[int, ...]

    def __init__(
        self,
        widths: Sequence[int],
        n_members: int,
        activation: Callable[[], nn.Module] = nn.ReLU,
        seed: int | None = None,
    ) -> None:
        super().__init__()
        _validation.check_integer("n_members", n_members, 1)
        first = MLP(widths, activation, seed)
        rest = (MLP(first.widths, activation, None if seed is None else seed + i) for i in range(1, n_members))
        self._build(*stacked([first, *rest], "activation"))

    @classmethod
    def from_members(cls, members: Sequence[MLP]) -> Self:
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
        networks = _validation.check_sequence("members", members, "a sequence of networks")
        for network in networks:
            if type(network) is not MLP:
                got, remedy = _validation.describe(network), "Stack its weights yourself"
                _validation.refuse("members", "be gradembed.MLP", got, remedy, TypeError)
        ensemble = cls._bare()
        ensemble._build(*stacked(networks, "members"))
        return ensemble

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
        ensemble = cls._bare()
        activations = [ACTIVATIONS[name](**chosen) for name, chosen in parts["activations"]]
        copies = [[value.clone() for value in parts[key]] for key in ("weights", "biases")]
        ensemble._build(list(zip(*copies, strict=True)), activations)
        ensemble.scores, ensemble.labels, ensemble.losses = parts["scores"], parts["labels"], parts["losses"]
        return ensemble

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
        layers = [module for module in self.modules() if isinstance(module, StackedLinear)]
        return {
            "weights": [layer.weight.detach() for layer in layers],
            "biases": [layer.bias.detach() for layer in layers],
            "activations": [[type(module).__name__, settings(module)] for module in self.activation_modules()],
            "scores": self.scores,
            "labels": self.labels,
            "losses": self.losses,
        }

    def activation_modules(self) -> list[nn.Module]:
        """List the activations.

        Returns:
            One per hidden layer.
        """
        return activations_of(self)

    @property
    def history(self) -> pd.DataFrame | None:
        """How the training loss fell: ``epoch``, ``mean_loss``, ``median_loss``, ``worst_loss`` over members.

        ``None`` before training.
        """
        import pandas as pd

        if self.losses is None:
            return None
        columns = {"mean": self.losses.mean(0), "median": self.losses.quantile(0.5, 0), "worst": self.losses.amax(0)}
        losses = {f"{name}_loss": column.double().numpy() for name, column in columns.items()}
        return pd.DataFrame({"epoch": range(1, self.losses.shape[1] + 1), **losses})

    def forward(self, x: Tensor) -> Tensor:
        """Map samples to the outputs of every member.

        Args:
            x: Samples, [n, d] for all members, or [e, n, d] for each its own.

        Returns:
            Outputs, [e, n, u].

        Raises:
            ValueError: If ``x`` has another shape, precision or device.
            TypeError: If it is no tensor.
        """
        x = self._spread(x)
        for layer in self.children():
            x = layer(x)
        return x

    def activations(self, x: Tensor) -> dict[str, Tensor]:
        """Run all members and keep every layer.

        Args:
            x: Samples, [n, d] for all members, or [e, n, d] for each its own.

        Returns:
            "input", "hidden1", ..., "output", each [e, n, width]; hidden layers after their activation.

        Raises:
            ValueError: If ``x`` has another shape, precision or device.
            TypeError: If it is no tensor.

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
    def __getitem__(self, index: slice | Sequence[int]) -> MLPEnsemble: ...

    def __getitem__(self, index: int | slice | Sequence[int]) -> MLP | MLPEnsemble:
        if isinstance(index, slice):
            chosen = list(range(len(self))[index])
            if not chosen:
                _validation.refuse("index", "pick at least one member", index, f"There are {len(self)}", IndexError)
            return self._pick(chosen)
        if isinstance(index, str | bytes) or not isinstance(index, Sequence):
            return self._member(self._position(index))
        return self._pick(
            [self._position(i) for i in _validation.check_sequence("index", index, "a list of positions")]
        )

    def __repr__(self) -> str:
        kinds = list(dict.fromkeys(type(module).__name__ for module in self.activation_modules()))
        parts = [f"{len(self)} member{'s' if len(self) > 1 else ''}", "-".join(map(str, self.widths)), *kinds]
        if self.scores is not None:
            parts.append(f"median score {float(self.scores.quantile(0.5)):.4f}")
        return f"MLPEnsemble({', '.join(parts)})"

    @classmethod
    def _bare(cls) -> Self:
        """Make an ensemble without layers.

        Returns:
            It, for `_build` to fill.
        """
        ensemble = cls.__new__(cls)
        nn.Module.__init__(ensemble)
        return ensemble

    def _build(self, layers: Sequence[tuple[Tensor, Tensor]], activations: Sequence[nn.Module]) -> None:
        """Make the children out of weights [e, out, in] and biases [e, out]."""
        self.widths = (layers[0][0].shape[2], *(weight.shape[1] for weight, _ in layers))
        self.scores: Tensor | None = None
        self.labels: Tensor | None = None
        self.losses: Tensor | None = None
        for i, (layer, activation) in enumerate(zip(layers[:-1], activations, strict=True), start=1):
            parts = OrderedDict(linear=StackedLinear(*layer), activation=activation)
            self.add_module(f"hidden{i}", nn.Sequential(parts))
        self.add_module("output", StackedLinear(*layers[-1]))

    def _spread(self, x: object) -> Tensor:
        """Check samples and give every member its own.

        Returns:
            [e, n, d].
        """
        if not isinstance(x, Tensor):
            remedy = "Convert it with torch.as_tensor(x, dtype=torch.float32)"
            _validation.refuse("x", "be a torch.Tensor", _validation.describe(x), remedy, TypeError)
        e, d = len(self), self.widths[0]
        if x.ndim not in (2, 3) or x.shape[-1] != d or (x.ndim == 3 and len(x) != e):
            _validation.refuse("x", f"have shape [n, {d}] or [{e}, n, {d}]", _validation.describe(x), "Reshape it")
        _validation.check_placement(self, x)
        return x.expand(e, *x.shape[-2:])

    def _position(self, index: object) -> int:
        """Check the number of a member.

        Returns:
            It, counted from the start.
        """
        e = len(self)
        try:
            i = operator.index(index)  # type: ignore[arg-type]
        except TypeError:
            remedy = "Pass ensemble[0], ensemble[2:5] or ensemble[[0, 7]]"
            _validation.refuse(
                "index", "be an integer, a slice or a list", _validation.describe(index), remedy, TypeError
            )
        if not -e <= i < e:
            _validation.refuse("index", f"lie between {-e} and {e - 1}", i, "Drop or correct it", IndexError)
        return i % e

    def _member(self, i: int) -> MLP:
        activations = iter(copy.deepcopy(self.activation_modules()))
        member = MLP(self.widths, lambda: next(activations), seed=0)
        state = {key: value[i] for key, value in self.state_dict().items()}
        member.to(next(iter(state.values()))).load_state_dict(state)
        return member.train(self.training)

    def _pick(self, chosen: list[int]) -> Self:
        parts = self.parts()
        for key in ("weights", "biases"):
            parts[key] = [value[chosen] for value in parts[key]]
        parts |= {key: parts[key][chosen] for key in ("scores", "labels", "losses") if parts[key] is not None}
        return self.from_parts(parts).train(self.training)
