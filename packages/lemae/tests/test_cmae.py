"""CMAE: its counters, its goals, its tables, and what they solve."""

import copy
import itertools
import math
import re

import numpy as np
import pytest

from lemae import envs
from lemae.algos.evaluation import evaluate
from lemae.algos.rollout import Collector, Episodes
from lemae.baselines import CMAE, CMAESettings
from lemae.errors import ConfigError, ShapeError

N_VALUES = (4, 3)
ACTIONS = 3


def episodes_of(states, actions, rewards, *, terminated):
    """One episode, ``states [T + 1, d]``, ``actions [T, n]``."""
    steps = len(actions)
    actions = np.array(actions)[:, None]
    return Episodes(
        states=np.float32(states)[:, None],
        actions=actions,
        rewards=np.float64(rewards)[:, None],
        log_probs=np.zeros(actions.shape, np.float32),
        random=np.zeros(actions.shape, bool),
        epsilon=np.zeros((steps, 1), np.float32),
        lengths=np.array([steps]),
        success=np.array([sum(rewards) > 0]),
        terminated=np.array([terminated]),
        chains=[()],
    )


def wandering(seed, count=4, limit=12):
    """Episodes at random, of different lengths; what stands behind their ends is no state."""
    rng = np.random.default_rng(seed)
    parts = []
    for _ in range(count):
        steps = int(rng.integers(3, limit + 1))
        states = rng.integers(N_VALUES, size=(steps + 1, 2))
        parts.append(
            episodes_of(
                states, rng.integers(ACTIONS, size=(steps, 2)), [0.0] * steps, terminated=False
            )
        )
    joined = Episodes.concatenate(parts)
    joined.states[np.arange(len(joined.states))[:, None] > joined.lengths] = 1e6
    return joined


def made(seed=0, **settings):
    return CMAE(2, ACTIONS, N_VALUES, 12, settings=CMAESettings(**settings), seed=seed)


def state_index(state):
    return int(state[0]) * N_VALUES[1] + int(state[1])


def test_counters_are_those_of_a_slow_count():
    learner = made(select_every=2)
    seen = []
    for seed in range(4):
        episodes = wandering(seed)
        learner.update(episodes, episodes.rewards)
        for b, t in itertools.product(range(4), range(12)):
            if t < episodes.lengths[b]:
                seen.append((*map(int, episodes.states[t, b]), *map(int, episodes.actions[t, b])))
    counts = {tuple(part): table for part, table in learner.state_dict()["counts"]}
    assert set(counts) == {(0,), (1,), (0, 1)}
    for part, table in counts.items():
        wanted = np.zeros_like(table)
        for *state, one, other in seen:
            cell = 0
            for index in part:
                cell = cell * N_VALUES[index] + state[index]
            wanted[cell, ACTIONS * one + other] += 1
        assert np.array_equal(table, wanted)


def test_larger_parts_are_left_out():
    learner = made(select_every=1, largest_part=4 * ACTIONS**2)
    for seed in range(4):
        episodes = wandering(seed)
        learner.update(episodes, episodes.rewards)
    assert {tuple(part) for part, _ in learner.state_dict()["counts"]} == {(0,), (1,)}


def test_the_part_with_the_least_even_visits_is_chosen_nearly_always():
    """Index 0 never changes, index 1 takes all values equally often."""
    rng = np.random.default_rng(0)
    states = np.stack([np.zeros(13), np.arange(13) % 3], axis=1)
    chosen = []
    for seed in range(20):
        learner = made(seed)
        for _ in range(3):
            episodes = episodes_of(
                states, rng.integers(ACTIONS, size=(12, 2)), [0] * 12, terminated=False
            )
            learner.update(episodes, episodes.rewards)
        chosen.append(learner.part)
    assert chosen == [(0,)] * 20


