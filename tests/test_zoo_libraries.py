"""Models of two libraries that people take theirs from, small and with random weights: nothing is downloaded."""

import os
import warnings
from functools import partial

import pytest
import torch
from _asserts import assert_close, unchanged
from _zoo import EVERY, Place, oracle, passes_through
from torch.utils._pytree import tree_leaves

import gradembed as ge
from gradembed.datasets._loaders import _torchvision_mnist

os.environ |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    _torchvision_mnist()  # timm imports torchvision, which needs help beside a CPU build of torch
    transformers, timm = pytest.importorskip("transformers"), pytest.importorskip("timm")
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

TOKENS = {"input_ids": torch.tensor([[19, 1, 2, 3], [3, 4, 5, 6]]), "attention_mask": torch.tensor([[1] * 4, [1] * 4])}
PADDED = TOKENS | {"attention_mask": torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])}
FIRST = {"index": (EVERY, 0)}
LAST = {"index": (EVERY, -1)}
BERT = {"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 12, "num_labels": 3}
GPT2 = {"n_embd": 8, "n_layer": 2, "n_head": 2, "n_positions": 8, "bos_token_id": 0, "eos_token_id": 0}
DISTIL = {"dim": 8, "n_layers": 2, "n_heads": 2, "hidden_dim": 12, "num_labels": 3}
BASIC = timm.models.resnet.BasicBlock
REGNET = timm.models.regnet.RegNetCfg(depth=6, w0=8, wa=8.0, wm=2.0, group_size=8)
T5 = {"d_model": 8, "d_kv": 4, "d_ff": 12, "num_layers": 2, "num_heads": 2}


def words(name, model, **sizes):
    """A model of tokens."""
    return lambda: getattr(transformers, model)(getattr(transformers, f"{name}Config")(vocab_size=20, **sizes))


def vision(name, *sizes, **more):
    """A model of images."""
    return lambda: getattr(timm.models, name, partial(timm.create_model, name))(*sizes, num_classes=3, **more)


def last_logits(model, x):
    return model(**x).logits[:, -1, :5]


def mean_state(model, x):
    return model(**x).last_hidden_state.mean(1)


MODELS = {  # how to make it, what it is asked with (None: images), forward, how the name of a layer ends, a part of it
    "BERT": (words("Bert", "BertForSequenceClassification", **BERT), PADDED, None, "layer.0", LAST),
    "GPT-2": (words("GPT2", "GPT2LMHeadModel", **GPT2), TOKENS, last_logits, "h.1.mlp.c_fc", LAST),
    "DistilBERT": (words("DistilBert", "DistilBertForSequenceClassification", **DISTIL), PADDED, None, "layer.1", {}),
    "T5": (words("T5", "T5EncoderModel", **T5), PADDED, mean_state, "block.0", {}),
    "Llama": (words("Llama", "LlamaForCausalLM", **BERT), TOKENS, last_logits, "layers.0.self_attn", LAST),
    "ViT": (words("ViT", "ViTForImageClassification", image_size=32, patch_size=16, **BERT), "pixel_values", None,
            "layernorm_after", FIRST),
    "timm ResNet": (vision("ResNet", BASIC, [1] * 4, channels=(4, 4, 8, 8)), None, None, "layer2.0.bn2", FIRST),
    "timm ViT": (vision("VisionTransformer", 32, 16, embed_dim=8, depth=2, num_heads=2), None, None, "drop_path1", {}),
    "timm MobileNet": (vision("mobilenetv3_small_050"), None, None, "blocks.1.1.drop_path", {}),
    "timm DenseNet": (vision("DenseNet", 4, (2, 2)), None, None, "denselayer2.conv1", {"mean": (2, 3)}),
    "timm ConvNeXt": (vision("ConvNeXt", depths=(1,) * 4, dims=(4, 8, 8, 8)), None, None, "1.blocks.0.drop_path", {}),
    "timm Mixer": (vision("MlpMixer", img_size=32, patch_size=16, num_blocks=2, embed_dim=8), None, None,
                   "blocks.1.mlp_tokens", {}),
    "timm RegNet": (vision("RegNet", REGNET), None, None, "s2.b1.conv1", FIRST),
}  # fmt: skip


@pytest.mark.parametrize("name", MODELS)
def test_models_of_libraries_equal_the_oracle(name):
    make, x, forward, ending, part = MODELS[name]
    model = make().double().eval()
    with torch.no_grad():
        for parameter in model.parameters():  # some begin with zeros, past which no gradient goes
            parameter += torch.randn_like(parameter) / 20
    images = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    x = images if x is None else {x: images} if isinstance(x, str) else x
    layer = next(key for key, _ in model.named_modules() if key.endswith(ending))
    with unchanged(model):
        defaults = ge.interference(model, x, forward=forward).layers
    assert set(defaults) - {"input"}
    assert ("input" in defaults) == (images is tree_leaves(x)[0])
    assert not set(defaults) & passes_through(model, x, forward)
    for place in (Place(layer, **part), Place(defaults[0]), Place(defaults[len(defaults) // 2])):
        site = ge.Site(place.name, **place.arguments) if place.arguments else place.name
        result = ge.unit_gradients(model, x, site, forward=forward)
        for found, wanted in zip((result.gradients, result.values), oracle(model, x, place, forward)[::2], strict=True):
            assert_close(found, wanted, rtol=1e-9, atol=1e-9 * float(wanted.abs().max()))
