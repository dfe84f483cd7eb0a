"""Making grid tasks, seeds, resets, saving, Gymnasium, and what is told about them."""

import doctest
import importlib
import json
import re
import subprocess
import sys

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode

from lemae import envs
from lemae.envs import GridEnv, gymnasium_id, make, names
from lemae.errors import ConfigError, ShapeError, StateError, TaskError

UP, DOWN, LEFT, RIGHT = range(4)
WIN = [15, 15, 20, 10, 1]  # a state of Pass from which (RIGHT, anything) succeeds
WINNING = [RIGHT, DOWN]


# --- making ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("secret_room", "did you mean secret-room"),
        ("Push-Box", "did you mean push-box"),
        ("river-single", "did you mean .*pass-single"),
        ("chess", "choose from pass, large-pass"),
        (None, "there is no grid task None"),
    ],
)
def test_unknown_tasks(name, expected):
    with pytest.raises(TaskError, match=expected):
        make(name)


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("pass", {"sizes": 30}, "pass has no option 'sizes': did you mean size"),
        ("large-pass", {"size": 30}, "large-pass has no option 'size': choose from episode_limit"),
        ("secret-room", {"target": 2}, "did you mean target_room"),
        ("pass", {"size": 9}, "size is 9: give a whole number from 10 to 1000"),
        ("pass", {"size": 30.0}, "size is 30.0"),
        ("secret-room", {"target_room": 4}, "target_room is 4: give a whole number from 1 to 3"),
        ("secret-room", {"target_room": True}, "target_room is True"),
        ("secret-room", {"compat": "paper"}, 'compat is \'paper\': give "cmae" or "exact"'),
        ("secret-room", {"target_room": 2, "compat": "cmae"}, "knows room 1 alone"),
        ("river", {"episode_limit": 0}, "episode_limit is 0: give a whole number of at least 1"),
        ("pass", {"num_envs": 0}, "num_envs is 0"),
        ("pass", {"num_envs": "four"}, "num_envs is 'four'"),
        ("pass", {"seed": -1}, "seed is -1: give a whole number of at least 0"),
        ("pass", {"seed": [1, 2]}, "seed is"),
        ("pass", {"render_mode": "human"}, "render_mode is 'human'"),
    ],
)
def test_bad_options(name, options, expected):
    with pytest.raises(ConfigError, match=re.escape(expected)):
        make(name, **options)


@pytest.mark.parametrize(
    ("name", "d", "n_values"),
    [
        ("pass", 5, (30, 30, 30, 30, 2)),
        ("large-pass", 5, (50, 50, 50, 50, 2)),
        ("secret-room", 5, (25, 25, 25, 25, 8)),
        ("push-box", 6, (15, 15, 15, 15, 14, 14)),
        ("river", 4, (30, 30, 30, 30)),
        ("pass-single", 3, (30, 30, 2)),
        ("secret-room-single", 3, (25, 25, 8)),
        ("push-box-single", 4, (15, 15, 14, 14)),
    ],
)
def test_sizes(name, d, n_values):
    env = make(name, 3)
    assert (env.d, env.n_values, env.n_actions) == (d, n_values, 4)
    assert env.n_agents == (1 if name.endswith("single") else 2)
    assert env.episode_limit == env.task_spec.episode_limit == 300
    assert env.name == env.task_spec.name == name
    assert env.observation_space.shape == (3, d)
    assert env.single_action_space.nvec.tolist() == [4] * env.n_agents


@pytest.mark.parametrize("name", names())
def test_what_is_returned(name):
    env = make(name, 5, seed=0)
    state, info = env.reset()
    for _ in range(60):
        assert env.observation_space.contains(state)
        assert (state <= np.array(env.n_values) - 1).all()
        state, reward, terminated, truncated, info = env.step(env.action_space.sample())
        for flags in (terminated, truncated, info["success"], info["active"]):
            assert flags.dtype == bool
            assert flags.shape == (5,)
        assert (reward.dtype, reward.shape) == (np.float64, (5,))


