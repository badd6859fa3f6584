"""The level of chance: the |cosine| that a network forces on any read-outs, trained or not.

Independent isotropic read-outs of a layer of reference, the one just below the units, are carried down through the same
network at the same samples. What the units have beyond that is theirs; the rest is the network's.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gradembed._context import preserved
from gradembed.gradients import Session, Site, unit_rows
from gradembed.gradients.batches import Reservoir, call, each, joined, size_of
from gradembed.gradients.chain import Chain
from gradembed.gradients.sites import OUTPUT
from gradembed.gradients.tape import heads_of

FEWEST, MOST = 8, 64  # samples at which read-outs are looked at
SHARE = 8  # off the chain path, where there are samples enough, chance takes one part in so many of the measure's time


class Readouts:
    """Random read-outs of the layer of reference, drawn once, to be carried down to a session's layers.

    A layer that the reference does not depend on, such as itself, is its own reference, in closed form.

    Args:
        model: The network.
        session: What is asked of it.
        some: Samples to choose from.
        forward: How it is called, or ``None``.
        reference: The layer of reference; ``None`` for the one just below the units.
        r: Read-outs, about.
        seed: Of the read-outs.

    Attributes:
        parts: What is asked of them: sessions, each at layers of its own, with |cosine| of the read-outs at the layer
            of reference, [s, k, k], and its mean over all draws.
        known: Layers whose level is known beforehand: the mean |cosine| of two read-outs, and of those drawn.
    """

    def __init__(
        self, model: nn.Module, session: Session, some: Reservoir, *, forward: Any, reference: Any, r: int, seed: int
    ) -> None:
        is_cheap = isinstance(session.network, Chain)
        batch = some.draw(MOST if is_cheap else max(FEWEST, some.n * session.n_units // (SHARE * r)))
        if reference is None:
            site = _just_below(model, session, batch, forward)
        else:
            named = {"forward": forward, "unit_layer": session.unit_site, "argument": "reference"}
            with Session.open(model, batch, reference, **named) as above:
                (site,) = above.sites
        self.layers, self.sets = session.layers, Sets(session.readout, r, seed)
        self.parts: list[tuple[Session, Tensor, float]] = []
        own: Tensor | None = None
        below, reached = [layer for layer in session.sites if layer != site], set[str]()
        for group in [below, *([layer] for layer in below)]:  # one by one where some do not feed the reference
            if len(reached) < len(below):
                with suppress(ValueError), Session.open(model, batch, group, forward=forward, unit_layer=site) as found:
                    reached.update(found.layers)
                    drawn = self.sets.draw(found.n_units)
                    own, expected = self.sets.abs_cosines(drawn), self.sets.expected(drawn.shape[1])
                    asked = replace(found, readout=drawn, unit_labels=("",) * len(drawn), heads=())
                    self.parts.append((asked, own, expected))
        self.known: dict[str, tuple[float, Tensor]] = {}
        for layer in session.sites:
            if str(layer) not in reached:
                d = session.network.widths[str(layer)]
                new = self.sets.abs_cosines(self.sets.draw(d)) if own is None or layer != site else own
                self.known[str(layer)] = self.sets.expected(d), new

    def levels(self, measure: Callable[[Session], Any]) -> tuple[dict[str, float], dict[str, Tensor]]:
        """Compare them at every layer.

        Args:
            measure: Gives mean |cosine| and count of all pairs of units of a session, per layer.

        Returns:
            For each layer the mean |cosine| of two read-outs, and that of every two of each set drawn, [s, k, k].
        """
        found = dict(self.known)
        for session, own, expected in self.parts:
            for layer, (matrix, count) in measure(session).items():
                pairs, defined = self.sets.within(matrix), (self.sets.within(count) > 0) & self.sets.different
                level = _corrected(pairs[defined], own[defined], expected) if bool(defined.any()) else 0.0
                found[layer] = level, pairs
        return {layer: found[layer][0] for layer in self.layers}, {layer: found[layer][1] for layer in self.layers}


class Sets:
    """Sets of random read-outs, independent of each other; within a set related as the units are by what they read.

    Units that are outputs are read by independent rows of a random matrix: there is one set of r of them. Units that
    are directions of the outputs, such as logits less their mean, are directions of the rows of a random matrix.

    Args:
        readout: Of the units: indices [u], or directions [u, D].
        r: Read-outs in all, about.
        seed: Of all draws.

    Attributes:
        different: Pairs of different read-outs of a set, [s, k, k].
    """

    def __init__(self, readout: Tensor, r: int, seed: int) -> None:
        self.generator, self.seed = torch.Generator().manual_seed(seed), seed
        self.gram: Tensor | None = None  # of the directions, scaled to length 1, [k, k]
        self.s, self.k = 1, r
        if readout.ndim > 1 and len(readout) > 1:
            chosen = torch.randperm(len(readout), generator=self.generator)[:r].sort().values
            vectors = unit_rows(readout.detach().cpu()[chosen].double())[0]
            self.gram, self.k = vectors @ vectors.T, len(chosen)
            self.s = -(-r // self.k)
        self.different = ~torch.eye(self.k, dtype=torch.bool).expand(self.s, -1, -1)

    def draw(self, d: int) -> Tensor:
        """Draw isotropic read-outs of d numbers, [s · k, d]."""
        drawn = torch.randn(self.s, self.k, d, generator=self.generator)
        if self.gram is not None:  # directions of a random matrix are normal, with their Gram matrix as covariance
            eigenvalues, vectors = torch.linalg.eigh(self.gram)
            drawn = (vectors * eigenvalues.clamp_min(0).sqrt()).to(drawn) @ drawn
        return drawn.flatten(0, 1)

    def within(self, matrix: Tensor) -> Tensor:
        """Return what of a matrix over all read-outs is within sets, [s, k, k]."""
        return matrix.reshape(self.s, self.k, self.s, self.k).diagonal(dim1=0, dim2=2).movedim(-1, 0)

    def abs_cosines(self, drawn: Tensor) -> Tensor:
        """Return |cosine| of every two read-outs of a set, [s, k, k]."""
        vectors = unit_rows(drawn.double())[0]
        return self.within((vectors @ vectors.T).abs())

    def expected(self, d: int) -> float:
        """Mean |cosine| over all draws, at the layer itself, which has d numbers.

        Of two independent directions Γ(d/2) / (√π Γ((d+1)/2)), about sqrt(2 / (π d)). Of two with correlation ρ in
        every coordinate, a² ~ χ²(d), z ~ N(0, 1) and b² ~ χ²(d-1) give p = ρ a + sqrt(1-ρ²) z, the part of one along
        the other, and the cosine p / sqrt(p² + (1-ρ²) b²): averaged over 40,000 draws, shared out among the pairs.

        Returns:
            A number in (0, 1].
        """
        if self.gram is None or d == 1:
            return math.exp(math.lgamma(d / 2) - math.lgamma((d + 1) / 2)) / math.sqrt(math.pi)
        rng = np.random.default_rng(self.seed)
        rho = self.gram[*torch.triu_indices(self.k, self.k, 1)].clamp(-1, 1).numpy()[:, None]
        left, size = 1 - rho**2, (len(rho), -(-40_000 // len(rho)))
        along = rho * np.sqrt(rng.chisquare(d, size)) + np.sqrt(left) * rng.standard_normal(size)
        length = np.sqrt(along**2 + left * rng.chisquare(d - 1, size))
        return float(np.abs(along / length).mean())


def _corrected(found: Tensor, own: Tensor, expected: float) -> float:
    """Return the mean over pairs, less what is the luck of the draw: at their own layer their mean is known.

    A control variate (Glasserman 2003, Monte Carlo methods in financial engineering, section 4.1).

    Args:
        found: |cosine| at a layer, of all pairs.
        own: |cosine| at the layer of reference.
        expected: The mean of the latter over all draws.
    """
    left = own - own.mean()
    slope = (left * found).sum() / left.square().sum().clamp_min(1e-30)
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
    asked = session
    with ExitStack() as stack, suppress(ValueError):  # a model without default layers
        asked = stack.enter_context(Session.open(model, batch, None, forward=forward, unit_layer=unit_site))
    return max(asked.sites, key=lambda site: asked.network.time[str(site)])


def _last_linear(model: nn.Module, batch: Any, forward: Any) -> str:
    """Return the name of the linear module, run once, whose output the model returns; empty if there is none."""
    runs: list[tuple[str, Tensor]] = []
    copies = [each(batch, torch.clone)] * (2 if size_of(batch) == 1 else 1)  # a batch of one may be squeezed
    copy = joined(copies)
    # with gradients on: without them, attention may take a path of its own through nested tensors
    with ExitStack() as stack, torch.enable_grad(), preserved(model):
        for name, module in model.named_modules():
            if isinstance(module, nn.Linear):
                stack.callback(module.register_forward_hook(lambda _m, _a, out, n=name: runs.append((n, out))).remove)
        heads = list(heads_of((forward or call)(model, copy), size_of(copy), type(model).__name__).values())
    names = [name for name, out in runs if len(heads) == 1 and _is_same(out, heads[0])]
    return names[0] if len(names) == 1 and [name for name, _ in runs].count(names[0]) == 1 else ""


def _is_same(out: Tensor, head: Tensor) -> bool:
    """Whether a module's output, [n, ...], is a head, [n, D]; not inside of vmap, where it has no samples."""
    try:
        return not out.is_nested and out.ndim > 1 and torch.equal(out.flatten(1), head)
    except RuntimeError:
        return False
