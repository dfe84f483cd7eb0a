"""Batches as EPyMARL and PyMARL2 pass them around, in a fake that has what the adapter uses."""

import copy
import runpy
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from lemae import KSMT, KeyStateSet, label
from lemae.errors import ConfigError, ShapeError
from lemae.integrations.epymarl import ExploringController, observe, relabel
from lemae.integrations.shaping import Shaping

line_task = runpy.run_path(str(Path(__file__).parent / "line_task.py"))
Line = line_task["Line"]
LIMIT, N, AGENTS, ACTIONS = 12, 4, 2, 3
RIGHT = 1


class EpisodeBatch:
    """Time after batch, one row of ``filled`` per state, everything else zero."""

    def __init__(self, n_rewards=1):
        self.batch_size, self.max_seq_length, self.device = N, LIMIT + 1, "cpu"
        shapes = {
            "state": (2,),
            "actions": (AGENTS, 1),
            "avail_actions": (AGENTS, ACTIONS),
            "reward": (n_rewards,),
            "terminated": (1,),
            "filled": (1,),
        }
        whole = ("actions", "avail_actions", "terminated", "filled")
        columns = {
            key: torch.zeros(N, LIMIT + 1, *shape, dtype=torch.long if key in whole else None)
            for key, shape in shapes.items()
        }
        self.data = SimpleNamespace(transition_data=columns, episode_data={})

    def __getitem__(self, key):
        return self.data.transition_data[key]


class Runner:
    """The loop of the parallel runner: environments that ended are named once more in ``bs``."""

    def __init__(self, mac, n_rewards=1, pay=1.0, defeat=0.0):
        self.mac, self.n_rewards, self.pay, self.defeat = mac, n_rewards, pay, defeat

    def run(self, test_mode=False):
        batch, env = EpisodeBatch(self.n_rewards), Line(N, limit=LIMIT, restricted=True)
        state, _ = env.reset()
        going, ended, t = list(range(N)), np.zeros(N, bool), 0
        self.write(batch, env, state, going, t)
        while True:
            actions = self.mac.select_actions(batch, t_ep=t, t_env=0, bs=going, test_mode=test_mode)
            actions = actions[0] if isinstance(actions, tuple) else actions
            batch["actions"][going, t] = actions[..., None]
            going = [i for i in range(N) if not ended[i]]
            if not going:
                return batch
            state, reward, terminated, truncated, _ = env.step(batch["actions"][:, t, :, 0].numpy())
            over = ~ended & (terminated | truncated)
            batch["reward"][going, t] = torch.tensor(
                np.where(reward > 0, self.pay, np.where(over, self.defeat, 0)), dtype=torch.float
            )[going, None]
            batch["terminated"][going, t, 0] = torch.tensor(terminated[going]).long()
            ended |= over
            t += 1
            self.write(batch, env, state, going, t)

    @staticmethod
    def write(batch, env, state, going, t):
        batch["state"][going, t] = torch.tensor(state)[going]
        batch["avail_actions"][going, t] = torch.tensor(env.available()).long()[going]
        batch["filled"][going, t] = 1


class Controller:
    """Environment i walks right in all steps but every (i+1)-th, the last one not at all."""

    n_agents = AGENTS

    def __init__(self, walk=True, save_probs=False):
        self.walk, self.save_probs = walk, save_probs
        self.calls = []

    def init_hidden(self, batch_size):
        return f"hidden of {batch_size}"

    def select_actions(self, ep_batch, t_ep, t_env, bs=slice(None), test_mode=False):
        self.calls.append((t_ep, list(np.arange(N)[bs])))
        may = ep_batch["avail_actions"][bs, t_ep]
        envs = torch.arange(N)[bs]
        actions = torch.full((len(envs), AGENTS), 2)
        if self.walk:
            pause = ((envs > 0) & (t_ep % (envs + 1) == 0)) | (envs == N - 1)
            actions[~pause & (may[:, 0, RIGHT] > 0), 0] = RIGHT
            actions[~pause & (may[:, 1, RIGHT] > 0), 1] = RIGHT
        if self.save_probs:
            return actions, torch.nn.functional.one_hot(actions, ACTIONS).float()
        return actions


@pytest.fixture(scope="module")
def key_states():
    return KeyStateSet.from_source(line_task["KEY_STATES"], 2)