def test_returned_arrays_may_be_kept():
    env = make("pass", 2)
    kept, _ = env.reset()
    before = kept.copy()
    outcome = env.step([[UP, UP]] * 2)
    copies = [np.array(part) for part in (*outcome[:4], *outcome[4].values())]
    env.step([[DOWN, RIGHT]] * 2)
    np.testing.assert_array_equal(kept, before)
    for part, copy in zip((*outcome[:4], *outcome[4].values()), copies, strict=True):
        np.testing.assert_array_equal(part, copy)
    assert not np.shares_memory(outcome[2], outcome[4]["success"])
    for part in (*outcome[:4], *outcome[4].values()):
        part[...] = 1  # nor does writing into them reach the environment
    state, _, terminated, *_ = env.step([[UP, LEFT]] * 2)
    assert state[0].tolist() == [4, 3, 3, 2, 0]
    assert not terminated.any()


def test_tensors_are_actions():
    env = make("pass", 2)
    env.reset()
    state, *_ = env.step(torch.tensor([[UP, UP], [DOWN, LEFT]]))
    assert state[:, :4].tolist() == [[4, 3, 3, 2], [4, 5, 2, 3]]


# --- bad input ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("actions", "error", "expected"),
    [
        ([0, 1], ShapeError, "actions have shape (2,): give one per copy and agent, (2, 2)"),
        ([[0], [1]], ShapeError, "(2, 2)"),
        ([[0.0, 1.0], [0, 0]], ConfigError, "type float64"),
        ([[True, False], [True, True]], ConfigError, "type bool"),
        ([[0, 4], [0, 0]], ConfigError, "actions hold 4: give 0 up, 1 down, 2 left or 3 right"),
        ([[0, 0], [-1, 0]], ConfigError, "actions hold -1"),
    ],
)
def test_bad_actions(actions, error, expected):
    env = make("pass", 2)
    before, _ = env.reset()
    with pytest.raises(error, match=re.escape(expected)):
        env.step(actions)
    np.testing.assert_array_equal(env.state(), before)


def test_nothing_before_the_first_reset():
    env = make("pass", 2)
    for use in (lambda: env.step([[0, 0]] * 2), env.state, env.state_dict):
        with pytest.raises(ConfigError, match=r"call reset\(\) first"):
            use()
    with pytest.raises(ConfigError, match="reset all of them first"):
        env.reset(envs=[0])
    env.reset(envs=[1, 0])


@pytest.mark.parametrize("copies", [[2], [-1], [0.5], [[0]], [True], "all"])
def test_copies_that_do_not_exist(copies):
    env = make("pass", 2)
    env.reset()
    with pytest.raises(ConfigError, match="envs"):
        env.reset(envs=copies)


@pytest.mark.parametrize(
    ("state", "error", "expected"),
    [
        ([4, 4, 3, 3], ShapeError, "states have shape (4,): give (2, 5), or (5,)"),
        ([[4, 4, 3, 3, 0]] * 3, ShapeError, "(3, 5)"),
        ([30, 4, 3, 3, 0], ConfigError, "state 0 has 30 as 'agent 0 x'"),
        ([4, 4, 3, -1, 0], ConfigError, "as 'agent 1 y': give a whole number from 0 to 29"),
        ([4, 4.5, 3, 3, 0], ConfigError, "state 0 has 4.5"),
        ([4, np.nan, 3, 3, 0], ConfigError, "state 0 has nan"),
        ([[4, 4, 3, 3, 0], [4, 4, 15, 11, 0]], ConfigError, "state 1 has agent 1 at (15, 11)"),
        ([20, 4, 20, 4, 0], ConfigError, "the task is done"),
    ],
)
def test_states_that_cannot_be(state, error, expected):
    env = make("pass", 2)
    with pytest.raises(error, match=re.escape(expected)):
        env.reset_to(state)


def test_states_that_cannot_be_elsewhere():
    with pytest.raises(ConfigError, match=r"doors 3, which never occurs: give one of \[0, 1, 2, 4"):
        make("secret-room").reset_to([3, 3, 2, 2, 3])
    with pytest.raises(ConfigError, match=r"agent 0 at \(8, 6\), where no agent can be"):
        make("push-box").reset_to([8, 6, 2, 2, 7, 7])
    with pytest.raises(ConfigError, match=r"agent 1 at \(3, 20\)"):
        make("river").reset_to([3, 3, 3, 20])
    with pytest.raises(ConfigError, match="the task is done"):
        make("push-box").reset_to([8, 6, 2, 2, 13, 7])


# --- seeds and resets -----------------------------------------------------------------------------


