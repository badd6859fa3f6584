"""Exact trees of piecewise-linear chains: nodes are told apart by activation pattern, never by comparing floats.

Going down, G [c, w] holds one gradient per node. A linear step multiplies it by the weight; a step with two slopes
splits every node by the pattern of the units that it reads (G ≠ 0) and multiplies by the slopes of that pattern.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from gradembed._validation import check_finite_result, refuse
from gradembed.gradients import Session, unit_rows
from gradembed.gradients.chain import Chain, Linear
from gradembed.gradients.patterns import distinct, is_on, packed, slopes_of, splits
from gradembed.tree._level import Level, check_size, ranks

CHUNK_BYTES = 64 * 2**20  # of samples on the way forward, and of patterns per root on the way down


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
    if mode == "product":
        _check_product(patterns, session, max_nodes, lowest)
    descent = _Descent(rows[:, 0], session.n_samples or 0)
    levels = {layer: descent.record(layer, is_last=layer == lowest) for layer in layers if stops[layer] == start}
    for p in range(start - 1, bottom - 1, -1):
        step = chain.steps[p]
        if isinstance(step, Linear):
            descent.gradients = descent.gradients @ step.weight
        else:
            low, high = slopes_of(step, descent.gradients)
            if p not in patterns:
                descent.gradients = descent.gradients * high
            else:
                split = descent.realised if mode == "realised" else descent.product
                parts = split(patterns[p], low != high)
                check_size(len(parts.parents), max_nodes, next(name for name in stops if stops[name] <= p))
                descent.divide(parts, patterns[p], low, high)
        for layer in (name for name, stop in stops.items() if stop == p):
            levels[layer] = descent.record(layer, is_last=layer == lowest)
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


def _check_product(patterns: dict[int, np.ndarray], session: Session, max_nodes: int, lowest: str) -> None:
    n, r = session.n_samples or 0, len(session.readout)
    numbers = [int(distinct(words[None]).max()) + 1 for words in patterns.values()]
    needed = r * math.prod(numbers)
    if needed > max_nodes:
        refuse(
            "max_nodes",
            f"be at least {needed:,}, one node at {lowest!r} for each of {r:,} roots and all combinations of "
            f"{' × '.join(map(str, numbers))} patterns",
            max_nodes,
            f"Use mode='realised', which needs at most {n * r:,}, or pass fewer samples",
        )


@dataclass(frozen=True)
class _Parts:
    """How nodes divide: for each new one its parent and a sample of its pattern [c]; new nodes [r, n]."""

    parents: np.ndarray
    examples: np.ndarray
    nodes: np.ndarray


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

    def realised(self, words: np.ndarray, differs: Tensor) -> _Parts:
        """Group each node's samples by their patterns in the units that it reads.

        Returns:
            The parts, as found.
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
        return _Parts(self.nodes.ravel()[flat], flat % n, nodes)

    def product(self, words: np.ndarray, _differs: Tensor) -> _Parts:
        """Combine each node with every pattern that some sample has.

        Returns:
            The parts, node by node.
        """
        labels = distinct(words[None])[0]
        first = _first_of(labels)
        c, k = len(self.roots), len(first)
        return _Parts(np.repeat(np.arange(c), k), np.tile(first, c), self.nodes * k + labels)

    def divide(self, parts: _Parts, words: np.ndarray, low: Tensor, high: Tensor) -> None:
        """Put the parts in order and scale their gradients by their slopes."""
        flat = parts.nodes.ravel()
        counts = np.bincount(flat, minlength=len(parts.parents))
        first = _first_of(flat, len(counts))
        order, rank = ranks(self.roots[parts.parents], counts, first)
        parents, examples = parts.parents[order], parts.examples[order]
        bits = np.unpackbits(words[examples].view(np.uint8), axis=1, count=self.gradients.shape[1])
        device = self.gradients.device
        self.gradients = self.gradients[torch.from_numpy(parents).to(device)]
        self.gradients *= torch.where(torch.from_numpy(bits).to(device).bool(), high, low)
        self.nodes = rank[parts.nodes]
        self.roots, self.above = self.roots[parents], self.above[parents]

    def record(self, layer: str, *, is_last: bool) -> Level:
        """Take the nodes down as those of a layer; the last one's gradients are not copied.

        Returns:
            The layer's nodes.
        """
        check_finite_result("gradients", self.gradients, layer)
        directions = self.gradients if is_last else self.gradients.clone()
        _, norms = unit_rows(directions, out=directions)
        c, above = len(self.roots), self.above
        self.above = np.arange(c)
        counts = np.bincount(self.nodes.ravel(), minlength=c)
        arrays = (torch.from_numpy(array.copy()) for array in (above, self.roots, counts, self.nodes))
        return Level(directions.cpu(), norms.cpu(), *arrays)


def _first_of(labels: np.ndarray, n: int | None = None) -> np.ndarray:
    """The first place of each of n labels; beyond the end for one that does not occur."""
    first = np.full(int(labels.max()) + 1 if n is None else n, labels.size)
    first[labels[::-1]] = np.arange(labels.size)[::-1]
    return first
