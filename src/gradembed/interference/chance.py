"""The level of chance: the |cosine| that a network forces on any read-outs, trained or not.

Independent isotropic read-outs of a layer of reference, the one just below the units, are carried down through the same
network at the same samples. What the units have beyond that is theirs; the rest is the network's.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from gradembed._context import preserved
from gradembed.gradients import Session, Site, unit_rows
from gradembed.gradients.batches import Reservoir, call, size_of
from gradembed.gradients.chain import Chain
from gradembed.gradients.sites import OUTPUT
from gradembed.gradients.tape import heads_of

FEWEST, MOST = 8, 64  # samples at which read-outs are looked at
SHARE = 8  # where there are samples enough, chance takes one part in so many of what the measure itself takes


def chance_levels(
    model: nn.Module, session: Session, some: Reservoir, *, forward: Any, reference: Any, r: int, seed: int,
    measure: Callable[..., Any],
) -> tuple[dict[str, float], dict[str, Tensor]]:  # fmt: skip
    """Carry r random read-outs of the layer of reference down to the session's layers.

    A layer that the reference does not depend on, such as itself, is its own reference, in closed form.

    Args:
        model: The network.
        session: What is asked of it.
        some: Samples to choose from.
        forward: How it is called, or ``None``.
        reference: The layer of reference; ``None`` for the one just below the units.
        r: Read-outs.
        seed: Of the read-outs.
        measure: Gives the mean |cosine| of all pairs of units of a session, per layer.

    Returns:
        For each layer the mean |cosine| of two read-outs, and that of every pair of those drawn, [r, r].
    """
    drawn = torch.Generator().manual_seed(seed)
    batch = some.draw(max(FEWEST, some.n * session.n_units // (SHARE * r)))
    if reference is None:
        site = _just_below(model, session, batch, forward)
    else:
        named = {"forward": forward, "unit_layer": session.unit_site, "argument": "reference"}
        with Session.open(model, batch, reference, **named) as above:
            (site,) = above.sites
    asked: dict[str, Any] = {"forward": forward, "unit_layer": site}
    chance: dict[str, float] = {}
    pairs: dict[str, Tensor] = {}
    below, different = [layer for layer in session.sites if layer != site], ~torch.eye(r, dtype=torch.bool)
    for group in [below, *([layer] for layer in below)]:  # one by one where some do not feed the reference
        if len(chance) < len(below):
            with ExitStack() as stack:
                try:
                    drawn_from = stack.enter_context(Session.open(model, batch, group, **asked))
                except ValueError:
                    continue
                readout = torch.randn(r, drawn_from.n_units, generator=drawn)
                own = abs_cosines(readout)
                found = measure(replace(drawn_from, readout=readout, unit_labels=("",) * r, heads=()))
            for layer, (matrix, count) in found.items():
                defined = (count > 0) & different
                pairs[layer], expected = matrix, isotropic_abs_cosine(readout.shape[1])
                chance[layer] = _corrected(matrix[defined], own[defined], expected) if bool(defined.any()) else 0.0
    for layer in session.layers:
        if layer not in chance:
            d = session.network.widths[layer]
            chance[layer], pairs[layer] = isotropic_abs_cosine(d), abs_cosines(torch.randn(r, d, generator=drawn))
    return {layer: chance[layer] for layer in session.layers}, {layer: pairs[layer] for layer in session.layers}


def abs_cosines(rows: Tensor) -> Tensor:
    """Return |cosine| of every two rows, [r, r] of [r, d]."""
    vectors = unit_rows(rows.double())[0]
    return (vectors @ vectors.T).abs()


def _corrected(found: Tensor, own: Tensor, expected: float) -> float:
    """Return the mean over pairs, less what is the luck of the draw: at their own layer their mean is known.

    A control variate (Glasserman 2003, Monte Carlo methods in financial engineering, section 4.1).

    Args:
        found: |cosine| at a layer, of all pairs.
        own: |cosine| at the layer of reference.
        expected: The mean of the latter over all draws.
    """
    left = own - own.mean()
    slope = (left * found).sum() / left.square().sum().clamp_min(1e-300)
    return float(found.mean() + slope * (expected - own.mean()))


def _just_below(model: nn.Module, session: Session, batch: Any, forward: Any) -> Site:
    """Find the layer that units are read from: what the linear module takes that gives them, else the topmost one.

    Returns:
        The site.
    """
    if isinstance(session.network, Chain):
        return session.network.default_sites()[-1]
    modules, unit_site = dict(model.named_modules()), session.unit_site
    reader = unit_site.name if unit_site is not OUTPUT and unit_site.is_plain else _last_linear(model, batch, forward)
    if isinstance(modules.get(reader), nn.Linear):
        return Site(reader, input=True)
    with Session.open(model, batch, None, forward=forward, unit_layer=unit_site) as default:
        return max(default.sites, key=lambda site: default.network.time[str(site)])


def _last_linear(model: nn.Module, batch: Any, forward: Any) -> str:
    """Return the name of the linear module, run once, whose output the model returns; empty if there is none."""
    runs: list[tuple[str, Tensor]] = []
    with ExitStack() as stack, torch.no_grad(), preserved(model):
        for name, module in model.named_modules():
            if isinstance(module, nn.Linear):
                stack.callback(module.register_forward_hook(lambda _m, _a, out, n=name: runs.append((n, out))).remove)
        heads = list(heads_of((forward or call)(model, batch), size_of(batch), type(model).__name__).values())
    names = [name for name, out in runs if len(heads) == 1 and out.ndim > 1 and torch.equal(out.flatten(1), heads[0])]
    return names[0] if len(names) == 1 and [name for name, _ in runs].count(names[0]) == 1 else ""


def isotropic_abs_cosine(d: int) -> float:
    """Mean |cosine| of independent directions, uniform on the sphere in d dimensions: Γ(d/2) / (√π Γ((d+1)/2)).

    Returns:
        A number in (0, 1], about sqrt(2 / (π d)).
    """
    return math.exp(math.lgamma(d / 2) - math.lgamma((d + 1) / 2)) / math.sqrt(math.pi)
