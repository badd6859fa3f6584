"""Context managers put everything back, also when the block raises."""

from contextlib import contextmanager, suppress
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from gradembed._context import all_or_nothing, hooked, kept_threads, preserved, seeded

ENDS = pytest.mark.parametrize("raises", [False, True], ids=["ends", "raises"])


@contextmanager
def within(context, raises):
    """A block that may end with an error."""
    with suppress(ZeroDivisionError), context:
        yield
        if raises:
            raise ZeroDivisionError


def draw():
    return torch.rand(4)


# seeded


@ENDS
@pytest.mark.parametrize("context", [lambda: seeded(3), lambda: preserved(network())])
def test_random_state_is_put_back(context, raises):
    context = context()
    before = torch.get_rng_state()
    with within(context, raises):
        draw()
        assert not torch.equal(torch.get_rng_state(), before)
    assert torch.equal(torch.get_rng_state(), before)


def test_seeded_draws_as_if_freshly_seeded_and_without_a_seed_the_generator_moves_on():
    torch.manual_seed(3)
    expected = draw(), draw()
    torch.manual_seed(3)
    for seed, i in ((3, 0), (None, 0), (3, 0), (None, 1)):
        with seeded(seed):
            assert torch.equal(draw(), expected[i])
    with seeded(4):
        assert not torch.equal(draw(), expected[0])


def test_seeded_on_the_cpu_names_no_other_device(monkeypatch):
    """torch.manual_seed would reseed every CUDA device for good."""
    seeds = []
    for name in ("manual_seed", "manual_seed_all"):
        monkeypatch.setattr(torch.cuda, name, seeds.append)
    with seeded(3, torch.device("cpu")):
        draw()
    assert seeds == []
    torch.manual_seed(3)
    assert seeds == [3]


# kept_threads, all_or_nothing


@ENDS
def test_threads_are_put_back(raises):
    before = torch.get_num_threads()
    with within(kept_threads(), raises):
        torch.set_num_threads(before + 1)
    assert torch.get_num_threads() == before


@ENDS
def test_attributes_are_put_back_after_an_error_only(raises):
    estimator = SimpleNamespace(size=3)
    with within(all_or_nothing(estimator), raises):
        estimator.size, estimator.learned_ = 4, 1
    assert vars(estimator) == ({"size": 3} if raises else {"size": 4, "learned_": 1})


# preserved


def network():
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.BatchNorm1d(4, affine=False))
    model[1].eval()
    model.register_buffer("empty", None)
    model.register_buffer("scratch", torch.arange(3.0), persistent=False)
    return model


def state(model):
    """The very buffers, what they hold, and modes."""
    buffers = [(i, key, b) for i, owner in enumerate(model.modules()) for key, b in owner._buffers.items()]
    holds = [(i, key, id(b), None if b is None else b.tolist()) for i, key, b in buffers]
    return holds, [module.training for module in model.modules()], buffers  # which keep the ids


def in_place(model):
    model[1].running_mean.add_(1)
    model.scratch.zero_()


def replaced(model):
    model[1].running_mean, model[3].running_var = torch.ones(4), torch.zeros(7)
    model.scratch = torch.zeros(2, dtype=torch.int64)


def replaced_and_in_place(model):
    old, model[1].running_var = model[1].running_var, torch.full((4,), 9.0)
    old.mul_(2)


def taken_away_and_given(model):
    model[1].running_mean = model.scratch = None
    model.empty = torch.ones(3)


def used(model):
    model.train()
    model(torch.randn(6, 3))


@ENDS
@pytest.mark.parametrize("change", [in_place, replaced, replaced_and_in_place, taken_away_and_given, used])
def test_preserved_puts_buffers_and_modes_back(change, raises):
    model = network()
    before = state(model)
    with within(preserved(model), raises):
        change(model)
        assert state(model)[:2] != before[:2]  # the changes are changes
    assert state(model)[:2] == before[:2]
    assert "scratch" not in model.state_dict()


def test_preserved_leaves_parameters_and_their_gradients_to_the_block():
    model = network()
    with preserved(model):
        model(torch.randn(6, 3)).square().sum().backward()
        nn.init.constant_(model[0].weight, 2)
    assert model[0].weight.unique().tolist() == [2]
    assert model[0].weight.grad is not None


# hooked


def test_hooks_are_called_during_the_block_only():
    first, second, x = nn.Linear(2, 2), nn.ReLU(), torch.randn(1, 2)
    model, seen = nn.Sequential(first, second), []
    second.register_forward_hook(lambda *_: seen.append("theirs"))
    with hooked({module: lambda *called: seen.append(called[2]) for module in model}):
        out = model(x)
    assert torch.equal(seen[0], first(x))
    assert seen[1:] == ["theirs", out]
    model(x)
    assert seen[3:] == ["theirs"]


def test_hooks_are_gone_after_an_error_their_own_too_and_if_a_later_one_cannot_be_placed():
    module = nn.Linear(2, 2)
    for hook in (lambda *_: None, lambda *_: 1 / 0):
        with within(hooked({module: hook}), raises=True):
            module(torch.zeros(1, 2))
        assert len(module._forward_hooks) == 0
    with pytest.raises(AttributeError, match="register_forward_hook"), hooked({module: print, "no module": print}):
        pass
    assert len(module._forward_hooks) == 0
