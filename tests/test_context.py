"""Context managers put everything back, also when the block raises."""

import pytest
import torch
from gradembed._context import hooked, preserved, seeded
from torch import nn


def fail_in(context):
    with context:
        raise ZeroDivisionError


def draw():
    return torch.rand(4)


# seeded


def test_seeded_draws_as_if_freshly_seeded():
    with seeded(3):
        first = draw()
    with seeded(3):
        second = draw()
    with seeded(4):
        other = draw()
    torch.manual_seed(3)
    assert torch.equal(first, draw())
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


def test_seeded_puts_the_state_back():
    draw()
    before = torch.get_rng_state()
    with seeded(3):
        draw()
        assert not torch.equal(torch.get_rng_state(), before)
    assert torch.equal(torch.get_rng_state(), before)


def test_seeded_puts_the_state_back_after_an_error():
    before = torch.get_rng_state()
    with pytest.raises(ZeroDivisionError):
        fail_in(seeded(3))
    assert torch.equal(torch.get_rng_state(), before)


def test_seeded_may_be_nested():
    with seeded(1):
        straight = (draw(), draw())
    with seeded(1):
        first = draw()
        with seeded(2):
            draw()
        assert torch.equal(first, straight[0])
        assert torch.equal(draw(), straight[1])


def test_without_a_seed_the_generator_moves_on():
    torch.manual_seed(3)
    expected = torch.rand(8)
    torch.manual_seed(3)
    with seeded(None):
        first = draw()
    assert torch.equal(torch.cat([first, draw()]), expected)


def test_seeded_on_the_cpu_names_no_other_device(monkeypatch):
    """torch.manual_seed would reseed every CUDA device for good."""
    seeds = []
    monkeypatch.setattr(torch.cuda, "manual_seed", seeds.append)
    monkeypatch.setattr(torch.cuda, "manual_seed_all", seeds.append)
    with seeded(3, torch.device("cpu")):
        draw()
    assert seeds == []
    torch.manual_seed(3)
    assert seeds == [3]


# preserved


def network():
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.BatchNorm1d(4, affine=False))
    model[1].eval()
    model.register_buffer("empty", None)
    model.register_buffer("scratch", torch.arange(3.0), persistent=False)
    return model


def buffers(model):
    """The very tensors, and copies of what they hold."""
    found = {(i, key): buffer for i, owner in enumerate(model.modules()) for key, buffer in owner._buffers.items()}
    return found, {place: None if buffer is None else buffer.clone() for place, buffer in found.items()}


def in_place(model):
    model[1].running_mean.add_(1)
    model.scratch.zero_()


def replaced(model):
    model[1].running_mean = torch.ones(4)
    model[3].running_var = torch.zeros(7)
    model.scratch = torch.zeros(2, dtype=torch.int64)


def replaced_and_in_place(model):
    old = model[1].running_var
    model[1].running_var = torch.full((4,), 9.0)
    old.mul_(2)


def taken_away(model):
    model[1].running_mean = None
    model.scratch = None


def given(model):
    model.empty = torch.ones(3)


def used(model):
    model.train()
    model(torch.randn(6, 3))


CHANGES = [in_place, replaced, replaced_and_in_place, taken_away, given, used]


def change_and_raise(model, change):
    with preserved(model):
        change(model)
        raise ZeroDivisionError


@pytest.mark.parametrize("raises", [False, True], ids=["ends", "raises"])
@pytest.mark.parametrize("change", CHANGES)
def test_preserved_puts_buffers_back(change, raises):
    model = network()
    before, copies = buffers(model)
    if raises:
        with pytest.raises(ZeroDivisionError):
            change_and_raise(model, change)
    else:
        with preserved(model):
            change(model)
    after, contents = buffers(model)
    assert after.keys() == before.keys()
    assert all(after[place] is before[place] for place in before)  # what others hold on to is still the buffer
    for place, copy in copies.items():
        assert copy is contents[place] is None or torch.equal(copy, contents[place])
    assert "scratch" not in model.state_dict()


