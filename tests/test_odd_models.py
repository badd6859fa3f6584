"""Models that a reader of the engine found it wrong on, each once."""

import pytest
import torch
from _asserts import assert_close, unchanged
from _networks import Net, randn
from torch import nn
from torch.utils.checkpoint import checkpoint

import gradembed as ge

X = torch.arange(24.0, dtype=torch.float64).sin().reshape(6, 4)


def lin(*shape):
    return nn.Linear(*shape).double()


def two(run):
    return Net(run, a=lin(4, 5), b=lin(5, 2))


def test_a_part_of_what_is_returned_is_the_units():
    chain, heads = nn.Sequential(lin(4, 5), nn.Tanh(), lin(5, 3)), two(lambda m, x: (m.a(x), m.b(m.a(x))))
    third = ge.unit_gradients(chain, X, "0", unit_layer=ge.Site("output", index=(slice(None), [2]))).gradients
    assert_close(third, ge.unit_gradients(chain, X, "0", units=[2]).gradients)
    assert ge.unit_gradients(heads, X, "input", unit_layer=ge.Site("output", element=1)).values.shape == (6, 2)


def test_runs_are_counted_in_each_pass():
    model = Net(lambda m, x: m.out(m.cell(m.cell(x).tanh())), cell=lin(4, 4), out=lin(4, 2))
    with torch.no_grad(), ge.ablated(model, ge.Site("cell", call=0), range(4)):
        assert torch.equal(model(X), model(X))
    assert not torch.equal(model(X)[0], model(X)[1])


def test_a_source_may_fill_one_batch_anew():
    model, x, batch = ge.MLP([4, 5, 3], seed=0).double(), randn(96, 4), torch.empty(32, 4, dtype=torch.float64)
    batches = lambda: (batch.copy_(part) for part in x.split(32))  # noqa: E731
    assert torch.equal(ge.gradient_fields(model, batches()).points, x)
    assert_close(ge.task_modules(model, batches(), "input").effects, ge.task_modules(model, x, "input").effects)


def test_layers_that_share_an_activation_or_are_not_run_leave_the_others():
    shared = nn.ReLU()
    chain = nn.Sequential(lin(4, 5), shared, lin(5, 5), shared, lin(5, 2))
    assert ge.interference(chain, X).layers == ("input", "0", "1", "2", "3")
    assert ge.interference(Net(lambda m, x: m.net(x), net=chain), X).layers == ("input", "net.0", "net.2")
    blocks = nn.ModuleList([lin(4, 4), lin(4, 4), lin(4, 2), lin(4, 4)])
    model = Net(lambda m, x: m.blocks[2](m.blocks[1](m.blocks[0](x).tanh()).tanh()), blocks=blocks)
    assert ge.interference(model, X).layers == ("input", "blocks.0", "blocks.1")


DEAD = {"trunk": lin(1, 2), "ha": lin(2, 1), "oa": lin(1, 1), "ob": lin(2, 1)}
for name, value in (("trunk", 1), ("ha", 1)):
    nn.init.constant_(DEAD[name].weight, value), nn.init.zeros_(DEAD[name].bias)


@pytest.mark.parametrize(("model", "x", "layers"), [
    (Net(lambda m, x: {"a": m.oa(m.ha(m.trunk(x)).relu()), "b": m.ob(m.trunk(x))}, **DEAD), -X[:, :1], ("input",)),
    (two(lambda m, x: {"y": m.b(m.a(x).tanh()), "feat": m.a(x).detach()}), X, ("input",)),
    (Net(lambda m, x: m.b(m.input(x).sigmoid()), input=lin(4, 5), b=lin(5, 2)), X, ("input",)),
    (Net(lambda m, x: m.c(m.b(torch.no_grad()(m.a)(x)).tanh()), a=lin(4, 5), b=lin(5, 5), c=lin(5, 2)), X, ("a", "b")),
    (two(lambda m, x: m.b(torch.vmap(m.a)(x.reshape(-1, 1, 4)).tanh().sum(1))), X, ("input",)),
    (two(lambda m, x: m.b(checkpoint(m.a, x, use_reentrant=False))), X, ("input",)),
])  # fmt: skip
def test_default_layers_are_found_and_answered(model, x, layers):
    with unchanged(model):
        assert {*layers} <= {*ge.interference(model, x).layers} <= {*layers, "a", "b", "trunk"}


