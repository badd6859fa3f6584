"""What notebook 07 compares: networks on groups as seen in three settings, and ways to describe their units."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from scipy.sparse.csgraph import connected_components
from torch import Tensor
from torch.nn.functional import avg_pool2d, normalize

import gradembed as ge

MOST = 256  # principal components that all comparisons are made in
LEVELS = torch.linspace(0.02, 0.98, 33)  # of quantiles
TOGETHER = 0.3  # |cosine| above which two units of a network belong together


@dataclass(frozen=True)
class Seen:
    """Units of several networks in one setting.

    Attributes:
        fields: Labelled, with the network as groups.
        symmetry: Orders of the inputs that are named; or ``None``.
        outputs: Of each unit's network at its points, [u, m, outputs]; or ``None``.
        weights: Of each unit, in and out, [u, ...]; or ``None``.
        tables: Multiplication tables as the networks' outputs show them, [e, n, n]; or ``None``.
        exclude: Labels that a neighbour must not share.
    """

    fields: ge.GradientFields
    symmetry: Tensor | None = None
    outputs: Tensor | None = None
    weights: Tensor | None = None
    tables: Tensor | None = None
    exclude: tuple[Tensor, ...] = ()

    @cached_property
    def estimated(self) -> ge.GradientFields:
        """The control: gradients estimated from points and values."""
        return ge.estimated_fields(self.fields)


def names(known: ge.datasets.GroupNetworks, setting: str, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Where a network has its inputs, [2n], and its products, [n]."""
    n, table = len(known.table), known.table
    if setting == "inputs shared":
        return torch.arange(2 * n), torch.arange(n)
    if setting == "own names":
        own = torch.randperm(n, generator=generator)
        return torch.cat([own, n + own]), own
    t = torch.randint(n, (3,), generator=generator) + n * torch.arange(3)  # one translation of each kind
    first, second, third = known.symmetries[t]
    inputs = first[second[third]]  # applied one after the other
    pairs = known.inputs.argsort(1)[:, -2:].sort(1).values  # of each pair, the places of its ones
    products = torch.empty(n, dtype=torch.int64)
    products[table.flatten()] = table[inputs[pairs[:, 0]], inputs[pairs[:, 1]] - n]
    return inputs, products


def see(known: ge.datasets.GroupNetworks, setting: str, n_points: int, seed: int = 0) -> Seen:
    """Take fields of all labelled units, and rename what the networks do not share."""
    e, n, generator = len(known.networks), len(known.table), torch.Generator().manual_seed(seed)
    shared, x = setting == "inputs shared", known.inputs
    draws = [torch.randperm(n * n, generator=generator)[:n_points] for _ in range(1 if shared else e)]
    points = x[draws[0]] if shared else torch.stack([x[draw] for draw in draws])
    fields = ge.gradient_fields(known.networks, points, unit_layer="hidden1", labels=known.labels.flatten())
    kept = (fields.labels >= 0) & (fields.amplitudes() > 0)
    inputs, products = map(torch.stack, zip(*(names(known, setting, generator) for _ in range(e)), strict=True))
    fields, back, back_out = fields[kept], inputs.argsort(1), products.argsort(1)
    net = fields.groups
    if not shared:
        index = back[net][:, None].expand_as(fields.gradients)
        fields = replace(fields, points=fields.points.gather(2, index), gradients=fields.gradients.gather(2, index))
    with torch.no_grad():
        outputs = known.networks(points).gather(2, back_out[:, None].expand(-1, n_points, -1))
        layers = known.networks.hidden1.linear.weight, known.networks.output.weight.mT
        weights = torch.cat(
            [w.gather(2, o[:, None].expand_as(w)) for w, o in zip(layers, (back, back_out), strict=True)], 2
        )
    tables = products[torch.arange(e)[:, None, None], known.table[back_out[:, :, None], back_out[:, None]]]
    return Seen(
        fields, known.symmetries if setting != "own names" else None, outputs[net], weights.flatten(0, 1)[kept],
        tables if setting == "own names" else None,
    )  # fmt: skip


