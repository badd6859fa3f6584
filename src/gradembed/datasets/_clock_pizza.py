"""Published transformers that add modulo 59, each in one of two ways: the Clock and the Pizza."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path

import torch
from jaxtyping import Float, Int64
from safetensors import safe_open
from torch import Tensor, nn

from gradembed._validation import check_choice, check_path, refuse

# How the attention of each run is mixed with a constant: learned in the Clock, constant in the Pizza.
RUNS = {"clock": "l8k1hzciux", "between": "2k4ohj6bhd", "pizza": "p99zdpze5l"}


class AdditionTransformer(nn.Module):
    """A transformer of one layer that reads two numbers and answers with their sum modulo p, at the second place.

    Each head's weight of a place is c·softmax(q·k/√h) + 1 - c: learned for c = 1, constant for c = 0.
    Children: ``embed``, the vectors of both numbers, [n, 2, d]; ``mlp``, whose ``mlp.activation`` are the hidden units;
    ``unembed``.

    Attributes:
        attention: c.
        n_numbers: p.
        published: The mean cosine of the gradients of a logit with respect to the two embeddings, as its authors give it.
        source: Where the weights are from.

    Args:
        weights: By name: W_E [d, p], W_pos [2, d], W_K, W_Q, W_V [heads, h, d], W_O [d, heads·h], W_in [u, d], b_in [u],
            W_out [d, u], b_out [d], W_U [d, p].
        attention: c, from 0 to 1.
        published: As the attribute.
        source: As the attribute.

    Example:
        >>> import torch, gradembed as ge
        >>> shapes = {"W_E": (8, 5), "W_pos": (2, 8), "W_K": (2, 4, 8), "W_Q": (2, 4, 8), "W_V": (2, 4, 8), "W_O": (8, 8),
        ...           "W_in": (16, 8), "b_in": (16,), "W_out": (8, 16), "b_out": (8,), "W_U": (8, 5)}
        >>> network = ge.datasets.AdditionTransformer({name: torch.randn(shape) for name, shape in shapes.items()}, 1.0)
        >>> ge.unit_gradients(network, network.pairs(), ge.Site("embed", index=(slice(None), 0)))
        UnitGradients(25 samples, 5 units of 'output' with respect to 8 of 'embed [:, 0]')
    """

    def __init__(self, weights: dict[str, Tensor], attention: float, published: str = "", source: str = "") -> None:
        super().__init__()
        self.attention, self.published, self.source = float(attention), published, source
        w = {name: value.detach().clone() for name, value in weights.items()}
        self.n_numbers = w["W_E"].shape[1]
        self.embed = nn.Embedding.from_pretrained(w["W_E"].T.contiguous())
        self.mlp = nn.Sequential()
        for name, weight, bias in (("read", w["W_in"], w["b_in"]), ("write", w["W_out"], w["b_out"])):
            linear = nn.Linear(*reversed(weight.shape))
            linear.load_state_dict({"weight": weight, "bias": bias})
            self.mlp.add_module(name, linear)
            if name == "read":
                self.mlp.add_module("activation", nn.ReLU())
        self.unembed = nn.Linear(*w["W_U"].shape, bias=False)
        self.unembed.load_state_dict({"weight": w["W_U"].T})
        for name in ("W_pos", "W_K", "W_Q", "W_V", "W_O"):
            self.register_buffer(name, w[name])
        self.requires_grad_(False).eval()

    def pairs(self) -> Int64[Tensor, "n 2"]:
        """All p² pairs of numbers, the first changing slowest.

        Returns:
            Tokens, [p², 2].
        """
        numbers = torch.arange(self.n_numbers, device=self.W_pos.device)
        return torch.cartesian_prod(numbers, numbers)

    def forward(self, tokens: Int64[Tensor, "n 2"]) -> Float[Tensor, "n p"]:
        """Add pairs of numbers.

        Args:
            tokens: Pairs, [n, 2].

        Returns:
            Logits of the sum, [n, p].
        """
        x = self.embed(tokens) + self.W_pos  # [n, 2, d]
        keys, values = (torch.einsum("ahd,nkd->nkah", w, x) for w in (self.W_K, self.W_V))
        queries = torch.einsum("ahd,nd->nah", self.W_Q, x[:, 1])
        weights = (torch.einsum("nah,nkah->nka", queries, keys) / math.sqrt(keys.shape[-1])).softmax(1)
        weights = self.attention * weights + 1 - self.attention
        mixed = torch.einsum("nka,nkah->nah", weights, values).flatten(1)
        x = x[:, 1] + mixed @ self.W_O.T
        return self.unembed(x + self.mlp(x))  # type: ignore[no-any-return]


def load_clock_pizza(name: str, root: str | Path = "data") -> AdditionTransformer:
    """Load one of three published transformers that add modulo 59, right on all 3,481 pairs.

    The *Clock* multiplies what it reads of the two numbers, so that its gradients with respect to them differ; the
    *Pizza* adds it, so that they agree. "between" has attention that is learned by four fifths.

    Looked for as ``clock_pizza/<run>.safetensors`` in ``root``, then in the folder that GRADEMBED_DATA names.

    Args:
        name: "clock", "between" or "pizza".
        root: Folder of the data.

    Returns:
        The network, in eval mode.

    Raises:
        ValueError: If the name is unknown.
        TypeError: If ``root`` is no path.
        FileNotFoundError: If the file is in neither folder.

    Example:
        >>> import gradembed as ge
        >>> try:
        ...     network = ge.datasets.load_clock_pizza("clock")
        ... except FileNotFoundError:
        ...     network = None  # the published weights are not part of the package

    References:
        Z. Zhong, Z. Liu, M. Tegmark, J. Andreas (2023), The Clock and the Pizza (code and weights under the MIT licence).
    """
    check_choice("name", name, RUNS)
    check_path("root", root)
    folders = [Path(root), *(Path(folder) for folder in [os.environ.get("GRADEMBED_DATA", "")] if folder)]
    paths = [folder / "clock_pizza" / f"{RUNS[name]}.safetensors" for folder in folders]
    path = next((path for path in paths if path.is_file()), None)
    if path is None:
        rule, got = "hold the published networks", " and ".join(f"nothing at {str(path)!r}" for path in paths)
        remedy = "Convert code/save of github.com/fjzzq2002/pizza, or set GRADEMBED_DATA"
        refuse("root", rule, got, remedy, FileNotFoundError)
    with safe_open(path, framework="pt") as file:  # type: ignore[no-untyped-call]
        about = file.metadata()
        weights = {key.split(".")[-1]: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    return AdditionTransformer(
        weights, json.loads(about["config"])["attn_coeff"], about["published_gradient_similarity"], about["source"]
    )
