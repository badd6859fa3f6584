"""The cloze on rows of plain numbers."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor, nn

from gradembed import _context
from gradembed.embed._arguments import check_cloze
from gradembed.embed._cloze import NOISE, PENALTY
from gradembed.embed._network import Encoder, schedule
from gradembed.embed._reduction import Reduction


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
        self,
        n_components: int = 8,
        mask_fraction: float = 0.4,
        max_steps: int = 300,
        learning_rate: float = 3e-3,
        width: int = 64,
        random_state: Any = 0,
    ) -> None:
        self.n_components = n_components
        self.mask_fraction = mask_fraction
        self.max_steps = max_steps
        self.learning_rate = learning_rate
        self.width = width
        self.random_state = random_state

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
        """
        check_cloze(self)
        with _context.all_or_nothing(self):
            rows = torch.tensor(validate_data(self, X, dtype=np.float64, ensure_min_samples=2))
            self.reduction_ = Reduction.fit(rows, 2 * self.n_components)
            seed = int(check_random_state(self.random_state).randint(2**31 - 1))
            with _context.seeded(seed):
                self._train(rows)
            self.embedding_ = self._embed(rows)
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
        return self._embed(torch.tensor(validate_data(self, X, dtype=np.float64, reset=False)))

    def _train(self, rows: Tensor) -> None:
        p = rows.shape[1]
        n_rows = self.reduction_.matrix.shape[1]
        self.encoder_ = Encoder(n_rows, p, self.n_components, self.width).double()
        decoder = nn.Sequential(nn.Linear(self.n_components, self.width), nn.SiLU(), nn.Linear(self.width, p)).double()
        parameters = [*self.encoder_.parameters(), *decoder.parameters()]
        optimizer = torch.optim.AdamW(parameters, lr=self.learning_rate, weight_decay=0.01)
        n = self.max_steps
        rate = schedule(optimizer, n)
        centred = rows - self.reduction_.centre
        size = centred.square().mean().clamp_min(torch.finfo(torch.float64).tiny)
        losses = []
        for _ in range(n):
            hidden = torch.rand(rows.shape, dtype=torch.float64) < self.mask_fraction
            embedded, correction = self.encoder_(self._inputs(rows, hidden))
            wrong = (decoder(embedded + NOISE * torch.randn_like(embedded)) - centred / size.sqrt())[hidden].square()
            loss = wrong.sum() / max(int(hidden.sum()), 1)
            optimizer.zero_grad(set_to_none=True)
            (loss + PENALTY * correction.square().sum(1).mean()).backward()
            optimizer.step()
            rate.step()
            losses.append(float(loss.detach()))
        self.loss_curve_ = np.array(losses)

    def _inputs(self, rows: Tensor, hidden: Tensor) -> Tensor:
        """Give the encoder what it may see: left-out entries are at the mean, and marked.

        Returns:
            [n, inputs].
        """
        seen = torch.where(hidden, self.reduction_.centre, rows)
        return torch.cat([self.reduction_.apply(seen), hidden.to(rows)], 1)

    @torch.no_grad()
    def _embed(self, rows: Tensor) -> NDArray[np.float64]:
        embedded: NDArray[np.float64] = self.encoder_(self._inputs(rows, torch.zeros_like(rows).bool()))[0].numpy()
        return embedded
