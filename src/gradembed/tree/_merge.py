"""Trees of smooth networks: within each parent, gradients of similar direction are merged."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from gradembed import _checks
from gradembed.capture import Basis, Session, unit_rows
from gradembed.tree._level import Level, check_size, ranks


def merged_levels(session: Session, layers: Sequence[str], tolerance: float, max_nodes: int) -> dict[str, Level]:
    """Merge, root by root and from the top down, the samples of each node whose directions agree.

    Args:
        session: The network, samples and roots.
        layers: From the top down.
        tolerance: Cosine distance to a node's first sample.
        max_nodes: At any layer.

    Returns:
        The nodes at each layer.
    """
    parts: dict[str, list[Level]] = {layer: [] for layer in layers}
    sizes = dict.fromkeys(layers, 0)
    for root in range(len(session.readout)):
        above = np.zeros(len(session.x), dtype=np.int64)
        for depth, (layer, rows, flat, basis) in enumerate(_gradients(session, root, layers)):
            level = _merge(rows, flat, basis, above, tolerance)
            above = level.nodes[0].numpy()
            shift = sizes[layers[depth - 1]] - len(parts[layers[depth - 1]][-1].norms) if depth else -1
            parts[layer].append(
                replace(
                    level,
                    parents=level.parents + shift,
                    roots=torch.full_like(level.counts, root),
                    nodes=level.nodes + sizes[layer],
                )
            )
            sizes[layer] += len(level.norms)
            check_size(sizes[layer], max_nodes, layer)
    return {layer: _join(levels) for layer, levels in parts.items()}


def _gradients(
    session: Session, root: int, layers: Sequence[str]
) -> Iterator[tuple[str, Tensor, Tensor, Basis | None]]:
    """Differentiate one root at all samples.

    Yields:
        For each layer: its name, rows [n, r], their coordinates [n, c] and what maps rows to the layer.
    """
    alone = replace(session, readout=session.readout[root : root + 1])
    bytes_per_sample = 4 * max(session.x[0].numel(), 64) * session.x.element_size()
    captures = [capture.gradients for capture in alone.captures(None, bytes_per_sample)]
    for layer in layers:
        pieces = [capture.pop(layer) for capture in captures]
        flat = torch.cat([piece.coordinates()[:, 0] for piece in pieces]).clone()
        _checks.check_finite_result("gradients", flat, layer)
        yield layer, torch.cat([piece.factors()[:, 0] for piece in pieces]), flat, pieces[0].basis


def _merge(rows: Tensor, flat: Tensor, basis: Basis | None, above: np.ndarray, tolerance: float) -> Level:
    """Divide the nodes of one root at one layer.

    Returns:
        The new nodes, numbered from 0, as the only root's.
    """
    _, lengths = unit_rows(flat, out=flat)
    found, leaders = _follow(flat, (lengths == 0).numpy(force=True), above, tolerance)
    counts = np.bincount(found)
    order, rank = ranks(np.zeros_like(counts), counts, leaders)
    labels, leaders = torch.from_numpy(rank[found]), leaders[order]
    sizes = torch.from_numpy(counts[order])
    directions = rows[torch.from_numpy(leaders).to(rows.device)]
    directions = directions if basis is None else directions @ basis.weight
    unit_rows(directions, out=directions)
    sums = torch.zeros(len(sizes), dtype=torch.float64).index_add_(0, labels, lengths.cpu())
    parents = torch.from_numpy(above[leaders])
    return Level(directions.cpu(), sums / sizes, parents, torch.zeros_like(sizes), sizes, labels[None])


def _follow(directions: Tensor, is_zero: np.ndarray, above: np.ndarray, tolerance: float) -> tuple[np.ndarray, ...]:
    """Let every sample follow the first leader of its parent that it agrees with, else lead.

    In each round the first sample left of every parent leads those left that agree with it: the same as going
    through the samples one by one. Zero gradients follow zero gradients.

    Returns:
        The node of each sample [n], and the leading, that is the first, sample of each node.
    """
    kinds = above * 2 + is_zero
    labels = np.empty_like(above)
    left, leaders, c = np.arange(len(above)), [], 0
    while len(left):
        _, heads, place = np.unique(kinds[left], return_index=True, return_inverse=True)
        lead = left[heads]
        if len(lead) == 1:
            cosine = directions[left] @ directions[lead[0]]
        else:
            cosine = torch.linalg.vecdot(directions[left], directions[lead[place]])
        follows = (cosine >= 1 - tolerance).numpy(force=True) | is_zero[left]
        follows[heads] = True  # rounding must not part a leader from itself
        labels[left[follows]] = c + place[follows]
        leaders.append(lead)
        left, c = left[~follows], c + len(lead)
    return labels, np.concatenate(leaders)


def _join(levels: Sequence[Level]) -> Level:
    """Put the roots' nodes of one layer one after the other.

    Returns:
        All nodes of the layer.
    """
    names = ("directions", "norms", "parents", "roots", "counts", "nodes")
    return Level(*(torch.cat([getattr(level, name) for level in levels]) for name in names))
