"""Task descriptions: shipped ones against the environments, own ones, what is refused."""

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from lare import Entry, TaskSpec
from lare.envs import get_task, task_ids
from lare.errors import TaskError
from lare.latent_reward import shipped_functions
from lare.prompts import first
from lare.task import numbers, shipped_tasks

SINGLE = [name for name in shipped_tasks() if "-v" in name]
SEVERAL = [name for name in shipped_tasks() if "-v" not in name]


def make(name):
    if name != "Pendulum-v1":
        pytest.importorskip("mujoco")
    return gymnasium.make(name)


@pytest.mark.parametrize("name", SINGLE)
def test_a_shipped_task_fits_its_environment(name):
    task, env = TaskSpec.shipped(name), make(name)
    task.check(env.observation_space, env.action_space)
    assert task.horizon == env.spec.max_episode_steps
    low = [entry.low for entry in task.action]
    np.testing.assert_allclose(low, env.action_space.low, atol=1e-6)
    assert TaskSpec.from_env(env) == task


@pytest.mark.parametrize("name", SEVERAL)
def test_a_shipped_multi_agent_task_fits_its_environment(name):
    task = TaskSpec.shipped(name)
    known = next(one for one in task_ids() if name.startswith(one))
    role = name[len(known) + 1 :] or None
    assert len(task.observation) == get_task(known).observation_size(role)
    assert (len(task.action), task.discrete) == (5, True)


def test_there_is_a_function_for_every_task():
    assert shipped_tasks() == shipped_functions()


@pytest.mark.parametrize(
    ("name", "index", "change"),
    [
        ("HalfCheetah-v5", 8, lambda data: data.qvel[0]),
        ("HalfCheetah-v5", 1, lambda data: data.qpos[2]),
        ("Walker2d-v5", 0, lambda data: data.qpos[1]),
        ("Hopper-v5", 5, lambda data: data.qvel[0]),
        ("Swimmer-v5", 3, lambda data: data.qvel[0]),
        ("HumanoidStandup-v5", 0, lambda data: data.qpos[2]),
        ("HumanoidStandup-v5", 1, lambda data: data.qpos[3]),
        ("HumanoidStandup-v5", 24, lambda data: data.qvel[2]),
        ("HumanoidStandup-v5", 45 + 130 + 78, lambda data: data.qfrc_actuator[6]),
        ("Reacher-v5", 4, lambda data: data.qpos[2]),
    ],
)
def test_entries_are_where_the_description_says(name, index, change, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # mujoco writes its log into the working folder
    env = make(name)
    env.reset(seed=0)
    observation = env.step(env.action_space.sample())[0]
    assert observation[index] == pytest.approx(change(env.unwrapped.data), abs=1e-6)


def test_a_described_entry_reads_as_text():
    task = TaskSpec(
        "T", "Go.", (Entry("speed", "m/s", -1.0, None), Entry("angle")), (Entry("push"),)
    )
    assert "observation[:, 0]: speed (m/s), from -1 to inf" in task.observation_text()
    assert TaskSpec.from_dict(task.as_dict()) == task


def test_an_own_environment_is_described_by_its_docstring():
    class Cart(gymnasium.Env):
        """Push a cart.

        ## Goal
        Bring it home.

        The best reward is found there.

        ## Rewards
        It is 1 - x * x.

        ### Notes
        The weight of x is 4711.

        ## Arguments
        | `ctrl_cost_weight` | 0.815 |

        ## Start
        At a random place.
        """

        observation_space = spaces.Box(-1, 1, (2,))
        action_space = spaces.Discrete(3)

    task = TaskSpec.from_env(Cart())
    assert "Bring it home" in task.description
    assert "random place" in task.description
    for hidden in ("1 - x", "4711", "0.815", "best reward"):  # the model is to find it by itself
        assert hidden not in task.description
    assert (len(task.observation), len(task.action), task.discrete) == (2, 3, True)
    assert "(1 where chosen, else 0)" in first(task)


def test_discrete_actions_are_given_as_choices():
    np.testing.assert_array_equal(
        numbers([2, 3], spaces.Discrete(3, start=2)), [[1, 0, 0], [0, 1, 0]]
    )
    assert numbers(np.zeros((4, 2), np.float64), spaces.Box(-1, 1, (2,))).dtype == np.float32


@pytest.mark.parametrize(
    ("observation", "action", "message"),
    [
        (spaces.Dict({"a": spaces.Box(0, 1, (2,))}), spaces.Discrete(2), "FlattenObservation"),
        (spaces.Box(0, 255, (8, 8, 3), np.uint8), spaces.Discrete(2), "feature map"),
        (spaces.Box(0, 1, (2,)), spaces.MultiDiscrete([2, 2]), "Box or Discrete"),
        (spaces.Box(0, 1, (3,)), spaces.Discrete(2), "describes 2 entries .* has 3"),
        (spaces.Box(0, 1, (2,)), spaces.Discrete(4), "2 discrete choices.*has 4"),
    ],
)
def test_spaces_that_do_not_fit(observation, action, message):
    task = TaskSpec("T", "Go.", (Entry("a"), Entry("b")), (Entry("x"), Entry("y")), discrete=True)
    with pytest.raises(TaskError, match=message):
        task.check(observation, action)


def test_bad_descriptions():
    with pytest.raises(TaskError, match="near it are HalfCheetah-v5"):
        TaskSpec.shipped("HalfCheetah-v4")
    with pytest.raises(TaskError, match="name and a description"):
        TaskSpec("T", " ", (Entry("a"),))
    with pytest.raises(TaskError, match="one Entry each"):
        TaskSpec("T", "Go.", ())


def test_a_task_is_saved_and_loaded(tmp_path):
    task = TaskSpec("Cart", "Stop it.", (Entry("position", "m", -1),), (Entry("force", "N"),))
    assert TaskSpec.load(task.save(tmp_path / "task.json")) == task
    with pytest.raises(TaskError, match=r"nothing.json does not describe a task"):
        TaskSpec.load(tmp_path / "nothing.json")


@pytest.mark.parametrize(
    ("observation", "action"),
    [(("level",), ()), ((Entry("level"),), Entry("inflow")), ("level", ())],
)
def test_entries_that_are_none_are_refused(observation, action):
    with pytest.raises(TaskError, match="give a tuple, one Entry per number"):
        TaskSpec("Tank", "Keep the level.", observation, action)


def test_a_range_the_wrong_way_round_is_refused():
    with pytest.raises(TaskError, match="level: low is 2 and high 0: swap them"):
        Entry("level", "m", 2, 0)
