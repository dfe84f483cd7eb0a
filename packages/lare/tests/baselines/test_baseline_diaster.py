"""Diaster: the cut and its fresh state, the differences, and both stages against plain loops."""

import pytest
import torch
from torch.nn.functional import pad

from lare.baselines import Diaster
from lare.baselines.diaster import _draw_cuts, differences
from lare.episodes import EpisodeBatch
from lare.errors import ConfigError


def tiny(**options):
    torch.manual_seed(0)
    return Diaster(3, **{"hidden": 16, "standardize": 0, "scale": 2.0, **options})


def loss(model, batch, seed=0):
    return model.loss(batch, torch.Generator().manual_seed(seed))


def worth(model, steps):
    """g of one stretch ``[T, D]``, read step by step from a state of zeros."""
    state = torch.zeros(1, 1, 16)
    for step in steps:
        _, state = model.recurrent(step[None, None], state)
    return model.head(state)[0, 0, 0] if len(steps) else torch.zeros(())


def test_both_stages_are_those_of_a_loop_over_episodes(episodes):
    batch, _ = episodes(12)
    model = tiny()
    lengths = batch.mask.sum(1)
    cuts = _draw_cuts(lengths, torch.Generator().manual_seed(0))
    assert (cuts == lengths).any()
    assert (cuts < lengths).any()
    gaps, errors = [], []
    for factors, length, cut, total in zip(
        batch.factors, lengths, cuts, batch.returns, strict=True
    ):
        steps, goal = factors[:length], total / 2.0
        gaps.append(worth(model, steps[:cut]) + worth(model, steps[cut:]) - goal)
        values = [torch.zeros(())] + [worth(model, steps[: t + 1]) for t in range(length)]
        values[-1] = goal
        for t in range(length):
            wanted = values[t + 1] - values[t]
            errors.append(model.step(steps[t]) - wanted)
    wanted = torch.stack(gaps).square().mean() + torch.stack(errors).square().mean()
    torch.testing.assert_close(loss(model, batch), wanted)


def test_differences_add_up_to_the_goal():
    values = torch.tensor([[1.0, 4.0, 6.0], [2.0, 9.0, 9.0], [5.0, 9.0, 9.0]])
    found = differences(values, torch.tensor([3, 2, 1]), torch.tensor([10.0, 3.0, 7.0]))
    assert found[0].tolist() == [1, 3, 6]
    assert found[1, :2].tolist() == [2, 1]
    assert found[2, :1].tolist() == [7]


def test_cuts_reach_from_the_first_step_to_the_last():
    lengths = torch.tensor([1, 2, 5]).repeat(400)
    cuts = _draw_cuts(lengths, torch.Generator().manual_seed(0)).reshape(400, 3)
    assert set(cuts[:, 0].tolist()) == {1}
    assert torch.bincount(cuts[:, 1])[1:].min() > 150
    assert torch.bincount(cuts[:, 2])[1:].tolist() == pytest.approx([80] * 5, abs=30)


def test_padding_changes_neither_loss_nor_gradient(episodes):
    batch, _ = episodes()
    longer = EpisodeBatch(
        pad(batch.factors, (0, 0, 0, 5), value=7.0), pad(batch.mask, (0, 5)), batch.returns
    )
    gradients = []
    for each in (batch, longer):
        model = tiny()
        value = loss(model, each)
        value.backward()
        gradients.append([value.detach(), *(p.grad for p in model.parameters())])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_the_second_stage_does_not_move_the_first(episodes):
    batch, _ = episodes()
    model = tiny()
    loss(model, batch).backward()
    before = [p.grad.clone() for p in model.recurrent.parameters()]
    other = tiny()
    with torch.no_grad():
        other.step.network[-1].weight *= 100
    loss(other, batch).backward()
    for one, two in zip(before, other.recurrent.parameters(), strict=True):
        torch.testing.assert_close(one, two.grad)


def test_rewards_are_in_units_of_the_return():
    rows = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    assert torch.equal(tiny(scale=20.0).rewards(rows), 10 * tiny(scale=2.0).rewards(rows))


def test_every_parameter_learns(episodes, check_gradients):
    check_gradients(tiny(), episodes()[0])


def test_a_linear_reward_is_learned(episodes, train, explained):
    model = tiny()
    train(model, episodes(128)[0])
    batch, rewards = episodes(64, seed=1)
    with torch.no_grad():
        predicted = model.rewards(batch.factors)
    assert explained(predicted[batch.mask], rewards[batch.mask]) > 0.6


@pytest.mark.parametrize("name", ["n_features", "hidden", "scale", "standardize"])
def test_sizes_are_checked(name):
    bad = -1 if name == "standardize" else 0
    with pytest.raises(ConfigError, match=f"{name}={bad}"):
        Diaster(**{"n_features": 3, name: bad})