def test_seeds():
    env, other = make("river", 8, seed=4), make("river", 8)
    first, _ = env.reset()
    second, _ = env.reset()
    assert (first != second).any()
    np.testing.assert_array_equal(other.reset(4)[0], first)
    np.testing.assert_array_equal(other.reset()[0], second)
    np.testing.assert_array_equal(env.reset(seed=4)[0], first)
    assert (make("river", 8).reset()[0] != make("river", 8).reset()[0]).any()


def test_global_random_numbers_are_left_alone():
    before = np.random.get_state()[1].tolist()  # noqa: NPY002
    env = make("river", 8)
    env.reset()
    env.step(np.zeros((8, 2), int))
    assert np.random.get_state()[1].tolist() == before  # noqa: NPY002


MASK = np.array([False, True, False])


@pytest.mark.parametrize(
    "which", [{"envs": [1]}, {"envs": MASK}, {"options": {"reset_mask": MASK}}]
)
def test_resets_of_some_copies(which):
    env = make("pass", 3)
    env.reset_to([8, 24, 3, 3, 0])
    env.step([[LEFT, UP]] * 3)
    state, info = env.reset(**which)
    assert state.tolist() == [[7, 24, 3, 2, 1], [4, 4, 3, 3, 0], [7, 24, 3, 2, 1]]
    assert info["success"].tolist() == [False] * 3


def test_other_options_of_reset():
    env = make("pass", 3)
    for kwargs in ({"options": {"mask": [0]}}, {"options": {"reset_mask": [0]}, "envs": [0]}):
        with pytest.raises(ConfigError, match="reset_mask"):
            env.reset(**kwargs)
    env.reset(options={})


@pytest.mark.parametrize(
    "mask", [[1, 0], np.array([1, 0]), [True], [[True, False]], None, [0.5, 1]]
)
def test_a_mask_of_copies_to_reset_is_of_booleans(mask):
    env = make("pass", 2)
    env.reset()
    with pytest.raises(
        ConfigError, match=r"reset_mask has .* give a bool for each of the 2 copies"
    ):
        env.reset(options={"reset_mask": mask})
    env.reset(options={"reset_mask": [False, True]})


def test_resetting_nothing_changes_nothing():
    env = make("river", 3, seed=0)
    before, _ = env.reset()
    np.testing.assert_array_equal(env.reset(envs=[])[0], before)


def test_a_reset_copy_has_all_its_steps():
    env = make("pass", 2, episode_limit=3)
    env.reset()
    for _ in range(2):
        env.step([[UP, UP]] * 2)
    env.reset(envs=[1])
    assert env.step([[UP, UP]] * 2)[3].tolist() == [True, False]


def test_a_copy_that_ended_goes_on_after_its_reset():
    env = make("pass", 3)
    env.reset_to(WIN)
    env.step([WINNING] * 3)
    env.reset(envs=[1])
    env.reset_to([6, 6, 2, 2, 0], envs=[2])
    state, reward, terminated, _, info = env.step([[DOWN, UP]] * 3)
    assert state.tolist() == [[16, 15, 20, 11, 0], [4, 5, 3, 2, 0], [6, 7, 2, 1, 0]]
    assert info["active"].tolist() == [False, True, True]
    assert terminated.tolist() == [True, False, False]
    assert not reward.any()


def test_the_outcome_stays_known_until_the_reset():
    env = make("pass", 2)
    env.reset_to(WIN)
    env.step([WINNING] * 2)
    assert env.reset(envs=[0])[1]["success"].tolist() == [False, True]


# --- automatic reset ------------------------------------------------------------------------------


def test_autoreset():
    env = make("pass", 2, autoreset=True, episode_limit=3)
    env.reset_to([WIN, [4, 4, 3, 3, 0]])
    state, reward, terminated, truncated, info = env.step([WINNING, [UP, UP]])
    assert state.tolist() == [[4, 4, 3, 3, 0], [4, 3, 3, 2, 0]]
    assert info["final_obs"].tolist() == [[16, 15, 20, 11, 0], [4, 3, 3, 2, 0]]
    assert info["_final_obs"].tolist() == [True, False]
    assert (reward.tolist(), terminated.tolist()) == ([1, 0], [True, False])
    assert info["success"].tolist() == [True, False]
    state, *_, info = env.step([[UP, UP]] * 2)
    assert state.tolist() == [[4, 3, 3, 2, 0], [4, 2, 3, 1, 0]]
    assert "final_obs" not in info
    assert info["active"].all()
    _, reward, terminated, truncated, info = env.step([[UP, UP]] * 2)
    assert truncated.tolist() == info["_final_obs"].tolist() == [False, True]
    assert not terminated.any()
    assert not info["success"].any()
    assert info["active"].all()


