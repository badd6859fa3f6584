"""What a report is asked for, checked once, and what the networks answer to the samples."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gradembed import _context, _validation

MOST_OUTPUTS = 20  # compared if the caller chooses none
SAMPLES_AT_A_TIME = 1024


@dataclass(frozen=True)
class Request:
    """Arguments of `report` that fit each other.

    Attributes:
        networks: The model, then those beside it.
        x: Samples.
        y: Their targets, or ``None``.
        outputs: What each network gives, [n, D].
        all_names: One per output of the model.
        units: The outputs that are compared.
        options: The other arguments, by name.
        seed: Of everything random.
    """

    networks: tuple[nn.Module, ...]
    x: Tensor
    y: Tensor | None
    outputs: tuple[Tensor, ...]
    all_names: tuple[str, ...]
    units: tuple[int, ...]
    options: dict[str, Any]
    seed: int

    @property
    def model(self) -> nn.Module:
        """The network that the report is about."""
        return self.networks[0]

    @property
    def names(self) -> tuple[str, ...]:
        """What the compared outputs are called."""
        return tuple(self.all_names[i] for i in self.units)

    @property
    def classes(self) -> Tensor | None:
        """The class of each sample, where there is one, [n]."""
        y = self.y
        return y.reshape(-1).cpu() if y is not None and not y.is_floating_point() and y.numel() == len(y) else None

    def sample(self, most: int) -> Tensor:
        """Draw samples without replacement, the same ones for the same number.

        Returns:
            Their indices in order, [m].
        """
        n = len(self.x)
        if n <= most:
            return torch.arange(n)
        return torch.randperm(n, generator=torch.Generator().manual_seed(self.seed))[:most].sort().values


def check_request(
    model: nn.Module,
    x: Tensor,
    y: Tensor | None,
    others: Sequence[nn.Module],
    names: Sequence[str] | None,
    units: Sequence[int] | None,
    options: dict[str, Any],
    seed: int,
) -> Request:
    """Refuse arguments that do not fit, and run the networks on the samples.

    Returns:
        The request.
    """
    _check_options(options, seed)
    beside = [] if isinstance(others, tuple | list) and not others else list(_networks(others))
    _validation.check_module(model)
    networks = (model, *beside)
    _validation.check_samples(x)
    for network in networks:
        _validation.check_placement(network, x)
        _validation.check_parameters(network)
        _validation.check_per_sample(network)
    if options["unit_layer"] is not None:
        _validation.check_layer(
            "unit_layer", options["unit_layer"], [name for name, _ in model.named_modules() if name]
        )
    x = x.detach().clone() if x.is_inference() else x.detach()
    outputs = tuple(_outputs(network, x) for network in networks)
    width = outputs[0].shape[1]
    for output in outputs[1:]:
        if output.shape[1] != width:
            remedy = "Pass networks trained for the same tasks"
            _validation.refuse("others", f"give {width} outputs, as the model does", output.shape[1], remedy)
    if y is not None:
        _validation.check_targets(y, len(x))
        _check_fit(y, width)
    chosen = range(min(width, MOST_OUTPUTS)) if units is None else _indices(units, width)
    return Request(networks, x, y, outputs, _names(names, width), tuple(chosen), options, seed)


def check_path(path: object) -> Path:
    """Refuse what cannot become a file.

    Returns:
        The path.
    """
    if not isinstance(path, str | os.PathLike):
        remedy = "Pass a string or a pathlib.Path"
        _validation.refuse("path", "name a file", _validation.describe(path), remedy, TypeError)
    target = Path(path)
    if target.is_dir():
        _validation.refuse("path", "name a file", f"the folder {str(target)!r}", "Add a file's name, say report.html")
    return target


def score(output: Tensor, y: Tensor) -> tuple[str, float, float]:
    """Compare outputs with targets.

    Args:
        output: [n, D].
        y: Classes [n] or [n, t], or values [n] or [n, D].

    Returns:
        The score's name, its value, and what the best constant answer has.
    """
    y = y.reshape(len(y), -1).to(output.device)
    if y.is_floating_point():
        output, y = output.double(), y.double()
        spread = (y - y.mean(0)).square().sum(0)
        left = (y - output).square().sum(0)
        varied = spread > 0
        return "R²", float((1 - left[varied] / spread[varied]).mean()), 0.0
    predicted = output.reshape(len(y), y.shape[1], -1).argmax(-1)
    common = torch.stack([column.bincount().max() for column in y.T]).double() / len(y)
    return "accuracy", float((predicted == y).double().mean()), float(common.mean())


def _check_options(options: dict[str, Any], seed: object) -> None:
    """Refuse settings out of range, before anything is computed."""
    for name, least in (("n_bootstrap", 0), ("n_untrained", 0), ("n_cards", 0), ("max_samples", 2), ("max_units", 1)):
        _validation.check_integer(name, options[name], least)
    _validation.check_integer("seed", seed, 0)
    if options["tolerance"] is not None:
        _validation.check_number("tolerance", options["tolerance"], 0, 1, open_low=True)
    if not isinstance(options["title"], str):
        _validation.refuse(
            "title", "be a string", _validation.describe(options["title"]), "Convert it with str", TypeError
        )
    embedder = options["embedder"]
    if embedder is not None and not all(callable(getattr(embedder, name, None)) for name in ("fit", "transform")):
        remedy = "Pass a FieldDescriptor or a GradientFieldEmbedder"
        _validation.refuse(
            "embedder", "have the methods fit and transform", _validation.describe(embedder), remedy, TypeError
        )
    if isinstance(embedder, type):
        _validation.refuse("embedder", "be an estimator, not its class", embedder.__name__, "Call it first", TypeError)


def _networks(others: object) -> Sequence[nn.Module]:
    """Check the networks beside the model.

    Returns:
        One or more.
    """
    if isinstance(others, nn.Module):
        _validation.refuse(
            "others", "be a list of networks", _validation.describe(others), "Put it into a list", TypeError
        )
    beside = _validation.check_sequence("others", others, "a list of networks")
    for network in beside:
        if not isinstance(network, nn.Module):
            got, remedy = _validation.describe(network), "Pass the networks themselves"
            _validation.refuse("others", "be a list of torch.nn.Module", got, remedy, TypeError)
    return beside


def _outputs(model: nn.Module, x: Tensor) -> Tensor:
    """Run a network, some samples at a time.

    Returns:
        All axes after the first taken together, [n, D].
    """
    with _context.preserved(model), torch.no_grad():
        parts = [_validation.try_forward(model, part.clone()).flatten(1) for part in x.split(SAMPLES_AT_A_TIME)]
    output = torch.cat(parts)
    _validation.check_finite_result("values", output, "output")
    return output


def _check_fit(y: Tensor, width: int) -> None:
    """Refuse targets that the outputs cannot answer."""
    t = 1 if y.ndim == 1 else y.shape[1]
    if y.is_floating_point():
        if t != width:
            remedy = "Pass as many columns, or integer classes"
            _validation.refuse("y", f"hold a value for each of {width} outputs", _validation.describe(y), remedy)
    elif width % t or int(y.max()) >= width // t:
        got = f"{t} x {int(y.max()) + 1} classes for {width} outputs"
        _validation.refuse("y", "number classes that have an output each", got, "Pass values as floats, or no targets")


def _indices(units: object, width: int) -> list[int]:
    """Check which outputs are asked for.

    Returns:
        Their indices.
    """
    listed = units.tolist() if hasattr(units, "tolist") else units
    indices: list[int] = _validation.check_sequence("units", listed, "a list of indices")
    _validation.check_units(indices, width, "output")
    return indices


def _names(names: object, width: int) -> tuple[str, ...]:
    """Check names, or number the outputs.

    Returns:
        One per output.
    """
    if names is None:
        return tuple(map(str, range(width)))
    given: Sequence[Any] = _validation.check_sequence("names", names, "a list of strings")
    if not all(isinstance(name, str) for name in given):
        _validation.refuse(
            "names", "be a list of strings", _validation.describe(given), "Convert them with str", TypeError
        )
    if len(given) != width:
        _validation.refuse("names", f"name each of {width} outputs", len(given), "Name them all")
    return tuple(given)