def test_a_goal_is_a_rare_step_and_is_reached_by_repeating_the_way_to_it():
    """In a corridor walked to and fro near its start, the far end was visited once."""
    places = [0, 1, 2, 3, 2, 1, 0, 1, 0, 1, 0, 1, 0]
    actions = [2, 2, 2, 0, 0, 0, 2, 0, 2, 0, 2, 0]  # 2 goes right, 0 goes left
    states = np.stack([places, np.zeros(13)], axis=1)
    goals = set()
    for seed in range(20):
        learner = made(seed, sharpness=1e6, planned_episodes=10**9)
        episodes = episodes_of(states, np.stack([actions] * 2, axis=1), [0] * 12, terminated=False)
        learner.update(episodes, episodes.rewards)
        goal = next(iter(learner._ways[0]))  # written from the goal back
        far = learner._row_codes[goal] // N_VALUES[1]
        place, walked = 0, []
        while place != far:
            walked.append(place)
            chosen, log_probs = learner.act(np.float32([[place, 0]]), None, None)
            assert chosen[0, 0] == chosen[0, 1]
            assert (log_probs == 0).all()
            place += {2: 1, 0: -1}[int(chosen[0, 0])]
            assert len(walked) < 20
        assert walked == list(range(int(far)))
        # There they do what was never done there: few of the nine joint actions were.
        joint, _ = learner.act(np.float32([[far, 0]]), None, None)
        done = {(a, a) for p, a in zip(places, actions, strict=False) if p == far}
        assert tuple(joint[0].tolist()) not in done
        goals.add(int(far))
    assert len(goals) > 1


def test_ways_have_the_values_of_tables_updated_backwards():
    learner = made(explore_rate=0.2, gamma=0.9)
    places = [0, 1, 0, 1, 2]
    actions = [[2, 1], [0, 2], [2, 2], [2, 2]]
    states = np.stack([places, np.zeros(5)], axis=1)
    learner.update(episodes_of(states, actions, [0] * 4, terminated=False), np.zeros((4, 1)))
    way = learner._way(0, 4, 5)
    table = np.zeros((4, 2, ACTIONS))
    goal_actions = (1, 2)  # joint action 5
    for i in range(2):
        table[2, i, goal_actions[i]] += 0.2 * (1 - table[2, i, goal_actions[i]])
    for t in range(3, -1, -1):
        for i in range(2):
            best = max(table[places[t + 1], i])
            old = table[places[t], i, actions[t][i]]
            table[places[t], i, actions[t][i]] = old + 0.2 * (0.9 * best - old)
    for row, values in way.items():
        place = learner._row_codes[row] // N_VALUES[1]
        assert values == pytest.approx(table[place])


def test_values_converge_to_the_discounted_reward():
    """One way through three states; the reward is paid at its end."""
    states = [[0, 0], [1, 0], [2, 0], [3, 0]]
    actions = [[0, 1], [1, 1], [2, 0]]
    learner = made(gamma=0.5, target_rate=0.5)
    for _ in range(40):
        episodes = episodes_of(states, actions, [0, 0, 1], terminated=True)
        losses = learner.update(episodes, 4 * episodes.rewards)
    assert losses["states"] == 4
    codes, values = learner.state_dict()["codes"], learner.state_dict()["values"]
    for t, (state, taken) in enumerate(zip(states, actions, strict=False)):
        row = list(codes).index(state_index(state))
        for i in range(2):
            assert values[row, i, taken[i]] == pytest.approx(4 * 0.5 ** (2 - t))
            assert values[row, i].sum() == values[row, i, taken[i]]
    best, _ = learner.act(np.float32(states[:3]), None, None, greedy=True)
    assert np.array_equal(best, actions)


def test_a_cut_episode_is_continued_in_value_and_a_terminated_one_is_not():
    circle = [[0, 0], [1, 0], [0, 0]]
    found = []
    for terminated in (True, False):
        learner = made(gamma=0.5, target_rate=0.5)
        for _ in range(60):
            episodes = episodes_of(circle, [[0, 0], [0, 0]], [0, 1], terminated=terminated)
            learner.update(episodes, episodes.rewards)
        found.append(learner.state_dict()["values"][:, 0, 0])
    assert found[0] == pytest.approx([0.5, 1.0])
    assert found[1] == pytest.approx([0.5 / (1 - 0.25), 1 + 0.5 * 0.5 / (1 - 0.25)])


def test_acting_goes_over_from_ways_to_values():
    learner = made(planned_episodes=8)
    assert learner.mix == 0.0
    for seed in range(4):
        episodes = wandering(seed)
        learner.update(episodes, episodes.rewards)
    assert learner.mix == 1.0


def test_ties_are_broken_at_random_among_what_can_be_done():
    learner = made()
    states = np.zeros((3000, 2), np.float32)
    available = np.ones((3000, 2, ACTIONS), bool)
    available[:, 0, 1] = False
    actions, log_probs = learner.act(states, None, available)
    assert set(actions[:, 0]) == {0, 2}
    assert set(actions[:, 1]) == {0, 1, 2}
    assert abs((actions[:, 0] == 0).mean() - 0.5) < 0.05
    assert np.exp(log_probs).mean(0) == pytest.approx([1 / 2, 1 / 3], rel=1e-4)