def test_autoreset_draws_new_starts():
    env = make("river", 2, autoreset=True, episode_limit=1, seed=0)
    first, _ = env.reset()
    second, *_ = env.step([[UP, UP]] * 2)
    assert (np.abs(first - second) > 1).any(axis=1).all()


def test_the_mode_is_declared():
    assert make("pass").metadata["autoreset_mode"] is AutoresetMode.DISABLED
    assert make("pass", autoreset=True).metadata["autoreset_mode"] is AutoresetMode.SAME_STEP
    assert make("pass").metadata["autoreset_mode"] is AutoresetMode.DISABLED


# --- saving ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", names())
def test_saved_and_loaded_goes_on_with_the_same_bits(name):
    rng = np.random.default_rng(2)

    def steps(env, count, actions):
        return [env.step(actions[t])[:4] for t in range(count)]

    whole = make(name, 6, seed=1, episode_limit=30, autoreset=True)
    actions = rng.integers(0, 4, (80, 6, whole.n_agents))
    whole.reset()
    steps(whole, 40, actions)
    saved = json.loads(json.dumps(whole.state_dict()))
    resumed = make(name, 6, seed=9, episode_limit=30, autoreset=True)
    resumed.load_state_dict(saved)
    for one, other in zip(
        steps(whole, 40, actions[40:]), steps(resumed, 40, actions[40:]), strict=True
    ):
        for part, same in zip(one, other, strict=True):
            np.testing.assert_array_equal(part, same)


def test_saved_copies_that_have_ended_stay_so():
    env = make("pass", 3, episode_limit=2)
    env.reset_to([WIN, WIN, [4, 4, 3, 3, 0]])
    env.step([WINNING, [LEFT, UP], [UP, UP]])
    env.reset(envs=[2])
    env.step([[UP, UP]] * 3)
    assert env.state_dict()["elapsed"] == [1, 2, 1]
    loaded = make("pass", 3, episode_limit=2)
    loaded.load_state_dict(env.state_dict())
    outcome = loaded.step([[DOWN, DOWN]] * 3)
    for part, same in zip(outcome[:4], env.step([[DOWN, DOWN]] * 3)[:4], strict=True):
        np.testing.assert_array_equal(part, same)
    assert outcome[4]["active"].tolist() == [False, False, True]


def test_saved_states_of_others():
    env = make("secret-room", 2)
    env.reset()
    saved = env.state_dict()
    for other in (make("secret-room", 3), make("secret-room", 2, target_room=2), make("pass", 2)):
        with pytest.raises(StateError, match="make the one that was saved"):
            other.load_state_dict(saved)
    del saved["rng"]
    with pytest.raises(StateError, match="lacks 'rng'"):
        env.load_state_dict(saved)


# --- Gymnasium ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", names())
def test_gymnasium_checks_one_copy(name):
    env = gymnasium.make(gymnasium_id(name), render_mode="rgb_array").unwrapped
    check_env(env)
    assert isinstance(env, GridEnv)


def test_gymnasium_makes_vectors():
    env = gymnasium.make_vec("lemae/Secret-Room-v0", num_envs=3, target_room=2, autoreset=True)
    assert env.unwrapped.options["target_room"] == 2
    assert env.metadata["autoreset_mode"] is AutoresetMode.SAME_STEP
    state, _ = env.reset(seed=0)
    assert env.observation_space.contains(state)
    recorder = gymnasium.wrappers.vector.RecordEpisodeStatistics(env)
    recorder.reset(seed=0)
    for _ in range(300):
        *_, info = recorder.step(env.action_space.sample())
    assert info["episode"]["l"].tolist() == [300] * 3


