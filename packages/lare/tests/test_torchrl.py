"""With the real library: episodes at extend, rewards at sample."""

import numpy as np
import pytest
import torch

pytest.importorskip("torchrl")

import gymnasium
from tensordict import TensorDict
from torchrl.data import LazyTensorStorage, TensorDictReplayBuffer

from lare import LatentReward, Relabeler
from lare.errors import ConfigError
from lare.integrations.torchrl import LatentRewardTransform, relabel

ENV = gymnasium.make("Pendulum-v1")


def steps(n_envs, time, seed=0, ends=5):
    generator = torch.Generator().manual_seed(seed)
    states = torch.randn(n_envs, time + 1, 3, generator=generator)
    starts = states[:, :-1].clone()
    starts[:, ::ends] += 10  # after a reset
    done = torch.zeros(n_envs, time, 1, dtype=torch.bool)
    done[:, ends - 1 :: ends] = True
    data = {
        "observation": starts,
        "action": torch.randn(n_envs, time, 1, generator=generator),
        "next": {
            "observation": states[:, 1:],
            "reward": torch.randn(n_envs, time, 1, generator=generator),
            "done": done,
            "terminated": torch.zeros_like(done),
            "truncated": done,
        },
    }
    return TensorDict(data, batch_size=[n_envs, time])


def learner(n_envs):
    return Relabeler(
        LatentReward.shipped("Pendulum-v1"),
        ENV.observation_space,
        ENV.action_space,
        n_envs=n_envs,
        capacity=500,
    )


def wanted(relabeler, batch):
    keys = ("observation", "action", ("next", "observation"))
    return relabeler.relabel(
        *(batch[key].reshape(-1, batch[key].shape[-1]).numpy() for key in keys)
    )


def test_replay_buffer():
    relabeler = learner(1)
    buffer = TensorDictReplayBuffer(storage=LazyTensorStorage(200), batch_size=32)
    buffer.append_transform(LatentRewardTransform(relabeler, updates_per_sample=3))
    for part in range(3):
        buffer.extend(steps(1, 20, part)[0])
    assert [e.length for e in relabeler.store.episodes] == [5] * 12
    batch = buffer.sample()
    assert relabeler.updates == 3
    assert relabeler.normalizer.shift != 0  # time limits do not count as terminations
    assert batch["next", "reward"].std() > 0.1
    assert batch["next", "reward"].shape == (32, 1)
    np.testing.assert_allclose(
        batch["next", "reward"][:, 0], wanted(relabeler, batch), rtol=1e-4, atol=1e-5
    )


def test_rollouts_of_several_environments():
    relabeler = learner(2)
    relabel(relabeler, steps(2, 20))
    relabeler.update()
    batch = relabel(relabeler, steps(2, 15, 1))
    found = batch["next", "reward"]
    assert found.shape == (2, 15, 1)
    np.testing.assert_allclose(found.reshape(-1), wanted(relabeler, batch), rtol=1e-4, atol=1e-5)
    assert sum(e.env == 1 for e in relabeler.store.episodes) == 7


def test_flattened_environments_are_refused():
    with pytest.raises(ConfigError, match=r"\[n_envs, time\], unflattened"):
        relabel(learner(2), steps(2, 20).reshape(-1))
