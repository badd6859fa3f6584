"""The cloze: an encoder of what is seen and a decoder of what is left out, trained together through a bottleneck."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from gradembed import _progress
from gradembed._validation import as_integer, as_number, is_finite, refuse
from gradembed.embed._coordinates import Canonical, align_axes
from gradembed.fields._points import as_fraction

WARM_UP = 0.1  # share of the steps
UNITS_PER_STEP = 160
POINTS_PER_STEP = 32
NOISE = 0.25  # on the embedding, whose inputs have spread 1: what tells less than this apart is not worth telling
PENALTY = 0.016  # on the squared correction
SPREAD_SHARE = 0.9  # of a unit's weight: how far its gradients vary; the rest: how long they are
CHECK_EVERY = 50
PATIENCE = 8  # checks without a better one
HELD_OUT = 8  # one unit in so many is not learned from
ENOUGH = 24  # with fewer units, none is spared, and views are held out instead
ALIGN_POINTS = 64
ALIGN_UNTIL = 0.8  # of the steps


class Settings:
    """How a cloze is trained, read from an estimator's parameters of the same names."""

    def __init__(self, estimator: Any) -> None:
        self.n_components = as_integer("n_components", estimator.n_components, 1)
        self.max_steps = as_integer("max_steps", estimator.max_steps, 1)
        self.width = as_integer("width", estimator.width, 1)
        self.learning_rate = as_number("learning_rate", estimator.learning_rate, 0, 1e35, open_low=True)  # in float32
        self.mask_fraction = as_fraction("mask_fraction", estimator.mask_fraction)

    def converged(self, name: str, numbers: Tensor) -> Tensor:
        """Return the numbers, refusing to go on where training has run away to infinity."""
        if not is_finite(numbers):
            got = f"{self.learning_rate}, with which {name} became infinite or NaN"
            refuse("learning_rate", "be small enough to converge", got, "Pass a smaller one", FloatingPointError)
        return numbers