@pytest.mark.parametrize("change", CHANGES)
def test_without_preserved_the_buffers_are_changed(change):
    """The changes above are changes."""
    model = network()
    before, copies = buffers(model)
    change(model)
    after, contents = buffers(model)
    same = before.keys() == after.keys() and all(
        before[place] is after[place]
        and (copies[place] is contents[place] is None or torch.equal(copies[place], contents[place]))
        for place in before
    )
    assert not same


def modes(model):
    return [module.training for module in model.modules()]


@pytest.mark.parametrize("mode", [True, False])
def test_preserved_puts_the_mode_of_each_module_back(mode):
    model = network()
    before = modes(model)
    assert before == [True, True, False, True, True]
    with preserved(model):
        model.train(mode)
        assert modes(model) == [mode] * 5
    assert modes(model) == before
    with pytest.raises(ZeroDivisionError):
        change_and_raise(model, lambda m: m.train(mode))
    assert modes(model) == before


def test_preserved_puts_the_random_state_back():
    model, before = network(), torch.get_rng_state()
    with preserved(model):
        draw()
        assert not torch.equal(torch.get_rng_state(), before)
    assert torch.equal(torch.get_rng_state(), before)
    with pytest.raises(ZeroDivisionError):
        change_and_raise(model, lambda _: draw())
    assert torch.equal(torch.get_rng_state(), before)


def test_preserved_does_not_reseed():
    torch.manual_seed(3)
    expected = draw()
    torch.manual_seed(3)
    with preserved(network()):
        assert not torch.equal(draw(), expected)  # the network's weights were drawn in between


def test_preserved_leaves_parameters_to_the_block():
    model = network()
    with preserved(model), torch.no_grad():
        model[0].weight.fill_(2)
    assert bool((model[0].weight == 2).all())


def test_preserved_lets_gradients_through_to_the_block():
    model = network()
    with preserved(model):
        model(torch.randn(6, 3)).square().sum().backward()
    assert model[0].weight.grad is not None


# hooked


def test_hooks_are_called_during_the_block_only():
    first, second, x = nn.Linear(2, 2), nn.ReLU(), torch.randn(1, 2)
    model, seen = nn.Sequential(first, second), []
    hooks = {
        first: lambda *called: seen.append(("first", called[2])),
        second: lambda *called: seen.append(("second", called[2])),
    }
    model(x)
    assert seen == []
    with hooked(hooks):
        out = model(x)
    assert [name for name, _ in seen] == ["first", "second"]
    assert seen[1][1] is out
    assert torch.equal(seen[0][1], first(x))
    model(x)
    assert len(seen) == 2


def test_hooks_are_gone_after_an_error():
    module = nn.Linear(2, 2)
    with pytest.raises(ZeroDivisionError):
        fail_in(hooked({module: lambda *_: None}))
    assert len(module._forward_hooks) == 0


def test_hook_that_raises_is_gone_too():
    module = nn.Linear(2, 2)

    def hook(*_):
        raise ZeroDivisionError

    def run():
        with hooked({module: hook}):
            module(torch.zeros(1, 2))

    with pytest.raises(ZeroDivisionError):
        run()
    assert module(torch.zeros(1, 2)).shape == (1, 2)


def test_what_a_hook_returns_replaces_the_output():
    module = nn.Identity()
    with hooked({module: lambda *called: called[2] + 1}):
        assert module(torch.zeros(1)).item() == 1
    assert module(torch.zeros(1)).item() == 0


def test_hooks_of_others_stay():
    module, seen = nn.Identity(), []
    module.register_forward_hook(lambda *_: seen.append("theirs"))
    with hooked({module: lambda *_: seen.append("ours")}):
        module(torch.zeros(1))
    module(torch.zeros(1))
    assert seen == ["theirs", "ours", "theirs"]


def test_no_hooks_are_no_trouble():
    module = nn.Identity()
    with hooked({}):
        assert module(torch.ones(1)).item() == 1


def test_hooks_already_placed_go_if_a_later_one_cannot_be():
    module = nn.Identity()
    with pytest.raises(AttributeError, match="register_forward_hook"):
        fail_in(hooked({module: lambda *_: None, "no module": lambda *_: None}))
    assert len(module._forward_hooks) == 0
