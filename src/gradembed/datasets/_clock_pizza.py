"""Published transformers that add modulo 59, each in one of two ways: the Clock and the Pizza."""

from __future__ import annotations

import json
import math
from collections import OrderedDict
from pathlib import Path

import safetensors
import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from gradembed._validation import check_choice, refuse
from gradembed.datasets._groups import published

# How the attention of each run is mixed with a constant: learned in the Clock, constant in the Pizza.
RUNS = {"clock": "l8k1hzciux", "between": "2k4ohj6bhd", "pizza": "p99zdpze5l"}


class AdditionTransformer(nn.Module):
    """A transformer of one layer that reads two numbers and answers with their sum modulo p, at the second place.

    Each head's weight of a place is c·softmax(q·k/√h) + 1 - c: learned for c = 1, constant for c = 0.

    Args:
        weights: By name: W_E [d, p], W_pos [2, d]; W_K, W_Q and W_V [heads, h, d], W_O [d, heads·h]; W_in [u, d],
            b_in [u], W_out [d, u], b_out [d]; W_U [d, p].
        attention: c.
        published: The similarity of gradients as the authors give it.
    """

    W_pos: Tensor
    W_K: Tensor
    W_Q: Tensor
    W_V: Tensor
    W_O: Tensor

    def __init__(self, weights: dict[str, Tensor], attention: float, published: str) -> None:
        super().__init__()
        self.attention, self.published = float(attention), published
        self.embed = nn.Embedding.from_pretrained(weights["W_E"].T.contiguous())
        (u, d), numbers = weights["W_in"].shape, weights["W_U"].shape[1]
        read, write = nn.Linear(d, u), nn.Linear(u, d)
        self.mlp = nn.Sequential(OrderedDict(read=read, activation=nn.ReLU(), write=write))
        self.unembed = nn.Linear(d, numbers, bias=False)
        read.load_state_dict({"weight": weights["W_in"], "bias": weights["b_in"]})
        write.load_state_dict({"weight": weights["W_out"], "bias": weights["b_out"]})
        self.unembed.load_state_dict({"weight": weights["W_U"].T})
        for name in ("W_pos", "W_K", "W_Q", "W_V", "W_O"):
            setattr(self, name, nn.Parameter(weights[name]))
        self.requires_grad_(False).eval()

    def pairs(self) -> Int64[Tensor, "n 2"]:
        """All p² pairs of numbers, the first changing slowest.

        Returns:
            Tokens, [p², 2].
        """
        numbers = torch.arange(self.embed.num_embeddings, device=self.W_pos.device)
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


def load_clock_pizza(name: str, *, root: str | Path | None = None) -> AdditionTransformer:
    """Load one of three published transformers that add modulo 59: "clock", "pizza", or "between".

    The *Clock* multiplies what it reads of the two numbers, so that its gradients with respect to them differ; the
    *Pizza* adds it, so that they agree. Looked for as ``clock_pizza/<run>.safetensors`` in ``root``, or else in the
    folder that the environment variable ``GRADEMBED_DATA`` names. They are not downloaded.

    Args:
        name: Which: runs l8k1hzciux, p99zdpze5l and 2k4ohj6bhd of the authors, with attention that is learned,
            constant, and learned by four fifths.
        root: Folder to look in first.

    Returns:
        The network, in eval mode: right on all of its ``pairs``. Its ``embed`` gives the vectors of both numbers,
        [n, 2, d], its ``mlp.activation`` the hidden units, and ``published`` is the mean cosine of the gradients of a
        logit with respect to the two vectors, as the authors give it.

    Raises:
        ValueError: If the name is unknown, or the file is damaged.
        TypeError: If ``root`` is no path.
        OSError: If the file is not there.

    Example:
        >>> import gradembed as ge
        >>> network = ge.datasets.load_clock_pizza("clock")  # doctest: +SKIP
        >>> both = ge.unit_gradients(network, network.pairs(), "embed")  # doctest: +SKIP

    References:
        Z. Zhong, Z. Liu, M. Tegmark, J. Andreas (2023), The clock and the pizza: two stories in mechanistic explanation
        of neural networks. Code and weights, under the MIT license: github.com/fjzzq2002/pizza.
    """
    check_choice("name", name, RUNS)
    path = published(f"clock_pizza/{RUNS[name]}.safetensors", root, "Convert code/save of the authors' repository")
    try:
        with safetensors.safe_open(path, "pt") as file:
            about, keys = file.metadata(), list(file.keys())
            weights = {key.split(".")[-1]: file.get_tensor(key) for key in keys}
        return AdditionTransformer(
            weights, json.loads(about["config"])["attn_coeff"], about["published_gradient_similarity"]
        )
    except (safetensors.SafetensorError, KeyError, TypeError, RuntimeError, json.JSONDecodeError) as error:
        got = f"{path.name}, which cannot be read ({error})"
        refuse("root", "hold intact files of networks", got, "Copy it again")
