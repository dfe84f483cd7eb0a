"""Parallel environments as vectors: against the vector behind one, and on odd ones."""

from dataclasses import replace

import numpy as np
import pytest
from gymnasium import spaces

from lemae.algos.rollout import Collector
from lemae.baselines import create
from lemae.envs import make
from lemae.errors import ConfigError, TaskError
from lemae.integrations.pettingzoo import wrap


class Odd:
    """Two agents of different senses and actions; the first one leaves, the second one goes on.

    ``b`` counts up by its actions -1, 0, 1 (numbered from -1) and may not go below 0. The goal is 3
    for ``b`` before step 5.
    """

    possible_agents = ["a", "b"]  # noqa: RUF012  as PettingZoo has it

    def __init__(self, masked=True, info=None, truncates=False):
        self.masked, self.info, self.truncates = masked, info, truncates
        self.closed = False
        self.seeds = []

    def observation_space(self, agent):
        if agent == "a":
            return spaces.Discrete(3)
        count = spaces.Box(0, 3, (1, 1))
        if not self.masked:
            return count
        return spaces.Dict({"observation": count, "action_mask": spaces.MultiBinary(3)})

    def action_space(self, agent):
        return spaces.Discrete(2) if agent == "a" else spaces.Discrete(3, start=-1)

    def reset(self, seed=None):
        self.seeds.append(seed)
        self.agents = ["a", "b"]
        self.t = self.count = 0
        return self.see(["a", "b"]), {"a": {}, "b": self.said()}

    def see(self, agents):
        count = np.full((1, 1), self.count, np.float32)
        mask = np.array([self.count > 0, 1, 1], np.int8)
        seen = {"a": min(self.t, 2), "b": count}
        if self.masked:
            seen["b"] = {"observation": count, "action_mask": mask}
        return {agent: seen[agent] for agent in agents}

    def said(self):
        return {} if self.masked else {"action_mask": np.array([self.count > 0, 1, 1])}

    def step(self, actions):
        assert set(actions) == set(self.agents)
        acting = list(self.agents)
        self.t += 1
        self.count += actions["b"]
        done = self.count == 3
        cut = self.truncates and self.t == 4
        ends = {"a": self.t == 2, "b": done}
        cuts = {"a": False, "b": cut}
        self.agents = [agent for agent in acting if not (ends[agent] or cuts[agent])]
        rewards = {"a": 0.5, "b": float(done)}
        infos = {agent: dict(self.info or {}) for agent in acting}
        infos["b"] |= self.said()
        pick = lambda values: {agent: values[agent] for agent in acting}  # noqa: E731
        return self.see(acting), pick(rewards), pick(ends), pick(cuts), infos

    def close(self):
        self.closed = True


UP, KEEP, DOWN = 2, 1, 0


def there(state, rewards, infos):
    """The first agent is always paid, so that rewards do not say it."""
    return rewards["b"] > 0


def acts(b, n=1):
    return np.array([[0, b]] * n)


@pytest.mark.parametrize("name", ["pass", "push-box"])
def test_there_and_back(name):
    """A grid task as PettingZoo has it, wrapped, is the grid task."""
    pytest.importorskip("pettingzoo")
    from lemae.envs import ParallelGrid

    grid = make(name, 2, episode_limit=20)
    env = wrap(
        [ParallelGrid(name, episode_limit=20) for _ in range(2)],
        episode_limit=20,
        task_spec=grid.task_spec,
    )
    assert (env.n_agents, env.n_actions, env.d) == (grid.n_agents, grid.n_actions, grid.d)
    np.testing.assert_array_equal(env.reset(seed=0)[0], grid.reset(seed=0)[0])
    rng = np.random.default_rng(0)
    for _ in range(22):
        actions = rng.integers(4, size=(2, 2))
        mine, theirs = env.step(actions), grid.step(actions)
        for ours, other in zip(mine[:4], theirs[:4], strict=True):
            np.testing.assert_array_equal(ours, other)
        np.testing.assert_array_equal(mine[4]["active"], theirs[4]["active"])
        np.testing.assert_array_equal(mine[4]["success"], theirs[4]["success"])


