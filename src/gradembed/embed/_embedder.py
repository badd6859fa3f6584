"""Embedders: few numbers per unit, or per row, from which a network can fill the gaps.

The cloze: an encoder of what is seen and a decoder of what is left out, trained together through a bottleneck.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor, nn

from gradembed import _context, _progress
from gradembed._validation import as_integer, as_number, as_tensor, check_choice, is_finite, refuse
from gradembed.embed._coordinates import Canonical, align_axes, principal_axes
from gradembed.embed._descriptor import FieldEstimator, PrincipalComponents, flipped
from gradembed.fields._fields import GradientFields, check_fields
from gradembed.fields._points import as_fraction, field_mask

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
ALIGN_ROUNDS = 4  # of the axes of a unit whose gradients are asked for


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
    """From principal components of what is seen to the bottleneck: the first few of them, and a learnt correction.

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


class GradientFieldEmbedder(FieldEstimator):
    """Few numbers per unit, learnt without labels, from which a network can fill the gaps in the unit's gradient field.

    The cloze: some points of each field are left out. An encoder sees the rest, averaged over points, and gives
    ``n_components`` numbers; a decoder gets these and the left-out points and predicts the gradients there. Units
    that compute the same function need the same numbers. Averages are those of `FieldDescriptor`, so the embedding has
    its invariance. The encoder starts from their principal components and learns a correction; with
    ``encoder="flat"`` it sees the gradients at shared points themselves, zero where left out, and which are left out.

    Embeddings are always computed from whole fields: nothing is left out after ``fit``.

    The decoder predicts in axes of the unit's own, the leading eigenvectors of E[g g']. An invariant embedding cannot
    say which way the axes point, so they are flipped and turned, during training and again in ``predict_gradients``,
    to where the prediction is best. Embeddings do not depend on them.

    Args:
        n_components: Size of the bottleneck, k.
        invariance: Which changes of basis leave the embedding as it is; as for `FieldDescriptor`.
        encoder: "set" takes any points in any order; "flat" needs shared points and a shared basis,
            ``invariance="none"``; "auto" chooses "flat" where that is possible.
        mask_fraction: Share of the points that is left out.
        max_steps: Steps of AdamW, at most. Training stops early when what is held out (one unit in eight or, with
            fewer than 24 units, some choices of left-out points) is not predicted better any more, and the
            best state is kept.
        random_state: Seed of everything that is drawn.
        mask_kind: "points", or "regions" for whole linear pieces; see `field_mask`.
        learning_rate: Its peak: it rises for a tenth of the steps and falls along a cosine.
        n_features: Random features of each kind of token.
        n_views: Choices of left-out points of each unit.
        width: Of the hidden layers.
        progress: Whether to draw a progress bar on standard error.

    Attributes:
        embedding_: Of the units of the fit, [u, k]: centered, in principal axes, not rescaled.
        loss_curve_: Training loss of each step: mean squared error in units of each unit's own spread of gradients.
        held_out_curve_: Steps and the loss on what is held out there, [checks, 2].
        n_features_in_: Dimension d of the fields.
        encoder_kind_: "set" or "flat".

    Example:
        >>> import torch, gradembed as ge
        >>> waves, x = ge.datasets.random_waves(3, dim=2), torch.rand(12, 100, 2) * 2 - 1
        >>> gradients = torch.stack([waves.gradient(points)[i % 3] for i, points in enumerate(x)])
        >>> values = torch.stack([waves(points)[i % 3] for i, points in enumerate(x)])
        >>> embedder = ge.GradientFieldEmbedder(n_components=4, max_steps=50, progress=False)
        >>> embedder.fit_transform(ge.GradientFields(x, gradients, values)).shape
        (12, 4)
    """

    def __init__(
        self, n_components: int = 8, invariance: str = "linear", encoder: str = "auto", mask_fraction: float = 0.4,
        max_steps: int = 1500, random_state: int = 0, *, mask_kind: str = "points", learning_rate: float = 3e-3,
        n_features: int = 512, n_views: int = 16, width: int = 64, progress: bool = True,
    ) -> None:  # fmt: skip
        self.n_components, self.invariance, self.encoder = n_components, invariance, encoder
        self.mask_fraction, self.max_steps, self.random_state = mask_fraction, max_steps, random_state
        self.mask_kind, self.learning_rate, self.n_features = mask_kind, learning_rate, n_features
        self.n_views, self.width, self.progress = n_views, width, progress

    def fit(self, fields: GradientFields, y: Any = None) -> Self:  # noqa: ARG002
        """Train the cloze. Labels and groups of the fields are not looked at.

        Args:
            fields: At least two units.
            y: Ignored.

        Returns:
            The fitted embedder.

        Raises:
            ValueError: If a setting is out of range, there are fewer than two units or points, a unit is constant, or
                the fields do not fit the encoder or the kind of mask.
            TypeError: If an argument has the wrong type.
            FloatingPointError: If training diverges, as with a learning rate that is far too large.
        """
        settings, n_views = Settings(self), as_integer("n_views", self.n_views, 2)
        check_choice("encoder", self.encoder, ("auto", "flat", "set"))
        check_choice("mask_kind", self.mask_kind, ("points", "regions"))
        check_fields("fields", fields, least_units=2, least_points=2)
        is_flat = self.invariance == "none" and fields.is_shared and self.encoder != "set"
        if self.encoder == "flat" and not is_flat:
            remedy = "Use encoder='set', or invariance='none' and fields at the same points"
            refuse("encoder", "be 'set' or 'auto' with an invariance or own points", "'flat'", remedy)
        with _context.all_or_nothing(self):
            self.encoder_kind_ = "flat" if is_flat else "set"
            self._fit_features(fields, is_flat=is_flat)
            canonical, seed = self.coordinates_.transform(fields), int(self.random_state)
            axes = None if self.invariance == "none" else principal_axes(canonical)
            self.n_axes_ = None if axes is None else axes.shape[1]
            seeds = range(seed * n_views, (seed + 1) * n_views)
            masks = [field_mask(fields, settings.mask_fraction, s, self.mask_kind).cpu() for s in seeds]
            self.components_ = PrincipalComponents(self.features_.transform(canonical), 2 * settings.n_components)
            inputs = torch.stack([self._inputs(canonical, mask) for mask in masks])  # [v, u, p]
            with _context.seeded(seed):
                cloze = Cloze(inputs, self.components_.n, torch.stack(masks), canonical, axes, settings)
                cloze.train(progress=self.progress)
            self.encoder_, self.decoder_ = cloze.encoder, cloze.decoder
            self.loss_curve_, self.held_out_curve_ = np.array(cloze.losses), np.array(cloze.checks)
            embedded = settings.converged("an embedding", self._embed(canonical))
            self.middle_ = embedded.mean(0)
            centered = embedded - self.middle_
            self.turn_ = flipped(torch.linalg.eigh(centered.mT @ centered).eigenvectors.flip(1).mT).mT
            self.embedding_ = (centered @ self.turn_).numpy()
        return self

    def transform(self, fields: GradientFields) -> NDArray[np.float64]:
        """Embed units, from all their points.

        Args:
            fields: Of the dimension of the fit; with ``encoder="flat"`` at its points.

        Returns:
            [u, k].

        Raises:
            NotFittedError: If `fit` was not called.
            ValueError: If the fields do not fit those of `fit`, or a unit is constant.
            TypeError: If they are no `GradientFields`.
        """
        return np.asarray((self._embed(self._canonical(fields)) - self.middle_) @ self.turn_)

    def fit_transform(self, fields: GradientFields, y: Any = None) -> NDArray[np.float64]:
        """Fit, and give the embedding of the same units.

        Args:
            fields: As for `fit`.
            y: Ignored.

        Returns:
            ``embedding_``, [u, k].
        """
        return self.fit(fields, y).embedding_

    def predict_gradients(self, fields: GradientFields, points: Tensor) -> Tensor:
        """Decode: the gradients that the embeddings of units stand for, at any points.

        The fields say where each unit lies (center, covariance, axes, scale) and what is embedded; their gradients
        at the asked points are never needed.

        Args:
            fields: The units, as for `transform`.
            points: In the layer's own coordinates, [m, d] for all units or [u, m, d]; a tensor, array or list.

        Returns:
            [u, m, d], in the layer's own coordinates.

        Raises:
            NotFittedError: If `fit` was not called.
            ValueError: If fields or points do not fit those of `fit`.
            TypeError: If one of them has the wrong type.
        """
        canonical = self._canonical(fields)
        asked = as_tensor("points", points, "m d|u m d", u=len(fields), d=fields.dim).cpu()
        embedded, axes = self._embed(canonical).float(), None
        if self.n_axes_ is not None:
            chosen = torch.linspace(0, fields.n_points - 1, min(fields.n_points, 4 * ALIGN_POINTS)).long()
            axes = principal_axes(canonical, self.n_axes_)
            axes = align_axes(self.decoder_, embedded, canonical, axes, chosen, ALIGN_ROUNDS)
        with torch.no_grad():
            predicted = self.decoder_(canonical.transform(asked.expand(len(fields), -1, -1)), embedded, axes)
        return canonical.inverse_transform(predicted).to(fields.gradients)

    def _inputs(self, canonical: Canonical, hidden: Tensor) -> Tensor:
        """Return what the encoder may see, [u, inputs], with points left out where ``hidden``, [u, m], is true."""
        rows = self.components_.transform(self.features_.transform(canonical, ~hidden))
        return rows if self.encoder_kind_ == "set" else torch.cat([rows, hidden.float()], 1)

    @torch.no_grad()
    def _embed(self, canonical: Canonical) -> Tensor:
        """Return the bottleneck for whole fields, [u, k], in float64."""
        nothing = torch.zeros(canonical.gradients.shape[:2], dtype=torch.bool)
        return self.encoder_.forward(self._inputs(canonical, nothing))[0].double()


