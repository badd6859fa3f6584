"""What notebook 07 compares: networks on groups in three settings, ways to describe their units, claims of twins."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.image import AxesImage
from matplotlib.patches import Rectangle
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
        fields: Labeled, with the network as groups.
        symmetry: Orders of the inputs that are named; or ``None``.
        outputs: Of each unit's network at its points, [u, m, outputs]; or ``None``.
        weights: Of each unit, in and out, [u, ...]; or ``None``.
        tables: Multiplication tables as the networks' outputs show them, [e, n, n]; or ``None``.
        exclude: Labels that a neighbor must not share.
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
    """Take fields of all labeled units, and rename what the networks do not share."""
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
    """Take components of networks on two stacked copies of Iris: a unit's neighbor must come from the other copy."""
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
        "units": known.labels.numel(), "share labeled": float(is_read.double().mean()),
        "median purity": float(known.purity[is_read].median()), "components": len(known.component_dims),
        "read by some unit": len(every),
        "read in two networks or more": sum(sum(c in r for r in read) > 1 for c in every),
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


def inverses(table: Tensor) -> tuple[int, Tensor]:
    """Find the neutral element of a group, and the inverse of each element, [n]."""
    neutral = int((table == torch.arange(len(table))).all(1).nonzero()[0])
    return neutral, (table == neutral).long().argmax(1)


def kinds(table: Tensor) -> Tensor:
    """Number the elements of a group, [n], by their order and the size of their class: names do not matter."""
    neutral, inverse = inverses(table)
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


def without_names(seen: Seen, rows: Mapping[str, Tensor | np.ndarray | None]) -> dict[str, Tensor]:
    """Add to the rows of METHODS what else can be had where no names are shared; leave out what cannot."""
    found = dict(rows) | {"gradient quantiles": quantiles(mean_gradients(seen.fields))}
    bundle = bundles(seen)
    found |= {f"{method}, together": averaged(found[method], bundle) for method in INVARIANT}
    found["own table"] = by_own_table(seen)
    return {method: torch.as_tensor(np.asarray(z)) for method, z in found.items() if z is not None}


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
    """Score nearest neighbors in other networks (of units whose label occurs in two), clusters, and matching."""
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
        "neighbor": found.accuracy, "low": found.interval[0], "high": found.interval[1], "chance": found.chance,
        "ARI": ge.metrics.cluster_agreement(z, y), "matching": right / possible,
    }  # fmt: skip


def draw_scores(ax: Axes, table: pd.DataFrame) -> AxesImage:
    """Draw scores from 0 to 1 as colors, with their numbers; what is missing stays empty."""
    numbers = table.to_numpy(float)
    image = ax.imshow(numbers, cmap="viridis", vmin=0, vmax=1, aspect="auto")
    for (i, j), number in np.ndenumerate(numbers):
        if np.isfinite(number):
            ax.text(j, i, f"{number:z.2f}", ha="center", va="center", color="w" if number < 0.6 else "k", fontsize=9)
    ax.set_xticks(range(numbers.shape[1]), table.columns, rotation=40, ha="right")
    ax.set_yticks(range(len(numbers)), table.index)
    return image


# ---------------------------------------------------------------- sets of units, of a network and the next one


def next_to(known: ge.datasets.GroupNetworks, i: int) -> ge.MLP:
    """Return the network that network i is compared with."""
    return known.networks[(i + 1) % len(known.networks)]


