"""Gradient fields of the units of a network, or of all networks of an ensemble."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gradembed._validation import as_tensor, check_finite_result, refuse
from gradembed.fields._fields import GradientFields
from gradembed.gradients import Session, Site
from gradembed.gradients.patterns import distinct
from gradembed.models import MLPEnsemble


def gradient_fields(
    model: nn.Module, points: Any, *, forward: Callable[..., Any] | None = None, wrt: str | Site = "input",
    unit_layer: str | Site = "output", units: Sequence[int | str] | Tensor | None = None,
    directions: Tensor | None = None, labels: Tensor | None = None,
) -> GradientFields:  # fmt: skip
    """Take the gradient fields of units of a network, or of every network of an ensemble in one pass.

    The points of the fields are the activations of the layer ``wrt`` at the inputs ``points``. Units of one network
    share them; those of an ensemble do with ``wrt="input"`` and inputs for all, and else have their own. An
    ensemble's networks go through batched matrix products, in groups that a processor's cache can hold.

    For chains of linear layers and piecewise-linear activations ``regions`` are known exactly: points at which
    all units that the gradient passes through are on the same piece.

    Args:
        model: A trained network that treats every sample by itself, or an `MLPEnsemble`. Left as it was.
        points: Inputs of the network, as in `unit_gradients`; for an ensemble [m, d] for all members, or [e, m, d] for
            each its own.
        forward: How the model is called with a batch, as in `unit_gradients`.
        wrt: "input", the name of a layer, or a `Site`: its activations are what the fields live on.
        unit_layer: The layer that the units belong to; "output" is what the model returns.
        units: Indices in the unit layer; ``None`` for all.
        directions: Instead of ``units``: directions in the unit layer, [u, D], or [e, u, D] for each member its own.
        labels: What the units are: [u], the same in every network, or [e·u]. ``None`` takes those of the ensemble,
            each for all units of its member.

    Returns:
        Fields of u units; for an ensemble of e·u units, member by member, with the member's number as ``groups``.

    Raises:
        ValueError: As `unit_gradients`; if points, directions or labels have the wrong shape.
        TypeError: If an argument has the wrong type.

    Example:
        >>> import torch, gradembed as ge
        >>> ge.gradient_fields(ge.MLPEnsemble([4, 8, 3], n_members=5, seed=0), torch.randn(100, 4))
        GradientFields(15 units at 100 shared points of 4 dimensions, with values, groups, regions)
        >>> ge.gradient_fields(ge.MLP([4, 8, 8, 1], torch.nn.Tanh, seed=0), torch.randn(100, 4), wrt="hidden1")
        GradientFields(1 unit at 100 shared points of 8 dimensions, with values, groups)
    """
    asked: dict[str, Any] = {"forward": forward, "argument": "wrt", "x_name": "points", "ensembles": True}
    with Session.open(model, points, wrt, unit_layer, units, directions, **asked) as session:
        e = session.network.n_members
        layer, u = session.layers[0], session.n_units
        parts: list[tuple[Tensor, ...]] = []
        patterns: list[np.ndarray] = []
        for capture in session.captures(patterns=True):
            gradients = capture.gradients[layer].dense()  # [*e, u, m, d]
            activations = capture.activations[layer].clone()  # a source may reuse its batch
            parts.append((gradients, activations, capture.values))
            patterns += [capture.patterns] if capture.patterns is not None else []
    along = 0 if e else -2  # groups of networks, or chunks of points
    axes = along, along, 0 if e else -1
    gradients, activations, values = (torch.cat(*both) for both in zip(zip(*parts, strict=True), axes, strict=True))
    for what, part, where in (("gradients", gradients, layer), ("activations", activations, layer)):
        check_finite_result(what, part, where, "points")
    m, d = gradients.shape[-2:]
    regions = None
    if patterns:
        words = np.concatenate(patterns, along)
        regions = torch.from_numpy(distinct(words.reshape(-1, m, words.shape[-1]))).to(gradients.device)
    if e is None or (session.batch.ndim == 2 and layer == "input"):  # shared by all units
        own = activations.reshape(-1, m, d)[0].clone()
    else:
        own = activations[:, None].expand(-1, u, -1, -1).flatten(0, 1)
    members = e or 1
    kinds = _labels(labels, model.labels if isinstance(model, MLPEnsemble) else None, members, u, own.device)
    groups = torch.arange(members, device=own.device).repeat_interleave(u)
    gradients, values = gradients.reshape(-1, m, d).contiguous(), values.reshape(-1, m).contiguous()
    return GradientFields(own, gradients, values=values, labels=kinds, groups=groups, regions=regions)


def _labels(given: Any, own: Tensor | None, e: int, u: int, device: torch.device) -> Tensor | None:
    """Give every unit its label, [e·u], or ``None``."""
    if given is None:
        return None if own is None else own.repeat_interleave(u).to(device)
    labels = as_tensor("labels", given, "u", kind="int")
    if len(labels) not in (u, e * u):
        rule = f"have shape [{u}] or [{e * u}]" if e > 1 else f"have shape [{u}]"
        refuse("labels", rule, list(labels.shape), "Give one to each unit")
    return (labels if len(labels) == e * u else labels.repeat(e)).to(device)
