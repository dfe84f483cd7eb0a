"""Whole episodes: what is written down, who is told, and what is dropped."""

import runpy
from pathlib import Path

import numpy as np
import pytest
from gymnasium.vector import AutoresetMode

from lemae.algos.evaluation import evaluate, validate
from lemae.algos.rollout import Collector, Episodes, FixedEpsilon
from lemae.envs import make
from lemae.errors import ConfigError, ShapeError, TaskError
from lemae.explore import KsmtExplorer, RandomActions
from lemae.ksmt import KSMT
from lemae.labels import Labeler, label

TESTS = Path(__file__).parent
Line = runpy.run_path(str(TESTS / "line_task.py"))["Line"]


class Walker:
    """Goes right with a probability of its own per agent, and remembers what it was shown."""

    def __init__(self, right=(1.0, 1.0)):
        self.right, self.seeds, self.seen = np.array(right), [], []

    def reseed(self, seed):
        self.seeds.append(seed)
        self._random = np.random.default_rng(seed)

    def act(self, states, observations, available, greedy=False):
        self.seen.append((states.copy(), observations, available, greedy))
        right = self._random.random((len(states), len(self.right))) < self.right
        actions = np.where(right, 1, 2)
        return actions, np.log(np.where(right, 0.5, 0.25)).astype(np.float32)


class Script(Walker):
    """Plays given actions ``[T, N, n]``."""

    def __init__(self, actions):
        super().__init__()
        self.actions = np.asarray(actions)

    def act(self, states, observations, available, greedy=False):
        self.seen.append((states.copy(), observations, available, greedy))
        chosen = self.actions[len(self.seen) - 1]
        return chosen, np.zeros(chosen.shape, np.float32)


class Halfway:
    """Two key states of the line: agent 0, and both, past the middle."""

    names = ("first", "both")

    def __len__(self):
        return 2

    def evaluate(self, states):
        past = np.asarray(states) >= 3
        return np.stack([past[..., 0], past.all(-1)], -1)


@pytest.mark.parametrize("mode", ["autoreset", "metadata"])
def test_an_environment_that_resets_itself(mode):
    env = Line(2)
    if mode == "autoreset":
        env.autoreset = True
    else:
        env.metadata = {"autoreset_mode": AutoresetMode.NEXT_STEP}
    with pytest.raises(ConfigError, match="make it with autoreset=False"):
        Collector(env)
    with pytest.raises(ConfigError, match="resets copies by itself"):
        Collector(make("pass", autoreset=True))


class Paid(Line):
    """A line on which a step at a given time pays a little."""

    def __init__(self, at, says_success=False):
        super().__init__(2, size=3, limit=4)
        self.at, self.says_success = at, says_success

    def step(self, actions):
        state, reward, terminated, truncated, info = super().step(actions)
        if self.says_success:
            info = {"success": reward > 0}
        return state, reward + 0.1 * (self.t == self.at), terminated, truncated, info


@pytest.mark.parametrize("at", [1, 4])
def test_a_reward_on_the_way_or_at_a_truncation_is_no_success(at):
    with pytest.raises(ConfigError, match='put "success" into info'):
        Collector(Paid(at)).collect(Walker((0, 0)), seed=0)
    assert not Collector(Paid(at, True)).collect(Walker((0, 0)), seed=0).success.any()
    assert Collector(Paid(1, True)).collect(Walker(), seed=0).success.all()


def test_an_episode_is_written_down_as_it_was_played():
    env = Line(2, size=3, limit=5)
    # Copy 0 succeeds after two steps; copy 1 walks back and forth up to the limit.
    actions = np.array(
        [[[1, 1], [1, 2]], [[1, 1], [0, 2]], [[0, 0], [1, 1]]] + [[[0, 0], [2, 2]]] * 2
    )
    episodes = Collector(env).collect(Script(actions), seed=7)
    assert episodes.lengths.tolist() == [2, 5]
    assert episodes.success.tolist() == episodes.terminated.tolist() == [True, False]
    assert episodes.states[:3, 0].tolist() == [[0, 0], [1, 1], [2, 2]]
    assert episodes.states[:, 1].tolist() == [[0, 0], [1, 0], [0, 0], [1, 1], [1, 1], [1, 1]]
    assert np.array_equal(episodes.actions, actions)
    assert episodes.rewards[:, 0].tolist() == [0, 1, 0, 0, 0]
    assert not episodes.rewards[:, 1].any()
    assert episodes.valid.sum(0).tolist() == [2, 5]
    assert episodes.steps == 7
    assert len(episodes) == 2
    assert env.resets == [7]
    assert not episodes.random.any()
    assert not episodes.epsilon.any()
    assert episodes.chains == [(), ()]


