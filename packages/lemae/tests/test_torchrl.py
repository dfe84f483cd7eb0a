"""With the real library: what collectors bring, replay buffers, and a policy that explores."""

import importlib
import runpy
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("torchrl")

from tensordict import TensorDict
from tensordict.nn import TensorDictModule, TensorDictSequential
from torchrl.data import LazyTensorStorage, SliceSampler, TensorDictReplayBuffer
from torchrl.envs import InitTracker, PettingZooWrapper, TransformedEnv
from torchrl.envs.utils import ExplorationType, set_exploration_type

from lemae import KeyStateSet
from lemae.envs import ParallelGrid
from lemae.errors import ConfigError, ShapeError
from lemae.integrations.shaping import Shaping
from lemae.integrations.torchrl import KsmtExploration, ShirTransform

# What the library says while it is imported and used; not about this package.
pytestmark = pytest.mark.filterwarnings("ignore")

line_task = runpy.run_path(str(Path(__file__).parent / "line_task.py"))
Line = line_task["Line"]
N, TIME = 3, 40
DOORS = '''
def is_right_of_three(state):
    """Agent 0 is right of column 3."""
    return state[0] > 3


def is_below_five(state):
    """Agent 1 is below row 5."""
    return state[3] > 5
'''


@pytest.fixture(scope="module")
def key_states():
    return KeyStateSet.from_source(line_task["KEY_STATES"], 2)


def shaped(key_states, **options):
    return Shaping(key_states, **{"alpha": 10, "beta": 1, "planning": False, **options})


def collected(seed=0):
    """What a collector brings: ``[N, TIME]``, an episode after the other in each row."""
    rng, env = np.random.default_rng(seed), Line(N, limit=9)
    state, _ = env.reset()
    steps = []
    for _ in range(TIME):
        actions = rng.choice([0, 1, 2], p=[0.2, 0.6, 0.2], size=(N, 2))
        following, reward, terminated, truncated, _ = env.step(actions)
        done = torch.tensor(terminated | truncated)[:, None]
        steps.append(
            TensorDict(
                {
                    "observation": torch.tensor(state),
                    "action": torch.tensor(actions),
                    "next": {
                        "observation": torch.tensor(following),
                        "reward": torch.tensor(reward, dtype=torch.float)[:, None],
                        "done": done,
                        "terminated": torch.tensor(terminated)[:, None],
                    },
                },
                batch_size=[N],
            )
        )
        state, _ = env.reset(envs=done.numpy()[:, 0])
    return torch.stack(steps, 1)


def wanted(shaping, batch):
    """Rewards of the finished episodes, each as a whole; nan for the others."""
    found = torch.full((N, TIME), torch.nan, dtype=torch.float64)
    for row in range(N):
        begin = 0
        for end in (torch.nonzero(batch["next", "done"][row, :, 0]).ravel() + 1).tolist():
            steps = batch[row, begin:end]
            path = torch.cat([steps["observation"], steps["next", "observation"][-1:]])[:, None]
            won = [bool(steps["next", "reward"][-1] > 0)]
            found[row, begin:end] = torch.from_numpy(
                shaping.relabel(path, steps["next", "reward"], [end - begin], won).rewards[:, 0]
            )
            begin = end
    return found


def same(found, expected):
    known = ~expected.isnan()
    np.testing.assert_allclose(found[known], expected[known])


def test_rewards_of_a_collected_batch(key_states):
    shaping = shaped(key_states)
    transform, batch = ShirTransform(shaping), collected()
    raw = batch["next", "reward"].clone()
    held = batch["next", "reward"]
    assert transform.relabel(transform.observe(batch)) is batch
    found = batch["next", "reward"]
    assert found.shape == raw.shape
    assert found.dtype == raw.dtype
    assert torch.equal(held, raw)
    batch["next", "reward"] = raw
    same(found[..., 0], wanted(shaping, batch))
    assert shaping.memory.solved
    assert shaping.memory.episodes == int(batch["next", "done"].sum())


