"""The wrappers that withhold rewards: closed forms, every autoreset mode, and the checkers."""

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env as gymnasium_check
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from lare.envs import EpisodicReward, EpisodicRewardVector
from lare.errors import ConfigError


class Counting(gym.Env):
    """Pays 1, 2, 3, ... ; terminates (or, if ``cut``, truncates) after ``length`` steps."""

    observation_space = gym.spaces.Box(-1, 1000, (1,))
    action_space = gym.spaces.Discrete(2)

    def __init__(self, length=3, cut=False, scale=1.0):
        self.length, self.cut, self.scale = length, cut, scale
        self.count = None

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.count = 0
        return np.zeros(1, np.float32), {"kind": "reset"}

    def step(self, action):
        assert self.count < self.length, "stepped after the end"
        self.count += 1
        done = self.count == self.length
        observation = np.full(1, self.count, np.float32)
        reward = self.scale * self.count
        return observation, reward, done and not self.cut, done and self.cut, {"kind": "step"}


@pytest.mark.parametrize("cut", [False, True])
def test_sum_comes_at_the_end_and_includes_the_last_reward(cut):
    env = EpisodicReward(Counting(3, cut))
    for _ in range(2):
        env.reset()
        steps = [env.step(0) for _ in range(3)]
        assert [step[1] for step in steps] == [0.0, 0.0, 6.0]
        assert [step[4]["lare/true_reward"] for step in steps] == [1.0, 2.0, 3.0]
        assert [step[4]["kind"] for step in steps] == ["step"] * 3
        assert (steps[-1][2], steps[-1][3]) == (not cut, cut)


def test_an_episode_left_by_reset_leaks_nothing():
    env = EpisodicReward(Counting(3))
    env.reset()
    env.step(0), env.step(0)
    env.reset()
    assert [env.step(0)[1] for _ in range(3)] == [0.0, 0.0, 6.0]


def test_half_cheetah_cut_to_fewer_steps(tmp_path, monkeypatch):
    pytest.importorskip("mujoco")
    monkeypatch.chdir(tmp_path)  # MuJoCo writes its log into the working folder
    plain = gym.make("HalfCheetah-v5", max_episode_steps=20)
    env = EpisodicReward(gym.make("HalfCheetah-v5", max_episode_steps=20))
    plain.reset(seed=0), env.reset(seed=0)
    actions = np.random.default_rng(0).uniform(-1, 1, (20, 6))
    total = sum(float(plain.step(action)[1]) for action in actions)
    paid = [env.step(action)[1] for action in actions]
    assert paid[:-1] == [0.0] * 19
    assert paid[-1] == pytest.approx(total, rel=1e-12)


def test_wrapped_twice_is_refused():
    env = EpisodicReward(EpisodicReward(Counting()))
    env.reset()
    with pytest.raises(ConfigError, match="hides its rewards already: wrap it once"):
        env.step(0)


@pytest.mark.parametrize("mode", list(AutoresetMode))
def test_vector_of_wrapped_environments_is_refused(mode):
    envs = SyncVectorEnv([lambda: EpisodicReward(Counting(1))] * 2, autoreset_mode=mode)
    envs = EpisodicRewardVector(envs)
    envs.reset()
    with pytest.raises(ConfigError, match="wrap it once"):
        envs.step(np.zeros(2, int))


# The checker warns of every wrapper, whatever it does.
@pytest.mark.filterwarnings("ignore:.*different from the unwrapped version")
def test_gymnasium_checker_accepts_the_wrapper():
    gymnasium_check(EpisodicReward(gym.make("MountainCarContinuous-v0")), skip_render_check=True)


def test_sb3_checker_accepts_the_wrapper():
    checker = pytest.importorskip("stable_baselines3.common.env_checker")
    checker.check_env(EpisodicReward(gym.make("MountainCarContinuous-v0")))


def test_spec_rebuilds_the_wrapper():
    env = EpisodicReward(gym.make("Pendulum-v1", max_episode_steps=2))
    again = gym.make(env.spec)
    assert isinstance(again, EpisodicReward)
    again.reset(seed=0)
    assert again.step(np.zeros(1, np.float32))[1] == 0.0


# --- vectors: copies of 2 and 3 steps, paying 1, 2, 3 and 10, 20, 30 -----------------------------


def make_vector(mode):
    makers = [lambda: Counting(2), lambda: Counting(3, cut=True, scale=10.0)]
    return EpisodicRewardVector(SyncVectorEnv(makers, autoreset_mode=mode))


def play(envs, steps):
    rows = [envs.step(np.zeros(2, int)) for _ in range(steps)]
    paid = np.array([row[1] for row in rows]).T.tolist()
    true = np.array([row[4]["lare/true_reward"] for row in rows]).T.tolist()
    real = np.array([row[4]["lare/real_step"] for row in rows]).T.astype(int).tolist()
    return paid, true, real


