"""How a tree grows: by activation pattern where the network is piecewise linear, by direction where it is smooth.

Patterns are exact: nodes are told apart by them, never by comparing floats. Going down, G [c, w] holds one gradient per
node. A linear step multiplies it by the weight; a step with two slopes splits every node by the pattern of the units
that it reads (G ≠ 0) and multiplies by the slopes of that pattern. In smooth networks, gradients of similar direction
are merged within each parent.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from gradembed._validation import check_finite_result, refuse
from gradembed.gradients import Basis, Session, unit_rows
from gradembed.gradients.chain import Chain, Linear
from gradembed.gradients.patterns import distinct, is_on, packed, slopes_of, splits

CHUNK_BYTES = 64 * 2**20  # of samples on the way forward, and of patterns per root on the way down
BLOCK = 256  # samples whose directions are compared with each other at a time


class Level(NamedTuple):
    """The nodes of one layer, as in `GradientTree`."""

    directions: Tensor  # [c, d]
    norms: Tensor  # [c]
    parents: Tensor  # in the level above, [c]
    roots: Tensor  # [c]
    counts: Tensor  # [c]
    nodes: Tensor  # of each root and sample, [r, n]


def ranks(roots: np.ndarray, counts: np.ndarray, first: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Order nodes by root, then from most to fewest samples, then by first sample.

    Returns:
        The order, [c], and the rank of each node in it, [c].
    """
    order = np.lexsort((first, -counts, roots))
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    return order, rank


def check_size(needed: int, max_nodes: int, layer: str) -> None:
    """Refuse a realised tree that is larger than the caller wants to hold."""
    if needed > max_nodes:
        remedy = "Raise it, or pass fewer samples or `roots`"
        refuse("max_nodes", f"be at least {needed:,}, the nodes at {layer!r}", max_nodes, remedy)


@torch.no_grad()
def exact_levels(session: Session, layers: Sequence[str], mode: str, max_nodes: int) -> dict[str, Level]:
    """Walk back from the roots, splitting nodes by activation pattern.

    Args:
        session: A chain, samples and roots.
        layers: From the top down.
        mode: "realised" or "product".
        max_nodes: At any layer.

    Returns:
        The nodes at each layer.
    """
    chain: Chain = session.network  # type: ignore[assignment]
    stops = {layer: chain.positions[layer] for layer in layers}
    bottom, lowest = min(stops.values()), layers[-1]
    patterns = _patterns(session, chain.steps[: chain.top(session.unit_site)], bottom)
    rows, start = chain.read_out(session.readout, session.batch)
    check_size(len(rows), max_nodes, layers[0])
    r, n = len(rows), session.n_samples or 0
    numbers = [int(distinct(words[None]).max()) + 1 for words in patterns.values()] if mode == "product" else []
    if (needed := r * math.prod(numbers)) > max_nodes:
        each = f"one node at {lowest!r} for each of {r:,} roots and all combinations of {' × '.join(map(str, numbers))}"
        remedy = f"Use mode='realised', which needs at most {n * r:,}, or pass fewer samples"
        refuse("max_nodes", f"be at least {needed:,}, {each} patterns", max_nodes, remedy)
    descent = _Descent(rows[:, 0], n)
    split = descent.realised if mode == "realised" else descent.product
    levels: dict[str, Level] = {}
    for p in range(start, bottom - 1, -1):
        step = chain.steps[p] if p < start else None
        if isinstance(step, Linear):
            descent.gradients = descent.gradients @ step.weight
        elif step is not None:
            low, high = slopes_of(step, descent.gradients)
            if p in patterns:
                parents, examples, nodes = split(patterns[p], low != high)
                check_size(len(parents), max_nodes, next(name for name in stops if stops[name] <= p))
                descent.divide(parents, patterns[p][examples], nodes, low, high)
            else:
                descent.gradients = descent.gradients * high
        levels |= {layer: descent.record(layer, layer == lowest) for layer, stop in stops.items() if stop == p}
    return levels


