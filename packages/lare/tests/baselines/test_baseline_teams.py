"""AREL and STAS: who may read whom, and what adds up to what."""

import pytest
import torch
from torch.nn.functional import pad

from lare.baselines import AREL, STAS
from lare.baselines._attention import Attention, waves
from lare.baselines.arel import variance
from lare.episodes import EpisodeBatch
from lare.errors import ConfigError, ShapeError

AGENTS = 3
KINDS = [AREL, STAS]


def tiny(kind, **options):
    torch.manual_seed(0)
    return kind(3, AGENTS, **{"hidden": 12, "heads": 3, "standardize": 0, **options})


def double(kind, **options):
    return tiny(kind, **options).double().requires_grad_(False)


@pytest.fixture
def batch(episodes):
    return episodes(16, (AGENTS,))[0]


def full(agents=AGENTS, samples=1):
    return torch.ones(samples, 1, agents, agents, dtype=torch.bool)


# --- attention -----------------------------------------------------------------------------------


def by_hand(attention, inputs, readable):
    """Softmax of scaled products, place by place, for ``[L, hidden]``."""
    heads = attention.queries_keys_values(inputs).unflatten(-1, (3, attention.heads, -1))
    results = []
    for place in range(len(inputs)):
        per_head = []
        for head in range(attention.heads):
            query, keys, values = heads[place, 0, head], heads[:, 1, head], heads[:, 2, head]
            scores = (keys @ query) / len(query) ** 0.5
            weights = scores.masked_fill(~readable[place], -torch.inf).softmax(0)
            per_head.append(weights @ values)
        results.append(torch.cat(per_head))
    return attention.output(torch.stack(results))


@pytest.mark.parametrize("heads", [1, 3, 5])  # 5 does not divide 12
def test_attention_is_that_of_a_loop(heads):
    torch.manual_seed(0)
    attention = Attention(12, heads).double()
    inputs = torch.randn(2, 4, 5, 12, dtype=torch.float64)
    masks = (torch.rand(3, 2, 1, 5, 5) < 0.5) | torch.eye(5, dtype=torch.bool)
    everything = torch.ones(5, 5, dtype=torch.bool)
    for i in range(2):
        for j in range(4):
            one = inputs[i, j]
            torch.testing.assert_close(attention(inputs)[i, j], by_hand(attention, one, everything))
            torch.testing.assert_close(
                attention(inputs, causal=True)[i, j], by_hand(attention, one, everything.tril())
            )
            average = torch.stack([by_hand(attention, one, mask[i, 0]) for mask in masks]).mean(0)
            torch.testing.assert_close(attention(inputs, masks=masks)[i, j], average)


@pytest.mark.parametrize("size", [1, 4, 5])
def test_waves_tell_times_apart(size):
    found = waves(30, torch.zeros(size))
    assert found.shape == (30, size)
    assert found.abs().max() <= 1
    assert found[:3, 0].tolist() == pytest.approx(torch.arange(3.0).sin().tolist())
    assert torch.pdist(found).min() > 1e-3


# --- both models ---------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_rewards_are_per_agent_and_zero_behind_the_end(kind, batch):
    rewards = tiny(kind).rewards(batch.factors, batch.mask)
    assert rewards.shape == (*batch.mask.shape, AGENTS)
    assert not rewards[~batch.mask].any()
    assert rewards[batch.mask].all()
    assert tiny(kind).rewards(batch.factors).all()


@pytest.mark.parametrize("kind", KINDS)
def test_padding_changes_nothing(kind, batch):
    model = tiny(kind)
    longer = EpisodeBatch(
        pad(batch.factors, (0, 0, 0, 0, 0, 5), value=7.0), pad(batch.mask, (0, 5)), batch.returns
    )
    rewards = model.rewards(longer.factors, longer.mask)
    torch.testing.assert_close(rewards[:, :8], model.rewards(batch.factors, batch.mask))
    losses = [model.loss(each, torch.Generator().manual_seed(0)) for each in (batch, longer)]
    torch.testing.assert_close(*losses)


