"""Embedders: few numbers per unit, or per row, from which a network can fill the gaps."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils import check_random_state
from sklearn.utils.extmath import svd_flip
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor, nn

from gradembed import _context
from gradembed._validation import as_integer, as_tensor, check_choice, refuse
from gradembed.embed._cloze import ALIGN_POINTS, NOISE, Cloze, Encoder, Settings, descend
from gradembed.embed._coordinates import INVARIANCES, Canonical, align_axes, principal_axes
from gradembed.embed._features import FieldEstimator
from gradembed.fields._fields import GradientFields, check_fields
from gradembed.fields._points import field_mask

ALIGN_ROUNDS = 4
FLOOR = 1e-6  # components with less than this share of the largest spread are rounding


class GradientFieldEmbedder(FieldEstimator):
    """A few numbers per unit, learned without labels, from which a network can fill the gaps in the gradient field.

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
        origin: Whether zero has a meaning; as for `FieldDescriptor`.
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
        self, n_components: int = 8, invariance: str = "permutation", encoder: str = "auto", mask_fraction: float = 0.4,
        max_steps: int = 1500, random_state: int = 0, *, mask_kind: str = "points", learning_rate: float = 3e-3,
        n_features: int = 256, n_views: int = 16, width: int = 64, origin: bool = True, progress: bool = True,
    ) -> None:  # fmt: skip
        self.n_components, self.invariance, self.encoder = n_components, invariance, encoder
        self.mask_fraction, self.max_steps, self.random_state = mask_fraction, max_steps, random_state
        self.mask_kind, self.learning_rate, self.n_features = mask_kind, learning_rate, n_features
        self.n_views, self.width, self.origin, self.progress = n_views, width, origin, progress

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
        check_choice("invariance", str(self.invariance), INVARIANCES)  # by name
        check_choice("encoder", self.encoder, ("auto", "flat", "set"))
        check_choice("mask_kind", self.mask_kind, ("points", "regions"))
        check_fields("fields", fields, least_units=2, least_points=2)
        is_flat = self.invariance == "none" and fields.is_shared and self.encoder != "set"
        if self.encoder == "flat" and not is_flat:
            remedy = "Use encoder='set', or invariance='none' and fields at the same points"
            refuse("encoder", "be 'set' or 'auto' with an invariance or own points", "'flat'", remedy)
        with _context.all_or_nothing(self):
            self.encoder_kind_ = "flat" if is_flat else "set"
            self._fit_features(fields, is_flat=is_flat, whiten=True)
            canonical, seed = self.coordinates_.transform(fields), int(self.random_state)
            axes = None if self.invariance == "none" else principal_axes(canonical)
            self.n_axes_ = None if axes is None else axes.shape[1]
            seeds = range(seed * n_views, (seed + 1) * n_views)
            masks = [field_mask(fields, settings.mask_fraction, s, self.mask_kind).cpu() for s in seeds]
            rows = self._standardized(fields, self.features_.transform(canonical)[0])
            self.components_ = PrincipalComponents(rows, 2 * settings.n_components)
            inputs = self._inputs(canonical, torch.stack(masks))  # [v, u, p]
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
        self._check_kind(fields)
        return np.asarray((self._embed(self.coordinates_.transform(fields)) - self.middle_) @ self.turn_)

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
        self._check_kind(fields)
        canonical = self.coordinates_.transform(fields)
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
        """Return what the encoder may see, [v, u, inputs], without the points that are ``hidden``, [v, u, m]."""
        rows = self.components_.transform(self.features_.transform(canonical, ~hidden))
        return rows if self.encoder_kind_ == "set" else torch.cat([rows, hidden.float()], 2)

    @torch.no_grad()
    def _embed(self, canonical: Canonical) -> Tensor:
        """Return the bottleneck for whole fields, [u, k], in float64."""
        nothing = torch.zeros(1, *canonical.gradients.shape[:2], dtype=torch.bool)
        return self.encoder_.forward(self._inputs(canonical, nothing)[0])[0].double()


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


class PrincipalComponents:
    """A projection on principal components, all divided by one number: distances keep their proportions.

    Args:
        rows: What to find the components of, [u, p].
        k: How many; fewer if the rows have fewer.

    Attributes:
        n: How many there are.
        center: Mean row, [p].
        matrix: [p, n].
    """

    def __init__(self, rows: Tensor, k: int) -> None:
        center = rows.double().mean(0)
        centered = rows.double() - center
        _, spreads, vectors = torch.linalg.svd(centered, full_matrices=False)
        self.n = min(max(int((spreads > FLOOR * spreads[0]).sum()), 1), k)
        basis = flipped(vectors[: self.n]).T
        size = (centered @ basis).square().mean().sqrt()
        self.center, self.matrix = center.to(rows), (basis / torch.where(size > 0, size, 1)).to(rows)

    def transform(self, rows: Tensor) -> Tensor:
        """Return rows, [..., p], projected, [..., n]."""
        return (rows - self.center) @ self.matrix


def flipped(vectors: Tensor) -> Tensor:
    """Return vectors, [k, p], with the signs that make the largest entry of each positive."""
    return torch.from_numpy(svd_flip(None, vectors.numpy().copy("K"), u_based_decision=False)[1])
