"""Training of the cloze: predict the gradients at left-out points from the rest, through a bottleneck."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gradembed import _progress
from gradembed.embed._canonical import Canonical
from gradembed.embed._network import Decoder, Encoder, schedule
from gradembed.embed._poses import turn_axes

UNITS_PER_STEP = 160
POINTS_PER_STEP = 32
NOISE = 0.25  # on the embedding, whose inputs have spread 1: what tells less than this apart is not worth telling
PENALTY = 0.016  # on the squared correction
SPREAD_SHARE = 0.9  # of a unit's weight: how far its gradients vary; the rest: how long they are
CHECK_EVERY = 50
PATIENCE = 8  # checks without a better one
HELD_OUT = 8  # one unit in so many is not learned from
ENOUGH = 24  # with fewer units, none is spared, and views are held out instead
POSE_POINTS = 64
POSES_UNTIL = 0.8  # of the steps


@dataclass(frozen=True)
class Views:
    """Each unit several times, with different points left out. In shapes, v counts views.

    Attributes:
        inputs: Of the encoder, from what is seen, [v, u, p].
        hidden: What is left out, [v, u, m].
        n_rows: How many of the inputs are principal components.
    """

    inputs: Tensor
    hidden: Tensor
    n_rows: int


@dataclass(frozen=True)
class Settings:
    """How the cloze is trained: as for `GradientFieldEmbedder`."""

    n_components: int
    width: int
    max_steps: int
    learning_rate: float
    progress: bool


class Cloze:
    """A cloze in training.

    Attributes:
        encoder: From inputs to the bottleneck.
        decoder: From a point and the bottleneck to a gradient.
        losses: Of each step.
        checks: Steps, and the loss on what is held out there.
    """

    def __init__(self, views: Views, fields: Canonical, axes: Tensor, settings: Settings) -> None:
        self.views, self.fields, self.axes, self.settings = views, fields, axes, settings
        n_views, u, p = views.inputs.shape
        self.encoder = Encoder(views.n_rows, p - views.n_rows, settings.n_components, settings.width)
        self.decoder = Decoder(axes.shape[1], settings.n_components, settings.width)
        self.both = nn.ModuleList([self.encoder, self.decoder])
        order = torch.randperm(u)
        n_held = u // HELD_OUT if u >= ENOUGH else 0
        self.units, held = order[n_held:], order[:n_held]
        self.n_views = n_views if n_held else max(n_views - max(n_views // 4, 1), 1)
        seen = torch.arange(0 if n_held else self.n_views, n_views)
        seen = seen if len(seen) else torch.zeros(1, dtype=torch.int64)
        self.held = torch.cartesian_prod(held if n_held else self.units, seen).T
        length = fields.gradients.square().sum(2).mean(1)
        spread = length - fields.gradients.mean(1).square().sum(1)
        weighed = SPREAD_SHARE * spread.clamp_min(0) + (1 - SPREAD_SHARE) * length
        self.weights = torch.where(length > 0, 1 / weighed, 0)
        self.losses: list[float] = []
        self.checks: list[tuple[int, float]] = []

    def train(self) -> None:
        """Take steps; end with the state that predicts best what is held out."""
        settings = self.settings
        optimizer = torch.optim.AdamW(self.both.parameters(), lr=settings.learning_rate, weight_decay=0.01)
        n = settings.max_steps
        rate = schedule(optimizer, n)
        best, state = float("inf"), copy.deepcopy(self.both.state_dict())
        with _progress.bar(n, f"cloze of {len(self.axes)} units", "step", wanted=settings.progress) as bar:
            for step in range(1, n + 1):
                self._step(optimizer)
                rate.step()
                bar.update()
                if step % CHECK_EVERY and step < n:
                    continue
                loss = self._held_out_loss()
                self.checks.append((step, loss))
                bar.set_postfix({"held-out loss": f"{loss:.3f}"}, refresh=False)
                if loss < best:
                    best, state, kept = loss, copy.deepcopy(self.both.state_dict()), step
                elif step - kept >= PATIENCE * CHECK_EVERY:
                    break
                if step < POSES_UNTIL * n:
                    self._turn()
        self.both.load_state_dict(state)
        self.both.eval()

    def _step(self, optimizer: torch.optim.Optimizer) -> None:
        units = self.units[torch.randperm(len(self.units))[:UNITS_PER_STEP]]
        seen = torch.randint(self.n_views, (len(units),))
        embedded, correction = self.encoder(self.views.inputs[seen, units])
        loss = self._loss(embedded + NOISE * torch.randn_like(embedded), units, seen)
        optimizer.zero_grad(set_to_none=True)
        (loss + PENALTY * correction.square().sum(1).mean()).backward()
        nn.utils.clip_grad_norm_(self.both.parameters(), 1.0)
        optimizer.step()
        self.losses.append(float(loss.detach()))

    def _loss(self, embedded: Tensor, units: Tensor, seen: Tensor) -> Tensor:
        """Predict at points drawn from those left out.

        Returns:
            The mean squared error in units of each unit's own spread.
        """
        points = torch.multinomial(self.views.hidden[seen, units].float(), POINTS_PER_STEP, replacement=True)
        a, g = self.fields.points[units[:, None], points], self.fields.gradients[units[:, None], points]
        axes = self.axes[units]
        error = self.decoder(a @ axes.mT, embedded) @ axes - g
        loss: Tensor = (error.square().sum(2).mean(1) * self.weights[units]).mean()
        return loss

    @torch.no_grad()
    def _held_out_loss(self) -> float:
        units, seen = self.held
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(0)  # the same points at every check
            return float(self._loss(self.encoder(self.views.inputs[seen, units])[0], units, seen))

    @torch.no_grad()
    def _turn(self) -> None:
        if self.axes.stride(0) == 0:  # one basis for all
            return
        view = int(torch.randint(self.n_views, ()))
        embedded = self.encoder(self.views.inputs[view])[0]
        points = torch.randperm(self.fields.points.shape[1])[:POSE_POINTS]
        self.axes = turn_axes(self.decoder, embedded, self.fields, self.axes, points)
