"""What notebook 05 measures: tasks mixed by a known amount λ, their true cosine, and λ read back from networks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from scipy.stats import spearmanr
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity

import gradembed as ge

LAYERS = ["input", "hidden1", "hidden2"]
Row = dict[str, Any]

# ---------------------------------------------------------------- tasks whose true cosine is known


def true_cosine(x: Tensor, mixing: float) -> Tensor:
    """Return the cosine between the gradients of (1 − λ)p₁ + λp₂ and λp₁ + (1 − λ)p₂ at samples [n, 4], [n]."""
    own, other = x[:, :2].square().sum(1), x[:, 2:].square().sum(1)  # |∇p₁|², |∇p₂|²
    first = (1 - mixing) ** 2 * own + mixing**2 * other
    second = mixing**2 * own + (1 - mixing) ** 2 * other
    return mixing * (1 - mixing) * (own + other) / (first * second).sqrt()


def tied_split(mixing: float, repeat: int, tie: float) -> ge.datasets.Split:
    """Mix the same tasks, but let x₂ follow x₀, and x₃ follow x₁, with a correlation of ``tie``."""
    split, parts = ge.datasets.soft_mixing(mixing, seed=repeat), []
    for x in (split.x_train, split.x_test):
        x = torch.cat([x[:, :2], tie * x[:, :2] + (1 - tie**2) ** 0.5 * x[:, 2:]], 1)
        products = torch.stack([x[:, 0] * x[:, 1], x[:, 2] * x[:, 3]], 1)
        parts += [x, (1 - mixing) * products + mixing * products.flip(1)]
    return ge.datasets.Split(*parts, name="soft mixing, tied inputs", source=f"{split.source}, tied by {tie}")


def folded_split(repeat: int) -> ge.datasets.Split:
    """Return the tasks p and |p| of p = x₀x₁, of mean 0 and variance 1."""
    split, parts = ge.datasets.soft_mixing(0.0, seed=repeat), []
    for x in (split.x_train, split.x_test):
        product = x[:, 0] * x[:, 1]
        parts += [x, torch.stack([product, (product.abs() - 0.75) / 0.4375**0.5], 1)]  # E|p| = 3/4, Var|p| = 7/16
    return ge.datasets.Split(*parts, name="folded product", source=split.source)


@dataclass(frozen=True)
class ImageMixing:
    """Five pairs of tasks on images: products of principal components of the left half, mixed with the right half's.

    Attributes:
        center: Mean image, [784].
        read_in: Ten components of each half, whose scores have variance 1, [2, 784, 10].
    """

    center: Tensor
    read_in: Tensor

    @classmethod
    def of(cls, images: Tensor) -> ImageMixing:
        """Take the components of images, [n, 784]."""
        images, left = images.double(), (torch.arange(784) % 28 < 14).double()
        center, read_in = images.mean(0), []
        for half in (left, 1 - left):
            part = (images - center) * half
            values, vectors = torch.linalg.eigh(part.T @ part / len(images))
            read_in.append(vectors[:, -10:].flip(1) / values[-10:].flip(0).sqrt())
        return cls(center, torch.stack(read_in))

    def targets(self, x: Tensor, mixing: Tensor) -> Tensor:
        """Return the five pairs of tasks, mixed by [5], at images [n, 784]: [n, 10]."""
        z = torch.einsum("nd,hdk->hnk", x.double() - self.center, self.read_in)
        return _mixed(z[:, :, 0::2] * z[:, :, 1::2], mixing).flatten(1)

    def true_cosine(self, x: Tensor, mixing: Tensor) -> Tensor:
        """Return the cosine between the gradients of each pair's tasks, [n, 5]."""
        z = torch.einsum("nd,hdk->hnk", x.double() - self.center, self.read_in)[:, :, None]
        even, odd = self.read_in[:, None, :, 0::2], self.read_in[:, None, :, 1::2]
        gradients = _mixed(even * z[..., 1::2] + odd * z[..., 0::2], mixing)  # [n, 784, 5, 2]
        return cosine_similarity(gradients[..., 0], gradients[..., 1], dim=1)

    def split(self, x: Tensor, x_test: Tensor, mixing: Tensor, source: str) -> ge.datasets.Split:
        """Pair images with their tasks, of mean 0 and variance 1 in training."""
        y, y_test = self.targets(x, mixing), self.targets(x_test, mixing)
        mean, std = y.mean(0), y.std(0)
        parts = x, ((y - mean) / std).float(), x_test, ((y_test - mean) / std).float()
        return ge.datasets.Split(*parts, name="mixing on images", source=source)