def _patterns(session: Session, steps: Sequence[Linear | nn.Module], bottom: int) -> dict[int, np.ndarray]:
    """Run forward and note which piece every unit is on.

    Returns:
        For each step with two slopes from the bottom up: bits packed in words, [n, q].
    """
    parts: dict[int, list[np.ndarray]] = defaultdict(list)
    x = session.batch.flatten(1)
    widest = max([x.shape[1], *(step.weight.shape[0] for step in steps if isinstance(step, Linear))])
    for part in x.split(max(1, CHUNK_BYTES // (widest * x.element_size()))):
        a = part
        for p, step in enumerate(steps):
            if p >= bottom and isinstance(step, nn.Module) and splits(step):
                parts[p].append(packed(is_on(step, a).numpy(force=True)))
            a = step(a if isinstance(step, Linear) else a.clone())  # a copy, because it may work in place
        check_finite_result("values", a, str(session.unit_site))
    return {p: np.concatenate(part) for p, part in parts.items()}


class _Descent:
    """The nodes of all roots at one depth, in their final order.

    Attributes:
        gradients: [c, w].
        nodes: The node of each root and sample, [r, n].
        roots: [c].
        above: The node of the last recorded layer that each hangs below, [c]; -1 if none was recorded.
    """

    def __init__(self, readout: Tensor, n: int) -> None:
        r = len(readout)
        self.gradients = readout.clone()
        self.nodes = np.repeat(np.arange(r)[:, None], n, axis=1)
        self.roots = np.arange(r)
        self.above = np.full(r, -1)

    def realised(self, words: np.ndarray, differs: Tensor) -> tuple[np.ndarray, ...]:
        """Group each node's samples by their patterns in the units that it reads.

        Returns:
            For each new node its parent and a sample of its pattern, [c], as found; new nodes, [r, n].
        """
        n = self.nodes.shape[1]
        reads = packed(((self.gradients != 0) & differs).numpy(force=True))
        rows = max(1, CHUNK_BYTES // max(1, words.nbytes))  # roots at a time: nodes never span roots
        nodes, first, offset = np.empty_like(self.nodes), [], 0
        for start in range(0, len(self.nodes), rows):
            chunk = self.nodes[start : start + rows]
            masked = (words & reads[chunk]).reshape(chunk.size, -1)
            keys = np.column_stack([masked, chunk.reshape(-1).astype(np.uint64)])
            labels = distinct(keys[None])[0]
            nodes[start : start + rows] = labels.reshape(chunk.shape) + offset
            heads = _first_of(labels)
            first.append(heads + start * n)
            offset += len(heads)
        flat = np.concatenate(first)
        return self.nodes.ravel()[flat], flat % n, nodes

    def product(self, words: np.ndarray, _differs: Tensor) -> tuple[np.ndarray, ...]:
        """Combine each node with every pattern that some sample has; returns what `realised` does, node by node."""
        labels = distinct(words[None])[0]
        first = _first_of(labels)
        c, k = len(self.roots), len(first)
        return np.repeat(np.arange(c), k), np.tile(first, c), self.nodes * k + labels

    def divide(self, parents: np.ndarray, words: np.ndarray, nodes: np.ndarray, low: Tensor, high: Tensor) -> None:
        """Put the parts, each with the words of its pattern, in order and scale their gradients by their slopes."""
        counts = np.bincount(nodes.ravel(), minlength=len(parents))
        order, rank = ranks(self.roots[parents], counts, _first_of(nodes.ravel(), len(counts)))
        parents = parents[order]
        bits = np.unpackbits(words[order].view(np.uint8), axis=1, count=self.gradients.shape[1])
        device = self.gradients.device
        self.gradients = self.gradients[torch.from_numpy(parents).to(device)]
        self.gradients *= torch.where(torch.from_numpy(bits).to(device).bool(), high, low)
        self.nodes = rank[nodes]
        self.roots, self.above = self.roots[parents], self.above[parents]

    def record(self, layer: str, is_last: bool) -> Level:
        """Take the nodes down as those of a layer; the last one's gradients are not copied.

        Returns:
            The layer's nodes.
        """
        check_finite_result("gradients", self.gradients, layer)
        directions = self.gradients if is_last else self.gradients.clone()
        _, norms = unit_rows(directions, out=directions)
        counts = np.bincount(self.nodes.ravel(), minlength=len(self.roots))
        arrays = [torch.from_numpy(array.copy()) for array in (self.above, self.roots, counts, self.nodes)]
        self.above = np.arange(len(counts))
        return Level(directions.cpu(), norms.cpu(), *arrays)


def _first_of(labels: np.ndarray, n: int | None = None) -> np.ndarray:
    """The first place of each of n labels; beyond the end for one that does not occur."""
    first = np.full(int(labels.max()) + 1 if n is None else n, labels.size)
    first[labels[::-1]] = np.arange(labels.size)[::-1]
    return first


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
            places = {"parents": level.parents + shift, "nodes": level.nodes + sizes[layer]}
            parts[layer].append(level._replace(roots=level.roots + root, **places))
            sizes[layer] += len(level.norms)
            check_size(sizes[layer], max_nodes, layer)
    return {layer: Level(*map(torch.cat, zip(*levels, strict=True))) for layer, levels in parts.items()}


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
    """Go through the samples of one parent, block by block, and return the leader of each, [n]."""
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
    """Which of some samples agree with which of others, [some, others]."""
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
