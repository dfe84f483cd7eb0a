"""The tasks as data: sizes, layouts, roles, and the errors of a wrong task."""

import math
import re
import subprocess
import sys

import numpy as np
import pytest

from lare import envs
from lare.envs import MPETask, Reward, Team, VectorizedMPE, View, get_task, layout, task_ids
from lare.errors import ConfigError

SIZES = {
    "cooperative-navigation-6": (6, 6, 6, 1.5, 26),
    "cooperative-navigation-15": (15, 15, 15, 2.2, 26),
    "cooperative-navigation-30": (30, 30, 30, 3.0, 26),
    "predator-prey-6": (6, 8, 3, 1.5, 28),
    "predator-prey-15": (15, 20, 5, 1.0, 34),
    "predator-prey-30": (30, 40, 10, 1.0, 46),
    "competitive-predator-prey-6": (8, 8, 3, 1.5, 24 + 8),
    "triangle-area-3": (3, 3, 3, 1.5, 14),
}


@pytest.mark.parametrize("name", SIZES)
def test_counts_radii_and_sizes_are_those_of_the_publication(name):
    task = get_task(name)
    learning, movers, landmarks, radius, size = SIZES[name]
    assert (task.n_agents, task.n_movers, task.n_landmarks) == (learning, movers, landmarks)
    assert (task.radius, task.horizon) == (radius, 25)
    assert {task.observation_size(role) for role in task.roles} == {size}


def test_every_task_is_listed():
    assert set(task_ids()) == set(SIZES)


@pytest.mark.parametrize("name", SIZES)
def test_layout_has_one_row_per_entry_and_its_bounds_hold(name):
    env = VectorizedMPE(name, 8, seed=0)
    rng = np.random.default_rng(1)
    seen = [env.reset()]
    seen += [env.step(rng.integers(0, 5, (8, env.n_agents)))[0] for _ in range(25)]
    stacked = np.stack(seen)
    for role, members in env.roles.items():
        rows = layout(name, role)
        assert [row["index"] for row in rows] == list(range(env.observation_size))
        assert len({row["name"] for row in rows}) == len(rows)
        assert {row["unit"] for row in rows} <= {"length", "length/s", ""}
        values = stacked[:, :, members].reshape(-1, len(rows))
        assert (values >= np.array([row["low"] for row in rows]) - 1e-6).all()
        assert (values <= np.array([row["high"] for row in rows]) + 1e-6).all()


def test_layout_names_what_stands_there():
    rows = layout("predator-prey-6")
    assert rows[0] == {
        "index": 0, "name": "own velocity in x", "unit": "length/s", "low": -1.0, "high": 1.0
    }  # fmt: skip
    assert rows[3]["name"] == "own position, y"
    assert rows[3]["high"] == math.inf
    assert rows[4]["name"] == "x of obstacle 1 relative to the agent (nearest first)"
    assert rows[11]["name"] == "y of other predator 1 relative to the agent (nearest first)"
    assert rows[20]["name"] == "x of prey 1 relative to the agent (nearest first)"
    assert rows[27] == {
        "index": 27, "name": "velocity in y of prey 2 (nearest first)", "unit": "length/s",
        "low": -1.3, "high": 1.3,
    }  # fmt: skip


def test_layout_differs_by_role():
    predator = layout("competitive-predator-prey-6", "predator")
    prey = layout("competitive-predator-prey-6", "prey")
    assert predator[20]["name"] == "x of prey 1 relative to the agent (nearest first)"
    assert prey[20]["name"] == "x of predator 6 relative to the agent (nearest first)"
    assert (predator[0]["high"], prey[0]["high"]) == (1.0, 1.3)
    assert predator[24]["name"] == "1 if the agent is predator_0, else 0"
    assert prey[31]["name"] == "1 if the agent is prey_1, else 0"


def test_roles_are_indices_of_learning_agents():
    assert get_task("predator-prey-6").roles == {"predator": [0, 1, 2, 3, 4, 5]}
    assert get_task("competitive-predator-prey-6").roles == {
        "predator": [0, 1, 2, 3, 4, 5],
        "prey": [6, 7],
    }
    assert get_task("triangle-area-3").roles == {"agent": [0, 1, 2]}


