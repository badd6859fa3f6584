"""The gradient tree: which samples give a unit the same gradient, layer by layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from gradembed import _validation
from gradembed.gradients import Chain, Session
from gradembed.tree._exact import exact_levels
from gradembed.tree._merge import merged_levels
from gradembed.tree._pieces import is_smooth
from gradembed.tree._result import GradientTree

__all__ = ["GradientTree", "gradient_tree"]


def gradient_tree(
    model: nn.Module,
    x: Tensor,
    *,
    layers: Sequence[str] | None = None,
    roots: Sequence[int] | None = None,
    unit_layer: str = "output",
    mode: str = "realised",
    max_nodes: int = 200_000,
    tolerance: float | None = None,
) -> GradientTree:
    """Walk back from each root and sort the samples by its gradient, layer by layer.

    Chains of linear layers and piecewise-linear activations (ReLU, LeakyReLU, PReLU, ReLU6, Hardtanh,
    Hardsigmoid) are sorted exactly, by activation pattern: two samples part where they differ in a unit that the
    root's gradient passes through. Every other network needs ``tolerance``: within each node, in the order of the
    samples, a sample joins the first node whose first sample's direction is near enough, or starts a new one.

    Args:
        model: A trained network that treats every sample by itself; usually in eval mode. Left as it was.
        x: Samples, [n, d], or [n, ...] where the model takes more axes.
        layers: Where to take nodes: "input" and names of modules, in any order; ``None`` for the input and every
            direct child of the model before the unit layer. Layers side by side in the network stand one below
            the other in the tree all the same, which then divides by both.
        roots: Indices of units in the unit layer; ``None`` for all.
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
    _validation.check_choice("mode", mode, ("realised", "product"))
    _validation.check_integer("max_nodes", max_nodes, 1)
    if tolerance is not None:
        _validation.check_number("tolerance", tolerance, 0, 1, open_low=True)
    with Session.open(model, x, layers, unit_layer, None, None) as session:
        session = _with_roots(session, roots)
        names = list(session.layers[::-1]) if layers is None else _from_the_top(session)
        network = session.network
        if isinstance(network, Chain) and not _first_smooth(network, names, unit_layer):
            if tolerance is not None:
                remedy = "Leave it out: patterns tell gradients apart exactly"
                _validation.refuse("tolerance", "be None for a piecewise-linear network", tolerance, remedy)
            stops = {name: network.positions[name] for name in names}
            steps = network.steps[: network.positions[unit_layer]]
            levels = exact_levels(session, steps, stops, mode, max_nodes)
        else:
            levels = merged_levels(session, names, _tolerance_for(session, names, mode, tolerance), max_nodes)
    fields = ("directions", "norms", "parents", "roots", "counts", "nodes")
    by_layer = {field: {layer: getattr(levels[layer], field) for layer in names} for field in fields}
    return GradientTree(
        **by_layer,
        samples=torch.arange(len(x)),
        root_labels=session.unit_labels,
        unit_layer=unit_layer,
        mode=mode,
        tolerance=tolerance,
    )


def _with_roots(session: Session, roots: Sequence[int] | None) -> Session:
    """Choose units as roots.

    Returns:
        The session that reads those only.
    """
    if roots is None:
        return session
    listed = roots.tolist() if hasattr(roots, "tolist") else roots  # tensors and arrays of indices too
    indices = _validation.check_sequence("roots", listed, "a list of indices")
    width = len(session.readout)
    for root in indices:
        _validation.check_integer("roots", root)
        if not 0 <= root < width:
            rule = f"lie between 0 and {width - 1}, the units of {session.unit_layer!r}"
            _validation.refuse("roots", rule, root, "Drop or correct it")
    return replace(session, readout=session.readout[indices], unit_labels=tuple(map(str, indices)))


def _from_the_top(session: Session) -> list[str]:
    """Order the caller's layers so that each comes before those that it depends on; else the later named first.

    Returns:
        Their names.
    """
    names = session.layers[::-1]
    depends = session.network.comes_after
    return sorted(names, key=lambda name: -sum(depends(name, other) for other in names))


def _first_smooth(chain: Chain, names: Sequence[str], unit_layer: str) -> str:
    """Name the first activation without patterns between the lowest layer and the units.

    Returns:
        Its type and layer name, or nothing.
    """
    low, high = min(chain.positions[name] for name in names), chain.positions[unit_layer]
    for p, step in enumerate(chain.steps[:high]):
        if p >= low and is_smooth(step):
            ends = [name for name, position in chain.positions.items() if position == p + 1]
            return f"{type(step).__name__} at {ends[0]!r}"
    return ""


def _tolerance_for(session: Session, names: Sequence[str], mode: str, tolerance: float | None) -> float:
    """Refuse what a network without patterns cannot have.

    Returns:
        The tolerance.
    """
    network = session.network
    what = (
        _first_smooth(network, names, session.unit_layer)
        if isinstance(network, Chain)
        else f"{type(network.model).__name__}, which is no chain of linear layers and elementwise modules"
    )
    if mode == "product":
        _validation.refuse(
            "mode", "be 'realised' for a network without activation patterns", what, "Pass mode='realised'"
        )
    if tolerance is None:
        _validation.refuse(
            "tolerance",
            "be given for a network without activation patterns",
            f"None for {what}",
            "Pass tolerance=0.01 to merge gradients up to that cosine distance",
        )
    return tolerance