def shaped(key_states, **options):
    return Shaping(key_states, **{"alpha": 10, "beta": 0.5, **options})


def in_order(batch, column):
    return batch[column].numpy().swapaxes(0, 1)


def lengths_of(batch):
    return batch["filled"].numpy()[..., 0].sum(1) - 1


def test_observe(key_states):
    shaping = shaped(key_states)
    batch = Runner(Controller()).run()
    lengths = lengths_of(batch)
    assert len(set(lengths.tolist())) > 1
    chains = observe(shaping, batch, step=40)
    assert chains == label(key_states, in_order(batch, "state"), lengths)
    assert chains[0] == ((3, 0), (3, 1))
    assert shaping.memory.episodes == N
    assert shaping.memory.successes == int((batch["reward"] > 0).any(1).sum()) > 0
    assert shaping.memory.pruned
    assert shaping.memory.info((0,)).first_step == 40
    assert shaping.relabeler.bank.count(0) == N - 1


def test_relabel(key_states):
    shaping, twin = shaped(key_states), shaped(key_states)
    batch = Runner(Controller()).run()
    observe(shaping, batch)
    states, lengths = in_order(batch, "state"), lengths_of(batch)
    raw, success = in_order(batch, "reward")[:-1, :, 0], (batch["reward"] > 0).any(1).numpy()[:, 0]
    twin.observe(states, lengths, success)
    wanted = twin.relabel(states, raw, lengths, success).rewards
    before = batch["reward"].clone()
    found = relabel(shaping, batch)
    np.testing.assert_allclose(found["reward"][:, :-1, 0], wanted.T, rtol=1e-6)
    assert (found["reward"][:, -1] == 0).all()
    # Environment 0 walks right at every step: both key states in 3, success in 5.
    np.testing.assert_allclose(found["reward"][0, :6, 0], [0.5, 0.5, 0.5, 0, 10, 0])
    assert torch.equal(batch["reward"], before)
    assert found["state"] is batch["state"]
    assert type(found) is EpisodeBatch
    assert torch.equal(relabel(shaping, batch.data.transition_data)["state"], batch["state"])


def test_a_replayed_batch_is_relabelled_from_its_own_rewards(key_states):
    shaping = shaped(key_states, planning=False)
    batch = Runner(Controller()).run()
    observe(shaping, batch)
    once, again = relabel(shaping, batch)["reward"], relabel(shaping, batch)["reward"]
    assert torch.equal(once, again)


def test_rewards_of_each_agent(key_states):
    shaping = shaped(key_states, planning=False)
    batch = Runner(Controller(), n_rewards=2).run()
    batch["reward"][..., 1] *= 3
    observe(shaping, batch)
    found = relabel(shaping, batch)["reward"]
    np.testing.assert_allclose(
        found[0, :6], [[0.5, 0.5]] * 3 + [[0, 0], [10, 30], [0, 0]], rtol=1e-6
    )
    steps = torch.arange(LIMIT + 1) < torch.tensor(lengths_of(batch))[:, None]
    assert (found[~steps] == 0).all()


def test_rewards_of_smac(key_states):
    """A scaled 1 for a victory and a scaled -1 for a defeat count 1 and 0."""
    shaping = shaped(key_states, planning=False, beta=0)
    batch = Runner(Controller(), pay=1 / 11, defeat=-1 / 11).run()
    observe(shaping, batch)
    found = relabel(shaping, batch, sparse=True)["reward"][..., 0]
    won = batch["terminated"].any(1)[:, 0]
    assert 0 < won.sum() < N
    last = torch.tensor(lengths_of(batch)) - 1
    np.testing.assert_allclose(found[torch.arange(N), last], 10.0 * won)
    assert found.sum() == 10 * won.sum()


def test_success_as_it_is_said(key_states):
    batch = Runner(Controller()).run()
    for said in ([False] * N, torch.zeros(N, 1, dtype=torch.bool), lambda batch: np.zeros(N, bool)):
        shaping = shaped(key_states)
        observe(shaping, batch, success=said)
        assert not shaping.memory.solved