def test_success_of_a_grid_task():
    pytest.importorskip("pettingzoo")
    from lemae.envs import ParallelGrid

    grid = ParallelGrid("push-box")
    env = wrap(grid, episode_limit=300)
    env.reset()
    grid.vector.reset_to([4, 7, 4, 6, 2, 7])  # both east of the box, which is one push away
    _, reward, terminated, _, info = env.step(np.full((1, 2), 2))
    assert (reward[0], terminated[0], info["success"][0]) == (1, True, True)


def test_agents_of_different_kinds():
    env = wrap(Odd(), episode_limit=9, success=there)
    assert (env.n_agents, env.n_actions, env.d) == (2, 3, 4)  # joined: three bits and a number
    state, _ = env.reset()
    np.testing.assert_array_equal(state, [[1, 0, 0, 0]])
    np.testing.assert_array_equal(env.observations(state), [[[1, 0, 0], [0, 0, 0]]])
    np.testing.assert_array_equal(env.available(), [[[1, 1, 0], [0, 1, 1]]])
    state, reward, *_ = env.step(acts(UP))
    np.testing.assert_array_equal(state, [[0, 1, 0, 1]])
    np.testing.assert_array_equal(env.available()[0, 1], [1, 1, 1])
    assert reward[0] == 0.25
    state, _, terminated, truncated, _ = env.step(acts(UP))  # a leaves
    np.testing.assert_array_equal(env.available()[0, 0], [1, 0, 0])
    assert (terminated[0], truncated[0]) == (False, False)
    state, reward, terminated, truncated, _ = env.step(acts(UP))
    np.testing.assert_array_equal(state, [[0, 0, 0, 3]])
    assert (reward[0], terminated[0], truncated[0]) == (1, True, False)


def test_masks_in_infos():
    env = wrap(Odd(masked=False), episode_limit=9, success=there)
    env.reset()
    np.testing.assert_array_equal(env.available()[0, 1], [0, 1, 1])
    with pytest.raises(ConfigError, match="agent 1 of copy 0 cannot take action 0"):
        env.step(acts(DOWN))
    env.step(acts(UP))
    np.testing.assert_array_equal(env.available()[0, 1], [1, 1, 1])


def test_truncation_by_the_environment_and_by_the_limit():
    for env, length in (
        (wrap(Odd(truncates=True), episode_limit=9, success=there), 4),
        (wrap(Odd(), episode_limit=3, success=there), 3),
    ):
        env.reset()
        for step in range(length):
            _, _, terminated, truncated, _ = env.step(acts(KEEP))
            assert truncated[0] == (step == length - 1)
            assert not terminated[0]


def test_success():
    def won(**options):
        env = wrap(Odd(info=options.pop("info", None)), episode_limit=9, **options)
        env.reset()
        return [bool(env.step(acts(UP))[-1]["success"][0]) for _ in range(3)]

    assert won(info={"success": False}) == [False] * 3
    assert won(info={"battle_won": True}) == [True] * 3
    assert won(success=there) == [False, False, True]
    assert won(success=lambda state, rewards, infos: state[3] >= 2) == [False, True, True]


def test_rewards_on_the_way_are_no_success():
    env = wrap(Odd(), episode_limit=9)  # the first agent is always paid
    env.reset()
    with pytest.raises(ConfigError, match=r"does not terminate its episode.*give success="):
        env.step(acts(UP))


def test_sum_of_rewards_and_a_state_of_ones_own():
    env = wrap(
        Odd(info={"success": False}),
        episode_limit=9,
        team_reward="sum",
        state=lambda odd: [[odd.count, odd.t]],
    )
    state, _ = env.reset()
    assert state.shape == (1, 2)
    state, reward, *_ = env.step(acts(UP))
    np.testing.assert_array_equal(state, [[1, 1]])
    assert reward[0] == 0.5


def test_seeds_and_closing():
    copies = [Odd(), Odd()]
    env = wrap(copies, episode_limit=9)
    env.reset(seed=3)
    env.reset()
    env.reset(seed=3, envs=[1])
    first, second = (copy.seeds for copy in copies)
    assert first[0] is None  # looked at once, to learn its sizes
    assert first[1] != second[0]
    assert second == [second[0], None, second[0]]
    env.close()
    assert all(copy.closed for copy in copies)


