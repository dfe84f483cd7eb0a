"""With the real library: rewards of samples, rings, normalization, saving, PPO."""

import gymnasium
import numpy as np
import pytest
import torch

sb3 = pytest.importorskip("stable_baselines3")

from stable_baselines3.common.monitor import Monitor  # noqa: E402  after the skip
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize  # noqa: E402

from lare import LatentReward, Relabeler  # noqa: E402
from lare.envs import EpisodicReward  # noqa: E402
from lare.errors import ConfigError, StateError  # noqa: E402
from lare.integrations.stable_baselines3 import (  # noqa: E402
    LatentRewardReplayBuffer,
    LatentRewardVecEnv,
    TrainDecoder,
)


def small():
    return {"policy_kwargs": {"net_arch": [8]}, "seed": 0, "device": "cpu"}  # it writes into this


def make(limit=20):
    return EpisodicReward(gymnasium.make("Pendulum-v1", max_episode_steps=limit))


def model(name="TD3", env=None, relabeler=None, **options):
    env = make() if env is None else env
    relabeler = relabeler or Relabeler(
        LatentReward.shipped("Pendulum-v1"), env.observation_space, env.action_space
    )
    return getattr(sb3, name)(
        "MlpPolicy",
        env,
        replay_buffer_class=LatentRewardReplayBuffer,
        replay_buffer_kwargs={"relabeler": relabeler},
        learning_starts=30,
        batch_size=16,
        **{"buffer_size": 1000, **small(), **options},
    )


@pytest.mark.parametrize("name", ["TD3", "SAC", "DDPG"])
def test_off_policy_algorithms_learn_on_the_decoder(name):
    learner = model(name)
    learner.learn(100)
    relabeler = learner.replay_buffer.relabeler
    assert len(relabeler.store) == 5
    assert relabeler.updates == 100 - 30
    batch = learner.replay_buffer.sample(64)
    wanted = relabeler.relabel(
        batch.observations.numpy(), 2.0 * batch.actions.numpy(), batch.next_observations.numpy()
    )  # actions are stored in [-1, 1], the torque is twice that
    np.testing.assert_allclose(batch.rewards.numpy()[:, 0], wanted, rtol=1e-4, atol=1e-5)


def test_discrete_actions():
    source = "def evaluation_func(observation, action):\n    return [action[:, 1:2]]\n"
    env = EpisodicReward(gymnasium.make("CartPole-v1"))
    relabeler = Relabeler(LatentReward(source), env.observation_space, env.action_space)
    learner = model("DQN", env, relabeler)
    learner.learn(80)
    stored = relabeler.store.factors[:80, 0, 0].numpy()
    np.testing.assert_array_equal(stored, learner.replay_buffer.actions[:80, 0, 0])


def test_rows_agree_after_the_ring_has_gone_round():
    learner = model(buffer_size=50)
    learner.learn(130)
    relabeler = learner.replay_buffer.relabeler
    assert relabeler.store.position == learner.replay_buffer.pos
    batch = learner.replay_buffer.sample(200)
    wanted = relabeler.relabel(
        batch.observations.numpy(), 2.0 * batch.actions.numpy(), batch.next_observations.numpy()
    )
    np.testing.assert_allclose(batch.rewards.numpy()[:, 0], wanted, rtol=1e-4, atol=1e-5)
    assert len(relabeler.store) == 2  # of 20 steps, in 50 rows


def test_several_environments_and_normalization():
    venv = VecNormalize(DummyVecEnv([lambda: Monitor(make(10)), lambda: Monitor(make(7))]))
    relabeler = Relabeler(
        LatentReward.shipped("Pendulum-v1"), venv.observation_space, venv.action_space
    )
    learner = model(env=venv, relabeler=relabeler)
    learner.learn(120)
    for env, limit in enumerate((10, 7)):
        lengths = {e.length for e in relabeler.store.episodes if e.env == env}
        assert lengths == {limit}
    raw = learner.replay_buffer
    wanted = relabeler.relabel(
        raw.observations[:60, 1], 2.0 * raw.actions[:60, 1], raw.next_observations[:60, 1]
    )  # functions read raw observations, whatever the policy gets
    found = relabeler.relabel_rows(np.arange(60), np.ones(60, int))
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)


def test_stored_returns_are_the_true_ones():
    env = Monitor(make())
    learner = model(env=env)
    learner.learn(100)
    store = learner.replay_buffer.relabeler.store
    found = [episode.total for episode in store.episodes]
    np.testing.assert_allclose(found, env.get_episode_rewards(), rtol=1e-4)


def test_saved_and_loaded_with_the_same_bits(tmp_path):
    learner = model()
    learner.learn(110)
    learner.save(tmp_path / "model")
    learner.save_replay_buffer(tmp_path / "buffer")
    other = sb3.TD3.load(tmp_path / "model", env=make(), custom_objects=None)
    other.load_replay_buffer(tmp_path / "buffer")
    one, two = learner.replay_buffer.relabeler, other.replay_buffer.relabeler
    rows = np.arange(110)
    assert torch.equal(
        one.relabel_rows(rows, np.zeros(110, int)), two.relabel_rows(rows, np.zeros(110, int))
    )
    assert one.store.episodes == two.store.episodes
    assert torch.equal(one.store.factors, two.store.factors)
    one.update(3)
    two.update(3)
    for a, b in zip(one.model.parameters(), two.model.parameters(), strict=True):
        assert torch.equal(a, b)
    other.learn(50, reset_num_timesteps=False)  # and on it goes
    assert all(episode.length == 20 for episode in two.store.episodes)


