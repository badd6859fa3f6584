"""Figures of results. Every function takes results, draws, and returns its Axes; none computes or shows.

Signed scores have a diverging map centered at 0, shares a sequential one; classes have the same colors, safe for the
color-blind, everywhere. ``source`` (a `Split.source`) is written below the figure.
"""

from gradembed.plots._course import course
from gradembed.plots._frame import COLORS
from gradembed.plots._lines import conflict_by_layer, cosine_map, curves, field_1d, history
from gradembed.plots._tables import confusion, interference, matrix_grid, score_map, similarity_matrix, tree_similarity
from gradembed.plots._units import embedding, field_2d, images, task_modules, tree, unit_card

__all__ = [
    "COLORS", "conflict_by_layer", "confusion", "cosine_map", "course", "curves", "embedding", "field_1d", "field_2d",
    "history", "images", "interference", "matrix_grid", "score_map", "similarity_matrix", "task_modules", "tree",
    "tree_similarity", "unit_card",
]  # fmt: skip