def test_arrays_end_with_the_longest_episode():
    episodes = Collector(Line(4, size=4, limit=50)).collect(Walker(), seed=0)
    assert episodes.actions.shape == (3, 4, 2)
    assert episodes.states.shape == (4, 4, 2)
    assert episodes.rewards.dtype == np.float64
    assert episodes.states.dtype == np.float32
    assert episodes.log_probs.dtype == np.float32


def test_what_is_paid_after_the_end_of_an_episode_does_not_count():
    class Generous(Line):
        def step(self, actions):
            states, reward, *rest = super().step(actions)
            return states, reward + self.ended, *rest

    episodes = Collector(Generous(8, size=3, limit=20)).collect(Walker((0.5, 0.5)), seed=0)
    assert episodes.lengths.min() < episodes.lengths.max()
    assert not episodes.rewards[~episodes.valid].any()


def test_a_terminated_episode_need_not_be_a_success():
    episodes = Collector(Line(2, terminates_at=3)).collect(Walker((0.0, 0.0)), seed=0)
    assert episodes.terminated.all()
    assert not episodes.success.any()


def test_steps_to_the_first_success_count_every_copy_until_then():
    base = Collector(Line(3)).collect(Walker(), seed=0)
    lengths, success = np.array([4, 9, 6]), np.array([False, True, True])
    episodes = Episodes(**{**vars(base), "lengths": lengths, "success": success})
    assert episodes.steps_to_success() == 4 + 6 + 6
    none = Episodes(**{**vars(base), "success": np.zeros(3, bool)})
    assert none.steps_to_success() is None


def test_chains_are_those_that_labelling_afterwards_gives():
    collector = Collector(Line(5, limit=9), Labeler(Halfway(), 5))
    for seed in range(3):
        episodes = collector.collect(Walker((0.7, 0.5)), seed=seed)
        assert episodes.chains == label(Halfway(), episodes.states, episodes.lengths)
    assert any(len(chain) == 2 for chain in episodes.chains)
    assert collector.labeling_s > 0


def test_key_states_behind_the_end_of_an_episode_do_not_count():
    class Drifting(Line):
        """Copy 0 is over after two steps, and shows both agents past the middle from then on."""

        def step(self, actions):
            was_over = self.ended.copy()
            states, reward, terminated, truncated, info = super().step(actions)
            terminated[0] |= self.t[0] == 2
            self.ended[0] |= terminated[0]
            states[was_over] = 5
            return states, reward, terminated, truncated, info

    collector = Collector(Drifting(2, limit=10), Labeler(Halfway(), 2))
    episodes = collector.collect(Walker(), seed=0)
    assert episodes.lengths.tolist() == [2, 5]
    assert episodes.chains == [(), ((3, 0), (3, 1))]


def test_an_explorer_is_told_of_key_states_and_of_success():
    heard = []

    class Listener(FixedEpsilon):
        def reset(self):
            heard.append("reset")

        def advance(self, events):
            heard.append(events.tolist())

        def success(self):
            heard.append("success")

    env = Line(2, size=6, limit=20)
    Collector(env, Labeler(Halfway(), 2)).collect(Walker(), seed=0, explorer=Listener(2, 0.0))
    assert heard == ["reset", [[0, 0], [0, 1], [1, 0], [1, 1]], "success"]


def test_random_actions_are_marked_and_epsilon_is_kept():
    env = Line(8, limit=12)
    explorer = FixedEpsilon(8, 0.5)
    mixer = RandomActions(8, 2, 3, seed=1)
    walker = Walker()
    episodes = Collector(env).collect(walker, seed=0, explorer=explorer, mixer=mixer)
    assert (episodes.epsilon == 0.5).all()
    share = episodes.random[episodes.valid].mean()
    assert 0.35 < share < 0.65
    # The walker always goes right: whatever else was done was drawn at random.
    assert episodes.random[episodes.valid][episodes.actions[episodes.valid] != 1].all()


def test_no_more_random_actions_after_the_first_success():
    env = Line(6, size=4, limit=60)
    explorer = FixedEpsilon(6, 1.0, after_success=0.0)
    mixer = RandomActions(6, 2, 3, seed=3)
    episodes = Collector(env).collect(Walker(), seed=0, explorer=explorer, mixer=mixer)
    first = int(episodes.lengths[episodes.success].min())
    assert first < int(episodes.lengths.max())
    assert (episodes.epsilon[:first] == 1).all()
    assert not episodes.epsilon[first:].any()
    assert not episodes.random[first:].any()
    assert episodes.success.all()  # the walker finds home by itself


