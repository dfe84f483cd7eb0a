"""Advantages, the clipped objective, and learning where the best action is known."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lare.algos import PPO, ActorCritic, PPOSettings, advantages
from lare.algos.ppo import ReturnScale, clipped, normalize
from lare.algos.rollout import Steps
from lare.errors import ConfigError, ShapeError


def slow_advantages(rewards, values, gamma, gae_lambda):
    """The sum over all later surprises, as it is written."""
    steps = len(rewards)
    following = np.append(values[1:], 0.0)
    surprises = rewards + gamma * following - values
    return [
        sum((gamma * gae_lambda) ** (later - t) * surprises[later] for later in range(t, steps))
        for t in range(steps)
    ]


@given(
    st.integers(0, 2**32 - 1),
    st.integers(1, 12),
    st.floats(0, 1),
    st.floats(0, 1),
)
def test_advantages_are_the_discounted_sum_of_surprises(seed, steps, gamma, gae_lambda):
    rewards, values = np.random.default_rng(seed).normal(size=(2, steps, 2, 3))
    found = advantages(torch.tensor(rewards), torch.tensor(values), gamma, gae_lambda)
    for index in np.ndindex(2, 3):
        column = (slice(None), *index)
        wanted = slow_advantages(rewards[column], values[column], gamma, gae_lambda)
        np.testing.assert_allclose(found[column], wanted, atol=1e-10)


def test_without_discount_advantages_are_returns_less_values_and_nothing_follows_the_end():
    rewards, values = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([10.0, 20.0, 30.0])
    assert advantages(rewards, values, 1.0, 1.0).tolist() == [6 - 10, 5 - 20, 3 - 30]
    assert advantages(rewards, values, 1.0, 0.0).tolist() == [1 + 20 - 10, 2 + 30 - 20, 3 - 30]


def test_a_later_surprise_counts_less_by_discount_and_lambda():
    found = advantages(torch.ones(2), torch.zeros(2), 0.5, 0.4)
    assert found.tolist() == pytest.approx([1 + 0.5 * 0.4, 1])


def test_other_shapes_are_refused():
    with pytest.raises(ShapeError, match=r"\(3,\).*\(4,\)"):
        advantages(torch.zeros(3), torch.zeros(4), 1.0, 1.0)


def test_normalized_advantages_have_mean_0_and_deviation_1():
    found = normalize(torch.randn(7, 5, 3) * 40 + 100)
    assert abs(found.mean()) < 1e-5
    assert found.std(correction=0) == pytest.approx(1, abs=1e-5)
    assert (normalize(torch.full((4, 2), 3.0)) == 0).all()


def test_the_objective_does_not_gain_beyond_the_clip_but_loses_beyond_it():
    ratio = torch.tensor([0.1, 1.0, 3.0, 0.1, 1.0, 3.0])
    estimates = torch.tensor([2.0, 2.0, 2.0, -2.0, -2.0, -2.0])
    assert clipped(ratio, estimates, 0.5).tolist() == pytest.approx([0.2, 2, 3, -1, -2, -6])


def test_returns_are_shrunk_by_running_statistics_and_grown_back():
    scale = ReturnScale()
    returns = torch.randn(20, 50) * 300 - 1000
    for _ in range(3):
        scale.observe(returns)
    small = scale.shrink(returns)
    assert abs(small.mean()) < 1e-3
    assert small.std() == pytest.approx(1, abs=1e-2)
    torch.testing.assert_close(scale.grow(small), returns, rtol=1e-4, atol=1e-2)


def rollout(policy, seed, steps=4, episodes=24, agents=2):
    """Agents see one of three signs, drawn anew at every step, whatever they do."""
    generator = torch.Generator().manual_seed(seed)
    signs = torch.randint(3, (steps + 1, episodes, agents), generator=generator)
    seen = torch.nn.functional.one_hot(signs, 3).float()
    actions, logs = policy.act(seen[:-1], generator)
    right = (actions == signs[:-1]).float()
    return Steps(seen[:-1], actions, logs, seen[1:], right, right.sum(-1))


def learn(settings, rounds=25, scale=1.0, left=1.0):
    policy = ActorCritic(3, 3, hidden=16)
    ppo = PPO(policy, settings)
    shares = []
    for seed in range(rounds):
        steps = rollout(policy, seed)
        shares.append(float(steps.true_rewards.mean()))
        generator = torch.Generator().manual_seed(seed)
        losses = ppo.update(steps, scale * steps.true_rewards, generator, left=left)
    return shares, losses, policy


FAST = PPOSettings(learning_rate=3e-3, epochs=4, minibatch=32)


def test_it_learns_which_action_fits_which_sign():
    shares, losses, _ = learn(FAST)
    assert shares[0] < 0.5
    assert np.mean(shares[-3:]) > 0.9
    assert losses["entropy"] < 0.6
    assert set(losses) == {"policy_loss", "value_loss", "entropy"}


def test_the_scale_of_the_rewards_does_not_matter_when_all_is_normalized():
    weights = [learn(FAST, rounds=3, scale=scale)[2].actor[4].weight for scale in (1.0, 150.0)]
    torch.testing.assert_close(*weights, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("normalized", [True, False])
def test_advantages_are_normalized_over_the_rollout_or_left_alone(normalized):
    policy = ActorCritic(3, 3, hidden=16)
    options = {"normalize_advantages": normalized, "normalize_returns": False}
    steps = rollout(policy, 0)
    estimates, targets, inputs = PPO(policy, PPOSettings(**options))._estimate(
        steps, 9 * steps.true_rewards
    )
    with torch.no_grad():
        values = policy.values(inputs)
    plain = advantages(9 * steps.true_rewards, values, 1.0, 0.95)
    torch.testing.assert_close(targets, plain + values)
    torch.testing.assert_close(estimates, normalize(plain) if normalized else plain)


def test_the_learning_rate_falls_to_0():
    first = ActorCritic(3, 3, hidden=16).state_dict()
    for left, moves in ((0.0, False), (1e-2, True)):
        last = learn(FAST, rounds=1, left=left)[2].state_dict()
        assert any(not torch.equal(first[name], last[name]) for name in first) is moves


def test_the_clip_bounds_how_far_a_rollout_moves_the_policy():
    moved = []
    for clip in (0.02, 0.5):
        policy = ActorCritic(3, 3, hidden=16)
        steps = rollout(policy, 0)
        # Whole rollouts as minibatches: the ratio can pass the clip by one small step only.
        options = {"learning_rate": 1e-3, "epochs": 40, "minibatch": 10_000, "entropy": 0.0}
        PPO(policy, PPOSettings(clip=clip, **options)).update(
            steps, steps.true_rewards, torch.Generator()
        )
        with torch.no_grad():
            logs = policy.log_probabilities(steps.observations)
        ratio = (logs.gather(-1, steps.actions[..., None])[..., 0] - steps.log_probabilities).exp()
        moved.append(float((ratio - 1).abs().mean()))
    assert moved[0] < 0.1 < moved[1]


def test_a_state_goes_on_bit_for_bit():
    def update(ppo, seed):
        steps = rollout(ppo.policy, seed)
        ppo.update(steps, steps.true_rewards, torch.Generator().manual_seed(seed))

    whole, first, second = (PPO(ActorCritic(3, 3, seed=s), FAST) for s in (0, 0, 5))
    for seed in range(4):
        update(whole, seed)
    for seed in range(2):
        update(first, seed)
    second.load_state_dict(first.state_dict())
    for seed in range(2, 4):
        update(second, seed)
    for one, other in zip(whole.policy.parameters(), second.policy.parameters(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"clip": 0}, "clip is 0: it must be positive"),
        ({"minibatch": -1}, "minibatch is -1"),
        ({"gamma": 1.1}, "gamma is 1.1: give a number from 0 to 1"),
        ({"gae_lambda": -0.1}, "gae_lambda is -0.1"),
    ],
)
def test_wrong_settings_are_named(options, words):
    with pytest.raises(ConfigError, match=words):
        PPOSettings(**options)


def test_the_defaults_are_the_published_ones():
    found = PPOSettings()
    assert (found.gamma, found.gae_lambda, found.clip, found.learning_rate) == (1, 0.95, 0.5, 1e-4)
    assert (found.epochs, found.minibatch, found.entropy, found.value) == (10, 128, 0.01, 0.5)
    assert (found.huber, found.max_gradient) == (10, 10)