def test_next_step_mode_skips_the_dummy_step():
    envs = make_vector(AutoresetMode.NEXT_STEP)
    envs.reset(seed=0)
    paid, true, real = play(envs, 8)
    assert real == [[1, 1, 0, 1, 1, 0, 1, 1], [1, 1, 1, 0, 1, 1, 1, 0]]
    assert paid == [[0, 3, 0, 0, 3, 0, 0, 3], [0, 0, 60, 0, 0, 0, 60, 0]]
    assert true == [[1, 2, 0, 1, 2, 0, 1, 2], [10, 20, 30, 0, 10, 20, 30, 0]]


class PayingDummy(gym.vector.VectorWrapper):
    """A vector environment that reports a stray reward in its dummy steps."""

    def step(self, actions):
        observations, rewards, terminated, truncated, infos = self.env.step(actions)
        return observations, np.where(rewards == 0, 99.0, rewards), terminated, truncated, infos


def test_a_reward_of_the_dummy_step_enters_no_episode():
    makers = [lambda: Counting(2), lambda: Counting(3)]
    envs = EpisodicRewardVector(PayingDummy(SyncVectorEnv(makers)))
    envs.reset()
    paid, true, _ = play(envs, 5)
    assert paid == [[0, 3, 0, 0, 3], [0, 0, 6, 0, 0]]
    assert true == [[1, 2, 0, 1, 2], [1, 2, 3, 0, 1]]


def test_same_step_mode_has_only_real_steps():
    envs = make_vector(AutoresetMode.SAME_STEP)
    envs.reset(seed=0)
    paid, true, real = play(envs, 6)
    assert real == [[1] * 6] * 2
    assert paid == [[0, 3, 0, 3, 0, 3], [0, 0, 60, 0, 0, 60]]
    assert true == [[1, 2, 1, 2, 1, 2], [10, 20, 30, 10, 20, 30]]


def test_disabled_mode_starts_only_the_masked_copies_anew():
    envs = make_vector(AutoresetMode.DISABLED)
    envs.reset(seed=0)
    assert play(envs, 2)[0] == [[0, 3], [0, 0]]
    options = {"reset_mask": np.array([True, False])}
    envs.reset(options=options)
    assert play(envs, 1)[0] == [[0], [60]]
    envs.reset(options={"reset_mask": np.array([False, True])})
    assert play(envs, 1)[0] == [[3], [0]]


def test_disabled_mode_refuses_to_step_an_ended_copy():
    envs = make_vector(AutoresetMode.DISABLED)
    envs.reset(seed=0)
    play(envs, 2)
    with pytest.raises(ConfigError, match=r"copies \[0\] have ended: reset them"):
        play(envs, 1)


@pytest.mark.parametrize("mode", list(AutoresetMode))
def test_a_full_reset_forgets_begun_episodes(mode):
    envs = make_vector(mode)
    envs.reset(seed=0)
    play(envs, 1)
    envs.reset(seed=0)
    assert play(envs, 2)[0] == [[0, 3], [0, 0]]
    envs.reset(seed=0)  # also right after an end, where next-step mode expects a dummy step
    paid, _, real = play(envs, 2)
    assert (paid, real) == ([[0, 3], [0, 0]], [[1, 1], [1, 1]])


@pytest.mark.parametrize("mode", list(AutoresetMode))
def test_paid_and_true_rewards_add_up_on_random_lengths(mode):
    """Over many episodes of all lengths, what is paid is what the finished episodes earned."""
    lengths = [1, 2, 5, 7]
    makers = [lambda n=n: Counting(n) for n in lengths]
    envs = EpisodicRewardVector(SyncVectorEnv(makers, autoreset_mode=mode))
    envs.reset(seed=0)
    paid, ends = np.zeros(4), np.zeros(4)
    for _ in range(60):
        _, rewards, terminated, truncated, infos = envs.step(np.zeros(4, int))
        done = terminated | truncated
        paid, ends = paid + rewards, ends + done
        assert not rewards[~done].any()
        np.testing.assert_array_equal(infos["_lare/true_reward"], infos["lare/real_step"])
        if mode is AutoresetMode.DISABLED and done.any():
            envs.reset(options={"reset_mask": done})
    np.testing.assert_array_equal(paid, ends * [n * (n + 1) / 2 for n in lengths])
    steps = 60 / (np.array(lengths) + (mode is AutoresetMode.NEXT_STEP))
    np.testing.assert_array_equal(ends, np.floor(steps + (mode is AutoresetMode.NEXT_STEP) / 8))


def test_wrong_vector_environments():
    with pytest.raises(ConfigError, match="env is a Counting: give a gymnasium"):
        EpisodicRewardVector(Counting())
    envs = SyncVectorEnv([Counting])
    with pytest.raises(ConfigError, match="autoreset mode is 'now': pass autoreset_mode, one of"):
        EpisodicRewardVector(envs, autoreset_mode="now")
    envs.metadata = {}
    with pytest.raises(ConfigError, match="autoreset mode is None"):
        EpisodicRewardVector(envs)
    EpisodicRewardVector(envs, autoreset_mode=AutoresetMode.NEXT_STEP)
