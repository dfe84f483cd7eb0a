"""The PettingZoo form of the grid tasks: PettingZoo's own tests, and a vector of one beside it."""

import sys

import numpy as np
import pytest

pytest.importorskip("pettingzoo")

from lemae.envs import ParallelGrid, make, names
from lemae.errors import ConfigError, MissingExtraError, TaskError

# Not an import statement: PettingZoo's tests warn of PettingZoo's own environments.
pettingzoo_tests = pytest.importorskip("pettingzoo.test")

RIGHT = 3


@pytest.mark.parametrize("name", names())
def test_parallel_api(name):
    """Episodes of 40 steps, so that their ends are part of the test."""
    pettingzoo_tests.parallel_api_test(ParallelGrid(name, episode_limit=40), num_cycles=120)


@pytest.mark.parametrize("name", names())
def test_parallel_seeds(name):
    pettingzoo_tests.parallel_seed_test(lambda: ParallelGrid(name, episode_limit=40), num_cycles=50)


@pytest.mark.parametrize("name", names())
def test_the_same_as_a_vector_of_one(name):
    env, vector = ParallelGrid(name, episode_limit=50), make(name, episode_limit=50)
    observations, infos = env.reset(seed=3)
    states, _ = vector.reset(seed=3)
    rng = np.random.default_rng(1)
    assert infos == {agent: {"success": False} for agent in env.possible_agents}
    while env.agents:
        agents = list(env.agents)
        for agent in agents:
            np.testing.assert_array_equal(observations[agent], states[0])
            assert env.observation_space(agent).contains(observations[agent])
        np.testing.assert_array_equal(env.state(), states[0])
        actions = rng.integers(0, 4, len(agents))
        joint = dict(zip(agents, actions.tolist(), strict=True))
        observations, rewards, ended, cut, infos = env.step(joint)
        states, reward, terminated, truncated, info = vector.step([actions])
        for agent in agents:
            assert (rewards[agent], ended[agent], cut[agent]) == (
                reward[0],
                terminated[0],
                truncated[0],
            )
            assert infos[agent] == {"success": info["success"][0]}
    assert truncated[0] or terminated[0]


def test_success():
    env = ParallelGrid("pass")
    env.reset()
    env.vector.reset_to([15, 15, 20, 10, 1])
    _, rewards, ended, cut, infos = env.step({"agent_1": 0, "agent_0": RIGHT})
    assert rewards == {"agent_0": 1.0, "agent_1": 1.0}
    assert ended == {"agent_0": True, "agent_1": True}
    assert cut == {"agent_0": False, "agent_1": False}
    assert infos["agent_1"] == {"success": True}
    assert env.agents == []


def test_observations_are_the_agents_own():
    env = ParallelGrid("pass")
    observations, _ = env.reset()
    observations["agent_0"][:] = 7
    assert observations["agent_1"].tolist() == [4, 4, 3, 3, 0]
    assert env.state().tolist() == [4, 4, 3, 3, 0]


def test_bad_input():
    env = ParallelGrid("pass")
    with pytest.raises(ConfigError, match=r"no episode goes on: call reset\(\) first"):
        env.step({"agent_0": 0, "agent_1": 0})
    with pytest.raises(ConfigError, match="call reset"):
        env.state()
    env.reset()
    with pytest.raises(ConfigError, match=r"actions are for \['agent_0'\]: give one for each of"):
        env.step({"agent_0": 0})
    with pytest.raises(ConfigError, match="actions hold 4"):
        env.step({"agent_0": 0, "agent_1": 4})
    with pytest.raises(ConfigError, match="there is no agent 'agent_2': choose from agent_0"):
        env.observation_space("agent_2")
    with pytest.raises(ConfigError, match="no option 'sise': did you mean size"):
        ParallelGrid("pass", sise=30)
    with pytest.raises(TaskError, match="did you mean pass"):
        ParallelGrid("pas")


def test_after_the_end():
    env = ParallelGrid("pass", episode_limit=1)
    env.reset()
    env.step({"agent_0": 0, "agent_1": 0})
    with pytest.raises(ConfigError, match="no episode goes on"):
        env.step({"agent_0": 0, "agent_1": 0})


def test_pictures():
    env = ParallelGrid("push-box", render_mode="rgb_array")
    env.reset()
    assert env.render().shape == (180, 180, 3)
    assert ParallelGrid("push-box").render() is None


def test_without_pettingzoo(monkeypatch):
    monkeypatch.setitem(sys.modules, "pettingzoo", None)
    monkeypatch.delitem(sys.modules, "lemae.envs.pettingzoo")
    monkeypatch.delattr("lemae.envs.ParallelGrid")
    import lemae.envs

    with pytest.raises(MissingExtraError, match=r'pip install "lemae\[pettingzoo\]"'):
        _ = lemae.envs.ParallelGrid