def test_loaded_without_the_buffer(tmp_path):
    """The decoder goes on, rows start anew."""
    learner = model()
    learner.learn(110)
    learner.save(tmp_path / "model")
    assert (tmp_path / "model.zip").stat().st_size < 1_000_000
    other = sb3.TD3.load(tmp_path / "model", env=make())
    weights = other.replay_buffer.relabeler.model.decoder.network[0].weight
    assert torch.equal(weights, learner.replay_buffer.relabeler.model.decoder.network[0].weight)
    other.learn(60)
    buffer = other.replay_buffer
    wanted = buffer.relabeler.relabel(
        buffer.observations[:60, 0], 2 * buffer.actions[:60, 0], buffer.next_observations[:60, 0]
    )
    found = buffer.relabeler.relabel_rows(np.arange(60), np.zeros(60, int))
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)


def test_one_relabeler_for_two_models_is_refused():
    one = model()
    one.learn(10)
    relabeler = one.replay_buffer.relabeler
    two = model(relabeler=relabeler)
    two.learn(10)
    with pytest.raises(StateError, match="one for each model"):
        one.learn(10)


def test_learning_again_after_a_stop_in_the_midst_of_an_episode():
    learner = model()
    learner.learn(50)
    learner.learn(50)  # starts with a reset
    store = learner.replay_buffer.relabeler.store
    assert [episode.length for episode in store.episodes] == [20] * 4


def test_rewritten_rewards():
    learner = model()
    learner.learn(60)
    learner.replay_buffer.rewrite()
    relabeler = learner.replay_buffer.relabeler
    found = relabeler.relabel_rows(np.arange(60), np.zeros(60, int))
    np.testing.assert_allclose(learner.replay_buffer.rewards[:60, 0], found)


def test_on_policy():
    venv = DummyVecEnv([make, make])
    relabeler = Relabeler(
        LatentReward.shipped("Pendulum-v1"), venv.observation_space, venv.action_space, n_envs=2
    )
    learner = sb3.PPO(
        "MlpPolicy", LatentRewardVecEnv(venv, relabeler), n_steps=40, batch_size=16, **small()
    )
    learner.learn(160, callback=TrainDecoder(relabeler, updates=7))
    assert relabeler.updates == 2 * 7
    assert len(relabeler.store) == 8
    buffer = learner.rollout_buffer
    # The last rollout was paid by the decoder of its time: after one training, before the second.
    assert np.unique(buffer.rewards).size > 10


def test_on_policy_rewards_within_a_rollout_come_from_one_decoder():
    venv = DummyVecEnv([make])
    relabeler = Relabeler(
        LatentReward.shipped("Pendulum-v1"), venv.observation_space, venv.action_space
    )
    wrapper = LatentRewardVecEnv(venv, relabeler)
    start = wrapper.reset()
    for step in range(45):
        action = np.array([wrapper.action_space.sample()])
        end, reward, done, infos = wrapper.step(action)
        last = infos[0]["terminal_observation"][None] if done[0] else end
        np.testing.assert_allclose(reward, relabeler.relabel(start, action, last), rtol=1e-5)
        assert (infos[0]["lare/environment_reward"] != 0) == (step in (19, 39))
        start = end


def test_bad_use():
    env = make()
    with pytest.raises(ConfigError, match=r"Relabeler\.for_env\(env\)"):
        sb3.TD3("MlpPolicy", env, replay_buffer_class=LatentRewardReplayBuffer)
    other = gymnasium.make("MountainCarContinuous-v0")
    source = "def evaluation_func(observation):\n    return [observation[:, 0:1]]\n"
    wrong = Relabeler(LatentReward(source), other.observation_space, other.action_space)
    with pytest.raises(ConfigError, match="was built for"):
        model(relabeler=wrong)
    two = Relabeler.for_env(env, n_envs=2)
    with pytest.raises(ConfigError, match="n_envs=1"):
        LatentRewardVecEnv(DummyVecEnv([make]), two)


@pytest.mark.parametrize(("trained", "limit"), [(False, 20), (True, 20), (False, 500)])
def test_a_decoder_that_nobody_trains_is_noticed(trained, limit, monkeypatch, recwarn):
    """But not before an episode has ended, from which it could have been trained."""
    monkeypatch.setattr("lare.integrations.stable_baselines3._UNTRAINED_STEPS", 100)
    latent = LatentReward.shipped("Pendulum-v1")
    relabeler = Relabeler.for_env(make(), latent, n_envs=2)
    env = LatentRewardVecEnv(DummyVecEnv([lambda: make(limit)] * 2), relabeler)
    env.reset()
    for step in range(200):
        if trained and step == 70:
            relabeler.update()
        env.step(np.zeros((2, 1), dtype=np.float32))
    told = [str(one.message) for one in recwarn if "TrainDecoder(relabeler)" in str(one.message)]
    assert len(told) == (not trained and limit < 200)