def test_the_oldest_episodes_are_forgotten_but_not_their_values():
    learner = made(capacity=24)  # two episodes
    for seed in range(3):
        episodes = wandering(seed, count=1)
        learner.update(episodes, episodes.rewards)
    lengths = learner.state_dict()["replay"]["lengths"]
    assert lengths.tolist() == [wandering(2, 1).lengths[0], wandering(1, 1).lengths[0]]


def test_a_restored_learner_goes_on_bit_for_bit():
    def go_on(learner, seeds):
        drawn = []
        for seed in seeds:
            learner.reseed(seed)
            episodes = wandering(seed)
            drawn.append(learner.act(episodes.states[0], None, None)[0])
            learner.update(episodes, episodes.rewards + (seed % 3 == 0))
        return drawn

    whole, first, second = (made(select_every=3, planned_episodes=30) for _ in range(3))
    expected = go_on(whole, range(8))[4:]
    go_on(first, range(4))
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    assert np.array_equal(go_on(second, range(4, 8)), expected)
    one, other = whole.state_dict(), second.state_dict()
    assert one["progress"] == other["progress"]
    assert np.array_equal(one["values"], other["values"])
    assert [part for part, _ in one["counts"]] == [part for part, _ in other["counts"]]


def test_refusals():
    with pytest.raises(ConfigError, match=re.escape("n_values[1] is 0")):
        CMAE(2, 3, (4, 0), 10)
    with pytest.raises(ConfigError, match="too many for tables"):
        CMAE(2, 4, (1000,) * 7, 10)
    with pytest.raises(ConfigError, match="too many for tables"):
        CMAE(12, 10, (30, 30), 10)
    with pytest.raises(ConfigError, match="target_rate is 0"):
        CMAESettings(target_rate=0)
    for value in (0, 2.5, math.nan, math.inf):
        with pytest.raises(ConfigError, match=f"select_every is {value}: give a whole number"):
            CMAESettings(select_every=value)
    with pytest.raises(ConfigError, match="sharpness is inf"):
        CMAESettings(sharpness=math.inf)
    learner = made()
    for state in ([0.5, 0], [0, -1], [N_VALUES[0], 0]):
        with pytest.raises(ShapeError, match="a fraction, or a number outside"):
            learner.act(np.array([state]), None, None)


def test_a_small_pass_is_solved():
    env = envs.make("pass", num_envs=8, size=10, episode_limit=150)
    learner = CMAE(
        env.n_agents,
        env.n_actions,
        env.n_values,
        env.episode_limit,
        settings=CMAESettings(planned_episodes=300),
    )
    collector = Collector(env)
    for number in range(15):
        episodes = collector.collect(learner, seed=number)
        learner.update(episodes, episodes.rewards)
    played = collector.collect(learner, seed=0, greedy=True)
    assert played.success.all()
    assert math.prod(env.n_values) > len(learner.state_dict()["codes"])


def test_evaluation_does_not_explore():
    """Every copy has a way to a goal, and the values alone go right."""
    learner = made(planned_episodes=10**9)
    states = np.stack([np.arange(4), np.zeros(4)], axis=1)
    episodes = episodes_of(states, np.full((3, 2), 2), [0, 0, 1], terminated=True)
    for _ in range(20):
        learner.update(episodes, episodes.rewards)
    learner._ways = [
        {row: np.eye(ACTIONS)[[0, 0]] for row in range(len(learner._row_codes))}
    ] * Corridor.num_envs
    assert not Collector(Corridor()).collect(learner, seed=0).success.any()
    assert evaluate(Corridor(), learner, 4) == (1, 1)


class Corridor:
    """Three steps to the right, of both agents, from the left end."""

    num_envs, n_agents, n_actions, d, episode_limit = 4, 2, ACTIONS, 2, 3

    def reset(self, *, seed=None):
        self.place, self.time = np.zeros(self.num_envs, np.int64), 0
        return self.state(), {}

    def state(self):
        return np.stack([self.place, np.zeros_like(self.place)], axis=1).astype(np.float32)

    def step(self, actions):
        self.time += 1
        self.place = np.clip(self.place + (actions == 2).all(1), 0, 3)
        over = self.place == 3
        cut = ~over & (self.time == self.episode_limit)
        return self.state(), over.astype(float), over, cut, {}
