"""The gradient tree as a result: nodes, where they hang, and what to ask them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from gradembed._validation import as_integer, check_layer, refuse

if TYPE_CHECKING:
    import pandas as pd

MAX_SIMILARITY = 10_000  # nodes: 400 MB in single precision


@dataclass(frozen=True, repr=False, eq=False)
class GradientTree:
    """Samples sorted by their gradients, layer by layer: a partition for each root that gets finer going down.

    A root is one unit. A node at a layer is a set of samples at which that root has the same gradient with respect
    to the layer's activations, and came to it the same way: nodes of different parents stay apart, also where
    their gradients agree. Within a layer, nodes are ordered by root, then from most to fewest samples, then by their
    first sample. All dictionaries have the layers as keys, from the top (next to the root) down; c differs between
    layers. With few samples per node, a direction speaks for those few only: see ``counts``.

    Attributes:
        directions: Of the nodes' gradients, length 1, [c, d]; a zero gradient has a row of zeros.
        norms: Of the gradients, [c]; of merged ones (``tolerance``) the mean over the node's samples.
        parents: Index of each node's parent in the layer above, [c]; -1 at the top.
        roots: Index of each node's root in ``root_labels``, [c].
        counts: Samples in each node, [c]: per root and layer they add up to n. With mode "product" 0
            for combinations that never happen.
        nodes: The node of each root and sample, [r, n].
        samples: Index of each sample in the tensor that the tree was made from, [n].
        root_labels: The units' indices in ``unit_layer``, one label for each root.
        unit_layer: The layer that the roots belong to.
        mode: "realised" or "product".
        tolerance: Cosine distance up to which gradients were merged; ``None`` if told apart exactly.

    Example:
        >>> import gradembed as ge
        >>> tree = ge.gradient_tree(ge.MLP([4, 8, 8, 3], seed=0), ge.datasets.load_iris().x_test)
        >>> [int(count) for count in tree.counts["hidden1"][tree.roots["hidden1"] == 0]]
        [7, 7, 5, 4, 2, 2, 2, 1]
        >>> tree.subtree("hidden1", 0).n_samples
        7
    """

    directions: dict[str, Float[Tensor, "_ _"]]
    norms: dict[str, Float64[Tensor, " _"]]
    parents: dict[str, Int64[Tensor, " _"]]
    roots: dict[str, Int64[Tensor, " _"]]
    counts: dict[str, Int64[Tensor, " _"]]
    nodes: dict[str, Int64[Tensor, "r n"]]
    samples: Int64[Tensor, " n"]
    root_labels: tuple[str, ...]
    unit_layer: str
    mode: str = "realised"
    tolerance: float | None = None

    @property
    def layers(self) -> tuple[str, ...]:
        """The layers, from the one next to the root down."""
        return tuple(self.directions)

    @property
    def n_samples(self) -> int:
        """The number of samples."""
        return len(self.samples)

    def __repr__(self) -> str:
        sizes = ", ".join(f"{layer}: {len(norms):,}" for layer, norms in self.norms.items())
        merged = "" if self.tolerance is None else f", merged within a cosine distance of {self.tolerance:g}"
        roots = f"{len(self.root_labels)} root{'s' if len(self.root_labels) != 1 else ''} of {self.unit_layer!r}"
        return f"GradientTree({roots}, nodes {{{sizes}}}, {self.n_samples:,} samples, {self.mode}{merged})"

    def subtree(self, layer: str, node: int) -> GradientTree:
        """Cut out a node with all that hangs below it.

        Args:
            layer: The node's layer.
            node: Its index there.

        Returns:
            A tree of that one node, its descendants and its samples; layers above it are gone.

        Raises:
            ValueError: If there is no such layer or node.
            TypeError: If the layer is no string or the node no integer.

        Example:
            >>> import gradembed as ge
            >>> tree = ge.gradient_tree(ge.MLP([4, 8, 8, 3], seed=0), ge.datasets.load_iris().x_test)
            >>> part = tree.subtree("hidden1", 1)
            >>> part.layers, part.samples.tolist() == tree.nodes["hidden1"][0].eq(1).nonzero().flatten().tolist()
            (('hidden1', 'input'), True)
        """
        check_layer("layer", layer, self.layers)
        node, last = as_integer("node", node), len(self.norms[layer]) - 1
        if not 0 <= node <= last:
            refuse("node", f"lie between 0 and {last}, the nodes of {layer!r}", node, "Look at largest(layer)")
        root = int(self.roots[layer][node])
        members = self.nodes[layer][root] == node
        parents = {layer: torch.tensor([-1])}
        places = {layer: torch.full((last + 1,), -1).index_fill(0, torch.tensor([node]), 0)}  # in the subtree, or -1
        path = self.layers[self.layers.index(layer) :]
        for above, name in pairwise(path):
            upper = places[above][self.parents[name]]
            parents[name] = upper[upper >= 0]
            places[name] = torch.where(upper >= 0, (upper >= 0).cumsum(0) - 1, -1)

        def kept(table: dict[str, Tensor]) -> dict[str, Tensor]:
            return {name: table[name][place >= 0] for name, place in places.items()}

        tables: dict[str, Any] = {name: kept(getattr(self, name)) for name in ("directions", "norms", "counts")}
        roots = {name: torch.zeros_like(above) for name, above in parents.items()}
        nodes = {name: place[self.nodes[name][root, members]][None] for name, place in places.items()}
        ties: dict[str, Any] = {"parents": parents, "roots": roots, "nodes": nodes}
        return replace(self, **tables, **ties, samples=self.samples[members], root_labels=(self.root_labels[root],))

    def similarity(self, layer: str) -> Float[Tensor, "c c"]:
        """Cosines between the directions of all nodes of a layer.

        1 is the same direction, 0 a right angle, -1 the opposite; nodes with a zero gradient have 0 to all, themselves
        included. Chance level: independent random directions in d dimensions reach ±1/sqrt(d), about.

        Args:
            layer: Which one.

        Returns:
            Cosines, [c, c].

        Raises:
            ValueError: If there is no such layer, or it has more than 10,000 nodes.
            TypeError: If the layer is no string.

        Example:
            >>> import gradembed as ge
            >>> tree = ge.gradient_tree(ge.MLP([4, 8, 8, 3], seed=0), ge.datasets.load_iris().x_test)
            >>> tree.similarity("hidden2").shape
            torch.Size([3, 3])
        """
        check_layer("layer", layer, self.layers)
        directions = self.directions[layer]
        if len(directions) > MAX_SIMILARITY:
            rule = f"have at most {MAX_SIMILARITY:,} nodes for a matrix of all pairs"
            remedy = "Take a subtree(layer, node), or choose directions by to_frame() and multiply those"
            refuse("layer", rule, f"{len(directions):,} at {layer!r}", remedy)
        return (directions @ directions.T).clamp_(-1, 1)

    def largest(self, layer: str, k: int = 10) -> pd.DataFrame:
        """The nodes of a layer with the most samples.

        Args:
            layer: Which one.
            k: How many at most.

        Returns:
            Columns ``node``, ``root`` (its label), ``count``, ``share`` (of the samples), ``norm``, ``n_children`` (in
            the next layer down, 0 at the lowest), ``n_leaves`` (of the lowest layer, the node itself included).

        Raises:
            ValueError: If there is no such layer, or ``k`` is below 1.
            TypeError: If the layer is no string or ``k`` no integer.

        Example:
            >>> import gradembed as ge
            >>> tree = ge.gradient_tree(ge.MLP([4, 8, 8, 3], seed=0), ge.datasets.load_iris().x_test)
            >>> tree.largest("hidden1", k=2)[["node", "root", "count", "n_children", "n_leaves"]]
               node root  count  n_children  n_leaves
            0     0    0      7           3         3
            1     1    0      7           2         2
        """
        check_layer("layer", layer, self.layers)
        k = as_integer("k", k, 1)
        path = self.layers[self.layers.index(layer) :]
        leaves = torch.ones_like(self.counts[path[-1]])
        children = torch.zeros_like(leaves)
        for name, above in zip(path[:0:-1], path[-2::-1], strict=True):
            children = self.parents[name].bincount(minlength=len(self.norms[above]))
            leaves = torch.zeros_like(children).index_add_(0, self.parents[name], leaves)
        frame = self._frame(layer).assign(n_children=children.numpy(), n_leaves=leaves.numpy())
        frame["share"] = frame["count"] / max(self.n_samples, 1)
        frame = frame.sort_values("count", ascending=False, kind="stable", ignore_index=True).head(k)
        return frame[["node", "root", "count", "share", "norm", "n_children", "n_leaves"]]

    def to_frame(self) -> pd.DataFrame:
        """One row per node.

        Returns:
            Columns ``layer``, ``node``, ``parent`` (-1 at the top), ``root`` (its label), ``count``, ``norm``.
        """
        import pandas as pd

        return pd.concat(map(self._frame, self.layers), ignore_index=True)

    def _frame(self, layer: str) -> pd.DataFrame:
        """Return one row per node of a layer."""
        import pandas as pd

        tables = {"parent": self.parents, "root": self.roots, "count": self.counts, "norm": self.norms}
        columns = {name: table[layer].numpy() for name, table in tables.items()}
        columns["root"] = np.array(self.root_labels, dtype=object)[columns["root"]]
        return pd.DataFrame({"layer": layer, "node": range(len(columns["root"]))} | columns)