def test_one_environment(key_states):
    transform, batch = ShirTransform(shaped(key_states)), collected()[1]
    raw = batch.clone()
    transform.relabel(transform.observe(batch))
    assert batch["lemae_time"].shape == (TIME,)
    expected = wanted(transform.shaping, torch.stack([raw] * N))[0]
    same(batch["next", "reward"][:, 0], expected)


def test_replay_of_rows(key_states):
    """What is stored stays raw; what is sampled is rewarded by what is known then."""
    shaping = shaped(key_states)
    buffer = TensorDictReplayBuffer(storage=LazyTensorStorage(100), batch_size=8)
    buffer.append_transform(ShirTransform(shaping))
    batch = collected()
    buffer.extend(batch.clone())
    assert shaping.memory.episodes == int(batch["next", "done"].sum())
    expected = wanted(shaping, batch)
    for _ in range(2):
        sample = buffer.sample()
        assert sample.batch_size == (8, TIME)
        rows = (sample["action"][:, None] == batch["action"]).all(-1).all(-1).long().argmax(1)
        same(sample["next", "reward"][..., 0], expected[rows])
    stored = buffer.storage.get(slice(0, N))["next", "reward"]
    assert torch.equal(stored, batch["next", "reward"])


def test_replay_of_slices_and_of_single_steps(key_states):
    shaping = shaped(key_states, planning=True)
    batch = collected()
    for sampler in (SliceSampler(slice_len=5, end_key=("next", "done"), strict_length=False), None):
        buffer = TensorDictReplayBuffer(
            storage=LazyTensorStorage(200), sampler=sampler, batch_size=50
        )
        transform = ShirTransform(shaping)
        buffer.append_transform(transform)
        marked = transform.observe(batch.clone())
        buffer.extend(marked.reshape(-1))  # has its marks, and is not observed again
        episodes = shaping.memory.episodes
        sample = buffer.sample()
        assert shaping.memory.episodes == episodes
        assert sample["next", "reward"].shape == (50, 1)
        assert sample["next", "reward"].unique().numel() > 2


def test_several_teams_and_what_they_see(key_states):
    shaping = shaped(key_states)
    batch = collected()
    seen = batch["observation"]
    teams = batch.clone()
    for key in ("observation", ("next", "observation")):
        first, second = teams.pop(key).split(1, -1)
        prefix = () if key == "observation" else ("next",)
        teams[(*prefix, "red", "observation")] = first[..., None]
        teams[(*prefix, "blue", "observation")] = second[..., None]
    paid = teams.pop(("next", "reward"))
    teams["next", "red", "reward"] = paid[..., None]
    teams["next", "blue", "reward"] = 0 * paid[..., None]
    teams["next", "won"] = paid > 0
    transform = ShirTransform(
        shaping,
        state=[("red", "observation"), ("blue", "observation")],
        reward=[("red", "reward"), ("blue", "reward")],
        success="won",
    )
    transform.relabel(transform.observe(teams))
    red, blue = teams["next", "red", "reward"], teams["next", "blue", "reward"]
    same(red[..., 0, 0], wanted(shaping, batch))
    np.testing.assert_allclose((red - blue)[..., 0], 10 * paid)
    assert torch.equal(seen, batch["observation"])


@pytest.mark.parametrize("at_cut", [False, True])
def test_rewards_on_the_way_are_no_success(key_states, at_cut):
    batch = collected()
    won = batch["next", "reward"] > 0
    cut = batch["next", "done"] & ~batch["next", "terminated"]
    batch["next", "reward"][cut if at_cut else ~batch["next", "done"]] = 0.1
    with pytest.raises(ConfigError, match=r"does not terminate its episode.*give success="):
        ShirTransform(shaped(key_states)).observe(batch)
    batch["next", "won"] = won
    shaping = shaped(key_states)
    ShirTransform(shaping, success="won").observe(batch)
    assert shaping.memory.successes == won.sum()


def test_errors(key_states):
    transform, batch = ShirTransform(shaped(key_states)), collected()
    with pytest.raises(ConfigError, match="no marks: call observe"):
        transform.relabel(batch)
    with pytest.raises(ShapeError, match=r"\(3, 8, 5\)"):
        transform.observe(batch.reshape(3, 8, 5))


