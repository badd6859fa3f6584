"""Two dimensions, for pictures only."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from importlib.util import find_spec

import numpy as np
import torch
from jaxtyping import Float64
from numpy.typing import NDArray
from sklearn.decomposition import PCA
from torch import Tensor

from gradembed import _context, _validation
from gradembed.metrics._inputs import Array, numbers

N_NEIGHBOURS = 15
FEWEST = 4  # units that UMAP can lay out


@dataclass(frozen=True, repr=False)
class Projection:
    """Where to draw each unit.

    Attributes:
        coordinates: One point per unit, [u, 2].
        method: "umap" or "pca", for the axis labels.

    Example:
        >>> import torch, gradembed as ge
        >>> ge.metrics.project_2d(torch.randn(20, 8), method="pca")
        Projection(20 units, pca)
    """

    coordinates: Float64[Tensor, "u 2"]
    method: str

    def __repr__(self) -> str:
        return f"Projection({len(self.coordinates)} units, {self.method})"


def project_2d(z: Array, seed: int = 0, method: str = "auto") -> Projection:
    """Lay embeddings out in two dimensions, for pictures only: no number should be computed from the result.

    UMAP keeps neighbours together; distances between clusters and the sizes of clusters mean nothing in it, and it
    draws clusters into noise. PCA keeps the two directions of greatest variance, with distances as they are in them.
    The first call of UMAP in a process compiles for 10 to 20 seconds.

    Args:
        z: Embeddings, [u, k].
        seed: Of UMAP; PCA draws nothing.
        method: "umap", "pca", or "auto" for UMAP where umap-learn is installed and there are four units or more,
            else PCA.

    Returns:
        Coordinates and the name of the method, which belongs into the figure. A constant embedding is one point.

    Raises:
        ValueError: If ``z`` is no finite [u, k] of two units or more (four for UMAP), ``seed`` is negative or
            ``method`` unknown.
        TypeError: If an argument has the wrong type.
        ImportError: If UMAP is asked for by name and umap-learn is missing.

    Example:
        >>> import torch, gradembed as ge
        >>> ge.metrics.project_2d(torch.randn(20, 8), method="pca").coordinates.shape
        torch.Size([20, 2])
    """
    points = numbers("z", z)
    _validation.check_integer("seed", seed, 0)
    _validation.check_choice("method", method, ("auto", "umap", "pca"))
    installed = find_spec("umap") is not None
    if method == "auto":
        method = "umap" if installed and len(points) >= FEWEST else "pca"
    least = FEWEST if method == "umap" else 2
    if len(points) < least:
        _validation.refuse("z", f"hold {least} units or more for {method}", len(points), "Pass more units")
    if method == "umap" and not installed:
        remedy = "Install umap-learn, or use method='pca'"
        _validation.refuse("method", "be installed", "'umap' without umap-learn", remedy, ImportError)
    if points.shape[1] < 2:
        points = np.pad(points, ((0, 0), (0, 1)))
    if not np.ptp(points, axis=0).any():
        layout = np.zeros((len(points), 2))
    else:
        layout = _umap(points, seed) if method == "umap" else PCA(2, svd_solver="full").fit_transform(points)
    return Projection(torch.from_numpy(np.ascontiguousarray(layout, dtype=np.float64)), method)


def _umap(points: NDArray[np.float64], seed: int) -> NDArray[np.float64]:
    """Lay out by UMAP, starting from PCA; on one thread, without which a seed does not fix the result.

    Returns:
        Coordinates, [u, 2].
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Tensorflow not installed", ImportWarning)  # of a part not used here
        from umap import UMAP
    reducer = UMAP(n_neighbors=min(N_NEIGHBOURS, len(points) - 1), init="pca", n_jobs=1, random_state=seed)
    with _context.kept_threads():
        return np.asarray(reducer.fit_transform(points))
