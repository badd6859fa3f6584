"""What notebook 04 compares: gradient fields, ways to describe them, and the points that each way needs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from sklearn import datasets
from sklearn.decomposition import PCA
from sklearn.random_projection import SparseRandomProjection
from torch import Tensor
from torch.nn.functional import pad

import gradembed as ge

SETTINGS = {"shared points": "none", "own points": "none", "own points and rotations": "orthogonal"}  # and invariance
GRADIENTS, VALUES, QUANTILES = "true gradients", "points and values", "quantiles of values"
DISCOUNT = ", groups discounted"
Rows = Tensor | np.ndarray

# ---------------------------------------------------------------- fields


def rotations(n: int, dim: int, seed: int) -> Tensor:
    """Draw orthogonal matrices, [n, d, d]."""
    draws = torch.randn(n, dim, dim, generator=torch.Generator().manual_seed(seed))
    q, r = torch.linalg.qr(draws.double())
    return (q * r.diagonal(dim1=1, dim2=2).sign()[:, None]).float()


def seen(networks: ge.MLPEnsemble, setting: str, n_points: int, seed: int) -> ge.GradientFields:
    """Take the fields of networks with one output, in one of `SETTINGS`."""
    e, dim = len(networks), networks.widths[0]
    if setting == "shared points":
        return ge.gradient_fields(networks, ge.sobol_points(n_points, dim, seed=seed))
    draws = torch.rand(e, n_points, dim, generator=torch.Generator().manual_seed(seed))
    fields = ge.gradient_fields(networks, draws * 2 - 1)
    return fields.rotated(rotations(e, dim, seed)) if setting == "own points and rotations" else fields


def exact_waves(
    n_functions: int, dim: int, seed: int, *, roughness: float = 1.0, active: int | None = None
) -> ge.datasets.RandomWaves:
    """Draw functions of d inputs, of which only the first ``active`` count."""
    waves = ge.datasets.random_waves(n_functions, active or dim, seed=seed, roughness=roughness)
    return replace(waves, wave_vectors=pad(waves.wave_vectors, (0, dim - waves.dim)))


def in_bases(waves: ge.datasets.RandomWaves, n_bases: int, n_points: int, seed: int) -> list[ge.GradientFields]:
    """Take the fields of all functions in several bases: each has its own points and its own rotation."""
    draw, parts, labels = torch.Generator().manual_seed(1_000 * seed + n_points), [], torch.arange(len(waves))
    for basis, turn in enumerate(rotations(n_bases, waves.dim, seed)):
        x = torch.rand(n_points, waves.dim, generator=draw) * 2 - 1
        parts.append(ge.GradientFields(x @ turn, waves.gradient(x) @ turn, waves(x), labels, labels * 0 + basis))
    return parts


def noisy(fields: ge.GradientFields, noise: float, seed: int) -> ge.GradientFields:
    """Add noise to gradients, in units of their root mean square."""
    draws = torch.randn(fields.gradients.shape, generator=torch.Generator().manual_seed(seed))
    size = fields.gradients.square().mean((1, 2), keepdim=True).sqrt()
    return replace(fields, gradients=fields.gradients + noise * size * draws)


def shares(deltas: Sequence[float], epsilons: Sequence[float]) -> dict[tuple[str, float], Tensor]:
    """Say what six functions contain of A, B and six details: mixtures, and fine detail.

    Returns:
        By kind and difference, [6, 8]: √(1 − s²) A + s B for s = 0, δ, ..., 5δ; or A + ε D, each with its own detail.
    """
    found = {}
    for delta in deltas:
        s = delta * torch.arange(6)[:, None]
        found["mixture", delta] = torch.cat([(1 - s**2).sqrt(), s, torch.zeros(6, 6)], 1)
    for epsilon in epsilons:
        parts = torch.cat([torch.ones(6, 1), torch.zeros(6, 1), epsilon * torch.eye(6)], 1)
        found["fine detail", epsilon] = parts / (1 + epsilon**2) ** 0.5
    return found


def families(
    both: ge.datasets.RandomWaves, contents: Tensor, n_bases: int, n_points: int, seed: int
) -> list[ge.GradientFields]:
    """Take the fields of sums of A, B and six details of four times the roughness, [sums, 8], in each basis."""
    details, parts = ge.datasets.random_waves(6, both.dim, seed=seed + 100, roughness=4.0), []
    bases = (in_bases(waves, n_bases, n_points, seed) for waves in (both, details))
    for pair in zip(*bases, strict=True):  # at the same points
        gradients = torch.einsum("cf,fmd->cmd", contents, torch.cat([part.gradients for part in pair]))
        labels, values = torch.arange(len(contents)) % 6, contents @ torch.cat([part.values for part in pair])
        parts.append(ge.GradientFields(pair[0].points, gradients, values, labels, labels * 0 + pair[0].groups[0]))
    return parts


def two_copies(name: str, n: int) -> list[ge.datasets.StackedSplit]:
    """Stack two copies of a data set of scikit-learn, paired anew for each of n networks."""
    x, y = getattr(datasets, f"load_{name}")(return_X_y=True)
    x = torch.tensor((x - x.mean(0)) / (x.std(0) + 1e-9), dtype=torch.float32)
    y, held = torch.tensor(y), torch.arange(len(x)) % 5 == 0
    split = ge.datasets.Split(x[~held], y[~held], x[held], y[held], name, "scikit-learn")
    return [ge.datasets.stack_tasks(split, seed=i, n_samples=4_096) for i in range(n)]


def read_by_outputs(
    networks: ge.MLPEnsemble, pairs: Sequence[ge.datasets.StackedSplit], wrt: str, n_points: int
) -> ge.GradientFields:
    """Take the fields of what each output reads of the second hidden layer, each network at samples of its own."""
    x = torch.stack([ge.sample_points(pair.x_train, n_points, seed=i) for i, pair in enumerate(pairs)])
    read = dict(networks.named_parameters())["output.weight"].detach()
    classes = torch.arange(read.shape[1] // 2).repeat(2)
    return ge.gradient_fields(networks, x, wrt=wrt, unit_layer="hidden2", directions=read, labels=classes)


def estimated_by_network(fields: ge.GradientFields) -> ge.GradientFields:
    """Estimate gradients from points and values, network by network: its units share their points."""
    parts = [fields[fields.groups == group] for group in fields.groups.unique()]
    parts = [ge.estimated_fields(replace(part, points=part.own_points()[0])) for part in parts]
    return replace(fields, gradients=torch.cat([part.gradients for part in parts]))


# ---------------------------------------------------------------- descriptions: rows of numbers, one per unit


def flat(fields: ge.GradientFields) -> Tensor:
    """Write all gradients of a unit into one row."""
    return fields.normalized().gradients.flatten(1)


def components(rows: Rows, n: int) -> np.ndarray:
    """Reduce rows to their principal components."""
    return PCA(n, random_state=0).fit_transform(np.asarray(rows))


def value_quantiles(fields: ge.GradientFields) -> Tensor:
    """Describe units by their values alone: 25 quantiles."""
    return torch.quantile(fields.normalized().values, torch.linspace(0.02, 0.98, 25), dim=1).T


def descriptor(fields: ge.GradientFields, seed: int, invariance: str = "orthogonal", **settings: Any) -> np.ndarray:
    """Describe units without training."""
    return ge.FieldDescriptor(invariance, random_state=seed, **settings).fit_transform(fields)


def learned(fields: ge.GradientFields, seed: int, invariance: str = "orthogonal", **settings: Any) -> np.ndarray:
    """Train an embedding by filling in gradients at left-out points."""
    return ge.GradientFieldEmbedder(invariance=invariance, random_state=seed, progress=False, **settings).fit_transform(
        fields
    )


def less_group_means(rows: Tensor, groups: Tensor) -> Tensor:
    """Take off each row the mean over its group."""
    return rows - torch.stack([rows[groups == group].mean(0) for group in groups])


# ---------------------------------------------------------------- scores


def judged(rows: Rows, fields: ge.GradientFields) -> dict[str, float]:
    """Score an embedding by held-out networks: nearest neighbor, linear probe, and clusters without labels."""
    if rows.shape[1] > 1024:  # a random projection keeps distances and is quick to judge
        rows = SparseRandomProjection(512, random_state=0).fit_transform(rows)
    y, network = fields.labels, fields.groups
    return {
        "neighbor": ge.metrics.retrieval(rows, y, network).accuracy,
        "probe": ge.metrics.linear_probe(rows, y, network).accuracy,
        "ARI": ge.metrics.cluster_agreement(rows, y),
    }


def by_method(
    networks: ge.MLPEnsemble, setting: str, n_points: int, seed: int, n_components: int, max_steps: int
) -> list[dict[str, Any]]:
    """Judge seven ways to embed networks in one of `SETTINGS`, the last one a control: networks never trained."""
    fields, invariance = seen(networks, setting, n_points, seed), SETTINGS[setting]
    untrained = ge.MLPEnsemble(networks.widths, len(networks), seed=seed + 77_000)
    found: dict[str, Rows] = {
        "raw rows": flat(fields),
        "PCA of rows": components(flat(fields), n_components),
        "mean gradient": fields.normalized().gradients.mean(1),
        "descriptor": descriptor(fields, seed, invariance),
        "learned": learned(fields, seed, invariance, n_components=n_components, max_steps=max_steps),
        "values only": value_quantiles(fields),
        "untrained networks": descriptor(seen(untrained, setting, n_points, seed), seed, invariance),
    }
    return [{"method": name} | judged(z, fields) for name, z in found.items()]


def compared(true: ge.GradientFields, estimated: ge.GradientFields | None, seed: int) -> list[dict[str, Any]]:
    """Judge all methods on the same units; without estimated fields only those that see the true gradients."""
    kinds = {GRADIENTS: true} | ({} if estimated is None else {VALUES: estimated})
    found: dict[str, Rows] = {
        name + words: descriptor(kinds[name], seed, discount_groups=bool(words))
        for words in ("", DISCOUNT)
        for name in kinds
    }
    if estimated is not None:
        rows = value_quantiles(true)
        found |= {QUANTILES: rows, QUANTILES + DISCOUNT: less_group_means(rows, true.groups), "raw rows": flat(true)}
    return [{"method": name, "seed": seed} | judged(z, true) for name, z in found.items()]


def by_points(
    waves: ge.datasets.RandomWaves, points: Sequence[int], n_bases: int, seed: int, noise: float = 0.0
) -> list[dict[str, Any]]:
    """Judge all methods at each number of points; noisy gradients only beside those that are not estimated."""
    found = []
    for m in points:
        parts = in_bases(waves, n_bases, m, seed)
        estimated = None if noise else ge.GradientFields.concatenate([ge.estimated_fields(part) for part in parts])
        true = ge.GradientFields.concatenate([noisy(part, noise, seed + i) for i, part in enumerate(parts)])
        found += [{"points": m} | row for row in compared(true, estimated, seed)]
    return found


def by_difference(
    both: ge.datasets.RandomWaves, contents: Mapping[tuple[str, float], Tensor], n_bases: int, n_points: int, seed: int
) -> list[dict[str, Any]]:
    """Judge all methods on each family, of ``contents`` as `shares` gives them."""
    true, found = families(both, torch.cat([*contents.values()]), n_bases, n_points, seed), []
    estimated = [ge.estimated_fields(part) for part in true]
    for i, (kind, size) in enumerate(contents):
        members = slice(6 * i, 6 * i + 6)
        family = (ge.GradientFields.concatenate([part[members] for part in parts]) for parts in (true, estimated))
        found += [{"kind": kind, "size": size} | row for row in compared(*family, seed)]
    return found


def with_intervals(fields: ge.GradientFields, invariance: str, exclude: Sequence[Tensor] = ()) -> dict[str, str]:
    """Write the neighbor accuracy of each way to describe the same units, with its interval over networks."""
    kinds = {GRADIENTS: fields, VALUES: estimated_by_network(fields)}
    found: dict[str, Rows] = {name: descriptor(some, 0, invariance) for name, some in kinds.items()}
    found |= {QUANTILES: value_quantiles(fields), "raw rows": flat(fields)}
    y, network = fields.labels, fields.groups
    return {name: str(ge.metrics.retrieval(z, y, network, exclude=exclude).estimate) for name, z in found.items()}


# ---------------------------------------------------------------- where accuracy gets somewhere


def crossing(x: Any, accuracy: Any, level: float) -> float:
    """Return where accuracy first reaches a level, in log x; x[0] if it starts there, infinity if it never does."""
    x, accuracy = np.asarray(x, float), np.asarray(accuracy)
    i = int((accuracy >= level).argmax())
    if i == 0:
        return float(x[0]) if accuracy[0] >= level else np.inf
    return float(np.exp(np.interp(level, accuracy[i - 1 : i + 1], np.log(x[i - 1 : i + 1]))))


def over_seeds(values: Any, bound: str = "") -> str:
    """Write the geometric mean over seeds, with its interval."""
    found = ge.metrics.spread(np.log(values))
    mean, low, high = (f"{v:{'.0f' if v >= 100 else '.2g'}}" for v in np.exp([found.mean, found.low, found.high]))
    return f"{bound}{mean} [{low}, {high}]" if found.n > 1 else f"{bound}{mean}"


def needed(table: pd.DataFrame, measure: str, level: float = 0.9) -> pd.DataFrame:
    """Return the points needed for an accuracy: seeds by methods."""
    curves = table.groupby(["seed", "method"])[["points", measure]]
    return curves.apply(lambda curve: crossing(curve["points"], curve[measure], level)).unstack("method")


def exchange(table: pd.DataFrame, measure: str, kind: str = "") -> dict[str, str]:
    """Write how many points true gradients need, how many points and values, and their ratio, or a bound of it."""
    points, (first, last) = needed(table, measure), (table["points"].min(), table["points"].max())
    points = points[[GRADIENTS + kind, VALUES + kind]].set_axis([GRADIENTS, VALUES], axis=1)
    low, high = (points == first).any(), np.isinf(points).any()
    points = points.clip(upper=last)
    above, below = low[GRADIENTS] or high[VALUES], low[VALUES] or high[GRADIENTS]
    ratio = over_seeds(points[VALUES] / points[GRADIENTS], "≥ " if above else "≤ " if below else "")
    words = [over_seeds(points[x], "> " if high[x] else "≤ " if low[x] else "") for x in (GRADIENTS, VALUES)]
    return dict(zip([GRADIENTS, VALUES, "exchange rate"], [*words, "not known" if above and below else ratio]))


def break_point(table: pd.DataFrame, level: float) -> str:
    """Write the difference at which accuracy crosses a level, or a bound of it."""
    curves = table.groupby("seed")[["size", "neighbor"]]
    found = curves.apply(lambda curve: crossing(curve["size"], curve["neighbor"], level))
    sizes = table["size"].min(), table["size"].max()
    bound = "> " if np.isinf(found).any() else "≤ " if (found == sizes[0]).any() else ""
    return over_seeds(found.clip(upper=sizes[1]), bound)


# ---------------------------------------------------------------- figures


def panels(
    tables: Mapping[str, pd.DataFrame], x: str, y: str, xlabels: Sequence[str], size: tuple[float, float], *,
    source: str, **how: Any,
) -> None:  # fmt: skip
    """Draw curves by method, a panel for each table and a row for each label of x; what discounts groups is dashed."""
    columns = len(tables) // len(xlabels)
    axes = plt.subplots(len(xlabels), columns, figsize=size, layout="constrained", sharey=True, squeeze=False)[1]
    for ax, xlabel, (title, table) in zip(axes.flat, np.repeat(xlabels, columns), tables.items(), strict=True):
        table = table.sort_values("method", key=lambda names: names.str.endswith(DISCOUNT), kind="stable")
        words = {"xlabel": xlabel, "ylabel": "nearest neighbor", "title": title}
        ge.plots.curves(
            table, x, y, "method", log_x=True, source=source if ax is axes[0, 0] else "", ax=ax, **words, **how
        )
        hues = {line.get_label(): line.get_color() for line in ax.lines}
        for line, shown in zip(ax.lines, ax.get_legend().get_lines(), strict=True):
            if line.get_label().endswith(DISCOUNT):
                plt.setp([line, shown], color=hues[line.get_label().removesuffix(DISCOUNT)], linestyle="--")
    for ax in axes.flat[:-1]:
        ax.get_legend().remove()
    for ax in axes[:, 1:].flat:
        ax.set_ylabel("")
