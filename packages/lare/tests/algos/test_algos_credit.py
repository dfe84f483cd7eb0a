"""Rewards by method, on episodes that were really played."""

import dataclasses

import pytest
import torch
from small_tasks import DISTANCE, gather

from lare import LatentReward, RawFeatures
from lare.algos.credit import IRCR, Decomposed, DecompositionSettings, Dense, Episodic
from lare.algos.mpe import _Untrained
from lare.algos.rollout import play
from lare.envs import VectorizedMPE
from lare.errors import ConfigError, StateError

SHAPE = (10, 16, 2, 10)  # steps, episodes, agents, observation
FAST = DecompositionSettings(
    buffer=64, batch=32, updates=40, every=1, learning_rate=5e-3, model={"layers": 3, "hidden": 16}
)


@pytest.fixture(scope="module")
def env():
    return VectorizedMPE(gather(), 16)


def steps_of(env, seed):
    actors = {"agent": _Untrained(5, stay=False)}
    return play(env, actors, torch.Generator().manual_seed(seed), seed=seed)["agent"]


def decomposed(settings=FAST, features=None, method="lare", **options):
    features = features or LatentReward(DISTANCE)
    options = {"agent_id": False, "seed": 0, **options}
    return Decomposed(method, features, 0, SHAPE, 5, settings, **options)


def test_dense_is_what_each_agent_earned_and_episodic_the_sum_at_the_end(env):
    steps = steps_of(env, 0)
    assert torch.equal(Dense().rewards(steps, 0), steps.true_rewards)
    late = Episodic().rewards(steps, 0)
    assert (late[:-1] == 0).all()
    for agent in range(2):
        torch.testing.assert_close(late[-1, :, agent], steps.true_rewards.sum((0, 2)))


def test_ircr_ranks_an_episode_among_the_stored_ones(env):
    credit = IRCR(24)
    first, second = steps_of(env, 0), steps_of(env, 1)
    credit.rewards(first, 0)
    rewards = credit.rewards(second, 1)
    stored = torch.cat([first.returns[8:], second.returns])  # the oldest 8 of 32 are forgotten
    share = (second.returns - stored.min()) / (stored.max() - stored.min())
    torch.testing.assert_close(rewards, share[None, :, None].expand(10, 16, 2))
    equal = dataclasses.replace(first, team_rewards=torch.ones(10, 16))
    assert (IRCR(24).rewards(equal, 0) == 0).all()


def test_sums_of_learned_rewards_approach_the_returns_and_steps_the_true_rewards(env):
    credit = decomposed(dataclasses.replace(FAST, scale=False))
    for iteration in range(8):
        credit.rewards(steps_of(env, iteration), iteration)
    fresh = steps_of(env, 100)
    rewards = credit.rewards(fresh, 1)
    missing = (rewards.sum((0, 2)) - fresh.returns).square().mean() / fresh.returns.var()
    assert missing < 0.05
    pair = torch.stack([rewards.flatten(), fresh.true_rewards.flatten()])
    assert torch.corrcoef(pair)[0, 1] > 0.95


@pytest.mark.parametrize("method", ["rd", "rrd"])
def test_the_raw_methods_learn_from_the_next_observation(env, method):
    credit = decomposed(FAST, RawFeatures(("next_observation",)), method)
    steps = steps_of(env, 0)
    torch.testing.assert_close(credit.factors(steps), steps.next_observations)
    before = [p.clone() for p in credit.model.parameters()]
    assert credit.rewards(steps, 0).shape == (10, 16, 2)
    assert not torch.equal(before[0], next(iter(credit.model.parameters())))


def test_a_function_gets_the_step_of_each_agent(env):
    source = (
        "def evaluation_func(observation, action, next_observation):\n"
        "    return [observation[:, 2:3], action[:, 3:4], next_observation[:, 3:4]]\n"
    )
    steps = steps_of(env, 0)
    found = decomposed(features=LatentReward(source)).factors(steps)
    assert torch.equal(found[..., 0], steps.observations[..., 2])
    assert torch.equal(found[..., 1], (steps.actions == 3).float())
    assert torch.equal(found[..., 2], steps.next_observations[..., 3])


