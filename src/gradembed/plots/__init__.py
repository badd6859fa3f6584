"""Figures of results. Every function takes results, draws, and returns its Axes; none computes or shows.

Signed scores have a diverging map centred at 0, shares a sequential one; classes have the same colour-blind-safe
colours everywhere. ``source`` (a `Split.source`) is written below the figure.
"""

from gradembed.plots._card import unit_card
from gradembed.plots._fields import embedding, field_1d, field_2d
from gradembed.plots._frame import COLOURS
from gradembed.plots._images import images
from gradembed.plots._maps import score_map
from gradembed.plots._pairs import conflict_by_layer, interference, similarity_matrix
from gradembed.plots._separation import cosine_map, task_modules
from gradembed.plots._sweeps import curves, matrix_grid
from gradembed.plots._training import confusion, history
from gradembed.plots._tree import tree, tree_similarity

__all__ = [
    "COLOURS", "conflict_by_layer", "confusion", "cosine_map", "curves", "embedding", "field_1d", "field_2d",
    "history", "images", "interference", "matrix_grid", "score_map", "similarity_matrix", "task_modules", "tree",
    "tree_similarity", "unit_card",
]  # fmt: skip