def stacked_iris(setting: str, n_networks: int, n_points: int, seed: int = 0) -> Seen:
    """Take components of networks on two stacked copies of Iris: a unit's neighbour must come from the other copy."""
    base, generator = ge.datasets.load_iris(), torch.Generator().manual_seed(seed)
    pairs = [ge.datasets.stack_tasks(base, seed=1_000 * seed + i, n_samples=2_000) for i in range(n_networks)]
    config = replace(ge.TrainConfig.for_stacked_iris(1_000 * seed), progress=False)
    networks = ge.train_ensemble(pairs, [8, 64, 64, 6], n_networks, config)
    x = torch.stack([ge.sample_points(pair.x_train, n_points, seed=seed + i) for i, pair in enumerate(pairs)])
    x = x[0] if setting == "inputs shared" else x
    of = networks.output.weight.detach()
    fields = ge.gradient_fields(networks, x, unit_layer="hidden2", directions=of, labels=torch.arange(3).repeat(2))
    if setting == "own names":
        orders = torch.stack([torch.randperm(8, generator=generator) for _ in range(n_networks)])[fields.groups]
        index = orders[:, None].expand_as(fields.gradients)
        fields = replace(fields, points=fields.points.gather(2, index), gradients=fields.gradients.gather(2, index))
    swap = torch.arange(8).roll(4)[None] if setting != "own names" else None
    return Seen(fields, swap, exclude=(torch.arange(2).repeat_interleave(3).repeat(n_networks),))


def twins(known: ge.datasets.GroupNetworks, seed: int = 0) -> ge.datasets.GroupNetworks:
    """A network and its copy, hidden units in another order and rescaled; labels say which unit is which."""
    generator, one = torch.Generator().manual_seed(seed), known.networks[0]
    h = one.widths[1]
    order, scale = torch.randperm(h, generator=generator), 0.5 + torch.rand(h, generator=generator)
    read_in, read_out = one.hidden1.linear.weight.detach(), one.output.weight.detach()
    weights = [(read_in, (scale[:, None] * read_in)[order]), (read_out, (read_out / scale)[:, order])]
    weights = [torch.stack(pair) for pair in weights]
    biases = [torch.zeros(w.shape[:2]) for w in weights]
    networks = ge.MLPEnsemble.from_parts({"weights": weights, "biases": biases, "activations": [("ReLU", {})]})
    unit = torch.where(known.labels[0] >= 0, torch.arange(h), -1)
    return replace(known, networks=networks, labels=torch.stack([unit, unit[order]]))


def shifted_digits(n_networks: int, n_points: int, seed: int = 0) -> Seen:
    """Take the logits of networks on small digits, each network's images shifted by as many pixels as it likes."""
    whole, generator = ge.datasets.load_mnist(source="sample"), torch.Generator().manual_seed(seed)
    small = [avg_pool2d(x.view(-1, 1, 28, 28), 2)[:, 0] for x in (whole.x_train, whole.x_test)]
    splits = []
    for shift in torch.randint(14, (n_networks, 2), generator=generator).tolist():
        train, test = (x.roll(shift, (1, 2)).flatten(1) for x in small)
        splits.append(replace(whole, x_train=train, x_test=test))
    config = ge.TrainConfig(epochs=15, seed=seed, progress=False)
    networks = ge.train_ensemble(splits, [196, 64, 64, 10], n_networks, config)
    x = torch.stack([ge.sample_points(split.x_train, n_points, seed=seed + i) for i, split in enumerate(splits)])
    pixels = torch.arange(196).view(14, 14)
    shifts = torch.stack([pixels.roll(1, axis).flatten() for axis in (0, 1)])
    return Seen(ge.gradient_fields(networks, x, labels=torch.arange(10)), shifts)