def test_what_the_spaces_tell():
    env = wrap(Odd(), episode_limit=9, success=there, description="Count to three.")
    task = env.task_spec
    assert (task.name, task.description, task.episode_limit) == ("Odd", "Count to three.", 9)
    assert [entry.name for entry in task.state] == [
        *(f"a observation {i}" for i in range(3)),
        "b observation 0",
    ]
    assert task.integers.tolist() == [True, True, True, False]  # one of three bits; a real number
    assert (task.lows.tolist(), task.highs.tolist()) == ([0] * 4, [1, 1, 1, 3])
    assert (task.n_agents, task.actions) == (2, ("action 0", "action 1", "action 2"))
    assert create("rnd", env).novelty(env.reset()[0]).shape == (1,)
    untold = wrap(Odd(), episode_limit=9, success=there).task_spec
    assert replace(task, description="") == untold


def test_what_the_spaces_do_not_tell():
    endless = Odd(masked=False)
    endless.observation_space = lambda agent: spaces.Box(0, np.inf, (1, 1))
    endless.see = lambda agents: {agent: np.zeros((1, 1), np.float32) for agent in agents}
    own = {"state": lambda odd: [odd.count]}  # of what range, nobody knows
    for env, options in ((endless, {}), (Odd(), own)):
        assert wrap(env, episode_limit=9, **options).task_spec is None
        with pytest.raises(TaskError, match=r"no bounds that the spaces tell.*give task_spec="):
            wrap(env, episode_limit=9, description="Count.", **options)
    with pytest.raises(ConfigError, match="the latter has its own"):
        wrap(Odd(), episode_limit=9, description="Count.", task_spec=make("pass").task_spec)


def test_a_state_space_tells_of_the_state():
    class Counted(Odd):
        state_space = spaces.Box(0, 9, (1, 2), np.int64)

        def state(self):
            return np.array([[self.count, self.t]])

    task = wrap(Counted(), episode_limit=9, success=there).task_spec
    assert [(entry.name, entry.high, entry.integer) for entry in task.state] == [
        ("state 0", 9, True),
        ("state 1", 9, True),
    ]


def test_with_the_collector():
    class Up:
        def reseed(self, seed):
            pass

        def act(self, states, observations, available, greedy=False):
            return acts(UP, len(states)), np.zeros((len(states), 2), np.float32)

    env = wrap([Odd(), Odd()], episode_limit=9, success=there)
    episodes = Collector(env).collect(Up(), seed=0)
    assert episodes.success.all()
    assert episodes.lengths.tolist() == [3, 3]
    assert episodes.terminated.all()
    assert episodes.available.shape == (4, 2, 2, 3)


def test_mpe():
    simple_spread = pytest.importorskip("mpe2.simple_spread_v3")
    copies = [simple_spread.parallel_env(max_cycles=25) for _ in range(2)]
    env = wrap(copies, success=lambda state, rewards, infos: False)
    assert env.episode_limit == 25
    state, _ = env.reset(seed=0)
    assert state.shape == (2, 54)
    again, _ = env.reset(seed=0)
    np.testing.assert_array_equal(state, again)
    np.testing.assert_allclose(state.reshape(2, 3, 18), env.observations(again))
    for step in range(25):
        _, reward, terminated, truncated, _ = env.step(np.full((2, 3), step % 5))
        assert not terminated.any()
    assert truncated.all()
    assert (reward < 0).all()


def test_errors():
    with pytest.raises(ConfigError, match="copies is empty"):
        wrap([])
    with pytest.raises(ConfigError, match="episode_limit="):
        wrap(Odd())
    with pytest.raises(ConfigError, match="team_reward is 'max'"):
        wrap(Odd(), episode_limit=9, team_reward="max")
    continuous = Odd()
    continuous.action_space = lambda agent: spaces.Box(0, 1, (2,))
    with pytest.raises(ConfigError, match="the actions of a are"):
        wrap(continuous, episode_limit=9)
    spec = replace(make("pass").task_spec, n_agents=3)
    with pytest.raises(TaskError, match="describe what it has"):
        wrap(Odd(), episode_limit=9, task_spec=spec)