def test_the_memory_says_where_actions_are_random():
    memory = KSMT(2)
    memory.insert((0,), success=False)
    # Low at the root, which has a child; high from the first key state on.
    explorer = KsmtExplorer(memory, 4, eps_low=0.0, eps_high=1.0, rule="leaf", seed=0)
    mixer = RandomActions(4, 2, 3, seed=0)
    collector = Collector(Line(4, limit=15), Labeler(Halfway(), 4))
    episodes = collector.collect(Walker((1.0, 0.0)), seed=0, explorer=explorer, mixer=mixer)
    assert not episodes.success.any()
    for copy, chain in enumerate(episodes.chains):
        assert chain[0] == (3, 0)
        assert not episodes.epsilon[:3, copy].any()
        assert (episodes.epsilon[3:, copy] == 1).all()


def test_broken_off_episodes_are_dropped_and_counted():
    env = Line(4, aborts=(1, 3))
    collector = Collector(env, Labeler(Halfway(), 4))
    episodes = collector.collect(Walker((1.0, 0.9)), seed=0)
    assert len(episodes) == 2
    assert len(episodes.chains) == 2
    assert (episodes.lengths > 2).all()
    assert collector.aborted == 2
    collector.collect(Walker(), seed=1)
    assert collector.aborted == 4


def test_an_episode_that_only_says_it_broke_off_is_over():
    class Silent(Line):
        def step(self, actions):
            states, reward, terminated, truncated, info = super().step(actions)
            return states, reward, terminated, truncated & ~info["aborted"], info

    episodes = Collector(Silent(3, aborts=(1,)), Labeler(Halfway(), 3)).collect(Walker(), seed=0)
    assert len(episodes) == 2
    assert episodes.lengths.tolist() == [5, 5]


def test_a_success_in_a_broken_off_episode_is_none():
    heard = []

    class Listener(FixedEpsilon):
        def success(self):
            heard.append("success")

    env = Line(2, size=3, aborts=(0, 1))  # both would be home at their second step
    episodes = Collector(env).collect(Walker(), seed=0, explorer=Listener(2, 0.0))
    assert len(episodes) == 0
    assert episodes.steps == 0
    assert heard == []


def test_agents_are_shown_what_they_can_see_and_do():
    env = Line(3, observed=True, restricted=True, limit=4)
    walker = Walker((1.0, 0.0))
    episodes = Collector(env).collect(walker, seed=0)
    assert episodes.observations.shape == (5, 3, 2, 1)
    assert np.allclose(episodes.observations[..., 0] * 5, episodes.states)
    assert episodes.available.shape == (5, 3, 2, 3)
    assert not episodes.available[0, ..., 0].any()
    assert episodes.available[1:, :, 0, 0].all()
    for step, (states, observations, available, _) in enumerate(walker.seen):
        assert np.array_equal(states, episodes.states[step])
        assert np.array_equal(observations, episodes.observations[step])
        assert np.array_equal(available, episodes.available[step])


def test_random_actions_are_among_the_available_ones():
    env = Line(8, restricted=True, limit=30)
    mixer = RandomActions(8, 2, 3, sticky=4, seed=0)
    episodes = Collector(env).collect(
        Walker((0.0, 0.0)), seed=0, explorer=FixedEpsilon(8, 1.0), mixer=mixer
    )
    chosen = np.take_along_axis(episodes.available[:-1], episodes.actions[..., None], -1)
    assert chosen[episodes.valid].all()


def test_the_same_seed_gives_the_same_episodes():
    def play(seed):
        env = make("river", 4, episode_limit=30)
        mixer = RandomActions(4, 2, 4, seed=5)
        walker = Walker((0.5, 0.5))
        return Collector(env).collect(walker, seed=seed, explorer=FixedEpsilon(4, 0.5), mixer=mixer)

    one, again, other = play(3), play(3), play(4)
    assert all(np.array_equal(vars(one)[name], vars(again)[name]) for name in ("states", "actions"))
    assert not np.array_equal(one.states[0], other.states[0])


def test_select_and_concatenate_are_each_others_reverse():
    collector = Collector(Line(4, observed=True, restricted=True), Labeler(Halfway(), 4))
    short = collector.collect(Walker((1.0, 1.0)), seed=0)
    long = collector.collect(Walker((0.4, 0.4)), seed=1)
    both = Episodes.concatenate([short, long])
    assert len(both) == 8
    assert both.steps == short.steps + long.steps
    for original, rows in ((short, np.arange(4)), (long, np.arange(8) >= 4)):
        found = both.select(rows)
        for name, value in vars(original).items():
            assert np.array_equal(vars(found)[name], value) if name != "chains" else True
        assert found.chains == original.chains
    some = both.select(np.array([6, 1]))
    assert some.lengths.tolist() == both.lengths[[6, 1]].tolist()
    assert len(some.actions) == some.lengths.max()
    some.states[:] = -1
    assert (both.states >= 0).all()  # a copy
    with pytest.raises(ShapeError, match="at least one part"):
        Episodes.concatenate([])