def overview(known: ge.datasets.GroupNetworks) -> dict[str, float]:
    """Count what is there, and check the networks on every pair."""
    read = [set(labels[labels >= 0].tolist()) for labels in known.labels]
    every, is_read = set().union(*read), known.labels >= 0
    with torch.no_grad():
        right = [(network(known.inputs).argmax(1) == known.targets).double().mean() for network in known.networks]
    return {
        "networks": len(known.networks), "elements": len(known.table), "pairs right, worst network": float(min(right)),
        "units": known.labels.numel(), "share labelled": float(is_read.double().mean()),
        "median purity": float(known.purity[is_read].median()), "components": len(known.component_dims),
        "read by some unit": len(every), "in two networks or more": sum(sum(c in r for r in read) > 1 for c in every),
    }  # fmt: skip


# ---------------------------------------------------------------- methods: rows of units, near each other if alike


def quantiles(numbers: Tensor) -> Tensor:
    """Describe numbers, [u, m], by their quantiles, in units of their root mean square."""
    return torch.quantile(numbers / numbers.square().mean(1, keepdim=True).sqrt(), LEVELS, dim=1).T


def mean_gradients(fields: ge.GradientFields) -> Tensor:
    """Mean gradients of unit length, [u, d]."""
    return normalize(fields.gradients.mean(1), dim=1)


def flat_gradients(seen: Seen) -> Tensor | None:
    """All gradients in line: their inner products are the similarity of Jacobians of Lange, Rolnick and Kording."""
    return normalize(seen.fields.gradients.flatten(1), dim=1) if seen.fields.is_shared else None


def activations(seen: Seen) -> Tensor | None:
    """Activations whose inner products are correlations."""
    values = seen.fields.values - seen.fields.values.mean(1, keepdim=True)
    return normalize(values, dim=1) if seen.fields.is_shared else None


def weights(seen: Seen) -> Tensor | None:
    """Incoming and outgoing weights, whose inner products weight matching maximizes (Git Re-Basin)."""
    return None if seen.weights is None else normalize(seen.weights, dim=1)


def relative(seen: Seen) -> Tensor | None:
    """Relative representation: correlations with anchors, the outputs of the unit's own network."""
    if seen.outputs is None:
        return None
    f, z = seen.fields.values, seen.outputs - seen.outputs.mean(1, keepdim=True)
    return torch.einsum("um,umk->uk", normalize(f - f.mean(1, keepdim=True), dim=1), normalize(z, dim=1))


def described(seen: Seen, invariance: object, *, estimated: bool = False) -> np.ndarray | None:
    """Rows of `FieldDescriptor`; with inputs shared and a basis kept they are the gradients in line, as above."""
    if invariance is None or (seen.fields.is_shared and isinstance(invariance, str) and invariance == "none"):
        return None
    return ge.FieldDescriptor(invariance).fit_transform(seen.estimated if estimated else seen.fields)


METHODS: dict[str, Callable[[Seen], Tensor | np.ndarray | None]] = {
    "activations, correlated": activations,
    "weight matching (Git Re-Basin)": weights,
    "Jacobian similarity (Lange et al.)": flat_gradients,
    "relative representation, outputs as anchors": relative,
    "quantiles of values": lambda seen: quantiles(seen.fields.normalized().values),
    "mean gradients, raw": lambda seen: mean_gradients(seen.fields),
    "descriptor, none": lambda seen: described(seen, "none"),
    "descriptor, permutation": lambda seen: described(seen, "permutation"),
    "descriptor, named symmetry": lambda seen: described(seen, seen.symmetry),
    "points and values, none": lambda seen: described(seen, "none", estimated=True),
    "points and values, permutation": lambda seen: described(seen, "permutation", estimated=True),
    "points and values, named symmetry": lambda seen: described(seen, seen.symmetry, estimated=True),
}


