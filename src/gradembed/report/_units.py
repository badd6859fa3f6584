"""Units of all networks beside each other: an embedding, the nearest ones elsewhere with a null, and a card of each."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gradembed.embed import FieldDescriptor
from gradembed.fields import GradientFields
from gradembed.gradients import unit_gradients, unit_rows
from gradembed.metrics import project_2d
from gradembed.models import untrained
from gradembed.report._request import Request

FIELD_NUMBERS = 2**24  # of gradients in memory at a time
FEWEST_POINTS, FEWEST_UNITS = 20, 3  # to embed; to draw
NEAREST, ALIGNED, TOP = 5, 3, 8  # on a card: units elsewhere, units beside it, samples
MOST_TWINS = 15  # rows of the table
AT_A_TIME, BLOCK = 1024, 256  # units whose distances are in memory at a time; columns of a product
SPARE = 3  # neighbors beyond those asked for, among which single precision may mistake the order
DRAWN, MOST_DRAWS = 2**14, 32  # random units of a null in all, and draws of as many as there are candidates


def embedded_units(request: Request) -> dict[str, Any]:
    """Return embedded units, a card of each, and those with the nearest twins; or why there are none."""
    options, x = request.options, request.x
    if not (isinstance(x, Tensor) and x.is_floating_point()):
        return {"state": "no floats"}
    u = len(request.networks) * (len(request.options["units"]) + (options["max_units"] if request.hidden else 0))
    most = min(options["max_samples"], FIELD_NUMBERS // (u * x[0].numel()))
    data = {"u": u, "d": x[0].numel(), "most": most, "fewest": FEWEST_POINTS, "hidden": request.hidden}
    if min(most, len(x)) < FEWEST_POINTS:
        return data | {"state": "too few"}
    chosen, x = request.sample(most)
    try:
        units = _embed(request, x)
        if units is None:
            return data | {"state": "constant"}
        fields, names, dropped, z, control = units
        data |= embedded(fields, names, z, control, options["seed"])
    except ValueError as error:
        return data | {"state": "refused", "refusal": str(error)}
    cards = {"is_output": fields.labels.tolist(), "favored": _favored(fields, request.classes, chosen)}
    data["cards"] |= cards
    data["n_hidden"] = int(((fields.labels == 0) & (fields.groups == 0)).sum())
    return data | {"chosen": chosen, "dropped": dropped}


def embedded(fields: GradientFields, names: list[str], z: Any, control: Any, seed: int) -> dict[str, Any]:
    """Return cards of embedded units, [u, k], none of which is constant; their groups are networks, in order."""
    groups: Any = fields.groups
    near = _nearest(z, groups.numpy(force=True), control, seed)
    cards = {"name": names, "network": groups.tolist()} | near
    cards |= _described(fields) | _aligned(fields) | _beside(fields, near.get("nearest"))
    layout = project_2d(z, method="pca").coordinates.tolist() if len(z) >= FEWEST_UNITS else None
    data: dict[str, Any] = {
        "state": "embedded",
        "cards": cards,
        "twins": _twins(cards) if near else [],
        "layout": layout,
    }
    data |= {"m": fields.n_points, "chosen": torch.arange(fields.n_points), "n_networks": int(groups.max()) + 1}
    return data | {"n_embedded": len(z), "n_control": 0 if control is None else len(control)}


def fitted(embedder: Any, fields: GradientFields, seed: int) -> Any:
    """Return a copy of an embedder, or the descriptor where there is none, fitted to fields."""
    return (FieldDescriptor("none", random_state=seed) if embedder is None else copy.deepcopy(embedder)).fit(fields)


def _embed(request: Request, x: Tensor) -> tuple[Any, list[str], int, Any, Any] | None:
    """Embed all networks' units that are not constant, if there are any.

    Returns:
        Their fields (groups are the networks, labels 1 for outputs); their names; how many units were constant; their
        embedding, [u, k]; that of the units of an untrained copy, if there is one.
    """
    options, parts, names = request.options, [], []
    for i, network in enumerate(request.networks):
        home = f", net {i}" if len(request.networks) > 1 else ""
        fields, hidden = _fields_of(network, x, request)
        parts.append(fields)
        names += [f"{request.hidden}[{j}]{home}" for j in hidden] + [f"output {name}{home}" for name in request.names]
    fields = GradientFields.concatenate(parts, new_networks=True)
    alive = fields.amplitudes() > 0
    if not bool(alive.any()):
        return None
    fields, control = fields[alive], None
    embedder = fitted(options["embedder"], fields, options["seed"])
    z = np.asarray(embedder.transform(fields), dtype=np.float64)
    if options["n_untrained"]:
        other, _ = _fields_of(untrained(request.networks[0], options["seed"], options["reinitialize"]), x, request)
        moving = other.amplitudes() > 0
        control = np.asarray(embedder.transform(other[moving]), dtype=np.float64) if bool(moving.any()) else None
    kept = [name for name, is_alive in zip(names, alive.tolist(), strict=True) if is_alive]
    return fields, kept, len(names) - len(kept), z, control


def _fields_of(network: nn.Module, x: Tensor, request: Request) -> tuple[GradientFields, list[int]]:
    """Return fields of the hidden units whose values vary most, then of the outputs; and which hidden ones."""
    hidden, forward = request.hidden, request.options["forward"]
    asked, indices = [unit_gradients(network, x, "input", units=request.options["units"], forward=forward)], []
    if hidden is not None:
        every = torch.ones(1, len(request.all_names))  # one backward pass, through whatever head is fed
        values = unit_gradients(network, x, hidden, directions=every, forward=forward).activations.double()
        order = values.std(0, correction=0).argsort(descending=True, stable=True)
        indices = sorted(order[: request.options["max_units"]].tolist())
        asked.insert(0, unit_gradients(network, x, "input", unit_layer=hidden, units=indices, forward=forward))
    gradients, values = (torch.cat([getattr(one, name).transpose(0, 1) for one in asked])
                         for name in ("gradients", "values"))  # fmt: skip
    labels = (torch.arange(len(values), device=values.device) >= len(indices)).long()
    points, groups = asked[0].activations, torch.zeros_like(labels)
    return GradientFields(points, gradients, values=values, labels=labels, groups=groups), indices


def _nearest(z: Any, groups: Any, control: Any, seed: int) -> dict[str, Any]:
    """Find each unit's nearest in other networks (of one network: among its others), and what is near by chance.

    The null of a unit is the distance to the nearest of as many random units as it has candidates, drawn from the
    normal distribution with the candidates' mean and covariance: μ + W R/√c, with W of standard normal numbers and
    Z - μ = Q R. If the candidates were such a cloud, a unit's nearest would beat its null in half of all cases.

    Args:
        z: Embedding, [u, k].
        groups: The network of each unit, [u].
        control: Embedding of the units of an untrained copy, [u', k], or ``None``.
        seed: Of the null.

    Returns:
        Indices and distances of the nearest, [u, j] each; of several draws the median null and the share whose null is
        farther than the nearest, the median distance and that to the nearest unit of the control, [u] each; empty where
        some unit has no candidate.
    """
    both = torch.from_numpy((z if control is None else np.concatenate([z, control])) - z.mean(0))
    if both.shape[1] > len(both):  # in coordinates of their span all distances are the same
        both = torch.linalg.qr(both.mT, mode="r").R.mT
    scale = float(both.abs().max()) or 1.0  # single precision overflows early
    points, elsewhere = (both[: len(z)] / scale, both[len(z) :] / scale)
    generator = torch.Generator().manual_seed(seed)
    across, homes = bool(groups.any()), torch.from_numpy(groups)
    n_fewest = min(int((homes != g).sum()) for g in homes.unique()) if across else len(points) - 1
    if n_fewest < 1:
        return {}
    j = min(NEAREST, n_fewest)
    found: dict[str, list[Tensor]] = {}
    for g in homes.unique():
        candidates = (homes != g if across else homes == g).nonzero()[:, 0]  # [c]
        cloud = points[candidates]
        mean, c = cloud.mean(0), len(cloud)
        root = torch.linalg.qr((cloud - mean).float(), mode="r").R / c**0.5  # [min(c, k), k], of the covariance
        size = c - (not across)  # candidates of each unit
        parts = (homes == g).nonzero()[:, 0].split(AT_A_TIME)
        nulls: list[list[Tensor]] = [[] for _ in parts]
        for _ in range(min(MOST_DRAWS, max(1, DRAWN // size))):
            normal = torch.randn(size, len(root), generator=generator, dtype=torch.float64).float()
            drawn = torch.cat([normal[:, : k + BLOCK] @ root[: k + BLOCK, k : k + BLOCK]  # the root is a triangle
                               for k in range(0, root.shape[1], BLOCK)], dim=1) + mean.float()  # fmt: skip
            for part, draws in zip(parts, nulls, strict=True):
                draws.append(_closest(points[part], drawn, 1)[1][:, 0])
        for part, draws in zip(parts, nulls, strict=True):
            place, distance, apart = _closest(points[part], cloud, j, part[:, None] == candidates)
            null, ordered = torch.stack(draws), np.partition(apart, [(size - 1) // 2, size // 2], axis=1)
            columns = {
                "nearest": candidates[place],
                "distance": distance * scale,
                "null": null.quantile(0.5, dim=0) * scale,
                "median": torch.from_numpy(ordered[:, [(size - 1) // 2, size // 2]]).double().mean(1) * scale,
            }
            columns["nearer"] = (distance[:, 0] < null).double().mean(0)
            if control is not None:
                columns["untrained"] = _closest(points[part], elsewhere, 1)[1][:, 0] * scale
            for name, column in columns.items():
                found.setdefault(name, []).append(column)
    return {name: torch.cat(column).tolist() for name, column in found.items()}  # groups are in order


def _closest(points: Tensor, cloud: Tensor, j: int, left_out: Any = None) -> tuple[Tensor, Tensor, Any]:
    """Find the nearest of a cloud, looked for in single precision and measured in double.

    Args:
        points: [q, k].
        cloud: [c, k].
        j: How many.
        left_out: Whether a point has no business with one of the cloud, [q, c].

    Returns:
        Their places and distances, the nearest first, [q, j] each; all distances in single precision, [q, c].
    """
    apart = torch.cdist(points.float(), cloud.float())
    if left_out is not None:
        apart[left_out] = torch.inf
    place = apart.topk(min(j + SPARE, apart.shape[1]), largest=False).indices
    exact = torch.linalg.vector_norm(cloud[place] - points[:, None], dim=2)
    exact[apart.gather(1, place).isinf()] = torch.inf
    distance, order = exact.topk(j, largest=False)
    return place.gather(1, order), distance, apart.numpy()


def _described(fields: Any) -> dict[str, Any]:
    """Return what each unit does: its values, its effective dimension (Σλ)²/Σλ² of E[g gᵀ], and its top samples."""
    values, gradients = fields.values.double().cpu(), fields.gradients  # [u, m], [u, m, d]
    dimension, silent = [], []
    for part in gradients.split(64):
        rows = part.double().cpu()
        rows = rows / rows.abs().amax((1, 2), keepdim=True)  # no overflow
        inner = rows.mT @ rows if rows.shape[1] > rows.shape[2] else rows @ rows.mT  # the smaller Gram matrix
        dimension += (rows.square().sum((1, 2)) ** 2 / inner.square().sum((1, 2))).tolist()
        silent += (rows == 0).all(2).sum(1).tolist()
    summary = {"low": values.amin(1), "mean": values.mean(1), "high": values.amax(1)}
    top = values.argsort(dim=1, descending=True, stable=True)[:, :TOP]
    return {name: column.tolist() for name, column in summary.items()} | {
        "dimension": dimension, "silent": silent, "top": top.tolist()}  # fmt: skip


def _aligned(fields: Any) -> dict[str, Any]:
    """Return for each unit those of its network with the largest |mean cosine| of gradients, and the cosines."""
    rows = unit_rows(fields.gradients.cpu())[0]  # [u, m, d], of length 1 or 0
    exists, homes = rows.any(2).to(rows.dtype), fields.groups.cpu()
    k = min(ALIGNED, int(homes.bincount().min()) - 1)
    units, cosines = [], []
    for g in homes.unique():
        members = (homes == g).nonzero()[:, 0]
        flat, seen = rows[members].flatten(1), exists[members]
        for i, part in enumerate(flat.split(AT_A_TIME)):
            own = torch.arange(len(part)) + i * AT_A_TIME
            mean = part @ flat.T / (seen[own] @ seen.T).clamp_min(1)  # 0 where two never have a gradient at one sample
            mean[torch.arange(len(part)), own] = 0
            place = mean.abs().topk(k).indices
            units += members[place].tolist()
            cosines += mean.gather(1, place).tolist()
    return {"aligned": units, "aligned_cosine": cosines}


def _beside(fields: Any, nearest: Any) -> dict[str, Any]:
    """Return mean cosine of gradients and correlation of values of each unit and its nearest ones, [u, j] each."""
    if nearest is None:
        return {}
    rows, values = unit_rows(fields.gradients.cpu())[0], fields.values.double().cpu()
    values = values - values.mean(1, keepdim=True)
    values = values / values.norm(dim=1, keepdim=True)  # no unit here is constant
    exists, cosines, correlations = rows.any(2), [], []
    for other in torch.tensor(nearest).T:
        both = (exists & exists[other]).sum(1)
        cosines.append((rows * rows[other]).sum((1, 2)) / both)  # NaN where there is no such sample
        correlations.append((values * values[other]).sum(1))
    return {"cosine": torch.stack(cosines, 1).tolist(), "correlation": torch.stack(correlations, 1).tolist()}


def _favored(fields: Any, classes: Tensor | None, chosen: Tensor) -> Any:
    """Return the class at which each unit's mean value is highest, where there are classes."""
    if classes is None:
        return None
    own = classes[chosen]
    means = torch.stack(
        [fields.values.cpu()[:, own == k].double().mean(1) for k in own.unique()], dim=1
    )  # [u, classes]
    return own.unique()[means.argmax(1)].tolist()


def _twins(cards: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the units of the first network whose nearest in another one (if any) is nearest."""
    own = [i for i, network in enumerate(cards["network"]) if network == 0]
    rows = []
    for i in sorted(own, key=lambda i: cards["distance"][i][0])[:MOST_TWINS]:
        j, names = cards["nearest"][i][0], cards["name"]
        row = {"name": names[i], "twin_name": names[j], "distance": cards["distance"][i][0]}
        row |= {name: cards[name][i] for name in ("null", "median", "untrained") if name in cards}
        rows.append(row | {name: cards[name][i][0] for name in ("cosine", "correlation")})
    return rows
