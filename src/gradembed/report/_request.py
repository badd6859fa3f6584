"""What a report is asked for, read once, and what the networks answer to the samples."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor, nn

from gradembed import _validation
from gradembed._context import hooked, preserved
from gradembed._validation import as_integer, as_list, as_names, as_number, as_positions, as_tensor, describe, refuse

MOST_OUTPUTS = 20  # compared if the caller chooses none
SAMPLES_AT_A_TIME = 1024
LEAST = {"n_bootstrap": 0, "n_untrained": 0, "n_cards": 0, "max_samples": 2, "max_units": 1, "seed": 0}


@dataclass(frozen=True, eq=False)
class Request:
    """Arguments of `report` that fit each other.

    Attributes:
        kind: The model's class.
        networks: The model, then those beside it.
        x: Samples.
        y: Their targets, or ``None``.
        outputs: What each network gives, [n, D].
        all_names: One per output of the model.
        units: The outputs that are compared.
        options: The other arguments, by name.
    """

    kind: str
    networks: tuple[nn.Module, ...]
    x: Tensor
    y: Tensor | None
    outputs: tuple[Tensor, ...]
    all_names: list[str]
    units: list[int]
    options: dict[str, Any]

    @property
    def model(self) -> nn.Module:
        """The network that the report is about."""
        return self.networks[0]

    @property
    def names(self) -> tuple[str, ...]:
        """What the compared outputs are called."""
        return tuple(self.all_names[i] for i in self.units)

    @property
    def calling(self) -> dict[str, Any]:
        """What every measurement has to be told about how a model is called."""
        return {} if self.options["forward"] is None else {"forward": self.options["forward"]}

    @property
    def classes(self) -> Tensor | None:
        """The class of each sample, where there is one, [n]."""
        y = self.y
        return y.reshape(-1).cpu() if y is not None and not y.is_floating_point() and y.numel() == len(y) else None

    @cached_property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Of one sample, at "input" and at the output of every module that gives a tensor."""
        shapes = {"input": tuple(self.x.shape[1:])}

        def note(name: str, _module: nn.Module, _args: object, output: object) -> None:
            if isinstance(output, Tensor) and output.ndim:
                shapes.setdefault(name, tuple(output.shape[1:]))

        with hooked({module: partial(note, name) for name, module in self.model.named_modules()}):
            outputs_of(self.model, self.x[:1], self.options["forward"])
        return shapes

    def sample(self, most: int) -> Tensor:
        """Draw samples without replacement, the same ones for the same number.

        Returns:
            Their indices in order, [m].
        """
        n, generator = len(self.x), torch.Generator().manual_seed(self.options["seed"])
        return torch.arange(n) if n <= most else torch.randperm(n, generator=generator)[:most].sort().values


def read_request(
    model: nn.Module, x: Any, y: Any, others: Any, names: Any, units: Any, options: dict[str, Any]
) -> Request:
    """Refuse arguments that do not fit, and run the networks on the samples.

    Returns:
        The request.
    """
    options |= {name: as_integer(name, options[name], least) for name, least in LEAST.items()}
    if options["tolerance"] is not None:
        options["tolerance"] = as_number("tolerance", options["tolerance"], 0, 1, open_low=True)
    if not isinstance(options["title"], str):
        refuse("title", "be a string", describe(options["title"]), "Convert it with str", TypeError)
    embedder, forward, layer = options["embedder"], options["forward"], options["unit_layer"]
    fits = all(callable(getattr(embedder, name, None)) for name in ("fit", "transform"))
    if embedder is not None and (isinstance(embedder, type) or not fits):
        remedy = "Pass a FieldDescriptor() or a GradientFieldEmbedder(), not their class"
        refuse("embedder", "be an estimator with the methods fit and transform", describe(embedder), remedy, TypeError)
    if forward is not None and not callable(forward):
        refuse("forward", "be a function of a model and samples", describe(forward), "Pass a function", TypeError)
    if isinstance(others, nn.Module):
        refuse("others", "be a list of networks", describe(others), "Put it into a list", TypeError)
    empty = isinstance(others, list | tuple) and not others
    _validation.check_module(model)
    networks = [model, *([] if empty else as_list("others", others, "a list of networks"))]
    if not all(isinstance(network, nn.Module) for network in networks):
        refuse("others", "be a list of torch.nn.Module", describe(others), "Pass the networks themselves", TypeError)
    x = as_tensor("x", x, "n d ...")
    for network in networks:
        _validation.check_placement(network, x)
        _validation.check_parameters(network)
        _validation.check_per_sample(network)
    answers = [outputs_of(network, x, forward) for network in networks]
    networks = [_with_one_output(network, x) if forward is None else network for network in networks]
    outputs, width, labels = tuple(answer for answer, _ in answers), *answers[0][0].shape[1:], answers[0][1]
    for output in outputs:
        if output.shape[1] != width:
            remedy = "Pass networks trained for the same tasks"
            refuse("others", f"give {width} outputs, as the model does", output.shape[1], remedy)
    if layer is not None:
        _validation.check_layer("unit_layer", layer, [name for name, _ in networks[0].named_modules() if name])
    chosen = list(range(min(width, MOST_OUTPUTS)))
    return Request(
        kind=type(model).__name__,
        networks=tuple(networks),
        x=x,
        y=None if y is None else _targets(y, len(x), width),
        outputs=outputs,
        all_names=labels if names is None else as_names("names", names, width, "outputs"),
        units=chosen if units is None else as_positions("units", units, width, "units of 'output'"),
        options=options,
    )