INVARIANT = (
    "quantiles of values", "gradient quantiles", "descriptor, permutation", "points and values, permutation",
)  # fmt: skip


def bundles(seen: Seen) -> Tensor:
    """Number units that hang together, in their own network, by mean gradients at acute angles, [u]."""
    z, net = mean_gradients(seen.fields), seen.fields.groups
    near = ((z @ z.T).abs() > TOGETHER) & (net[:, None] == net)
    return torch.from_numpy(connected_components(near.numpy(), directed=False)[1]).long()


def averaged(rows: Tensor | np.ndarray, bundle: Tensor) -> Tensor:
    """Replace each row by the mean over its bundle."""
    rows = torch.as_tensor(np.asarray(rows)).double()
    sums = torch.zeros(int(bundle.max()) + 1, rows.shape[1], dtype=rows.dtype).index_add_(0, bundle, rows)
    return (sums / bundle.bincount()[:, None])[bundle]


def kinds(table: Tensor) -> Tensor:
    """Number the elements of a group, [n], by their order and the size of their class: names do not matter."""
    neutral = int((table == torch.arange(len(table))).all(1).nonzero()[0])
    inverse = (table == neutral).long().argmax(1)
    sizes = torch.tensor([len(conjugates.unique()) for conjugates in table[table, inverse[:, None]].T])
    order, power = torch.ones_like(sizes), torch.arange(len(table))
    while bool((power != neutral).any()):
        order += power != neutral
        power = torch.where(power == neutral, power, table[power, torch.arange(len(table))])
    return torch.stack([order, sizes]).unique(dim=1, return_inverse=True)[1]


def by_own_table(seen: Seen) -> Tensor:
    """Correlate mean gradients with their translations, averaged over elements of a kind.

    The table is what a network's outputs show, so that elements need no common names.

    Returns:
        [u, kinds].
    """
    z, rows = mean_gradients(seen.fields), []
    for i, table in enumerate(seen.tables):
        halves = z[seen.fields.groups == i].unflatten(1, (2, -1))  # [u, 2, n]
        moved = torch.einsum("uhgx,uhx->ug", halves[:, :, table], halves)
        kind = kinds(table)
        rows.append(torch.zeros(len(moved), int(kind.max()) + 1).index_add_(1, kind, moved) / kind.bincount())
    return torch.cat(rows)


# ---------------------------------------------------------------- scores


def reduced(rows: Tensor | np.ndarray) -> Tensor:
    """Keep the leading principal components, as many as there are up to MOST."""
    rows = torch.as_tensor(np.asarray(rows)).float()
    rows = rows - rows.mean(0)
    if min(rows.shape) <= MOST:
        return rows
    torch.manual_seed(0)
    left, spreads, _ = torch.svd_lowrank(rows, MOST, niter=4)
    return left * spreads


def scores(rows: Tensor | np.ndarray, seen: Seen) -> dict[str, float]:
    """Nearest neighbour in another network (of units whose label occurs in two), clusters, matching."""
    z, y, net = reduced(rows), seen.fields.labels, seen.fields.groups
    twice = torch.tensor([len(net[y == label].unique()) > 1 for label in y.tolist()])
    found = ge.metrics.retrieval(z, y, net, queries=twice, exclude=list(seen.exclude))
    right = possible = 0.0
    for i in net.unique()[:-1]:
        a, b = net == i, net == i + 1
        matching = ge.metrics.match_units(z[a], z[b])
        right += matching.accuracy(y[a], y[b]) * len(matching.pairs)
        possible += sum(min(int((y[a] == c).sum()), int((y[b] == c).sum())) for c in y.unique())
    return {
        "neighbour": found.accuracy, "low": found.interval[0], "high": found.interval[1], "chance": found.chance,
        "ARI": ge.metrics.cluster_agreement(z, y), "matching": right / possible,
    }  # fmt: skip