@pytest.mark.parametrize(("read", "called"), [
    (lambda m, batch: m.a(batch[0]) * batch[1][:, :1], {"input element 0", "input element 1"}),
    (lambda m, batch: m.a(batch[0]), {"input"}),  # labels beside the input
    (lambda m, batch: m.a(batch[1]), {"input element 1"}),
])  # fmt: skip
def test_every_float_input_that_is_read_is_a_default_layer(read, called):
    model, batch = two(lambda m, batch: m.b(read(m, batch).tanh())), (X, X.cos())
    result = ge.interference(model, batch, forward=lambda model, batch: model(batch))
    assert {layer for layer in result.layers if "input" in layer} == called


def test_masks_on_the_fast_path_of_attention_are_no_obstacle():
    run = lambda m, t, k: m.o(m.enc(m.e(t), src_key_padding_mask=k).sum(1))  # noqa: E731
    layers = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 2)
    model = Net(run, e=nn.Embedding(9, 8), enc=layers, o=nn.Linear(8, 2)).eval()
    asked = torch.randint(9, (6, 5)), torch.arange(5).expand(6, 5) > 2
    assert len(ge.interference(model, asked).layers) >= 2
    assert torch.backends.mha.get_fastpath_enabled()


def test_a_head_without_a_path_has_no_gradient():
    model = Net(lambda m, x: {"p": m.a(x), "q": m.b(x)}, a=lin(4, 2), b=lin(4, 2))
    assert (ge.interference(model, X, layers=["a"]).norm["a"] > 0).tolist() == [True, True, False, False]


CLOSED = two(lambda m, x: m.b(m.a(x).tanh()))
MIXED = ge.Site("1", index=(slice(None), [0, 1], slice(None), [0, 0]))
PIXELS = nn.Sequential(nn.Unflatten(1, (2, 2, 1)), nn.Conv2d(2, 3, 1).double(), nn.Flatten(), lin(6, 2))


@pytest.mark.parametrize(("ask", "message"), [
    (lambda: ge.interference(CLOSED, X, n_untrained=1, layers="input", forward=lambda _, x: CLOSED(x)), "forward"),
    (lambda: ge.unit_gradients(two(lambda m, x: m.b(m.a(x).sqrt())), X, "a"), "finite .*Got NaN"),
    (lambda: ge.unit_gradients(PIXELS, X, MIXED, chunk_size=2), "name a part of '1'"),
    (lambda: ge.interference(two(lambda m, x: m.b(m.a(x).tanh()).detach()), X), "outputs through which gradients flow"),
    (lambda: ge.unit_gradients(two(lambda m, x: torch.no_grad()(m.b)(m.a(x))), X, "a"), "Take out torch.no_grad"),
    (lambda: ge.interference(CLOSED, X, layers="nothing"), "Choose one of 'input', 'a', 'b'\\."),
    (lambda: ge.interference(two(lambda m, batch: m.a(batch["x"])), {"x": X}), "forward=lambda model, batch: model"),
])  # fmt: skip
def test_what_cannot_be_answered_is_named(ask, message):
    with pytest.raises(ValueError, match=message):
        ask()


def test_lists_beside_tensors_are_cut_and_single_batches_stay_whole():
    model = two(lambda m, x, w: m.b(m.a(x).tanh()) * w[:, None])
    weights = [1.0, 1.0, 2.0, 3.0, 4.0, 1.0]
    lists, tensors = ({"x": X, "w": w} for w in (weights, torch.tensor(weights).double()))
    assert_close(*(ge.unit_gradients(model, x, "a", chunk_size=2).values for x in (lists, tensors)), rtol=1e-6)
    assert ge.interference(ge.MLP([4, 5, 2]).double(), [(X,)], forward=lambda m, batch: m(batch[0])).n_samples == 6
    assert ge.interference(ge.MLP([4, 5, 1]).double(), X, n_bootstrap=10).to_frame().empty


def test_children_are_drawn_before_their_parents():
    class Small(nn.Sequential):
        def reset_parameters(self):
            nn.init.normal_(self[0].weight, std=1e-3)

    assert float(ge.untrained(Small(nn.Linear(4, 50)))[0].weight.detach().std()) == pytest.approx(1e-3, rel=0.3)