@pytest.mark.parametrize("kind", KINDS)
def test_an_episode_is_rewarded_alike_in_every_batch(kind, batch):
    model = tiny(kind)
    together = model.rewards(batch.factors, batch.mask)
    for index in range(3):
        length = int(batch.mask[index].sum())
        alone = model.rewards(batch.factors[index : index + 1, :length])
        torch.testing.assert_close(alone[0], together[index, :length])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("time", [0, 3, 7])
def test_what_comes_later_changes_no_earlier_reward(kind, time, batch):
    model = double(kind)
    factors = batch.factors.double()
    changed = factors.clone()
    changed[:, time, 1] += 1.0
    before, after = model.rewards(factors), model.rewards(changed)
    assert torch.equal(before[:, :time], after[:, :time])
    # The step itself, and all that come after it, have seen the change.
    assert (before[:, time:] - after[:, time:]).abs().amax(-1).min() > 1e-9


@pytest.mark.parametrize("kind", KINDS)
def test_agents_have_no_order(kind, batch):
    model, order = double(kind), torch.tensor([2, 0, 1])
    factors = batch.factors.double()
    if kind is STAS:
        coalitions = model.draw(1, torch.Generator().manual_seed(1))
        moved = coalitions[:, :, order][..., order]
        assert not torch.equal(moved, coalitions)
        before, after = model.score(factors, coalitions), model.score(factors[:, :, order], moved)
    else:
        before, after = model.rewards(factors), model.rewards(factors[:, :, order])
    torch.testing.assert_close(after, before[:, :, order])


@pytest.mark.parametrize("kind", KINDS)
def test_time_matters(kind, batch):
    factors = batch.factors[:, :1].double().expand(-1, 4, -1, -1)
    rewards = double(kind).rewards(factors)
    assert (rewards[:, 0] - rewards[:, 1]).abs().min() > 1e-6


@pytest.mark.parametrize("kind", KINDS)
def test_every_parameter_learns(kind, batch, check_gradients):
    check_gradients(tiny(kind), batch)


@pytest.mark.parametrize("kind", KINDS)
def test_a_linear_reward_is_learned(kind, episodes, train, explained):
    options = {"depth": 1, "variance_weight": 0.1} if kind is AREL else {"layers": 1, "samples": 2}
    model = tiny(kind, **options)
    train(model, episodes(32, (AGENTS,))[0], lr=2e-2)
    batch, rewards = episodes(64, (AGENTS,), seed=1)
    with torch.no_grad():
        team = model.rewards(batch.factors, batch.mask).sum(-1)
    assert explained(team.sum(1), batch.returns) > 0.5
    assert explained(team[batch.mask], rewards.sum(-1)[batch.mask]) > 0.3


@pytest.mark.parametrize("kind", KINDS)
def test_inputs_are_standardized(kind, batch):
    rows = 5 + 3 * batch.factors
    model = tiny(kind, standardize=10_000)
    model.observe(rows)
    flat = rows.reshape(-1, 3)
    scaled = (rows - flat.mean(0)) / flat.std(0, correction=0)
    torch.testing.assert_close(
        model.rewards(rows), tiny(kind).rewards(scaled), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(4, 8, AGENTS, 2), (4, 8, 2, 3), (8, AGENTS, 3)])
def test_shapes_are_checked(kind, shape):
    with pytest.raises(ShapeError, match=r"\(3, 3\)"):
        tiny(kind).rewards(torch.zeros(shape))


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        *((kind, {"hidden": 0}, "hidden=0") for kind in KINDS),
        *((kind, {"heads": 13}, "heads=13") for kind in KINDS),
        *((kind, {"heads": 0}, "heads=0") for kind in KINDS),
        *((kind, {"standardize": -1}, "standardize=-1") for kind in KINDS),
        (AREL, {"depth": 0}, "depth=0"),
        (AREL, {"variance_weight": -1.0}, "variance_weight=-1.0"),
        (STAS, {"layers": 0}, "layers=0"),
        (STAS, {"samples": 0}, "samples=0"),
    ],
)
def test_sizes_are_checked(kind, options, message):
    with pytest.raises(ConfigError, match=message):
        tiny(kind, **options)