def symmetries(table: Tensor, n_draws: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Draw symmetries a -> (ga)k, b -> (k⁻¹b)h, which take ab to g(ab)h: where a goes and where b goes, [draws, n]."""
    g, h, k = torch.randint(len(table), (3, n_draws), generator=torch.Generator().manual_seed(seed))
    _, inverse = inverses(table)
    return table[table[g], k[:, None]], table[table[inverse[k]], h[:, None]]


def behavior(known: ge.datasets.GroupNetworks, n_pairs: int, n_draws: int) -> dict[str, Tensor]:
    """Say what hidden units do at pairs (a, b), the same for all networks.

    Returns:
        Their mean gradients, [e, h, 2n]; their activations less the mean, [e, h, pairs]; with the "symmetry named",
        mean gradients read at translated inputs, one draw after the other, [e, draws · h, 2n].
    """
    x = known.inputs[torch.randperm(len(known.inputs), generator=torch.Generator().manual_seed(0))[:n_pairs]]
    gradients = [ge.unit_gradients(one, x, "input", unit_layer="hidden1").gradients.mean(0) for one in known.networks]
    z, activations = torch.stack(gradients), known.networks.activations(x)["hidden1"].mT.detach()
    orders = torch.cat(symmetries(known.table, n_draws), 1)
    orders[:, len(known.table) :] += len(known.table)
    centered = activations - activations.mean(2, keepdim=True)
    return {"mean gradient": z, "activations": centered, "symmetry named": torch.cat([z[:, :, o] for o in orders], 1)}


def match_sets(known: ge.datasets.GroupNetworks, z: Tensor, i: int, **options: Any) -> ge.metrics.SubspaceMatching:
    """Match sets of units that read one component in network i with those of the next, by what units do, [e, u, p]."""
    sides = []
    for e in (i, (i + 1) % len(z)):
        y = known.labels[e].repeat(z.shape[1] // known.labels.shape[1])
        sides += [z[e][y >= 0], y[y >= 0]]
    return ge.metrics.match_subspaces(*sides, **options)


def over_networks(table: pd.DataFrame, column: str) -> str:
    """Average over a network's sets, then over networks, with an interval over these."""
    if table.empty:
        return ""
    return f"{ge.metrics.spread(table.groupby('network')[column].mean().clip(0, 1), bounds=(0, 1)):.2f}"


def matched(sets: pd.DataFrame) -> dict[str, Any]:
    """Summarize how sets of units are matched, those that have a twin in the next network apart from the others."""
    twin, other = sets[sets["shared"]], sets[~sets["shared"]]
    return {
        "sets": len(sets), "with a twin": len(twin), "right partner": over_networks(twin, "right partner"),
        "overlap": over_networks(twin, "overlap"), "dealt at random": over_networks(twin, "null"),
        "found (p ≤ 0.05)": over_networks(twin, "p ≤ 0.05"), "overlap without twin": over_networks(other, "overlap"),
        "found without twin": over_networks(other, "p ≤ 0.05"),
    }  # fmt: skip


def draw_overlap(ax: Axes, found: ge.metrics.SubspaceMatching, title: str, i: int) -> AxesImage:
    """Draw how the sets of network i overlap with those of the next; sets that read the same are framed."""
    image = ax.imshow(found.overlap, vmin=0, vmax=1, cmap="Blues")
    for (row, column), overlap in np.ndenumerate(found.overlap.numpy()):
        if overlap >= 0.1:
            color = "w" if overlap > 0.6 else "k"
            ax.text(column, row, f"{overlap:.2f}", ha="center", va="center", fontsize=7, color=color)
        if found.labels_a[row] == found.labels_b[column]:
            frame = {"fill": False, "edgecolor": ge.plots.COLORS[1], "linewidth": 2}
            ax.add_patch(Rectangle((column - 0.5, row - 0.5), 1, 1, **frame))
    ax.set_xticks(range(len(found.labels_b)), found.labels_b)
    ax.set_yticks(range(len(found.labels_a)), found.labels_a)
    ax.set(title=title, xlabel=f"component read in network {i + 2}", ylabel=f"component read in network {i + 1}")
    return image


# ---------------------------------------------------------------- claims of twins, put to the test


def scored_pairs(known: ge.datasets.GroupNetworks, n_pairs: int) -> Tensor:
    """Draw the pairs at which claims are tested: their places among all inputs."""
    return torch.randperm(len(known.inputs), generator=torch.Generator().manual_seed(1))[:n_pairs]


def margin(outputs: Tensor, y: Tensor) -> float:
    """Average the right logit less the best other one."""
    right = outputs.gather(1, y[:, None])
    return float((right[:, 0] - outputs.scatter(1, y[:, None], -torch.inf).amax(1)).mean())


def unit_rows(z: Tensor) -> Tensor:
    """Give rows unit length."""
    return normalize(z.double(), dim=-1)


def standardized(a: Tensor) -> Tensor:
    """Turn activations, [n, u], into rows whose inner products are correlations, [u, n]."""
    return unit_rows((a - a.mean(0)).T)


def nearest(za: Tensor, zb: Tensor, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Claim for each of the units a that the nearest of the units b is its twin, the closest claims first."""
    distance, partner = torch.cdist(za[a], zb[b]).min(1)
    order = distance.argsort()
    return a[order], b[partner[order]]


def claims(does: Mapping[str, Tensor], i: int) -> dict[str, tuple[Tensor, Tensor]]:
    """Claim twins of the units of network i in the next one: by what they do, and by their sorted values alone."""
    j = (i + 1) % len(does["activations"])
    a, b = (torch.nonzero(does["mean gradient"][e].abs().sum(1) > 0)[:, 0] for e in (i, j))
    rows = {way: [unit_rows(does[way][e]) for e in (i, j)] for way in ("mean gradient", "activations")}
    rows["values"] = [unit_rows(does["activations"][e].sort(-1).values) for e in (i, j)]
    return {way: nearest(*z, a, b) for way, z in rows.items()}


def tidy(tables: Mapping[tuple[Any, ...], pd.DataFrame], *names: str) -> pd.DataFrame:
    """Put tables on top of each other, with the parts of their keys as columns."""
    return pd.concat(tables, names=[*names, "row"]).reset_index()


def kept(table: pd.DataFrame, control: str) -> float:
    """Say which part of what is lost when units are held at their means donors keep."""
    return 1 - table[control].sum() / table["ablation"].sum()


def survivors(claimed: pd.DataFrame) -> dict[str, float]:
    """Summarize claims of single units: what loses under 1 % of accuracy, and how much of the margin is kept."""
    by = dict(tuple(claimed.groupby("score")))
    accuracy, by_margin = by["accuracy"], by["margin"]
    controls = {"claimed": "loss", "matched": "matched", "random": "random"}
    return {
        "claims": len(accuracy),
        **{f"under 1 %: {words}": (accuracy[c] <= 0.01).mean() for words, c in controls.items()},
        "under 1 %: held at mean": (accuracy["ablation"] <= 0.01).mean(),
        "undecided": (accuracy["verdict"] == "undecided").mean(), "R²": accuracy["r2"].median(),
        **{f"margin kept: {words}": kept(by_margin, c) for words, c in controls.items()},
    }  # fmt: skip


def lost(claimed: pd.DataFrame) -> dict[str, Any]:
    """Summarize claims put in together: accuracy lost, certified claims, and gradients against activations."""
    by = {way: part.set_index("network") for way, part in claimed.groupby("way")}
    gradients, activations = by["mean gradient"], by["activations"]
    return {
        "lost: gradients": gradients["loss"].mean(), "activations": activations["loss"].mean(),
        "values": by["values"]["loss"].mean(), "held at mean": gradients["ablation"].mean(),
        "certified: gradients": (gradients["verdict"] == "certified").mean(),
        "certified: activations": (activations["verdict"] == "certified").mean(),
        "gradients keep more by": f"{ge.metrics.spread((activations['loss'] - gradients['loss']).to_numpy()):.2f}",
    }  # fmt: skip


def with_intervals(tried: pd.DataFrame) -> dict[str, str]:
    """Average what claims and controls lose, with intervals, and count the claims that are certified."""
    columns = {"loss": "loss", "r2": "R²", "ablation": "held at mean", "random": "random", "matched": "matched",
               "matched_r2": "R², matched"}  # fmt: skip
    means = {words: f"{ge.metrics.spread(tried[column]):.3f}" for column, words in columns.items()}
    return means | {"certified": f"{(tried['verdict'] == 'certified').sum()} of {len(tried)}"}


def readings(known: ge.datasets.GroupNetworks, places: Tensor, n_draws: int) -> dict[str, Tensor]:
    """Read hidden units at pairs (a, b), [e, m, h], and at translated pairs, draw after draw, [e, m, draws · h]."""
    x, n = known.inputs, len(known.table)
    a, b = places // n, places % n
    moved = [x[first[a] * n + second[b]] for first, second in zip(*symmetries(known.table, n_draws), strict=True)]
    here, *there = (known.networks.activations(z)["hidden1"].detach() for z in (x[places], *moved))
    return {"mean gradient": here, "activations": here, "symmetry named": torch.cat(there, 2)}


def set_claims(known: ge.datasets.GroupNetworks, i: int, sets: pd.DataFrame, width: int) -> list[tuple[Tensor, Tensor]]:
    """Claim that a set of network i is a linear map of its partner, among as many donors as ``width`` says."""
    a, b = known.labels[i], known.labels[(i + 1) % len(known.networks)]
    b = b.repeat(width // len(b))
    return [(torch.nonzero(a == s)[:, 0], torch.nonzero(b == t)[:, 0]) for s, t in zip(sets["set"], sets["partner"])]


def replaced(tried: pd.DataFrame) -> dict[str, float]:
    """Summarize sets that were replaced by linear maps of others."""
    by = dict(tuple(tried.groupby("score")))
    accuracy, by_margin = by["accuracy"], by["margin"]
    return {
        "sets": len(by_margin), "R²": by_margin["r2"].mean(), "R², matched": by_margin["matched_r2"].mean(),
        **{f"margin kept: {words}": kept(by_margin, c) for words, c in
           {"partner": "loss", "matched": "matched", "random": "random"}.items()},
        "accuracy, ablated": accuracy["ablation"].mean(), "accuracy, partner": accuracy["loss"].mean(),
    }  # fmt: skip


def frequency_sets(known: ge.datasets.GroupNetworks, z: Tensor, e: int) -> list[tuple[int, Tensor]]:
    """List the sets of units that read one component in a network for addition, each with its frequency."""
    power = torch.fft.rfft(z[e, :, : len(known.table)]).abs()[:, 1:].square()
    y = known.labels[e]
    sets = [torch.nonzero(y == label)[:, 0] for label in y.unique() if label >= 0]
    return [(int(power[units].sum(0).argmax()) + 1, units) for units in sets]


def relation(f: int, g: int, n: int) -> str:
    """Say what the frequency g is to f, modulo n; n is odd."""
    for words, other in (("f", g), ("f/2", 2 * g), ("2f", g * (n + 1) // 2)):
        if other % n in (f, n - f):
            return words
    return "none of these"


# ---------------------------------------------------------------- two ways to add


def waves(p: int) -> Tensor:
    """Return cosine and sine of every frequency modulo p, [p, 2, f]."""
    angles = 2 * torch.pi * torch.outer(torch.arange(p), torch.arange(1, p // 2 + 1)) / p
    return torch.stack([angles.cos(), angles.sin()], 1)


def cosine_of_tokens(gradients: Tensor) -> Tensor:
    """Compare the gradients with respect to both numbers, [n, u, 2, d]: cosines, [n, u]."""
    return torch.cosine_similarity(gradients[:, :, 0], gradients[:, :, 1], dim=2)


def distance_irrelevance(numbers: Tensor, pairs: Tensor, p: int) -> float:
    """Divide the mean spread at one difference a - b by the spread over all pairs (Zhong et al. 2023)."""
    same = [numbers[(pairs[:, 0] - pairs[:, 1]) % p == d].std() for d in range(p)]
    return float(torch.stack(same).mean() / numbers.std())


def amplitude(logits: Tensor, pairs: Tensor, k: int) -> Tensor:
    """Return |Σ_c z_c exp(-2πik(c - a - b)/p)| at each pair, [n], for logits [n, p]."""
    p = logits.shape[1]
    angles = 2 * torch.pi * k * (torch.arange(p) - pairs.sum(1)[:, None]) / p
    return torch.complex((logits * angles.cos()).sum(1), -(logits * angles.sin()).sum(1)).abs()


def of_all(network: Any, both: ge.UnitGradients) -> dict[str, float]:
    """Compare the gradients of all logits with respect to both numbers, over all pairs."""
    pairs, p, cosine = network.pairs(), both.values.shape[1], cosine_of_tokens(both.gradients.unflatten(2, (2, -1)))
    logits, sums = both.values.double(), pairs.sum(1) % p
    right = logits[torch.arange(len(pairs)), sums]
    return {
        "accuracy": float((logits.argmax(1) == sums).double().mean()),
        "published": float(network.published.split()[0]), "all triples": float(cosine.mean()),
        "spread over triples": float(cosine.std()), "error of 100 triples": float(cosine.std()) / 10,
        "distance irrelevance (logits)": distance_irrelevance(right, pairs, p),
    }  # fmt: skip


def of_frequencies(network: Any, both: ge.UnitGradients, least: float = 0.03) -> list[dict[str, float]]:
    """Compare them within the plane that a frequency spans in the embedding, for all with this share of it."""
    pairs, logits, gradients = network.pairs(), both.values.double(), both.gradients.unflatten(2, (2, -1))
    p, rows = logits.shape[1], []
    planes = torch.einsum("ncf,nd->fcd", waves(p), network.embed.weight)  # [f, 2, d]
    share = planes.square().sum((1, 2)) / planes.square().sum()
    for f in torch.nonzero(share > least)[:, 0].tolist():
        inside = gradients @ torch.linalg.qr(planes[f].T)[0]
        size = amplitude(logits, pairs, f + 1)
        rows.append({
            "frequency": f + 1, "share of embedding": float(share[f]),
            "share of gradients": float(inside.square().sum() / gradients.square().sum()),
            "cosine": float(cosine_of_tokens(inside).mean()), "amplitude in the logits": float(size.mean()),
            "distance irrelevance": distance_irrelevance(size, pairs, p),
        })  # fmt: skip
    return rows


def of_units(network: Any, n_pairs: int) -> pd.DataFrame:
    """Compare them for every hidden unit, where it is on, with the frequency that it reads most."""
    p = network.embed.num_embeddings
    pairs = network.pairs()[torch.randperm(p * p, generator=torch.Generator().manual_seed(0))[:n_pairs]]
    gradients = ge.unit_gradients(network, pairs, "embed", unit_layer="mlp.activation").gradients.unflatten(2, (2, -1))
    on = gradients.square().sum((2, 3)) > 0
    read = gradients.mean(0).sum(1) @ network.embed.weight.T  # [u, p]
    power = torch.einsum("up,pcf->ucf", read, waves(p)).square().sum(1)
    cosine = (cosine_of_tokens(gradients) * on).sum(0) / on.sum(0).clamp_min(1)
    columns = {"purity": power.amax(1) / power.sum(1), "cosine": cosine, "on": on.double().mean(0)}
    table = pd.DataFrame({name: column.double().numpy() for name, column in columns.items()})
    return table.assign(frequency=power.argmax(1).numpy() + 1)