def outputs_of(model: nn.Module, x: Tensor, forward: Any) -> tuple[Tensor, list[str]]:
    """Call a model, some samples at a time: the one place that knows how.

    Returns:
        All heads and their axes after the first side by side, [n, D], and what each output is called.
    """
    name, parts, labels = "model" if forward is None else "forward", [], []
    with preserved(model), torch.no_grad():
        for part in x.split(SAMPLES_AT_A_TIME):
            try:
                given = model(part.clone()) if forward is None else forward(model, part.clone())
            except (RuntimeError, IndexError, TypeError) as error:
                got = f"{describe(x)}, on which {type(model).__name__} stopped with: {error}"
                refuse("x", "fit the model", got, "Pass samples shaped as in training")
            given = getattr(given, "logits", given)
            given = dict(enumerate(given)) if isinstance(given, tuple | list) else given
            heads = {str(key): head for key, head in given.items()} if isinstance(given, Mapping) else {"": given}
            if not heads or not all(isinstance(h, Tensor) and h.ndim and len(h) == len(part) for h in heads.values()):
                remedy = "Pass forward=, a function that picks them"
                refuse(name, "return a tensor, or several, with a row per sample", describe(given), remedy)
            flat = {key: head.reshape(len(part), -1) for key, head in heads.items()}
            labels = [f"{key}[{i}]" if key else str(i) for key, head in flat.items() for i in range(head.shape[1])]
            parts.append(torch.cat(list(flat.values()), dim=1))
    output = torch.cat(parts)
    _validation.check_finite_result("values", output, "output")
    return output, labels


class _Renamed(nn.Module):
    """Stands in for a model whose child "output" is not what it returns: "output" is free for what it returns."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.__dict__["whole"] = model  # past the registration of children: those come under their own names
        self._parameters, self._buffers = model._parameters, model._buffers
        self._modules = {"output (child)" if key == "output" else key: child for key, child in model._modules.items()}
        self.training = model.training

    def forward(self, x: Tensor) -> Any:
        return self.__dict__["whole"](x)


def _with_one_output(model: nn.Module, x: Tensor) -> nn.Module:
    """Return the model itself, if a child named "output" (if any) gives just what it returns; else a stand-in."""
    child = model._modules.get("output")
    if child is None:
        return model
    given: list[tuple[Any, int]] = []  # a tensor and its state: it may be changed in place afterwards

    def note(_module: nn.Module, _args: object, output: Any) -> None:
        given.append((output, getattr(output, "_version", 0)))

    with preserved(model), hooked({child: note}), torch.no_grad():
        returned = model(x[:1].clone())
    same = [output is returned and returned._version == state for output, state in given]
    return model if same == [True] else _Renamed(model)


def _targets(given: Any, n: int, width: int) -> Tensor:
    """Return targets that the outputs can answer, classes as int64."""
    y = as_tensor("y", given, "n | n t", kind="any", n=n)
    t = 1 if y.ndim == 1 else y.shape[1]
    if y.is_floating_point():
        if t != width:
            refuse("y", f"hold a value for each of {width} outputs", describe(y), "Pass as many, or integer classes")
        return y
    y = as_tensor("y", y, "n | n t", kind="int")
    if int(y.min()) < 0:
        refuse("y", "number the classes from 0", int(y.min()), "Renumber them")
    if width % t or int(y.max()) >= width // t:
        got = f"{t} x {int(y.max()) + 1} classes for {width} outputs"
        refuse("y", "number classes that have an output each", got, "Pass values as floats, or no targets")
    return y