def make_env():
    return TransformedEnv(
        PettingZooWrapper(
            ParallelGrid("pass", episode_limit=15),
            use_mask=False,
            categorical_actions=True,
            return_state=True,
        ),
        InitTracker(),
    )


def down():
    """A policy that never meets a key state by itself."""
    return TensorDictModule(
        lambda seen: torch.zeros(seen.shape[:-1], dtype=torch.int64),
        in_keys=[("agent", "observation")],
        out_keys=[("agent", "action")],
    )


@pytest.mark.slow
def test_a_real_environment_and_collector():
    shaping = Shaping(KeyStateSet.from_source(DOORS, 5), beta=1)
    policy = TensorDictSequential(
        down(), KsmtExploration(shaping, 2, 4, state="state", action=("agent", "action"), sticky=6)
    )
    library = importlib.import_module("torchrl.collectors")  # warns of itself
    names = ("Collector", "SyncDataCollector")  # since 0.14, and before
    collector = next(getattr(library, name) for name in names if hasattr(library, name))(
        make_env, policy, frames_per_batch=50, total_frames=200
    )
    transform = ShirTransform(
        shaping, state="state", reward=("agent", "reward"), success=("agent", "info", "success")
    )
    moved = 0.0
    for batch in collector:
        assert batch["lemae_random"].shape == (50, 2)
        transform.relabel(transform.observe(batch))
        moved += batch["next", "agent", "reward"].abs().sum().item()
        np.testing.assert_array_equal(
            batch["lemae_time"] == 0, batch["is_init"][:, 0]
        )  # episodes go on from batch to batch
    collector.shutdown()
    assert moved > 0
    assert shaping.memory.episodes == 200 // 15
    assert sum(shaping.memory.met) > 0


def steps_of(exploration, states, actions):
    """A rollout by hand: states ``[time, n_envs, d]``, an episode begins at time 0."""
    taken = []
    for time, state in enumerate(states):
        step = TensorDict(
            {
                "observation": torch.tensor(state),
                "action": actions.clone(),
                "is_init": torch.full((len(state), 1), time == 0),
            },
            batch_size=[len(state)],
        )
        taken.append(exploration(step))
    return torch.stack(taken, 0)


def test_exploration_follows_the_memory(key_states):
    shaping = shaped(key_states)
    states = np.zeros((30, N, 2), np.float32)
    states[10:, 0] = 3  # row 0 meets both key states at time 10
    stay = torch.full((N, 2), 2)

    def explore(**options):
        return steps_of(
            KsmtExploration(shaping, 2, 3, eps_low=0, eps_high=1, rule="leaf", **options),
            states,
            stay,
        )

    assert explore()["lemae_random"].all()  # an empty memory
    shaping.memory.insert((0, 1), success=False)
    random = explore()["lemae_random"]
    assert not random[:, 1:].any()  # at the root, which has a child
    assert not random[:10, 0].any()
    assert random[10:, 0].all()  # at a leaf
    with set_exploration_type(ExplorationType.DETERMINISTIC):
        assert torch.equal(explore()["action"], stay.expand(30, N, 2))
    shaping.memory.insert((0,), success=True)
    assert not explore()["lemae_random"].any()


def test_exploration_of_one_hot_actions_with_masks(key_states):
    exploration = KsmtExploration(shaped(key_states), 2, 3, mask="mask", eps_low=0, eps_high=1)
    step = TensorDict(
        {
            "observation": torch.zeros(N, 2),
            "action": torch.nn.functional.one_hot(torch.full((N, 2), 2), 3),
            "is_init": torch.ones(N, 1, dtype=torch.bool),
            "mask": torch.tensor([True, False, False]).expand(N, 2, 3),
        },
        batch_size=[N],
    )
    taken = exploration(step)
    assert taken["action"].dtype == torch.int64
    assert torch.equal(taken["action"], torch.tensor([1, 0, 0]).expand(N, 2, 3))
    single = exploration(step[0])
    assert single["action"].shape == (2, 3)
    assert single["lemae_random"].shape == (2,)