def test_evaluation_plays_the_same_episodes_for_everybody():
    walker = Walker((0.8, 0.8))
    env = Line(10, limit=9)
    rates = evaluate(env, walker, 25)
    assert rates.sampled == rates.greedy
    assert 0 < rates.sampled < 1
    assert rates == evaluate(env, Walker((0.8, 0.8)), 25)
    assert len(walker.seeds) == 6  # three parts of ten, sampled and greedy
    assert walker.seeds[:3] == walker.seeds[3:]
    assert len(set(walker.seeds)) == 3
    greedy = [one[-1] for one in walker.seen]
    assert greedy == [False] * (len(greedy) // 2) + [True] * (len(greedy) // 2)
    assert evaluate(env, Walker(), 10) == (1.0, 1.0)


def test_the_end_of_a_run_is_decided_in_other_episodes_than_those_reported():
    reported, deciding = Walker((0.8, 0.8)), Walker((0.8, 0.8))
    env = Line(10, limit=9)
    evaluate(env, reported, 20)
    assert 0 < validate(env, deciding, 20) <= 1
    assert len(deciding.seeds) == 2
    assert not set(deciding.seeds) & set(reported.seeds)


def test_evaluation_leaves_broken_off_episodes_out():
    walker = Walker((0.0, 0.0))
    assert evaluate(Line(4, aborts=(0, 1)), walker, 4) == (0.0, 0.0)
    with pytest.raises(TaskError, match="every episode of the evaluation was aborted"):
        evaluate(Line(2, aborts=(0, 1)), walker, 2)
    with pytest.raises(ConfigError, match="episodes is 0"):
        evaluate(Line(2), walker, 0)


def test_environments_that_do_not_keep_their_word_are_named():
    env = Line(2)
    env.d = 3
    with pytest.raises(ShapeError, match=r"states have shape \(2, 2\), it says \(2, 3\)"):
        Collector(env).collect(Walker(), seed=0)
    env = Line(2, limit=5)
    env.step = lambda actions, step=env.step: (*step(actions)[:3], np.zeros(2, bool), {})
    with pytest.raises(TaskError, match="2 episodes went on after episode_limit=5 steps"):
        Collector(env).collect(Walker((0.0, 0.0)), seed=0)


def test_bad_arguments_are_named():
    with pytest.raises(ConfigError, match="mixer of random actions needs an explorer"):
        Collector(Line(2)).collect(Walker(), seed=0, mixer=RandomActions(2, 2, 3))
    with pytest.raises(ConfigError, match=r"epsilon is 1\.5"):
        FixedEpsilon(2, 1.5)
    with pytest.raises(ConfigError, match="after_success is -1"):
        FixedEpsilon(2, 0.5, after_success=-1)


def test_whole_numbers_at_reset_do_not_cut_later_ones():
    env = Line(2)
    reset, step = env.reset, env.step
    env.reset = lambda **options: (reset(**options)[0].astype(int), {})
    env.step = lambda actions: ((found := step(actions))[0] + 0.5, *found[1:])
    with pytest.raises(TaskError, match=r"were int64 at reset and are float\d+ now"):
        Collector(env).collect(Walker(), seed=0)


class Broken(Line):
    """Tells what is no number at the second step of an episode, or only after its end."""

    def __init__(self, name, value, early):
        super().__init__(4, size=4, limit=20, observed=name == "observations")
        self.name, self.value, self.early = name, value, early

    def step(self, actions):
        after = self.ended.copy()
        states, rewards, terminated, truncated, _ = super().step(actions)
        self.broken = self.t == 2 if self.early else after
        if self.name == "states":
            states[self.broken] = self.value
        if self.name == "rewards":
            rewards[self.broken] = self.value
        return states, rewards, terminated, truncated, {"success": terminated}

    def _observations(self, states):
        found = super()._observations(states)
        if states.any():  # not at reset
            found[self.broken] = self.value
        return found


@pytest.mark.parametrize("name", ["states", "rewards", "observations"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_is_refused_unless_it_is_after_the_end(name, value):
    walker = Walker((0.5, 0.5))
    with pytest.raises(TaskError, match=rf"environment's {name} hold {value}, at step [12] of an"):
        Collector(Broken(name, value, early=True)).collect(walker, seed=0)
    episodes = Collector(Broken(name, value, early=False)).collect(walker, seed=0)
    assert episodes.lengths.min() < episodes.lengths.max()
    assert np.isfinite(episodes.rewards).all()
