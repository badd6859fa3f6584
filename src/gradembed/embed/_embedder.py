"""Units embedded by a cloze: what must be remembered of a field to fill its gaps."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from gradembed import _context
from gradembed._signs import upright
from gradembed.embed._arguments import (
    check_like_fit,
    check_points,
    check_settings,
    check_units,
    choose_encoder,
    shared_points,
)
from gradembed.embed._canonical import Canonical, Coordinates
from gradembed.embed._cloze import POSE_POINTS, Cloze, Settings, Views
from gradembed.embed._pooling import Pooling, pooling_kind
from gradembed.embed._poses import count_axes, principal_axes, turn_axes
from gradembed.embed._reduction import Reduction
from gradembed.fields import GradientFields, field_mask

POSE_ROUNDS = 4


class GradientFieldEmbedder(BaseEstimator):
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
        embedding_: Of the units of the fit, [u, k]: centred, in principal axes, not rescaled.
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
        self,
        n_components: int = 8,
        invariance: str = "linear",
        encoder: str = "auto",
        mask_fraction: float = 0.4,
        max_steps: int = 1500,
        random_state: int = 0,
        *,
        mask_kind: str = "points",
        learning_rate: float = 3e-3,
        n_features: int = 512,
        n_views: int = 16,
        width: int = 64,
        progress: bool = True,
    ) -> None:
        self.n_components = n_components
        self.invariance = invariance
        self.encoder = encoder
        self.mask_fraction = mask_fraction
        self.max_steps = max_steps
        self.random_state = random_state
        self.mask_kind = mask_kind
        self.learning_rate = learning_rate
        self.n_features = n_features
        self.n_views = n_views
        self.width = width
        self.progress = progress

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
        """
        check_settings(self)
        check_units(fields, 2)
        with _context.all_or_nothing(self):
            self.encoder_kind_ = choose_encoder(self.encoder, self.invariance, fields)
            self.n_features_in_, self.has_values_ = fields.dim, fields.values is not None
            self.points_ = shared_points(fields) if self.encoder_kind_ == "flat" else None
            self.coordinates_ = Coordinates.fit(fields, self.invariance)
            kind = pooling_kind(self.invariance, is_flat=self.encoder_kind_ == "flat")
            self.pooling_ = Pooling.draw(kind, fields.dim, self.has_values_, self.n_features, self.random_state)
            canonical = self.coordinates_.apply(fields)
            self.n_axes_ = count_axes(canonical)
            self._train(canonical, self._masks(fields))
            embedded = self._embed(canonical).double()
            self.middle_ = embedded.mean(0)
            centred = embedded - self.middle_
            self.turn_ = upright(torch.linalg.eigh(centred.mT @ centred).eigenvectors.flip(1).mT).mT
            self.embedding_ = (centred @ self.turn_).numpy()
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
        canonical = self._canonical(fields)
        embedding: NDArray[np.float64] = ((self._embed(canonical).double() - self.middle_) @ self.turn_).numpy()
        return embedding

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

        The fields say where each unit lies (centre, covariance, axes, scale) and what is embedded; their gradients
        at the asked points are never needed.

        Args:
            fields: The units, as for `transform`.
            points: In the layer's own coordinates, [m, d] for all units or [u, m, d].

        Returns:
            [u, m, d], in the layer's own coordinates.

        Raises:
            NotFittedError: If `fit` was not called.
            ValueError: If fields or points do not fit those of `fit`.
            TypeError: If one of them has the wrong type.
        """
        canonical = self._canonical(fields)
        check_points(points, fields)
        embedded = self._embed(canonical)
        axes = self._axes(canonical)
        if self.invariance != "none":
            n = canonical.points.shape[1]
            chosen = torch.linspace(0, n - 1, min(n, 4 * POSE_POINTS)).long()
            axes = turn_axes(self.decoder_, embedded, canonical, axes, chosen, POSE_ROUNDS)
        asked = points.cpu().expand(len(fields), -1, -1)
        with torch.no_grad():
            predicted = self.decoder_(canonical.place(asked) @ axes.mT, embedded) @ axes
        return canonical.restore(predicted).to(fields.gradients)

    def _canonical(self, fields: GradientFields) -> Canonical:
        check_is_fitted(self)
        check_like_fit(fields, self.n_features_in_, self.has_values_, self.points_)
        return self.coordinates_.apply(fields)

    def _masks(self, fields: GradientFields) -> Tensor:
        """Choose what is left out.

        Returns:
            [v, u, m].
        """
        first = self.random_state * self.n_views
        masks = [
            field_mask(fields, self.mask_fraction, seed=first + view, kind=self.mask_kind)
            for view in range(self.n_views)
        ]
        return torch.stack(masks).cpu()

    def _train(self, canonical: Canonical, masks: Tensor) -> None:
        self.reduction_ = Reduction.fit(self.pooling_.rows(canonical), 2 * self.n_components)
        inputs = torch.stack([self._inputs(canonical, mask) for mask in masks])
        views = Views(inputs, masks, self.reduction_.matrix.shape[1])
        settings = Settings(self.n_components, self.width, self.max_steps, self.learning_rate, self.progress)
        with _context.seeded(self.random_state):
            cloze = Cloze(views, canonical, self._axes(canonical), settings)
            cloze.train()
        self.encoder_, self.decoder_ = cloze.encoder, cloze.decoder
        self.loss_curve_, self.held_out_curve_ = np.array(cloze.losses), np.array(cloze.checks)

    def _axes(self, canonical: Canonical) -> Tensor:
        if self.invariance == "none":
            return torch.eye(self.n_features_in_).expand(len(canonical.gradients), -1, -1)
        return principal_axes(canonical, self.n_axes_)

    def _inputs(self, canonical: Canonical, hidden: Tensor | None) -> Tensor:
        """Give the encoder what it may see.

        Args:
            canonical: The units.
            hidden: True where a point is left out, [u, m]; ``None`` if none is.

        Returns:
            [u, inputs].
        """
        rows = self.reduction_.apply(self.pooling_.rows(canonical, None if hidden is None else ~hidden))
        if self.encoder_kind_ == "set":
            return rows
        u, m, _ = canonical.gradients.shape
        marks = torch.zeros(u, m) if hidden is None else hidden.float()
        return torch.cat([rows, marks], 1)

    @torch.no_grad()
    def _embed(self, canonical: Canonical) -> Tensor:
        embedded: Tensor = self.encoder_(self._inputs(canonical, None))[0]
        return embedded