# --- AREL ----------------------------------------------------------------------------------------


def test_arel_pays_equal_parts_that_add_up(batch):
    model = tiny(AREL)
    rewards = model.rewards(batch.factors, batch.mask)
    torch.testing.assert_close(rewards.sum(-1), model.team(batch.factors, batch.mask))
    assert torch.equal(rewards, rewards[..., :1].expand_as(rewards))


def test_arel_sums_over_the_agents(batch):
    # Agents that are copies read what a single one reads.
    model = double(AREL)
    model.head.bias.zero_()
    alone = AREL(3, 1, hidden=12, heads=3, standardize=0).double()
    alone.load_state_dict(model.state_dict())
    factors = batch.factors[:, :, :1].double()
    copies = factors.expand(-1, -1, AGENTS, -1)
    torch.testing.assert_close(model.team(copies), AGENTS * alone.team(factors))


def test_arel_adds_twenty_variances(batch):
    model = tiny(AREL)
    team = model.team(batch.factors, batch.mask)
    rows = [one[: int(mask.sum())] for one, mask in zip(team, batch.mask, strict=True)]
    gaps = torch.stack([row.sum() for row in rows]) - batch.returns
    spread = torch.stack([row.var() for row in rows])
    wanted = gaps.square().mean() + 20 * spread.mean()
    torch.testing.assert_close(model.loss(batch, torch.Generator()), wanted)


def test_one_step_has_no_variance():
    rewards = torch.tensor([[3.0, 9.0], [1.0, 3.0]])
    mask = torch.tensor([[True, False], [True, True]])
    assert variance(rewards, mask).tolist() == [0, 2]


# --- STAS ----------------------------------------------------------------------------------------


def test_stas_fits_the_sum_over_steps_and_agents(batch):
    model = tiny(STAS)
    coalitions = model.draw(16, torch.Generator().manual_seed(5))
    rewards = model.score(batch.factors, coalitions) * batch.mask[..., None]
    wanted = (rewards.sum((1, 2)) - batch.returns).square().mean()
    torch.testing.assert_close(model.loss(batch, torch.Generator().manual_seed(5)), wanted)


def test_an_agent_outside_the_coalition_is_not_read(batch):
    model = double(STAS)
    factors = batch.factors.double()
    changed = factors.clone()
    changed[:, :, 2] += 1.0
    apart = full()
    apart[..., 0, 2] = False
    before, after = model.score(factors, apart), model.score(changed, apart)
    assert torch.equal(before[:, :, 0], after[:, :, 0])
    assert (before[:, :, 1] - after[:, :, 1]).abs().min() > 1e-9


def test_coalitions_are_drawn_evenly_and_hold_oneself():
    drawn = tiny(STAS).draw(2000, torch.Generator().manual_seed(0)).float()
    assert drawn.shape == (5, 2000, AGENTS, AGENTS)
    shares = drawn.mean((0, 1))
    assert shares.diagonal().tolist() == [1] * AGENTS
    assert (shares - 0.5)[~torch.eye(AGENTS, dtype=torch.bool)].abs().max() < 0.02


def test_coalitions_are_new_for_the_loss_and_fixed_for_rewards(batch):
    model, generator = tiny(STAS), torch.Generator().manual_seed(0)
    assert model.loss(batch, generator) != model.loss(batch, generator)
    assert torch.equal(model.rewards(batch.factors), model.rewards(batch.factors))
    other = tiny(STAS, seed=1)
    assert not torch.equal(other.rewards(batch.factors), model.rewards(batch.factors))
    other.load_state_dict(model.state_dict())
    assert torch.equal(other.rewards(batch.factors), model.rewards(batch.factors))
