"""What a report is asked for, read once, and what the networks answer to the samples: how well, by the targets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from gradembed._context import preserved
from gradembed._validation import (
    as_bool,
    as_integer,
    as_list,
    as_names,
    as_number,
    as_tensor,
    check_module,
    describe,
    refuse,
)
from gradembed.gradients import Session, Site, batches
from gradembed.gradients.session import resolve_units
from gradembed.gradients.sites import OUTPUT, find_sites
from gradembed.gradients.tape import heads_of

MOST_OUTPUTS = 20  # compared if the caller chooses none
SAMPLES_AT_A_TIME = 1024
LEAST = {"n_bootstrap": 0, "n_untrained": 0, "max_samples": 2, "max_units": 1, "seed": 0}


@dataclass(frozen=True, eq=False)
class Request:
    """Arguments of `report` that fit each other.

    Attributes:
        networks: The model, then those beside it.
        x: Samples: one batch.
        y: Their targets, or ``None``.
        blocks: Numbers of consecutive outputs that each column of integer targets is about.
        sites: Where gradients are compared.
        n_numbers: How many of one sample stand there, at all of them together.
        hidden: The layer whose units are embedded; ``None`` for none.
        all_names: One per output of the model.
        options: The other arguments, by name.
    """

    networks: tuple[nn.Module, ...]
    x: batches.Batch
    y: Tensor | None
    blocks: list[int]
    sites: tuple[Site, ...]
    n_numbers: int
    hidden: Site | None
    all_names: list[str]
    options: dict[str, Any]

    @property
    def inputs(self) -> list[tuple[str, Tensor]]:
        """The tensors that the model is asked with, each with what it is called: by key, by place, or not at all."""
        x = self.x
        items = x.items() if isinstance(x, Mapping) else enumerate(x) if isinstance(x, tuple) else [("", x)]
        return [(str(name), tensor) for name, item in items for tensor in batches.tensors_in(item)]

    @property
    def names(self) -> tuple[str, ...]:
        """What the compared outputs are called."""
        return tuple(self.all_names[i] for i in self.options["units"])

    @property
    def classes(self) -> Tensor | None:
        """The class of each sample, where there is one, [n]."""
        y = self.y
        return y.reshape(-1).cpu() if y is not None and not y.is_floating_point() and y.numel() == len(y) else None

    def sample(self, most: int) -> tuple[Tensor, batches.Batch]:
        """Draw samples without replacement, the same ones for the same number: their indices in order [m], and them."""
        generator = torch.Generator().manual_seed(self.options["seed"])
        drawn = torch.randperm(batches.size_of(self.x), generator=generator)[:most].sort().values
        return drawn, batches.chosen(self.x, drawn.tolist())


def read_request(options: dict[str, Any]) -> Request:
    """Refuse arguments of `report` that do not fit, each network tried on a few samples."""
    apart = ("model", "x", "y", "path", "others", "names", "units")
    model, x, y, _, others, names, units = (options.pop(name) for name in apart)
    _read_settings(options)
    check_module(model)
    beside = [] if isinstance(others, list | tuple) and not others else as_list("others", others, "a list of networks")
    if isinstance(others, nn.Module) or not all(isinstance(network, nn.Module) for network in beside):
        refuse("others", "be a list of torch.nn.Module", describe(others), "Pass [network, ...]", TypeError)
    forward, layer = options["forward"], options["unit_layer"]
    given = batches.read(x, model, forward)
    if isinstance(given, batches.Stream):  # gone through more than once
        given = batches.joined([batches.each(one, torch.clone) for one in given.chunks(SAMPLES_AT_A_TIME)])
    batch: Any = tuple(given) if isinstance(given, list) else given  # a list would be taken for a list of batches
    with Session.open(model, batch, options["layers"], forward=forward) as session:
        sites, labels, heads = tuple(session.sites), session.unit_labels, session.network.heads
        width, n_numbers = len(labels), sum(session.network.widths.values())
    for network in beside:
        missing = {site.name for site in sites} - {"input", *(name for name, _ in network.named_modules())}
        if missing:
            remedy = "Pass networks of the same architecture, or layers= that all have"
            refuse("others", "have the layers that are compared", f"none named {min(missing)!r}", remedy)
        with Session.open(network, batch, sites, forward=forward) as session:
            n = len(session.unit_labels)
        if n != width:
            refuse("others", f"give {width} outputs, as the model does", n, "Pass networks trained for the same tasks")
    known = [name for name, _ in model.named_modules() if name]
    (hidden,) = sites[-1:] if layer is None else find_sites("unit_layer", layer, known, several=False)
    targets, blocks = (None, []) if y is None else _read_targets(y, batches.size_of(batch), heads)
    if options["centered"] is None:
        options["centered"] = len(blocks) == len(heads) and min(blocks) > 2
    all_names = list(labels) if names is None else as_names("names", names, width, "outputs")
    chosen = torch.arange(min(width, MOST_OUTPUTS)) if units is None else resolve_units(heads, OUTPUT, units, None)[0]
    embedded, options["units"] = None if hidden.name == "input" else hidden, chosen.tolist()
    return Request((model, *beside), batch, targets, blocks, sites, n_numbers, embedded, all_names, options)


def _read_settings(options: dict[str, Any]) -> None:
    """Read what does not depend on the model, in place."""
    options |= {name: as_integer(name, options[name], least) for name, least in LEAST.items()}
    if options["centered"] is not None:
        options["centered"] = as_bool("centered", options["centered"])
    if options["tolerance"] is not None:
        options["tolerance"] = as_number("tolerance", options["tolerance"], 0, 1, open_low=True)
    check_title(options["title"])
    check_embedder(options["embedder"])


def check_title(title: Any) -> None:
    """Refuse what is no string."""
    if not isinstance(title, str):
        refuse("title", "be a string", describe(title), "Convert it with str", TypeError)


def check_embedder(embedder: Any) -> None:
    """Refuse what is no estimator."""
    fits = all(callable(getattr(embedder, name, None)) for name in ("fit", "transform"))
    if embedder is not None and (isinstance(embedder, type) or not fits):
        remedy = "Pass a FieldDescriptor() or a GradientFieldEmbedder(), not their class"
        refuse("embedder", "be an estimator with the methods fit and transform", describe(embedder), remedy, TypeError)


def outputs_of(model: nn.Module, x: batches.Batch, forward: Any) -> Tensor:
    """Call a model with some samples at a time: all heads and their axes after the first side by side, [n, D]."""
    parts = []
    with preserved(model), torch.no_grad():
        for start in range(0, batches.size_of(x), SAMPLES_AT_A_TIME):
            batch = batches.each(batches.part(x, start, start + SAMPLES_AT_A_TIME), torch.clone)
            m = batches.size_of(batch)
            batch = batches.joined([batch, batch]) if m == 1 else batch  # for models that squeeze a batch of one
            heads = heads_of((forward or batches.call)(model, batch), batches.size_of(batch), type(model).__name__)
            parts.append(torch.cat(list(heads.values()), dim=1)[:m])
    return torch.cat(parts)


def _read_targets(given: Any, n: int, heads: Mapping[str, int]) -> tuple[Tensor, list[int]]:
    """Return targets that the outputs can answer, classes as int64, and how many outputs each column is about."""
    y, width = as_tensor("y", given, "n | n t", kind="any", n=n), sum(heads.values())
    t = 1 if y.ndim == 1 else y.shape[1]
    if y.is_floating_point():
        if t != width:
            refuse("y", f"hold a value for each of {width} outputs", describe(y), "Pass as many, or integer classes")
        return y, []
    y = as_tensor("y", y, "n | n t", kind="int")
    if int(y.min()) < 0:
        refuse("y", "number the classes from 0", int(y.min()), "Renumber them")
    if len(heads) not in (1, t):
        remedy = "Pass [n, heads], values as floats, no targets, or forward= that returns one head"
        refuse("y", f"hold a class for each of {len(heads)} heads", describe(y), remedy)
    blocks = [width // t] * t if len(heads) == 1 else list(heads.values())
    most = (y.reshape(n, t).amax(0) + 1).tolist()
    if sum(blocks) != width or any(one > size for one, size in zip(most, blocks, strict=True)):
        got = f"{t} x {max(most)} classes for {width} outputs"
        refuse("y", "number classes that have an output each", got, "Pass values as floats, or no targets")
    return y, blocks


def score(output: Tensor, y: Tensor, blocks: list[int]) -> dict[str, Any]:
    """Compare outputs [n, D] with values [n] or [n, D], or classes [n] or [n, t], one for each block of outputs."""
    y = y.reshape(len(y), -1).to(output.device)
    if y.is_floating_point():
        output, y = output.double(), y.double()
        spread, left = (y - y.mean(0)).square().sum(0), (y - output).square().sum(0)  # [D] each
        return {"name": "R²", "value": float((1 - left / spread)[spread > 0].mean()), "constant": 0.0}
    predicted = torch.stack([block.argmax(1) for block in output.split(blocks, dim=1)], dim=1)  # [n, t]
    common = torch.stack([column.bincount().max() for column in y.T]).double() / len(y)
    return {"name": "accuracy", "value": float((predicted == y).double().mean()), "constant": float(common.mean())}
