"""What the linked views of a report draw: numbers that the page can read, packed."""

from __future__ import annotations

import base64
import io
import json
import math
from typing import Any

import numpy as np
import torch
from markupsafe import Markup
from PIL import Image
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from gradembed.gradients import Session, batches, unit_rows
from gradembed.interference.result import clustered_order
from gradembed.report._request import Request

MOST_COSINES = 2**21  # of pairs at samples, one byte each
MOST_PIXELS = 2**20  # of all pictures together
FEW_OUTPUTS = 4  # up to which a matrix reads well in the order of the outputs
LARGEST, SMALLEST, SMOOTH = 48, 4, 0.5  # sides of a picture; correlation of neighbors from which a flat input is one
UNDEFINED = -128  # where a cosine, else from -127 to 127, does not exist


def views(request: Request | None, compared: Any, tree: Any, units: Any, n_networks: int) -> Markup:
    """Return everything that is drawn, as JSON that may stand in a page; of sections, ``None`` draws nothing."""
    drawn = [part["chosen"] for part in (tree, units) if part and "chosen" in part]
    shown = max(drawn, key=len, default=torch.arange(0))  # draws of one permutation: the larger holds the smaller
    data: dict[str, Any] = {"outputs": (), "layers": [], "order": [], "matrices": None, "control": {}, "pairs": None}
    data |= {"n_networks": n_networks, "classes": None, "samples": {"index": shown.tolist(), "picture": None}}
    if compared:
        first = compared["result"]
        data |= {"outputs": first.unit_labels, "layers": _layers(compared), "order": range(len(first.unit_labels))}
        if len(first.unit_labels) > FEW_OUTPUTS:
            data["order"] = clustered_order([first], first.layers)
        if len(first.unit_labels) > 1:
            data["matrices"] = {k: _short(first.cosine[k]) for k in first.layers}
            data["pairs"] = _pairs(request, shown) if request else None
        data["control"] = {k: _short(torch.stack([one.cosine[k] for one in first.untrained]).mean(0))
                           for k in first.layers if first.untrained}  # fmt: skip
    if request:
        data["classes"] = None if request.classes is None else request.all_names
        data["samples"] = _samples(request, shown)
    data["order"] = list(data["order"])
    data["tree"] = None if not tree or tree["refusal"] else _tree(tree, shown)
    data["units"] = _units(units, shown) if units and units["state"] == "embedded" else None
    text = json.dumps(data, separators=(",", ":"), allow_nan=False)
    return Markup(text.replace("<", "\\u003c").replace("&", "\\u0026"))


def _short(values: Any) -> Any:
    """Round to four digits that count; None for what is no number."""
    if isinstance(values, Tensor):
        values = values.tolist()
    if isinstance(values, list | tuple):
        return [_short(value) for value in values]
    if isinstance(values, float):
        return float(f"{values:.4g}") if math.isfinite(values) else None
    return values


def _packed(values: Any, kind: str) -> str:
    return base64.b64encode(np.ascontiguousarray(values, dtype=kind).tobytes()).decode()