def _mixed(products: Tensor, mixing: Tensor) -> Tensor:
    left, right = products
    return torch.stack([(1 - mixing) * left + mixing * right, mixing * left + (1 - mixing) * right], -1)


# ---------------------------------------------------------------- what is measured in a network


def pair_rows(result: ge.Interference, i: int = 0, j: int = 1) -> Iterator[Row]:
    """Write down what interference says of two outputs, layer by layer."""
    for layer in result.layers:
        cosine, absolute = result.cosine[layer][i, j].item(), result.abs_cosine[layer][i, j].item()
        row = {"layer": layer, "cosine": cosine, "|cosine|": absolute, "chance": result.chance[layer]}
        row |= {"excess": absolute - row["chance"], "output correlation": result.output_correlation[i, j].item()}
        yield row | {"share of the way to 1": row["excess"] / (1 - row["chance"])}


def orthogonalities(network: nn.Module, x: Tensor, realised: ge.Interference, n_product: int) -> Iterator[Row]:
    """Measure the two tasks' orthogonality by three pairings of their gradients, each signed and absolute."""
    everywhere = ge.interference(network, x, pairing="all", n_readouts=0)
    tree = ge.gradient_tree(network, x[:n_product], mode="product", max_nodes=10_000)
    for layer in realised.layers:
        first, second = (tree.directions[layer][tree.roots[layer] == task].double() for task in (0, 1))
        product = first @ second.T
        scores = {"product cosine": float(product.mean()), "product |cosine|": float(product.abs().mean())}
        for pairing, result in (("realised", realised), ("all", everywhere)):
            scores[f"{pairing} cosine"] = result.cosine[layer][0, 1].item()
            scores[f"{pairing} |cosine|"] = result.abs_cosine[layer][0, 1].item()
        yield from ({"layer": layer, "measure": name, "orthogonality": 1 - abs(s)} for name, s in scores.items())


def gradient_cosines(network: nn.Module, x: Tensor, layer: str) -> Tensor:
    """Return the cosines between all gradients of both tasks, task after task, [2n, 2n]."""
    unit = ge.unit_gradients(network, x, layer).unit_vectors().transpose(0, 1).flatten(0, 1)
    return unit @ unit.T


def own_cosine(gradients: ge.UnitGradients) -> Tensor:
    """Return the cosine between the gradients of two outputs at each sample, [n]."""
    unit = gradients.unit_vectors().double()
    return (unit[:, 0] * unit[:, 1]).sum(1)


def estimated_cosine(points: Tensor, values: Tensor) -> Tensor:
    """Estimate gradients from points [n, d] and two outputs' values [n, 2] by kernel ridge; return cosines, [n]."""
    points, values = points.double(), (values - values.mean(0)).double()
    squared = torch.cdist(points, points).square()
    widths = squared.median().sqrt() * torch.tensor([1.0, 2.0, 4.0])
    fits = [_fit(squared, values, width, ridge) for width in widths for ridge in (1e-6, 1e-4)]
    _, width, kernel, weights = min(fits, key=lambda fit: fit[0])
    toward = torch.einsum("nm,mu,nmd->nud", kernel, weights, points[None] - points[:, None]) / width**2
    return cosine_similarity(toward[:, 0], toward[:, 1], dim=1)


def _fit(squared: Tensor, values: Tensor, width: Tensor, ridge: float) -> tuple[float, Tensor, Tensor, Tensor]:
    kernel = torch.exp(-squared / (2 * width**2))
    inverse = torch.linalg.inv(kernel + ridge * torch.eye(len(kernel)))
    weights = inverse @ values
    return float((weights / inverse.diagonal()[:, None]).square().mean()), width, kernel, weights  # leave-one-out first


@torch.no_grad()
def value_cosine(network: nn.Module, x: Tensor) -> Tensor:
    """Return the cosine between a network's two outputs, estimated from their values, [n]."""
    return estimated_cosine(x, network(x))


def calibration(network: nn.Module, x: Tensor, mixing: float) -> Row:
    """Hold the cosines of a network at the input against the true ones."""
    unit = ge.unit_gradients(network, x, "input").unit_vectors()
    measured, true = (unit[:, 0] * unit[:, 1]).sum(1), true_cosine(x, mixing)  # in single precision
    return {
        "measured": float(measured.mean()),
        "true": float(true.mean()),
        "error of one sample": float((measured - true).abs().mean()),
    }


