"""The gradient tree: which samples give a unit the same gradient, layer by layer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from gradembed._validation import as_integer, as_number, check_choice, refuse
from gradembed.gradients import Session, Site
from gradembed.gradients.chain import Chain
from gradembed.gradients.patterns import is_smooth
from gradembed.tree._levels import Level, exact_levels, merged_levels
from gradembed.tree._result import GradientTree

__all__ = ["GradientTree", "gradient_tree"]


def gradient_tree(
    model: nn.Module, x: Any, *, forward: Callable[..., Any] | None = None,
    layers: str | Site | Sequence[str | Site] | None = None, roots: Sequence[int | str] | Tensor | None = None,
    unit_layer: str | Site = "output", mode: str = "realised", max_nodes: int = 200_000, tolerance: float | None = None,
) -> GradientTree:  # fmt: skip
    """Walk back from each root and sort the samples by its gradient, layer by layer.

    Chains of linear layers and piecewise-linear activations (ReLU, LeakyReLU, PReLU, ReLU6, Hardtanh,
    Hardsigmoid) are sorted exactly, by activation pattern: two samples part where they differ in a unit that the
    root's gradient passes through. Every other network needs ``tolerance``: within each node, in the order of the
    samples, a sample joins the first node whose first sample's direction is near enough, or starts a new one.

    Args:
        model: A trained network that treats every sample by itself; usually in eval mode. Left as it was.
        x: What it is asked with, as in `unit_gradients`, all samples at once.
        forward: How the model is called with a batch, as in `unit_gradients`.
        layers: Where to take nodes: "input", names of modules or sites, in any order; ``None`` for those of
            `interference`. Layers side by side in the network stand one below the other in the tree all the same,
            which then divides by both.
        roots: Indices of units in the unit layer, or labels; ``None`` for all.
        unit_layer: The layer that the roots belong to; "output" is what the model returns.
        mode: "realised": nodes that some sample has, at most n per root and layer. "product": every node with
            every pattern of the layer below, whether they ever meet or not; of chains only.
        max_nodes: Refuse trees with more nodes than this at any layer; at 784 inputs, 200,000 take 0.6 GB.
        tolerance: Cosine distance, between 0 and 1, up to which the gradients of a smooth network are merged.

    Returns:
        Directions, norms and counts of the nodes of each layer, and how they hang together.

    Raises:
        ValueError: As `unit_gradients`; if a root is out of range, ``mode`` is unknown or the network
            needs another, a layer needs more than ``max_nodes``, or ``tolerance`` is missing or out of place.
        TypeError: If an argument has the wrong type.

    Example:
        >>> import gradembed as ge
        >>> tree = ge.gradient_tree(ge.MLP([4, 8, 8, 3], seed=0), ge.datasets.load_iris().x_test, roots=[0, 2])
        >>> tree
        GradientTree(2 roots of 'output', nodes {hidden2: 2, hidden1: 16, input: 32}, 30 samples, realised)

        The output layer is linear, so that each root has one gradient at ``"hidden2"``.
    """
    check_choice("mode", mode, ("realised", "product"))
    max_nodes = as_integer("max_nodes", max_nodes, 1)
    if tolerance is not None:
        tolerance = as_number("tolerance", tolerance, 0, 1, open_low=True)
    asked: dict[str, Any] = {"forward": forward, "units_argument": "roots"}
    with Session.open(model, x, layers, unit_layer, roots, **asked) as session:
        if session.stream:
            remedy = "Pass all samples as one tensor, mapping or tuple"
            refuse("x", "hold all samples at once: a tree sorts them", "batches", remedy)
        names = list(session.layers[::-1]) if layers is None else session.from_the_top()
        without = _without_patterns(session, names)
        if not without:
            if tolerance is not None:
                remedy = "Leave it out: patterns tell gradients apart exactly"
                refuse("tolerance", "be None for a piecewise-linear network", tolerance, remedy)
            levels = exact_levels(session, names, mode, max_nodes)
        else:
            if mode == "product":
                rule = "be 'realised' for a network without activation patterns"
                refuse("mode", rule, without, "Pass mode='realised'")
            if tolerance is None:
                rule, remedy = "be given for a network without activation patterns", "Pass tolerance=0.01 to merge"
                refuse("tolerance", rule, f"None for {without}", f"{remedy} gradients up to that cosine distance")
            levels = merged_levels(session, names, tolerance, max_nodes)
    tables: dict[str, Any] = {field: {n: getattr(levels[n], field) for n in names} for field in Level._fields}
    asked = {"unit_layer": str(session.unit_site), "mode": mode, "tolerance": tolerance}
    samples = torch.arange(session.n_samples or 0)
    return GradientTree(**tables, samples=samples, root_labels=session.unit_labels, **asked)


def _without_patterns(session: Session, names: Sequence[str]) -> str:
    """Say what keeps a network from having activation patterns between its lowest layer and the units, if anything."""
    chain = session.network
    if not isinstance(chain, Chain):
        return f"{type(chain.model).__name__}, which is not seen as a chain of linear layers and activations"
    low = min(chain.positions[name] for name in names)
    for p, step in enumerate(chain.steps[: chain.top(session.unit_site)]):
        if p >= low and is_smooth(step):
            ends = [name for name, position in chain.positions.items() if position == p + 1]
            return f"{type(step).__name__} at {ends[0]!r}"
    return ""