def test_the_agents_number_can_be_added_to_the_factors(env):
    steps = steps_of(env, 0)
    found = decomposed(agent_id=True).factors(steps)
    assert found.shape == (10, 16, 2, 4)
    assert torch.equal(found[..., 2:], torch.eye(2).expand(10, 16, 2, 2))
    torch.testing.assert_close(found[..., :2], decomposed().factors(steps))


def test_the_store_holds_the_factors_with_the_returns_of_the_team(env):
    credit = decomposed()
    rollouts = [steps_of(env, seed) for seed in range(6)]
    for iteration, steps in enumerate(rollouts):
        credit.rewards(steps, iteration)
    assert len(credit.store) == 64  # 4 rollouts of 16: the first two are overwritten
    batch = credit.store.gather(credit.store.episodes)
    wanted = torch.stack([steps.returns for steps in rollouts[2:]], 1).flatten()
    torch.testing.assert_close(batch.returns, wanted)
    factors = torch.stack([credit.factors(steps).transpose(0, 1) for steps in rollouts[2:]], 1)
    torch.testing.assert_close(batch.factors, factors.flatten(0, 1))
    assert batch.mask.all()


def test_rewards_are_scaled_as_published_unless_told_otherwise(env):
    scaled = decomposed().rewards(steps_of(env, 0), 0)
    plain = decomposed(dataclasses.replace(FAST, scale=False)).rewards(steps_of(env, 0), 0)
    torch.testing.assert_close(scaled, plain * 10 * 2)


def test_it_learns_in_the_first_iteration_and_then_every_so_often(env):
    model = {"kind": "mlp"}  # a closed form does not move when it is right already
    credit = decomposed(dataclasses.replace(FAST, every=3, model=model))
    moved = []
    for iteration in range(7):
        before = [p.clone() for p in credit.model.parameters()]
        credit.rewards(steps_of(env, iteration), iteration)
        moved.append(not torch.equal(before[0], next(iter(credit.model.parameters()))))
    assert moved == [True, False, False, True, False, False, True]


def test_a_ridge_decoder_is_solved(env):
    credit = decomposed(dataclasses.replace(FAST, scale=False, model={"kind": "ridge"}))
    steps = steps_of(env, 0)
    torch.testing.assert_close(credit.rewards(steps, 0), steps.true_rewards, atol=0.02, rtol=0)


@pytest.mark.parametrize("make", [decomposed, lambda: IRCR(24)], ids=["decomposed", "ircr"])
def test_a_state_goes_on_bit_for_bit(env, make):
    whole, first, second = make(), make(), make()
    for iteration in range(4):
        wanted = whole.rewards(steps_of(env, iteration), iteration)
    for iteration in range(2):
        first.rewards(steps_of(env, iteration), iteration)
    second.load_state_dict(first.state_dict())
    for iteration in range(2, 4):
        found = second.rewards(steps_of(env, iteration), iteration)
    assert torch.equal(wanted, found)


def test_a_state_of_another_function_is_refused():
    other = LatentReward(DISTANCE.replace("speed", "haste"))
    with pytest.raises(StateError, match="give that function, or name another folder"):
        decomposed(features=other).load_state_dict(decomposed().state_dict())


def test_wrong_settings_are_named():
    with pytest.raises(ConfigError, match="buffer is 8 episodes, and a rollout has 16"):
        decomposed(dataclasses.replace(FAST, buffer=8))
    with pytest.raises(ConfigError, match="every is 0: it must be positive"):
        DecompositionSettings(every=0)
    with pytest.raises(ConfigError, match="weight_decay is -1"):
        DecompositionSettings(weight_decay=-1)


def test_the_defaults_are_the_published_ones():
    found = DecompositionSettings()
    assert (found.buffer, found.batch, found.updates, found.every) == (15_000, 256, 50, 10)
    assert (found.learning_rate, found.weight_decay, found.scale) == (5e-4, 1e-5, True)