class RowEmbedder(TransformerMixin, BaseEstimator):
    """Few numbers per row from which the gaps in the row can be filled: the cloze on plain arrays.

    Entries of each row are left out at random; an encoder sees the rest, and which are left out, and a decoder
    predicts them from ``n_components`` numbers. It starts from principal components and learns what they
    miss. Rows may be gradients on a static grid, flattened, or anything else that is numbers in columns; scale them
    as they should count. Rows are embedded whole.

    Args:
        n_components: Size of the bottleneck, k.
        mask_fraction: Share of the entries that is left out.
        max_steps: Steps of AdamW.
        learning_rate: Its peak: it rises for a tenth of the steps and falls along a cosine.
        width: Of the hidden layers.
        random_state: Seed, or a generator of numpy.

    Attributes:
        embedding_: Of the rows of the fit, [n, k].
        loss_curve_: Mean squared error at left-out entries in each step, in units of the rows' mean square.
        n_features_in_: Number of columns.

    Example:
        >>> import numpy as np
        >>> import gradembed as ge
        >>> x = np.linspace(-1, 1, 20)
        >>> rows = np.array([np.cos(c + i * x) for i in (1, 4) for c in (0, 0.1, 0.2)])
        >>> ge.RowEmbedder(n_components=2, max_steps=50).fit_transform(rows).shape
        (6, 2)
    """

    def __init__(
        self, n_components: int = 8, mask_fraction: float = 0.4, max_steps: int = 300, learning_rate: float = 3e-3,
        width: int = 64, random_state: Any = 0,
    ) -> None:  # fmt: skip
        self.n_components, self.mask_fraction, self.max_steps = n_components, mask_fraction, max_steps
        self.learning_rate, self.width, self.random_state = learning_rate, width, random_state

    def fit(self, X: Any, y: Any = None) -> Self:  # noqa: ARG002, N803
        """Train the cloze.

        Args:
            X: Rows, [n, p], at least two.
            y: Ignored.

        Returns:
            The fitted embedder.

        Raises:
            ValueError: If the rows are no finite numbers, or a setting is out of range.
            TypeError: If a setting has the wrong type.
            FloatingPointError: If training diverges, as with a learning rate that is far too large.
        """
        settings = Settings(self)
        with _context.all_or_nothing(self):
            rows = torch.tensor(validate_data(self, X, dtype=np.float64, ensure_min_samples=2))
            p, k, width = rows.shape[1], settings.n_components, settings.width
            self.components_ = PrincipalComponents(rows, 2 * k)
            centered = rows - self.components_.center
            size = centered.square().mean().clamp_min(torch.finfo(torch.float64).tiny)

            def loss_of() -> tuple[Tensor, Tensor]:
                hidden = torch.rand(rows.shape, dtype=torch.float64) < settings.mask_fraction
                embedded, correction = self.encoder_(self._inputs(rows, hidden))
                filled = decoder(embedded + NOISE * torch.randn_like(embedded))
                wrong = (filled - centered / size.sqrt())[hidden].square()
                return wrong.sum() / max(int(hidden.sum()), 1), correction

            with _context.seeded(int(check_random_state(self.random_state).randint(2**31 - 1))):
                self.encoder_ = Encoder(self.components_.n, p, settings).double()
                decoder = nn.Sequential(nn.Linear(k, width), nn.SiLU(), nn.Linear(width, p)).double()
                steps = descend(nn.ModuleList([self.encoder_, decoder]), settings, loss_of)
                self.loss_curve_ = np.array([loss for _, loss in steps])
            self.embedding_ = settings.converged("an embedding", self._embed(rows)).numpy()
        return self

    def transform(self, X: Any) -> NDArray[np.float64]:  # noqa: N803
        """Embed whole rows.

        Args:
            X: [n, p].

        Returns:
            [n, k].

        Raises:
            NotFittedError: If `fit` was not called.
            ValueError: If the rows are no finite numbers, or have other columns than in `fit`.
        """
        check_is_fitted(self)
        return np.asarray(self._embed(torch.tensor(validate_data(self, X, dtype=np.float64, reset=False))))

    def _inputs(self, rows: Tensor, hidden: Tensor) -> Tensor:
        """Return what the encoder may see, [n, inputs]: left-out entries are at the mean, and marked."""
        seen = torch.where(hidden, self.components_.center, rows)
        return torch.cat([self.components_.transform(seen), hidden.to(rows)], 1)

    @torch.no_grad()
    def _embed(self, rows: Tensor) -> Tensor:
        return self.encoder_.forward(self._inputs(rows, torch.zeros_like(rows).bool()))[0]