def _layers(compared: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the rows of the table of layers with flat names."""
    rows = []
    for row in compared["rows"]:
        flat = {key: row[key] for key in ("layer", "chance", "untrained_abs_cosine") if key in row}
        flat |= {name: row[name][0] for name in ("cosine", "abs_cosine", "conflict")}
        if "excess" in row:
            flat |= {"excess": row["excess"][0], "excess_low": row["excess"][1][0], "excess_high": row["excess"][1][1]}
        rows.append({key: _short(value) for key, value in flat.items()})
    return rows


def _samples(request: Request, shown: Tensor) -> dict[str, Any]:
    """Return which samples are shown, their classes, and their pictures where they have some."""
    classes = request.classes
    data: dict[str, Any] = {"index": shown.tolist(), "picture": _picture(request.x, shown)}
    data["class"] = None if classes is None else [request.all_names[k] for k in classes[shown].tolist()]
    return data


def _picture(x: Any, shown: Tensor) -> dict[str, Any] | None:
    """Draw the samples side by side in one PNG, if they are images: [h, w], 1 or 3 channels, or flat squares."""
    if not isinstance(x, Tensor) or not x.is_floating_point():
        return None
    images = x[shown.to(x.device)].float().cpu()
    side = math.isqrt(images[0].numel())
    if images.ndim == 2 and side >= 8 and side**2 == images.shape[1]:
        images = images.unflatten(1, (1, side, side))
        neighbors = torch.stack([images[..., 1:].flatten(), images[..., :-1].flatten()])
        if not float(torch.corrcoef(neighbors)[0, 1]) > SMOOTH:
            return None
    images = images[:, None] if images.ndim == 3 else images  # [n, c, h, w]
    if images.ndim != 4 or images.shape[1] not in (1, 3) or min(images.shape[2:]) < SMALLEST:
        return None
    if max(images.shape[2:]) > LARGEST:
        h, w = (max(1, round(length * LARGEST / max(images.shape[2:]))) for length in images.shape[2:])
        images = adaptive_avg_pool2d(images, (h, w))
    images = images[: max(1, MOST_PIXELS // (images.shape[2] * images.shape[3]))]
    low, high = images.amin((0, 2, 3), keepdim=True), images.amax((0, 2, 3), keepdim=True)
    pixels = ((images - low) / (high - low).clamp_min(1e-30) * 255).byte()
    n, c, height, width = pixels.shape
    columns = math.isqrt(n - 1) + 1
    rows = -(-n // columns)
    sheet = torch.zeros(rows * columns, c, height, width, dtype=torch.uint8)
    sheet[:n] = pixels
    sheet = sheet.unflatten(0, (rows, columns)).permute(0, 3, 1, 4, 2).reshape(rows * height, columns * width, c)
    file = io.BytesIO()
    Image.fromarray(sheet.numpy().squeeze(2) if c == 1 else sheet.numpy()).save(file, "PNG", optimize=True)
    size = {"width": width, "height": height, "columns": columns, "rows": rows, "n": n}
    return size | {"data": "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()}


def _pairs(request: Request, shown: Tensor) -> dict[str, Any]:
    """Return values of the outputs and, for each layer, cosines of all pairs, at as many samples as find room."""
    u = len(request.names)
    a, b = torch.triu_indices(u, u, 1)
    most = max(2, MOST_COSINES // (len(a) * len(request.sites)))
    at = torch.linspace(0, len(shown) - 1, min(most, len(shown))).long()
    options, values = request.options, []
    x = batches.chosen(request.x, shown[at].tolist())
    model, asked = request.networks[0], {name: options[name] for name in ("units", "forward", "centered")}
    cosines: dict[str, list[Tensor]] = {}
    with Session.open(model, x, request.sites, **asked) as session:
        for capture in session.captures():
            values.append(capture.values.cpu())  # [u, n]
            for layer, rows in capture.gradients.items():
                unit = unit_rows(rows.coordinates())[0].transpose(0, 1).cpu()  # [n, u, c], of length 1 or 0
                scaled = ((unit @ unit.mT)[:, a, b].double() * 127).round().clamp(-127, 127)  # [n, pairs]
                exists = unit.any(2)
                scaled[~(exists[:, a] & exists[:, b])] = UNDEFINED
                cosines.setdefault(layer, []).append(scaled)
    packed = {layer: _packed(torch.cat(parts).T.numpy(), "i1") for layer, parts in cosines.items()}
    return {"at": at.tolist(), "values": _short(torch.cat(values, dim=1)), "cosines": packed}


def _tree(tree: dict[str, Any], shown: Tensor) -> dict[str, Any]:
    """Return the node of each root and sample, counted from 0 for every root, layer by layer from the output down."""
    result, at = tree["result"], torch.searchsorted(shown, tree["chosen"])
    nodes = {k: _packed((part - part.amin(1, keepdim=True)).numpy(), "<u2") for k, part in result.nodes.items()}
    return {"at": at.tolist(), "nodes": nodes, "roots": result.root_labels}


def _units(units: dict[str, Any], shown: Tensor) -> dict[str, Any]:
    """Return the cards, column by column; samples by their place among those shown."""
    at = torch.searchsorted(shown, units["chosen"])
    cards = {name: _short(column) for name, column in units["cards"].items()}
    return cards | {"layout": _short(units["layout"]), "top": at[torch.tensor(cards["top"])].tolist()}