def test_unknown_task_lists_near_matches():
    with pytest.raises(ConfigError, match="did you mean cooperative-navigation-6"):
        get_task("coperative-navigation-6")


def test_unknown_task_without_near_match_lists_all():
    with pytest.raises(ConfigError, match="choose from " + ", ".join(task_ids())):
        get_task("chess")


def test_unknown_group_and_role():
    task = get_task("predator-prey-6")
    with pytest.raises(ConfigError, match="no group 'wolf': choose from predator, prey, landmark"):
        task.group("wolf")
    with pytest.raises(ConfigError, match="no learning role 'prey': choose from predator"):
        layout(task, "prey")


AGENT = Team("agent", 2, 0.1, views=(View("landmark", 1),))
PREY = Team("prey", 1, 0.1, flees="agent")


@pytest.mark.parametrize(
    ("teams", "message"),
    [
        ((), "learning teams first"),
        ((PREY, AGENT), "learning teams first"),
        ((Team("agent", 0, 0.1),), "at least 1"),
        ((Team("agent", 2, 0.1, views=(View("landmark", 3),)),), "a view of 3 from 2 of group"),
        ((Team("agent", 2, 0.1, views=(View("agent", 2),)),), "a view of 2 from 1 of group"),
        ((Team("agent", 2, 0.1, views=(View("wolf", 1),)),), "no group 'wolf'"),
        ((Team("agent", 2, 0.1, views=(View("landmark", 1, velocities=True),)),), "no velocities"),
        ((Team("agent", 2, 0.1, reward=Reward(nearest="wolf")),), "no group 'wolf'"),
        ((Team("agent", 2, 0.1, reward=Reward(area=1.0)),), "needs 3 agents, not 2"),
        ((AGENT, Team("other", 1, 0.1)), "must agree between teams"),
    ],
)
def test_parts_that_do_not_fit_are_refused(teams, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        MPETask("mine", 1.0, teams, n_landmarks=2)


def test_own_task_runs():
    task = MPETask("mine", 1.0, (AGENT, PREY), n_landmarks=2, horizon=3)
    assert get_task(task) is task
    env = VectorizedMPE(task, 2, seed=0)
    assert env.reset().shape == (2, 2, 6)
    assert [env.step(np.zeros((2, 2), int))[3].all() for _ in range(3)] == [False, False, True]


def test_importing_envs_loads_no_optional_library():
    source = (
        "import sys, lare.envs as e\n"
        "heavy = {'pettingzoo', 'mpe2', 'mujoco', 'torch', 'gymnasium', 'stable_baselines3'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
        "e.VectorizedMPE('predator-prey-6', 2).reset(); e.layout('predator-prey-6')\n"
        "e.EpisodicReward\n"
        "print(sorted({'pettingzoo', 'mpe2', 'mujoco'} & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True)
    assert done.stdout.split("\n")[:2] == ["[]", "[]"], done.stderr


@pytest.mark.parametrize("missing", ["mpe2", "pettingzoo"])
def test_without_the_extra_the_error_names_it(missing):
    for name in ("mpe2", "pettingzoo"):  # each is tried with the other at hand
        pytest.importorskip(name)
    source = (
        f"import sys; sys.modules[{missing!r}] = None\n"
        "import lare.envs\n"
        "from lare.errors import MissingExtraError\n"
        "try:\n    lare.envs.ParallelMPE\n"
        "except MissingExtraError as error:\n    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True)
    assert 'pip install "lare-rl[mpe]"' in done.stdout, done.stderr
    assert missing in done.stdout


def test_public_names_exist():
    pytest.importorskip("mpe2")
    pytest.importorskip("pettingzoo")
    assert set(envs.__all__) <= set(dir(envs))
    assert all(getattr(envs, name) is not None for name in envs.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        envs.nothing  # noqa: B018  the access itself raises