def at_samples(network: nn.Module, x: Tensor, mixing: float) -> Iterator[Row]:
    """Hold three estimates of the cosine at the input against the true one, sample by sample."""
    gradients, true = ge.unit_gradients(network, x, "input"), true_cosine(x, mixing).double()
    correlation = np.corrcoef(gradients.values.T)[0, 1] * torch.ones(len(x)).double()
    yield _against("network's gradients", own_cosine(gradients), true)
    yield _against("points and values", estimated_cosine(x, gradients.values), true)
    yield _against("output correlation", correlation, true)


def at_layer(network: nn.Module, x: Tensor, layer: str) -> Row:
    """Hold cosines estimated from activations and outputs against the network's own."""
    gradients = ge.unit_gradients(network, x, layer)
    estimate = estimated_cosine(gradients.activations, gradients.values)
    return _against("points and values", estimate, own_cosine(gradients))


def _against(name: str, estimate: Tensor, true: Tensor) -> Row:
    varies = min(float(true.std()), float(estimate.std())) > 1e-3  # not the truth at λ = 0 and 0.5, nor a constant
    corr = np.corrcoef(estimate, true)[0, 1] if varies else np.nan
    return {"estimate": name, "mean |error|": float((estimate - true).abs().mean()), "correlation": corr}


# ---------------------------------------------------------------- over networks


def interval(values: Any) -> str:
    """Write a mean over networks with its 95 % interval."""
    estimate = ge.metrics.spread(values)
    return f"{estimate.mean:.3f} [{estimate.low:.3f}, {estimate.high:.3f}]"


def follows(group: pd.DataFrame) -> pd.Series:
    """Say how well orthogonality follows λ: in rank, and over which range."""
    means = group.groupby("mixing")["orthogonality"].mean()
    return pd.Series({
        "Spearman, networks": spearmanr(group["mixing"], group["orthogonality"])[0],
        "Spearman, means": spearmanr(means.index, means)[0],
        "range": means.iloc[0] - means.iloc[-1],
    })  # fmt: skip


def read(frame: pd.DataFrame, column: str, values: Any) -> np.ndarray:
    """Read λ: where the mean of a column over networks of one λ has the given values."""
    curve = frame.groupby("mixing")[column].mean()
    level = np.maximum.accumulate(curve.to_numpy()) + 1e-9 * np.arange(len(curve))  # rising, as np.interp wants it
    return np.interp(values, level, curve.index)


def reading_errors(frame: pd.DataFrame, column: str) -> np.ndarray:
    """Return |λ read − λ|, mean over λ, for each repeat read off all others."""
    errors = []
    for repeat in sorted(frame["repeat"].unique()):
        own, others = frame[frame["repeat"] == repeat], frame[frame["repeat"] != repeat]
        errors.append(np.abs(read(others, column, own[column]) - own["mixing"]).mean())
    return np.array(errors)


# ---------------------------------------------------------------- trained networks on the known scale


def pairs_of(name: str, u: int) -> dict[str, list[tuple[int, int]]]:
    """List the pairs of outputs, by group: the six of two Irises side by side within a copy, and across."""
    every = [(i, j) for i in range(u) for j in range(i + 1, u)]
    if name != "stacked Iris":
        return {name: every}
    across = {"stacked Iris, across copies": [p for p in every if (p[0] < 3) != (p[1] < 3)]}
    return across | {"stacked Iris, within a copy": [p for p in every if (p[0] < 3) == (p[1] < 3)]}


def placed(
    networks: Mapping[str, tuple[Sequence[nn.Module], Sequence[Tensor]]], kind: str, **options: Any
) -> list[Row]:
    """Measure all pairs of outputs of networks, each at its samples."""
    rows = []
    for name, parts in networks.items():
        for i, (network, x) in enumerate(zip(*parts, strict=True)):
            result = ge.interference(network, x, **options)
            for group, pairs in pairs_of(name, len(result.unit_labels)).items():
                known = {"group": group, "kind": kind, "seed": i}
                rows += [known | {"pair": pair} | row for pair in pairs for row in pair_rows(result, *pair)]
    return rows


def position(mine: pd.DataFrame, scale: pd.DataFrame) -> Row:
    """Put a group of networks at one layer on the known scale of this layer, by size of cosine and by its controls."""
    means = mine.groupby(["kind", "seed"])[["|cosine|", "chance", "excess"]].mean()
    trained, control = means.loc["trained"], means.loc["untrained"]
    row = {"|cosine|": trained["|cosine|"].mean(), "chance": trained["chance"].mean()}
    row |= {"excess over chance": trained["excess"].mean(), "untrained": control["|cosine|"].mean()}
    row |= {"|output correlation|": mine[mine["kind"] == "trained"]["output correlation"].abs().mean()}
    readers = dict.fromkeys(["|cosine|", "chance", "untrained"], "|cosine|")
    readers["|output correlation|"] = "output correlation"
    return row | {f"λ of {name}": float(read(scale, reader, row[name])) for name, reader in readers.items()}