def test_rewards_on_the_way_are_no_success(key_states):
    """Damage in a battle that was cut, or lost, does not prune the memory."""
    batch = Runner(Controller(walk=False)).run()
    batch["reward"][0, 0] = 0.1
    shaping = shaped(key_states)
    for take in (observe, relabel):
        with pytest.raises(ConfigError, match=r"does not terminate its episode.*give success="):
            take(shaping, batch)
    batch["reward"][0, 0], batch["reward"][0, LIMIT - 1] = 0, 0.1
    with pytest.raises(ConfigError, match="give success="):  # at a truncation
        observe(shaping, batch)
    batch.data.transition_data["battle_won"] = torch.zeros(N, LIMIT + 1, 1)
    batch["battle_won"][2, 4] = 1

    def won(batch):  # as the module says
        return batch["battle_won"].flatten(1).any(1)

    observe(shaping, batch, success=won)
    assert shaping.memory.successes == 1
    with pytest.raises(ShapeError, match="success tells of 3 episodes, the batch holds 4"):
        observe(shaping, batch, success=[False] * 3)


def test_shapes(key_states):
    batch = EpisodeBatch()
    assert list(observe(shaped(key_states), batch)) == [()] * N  # nothing filled in yet
    batch.data.transition_data["filled"] = torch.zeros(N, LIMIT, 1)
    with pytest.raises(ShapeError, match=r"filled \(4, 12, 1\)"):
        observe(shaped(key_states), batch)
    with pytest.raises(ConfigError, match="the memory is for 3 key states and there are 2"):
        Shaping(key_states, KSMT(3))


def test_controller_at_the_edge_of_the_memory_and_inside(key_states):
    shaping = shaped(key_states)
    mac = Controller(walk=False)
    explorer = ExploringController(mac, shaping, N, eps_low=0, eps_high=1, rule="leaf")
    batch = Runner(explorer).run()
    steps = batch["filled"][:, :-1, 0] * batch["filled"][:, 1:, 0] == 1
    assert (batch["actions"][:, :-1][steps] != 2).any()  # an empty memory: all at random
    taken = batch["avail_actions"].gather(-1, batch["actions"])[:, :-1][steps]
    assert (taken == 1).all()
    np.testing.assert_array_equal(
        [len(order) for order in explorer.explorer.orders],
        [len(chain) for chain in shaping.label(in_order(batch, "state"), lengths_of(batch))],
    )
    shaping.memory.insert((0, 1), success=False)  # now the root has a child
    batch = Runner(explorer).run()
    assert (batch["actions"][:, :-1][steps] == 2).all()


def test_controller_after_the_first_success_and_in_test_mode(key_states):
    shaping = shaped(key_states)
    explorer = ExploringController(Controller(walk=False), shaping, N, eps_low=0, eps_high=1)
    assert (Runner(explorer).run(test_mode=True)["actions"][:, :LIMIT] == 2).all()
    assert (Runner(explorer).run()["actions"][:, :LIMIT] != 2).any()
    observe(shaping, Runner(Controller()).run())
    assert (Runner(explorer).run()["actions"][:, :LIMIT] == 2).all()


def test_probabilities_are_of_the_mixture(key_states):
    mac = Controller(walk=False, save_probs=True)
    explorer = ExploringController(mac, shaped(key_states), N, eps_low=0, eps_high=0.6)
    batch = EpisodeBatch()
    batch["avail_actions"][:, 0] = torch.tensor([0, 1, 1])
    _, probabilities = explorer.select_actions(batch, 0, 0, bs=[1, 3])
    assert probabilities.shape == (2, AGENTS, ACTIONS)
    np.testing.assert_allclose(probabilities[0, 0], [0, 0.3, 0.7])


def test_controller_passes_on_the_rest(key_states):
    mac = Controller()
    explorer = ExploringController(mac, shaped(key_states), N)
    assert explorer.n_agents == AGENTS
    assert explorer.init_hidden(3) == "hidden of 3"
    assert copy.deepcopy(explorer).n_agents == AGENTS
    with pytest.raises(AttributeError, match="colour"):
        _ = explorer.colour


def test_state_dict(key_states):
    shaping, other = shaped(key_states), shaped(key_states)
    batch = Runner(Controller(walk=False)).run()
    observe(shaping, Runner(Controller()).run(), success=[False] * N)
    other.load_state_dict(copy.deepcopy(shaping.state_dict()))
    for _ in range(3):  # planned goals are drawn
        assert torch.equal(relabel(shaping, batch)["reward"], relabel(other, batch)["reward"])
    assert relabel(shaping, batch)["reward"].abs().sum() == 0  # nobody moved