class Encoder(nn.Module):
    """From principal components of what is seen to the bottleneck: the first few of them, and a learned correction.

    The correction starts at zero, so that training starts from principal components and moves away only where that
    helps to predict.

    Args:
        n_rows: Principal components.
        n_extra: Further inputs that only the correction reads.
        settings: Of the cloze.
    """

    def __init__(self, n_rows: int, n_extra: int, settings: Settings) -> None:
        super().__init__()
        self.n_rows, self.n_components, width = n_rows, settings.n_components, settings.width
        first, last = nn.Linear(n_rows + n_extra, width), nn.Linear(width, self.n_components)
        self.correction = nn.Sequential(first, nn.LayerNorm(width), nn.SiLU(), last)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)

    def forward(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Return the embedding of inputs, [u, rows and extras], [u, k], and the correction in it."""
        correction = self.correction(inputs)
        straight = nn.functional.pad(inputs[:, : self.n_rows], (0, self.n_components - self.n_rows))  # or cut off
        return straight + correction, correction


class Decoder(nn.Module):
    """From a point and an embedding to a gradient; the embedding shifts and scales the hidden units.

    Args:
        n_axes: Coordinates of a point, and of a gradient, q.
        settings: Of the cloze.
    """

    def __init__(self, n_axes: int, settings: Settings) -> None:
        super().__init__()
        self.first = nn.Linear(n_axes, settings.width)
        self.second = nn.Linear(settings.width, settings.width)
        self.last = nn.Linear(settings.width, n_axes)
        self.shifts = nn.Linear(settings.n_components, 4 * settings.width)

    def forward(self, points: Tensor, embedded: Tensor, axes: Tensor | None = None) -> Tensor:
        """Return gradients, [u, m, d], at points, [u, m, d], of units with embeddings, [u, k], and axes, [u, q, d]."""
        a, b, c, d = self.shifts(embedded)[:, None].chunk(4, dim=2)  # [u, 1, width]
        hidden = nn.functional.silu(self.first(points if axes is None else points @ axes.mT) * (1 + a) + b)
        hidden = nn.functional.silu(self.second(hidden) * (1 + c) + d)
        predicted: Tensor = self.last(hidden)  # [u, m, q]
        return predicted if axes is None else predicted @ axes


def descend(
    networks: nn.Module, settings: Settings, loss_of: Callable[[], tuple[Tensor, Tensor]], *, clip: bool = False
) -> Iterator[tuple[int, float]]:
    """Take steps of AdamW; the learning rate rises for a tenth of them and falls to zero along a cosine.

    Args:
        networks: What learns.
        settings: Of the cloze.
        loss_of: Gives the loss, and the encoder's correction, which is kept small.
        clip: Whether gradients of norm above 1 are shortened to it.

    Yields:
        The number of each step, from 1 on, and the loss before it.
    """
    n = settings.max_steps
    optimizer = torch.optim.AdamW(networks.parameters(), lr=settings.learning_rate, weight_decay=0.01)

    def factor(step: int) -> float:
        return min((step + 1) / max(WARM_UP * n, 1), 1) * (1 + math.cos(math.pi * step / n)) / 2

    rate = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
    for step in range(1, n + 1):
        loss, correction = loss_of()
        settings.converged("the loss", loss.detach())
        optimizer.zero_grad(set_to_none=True)
        (loss + PENALTY * correction.square().sum(1).mean()).backward()
        if clip:
            nn.utils.clip_grad_norm_(networks.parameters(), 1.0)
        optimizer.step()
        rate.step()
        yield step, float(loss.detach())


class Cloze:
    """A cloze of fields in training: each unit in several views, with different points left out.

    Args:
        inputs: Of the encoder, from what is seen in each of v views, [v, u, p].
        n_rows: How many of them are principal components.
        hidden: What is left out, [v, u, m].
        fields: The units.
        axes: In which the decoder predicts, [u, q, d]; ``None`` for the layer's own.
        settings: How to train.

    Attributes:
        encoder: From inputs to the bottleneck.
        decoder: From a point and the bottleneck to a gradient.
        losses: Of each step.
        checks: Steps, and the loss on what is held out there.
    """

    def __init__(
        self, inputs: Tensor, n_rows: int, hidden: Tensor, fields: Canonical, axes: Tensor | None, settings: Settings
    ) -> None:
        self.inputs, self.hidden, self.fields, self.axes, self.settings = inputs, hidden, fields, axes, settings
        (n_views, u, p), width = inputs.shape, fields.points.shape[2] if axes is None else axes.shape[1]
        self.encoder = Encoder(n_rows, p - n_rows, settings)
        self.decoder = Decoder(width, settings)
        self.both = nn.ModuleList([self.encoder, self.decoder])
        order = torch.randperm(u)
        n_held = u // HELD_OUT if u >= ENOUGH else 0
        self.units, held = order[n_held:], order[:n_held]
        self.n_views = n_views if n_held else n_views - max(n_views // 4, 1)  # of at least two views, at least one
        seen = torch.arange(0 if n_held else self.n_views, n_views)
        self.held = torch.cartesian_prod(held if n_held else self.units, seen).T
        length = fields.gradients.square().sum(2).mean(1)  # [u]
        spread = (length - fields.gradients.mean(1).square().sum(1)).clamp_min(0)
        self.weights = torch.where(length > 0, 1 / (SPREAD_SHARE * spread + (1 - SPREAD_SHARE) * length), 0)
        self.losses: list[float] = []
        self.checks: list[tuple[int, float]] = []

    def train(self, *, progress: bool) -> None:
        """Take steps; end with the state that predicts best what is held out."""
        n, best, kept, state = self.settings.max_steps, math.inf, 0, {}
        with _progress.bar(n, f"cloze of {self.inputs.shape[1]} units", "step", wanted=progress) as bar:
            for step, loss in descend(self.both, self.settings, self._step_loss, clip=True):
                self.losses.append(loss)
                bar.update()
                if step % CHECK_EVERY and step < n:
                    continue
                held_out = self._held_out_loss()
                self.checks.append((step, held_out))
                bar.set_postfix({"held-out loss": f"{held_out:.3f}"}, refresh=False)
                if held_out < best:
                    best, kept, state = held_out, step, copy.deepcopy(self.both.state_dict())
                elif step - kept >= PATIENCE * CHECK_EVERY:
                    break
                if step < ALIGN_UNTIL * n and self.axes is not None:
                    with torch.no_grad():
                        embedded = self.encoder(self.inputs[torch.randint(self.n_views, ())])[0]
                    points = torch.randperm(self.fields.points.shape[1])[:ALIGN_POINTS]
                    self.axes = align_axes(self.decoder, embedded, self.fields, self.axes, points)
        self.both.load_state_dict(state)
        self.both.eval()

    def _step_loss(self) -> tuple[Tensor, Tensor]:
        units = self.units[torch.randperm(len(self.units))[:UNITS_PER_STEP]]
        seen = torch.randint(self.n_views, (len(units),))
        embedded, correction = self.encoder(self.inputs[seen, units])
        return self._loss(embedded + NOISE * torch.randn_like(embedded), units, seen), correction

    def _loss(self, embedded: Tensor, units: Tensor, seen: Tensor) -> Tensor:
        """Return the mean squared error at points drawn from those left out, in units of each unit's own spread."""
        points = torch.multinomial(self.hidden[seen, units].float(), POINTS_PER_STEP, replacement=True)
        a, g = self.fields.points[units[:, None], points], self.fields.gradients[units[:, None], points]
        error: Tensor = self.decoder(a, embedded, None if self.axes is None else self.axes[units]) - g
        return (error.square().sum(2).mean(1) * self.weights[units]).mean()

    @torch.no_grad()
    def _held_out_loss(self) -> float:
        units, seen = self.held
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(0)  # the same points at every check
            loss = self._loss(self.encoder(self.inputs[seen, units])[0], units, seen)
        return float(self.settings.converged("the loss on what is held out", loss))