def signs(frame: pd.DataFrame, scale: pd.DataFrame) -> Row:
    """Say whether pairs keep one sign over samples, and where the size of their signed mean stands."""

    def steady(part: pd.DataFrame) -> pd.Series:
        return part["cosine"].abs() / part["|cosine|"]

    row: Row = {f"steady, {layer}": steady(frame[frame["layer"] == layer]).mean() for layer in LAYERS}
    first = frame[frame["layer"] == "input"]
    size = first["cosine"].abs().mean()
    row |= {"cosine, input": first["cosine"].mean(), "|mean cosine|, input": size}
    row["λ of |mean cosine|"] = float(read(scale[scale["layer"] == "input"], "cosine", size))
    return row | {"share of pairs below 0": (first["cosine"] < 0).mean()}


# ---------------------------------------------------------------- figures


MARKS: dict[str, Row] = {
    "|cosine|": {"marker": "|", "markeredgewidth": 2.5, "label": "mean over pairs"},
    "chance": {"marker": "D", "markerfacecolor": "white", "label": "its chance"},
    "untrained": {"marker": "x", "markeredgewidth": 2, "label": "untrained"},
    "|output correlation|": {"marker": "^", "markerfacecolor": "none", "label": "|output correlation|"},
}


def draw(ax: Axes, frame: pd.DataFrame, column: str, style: str, color: str, label: str) -> None:
    """Draw the mean of a column against λ, with its 95 % interval over networks as a band."""
    found = {mixing: ge.metrics.spread(values) for mixing, values in frame.groupby("mixing")[column]}
    mean, low, high = ([getattr(one, end) for one in found.values()] for end in ("mean", "low", "high"))
    ax.plot([*found], mean, style, color=color, label=label, markersize=5)
    ax.fill_between([*found], low, high, color=color, alpha=0.15, linewidth=0)


def draw_by_layer(ax: Axes, frame: pd.DataFrame, column: str, style: str, words: str) -> None:
    """Draw a column against λ, in a color for each layer."""
    for layer, color in zip(LAYERS, ge.plots.COLORS, strict=False):
        draw(ax, frame[frame["layer"] == layer], column, style, color, f"{layer}: {words}")


def finish(ax: Axes, title: str, ylabel: str, source: str) -> None:
    """Say what is drawn: title, axes, legend beside the data, source below."""
    ax.set_title(title, fontsize=10)
    ax.set(xlabel="mixing λ", ylabel=ylabel, ylim=(-0.05, 1.05))
    ax.grid(axis="y", alpha=0.3)
    ax.legend(loc="center left", bbox_to_anchor=(1.02, 0.5), frameon=False, fontsize=8)
    ax.figure.supxlabel(f"data: {source}", fontsize=7, color="#555555", x=0.01, ha="left")


def draw_positions(
    axes: Sequence[Axes], frame: pd.DataFrame, positions: pd.DataFrame, scales: Mapping[str, pd.DataFrame]
) -> None:
    """Draw where the pairs of each group stand on its known scale, and its controls, a panel for each layer."""
    groups = [*reversed(scales)]
    for ax, layer, color in zip(axes, LAYERS, ge.plots.COLORS, strict=False):
        for y, group in enumerate(groups):
            mine = frame[(frame["group"] == group) & (frame["layer"] == layer) & (frame["kind"] == "trained")]
            scale, by_pair = scales[group], mine.groupby("pair")["|cosine|"].mean()
            spots = read(scale[scale["layer"] == layer], "|cosine|", by_pair)
            ax.scatter(spots, y + np.linspace(-0.22, 0.22, len(spots)), s=14, color=color, alpha=0.7)
            for name, style in MARKS.items():
                at = positions.loc[(group, layer)][f"λ of {name}"]
                ax.plot(at, y, **style, markersize=9, linestyle="none", color="black", zorder=4)
        ax.set_yticks(range(len(groups)), groups)
        ax.set(xlim=(-0.02, 0.52), ylim=(-0.5, len(groups) - 0.5))
        ax.set_title(layer, fontsize=10)
        ax.grid(axis="x", alpha=0.3)
    legend = {"loc": "center left", "bbox_to_anchor": (1.02, 0.5), "frameon": False, "fontsize": 8}
    axes[0].legend(handles=axes[0].lines[: len(MARKS)], **legend)
