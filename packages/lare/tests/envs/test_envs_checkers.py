"""PettingZoo's own checkers on every task, and what its conversions expect."""

import warnings

import numpy as np
import pytest

pytest.importorskip("mpe2")
pytest.importorskip("pettingzoo")

from lare.envs import ParallelMPE, task_ids

tests = pytest.importorskip("pettingzoo.test")


@pytest.mark.parametrize("name", task_ids())
def test_parallel_api(name):
    tests.parallel_api_test(ParallelMPE(name), num_cycles=60)


@pytest.mark.parametrize("reward", ["dense", "episodic"])
@pytest.mark.parametrize("name", task_ids())
def test_parallel_seeds(name, reward):
    tests.parallel_seed_test(lambda: ParallelMPE(name, reward=reward), num_cycles=25)


@pytest.mark.parametrize("name", task_ids())
def test_what_is_returned_lies_in_the_spaces(name):
    env = ParallelMPE(name)
    observations, infos = env.reset(seed=0)
    assert list(observations) == list(infos) == env.agents == env.possible_agents
    assert len(env.agents) == env.num_agents == env.max_num_agents
    while env.agents:
        for agent, observation in observations.items():
            assert env.observation_space(agent).contains(observation)
        actions = {agent: env.action_space(agent).sample() for agent in env.agents}
        observations, rewards, *_ = env.step(actions)
        assert {type(reward) for reward in rewards.values()} == {float}
    env.close()


def test_converts_to_an_agent_by_agent_environment():
    conversions = pytest.importorskip("pettingzoo.utils.conversions")
    with warnings.catch_warnings():
        # PettingZoo remarks that the conversion has costs; that is no finding here.
        warnings.simplefilter("ignore")
        env = conversions.parallel_to_aec(ParallelMPE("triangle-area-3"))
    env.reset(seed=0)
    turns = 0
    for _ in env.agent_iter():
        observation, _, terminated, truncated, _ = env.last()
        assert observation.shape == (14,)
        env.step(None if terminated or truncated else 0)
        turns += not (terminated or truncated)
    assert turns == 25 * 3


def test_seeds_differ():
    env = ParallelMPE("predator-prey-6")
    one, two = env.reset(seed=0)[0], env.reset(seed=1)[0]
    assert not np.array_equal(one["predator_0"], two["predator_0"])