@pytest.mark.parametrize("name", ["pass", "river", "push-box-single"])
def test_one_copy_is_the_vector_of_one(name):
    one, vector = gymnasium.make(gymnasium_id(name), episode_limit=20), make(
        name, episode_limit=20
    )  # fmt: skip
    state, info = one.reset(seed=5)
    np.testing.assert_array_equal(state, vector.reset(seed=5)[0][0])
    assert info == {"success": False}
    done = False
    while not done:
        action = one.action_space.sample()
        state, reward, terminated, truncated, info = one.step(action)
        states, rewards, ends, cuts, _ = vector.step([action])
        assert (reward, terminated, truncated) == (rewards[0], ends[0], cuts[0])
        np.testing.assert_array_equal(state, states[0])
        done = terminated or truncated
    assert info == {"success": bool(terminated)}


def test_one_copy_reports_success():
    one = GridEnv("pass")
    one.reset()
    one.vector.reset_to(WIN)
    _, reward, terminated, _, info = one.step(WINNING)
    assert (reward, terminated, info) == (1.0, True, {"success": True})


def test_registering_again_changes_nothing():
    before = {key: spec for key, spec in gymnasium.registry.items() if key.startswith("lemae/")}
    envs.register()
    after = {key: spec for key, spec in gymnasium.registry.items() if key.startswith("lemae/")}
    assert after == before
    assert list(before) == [gymnasium_id(name) for name in names()]


def test_imports_are_late():
    """Importing lemae needs no gymnasium, its environments no pettingzoo; one id imports them."""
    script = """
import sys
import lemae
assert "gymnasium" not in sys.modules
lemae.envs
assert "gymnasium" in sys.modules
assert not {"pettingzoo", "torch"} & set(sys.modules)
assert "ParallelGrid" in dir(lemae.envs)
"""
    subprocess.run([sys.executable, "-c", script], check=True)
    script = 'import gymnasium; gymnasium.make_vec("lemae.envs:lemae/Pass-v0", num_envs=2).reset()'
    subprocess.run([sys.executable, "-c", script], check=True)


@pytest.mark.parametrize("module", ["drawing", "registry"])
def test_examples_in_docstrings(module):
    failed, tried = doctest.testmod(importlib.import_module(f"lemae.envs.{module}"))
    assert (failed, tried > 1) == (0, True)


def test_attributes_that_do_not_exist():
    with pytest.raises(AttributeError, match="has no attribute 'Maze'"):
        _ = envs.Maze


# --- what is told ---------------------------------------------------------------------------------


def told(name, **options):
    task = make(name, **options).task_spec
    return f"{task.description} {task.configuration} {task.layout()} {' '.join(task.actions)}"


@pytest.mark.parametrize("name", [name for name in names() if "pass" in name or "room" in name])
def test_switches_are_not_told(name):
    """Neither where they are, nor how near is near."""
    text = told(name)
    for switch in make(name).grid_map.switches:
        for form in (f"({switch.x}, {switch.y})", f"{switch.x}, {switch.y}", str(switch.radius)):
            assert form not in text
        assert not re.search(
            rf"switch[^.]*\b({switch.x}|{switch.y})\b", text.replace("1, 2, 3", "")
        )
    if "pass" in name:
        numbers = set(map(int, re.findall(r"\d+", text)))
        assert not numbers & {make(name).grid_map.switches[0].y}


def test_the_target_is_told_by_nothing():
    variants = [
        {"target_room": 1},
        *({"target_room": room, "compat": "exact"} for room in (1, 2, 3)),
    ]
    for name in ("secret-room", "secret-room-single"):
        tasks = [make(name, **options).task_spec for options in variants]
        assert all(task == tasks[0] for task in tasks)
        actions = np.random.default_rng(0).integers(0, 4, (200, 4, tasks[0].n_agents))
        walks = []
        for options in variants:
            env = make(name, 4, **options)
            env.reset()
            walks.append(np.stack([env.step(joint)[0] for joint in actions]))
        for walk in walks:
            np.testing.assert_array_equal(walk, walks[0])


@pytest.mark.parametrize("name", names())
def test_one_agent_is_not_told_of_two(name):
    text = told(name).lower()
    assert ("both agents" in text) == (not name.endswith("-single"))
    assert ("agent 1" in text) == (not name.endswith("-single"))
    assert "  " not in text


def test_the_map_that_is_told_is_the_map():
    text = told("pass", size=40)
    assert "40 x 40 cells" in text
    assert "column x = 20; the door is its cells with y from 16 to 24" in text
    assert "Agent 0 starts at (5, 5). Agent 1 starts at (4, 4)." in text
    assert "x >= 21" in text
