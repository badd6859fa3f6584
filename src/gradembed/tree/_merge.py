"""Trees of smooth networks: within each parent, gradients of similar direction are merged."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from gradembed._validation import check_finite_result
from gradembed.gradients import Basis, Session, unit_rows
from gradembed.tree._level import Level, check_size, ranks

BLOCK = 256  # samples that are compared with each other at a time


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
        above = np.zeros(session.n_samples or 0, dtype=np.int64)
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
    alone = replace(session, readout=session.readout[root : root + 1], unit_labels=session.unit_labels[root : root + 1])
    captures = [dict(capture.gradients) for capture in alone.captures()]
    for layer in layers:
        pieces = [capture.pop(layer) for capture in captures]
        flat = torch.cat([piece.coordinates()[0] for piece in pieces]).clone()
        check_finite_result("gradients", flat, layer)
        yield layer, torch.cat([piece.factors()[0] for piece in pieces]), flat, pieces[0].basis


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

    Zero gradients follow zero gradients. Parents with many samples are gone through one by one, the others together.

    Returns:
        The node of each sample [n], and the leading, that is the first, sample of each node.
    """
    _, kinds, sizes = np.unique(above * 2 + is_zero, return_inverse=True, return_counts=True)
    leader = np.empty_like(above)  # of each sample
    is_large = (sizes >= 4 * BLOCK)[kinds] & ~is_zero
    for kind in np.unique(kinds[is_large]):
        members = np.flatnonzero(kinds == kind)
        leader[members] = members[_one_by_one(directions[torch.from_numpy(members)], tolerance)]
    members = np.flatnonzero(~is_large)
    leader[members] = members[_together(directions[members], is_zero[members], kinds[members], tolerance)]
    leaders, found = np.unique(leader, return_inverse=True)
    return found, leaders


def _one_by_one(directions: Tensor, tolerance: float) -> np.ndarray:
    """Go through the samples of one parent, block by block.

    Returns:
        The leader of each sample, [n].
    """
    leader = np.empty(len(directions), dtype=np.int64)
    left = np.arange(len(directions))
    while len(left):
        block, left = left[:BLOCK], left[BLOCK:]
        agree = _agree(directions, block, block, tolerance)
        place = np.full(len(block), -1)  # in the block, of each one's leader
        for i in range(len(block)):
            if place[i] < 0:
                place[(place < 0) & agree[i]] = i
                place[i] = i  # rounding must not part a leader from itself
        leader[block] = block[place]
        new = block[np.unique(place)]
        agree = _agree(directions, left, new, tolerance)
        follows = agree.any(1)
        leader[left[follows]] = new[agree[follows].argmax(1)]
        left = left[~follows]
    return leader


def _agree(directions: Tensor, some: np.ndarray, others: np.ndarray, tolerance: float) -> np.ndarray:
    """Which of some samples agree with which of others.

    Returns:
        [some, others].
    """
    cosine = directions[torch.from_numpy(some)] @ directions[torch.from_numpy(others)].mT
    return (cosine >= 1 - tolerance).numpy(force=True)


def _together(directions: Tensor, is_zero: np.ndarray, kinds: np.ndarray, tolerance: float) -> np.ndarray:
    """Go through the samples of many parents. In each round the first one left of every parent leads those that agree.

    Returns:
        The leader of each sample, [n].
    """
    leader = np.empty(len(kinds), dtype=np.int64)
    left = np.arange(len(kinds))
    while len(left):
        _, heads, place = np.unique(kinds[left], return_index=True, return_inverse=True)
        lead = left[heads]
        cosine = torch.linalg.vecdot(directions[left], directions[lead[place]])
        follows = (cosine >= 1 - tolerance).numpy(force=True) | is_zero[left]
        follows[heads] = True  # rounding must not part a leader from itself
        leader[left[follows]] = lead[place[follows]]
        left = left[~follows]
    return leader


def _join(levels: Sequence[Level]) -> Level:
    """Put the roots' nodes of one layer one after the other.

    Returns:
        All nodes of the layer.
    """
    names = ("directions", "norms", "parents", "roots", "counts", "nodes")
    return Level(*(torch.cat([getattr(level, name) for level in levels]) for name in names))
