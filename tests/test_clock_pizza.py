"""The transformers of the Clock and the Pizza, with weights drawn here, against a loop over samples and heads."""

import math

import pytest
import torch
from _asserts import unchanged
from _networks import CLOCK_SHAPES, write_clock

import gradembed as ge


@pytest.fixture
def folder(tmp_path):
    return lambda attention=0.7, **more: write_clock(tmp_path, attention, **more)


@pytest.mark.parametrize("attention", [0.0, 0.7, 1.0])
def test_forward_equals_the_loop(folder, attention):
    root, w = folder(attention)
    network = ge.datasets.load_clock_pizza("clock", root=root)
    pairs = network.pairs()
    assert pairs.tolist() == [[a, b] for a in range(5) for b in range(5)]
    for tokens, logits in zip(pairs.tolist(), network(pairs), strict=True):
        first, last = (w["W_E"][:, token] + w["W_pos"][i] for i, token in enumerate(tokens))
        heads = []
        for h in range(2):
            scores = torch.stack([(w["W_Q"][h] @ last) @ (w["W_K"][h] @ x) / math.sqrt(4) for x in (first, last)])
            mixed = attention * scores.softmax(0) + 1 - attention
            heads.append(sum(m * (w["W_V"][h] @ x) for m, x in zip(mixed, (first, last), strict=True)))
        x = last + w["W_O"] @ torch.cat(heads)
        x = x + w["W_out"] @ (w["W_in"] @ x + w["b_in"]).relu() + w["b_out"]
        torch.testing.assert_close(logits.double(), w["W_U"].T @ x, rtol=1e-4, atol=1e-4)


def test_gradients_are_taken_at_both_tokens_and_at_hidden_units(folder, monkeypatch):
    monkeypatch.setenv("GRADEMBED_DATA", str(folder()[0]))
    network = ge.datasets.load_clock_pizza("clock")
    assert network.published == "0.3 (100 triples)"
    with unchanged(network):
        both = ge.unit_gradients(network, network.pairs(), "embed")
        first = ge.unit_gradients(network, network.pairs(), ge.Site("embed", index=(slice(None), 0)))
        hidden = ge.unit_gradients(network, network.pairs(), "embed", unit_layer="mlp.activation")
    assert torch.equal(both.gradients[:, :, :8], first.gradients)
    assert hidden.gradients.shape == (25, 16, 16)


def test_missing_and_damaged_files_are_refused(folder, tmp_path):
    with pytest.raises(OSError, match="`root` should hold the published networks"):
        ge.datasets.load_clock_pizza("clock")
    with pytest.raises(ValueError, match="`name` should be one of 'clock', 'between', 'pizza'"):
        ge.datasets.load_clock_pizza("watch")
    root = folder(shapes={name: shape for name, shape in CLOCK_SHAPES.items() if "W_U" not in name})[0]
    with pytest.raises(ValueError, match=r"`root` should hold intact files of networks. Got l8k1.*cannot be read"):
        ge.datasets.load_clock_pizza("clock", root=root)
    folder(about={"config": "no json", "published_gradient_similarity": ""})
    with pytest.raises(ValueError, match="`root` should hold intact files"):
        ge.datasets.load_clock_pizza("clock", root=root)
    (tmp_path / "clock_pizza" / "l8k1hzciux.safetensors").write_bytes(b"nothing")
    with pytest.raises(ValueError, match="`root` should hold intact files"):
        ge.datasets.load_clock_pizza("clock", root=root)
