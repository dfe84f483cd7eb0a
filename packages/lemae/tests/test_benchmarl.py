"""With the real library: a small experiment of an algorithm of each kind."""

import numpy as np
import pytest
import torch

pytest.importorskip("pettingzoo")
pytest.importorskip("benchmarl.environments.pettingzoo.common")  # here, since it warns

from benchmarl.algorithms import IppoConfig, QmixConfig
from benchmarl.environments.pettingzoo.common import PettingZooClass
from benchmarl.experiment import Callback, Experiment, ExperimentConfig
from benchmarl.models.mlp import MlpConfig
from torchrl.envs import PettingZooWrapper

from lemae import KeyStateSet
from lemae.envs import ParallelGrid
from lemae.integrations.benchmarl import KeyStateCallback
from lemae.integrations.shaping import Shaping

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
LIMIT, ENVS, FRAMES = 15, 2, 80
SOURCE = '''
def is_right_of_three(state):
    """Agent 0 is right of column 3."""
    return state[0] > 3


def is_below_five(state):
    """Agent 1 is below row 5."""
    return state[3] > 5
'''


class Grid(PettingZooClass):
    """A grid task among BenchMARL's."""

    def get_env_fun(self, num_envs, continuous_actions, seed, device):
        return lambda: PettingZooWrapper(
            ParallelGrid("pass", episode_limit=LIMIT),
            use_mask=False,
            categorical_actions=True,
            return_state=self.config["state"],
            device=device,
        )

    def supports_continuous_actions(self):
        return False

    def supports_discrete_actions(self):
        return True

    def has_render(self, env):
        return False

    def max_steps(self, env):
        return LIMIT


class Recorder(Callback):
    """Keeps what is collected before and after the other callback, and what is trained with."""

    def __init__(self):
        super().__init__()
        self.batches, self.trained = [], []

    def on_batch_collected(self, batch):
        self.batches.append(batch.clone())

    def on_train_step(self, batch, group):
        key = (
            ("next", "reward")
            if ("next", "reward") in batch.keys(True)
            else ("next", group, "reward")
        )
        self.trained.append(batch[key].detach().clone())


def experiment(folder, algorithm, callbacks, *, state=True, restore=None):
    config = ExperimentConfig.get_from_yaml()
    config.save_folder, config.restore_file = folder, restore
    config.loggers, config.create_json, config.evaluation, config.render = [], False, False, False
    config.max_n_frames, config.max_n_iters = 2 * FRAMES, None
    for kind in ("on_policy", "off_policy"):
        setattr(config, f"{kind}_collected_frames_per_batch", FRAMES)
        setattr(config, f"{kind}_n_envs_per_worker", ENVS)
    config.on_policy_minibatch_size, config.on_policy_n_minibatch_iters = FRAMES // 2, 1
    config.off_policy_train_batch_size, config.off_policy_n_optimizer_steps = 20, 2
    config.off_policy_memory_size = 1000
    config.checkpoint_interval, config.checkpoint_at_end = 0, True
    return Experiment(
        task=Grid("PASS", {"state": state}),
        algorithm_config=algorithm.get_from_yaml(),
        model_config=MlpConfig.get_from_yaml(),
        seed=0,
        config=config,
        callbacks=callbacks,
    )


def shaped():
    return Shaping(KeyStateSet.from_source(SOURCE, 5), alpha=10, beta=1)


@pytest.mark.parametrize(
    ("algorithm", "state"), [(IppoConfig, True), (IppoConfig, False), (QmixConfig, True)]
)
def test_an_experiment(tmp_path, algorithm, state):
    shaping = shaped()
    if not state:  # agent 1 sees the whole state, five numbers further on
        shaping = Shaping(KeyStateSet.from_source(SOURCE.replace("[3]", "[8]"), 10), beta=1)
    before, after = Recorder(), Recorder()
    callbacks = [before, KeyStateCallback(shaping), after]
    experiment(tmp_path, algorithm, callbacks, state=state).run()
    assert len(after.batches) == 2
    paid = set()
    for raw, rewarded in zip(before.batches, after.batches, strict=True):
        gain = rewarded["next", "agent", "reward"] - raw["next", "agent", "reward"]
        paid |= set(rewarded["next", "agent", "reward"].unique().tolist())
        np.testing.assert_allclose(gain[..., 0, :], gain[..., 1, :])
        assert gain.abs().sum() > 0
        assert set(rewarded.keys(True)) == set(raw.keys(True))
    assert set(torch.cat([batch.ravel() for batch in after.trained]).tolist()) <= paid
    assert sum(batch.abs().sum() for batch in after.trained) > 0
    # Episodes go on from batch to batch.
    assert shaping.memory.episodes == ENVS * (2 * FRAMES // ENVS // LIMIT)


def test_checkpoints(tmp_path):
    shaping, other = shaped(), shaped()
    experiment(tmp_path, IppoConfig, [KeyStateCallback(shaping)]).run()
    file = next(tmp_path.rglob("checkpoint_*.pt"))
    experiment(tmp_path, IppoConfig, [KeyStateCallback(other)], restore=file).close()
    assert other.memory.to_json() == shaping.memory.to_json()
    for k in range(2):
        np.testing.assert_array_equal(
            other.relabeler.bank.states(k), shaping.relabeler.bank.states(k)
        )
