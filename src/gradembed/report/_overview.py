"""First and last section of a report: what was measured, and with what."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from functools import partial
from importlib.metadata import version
from typing import Any

import torch
from torch import Tensor, nn

from gradembed import _context, _validation
from gradembed.report._page import Page, number
from gradembed.report._request import MOST_OUTPUTS, Request, score

MOST_ROWS = 60


def write_overview(page: Page, request: Request) -> dict[str, tuple[int, ...]]:
    """Say what the network and the samples are.

    Returns:
        Shape of one sample at "input" and at the output of every module that gives a tensor.
    """
    page.section("measured", "What was measured")
    model, x = request.model, request.x
    total = sum(p.numel() for p in model.parameters())
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    shape = " × ".join(map(str, x.shape[1:]))
    page.say(
        f"Model: {type(model).__name__}, {total:,} parameters ({trainable:,} of them trainable), "
        f"{request.outputs[0].shape[1]:,} output{'s' if request.outputs[0].shape[1] > 1 else ''}{_which(request)}. "
        f"Samples: {len(x):,} of shape {shape} ({str(x.dtype).removeprefix('torch.')}, on {x.device})."
    )
    for text in _scores(request):
        page.say(text)
    shapes = _shapes(model, x)
    leaves = [(name, module) for name, module in model.named_modules() if not any(module.children())]
    rows = [
        (
            name or "(the model itself)",
            type(module).__name__,
            " × ".join(map(str, shapes.get(name, ()))) or "none",
            f"{sum(p.numel() for p in module.parameters()):,}",
        )
        for name, module in leaves[:MOST_ROWS]
    ]
    cut = f" The first {MOST_ROWS} of {len(leaves)} modules." if len(leaves) > MOST_ROWS else ""
    page.table(
        ("module", "type", "output of one sample", "parameters"),
        rows,
        name="Modules",
        note="The modules without children, by the names under which the rest of this page speaks of layers. "
        f"Parameters that a module with children holds itself count in the total only.{cut}",
    )
    return shapes


def write_settings(page: Page, request: Request) -> None:
    """Say with which settings and versions the page was made."""
    page.section("settings", "Settings and versions")
    shown = {"units": list(request.units), "seed": request.seed, **request.options}
    rows = [(name, _value(value)) for name, value in shown.items()]
    page.table(
        ("setting", "value"),
        rows,
        name="Settings",
        note="Arguments of gradembed.report. The same model, samples, settings and versions give the same page, "
        "byte by byte, on one machine with one number of threads.",
    )
    parts = ("gradembed", "torch", "numpy", "scikit-learn", "matplotlib")
    versions = [("python", platform.python_version()), *((part, version(part)) for part in parts)]
    page.table(("package", "version"), versions, name="Versions", note="What computed and drew the numbers.")


def _value(value: object) -> str:
    """Write an argument.

    Returns:
        One line.
    """
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    return (value or "–") if isinstance(value, str) else _validation.describe(value)


def _which(request: Request) -> str:
    width = request.outputs[0].shape[1]
    if len(request.units) == width:
        return ", all compared"
    if tuple(request.units) == tuple(range(MOST_OUTPUTS)):
        return f", of which the first {MOST_OUTPUTS} are compared (choose others by units=)"
    return f", of which {len(request.units)} are compared"


def _scores(request: Request) -> Sequence[str]:
    """Say how well the networks do on the samples.

    Returns:
        Paragraphs.
    """
    beside = len(request.networks) - 1
    alone = (
        "One network was given: every number below is a fact about this network at these samples. Whether another "
        "training run would give it too, this page cannot know; pass networks trained from other seeds as others= "
        "to see."
    )
    spread = (
        f"{beside} more network{'s' if beside > 1 else ''} stand{'' if beside > 1 else 's'} beside it. Ranges over all "
        f"{beside + 1} show what does not depend on the training run."
    )
    last = spread if beside else alone
    if request.y is None:
        return ["No targets were given, so this page does not say whether the network has learned anything.", last]
    found = [score(output, request.y) for output in request.outputs]
    name, value, constant = found[0]
    others = ", ".join(number(one[1]) for one in found[1:])
    reads = "always naming the most frequent class" if name == "accuracy" else "always naming the mean"
    return [
        f"{name[0].upper()}{name[1:]} at these samples: {number(value)} ({reads}: {number(constant)})"
        + (f"; the others: {others}. " if others else ". ")
        + "If the network was trained on them, this is no test score.",
        last,
    ]


def _shapes(model: nn.Module, x: Tensor) -> dict[str, tuple[int, ...]]:
    """Run one sample through the network and look at what the modules give.

    Returns:
        Shapes by name, the sample's axis left out; modules that give no tensor are not there.
    """
    shapes: dict[str, tuple[int, ...]] = {"input": tuple(x.shape[1:])}
    hooks: dict[nn.Module, Any] = {module: partial(_note, shapes, name) for name, module in model.named_modules()}
    with _context.preserved(model), _context.hooked(hooks), torch.no_grad():
        model(x[:1].clone())
    return shapes


def _note(shapes: dict[str, tuple[int, ...]], name: str, _module: nn.Module, _args: object, output: object) -> None:
    if isinstance(output, Tensor) and output.ndim:
        shapes.setdefault(name, tuple(output.shape[1:]))
