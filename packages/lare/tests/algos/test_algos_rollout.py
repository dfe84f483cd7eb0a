"""What is recorded of episodes is what the environment did."""

import numpy as np
import pytest
import torch
from small_tasks import chase, gather

from lare.algos import ActorCritic
from lare.algos.rollout import play
from lare.envs import VectorizedMPE


def played(task, copies=3, seed=7, episodes=1):
    env = VectorizedMPE(task, copies)
    actors = {
        role: ActorCritic(env.observation_size, 5, seed=index)
        for index, role in enumerate(env.roles)
    }
    generator = torch.Generator().manual_seed(0)
    return env, actors, play(env, actors, generator, seed=seed, episodes=episodes)


@pytest.mark.parametrize("task", [gather(), chase(), "triangle-area-3"], ids=str)
def test_the_same_actions_give_the_same_observations_and_rewards(task):
    env, _, steps = played(task)
    again = VectorizedMPE(task, 3)
    again.reset(seed=7)
    before = again.reset()
    for t in range(env.horizon):
        actions = np.concatenate([part.actions[t] for part in steps.values()], axis=1)
        after, rewards, _, truncated, _ = again.step(actions)
        for role, members in env.roles.items():
            part = steps[role]
            np.testing.assert_array_equal(part.observations[t], before[:, members])
            np.testing.assert_array_equal(part.next_observations[t], after[:, members])
            np.testing.assert_allclose(part.true_rewards[t], rewards[:, members], rtol=1e-6)
        before = after
    assert truncated.all()


def test_log_probabilities_are_those_of_the_roles_own_policy():
    _, actors, steps = played(chase())
    for role, other in (("predator", "prey"), ("prey", "predator")):
        part = steps[role]
        with torch.no_grad():
            own, wrong = (
                actors[name]
                .log_probabilities(part.observations)
                .gather(-1, part.actions[..., None])[..., 0]
                for name in (role, other)
            )
        torch.testing.assert_close(part.log_probabilities, own)
        assert not torch.allclose(part.log_probabilities, wrong)


def test_a_role_earns_the_sum_of_its_agents_and_a_shared_reward_counts_once():
    _, _, steps = played(gather())
    part = steps["agent"]
    torch.testing.assert_close(part.team_rewards, part.true_rewards.sum(-1))
    torch.testing.assert_close(part.returns, part.true_rewards.sum((0, 2)))
    _, _, steps = played(gather(shared_reward=True))
    part = steps["agent"]
    assert torch.equal(part.true_rewards[..., 0], part.true_rewards[..., 1])
    torch.testing.assert_close(part.returns, part.true_rewards[..., 0].sum(0))


def test_returns_agree_with_the_environments_own_episodic_reward():
    for task in (gather(), gather(shared_reward=True), chase()):
        env, _, steps = played(task)
        episodic = VectorizedMPE(task, 3, reward="episodic")
        episodic.reset(seed=7)
        episodic.reset()
        for t in range(env.horizon):
            actions = np.concatenate([part.actions[t] for part in steps.values()], axis=1)
            _, rewards, *_ = episodic.step(actions)
        for role, members in env.roles.items():
            np.testing.assert_allclose(steps[role].returns, rewards[:, members[0]], rtol=1e-5)


def test_several_episodes_stand_side_by_side_and_the_seed_repeats_them():
    _, _, steps = played(gather(), episodes=2)
    part = steps["agent"]
    assert part.actions.shape == (10, 6, 2)
    assert part.returns.shape == (6,)
    assert not torch.equal(part.observations[0, :3], part.observations[0, 3:])
    assert torch.equal(part.observations[1:], part.next_observations[:-1])
    _, _, same = played(gather(), episodes=2)
    assert torch.equal(part.actions, same["agent"].actions)
    _, _, other = played(gather(), episodes=2, seed=8)
    assert not torch.equal(part.observations, other["agent"].observations)
